"""One mask per organ to one label map.

Masks of parts of an organ are united. Two versions of an organ are refused, because nobody can say which is meant. Of
two organs that overlap, the smaller one wins if at least half of it lies in the other, as a lens in an eye. It also
wins if the overlap is at most 10 voxels or 5 % of it. Any other overlap is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message

#: Overlap of two masks that comes from drawing and not from a wrong file, in voxels and as a share of the smaller mask.
OVERLAP_VOXELS, OVERLAP_SHARE = 10, 0.05
#: If the larger mask holds this share of the smaller one, the smaller one is meant to lie inside.
NESTED_SHARE = 0.5


def merge_masks(
    masks: Mapping[str, np.ndarray], grid: sitk.Image, table: LabelTable, warnings: list[Message]
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


def _check_overlaps(masks: Mapping[str, np.ndarray], voxels: Mapping[str, int], warnings: list[Message]) -> None:
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
            warnings.append(Message("masks_overlap", {"organ": a, "other": b, "n": both, "smaller": small}))


def unite_parts(organ: str, drawn: Mapping[str, np.ndarray], table: LabelTable) -> np.ndarray:
    """Bool mask of one organ from its bool masks under the names they were drawn with.

    Raises:
        ValueError: If parts reach beyond the whole organ, so that they are another version of it.
    """
    united = np.logical_or.reduce(list(drawn.values()))
    whole = [mask for name, mask in drawn.items() if not table.is_part(name)]
    parts = [name for name, mask in drawn.items() if table.is_part(name) and mask.any()]
    inside = np.logical_or.reduce(whole) if whole else united
    if parts and inside.any():
        beyond, of = (int(np.count_nonzero(mask)) for mask in (united & ~inside, united))
        if beyond > max(OVERLAP_VOXELS, OVERLAP_SHARE * of):
            raise ValueError(
                f"{organ} is drawn twice, as a whole and in parts: {beyond} voxels of {', '.join(parts)} lie beyond the "
                "whole; delete or rename one of them"
            )
    return united


def check_files_drawn_once(files: Iterable[tuple[str, Path]], table: LabelTable) -> None:
    """`LabelTable.check_drawn_once` for mask files and the names in their file names. An empty mask is no version.

    Raises:
        ValueError: As there, or if a mask in question cannot be read.
    """
    files = [(name, path) for name, path in files if table.organ(name)]

    def check(some: Iterable[tuple[str, Path]]) -> None:
        table.check_drawn_once((name, "/".join(path.parts[-2:])) for name, path in some)

    try:
        check(files)
    except ValueError:  # masks are read only now, when it matters
        check((name, path) for name, path in files if np.any(sitk.GetArrayFromImage(read_image(path))))


def voxels_per_organ(array: np.ndarray, table: LabelTable) -> dict[str, int]:
    """Organ -> number of its voxels in a label map."""
    counts = np.bincount(array.ravel().astype(np.intp), minlength=len(table.names) + 1)
    return {organ: int(counts[value]) for organ, value in table.values.items()}
