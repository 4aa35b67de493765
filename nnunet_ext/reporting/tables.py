"""Tables of a report: one per metric with all experiments side by side, paired tests, localizer against segmenter.

Values are mean +- SD (sample SD) over the cases that all experiments have. The best mean of a row is marked. Published
values are never marked, because they come from other patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnunet_ext.evaluation.statistics import SUMMARISED, Mean, mean_of
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.evaluation.table import HEADS
from nnunet_ext.reporting import reference_study
from nnunet_ext.reporting.content import Cell, Experiment, Table
from nnunet_ext.reporting.paired_tests import LEAST_PAIRS, SIGNIFICANT, PairedTest, paired_tests
from nnunet_ext.reporting.reference_study import Published
from nnunet_ext.reporting.table_text import file_stem

#: Name of the row for the mean over organs.
ALL_ORGANS = "all organs"
#: Metrics of which the larger value is better. Of the others, the value nearest to 0 is.
LARGER_IS_BETTER = ("dsc_percent", "surface_dice")
TITLES = {
    "dsc_percent": "Dice similarity coefficient (DSC), %",
    "hd95_mm": "95 % Hausdorff distance (HD95), mm",
    "mean_surface_distance_mm": "Mean surface distance, mm",
    "surface_dice": "Surface dice (normalised surface dice)",
    "volume_difference_percent": "Volume difference, prediction minus reference, %",
}


def make_tables(
    experiments: Sequence[Experiment], cases: Sequence[str], organs: Sequence[str], *, box_organ: str, with_study: bool
) -> tuple[list[Table], list[str]]:
    """All tables, and remarks on tests that were not made."""
    compared = {experiment.name: experiment.scores.only(cases) for experiment in experiments}
    tables = [_overview(experiments, compared, box_organ)]
    too_few = False
    for metric in HEADS:
        tests = paired_tests(compared, organs, metric)
        too_few = too_few or any(test.p is None for test in tests.values())
        published = [p for p in reference_study.SYSTEMS if metric in p.values] if with_study else []
        tables.append(_metric_table(compared, organs, metric, tests, published))
        if tests and metric in ("dsc_percent", "hd95_mm"):
            tables.append(_test_table(list(compared), tests, metric))
    tables += [_localizer_table(name, s, s.localizer) for name, s in compared.items() if s.localizer is not None]
    tables.append(_organ_table(compared, box_organ, with_study=with_study))
    remark = (
        f"No p-value for some comparisons: Wilcoxon's test shows nothing with fewer than {LEAST_PAIRS} cases that have a "
        f"value in both experiments (cases compared: {len(cases)})."
    )
    return tables, [remark] if too_few else []


def _overview(experiments: Sequence[Experiment], compared: Mapping[str, EvaluationSummary], box_organ: str) -> Table:
    rows = []
    for experiment in experiments:
        whole, scores = experiment.scores, compared[experiment.name]
        rates = list(whole.pass_rates.values())
        rows.append(
            (
                experiment.name,
                whole.kind,
                "+".join(whole.channels) or "-",
                f"{len(scores.cases)} of {len(whole.cases)}",
                scores.all_organs["dsc_percent"].text(2),
                scores.per_organ[box_organ]["dsc_percent"].text(2) if box_organ in scores.organs else "-",
                str(len(scores.missed)),
                str(len(scores.invented)),
                str(len(scores.failed)),
                f"{100 * np.mean(rates):.2f} % ({100 * min(rates):.2f} %)" if rates else "-",
            )
        )
    header = (
        *("experiment", "what", "channels", "cases compared", "all organs DSC %", f"{box_organ} DSC %"),
        *("missed", "invented", "failed cases", "label crop pass rate"),
    )
    return Table(
        "overview",
        "The experiments",
        header,
        tuple(tuple(map(Cell, row)) for row in rows),
        "Mean +- SD over the cases compared. Missed, invented: organs over these cases; both, and every organ of a failed "
        "case, count with DSC 0 and distances of the image diagonal. Label crop pass rate: share of the organ voxels in the "
        "box the segmenter saw, mean and worst case over all of the experiment's cases.",
    )


def _metric_table(
    compared: Mapping[str, EvaluationSummary],
    organs: Sequence[str],
    metric: str,
    tests: Mapping[tuple[str, str], PairedTest],
    published: Sequence[Published],
) -> Table:
    decimals = SUMMARISED[metric]
    rows = []
    for organ in (*organs, ALL_ORGANS):
        found = [_mean(summary, organ, metric, compared) for summary in compared.values()]
        best = _best(found, metric, decimals)
        cells = []
        for name, one, is_best in zip(compared, found, best, strict=True):
            test = tests.get((name, organ))
            sign = " †" if test and test.p is not None and test.p < SIGNIFICANT else ""
            cells.append(Cell(one.text(decimals) + sign, is_best))
        cells += [Cell(_published(system.values[metric].get(organ), decimals)) for system in published]
        rows.append((Cell(organ), *cells))
    note = f"Mean +- SD over {len(next(iter(compared.values())).cases)} cases."
    if metric == "surface_dice":
        first = next(iter(compared.values()))
        note += " Tolerances in mm: " + ", ".join(f"{organ} {mm:g}" for organ, mm in first.tolerance_mm.items()) + "."
    if len(compared) > 1:
        nearest = " (nearest to 0)" if metric == "volume_difference_percent" else ""
        note += (
            f" Bold: best mean{nearest} of the row, of the experiments. All organs: those every experiment segments."
        )
        if any(test.p is not None for test in tests.values()):
            note += (
                f" †: differs from {next(iter(compared))}, p < {SIGNIFICANT:g} (Wilcoxon signed-rank, Holm-corrected)."
            )
    if published:
        note += " study: published values, of other patients; not ranked, not tested."
    header = ("organ", *compared, *(system.name for system in published))
    return Table(metric, TITLES[metric], header, tuple(rows), note)


def _test_table(names: Sequence[str], tests: Mapping[tuple[str, str], PairedTest], metric: str) -> Table:
    decimals = SUMMARISED[metric]
    rows = []
    for organ in dict.fromkeys(organ for _, organ in tests):
        cells = []
        for name in names[1:]:
            test = tests[name, organ]
            p = "no test" if test.p is None else "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
            text = f"{test.median_difference:+.{decimals}f}; {p}; n = {test.n_pairs}" if test.n_pairs else "-"
            cells.append(Cell(text, test.p is not None and test.p < SIGNIFICANT))
        rows.append((Cell(organ), *cells))
    return Table(
        f"wilcoxon_{metric}",
        f"Paired comparison with {names[0]}: {TITLES[metric]}",
        ("organ", *(f"{name} minus {names[0]}" for name in names[1:])),
        tuple(rows),
        "Median of the differences over cases; p-value of Wilcoxon's signed-rank test, two-sided, Holm-corrected over the "
        f"{len(tests)} comparisons of this table; n: cases in which both have a value. Bold: p < {SIGNIFICANT:g}. No test "
        f"with fewer than {LEAST_PAIRS} pairs.",
    )


def _localizer_table(name: str, summary: EvaluationSummary, localizer: EvaluationSummary) -> Table:
    both = [case for case in localizer.cases if case in summary.cases]
    stages = {"localizer": localizer.only(both), "segmenter": summary.only(both)}
    metrics = ("dsc_percent", "hd95_mm")
    rows = []
    for organ in (*summary.organs, ALL_ORGANS):
        cells = []
        for metric in metrics:
            found = [_mean(stage, organ, metric, stages) for stage in stages.values()]
            best = _best(found, metric, SUMMARISED[metric])
            cells += [Cell(s.text(SUMMARISED[metric]), b) for s, b in zip(found, best, strict=True)]
        rows.append((Cell(organ), *cells))
    return Table(
        f"localizer_{file_stem(name)}",
        f"Localizer against segmenter: {name}",
        ("organ", *(f"{stage} {HEADS[metric]}" for metric in metrics for stage in stages)),
        tuple(rows),
        f"Mean +- SD over {len(both)} cases; bold: the better of the two.",
    )


def _organ_table(compared: Mapping[str, EvaluationSummary], organ: str, *, with_study: bool) -> Table:
    metrics = ("dsc_percent", "hd95_mm")
    found = {name: [_mean(s, organ, metric, compared) for metric in metrics] for name, s in compared.items()}
    best = [_best([row[i] for row in found.values()], metric, SUMMARISED[metric]) for i, metric in enumerate(metrics)]
    rows = [
        (
            Cell(name),
            *(Cell(s.text(SUMMARISED[m]), best[j][i]) for j, (m, s) in enumerate(zip(metrics, row, strict=True))),
        )
        for i, (name, row) in enumerate(found.items())
    ]
    note = f"Mean +- SD over {len(next(iter(compared.values())).cases)} cases."
    if with_study and organ == reference_study.CHIASM:
        rows += [
            (Cell(name), Cell(f"{mean:g}"), Cell("-")) for name, mean in reference_study.CHIASM_DSC_PERCENT.items()
        ]
        note += " The last rows are published means, of other patients; not ranked."
    return Table(
        f"systems_{file_stem(organ)}",
        f"{organ}: all systems",
        ("system", *(HEADS[metric] for metric in metrics)),
        tuple(rows),
        note,
    )


def _mean(summary: EvaluationSummary, organ: str, metric: str, compared: Mapping[str, EvaluationSummary]) -> Mean:
    """Of an organ, or of the case means over the organs that all of the compared ones segment."""
    if organ != ALL_ORGANS:
        return mean_of(summary.values(organ, metric).values())
    shared = [o for o in summary.organs if all(o in s.organs and o not in s.not_segmented for s in compared.values())]
    return replace(summary, rows=[row for row in summary.rows if row.organ in shared]).all_organs[metric]


def _best(found: Sequence[Mean], metric: str, decimals: int) -> list[bool]:
    """Which have the best mean of two or more, as printed: equal numbers are equally good."""
    means = [round(mean.value, decimals) for mean in found]
    valid = [m for m in means if not np.isnan(m)]
    if len(valid) < 2:
        return [False] * len(means)
    if metric in LARGER_IS_BETTER:
        return [m == max(valid) for m in means]
    return [abs(m) == min(map(abs, valid)) for m in means]


def _published(value: tuple[float, float] | None, decimals: int) -> str:
    return "-" if value is None else f"{value[0]:.{decimals}f} +- {value[1]:.{decimals}f}"
