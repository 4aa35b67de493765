"""Mean, standard deviation and number of scores."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Statistics = dict[str, float]  # mean, sd, median, n

#: Metrics that get a mean over cases, with the decimals of our tables.
SUMMARISED = {
    "dsc_percent": 2,
    "hd95_mm": 2,
    "surface_dice": 3,
    "mean_surface_distance_mm": 2,
    "volume_difference_ml": 3,
    "volume_difference_percent": 1,
}


def statistics(values: Iterable[float]) -> Statistics:
    """Mean, sample SD (ddof = 1) and median of the values that are not NaN, and how many these are."""
    kept = [value for value in values if not np.isnan(value)]
    nan = float("nan")
    return {
        "mean": float(np.mean(kept)) if kept else nan,
        "sd": float(np.std(kept, ddof=1)) if len(kept) > 1 else nan,
        "median": float(np.median(kept)) if kept else nan,
        "n": len(kept),
    }


def plus_minus(found: Statistics, decimals: int) -> str:
    """`78.46 +- 6.23`; `-` where there is no value, and for the SD of a single one."""
    if not found["n"]:
        return "-"
    sd = "-" if np.isnan(found["sd"]) else f"{found['sd']:.{decimals}f}"
    return f"{found['mean']:.{decimals}f} +- {sd}"
