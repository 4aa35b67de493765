"""Why a person should look at a case, and which cases come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: Limits of the reasons to look at a case first.
LOW_DSC_PERCENT = 50.0
OUTLIER_GAP_PERCENT = (
    5.0  # an outlier is also this far below the median: where all cases agree, a hair's breadth is none
)
OUTLIER_MIN_CASES = 5  # fewer have no quartiles to speak of
FAR_HD95_MM = 10.0
#: Metrics that the page shows.
METRICS = ("dsc_percent", "hd95_mm", "surface_dice")


def low_dsc_percent(values: Sequence[float | None]) -> float:
    """DSC below which a case is low for an organ: `LOW_DSC_PERCENT`, or what makes it an outlier among the cases.

    An outlier lies more than 1.5 interquartile ranges below the lower quartile (Tukey's fence, as in a box plot) and
    `OUTLIER_GAP_PERCENT` below the median.
    """
    known = [v for v in values if v is not None]
    if len(known) < OUTLIER_MIN_CASES:
        return LOW_DSC_PERCENT
    lower, median, upper = np.percentile(known, (25, 50, 75))
    return max(LOW_DSC_PERCENT, min(lower - 1.5 * (upper - lower), median - OUTLIER_GAP_PERCENT))


def case_reasons(
    scores: Mapping[str, Mapping], record: Mapping, low: Mapping[str, float], *, failed: bool
) -> list[dict]:
    """Why a case deserves a look, most urgent first; empty where nothing is conspicuous.

    Args:
        scores: Organ -> `METRICS` and `flag`, as `evaluation` gives them (None for NaN); empty without a reference.
        record: The case's entry in `predictions.json`.
        low: Organ -> DSC in percent below which it is low.
        failed: The case could not be predicted or scored.
    """
    missed = [o for o, s in scores.items() if s["flag"] == "missed"] if scores else list(record.get("missing", ()))
    found = {
        "missed": [] if failed else missed,
        "invented": [o for o, s in scores.items() if s["flag"] == "invented"],
        "low": [
            o for o, s in scores.items() if not s["flag"] and s["dsc_percent"] is not None and s["dsc_percent"] < low[o]
        ],
        "far": [
            o for o, s in scores.items() if not s["flag"] and s["hd95_mm"] is not None and s["hd95_mm"] > FAR_HD95_MM
        ],
    }
    reasons: list[dict] = [{"kind": "failed"}] if failed else []
    reasons += [{"kind": kind, "organs": found[kind]} for kind in ("missed", "invented") if found[kind]]
    reasons += [{"kind": "fallback"}] if record.get("fallback_whole_volume") else []
    reasons += [{"kind": kind, "organs": found[kind]} for kind in ("low", "far") if found[kind]]
    reasons += [{"kind": "warnings", "count": len(record["warnings"])}] if record.get("warnings") else []
    return reasons


def severity(case: Mapping) -> tuple:
    """Sorts the worst case first."""
    weight = {reason["kind"]: len(reason.get("organs", ())) or reason.get("count", 1) for reason in case["reasons"]}
    lowest = min((s["dsc_percent"] for s in case["scores"].values() if s["dsc_percent"] is not None), default=100.0)
    order = ("failed", ("missed", "invented"), "fallback", ("low", "far"), "warnings")
    counts = (sum(weight.get(k, 0) for k in ((kinds,) if isinstance(kinds, str) else kinds)) for kinds in order)
    return (*(-count for count in counts), lowest, case["name"])
