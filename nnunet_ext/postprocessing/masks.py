"""Steps on the mask of one organ, with all distances in mm.

A mask is a bool array `(Z, Y, X)` and `spacing_mm` has the same axis order. A step is the same in any order and direction
of the axes, so it may run on the network's grid or on that of a file. The input is left as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, spatial

#: Voxels that share a face, an edge or a corner hang together. A nerve that runs obliquely has no more than that.
TOUCHING = np.ones((3, 3, 3), dtype=bool)
#: The thickness of a nerve at a gap is that of its last millimetres, about one diameter.
END_MM = 4.0
#: Gaussian weights of a mask that differ by less are one, so that rounding prefers no direction.
DECIMALS = 6
#: Distances in mm or in voxels that differ by less are one.
SAME_MM = 1e-6


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest piece of a mask. Empty if the mask is."""
    pieces, n_pieces = ndimage.label(mask, TOUCHING)
    if n_pieces < 2:
        return mask.copy()
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def without_small_pieces(mask: np.ndarray, *, spacing_mm: Sequence[float], least_ml: float) -> np.ndarray:
    """A mask without its pieces of less than `least_ml`. Nothing may remain."""
    pieces, _ = ndimage.label(mask, TOUCHING)
    kept = np.bincount(pieces.ravel()) * (np.prod(spacing_mm) / 1000) >= least_ml
    kept[0] = False
    return kept[pieces]


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask with its holes. A hole is what no path by the faces of voxels leads to from outside."""
    return ndimage.binary_fill_holes(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]


def smoothed(mask: np.ndarray, *, spacing_mm: Sequence[float], sigma_mm: float) -> np.ndarray:
    """A mask of the same volume with a smoother boundary, which moves by less than a voxel.

    The mask is blurred, and as many voxels as it had are taken from the highest value down. Voxels that share no face
    with the boundary stay. Voxels of one value are taken together, so the volume may grow by these.
    """
    n_voxels = int(np.count_nonzero(mask))
    if not n_voxels:
        return mask.copy()
    sigma_voxels = [sigma_mm / mm for mm in spacing_mm]
    share = ndimage.gaussian_filter(mask.astype(np.float64), sigma_voxels, mode="nearest").round(DECIMALS)
    share[ndimage.binary_erosion(mask, border_value=1)] = 2.0  # the core stays
    share[~ndimage.binary_dilation(mask)] = 0.0
    level = np.partition(share.ravel(), share.size - n_voxels)[share.size - n_voxels]
    return (share >= level) & (share > 0)


def with_gaps_closed(
    nerve: np.ndarray, ends: Sequence[np.ndarray], *, spacing_mm: Sequence[float], longest_mm: float
) -> np.ndarray:
    """A nerve whose gaps of at most `longest_mm` are filled, between its pieces and to the organs that it runs to.

    The largest piece is joined to the nearest piece or organ, then both to the next one, as long as there is one near
    enough. A gap is filled by a straight tube from the middle of one end to that of the other. The tube is as thick as
    the thinner end. It may run through other organs, which the caller gives back.

    Args:
        nerve: Its mask.
        ends: Masks of the organs that it runs to, the eye and the chiasm. One without a voxel is not looked for.
        spacing_mm: Voxel size.
        longest_mm: Largest distance of two voxels' centres across a gap.
    """
    result = nerve.copy()
    pieces, n_pieces = ndimage.label(nerve, TOUCHING)
    if not n_pieces:
        return result
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    others = [pieces == number for number in range(1, n_pieces + 1) if number != largest]
    joined = pieces == largest
    apart = [(piece, True) for piece in others] + [(end, False) for end in ends if end.any()]
    while apart:
        gaps = [_nearest(joined, mask, spacing_mm) for mask, _ in apart]
        at = min(range(len(gaps)), key=lambda number: gaps[number][0])
        gap_mm, here, there = gaps[at]
        if gap_mm > longest_mm:
            break
        mask, of_nerve = apart.pop(at)
        if not (ndimage.binary_dilation(joined, TOUCHING) & mask).any():
            start, radius_mm = _end(joined, here, spacing_mm)
            goal = there
            if of_nerve:
                goal, other_mm = _end(mask, there, spacing_mm)
                radius_mm = min(radius_mm, other_mm)
            tube = _tube(nerve.shape, start, goal, radius_mm, spacing_mm)
            result |= tube
            joined |= tube
        if of_nerve:
            joined |= mask
    return result


def _nearest(one: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, np.ndarray, np.ndarray]:
    """Smallest distance of two masks' voxels in mm, and the place in each mask, the middle of all voxels as near."""
    spacing = np.asarray(spacing_mm)
    voxels = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in (one, other)]
    trees = [spatial.cKDTree(places * spacing) for places in voxels]
    distances = [trees[1 - at].query(voxels[at] * spacing)[0] for at in (0, 1)]
    gap_mm = float(distances[0].min())
    here, there = (voxels[at][distances[at] <= gap_mm + SAME_MM].mean(axis=0) for at in (0, 1))
    return gap_mm, here, there


def _end(mask: np.ndarray, voxel: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, float]:
    """The middle of a mask around a place on it, in voxels, and its radius there in mm."""
    voxels = np.argwhere(mask)
    distances_mm = np.linalg.norm((voxels - voxel) * np.asarray(spacing_mm), axis=1)
    # The place lies between the ends of a fork, which are further away.
    near = voxels[distances_mm <= max(END_MM, float(distances_mm.min())) + SAME_MM]
    depths_mm = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[tuple((near + 1).T)]
    # A voxel's depth is measured to the centre of the next one outside, half a voxel beyond the boundary.
    return near.mean(axis=0), max(float(depths_mm.max()) - 0.5 * min(spacing_mm), 0.5 * min(spacing_mm))


def _tube(
    shape: Sequence[int], start: np.ndarray, goal: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Voxels whose centre lies within a radius of a line, and those that the line runs through."""
    spacing = np.asarray(spacing_mm)
    index = np.moveaxis(np.indices(shape), 0, -1) * spacing
    a, b = start * spacing, goal * spacing
    along = b - a
    share = np.clip((index - a) @ along / max(float(along @ along), 1e-12), 0.0, 1.0)
    tube = np.linalg.norm(index - a - share[..., None] * along, axis=-1) <= radius_mm + SAME_MM
    steps = np.linspace(start, goal, 4 * int(np.abs(goal - start).max() + 1) + 1)
    for half in itertools.product((0.5 - SAME_MM, 0.5 + SAME_MM), repeat=3):  # between two voxels: both
        tube[tuple(np.floor(steps + half).astype(int).T)] = True
    return tube
