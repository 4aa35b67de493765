"""Why a person should look at a case, and which cases come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.evaluation.statistics import Score
from nnunet_ext.reporting.content import Text

#: An organ below this DSC is low, whatever the other cases reach.
LOW_DSC_PERCENT = 50.0
#: An outlier is also this far below the median. Without the gap, cases that agree closely would have outliers.
OUTLIER_GAP_PERCENT = 5.0
#: Quartiles of fewer cases say nothing, so none of them is an outlier.
OUTLIER_MIN_CASES = 5
#: An organ above this HD95 is far off.
FAR_HD95_MM = 10.0
#: Kinds of reasons from the most to the least urgent. Kinds on one line are equally urgent.
URGENCY = (
    ("failed",),
    ("missed", "invented"),
    ("fallback",),
    ("low", "far"),
    ("warnings",),
)


@dataclass(frozen=True)
class Reason:
    """A reason to look at a case.

    Attributes:
        kind: One of the kinds in `URGENCY`.
        organs: The organs concerned, empty if the reason concerns the whole case.
        count: Number of warnings.
    """

    kind: str
    organs: tuple[str, ...] = ()
    count: int | None = None

    @property
    def weight(self) -> int:
        """Number of organs or warnings, or 1."""
        return len(self.organs) or self.count or 1


@dataclass(frozen=True)
class PageCase:
    """A case of an experiment on the page.

    Attributes:
        name: The case.
        scores: Organ -> score, empty without a reference.
        warnings: Texts to show.
        reasons: Why a person should look, empty if nothing is conspicuous.
    """

    name: str
    scores: Mapping[str, Score]
    warnings: tuple[Text, ...]
    reasons: tuple[Reason, ...]

    @property
    def severity(self) -> tuple:
        """Sorts the worst case first."""
        counts = (sum(reason.weight for reason in self.reasons if reason.kind in kinds) for kinds in URGENCY)
        known = [score.dsc_percent for score in self.scores.values() if not np.isnan(score.dsc_percent)]
        return (*(-count for count in counts), min(known, default=100.0), self.name)


def low_dsc_percent(values: Sequence[float]) -> float:
    """DSC below which a case is low for an organ: `LOW_DSC_PERCENT`, or the one of an outlier among the cases.

    An outlier lies more than 1.5 interquartile ranges below the lower quartile (Tukey's fence, as in a box plot) and
    `OUTLIER_GAP_PERCENT` below the median. NaN counts as no case.
    """
    known = [value for value in values if not np.isnan(value)]
    if len(known) < OUTLIER_MIN_CASES:
        return LOW_DSC_PERCENT
    lower, median, upper = np.percentile(known, (25, 50, 75))
    return max(LOW_DSC_PERCENT, min(lower - 1.5 * (upper - lower), median - OUTLIER_GAP_PERCENT))


def case_reasons(
    scores: Mapping[str, Score], record: Mapping, low: Mapping[str, float], *, failed: bool
) -> tuple[Reason, ...]:
    """Why a case deserves a look, most urgent first.

    Args:
        scores: Organ -> score, empty without a reference.
        record: The case's entry in `predictions.json`.
        low: Organ -> DSC in percent below which it is low.
        failed: The case could not be predicted or scored.
    """
    missed = [o for o, score in scores.items() if score.flag == "missed"] if scores else record.get("missing", ())
    organs = {
        "missed": () if failed else tuple(missed),
        "invented": tuple(o for o, score in scores.items() if score.flag == "invented"),
        # A comparison with NaN is false.
        "low": tuple(o for o, score in scores.items() if not score.flag and score.dsc_percent < low[o]),
        "far": tuple(o for o, score in scores.items() if not score.flag and score.hd95_mm > FAR_HD95_MM),
    }
    of_the_case = {"failed": failed, "fallback": bool(record.get("fallback_whole_volume"))}
    reasons = []
    for kind in (kind for kinds in URGENCY for kind in kinds):
        if organs.get(kind) or of_the_case.get(kind):
            reasons.append(Reason(kind, organs.get(kind, ())))
    if n_warnings := len(record.get("warnings") or ()):
        reasons.append(Reason("warnings", count=n_warnings))
    return tuple(reasons)
