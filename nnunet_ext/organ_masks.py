"""One mask per organ to one label map.

Where masks of two organs overlap, the smaller one wins if at least half of it lies in the larger (a lens drawn inside
an eye: the eye excludes its lens), or if the overlap is at most 10 voxels or 5 % of the smaller. Any other overlap is an
error.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk

from nnunet_ext.labels import LabelTable

#: Overlap of two masks that is a matter of drawing, not of a wrong file: voxels, and share of the smaller mask.
OVERLAP_VOXELS, OVERLAP_SHARE = 10, 0.05
#: From this share of the smaller mask on, it is meant to lie inside the larger one.
NESTED_SHARE = 0.5


def merge_masks(
    masks: Mapping[str, np.ndarray], grid: sitk.Image, table: LabelTable, warnings: list[str]
) -> tuple[sitk.Image, dict[str, int]]:
    """Label map of one bool mask `(Z, Y, X)` per organ on a grid, and voxels per mask."""
    before = {organ: int(np.count_nonzero(masks[organ])) if organ in masks else 0 for organ in table.names}
    if not any(before.values()):
        raise ValueError(f"the label map is empty: all masks are ({', '.join(masks)})")
    _check_overlaps(masks, before, warnings)
    result = np.zeros(grid.GetSize()[::-1], dtype=np.uint16)
    for organ in sorted(masks, key=lambda organ: -before[organ]):  # smaller organs are written over larger ones
        result[masks[organ]] = table.values[organ]
    image = sitk.GetImageFromArray(result)
    image.CopyInformation(grid)
    return image, before


def _check_overlaps(masks: Mapping[str, np.ndarray], voxels: Mapping[str, int], warnings: list[str]) -> None:
    crowded = np.zeros(next(iter(masks.values())).shape, dtype=np.uint8)
    for mask in masks.values():
        crowded += mask
    places = np.nonzero(crowded > 1)
    if not places[0].size:
        return
    there = {organ: mask[places] for organ, mask in masks.items()}
    organs = list(masks)
    for i, a in enumerate(organs):
        for b in organs[i + 1 :]:
            both = int(np.count_nonzero(there[a] & there[b]))
            if not both:
                continue
            small, _ = sorted((a, b), key=lambda organ: voxels[organ])
            if both < NESTED_SHARE * voxels[small] and both > max(OVERLAP_VOXELS, OVERLAP_SHARE * voxels[small]):
                raise ValueError(
                    f"masks of {a} and {b} overlap in {both} voxels ({both / voxels[small]:.0%} of {small}); "
                    "correct one of them"
                )
            warnings.append(f"masks of {a} and {b} overlap in {both} voxels: they count as {small}, the smaller one")
