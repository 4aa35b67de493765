"""Grey values between air and tissue."""

from __future__ import annotations

import numpy as np

#: Half-way between air and skin lies -500; partial volume and noise ask for some freedom around it.
EDGE_HU = (-500.0, -350.0)
#: Scanners and planning systems pad with -1500, -2000 or -3024; nothing measured lies below -1024.
LOWEST_HU = -1024.0
_BINS = 128


def edge_level(ct_hu: np.ndarray) -> float:
    """HU of a voxel half filled with tissue: Otsu's threshold, limited."""
    return float(np.clip(otsu_threshold(np.clip(ct_hu, LOWEST_HU, 300.0)), *EDGE_HU))


def as_hu(volume: np.ndarray) -> np.ndarray:
    """A CT in other units, scaled so that air lies at -1000 and Otsu's threshold at -150: above, a voxel is full."""
    if float(volume.min()) <= -500.0:  # HU already
        return volume
    sample = volume[::2, ::2, ::2]
    level = _level_below_bright_tissue(sample)
    air = float(np.median(sample[sample <= level]))
    if not level > air:
        return np.full(volume.shape, -1000.0, np.float32)
    return (volume.astype(np.float32) - np.float32(air)) * np.float32(850 / (level - air)) - np.float32(1000)


def _level_below_bright_tissue(volume: np.ndarray) -> float:
    """Otsu's threshold where everything above the usual tissue counts as usual: bright tissue would pull it up."""
    first = otsu_threshold(volume)
    usual = float(np.median(volume[volume > first])) if (volume > first).any() else first
    return otsu_threshold(np.minimum(volume, usual))


def mr_level(volume: np.ndarray) -> float:
    """The value above which a voxel of an MR is tissue."""
    level = _level_below_bright_tissue(volume)
    air = volume[volume <= level]
    noise = float(air.mean() + 3 * air.std())
    return min(level, max(noise, float(air.mean()) + 0.6 * (level - float(air.mean()))))


def otsu_threshold(values: np.ndarray) -> float:
    """Otsu's threshold: the cut that splits values into two classes with the least variance within.

    Args:
        values: Any shape, finite.

    Returns:
        The cut, on 128 bins; the middle one of equally good cuts; the common value where all are equal.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return low
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    weight = counts / counts.sum()
    w, m = np.cumsum(weight)[:-1], np.cumsum(weight * (edges[1:] + edges[:-1]) / 2)
    total, m = m[-1], m[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num(m**2 / w) + np.nan_to_num((total - m) ** 2 / (1 - w))
    best = np.flatnonzero(between >= between.max() - 1e-9 * abs(between.max()))
    return float(edges[1:-1][best].mean())
