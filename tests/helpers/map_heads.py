"""A small head as label map, with the numbers of SynthSeg's maps, and measures of organs in label maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes, mesh_surface_area

#: Label maps of real people. Tests that need them are skipped where they are not.
REAL_MAPS = Path(__file__).parents[3] / "shared" / "data" / "heads" / "label_maps"
#: Centres of the eyes and the chiasm of the small head, LPS in mm, and the radius of the eyes.
EYES_MM = {"left": np.array([32.0, -52.0, -6.0]), "right": np.array([-32.0, -52.0, -6.0])}
RADIUS_MM = 11.5
#: Half of the chiasm's edges.
CHIASM_MM = np.array([7.5, 3.8, 2.2])
LOW_MM, HIGH_MM = np.array([-84.0, -84.0, -84.0]), np.array([84.0, 132.0, 108.0])


def head_numbers(points_mm: np.ndarray) -> np.ndarray:
    """The number at points `(..., 3)`, LPS in mm from the chiasm, int16."""
    points_mm = points_mm.astype(np.float32)
    x, y, z = (points_mm[..., axis] for axis in range(3))
    radius = np.sqrt((x / 76) ** 2 + ((y - 22) / 100) ** 2 + ((z - 10) / 92) ** 2)
    numbers = np.zeros(radius.shape, np.int16)
    for share, number in ((1.0, 511), (0.95, 507), (0.88, 515), (0.81, 24)):
        numbers[radius < share] = number
    brain = radius < 0.78
    numbers[brain] = np.where(x > 0, 3, 42)[brain]
    numbers[radius < 0.6] = np.where(x > 0, 2, 41)[radius < 0.6]
    numbers[(np.abs(x) < 14) & (np.abs(y) < 9) & (np.abs(z) < 7)] = 24
    near = np.flatnonzero(((np.abs(x) < 54) & (y < 2) & (np.abs(z) < 28) & (radius < 1)).ravel())
    points, part = points_mm.reshape(-1, 3)[near], numbers.ravel()[near]
    for eye in EYES_MM.values():
        along = np.clip(1 - points @ eye / (eye @ eye), 0, 1)  # 0 at the eye, 1 at the chiasm
        off_mm = np.linalg.norm(points - (1 - along)[:, None] * eye, axis=-1)
        orbit = (along < 0.6) & (off_mm < 17 - 18 * along)
        part[orbit & (part != 511)] = 507
        part[(along > 0.25) & (along < 0.55) & (off_mm < 1.6)] = 530  # pieces of the nerve, far from the chiasm
        part[np.linalg.norm(points - eye, axis=-1) < RADIUS_MM] = 506
    numbers.ravel()[near] = part
    numbers[(np.abs(points_mm) < CHIASM_MM).all(axis=-1)] = 85
    return numbers


@cache
def head_map(
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 1.5),
    *,
    axes: str = "LPS",
    turned: bool = False,
    offset_mm: float = 40.0,
) -> sitk.Image:
    """The small head on a grid of its own.

    Args:
        spacing_mm: Along x, y and z.
        axes: Order of the axes in the file.
        turned: The axes of the grid lie at an angle to those of the patient, as in an oblique scan. The head does not.
        offset_mm: Where the chiasm lies along each axis.

    Returns:
        An image that is made once. Do not change it.
    """
    transform = sitk.Euler3DTransform()
    if turned:
        transform.SetRotation(0.12, -0.1, 0.15)
    direction = np.reshape(transform.GetMatrix(), (3, 3))
    spacing = np.asarray(spacing_mm)
    size = np.ceil((HIGH_MM - LOW_MM) / spacing).astype(int)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1)
    middle = (LOW_MM + HIGH_MM) / 2
    origin = middle - direction @ (spacing * (size - 1) / 2)
    numbers = head_numbers((index * spacing) @ direction.T + origin)
    image = sitk.GetImageFromArray(np.ascontiguousarray(numbers.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((origin + offset_mm).tolist())
    image.SetDirection(direction.ravel().tolist())
    return sitk.DICOMOrient(image, axes)


def sphericity(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Surface of a ball of the same volume, as a share of the mask's own surface.

    The mask is smoothed by 1.5 mm, so that the surface has no steps, and cut at the level that keeps its volume.

    Args:
        mask: `(Z, Y, X)`.
        spacing_mm: Along `(Z, Y, X)`.
    """
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in np.nonzero(mask))
    padded = np.pad(mask[box], 6).astype(np.float32)
    smooth = gaussian_filter(padded, 1.5 / np.asarray(spacing_mm))
    level = float(np.sort(smooth.ravel())[-int(mask.sum())])
    vertices, faces, _, _ = marching_cubes(smooth, level, spacing=tuple(spacing_mm))
    volume_mm3 = float(mask.sum() * np.prod(spacing_mm))
    return float(np.pi ** (1 / 3) * (6 * volume_mm3) ** (2 / 3) / mesh_surface_area(vertices, faces))
