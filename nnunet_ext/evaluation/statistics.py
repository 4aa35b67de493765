"""The score of an organ in a case, and means of scores over cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_ext.evaluation.metrics import METRICS

#: Why an organ has no ordinary score, see `summary.DEFINITIONS`. Empty for an organ that both masks hold.
Flag = Literal["", "missed", "invented", "left_out", "not_segmented", "failed"]

#: Metrics that get a mean over cases, with the decimals of our tables.
SUMMARISED = {
    "dsc_percent": 2,
    "hd95_mm": 2,
    "plain_hd95_mm": 2,
    "surface_dice": 3,
    "mean_surface_distance_mm": 2,
    "volume_difference_ml": 3,
    "volume_difference_percent": 1,
}


@dataclass(frozen=True)
class Score:
    """One organ of one case. The fields after `organ` are `metrics.METRICS`, NaN if there is no number.

    Attributes:
        tolerance_mm: Tolerance of `surface_dice`.
        flag: Empty, or why this is no ordinary score.
    """

    case: str
    organ: str
    dsc_percent: float
    hd95_mm: float
    plain_hd95_mm: float
    surface_dice: float
    mean_surface_distance_mm: float
    reference_ml: float
    prediction_ml: float
    volume_difference_ml: float
    volume_difference_percent: float
    tolerance_mm: float
    flag: Flag = ""

    def metric(self, name: str) -> float:
        """The value of a metric by its name in `metrics.METRICS`."""
        return getattr(self, name)


@dataclass(frozen=True)
class Mean:
    """Mean over the values that are not NaN.

    Attributes:
        value: The mean, NaN without values.
        sd: Sample SD (ddof = 1), NaN for fewer than two values.
        median: NaN without values.
        n: How many values are not NaN.
    """

    value: float
    sd: float
    median: float
    n: int

    def as_json(self) -> dict[str, float]:
        """The keys of our JSON files."""
        return {"mean": self.value, "sd": self.sd, "median": self.median, "n": self.n}

    def text(self, decimals: int) -> str:
        """`78.46 +- 6.23`. `-` stands for a mean without values, and for the SD of a single one."""
        if not self.n:
            return "-"
        sd = "-" if np.isnan(self.sd) else f"{self.sd:.{decimals}f}"
        return f"{self.value:.{decimals}f} +- {sd}"


def mean_of(values: Iterable[float]) -> Mean:
    """Mean, SD and median of the values that are not NaN."""
    kept = [value for value in values if not np.isnan(value)]
    nan = float("nan")
    return Mean(
        value=float(np.mean(kept)) if kept else nan,
        sd=float(np.std(kept, ddof=1)) if len(kept) > 1 else nan,
        median=float(np.median(kept)) if kept else nan,
        n=len(kept),
    )


def mean_over_folds(by_fold: Sequence[Iterable[Score]]) -> list[Score]:
    """Per case and organ the mean of every metric over folds, of the cases and organs that every fold has scored.

    A fold without a value counts in no mean. A flag stays if every fold has it. An organ that some folds miss counts with
    its DSC of 0 and distance of the image diagonal for these.
    """
    scores = [{(row.case, row.organ): row for row in rows} for rows in by_fold]
    means = []
    for key, first in scores[0].items():
        if not all(key in found for found in scores):
            continue
        rows = [found[key] for found in scores]
        flag = first.flag if all(row.flag == first.flag for row in rows) else ""
        values = {name: mean_of(row.metric(name) for row in rows).value for name in METRICS}
        means.append(Score(first.case, first.organ, tolerance_mm=first.tolerance_mm, flag=flag, **values))
    return means
