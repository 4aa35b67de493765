"""Experiments on small volumes: references, and predictions that miss them by some voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.reporting.content import Report
from nnunet_ext.reporting.reporting import report

SHAPE, SPACING_MM = (9, 24, 32), (3.0, 0.8, 0.7)
LABELS = {"background": 0, "Lens_L": 1, "OpticChiasm": 2}
CASES = [f"case_{number}" for number in range(7)]


def label_map(shift: int = 0) -> np.ndarray:
    out = np.zeros(SHAPE, np.uint8)
    out[3:5, 6:12, 20 + shift : 26 + shift] = 1
    out[5:7, 16:19, 8 + shift : 14 + shift] = 2
    return out


def write(folder: Path, name: str, array: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.15, 0.1).GetMatrix())
    sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


def run(data: Path, out: Path, *names: str, **options) -> Report:
    """The report of evaluations in `data`."""
    runs = [(name, data / f"evaluation_{name}") for name in names]
    return report(runs, out, **({"n_processes": 1, "show_progress": False} | options))
