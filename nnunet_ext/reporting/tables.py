"""Tables of a report: scores of all experiments side by side, paired tests, localizer against segmenter.

Values are mean +- SD (sample SD) over the cases that all experiments have. The best mean of a row is marked. The reference
study's own tables are in `study_tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_ext.evaluation.statistics import SUMMARISED
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.evaluation.table import HEADS
from nnunet_ext.messages import Message
from nnunet_ext.reporting.cells import best_of, mean_over_cases, organ_cell
from nnunet_ext.reporting.content import Cell, Experiment, Table, Text
from nnunet_ext.reporting.paired_tests import LEAST_PAIRS, SIGNIFICANT, PairedTest, paired_tests
from nnunet_ext.reporting.study_tables import study_tables
from nnunet_ext.reporting.table_text import file_stem

TITLES = {
    "dsc_percent": Message("title_dsc"),
    "hd95_mm": Message("title_hd95"),
    "plain_hd95_mm": Message("title_plain_hd95"),
    "mean_surface_distance_mm": Message("title_mean_surface_distance"),
    "surface_dice": Message("title_surface_dice"),
    "volume_difference_percent": Message("title_volume_difference"),
}


def make_tables(
    experiments: Sequence[Experiment], cases: Sequence[str], organs: Sequence[str], *, box_organ: str, with_study: bool
) -> tuple[list[Table], list[Message]]:
    """All tables, and remarks on tests that were not made."""
    compared = {experiment.name: experiment.scores.only(cases) for experiment in experiments}
    tables = [_overview(experiments, compared, box_organ)]
    too_few = False
    for metric in HEADS:
        tests = paired_tests(compared, organs, metric)
        too_few = too_few or any(test.p is None for test in tests.values())
        tables.append(_metric_table(compared, organs, metric, tests))
        if tests and metric in ("dsc_percent", "hd95_mm"):
            tables.append(_test_table(list(compared), tests, metric))
    tables += [_localizer_table(name, s, s.localizer) for name, s in compared.items() if s.localizer is not None]
    tables += [
        _folds_table(name, s, s.mean_over_folds) for name, s in compared.items() if s.mean_over_folds is not None
    ]
    tables += [_postprocessing_table(name, s) for name, s in compared.items() if s.by_postprocessing]
    tables.append(_organ_table(compared, box_organ))
    if with_study:
        tables += study_tables(experiments, compared)
    remarks = [Message("no_p_value", {"least": LEAST_PAIRS, "n": len(cases)})] if too_few else []
    if earlier := [name for name, scores in compared.items() if _lacks_plain_hd95(scores)]:
        remarks.append(Message("no_plain_hd95", {"names": earlier}))
    return tables, remarks


def _lacks_plain_hd95(scores: EvaluationSummary) -> bool:
    """Whether the evaluation is of a version that did not have it."""
    return any(np.isnan(row.plain_hd95_mm) and not np.isnan(row.hd95_mm) for row in scores.rows)


def _overview(experiments: Sequence[Experiment], compared: Mapping[str, EvaluationSummary], box_organ: str) -> Table:
    rows: list[tuple[Text, ...]] = []
    for experiment in experiments:
        whole, scores = experiment.scores, compared[experiment.name]
        rates = list(whole.pass_rates.values())
        rows.append(
            (
                experiment.name,
                whole.kind,
                "+".join(whole.channels) or "-",
                Message("cell_some_of_all", {"n": len(scores.cases), "all": len(whole.cases)}),
                scores.all_organs["dsc_percent"].text(2),
                scores.per_organ[box_organ]["dsc_percent"].text(2) if box_organ in scores.organs else "-",
                str(len(scores.missed)),
                str(len(scores.invented)),
                str(len(scores.failed)),
                f"{100 * np.mean(rates):.2f} % ({100 * min(rates):.2f} %)" if rates else "-",
            )
        )
    dsc = HEADS["dsc_percent"]
    header = (
        Message("head_experiment"),
        Message("head_what_was_scored"),
        Message("head_channels"),
        Message("head_cases_compared"),
        Message("head_metric_of_all_organs", {"metric": dsc}),
        Message("head_metric_of_organ", {"organ": box_organ, "metric": dsc}),
        Message("head_missed"),
        Message("head_invented"),
        Message("head_failed_cases"),
        Message("head_pass_rate"),
    )
    notes = Message("note_means_of_compared"), Message("note_missed_and_invented"), Message("note_pass_rate")
    cells = tuple(tuple(Cell(text) for text in row) for row in rows)
    return Table("overview", Message("title_overview"), header, cells, notes)


def _metric_table(
    compared: Mapping[str, EvaluationSummary],
    organs: Sequence[str],
    metric: str,
    tests: Mapping[tuple[str, str], PairedTest],
) -> Table:
    decimals = SUMMARISED[metric]
    rows = []
    for organ in (*organs, None):
        found = [mean_over_cases(summary, organ, metric, compared) for summary in compared.values()]
        best = best_of([mean.value for mean in found], metric, decimals)
        cells = []
        for name, one, is_best in zip(compared, found, best, strict=True):
            test = tests.get((name, organ)) if organ is not None else None
            sign = " †" if test and test.p is not None and test.p < SIGNIFICANT else ""
            cells.append(Cell(one.text(decimals) + sign, is_best))
        rows.append((organ_cell(organ), *cells))
    header: tuple[Text, ...] = (Message("head_organ"), *compared)
    return Table(metric, TITLES[metric], header, tuple(rows), _metric_notes(compared, metric, tests))


def _metric_notes(
    compared: Mapping[str, EvaluationSummary],
    metric: str,
    tests: Mapping[tuple[str, str], PairedTest],
) -> tuple[Message, ...]:
    name, first = next(iter(compared.items()))
    notes = [Message("note_means", {"n": len(first.cases)})]
    if metric == "surface_dice":
        tolerances = [Message("tolerance_of_organ", {"organ": o, "mm": mm}) for o, mm in first.tolerance_mm.items()]
        notes.append(Message("note_tolerances", {"tolerances": tolerances}))
    if len(compared) > 1:
        nearest = metric == "volume_difference_percent"
        notes.append(Message("note_mean_nearest_to_0") if nearest else Message("note_best_mean"))
        notes.append(Message("note_shared_organs"))
        if any(test.p is not None for test in tests.values()):
            notes.append(Message("note_dagger", {"name": name, "p": SIGNIFICANT}))
    return tuple(notes)


def _test_table(names: Sequence[str], tests: Mapping[tuple[str, str], PairedTest], metric: str) -> Table:
    decimals = SUMMARISED[metric]
    rows = []
    for organ in dict.fromkeys(organ for _, organ in tests):
        cells = []
        for name in names[1:]:
            test = tests[name, organ]
            cells.append(Cell(_test_text(test, decimals), test.p is not None and test.p < SIGNIFICANT))
        rows.append((organ_cell(organ), *cells))
    differences = [Message("head_difference", {"name": name, "first": names[0]}) for name in names[1:]]
    return Table(
        f"wilcoxon_{metric}",
        Message("title_paired_comparison", {"name": names[0], "metric": TITLES[metric]}),
        (Message("head_organ"), *differences),
        tuple(rows),
        (
            Message("note_paired_tests", {"n": len(tests)}),
            Message("note_significant", {"p": SIGNIFICANT}),
            Message("note_least_pairs", {"n": LEAST_PAIRS}),
        ),
    )


def _test_text(test: PairedTest, decimals: int) -> Text:
    """Median difference, p-value and number of pairs, or `-` without pairs."""
    if not test.n_pairs:
        return "-"
    difference = f"{test.median_difference:+.{decimals}f}"
    if test.p is None:
        return Message("cell_no_test", {"difference": difference, "n": test.n_pairs})
    p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
    return f"{difference}; {p}; n = {test.n_pairs}"


def _localizer_table(name: str, summary: EvaluationSummary, localizer: EvaluationSummary) -> Table:
    both = [case for case in localizer.cases if case in summary.cases]
    stages = {"localizer": localizer.only(both), "segmenter": summary.only(both)}
    header = [Message("head_organ")]
    metrics = ("dsc_percent", "hd95_mm")
    for metric in metrics:
        header.append(Message("head_metric_of_localizer", {"metric": HEADS[metric]}))
        header.append(Message("head_metric_of_segmenter", {"metric": HEADS[metric]}))
    return Table(
        f"localizer_{file_stem(name)}",
        Message("title_localizer", {"name": name}),
        tuple(header),
        _side_by_side(stages, summary.organs, metrics),
        (Message("note_means_of_stages", {"n": len(both)}),),
    )


def _folds_table(name: str, ensemble: EvaluationSummary, mean: EvaluationSummary) -> Table:
    """The ensemble of all folds on a test set, and the mean over the models of single folds, as papers give it."""
    header = [Message("head_organ")]
    metrics = ("dsc_percent", "hd95_mm", "plain_hd95_mm")
    for metric in metrics:
        header.append(Message("head_metric_of_ensemble", {"metric": HEADS[metric]}))
        header.append(Message("head_metric_of_folds", {"metric": HEADS[metric]}))
    return Table(
        f"folds_{file_stem(name)}",
        Message("title_folds", {"name": name, "n": len(ensemble.of_folds)}),
        tuple(header),
        _side_by_side({"ensemble": ensemble, "folds": mean}, ensemble.organs, metrics),
        (Message("note_mean_over_folds", {"n": len(mean.cases)}), Message("note_better_of_two")),
    )


def _postprocessing_table(name: str, summary: EvaluationSummary) -> Table:
    both = summary.by_postprocessing
    header = [Message("head_organ")]
    metrics = ("dsc_percent", "hd95_mm", "plain_hd95_mm")
    for metric in metrics:
        header.append(Message("head_metric_without_postprocessing", {"metric": HEADS[metric]}))
        header.append(Message("head_metric_with_postprocessing", {"metric": HEADS[metric]}))
    chosen = (Message("note_chosen_on_these_cases"),) if summary.model is not None else ()
    return Table(
        f"postprocessing_{file_stem(name)}",
        Message("title_postprocessing", {"name": name}),
        tuple(header),
        _side_by_side(both, summary.organs, metrics),
        (Message("note_means_of_stages", {"n": len(both["with"].cases)}), *chosen),
    )


def _side_by_side(
    systems: Mapping[str, EvaluationSummary], organs: Sequence[str], metrics: Sequence[str]
) -> tuple[tuple[Cell, ...], ...]:
    """A row per organ with the means of the systems, metric by metric."""
    rows = []
    for organ in (*organs, None):
        cells = []
        for metric in metrics:
            found = [mean_over_cases(scores, organ, metric, systems) for scores in systems.values()]
            best = best_of([mean.value for mean in found], metric, SUMMARISED[metric])
            cells += [Cell(s.text(SUMMARISED[metric]), b) for s, b in zip(found, best, strict=True)]
        rows.append((organ_cell(organ), *cells))
    return tuple(rows)


def _organ_table(compared: Mapping[str, EvaluationSummary], organ: str) -> Table:
    metrics = ("dsc_percent", "hd95_mm", "plain_hd95_mm")
    found = {name: [mean_over_cases(s, organ, metric, compared) for metric in metrics] for name, s in compared.items()}
    best = [
        best_of([row[i].value for row in found.values()], metric, SUMMARISED[metric])
        for i, metric in enumerate(metrics)
    ]
    rows = [
        (
            Cell(name),
            *(Cell(s.text(SUMMARISED[m]), best[j][i]) for j, (m, s) in enumerate(zip(metrics, row, strict=True))),
        )
        for i, (name, row) in enumerate(found.items())
    ]
    notes = [Message("note_means", {"n": len(next(iter(compared.values())).cases)})]
    return Table(
        f"systems_{file_stem(organ)}",
        Message("title_all_systems", {"organ": organ}),
        (Message("head_system"), *(HEADS[metric] for metric in metrics)),
        tuple(rows),
        tuple(notes),
    )
