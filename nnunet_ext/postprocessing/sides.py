"""Voxels of a left organ that lie on the right of the midline, and the reverse, given to the organ of their side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

#: A pair tells where the midline is if the smaller organ has at least this share of the larger one's volume.
LEAST_OF_PARTNER = 0.25
#: If an organ would lose more than this share, the midline is not known. Specks of an organ beside its partner may go whole.
MOST_LOST = 0.25
#: The midline is found again after voxels have changed sides, at most so many times.
MOST_ROUNDS = 10


def on_own_sides(label_map: np.ndarray, pairs: Sequence[tuple[int, int]], *, spacing_mm: Sequence[float]) -> np.ndarray:
    """A label map whose left and right organs lie on their own side of the midline.

    The midline is the plane halfway between the centres of the left and of the right organs, at right angles to the line
    through both. So a turned head has its own. Each pair counts once, whatever its volume. Voxels across it get the label
    of the other organ of the pair. A voxel that the plane cuts keeps its own. Where no pair tells the midline, nothing is
    changed.

    Args:
        label_map: Whole numbers, `(Z, Y, X)`. It is not changed.
        pairs: Label values of left and right organs.
        spacing_mm: Along `(Z, Y, X)`.
    """
    values = [value for pair in pairs for value in pair]
    boxes = ndimage.find_objects(label_map, max_label=max(values, default=0))
    index = {value: np.empty((0, 3), int) for value in values}
    for value in values:
        if (box := boxes[value - 1]) is not None:
            index[value] = np.argwhere(label_map[box] == value) + [axis.start for axis in box]
    where_mm = {pair: np.concatenate([index[value] for value in pair]) * spacing_mm for pair in pairs}
    given = {pair: np.repeat([True, False], [len(index[value]) for value in pair]) for pair in pairs}
    is_left = dict(given)
    telling = [pair for pair in pairs if _tells(given[pair])]
    for _ in range(MOST_ROUNDS if telling else 0):
        left, right = (
            np.mean([where_mm[pair][is_left[pair] == side].mean(0) for pair in telling], axis=0)
            for side in (True, False)
        )
        across = left - right
        cut = 0.5 * np.abs(across) @ np.asarray(spacing_mm)
        found = {pair: (where_mm[pair] - (left + right) / 2) @ across for pair in pairs}
        moved = {pair: np.where(np.abs(found[pair]) <= cut, given[pair], found[pair] > 0) for pair in pairs}
        if any(_most_lost(given[pair], moved[pair]) > MOST_LOST for pair in pairs):
            return label_map.copy()
        if all(np.array_equal(moved[pair], is_left[pair]) for pair in pairs):
            break
        is_left = moved
    result = label_map.copy()
    for pair in pairs:
        at = np.concatenate([index[value] for value in pair])
        result[tuple(at.T)] = np.where(is_left[pair], *pair)
    return result


def _whole_sides(is_left: np.ndarray) -> list[bool]:
    """The sides of a pair whose organ is no speck beside its partner."""
    of_side = {side: int(np.count_nonzero(is_left == side)) for side in (True, False)}
    return [side for side, n in of_side.items() if n > 0 and n >= LEAST_OF_PARTNER * of_side[not side]]


def _tells(is_left: np.ndarray) -> bool:
    """Whether a pair has two organs of a like volume."""
    return len(_whole_sides(is_left)) == 2


def _most_lost(before: np.ndarray, after: np.ndarray) -> float:
    """The largest share of an organ that is no longer its own. Of an organ that is a speck nothing is said."""
    return max((float((after[before == side] != side).mean()) for side in _whole_sides(before)), default=0.0)


def after_own_side(
    label_map: np.ndarray, organs: Sequence[int], pairs: Sequence[tuple[int, int]], *, spacing_mm: Sequence[float]
) -> np.ndarray:
    """A label map in which some organs lie on their own side.

    An organ that is not named keeps what no named one takes from it. What a named organ loses to one that is not named
    becomes background.

    Args:
        label_map: Whole numbers, `(Z, Y, X)`. It is not changed.
        organs: Their label values.
        pairs: Label values of left and right organs.
        spacing_mm: Along `(Z, Y, X)`.
    """
    if not organs:
        return label_map.copy()
    sided = on_own_sides(label_map, pairs, spacing_mm=spacing_mm)
    partner: Mapping[int, int] = {value: other for pair in pairs for value, other in (pair, pair[::-1])}
    result = label_map.copy()
    for organ in organs:
        if organ in partner:
            lost = (label_map == organ) & (sided != organ)
            result[lost] = partner[organ] if partner[organ] in organs else 0
            result[(label_map == partner[organ]) & (sided == organ)] = organ
    return result
