"""A head of three organs on an oblique LPS grid, drawn small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

SHAPE = (12, 40, 60)
SPACING_MM = (3.0, 0.8, 0.7)
LABELS = {"background": 0, "Lens_L": 1, "Lens_R": 2, "OpticChiasm": 3}
TURN = sitk.Euler3DTransform((0, 0, 0), 0.20, -0.15, 0.10)


def lps_image(array: np.ndarray) -> sitk.Image:
    """An oblique image whose axes are nearest to left, posterior, superior."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin((-20.0, 12.0, 5.0))
    image.SetDirection(TURN.GetMatrix())
    return image


def label_map() -> np.ndarray:
    """Left lens at high x, right lens at low x, both anterior (low y); chiasm posterior and higher."""
    out = np.zeros(SHAPE, np.uint8)
    out[4, 8:12, 44:50] = 1
    out[4, 8:12, 10:16] = 2
    out[8:10, 28:32, 26:34] = 3
    return out


def write(folder: Path, name: str, image: sitk.Image) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.nii.gz"
    sitk.WriteImage(image, str(path))
    return path
