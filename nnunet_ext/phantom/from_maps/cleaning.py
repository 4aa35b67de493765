"""Repair of label maps: specks, gaps, and the end of the neck."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import label as label_pieces

from nnunet_ext.phantom.from_maps.head_frame import HeadFrame
from nnunet_ext.phantom.from_maps.tissues import AIR

#: A slice with less of the head than this shows no whole cross section.
CROSS_SECTION_MM2 = 4000.0


def without_specks(codes: np.ndarray, n_rounds: int = 2) -> np.ndarray:
    """Voxels that share their tissue with at most one of six neighbours take the commonest of their 26 neighbours.

    Args:
        codes: Tissue codes, uint8.
        n_rounds: How often this is done.
    """
    codes = codes.copy()
    shifts = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if (i, j, k) != (0, 0, 0)]
    strides = np.array(codes.strides)
    for _ in range(n_rounds):
        same = np.zeros(codes.shape, np.uint8)
        for axis in range(3):
            equal = np.diff(codes, axis=axis) == 0
            first, last = [slice(None)] * 3, [slice(None)] * 3
            first[axis], last[axis] = slice(0, -1), slice(1, None)
            same[tuple(first)] += equal
            same[tuple(last)] += equal
        lonely = same <= 1
        for axis in range(3):  # the border has fewer neighbours
            edge = [slice(None)] * 3
            for place in (0, -1):
                edge[axis] = slice(place, None) if place else slice(0, 1)
                lonely[tuple(edge)] = False
        at = np.flatnonzero(lonely)
        if not len(at):
            break
        flat = codes.ravel()
        votes = np.zeros((len(at), int(codes.max()) + 1), np.uint8)
        rows = np.arange(len(at))
        for shift in shifts:
            votes[rows, flat[at + int(strides @ shift)]] += 1
        flat[at] = votes.argmax(axis=1)
    return codes


def without_islands(codes: np.ndarray) -> np.ndarray:
    """Air in place of everything that does not hang together with the head."""
    pieces, n_pieces = label_pieces(codes != AIR)
    if n_pieces < 2:
        return codes
    sizes = np.bincount(pieces.ravel())
    head = 1 + int(np.argmax(sizes[1:]))
    return np.where(pieces == head, codes, np.uint8(AIR))


def fill_from_neighbours(codes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask take the tissue of the nearest voxel outside of it that is not air."""
    codes = codes.copy()
    spans = [np.flatnonzero(mask.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    part = tuple(slice(max(int(s[0]) - 8, 0), int(s[-1]) + 9) for s in spans)
    inside = mask[part]
    nearest = distance_transform_edt(inside | (codes[part] == AIR), return_distances=False, return_indices=True)
    codes[part][inside] = codes[part][tuple(nearest[:, inside])]
    return codes


def extend_downwards(codes: np.ndarray, frame: HeadFrame) -> tuple[np.ndarray, float]:
    """Repeat the lowest whole cross section down to the end of the map.

    Points below the map have the tissue of its last slice, so that no image shows a head cut off.

    Returns:
        The map, and the height of that cross section in the frame of the head.
    """
    axis = int(np.argmax(np.abs(frame.matrix[:, 2])))
    upwards = frame.matrix[axis, 2] > 0
    pixel_mm2 = frame.spacing_mm**2
    areas = (codes != AIR).sum(axis=tuple(a for a in range(3) if a != axis)) * pixel_mm2
    whole = np.flatnonzero(areas > min(CROSS_SECTION_MM2, 0.5 * areas.max()))
    lowest = int(whole[0] if upwards else whole[-1])
    codes = codes.copy()
    end = [slice(None)] * 3
    end[axis] = slice(0, lowest) if upwards else slice(lowest + 1, None)
    section = [slice(None)] * 3
    section[axis] = slice(lowest, lowest + 1)
    codes[tuple(end)] = codes[tuple(section)]
    at = (np.array(codes.shape) - 1) / 2
    at[axis] = lowest
    return codes, float(frame.to_head_mm(at)[2])
