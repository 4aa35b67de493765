"""Where an atlas puts its organs on a new case, and which of them leave the field of view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.images.displacements import looked_up
from nnunet_ext.images.geometry import field_of_view, resample_to

#: Organs that have left the field of view are looked for this far beyond it.
BEYOND_MM = 60.0
#: An organ has left the field of view if more than this share of it lies beyond.
MOST_OUTSIDE = 0.01
#: Voxel size of the grid on which organs are looked for.
LOOK_MM = 2.0
#: The part of a case that labels are fused in reaches this far beyond the boxes of its organs.
MARGIN_MM = 8.0


@dataclass(frozen=True)
class Placed:
    """Where an atlas puts its organs.

    Attributes:
        outside: Organs that are beyond the new case's field of view, wholly or in part.
        first, stop: First voxel of the case, `(x, y, z)`, and the one behind the last, of the box that holds all
            organs. They may lie beyond the field of view.
    """

    outside: tuple[str, ...]
    first: np.ndarray
    stop: np.ndarray


def place(labels: sitk.Image, organs: Mapping[str, int], image: sitk.Image, transform: sitk.Transform) -> Placed:
    """Where a transform puts the organs of an atlas.

    Args:
        labels: Label map of the atlas.
        organs: Those that it has, with their values.
        image: The new case's image. Only its grid is used.
        transform: Points of the case -> points of the atlas.
    """
    wide = _wider(image)
    placed = sitk.GetArrayFromImage(
        resample_to(labels, wide, interpolation="nearest", outside_value=0, transform=transform)
    )
    beyond = ~field_of_view(image, wide)
    outside = []
    for organ, value in organs.items():
        mask = placed == value
        n_voxels = np.count_nonzero(mask)
        if not n_voxels or np.count_nonzero(mask & beyond) > MOST_OUTSIDE * n_voxels:
            outside.append(organ)
    found = ndimage.find_objects(np.isin(placed, list(organs.values())).view(np.uint8))
    edges = np.array([[part.start, part.stop] for part in found[0][::-1]]) if found else np.zeros((3, 2))
    in_voxels = (edges * LOOK_MM - BEYOND_MM) / np.asarray(image.GetSpacing())[:, None]
    return Placed(tuple(outside), np.floor(in_voxels[:, 0]).astype(int), np.ceil(in_voxels[:, 1]).astype(int))


def _wider(image: sitk.Image) -> sitk.Image:
    """An empty grid along the image's axes that reaches `BEYOND_MM` further on each side, in voxels of `LOOK_MM`."""
    spacing, size = np.asarray(image.GetSpacing()), np.asarray(image.GetSize())
    wide = sitk.Image(np.ceil((size * spacing + 2 * BEYOND_MM) / LOOK_MM).astype(int).tolist(), sitk.sitkUInt8)
    wide.SetSpacing([LOOK_MM] * 3)
    wide.SetDirection(image.GetDirection())
    wide.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((-0.5 + (LOOK_MM / 2 - BEYOND_MM) / spacing).tolist()))
    return wide


def part_of(image: sitk.Image, boxes: Sequence[Placed]) -> tuple[sitk.Image, np.ndarray] | None:
    """The empty grid of the part of an image that holds all boxes, and its first voxel `(x, y, z)`.

    None if the boxes lie beyond the image.
    """
    margin = np.ceil(MARGIN_MM / np.asarray(image.GetSpacing())).astype(int)
    first = np.maximum(0, np.min([box.first for box in boxes], axis=0) - margin)
    stop = np.minimum(image.GetSize(), np.max([box.stop for box in boxes], axis=0) + margin)
    if (stop <= first).any():
        return None
    part = sitk.Image((stop - first).tolist(), sitk.sitkUInt8)
    part.SetSpacing(image.GetSpacing())
    part.SetDirection(image.GetDirection())
    part.SetOrigin(image.TransformIndexToPhysicalPoint(first.tolist()))
    return part, first


def shares_on(
    labels: sitk.Image, organs: Mapping[str, int], grid: sitk.Image, transform: sitk.Transform
) -> dict[str, np.ndarray]:
    """Share of each organ in each voxel of a grid, as an atlas sees it, float32 in [0, 1], `(Z, Y, X)`.

    Args:
        labels: Label map of the atlas.
        organs: Those that it has, with their values.
        grid: Along the axes of the new case's image.
        transform: Points of the case -> points of the atlas.
    """
    at_voxels = looked_up(transform, grid)
    return {
        organ: sitk.GetArrayFromImage(
            sitk.Resample(sitk.Cast(labels == value, sitk.sitkFloat32), grid, at_voxels, sitk.sitkLinear, 0.0)
        )
        for organ, value in organs.items()
    }
