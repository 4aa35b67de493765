"""The steps that an organ's mask may go through, as data, and a label map that went through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from nnunet_ext.labels.organs import normalise_name
from nnunet_ext.labels.sides import organ_word, side_of
from nnunet_ext.labels.values import pair_values
from nnunet_ext.postprocessing.masks import (
    filled,
    largest_component,
    smoothed,
    with_gaps_closed,
    without_small_pieces,
)
from nnunet_ext.postprocessing.sides import after_own_side

OWN_SIDE = "own_side"
CLOSE_GAPS, LARGEST, SMALL_PIECES = "close_gaps", "largest_component", "small_pieces"
HOLES, SMOOTH = "fill_holes", "smooth"
#: Step -> its number, None for a step without one, and the largest that is believed. No number of a file is obeyed blindly.
NUMBERS: Mapping[str, tuple[str, float] | None] = {
    OWN_SIDE: None,
    CLOSE_GAPS: ("longest_mm", 50.0),
    LARGEST: None,
    SMALL_PIECES: ("least_ml", 1000.0),
    HOLES: None,
    SMOOTH: ("sigma_mm", 10.0),
}
#: Voxels around an organ that a step may see or fill.
MARGIN_VOXELS = 2


@dataclass(frozen=True)
class Step:
    """One step, with its number if it has one (`NUMBERS`)."""

    name: str
    number: float | None = None

    def to_json(self) -> dict[str, object]:
        stated = NUMBERS[self.name]
        return {"step": self.name, **({} if stated is None else {stated[0]: self.number})}

    @property
    def text(self) -> str:
        """For a table, such as `smooth (sigma 1 mm)`."""
        stated = NUMBERS[self.name]
        words = self.name.replace("_", " ")
        if stated is None:
            return words
        what, unit = stated[0].rsplit("_", 1)
        return f"{words} ({what} {self.number:g} {unit.replace('ml', 'mL')})"


@dataclass(frozen=True)
class Change:
    """Voxels that an organ gained and lost, and whether it lost all of them."""

    gained: int
    lost: int
    emptied: bool

    def to_json(self) -> dict[str, object]:
        return {"gained_voxels": self.gained, "lost_voxels": self.lost, "emptied": self.emptied}


def ends_of(organ: str, labels: Mapping[str, object]) -> list[str]:
    """The organs that an optic nerve runs to, the eye of its side and the chiasm. Empty for any other organ."""
    nerve, eye, chiasm = (normalise_name(word) for word in ("OpticNrv", "Eye", "OpticChiasm"))
    side = side_of(organ)
    if side is None or normalise_name(organ_word(organ)) != nerve:
        return []
    found = []
    for name in labels:
        word, other = normalise_name(organ_word(name)), side_of(name)
        if word == chiasm or (word == eye and other is not None and other.side == side.side):
            found.append(name)
    return found


def after_step(
    mask: np.ndarray, step: Step, *, free: np.ndarray, ends: Sequence[np.ndarray], spacing_mm: Sequence[float]
) -> np.ndarray:
    """The mask of an organ after a step, which gains voxels of the background only.

    Args:
        mask: Bool `(Z, Y, X)`.
        step: The step, but for `own_side`, which concerns two organs (`after_own_side`).
        free: Voxels that belong to no organ.
        ends: Masks of the organs that a nerve runs to, for `close_gaps`.
        spacing_mm: Along `(Z, Y, X)`.
    """
    if not mask.any():
        return mask
    number = 0.0 if step.number is None else step.number
    if step.name == CLOSE_GAPS:
        result = with_gaps_closed(mask, ends, spacing_mm=spacing_mm, longest_mm=number)
    elif step.name == LARGEST:
        result = largest_component(mask)
    elif step.name == SMALL_PIECES:
        result = without_small_pieces(mask, spacing_mm=spacing_mm, least_ml=number)
    elif step.name == HOLES:
        result = filled(mask)
    else:
        result = smoothed(mask, spacing_mm=spacing_mm, sigma_mm=number)
    return result & (mask | free)


def box_of(label_map: np.ndarray, values: Sequence[int]) -> tuple[slice, ...] | None:
    """The smallest box that holds some labels, with a margin. None if there is no such voxel."""
    there = ndimage.find_objects(label_map, max_label=max(values))
    boxes = [there[value - 1] for value in values if there[value - 1] is not None]
    if not boxes:
        return None
    return tuple(
        slice(max(min(s.start for s in axis) - MARGIN_VOXELS, 0), max(s.stop for s in axis) + MARGIN_VOXELS)
        for axis in zip(*boxes, strict=True)
    )


def postprocessed(
    label_map: np.ndarray,
    steps: Mapping[str, Sequence[Step]],
    labels: Mapping[str, int],
    *,
    spacing_mm: Sequence[float],
    pairs: Sequence[tuple[str, str]] = (),
) -> tuple[np.ndarray, dict[str, Change]]:
    """A label map whose organs went through their steps, and what changed.

    The sides are set right first, of all organs with that step at once. Every organ's other steps see the label map as it
    is then. So their order does not matter, but for a background voxel that two organs claim, which the first one gets.

    Args:
        label_map: Whole numbers, `(Z, Y, X)`. It is not changed.
        steps: Organ -> its steps in order. Organs that are not named stay as they are, but for voxels of their partner.
        labels: `labels` of the `dataset.json`.
        spacing_mm: Along `(Z, Y, X)`.
        pairs: Names of left and right organs, for `own_side`.

    Returns:
        The label map, and organ -> change for the organs that a step changed.
    """
    sided = [labels[organ] for organ, todo in steps.items() if any(step.name == OWN_SIDE for step in todo)]
    given = after_own_side(label_map, sided, pairs_of_values(pairs, labels), spacing_mm=spacing_mm)
    result = given.copy()
    for organ, todo in steps.items():
        value = labels[organ]
        ends = [labels[name] for name in ends_of(organ, labels) if isinstance(labels[name], int)]
        box = box_of(given, [value, *ends] if any(step.name == CLOSE_GAPS for step in todo) else [value])
        if box is None:
            continue
        there = given[box]
        before = mask = there == value
        masks = [there == end for end in ends]
        for step in todo:
            if step.name != OWN_SIDE:
                mask = after_step(mask, step, free=there == 0, ends=masks, spacing_mm=spacing_mm)
        result[box][before & ~mask] = 0
        result[box][mask & ~before & (result[box] == 0)] = value
    return result, _changes(label_map, result, labels)


def pairs_of_values(pairs: Sequence[tuple[str, str]], labels: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Label values of pairs of names. Pairs with a region are left out."""
    return pair_values([pair for pair in pairs if all(isinstance(labels[name], int) for name in pair)], labels)


def _changes(before: np.ndarray, after: np.ndarray, labels: Mapping[str, Any]) -> dict[str, Change]:
    changed = before != after
    was, became = before[changed], after[changed]
    changes = {}
    for organ, value in labels.items():
        if not isinstance(value, int) or value == 0:  # a region is no label of the map
            continue
        gained, lost = (int(np.count_nonzero(one == value)) for one in (became, was))
        if gained or lost:
            changes[organ] = Change(gained, lost, emptied=bool(lost) and not (after == value).any())
    return changes
