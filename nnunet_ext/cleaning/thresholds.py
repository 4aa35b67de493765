"""Grey values between air and tissue."""

from __future__ import annotations

import numpy as np

#: Half-way between air and skin lies -500; partial volume and noise ask for some freedom around it.
BODY_THRESHOLD_HU = (-500.0, -350.0)
_BINS = 128
#: Denser than any fixation mask.
BONE_HU = 200.0

#: Scanners and planning systems pad with -1500, -2000 or -3024; nothing measured lies below -1024.
LOWEST_HU = -1024.0
#: Above this, two surfaces with a gap of a voxel between them stay apart.
CORE_THRESHOLD_HU = -250.0


def body_thresholds(volume: np.ndarray, *, is_ct: bool) -> tuple[float, float]:
    """Values above which a voxel is solid tissue, and above which it is tissue at all."""
    if is_ct and float(volume.min()) <= -500.0:
        low, high = BODY_THRESHOLD_HU
        level = float(np.clip(otsu_threshold(np.clip(volume, LOWEST_HU, 300.0)), low, high))
        return CORE_THRESHOLD_HU, level
    # Bright tissue (fat, bone) would pull the cut above dim tissue: everything above the usual tissue counts as usual.
    first = otsu_threshold(volume)
    usual = float(np.median(volume[volume > first])) if (volume > first).any() else first
    level = otsu_threshold(np.minimum(volume, usual))
    if not is_ct:
        air = volume[volume <= level]
        noise = float(air.mean() + 3 * air.std())
        level = min(level, max(noise, float(air.mean()) + 0.6 * (level - float(air.mean()))))
    return level, level


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
