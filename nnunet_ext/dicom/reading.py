"""A DICOM series read as one image.

Reading refuses missing slices, two images at one position, metres, colour and other multi-frame objects, which would be
read wrongly elsewhere. Slices of a tilted gantry form no rectangular grid and are shifted in their own plane. Uneven gaps
that the slice thickness explains are interpolated.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.pixels import fill_padding, pixels_of
from nnunet_ext.dicom.stack import arrange, grid_of, reach_of
from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.messages import Message


def read_series(series: Series, notes: list[Message] | None = None) -> sitk.Image:
    """The image of a series on one rectangular grid, rescaled (HU for CT).

    Args:
        series: From `find_series`.
        notes: Takes one message for everything that was resampled or dropped.

    Returns:
        16-bit integers if all values are whole numbers, else 32-bit float. Its axes are columns, rows, and the normal.

    Raises:
        ValueError: If the images are no whole volume. The message names no header value that may be personal.
        OSError: If a file cannot be read.
    """
    notes = [] if notes is None else notes
    stack = arrange(series, notes)
    along, shift = stack.along_mm, stack.shift_mm
    padded: list[np.ndarray] = []
    volume = np.stack(pixels_of(stack.slices, series.size, padded))
    fill_padding(volume, padded, series.modality, notes)
    if stack.tilted:
        tilt = float(np.degrees(np.arctan2(np.linalg.norm(shift[-1]), along[-1] - along[0])))
        volume = _straighten(volume, shift, series)
        notes.append(Message("tilted_gantry", {"degrees": tilt}))
    if not stack.even:
        volume = _interpolate(volume, along, stack.planes_mm)
        gaps = np.diff(along)
        notes.append(Message("uneven_gaps", {"low": gaps.min(), "high": gaps.max(), "mm": stack.gap_mm}))
    if not np.all(np.isfinite(volume)):
        raise ValueError("it has values that are NaN or infinite; export it again")
    if np.array_equal(volume, np.rint(volume)) and volume.min() >= -32768 and volume.max() <= 32767:
        volume = volume.astype(np.int16)
    else:
        volume = volume.astype(np.float32)
    image = sitk.GetImageFromArray(volume)
    image.CopyInformation(grid_of(series, stack))
    return image


def _straighten(volume: np.ndarray, shift_mm: np.ndarray, series: Series) -> np.ndarray:
    """Slices on one rectangular grid that holds them all.

    Cubic interpolation within each slice, clipped to the slice's own range. Nothing is interpolated across slices, so
    nothing is blurred along the normal. Voxels that no slice covers are air in CT and the image's minimum in MR.
    """
    pixel = np.array(series.spacing_mm[::-1])
    low, high = reach_of(shift_mm, series)
    n, rows, columns = volume.shape
    shape = (rows + high[1] - low[1], columns + high[0] - low[0])
    outside = AIR_HU if series.modality == "CT" else float(volume.min())
    result = np.full((n, *shape), outside)
    for k, one in enumerate(volume):
        at = (shift_mm[k] / pixel - low)[::-1]  # rows, columns
        whole = np.rint(at)
        if np.abs(at - whole).max() < 1e-3:
            r, c = whole.astype(int)
            result[k, r : r + rows, c : c + columns] = one
            continue
        r, c = (np.arange(size)[:, None] for size in shape)
        where = np.meshgrid(r.ravel() - at[0], c.ravel() - at[1], indexing="ij")
        moved = ndimage.map_coordinates(one, where, order=3, mode="nearest")
        covered = ((where[0] >= -0.5) & (where[0] <= rows - 0.5)) & ((where[1] >= -0.5) & (where[1] <= columns - 0.5))
        result[k] = np.where(covered, np.clip(moved, one.min(), one.max()), outside)
    if np.array_equal(volume, np.rint(volume)):
        result = np.rint(result)
    return result


def _interpolate(volume: np.ndarray, along: np.ndarray, straight: np.ndarray) -> np.ndarray:
    """Slices at other positions, linearly between the two neighbours."""
    above = np.clip(np.searchsorted(along, straight, side="right"), 1, len(along) - 1)
    share = np.clip((straight - along[above - 1]) / (along[above] - along[above - 1]), 0.0, 1.0)[:, None, None]
    result = (1 - share) * volume[above - 1] + share * volume[above]
    return np.rint(result) if np.array_equal(volume, np.rint(volume)) else result
