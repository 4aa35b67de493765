"""Contours drawn on a small oblique grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.structure_set import Contour
from nnunet_ext.dicom.tracing import trace_mask

SHAPE, SPACING_MM = (9, 13, 17), (3.0, 0.8, 0.7)


def grid(shape=SHAPE, *, flips=(1, 1, 1), oblique: bool = True) -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros(shape, dtype=np.int16))
    image.SetSpacing(SPACING_MM[::-1])
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*((0.11, -0.17, 0.23) if oblique else (0.0, 0.0, 0.0)))
    direction = np.reshape(transform.GetMatrix(), (3, 3)) * np.asarray(flips, dtype=float)
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((-31.7, 12.3, 455.5))
    return image


def lens(shape=SHAPE) -> np.ndarray:
    z, y, x = np.indices(shape)
    return ((z - 4) * 3.0 / 4.6) ** 2 + ((y - 6) * 0.8 / 2.5) ** 2 + ((x - 8) * 0.7 / 2.5) ** 2 < 1


def contours(mask: np.ndarray, image: sitk.Image) -> list[Contour]:
    return [Contour(points) for points in trace_mask(mask, image)]


def series(folder: Path) -> Series:
    write_series(grid(), folder, modality="CT", study=Study("p"), number=1)
    (found,) = find_series(folder).images
    return found


def polygon(image: sitk.Image, points, k: float) -> Contour:
    """Contour from continuous index `(x, y)` points at slice position k."""
    return Contour(
        np.array([image.TransformContinuousIndexToPhysicalPoint((float(x), float(y), float(k))) for x, y in points])
    )


SQUARE = [(2.5, 2.5), (8.5, 2.5), (8.5, 8.5), (2.5, 8.5)]
