"""Masks opened, closed, filled and grown in mm, quickly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage


def box_widths(width_mm: float, spacing: np.ndarray) -> list[int]:
    """Odd number of voxels per axis that is at least the width (1: nothing happens along this axis)."""
    return [int(2 * np.ceil((width_mm / mm - 1) / 2) + 1) if mm < width_mm else 1 for mm in spacing]


def extreme_filter(mask: np.ndarray, widths: Sequence[int], *, erode: bool) -> np.ndarray:
    """Erosion or dilation by a box; beyond the volume lies tissue for an erosion, air for a dilation."""
    combine = np.logical_and if erode else np.logical_or
    result = mask.view(bool)
    for axis, width in enumerate(widths):
        if width == 1:
            continue
        pad = [(width // 2, width // 2) if a == axis else (0, 0) for a in range(3)]
        result, reach = np.moveaxis(np.pad(result, pad, constant_values=erode), axis, 0), 1
        while reach < width:  # entry i holds voxels i to i + reach - 1
            step = min(reach, width - reach)
            result, reach = combine(result[:-step], result[step:]), reach + step
        result = np.moveaxis(result, 0, axis)
    return np.ascontiguousarray(result)


def open_mask(mask: np.ndarray, width_mm: float, spacing: np.ndarray) -> np.ndarray:
    widths = box_widths(width_mm, spacing)
    return extreme_filter(extreme_filter(mask, widths, erode=True), widths, erode=False)


def flowed(
    seed: np.ndarray, values: np.ndarray, within: np.ndarray, distance_mm: float, spacing: np.ndarray, *, rise: float
) -> np.ndarray:
    """The seed grown through `within` up to a distance, on ways that never rise far above their lowest value.

    Args:
        seed, within: Bool, where to begin and where to go.
        values: What must not rise by more than `rise` above its lowest along the way, 32-bit float.
        distance_mm: Longest way.
        spacing: Voxel size along each axis, mm.
        rise: In the unit of `values`.
    """
    lowest = np.where(seed, values, -np.inf).astype(np.float32)  # along the best way to each voxel
    for axes in _steps(distance_mm, spacing):
        arriving = lowest.copy()
        for axis in axes:
            ahead, behind = ((slice(None),) * axis + (s,) for s in (slice(1, None), slice(None, -1)))
            np.maximum(arriving[ahead], lowest[behind], out=arriving[ahead])
            np.maximum(arriving[behind], lowest[ahead], out=arriving[behind])
        allowed = within & (values <= arriving + np.float32(rise))
        arriving = np.maximum(lowest, np.where(allowed, np.minimum(arriving, values), -np.inf))
        if len(axes) == 3 and np.array_equal(arriving, lowest):
            break
        lowest = arriving
    return lowest > -np.inf


def _steps(distance_mm: float, spacing: np.ndarray) -> Iterator[list[int]]:
    """Axes of each step up to a distance. An axis takes part whenever the way comes nearer to another of its voxels."""
    step = float(spacing.min())
    for n in range(1, max(1, int(np.ceil(distance_mm / step))) + 1):
        yield [a for a in range(3) if int(n * step / spacing[a] + 0.5) > int((n - 1) * step / spacing[a] + 0.5)]


def close_mask(mask: np.ndarray, width_mm: float, spacing: np.ndarray) -> np.ndarray:
    widths = box_widths(width_mm, spacing)
    return extreme_filter(extreme_filter(mask, widths, erode=False), widths, erode=True)


def deepest(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The connected component that contains the voxel furthest inside."""
    return deep_parts(mask, spacing, least_share=1.0)


def deep_parts(mask: np.ndarray, spacing: np.ndarray, *, least_share: float) -> np.ndarray:
    """The deepest connected component, and others that are nearly as deep.

    A body may lie in several parts, such as two legs.

    Args:
        mask: Bool.
        spacing: Voxel size along each axis, mm.
        least_share: Depth of another component, as a share of the depth of the deepest. With 1 there is no other.
    """
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    volumes = np.bincount(labels.ravel())[1:]
    large = np.flatnonzero(volumes >= 0.02 * volumes.max()) + 1
    if large.size == 1:
        return labels == large[0]
    step = np.maximum(1, (3.0 / spacing).astype(int))  # depth need not be exact
    view = tuple(slice(None, None, s) for s in step)
    depth = ndimage.distance_transform_edt(np.pad(mask[view], 1), sampling=spacing * step)[1:-1, 1:-1, 1:-1]
    depths = ndimage.maximum(depth, labels[view], index=large)
    first = int(np.argmax(depths * volumes[large - 1] ** (1 / 3)))
    if least_share >= 1:
        return labels == large[first]
    taken = depths >= least_share * depths[first]
    taken[first] = True
    return np.isin(labels, large[taken])


def grown(seed: np.ndarray, within: np.ndarray, distance_mm: float, spacing: np.ndarray) -> np.ndarray:
    """The seed grown through `within`, voxel by voxel, up to a distance."""
    grown = seed.copy()
    for axes in _steps(distance_mm, spacing):
        new = grown.copy()
        for axis in axes:
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            new[tuple(ahead)] |= grown[tuple(behind)]
            new[tuple(behind)] |= grown[tuple(ahead)]
        new &= within
        new |= seed
        grown = new
    return grown


def fill_slices(mask: np.ndarray) -> np.ndarray:
    """Holes filled that are closed in a slice along any of the three axes: sinuses open to the outside elsewhere."""
    found = ndimage.find_objects(mask.view(np.uint8))
    if not found:
        return mask.copy()
    whole, box = mask.copy(), found[0]  # no hole lies outside the mask's box
    mask, filled = mask[box], whole[box]
    for axis in range(3):
        structure = np.zeros((3, 3, 3), dtype=bool)
        structure[1, 1, 1] = True
        in_plane = [a for a in range(3) if a != axis]
        for a in in_plane:
            index = [1, 1, 1]
            for index[a] in (0, 2):
                structure[tuple(index)] = True
        labels, count = ndimage.label(~mask, structure=structure)
        outside = np.zeros(count + 1, dtype=bool)
        for a in in_plane:
            for end in (0, -1):
                outside[np.take(labels, end, axis=a).ravel()] = True
        outside[0] = True
        filled |= ~outside[labels]
    return whole


def coarse_factors(shape: Sequence[int], spacing: np.ndarray, size_mm: float) -> np.ndarray:
    """Voxels to average along each axis for voxels of about a size; at least eight blocks are left."""
    factors = np.maximum(1, (size_mm / spacing + 0.01).astype(int))
    return np.minimum(factors, np.maximum(1, np.asarray(shape) // 8))


def block_mean(volume: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Mean over blocks of voxels, 32-bit float; the last block of an axis is padded with the edge."""
    pad = [(0, int(-n % f)) for n, f in zip(volume.shape, factors, strict=True)]
    padded = np.pad(volume, pad, mode="edge") if any(after for _, after in pad) else volume
    for axis, f in enumerate(factors):
        if f > 1:
            starts = np.arange(0, padded.shape[axis], f)
            padded = np.add.reduceat(padded, starts, axis=axis, dtype=np.float32)
    return padded.astype(np.float32, copy=False) / np.float32(np.prod(factors))


def enlarge(mask: np.ndarray, factors: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    for axis, f in enumerate(factors):
        mask = np.repeat(mask, f, axis=axis) if f > 1 else mask
    return mask[tuple(slice(n) for n in shape)]
