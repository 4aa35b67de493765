"""The table of means over cases, as papers print it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.evaluation.statistics import SUMMARISED, Mean

if TYPE_CHECKING:
    from nnunet_ext.evaluation.summary import EvaluationSummary, Pairs

#: Column heads of our tables.
HEADS = {
    "dsc_percent": "DSC %",
    "hd95_mm": "HD95 mm",
    "plain_hd95_mm": "plain HD95 mm",
    "mean_surface_distance_mm": "mean surface distance mm",
    "surface_dice": "surface dice",
    "volume_difference_percent": "volume difference %",
}


def to_markdown(summary: EvaluationSummary) -> str:
    """The text of `evaluation.md`: the table, the organs missed, invented and left out, and the localizer's scores."""
    header = ["organ", *HEADS.values(), "tolerance mm", "n"]
    lines = [
        [organ, *_cells(found), f"{summary.tolerance_mm[organ]:g}", str(found["dsc_percent"].n)]
        for organ, found in summary.per_organ.items()
    ]
    lines.append(["all organs", *_cells(summary.all_organs), "-", str(summary.all_organs["dsc_percent"].n)])
    reasons = "".join(f"\n  - {case}: {reason}" for case, reason in summary.failed.items()) or " none"
    n_cases = len(summary.cases)
    folds = f" {str(summary.kind).capitalize()}." if summary.folds else ""
    return f"""\
{as_table(header, lines)}

{n_cases} case{"s" * (n_cases != 1)}.{folds} Mean +- SD (median) over n cases (sample SD); all organs: mean over the organs
of a case, then over cases. HD95: the larger of the two directed 95th percentiles of the surface distances, weighted by
area. Plain HD95: the same between border voxels, each counted once. Surface dice: share of both surfaces within the
tolerance of the other. Volume difference: prediction minus reference.

- Missed (DSC 0, distances = image diagonal, counted): {_pairs(summary.missed)}
- Invented (no such organ in the reference; scored as missed, counted): {_pairs(summary.invented)}
- Left out (in neither mask, not counted): {_pairs(summary.left_out)}
- Not segmented by this model (no score, not counted): {", ".join(summary.not_segmented) or "none"}
- Failed cases (every organ counted as missed):{reasons}
- Predictions without a reference (ignored): {", ".join(summary.ignored) or "none"}
- Files and folders that are no label map (not compared): {", ".join(summary.not_compared) or "none"}
- Label crop pass rate: {_pass_rates(summary.pass_rates)}
{_localizer_markdown(summary)}{_folds_markdown(summary)}{_postprocessing_markdown(summary)}"""


def _localizer_markdown(summary: EvaluationSummary) -> str:
    if summary.localizer is None:
        return ""
    both = [case for case in summary.localizer.cases if case in summary.cases]
    stages = {"localizer": summary.localizer.only(both), "segmenter": summary.only(both)}
    return f"""
Localizer against segmenter, mean +- SD over the {len(both)} cases of both:

{_side_by_side(stages, ("dsc_percent", "hd95_mm"))}

- Missed by the localizer: {_pairs(stages["localizer"].missed)}
"""


def _folds_markdown(summary: EvaluationSummary) -> str:
    if (mean := summary.mean_over_folds) is None:
        return ""
    failed = [f"{n}: {', '.join(one.failed)}" for n, one in enumerate(summary.of_folds, start=1) if one.failed]
    return f"""
The ensemble beside the models of its {len(summary.of_folds)} folds. Folds: per case the mean over the folds' models, then
mean +- SD over the {len(mean.cases)} cases:

{_side_by_side({"ensemble": summary, "folds": mean}, ("dsc_percent", "hd95_mm", "plain_hd95_mm"))}

- Failed cases of single folds (every organ counted as missed): {"; ".join(failed) or "none"}
"""


def _postprocessing_markdown(summary: EvaluationSummary) -> str:
    if not (both := summary.by_postprocessing):
        return ""
    optimistic = (
        " It was chosen on these cases, so what it gains is an upper bound." if summary.model is not None else ""
    )
    return f"""
Without and with the model's postprocessing, mean +- SD over the {len(both["with"].cases)} cases of both.{optimistic}

{_side_by_side(both, ("dsc_percent", "hd95_mm", "plain_hd95_mm"))}

- Missed only with postprocessing: {_pairs([p for p in both["with"].missed if p not in both["without"].missed])}
- Invented only without postprocessing: {_pairs([p for p in both["without"].invented if p not in both["with"].invented])}
"""


def _side_by_side(systems: Mapping[str, EvaluationSummary], metrics: Sequence[str]) -> str:
    """Means of two systems, metric by metric, for the organs of both."""
    header = ["organ"] + [f"{name} {HEADS[metric]}" for metric in metrics for name in systems]
    found = [{**scores.per_organ, "all organs": scores.all_organs} for scores in systems.values()]
    lines = [
        [organ] + [means[organ][metric].text(SUMMARISED[metric]) for metric in metrics for means in found]
        for organ in found[-1]
        if organ in found[0]
    ]
    return as_table(header, lines)


def _pass_rates(rates: Mapping[str, float]) -> str:
    if not rates:
        return "unknown (no box was recorded)"
    short = {case: rate for case, rate in sorted(rates.items(), key=lambda item: item[1]) if rate < 1}
    listed = "; ".join(f"{case}: {100 * rate:.2f} %" for case, rate in short.items())
    mean = f"{100 * np.mean(list(rates.values())):.2f} % (mean over {len(rates)} cases)"
    return f"{mean}; below 100 %: {listed}" if short else f"{mean}; 100 % in each"


def as_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


def _cells(found: Mapping[str, Mean]) -> list[str]:
    cells = []
    for metric in HEADS:
        decimals = SUMMARISED[metric]
        median = f" ({found[metric].median:.{decimals}f})" if found[metric].n else ""
        cells.append(found[metric].text(decimals) + median)
    return cells


def _pairs(found: Pairs) -> str:
    by_case: dict[str, list[str]] = {}
    for case, organ in found:
        by_case.setdefault(case, []).append(organ)
    return "; ".join(f"{case}: {', '.join(organs)}" for case, organs in by_case.items()) or "none"
