"""Slices of another thickness along one axis, as matrices: what a thicker slice sees, and cubic splines back.

Edges stay in place, as in nnU-Net's resampling: `n` slices of one thickness and `new_n` of another cover the same mm.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import erf

from nnunet_ext.images.splines import spline_matrix

#: What a slice sees of its surroundings. A CT's is nearly a box as wide as the slice. The selective pulse of an MR has no
#: edges. It is near a Gaussian whose full width at half maximum is the thickness.
BOX, GAUSSIAN = "box", "gaussian"
PROFILES = (BOX, GAUSSIAN)
#: Slices that are hardly thicker than others have lost nothing.
LEAST_RATIO = 1.5
#: Standard deviations of a Gaussian in its full width at half maximum.
SD_PER_FWHM = 1 / (2 * np.sqrt(2 * np.log(2)))


def slices_of(n: int, spacing_mm: float, thickness_mm: float) -> int:
    """Number of slices of a thickness that cover `n` voxels of a spacing, at least two.

    They touch each other, so their thickness is rounded a little.
    """
    return max(2, round(n * spacing_mm / thickness_mm))


@lru_cache(maxsize=256)
def thickening_matrix(n: int, new_n: int, profile: str = BOX) -> np.ndarray:
    """Means over the profile of each of `new_n` thicker slices of `n` values, as `(new_n, n)` float32.

    Values are means over their voxels. Beyond the edges there is nothing, so the rest of a profile counts more.

    Raises:
        ValueError: If the profile is unknown, or the new slices are thinner.
    """
    if profile not in PROFILES:
        raise ValueError(f"slice profile {profile!r} is not one of {', '.join(PROFILES)}")
    if new_n > n:
        raise ValueError(f"{new_n} slices are thinner than {n}, so what they saw can't be averaged")
    edges = np.arange(n + 1) / n
    if profile == BOX:
        lower, upper = np.arange(new_n)[:, None] / new_n, np.arange(1, new_n + 1)[:, None] / new_n
        seen = np.clip(edges, lower, upper)
    else:
        centre = (np.arange(new_n)[:, None] + 0.5) / new_n
        seen = erf((edges - centre) * new_n / SD_PER_FWHM / np.sqrt(2))
    weights = np.diff(seen, axis=1)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=256)
def interpolating_matrix(n: int, new_n: int) -> np.ndarray:
    """`spline_matrix`, kept for the next call."""
    return spline_matrix(n, new_n)
