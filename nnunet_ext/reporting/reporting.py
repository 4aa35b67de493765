"""Experiments side by side, as in the reference study: tables, tests, box plots, overlays, surfaces, training curves.

Scores are compared on the cases that all experiments have. The others are tested against the first experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.files import check_folder, check_output_folder, write_text
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.messages import Message
from nnunet_ext.reporting.content import Cell, Experiment, Picture, Report, Table
from nnunet_ext.reporting.costs import costs_table
from nnunet_ext.reporting.experiments import check_comparable, common_cases, curves_of, load_experiments
from nnunet_ext.reporting.reference_study import CHIASM
from nnunet_ext.reporting.table_text import to_latex, to_markdown
from nnunet_ext.reporting.tables import make_tables
from nnunet_ext.reporting.training_curves import TrainingCurve, read_training_curves

__all__ = ["Cell", "Experiment", "Picture", "Report", "Table", "TrainingCurve", "report"]


@holding(owned_folder, "out")
def report(
    runs: Sequence[tuple[str, Path]],
    out: Path,
    *,
    references: Path | None = None,
    images: Path | None = None,
    models: Sequence[Path | tuple[str, Path]] = (),
    box_organ: str | None = None,
    cases: Sequence[str] | None = None,
    reference_study: bool = False,
    viewer_limit_mb: float | None = None,
    n_processes: int = 2,
    show_progress: bool = True,
) -> Report:
    """Write `report.html`, `report.md`, `tables/*.md` and `.tex`, `figures/*.png` and `.svg`.

    Args:
        runs: Name and folder of each experiment. The folder is an evaluation (`nnunet_ext evaluate -o`), predictions with
            `references`, or a trained model. The last two are evaluated first, into `out/evaluations/NAME`.
        out: Folder for the report, made if missing. Files of an earlier report are replaced.
        references: Reference label maps, for runs that are folders of predictions.
        images: nnU-Net's `imagesTr` or `imagesTs` to draw on. None stands for the one beside the references (`labelsTs` ->
            `imagesTs`, `labelsTr` and `gt_segmentations` -> `imagesTr`).
        models: Trained models whose training curves are drawn, besides those of cross-validations and their localizers. The
            table of costs looks for the models of predictions among these and in `$nnUNet_results`. With the name of a
            run, a model is that run's. Predictions by `nnUNetv2_predict` have no other.
        box_organ: Organ of the box plots. None stands for the one with the lowest mean DSC over all experiments. With
            `reference_study` the chiasm has box plots too, and None stands for it.
        cases: Cases with overlays and surfaces. None stands for the worst, the median and the best by mean DSC.
        reference_study: Show the tables of the study, with the experiments beside the published values.
        viewer_limit_mb: Largest size of the cases' images in `report.html`, see `page.write_report_page`.
        n_processes: Processes that score cases.
        show_progress: Draw progress bars.

    Raises:
        FileNotFoundError: If a run is no evaluation, no model, and no predictions with references.
        ValueError: If two runs have one name, or a case or organ is unknown. If experiments have no common case, other
            tolerances or other references.
    """
    out = check_output_folder(out)
    for folder, called in ((references, "references folder"), (images, "images folder")):
        if folder is not None:
            check_folder(folder, called)
    models = [model if isinstance(model, tuple) else Path(model) for model in models]
    folders = [model if isinstance(model, Path) else Path(model[1]) for model in models]
    names = [name for name, _ in runs]
    if stray := [model[0] for model in models if isinstance(model, tuple) and model[0] not in names]:
        raise ValueError(f"a model is named as that of '{stray[0]}', and no run is: the runs are {', '.join(names)}")
    for folder in folders:
        read_training_curves(folder)  # before hours of scoring
    experiments = load_experiments(runs, out, references, images, n_processes=n_processes, show_progress=show_progress)
    common, remarks = common_cases(experiments)
    compared = [experiment.scores.only(common) for experiment in experiments]
    check_comparable(experiments, common)
    organs = tuple(dict.fromkeys(organ for scores in compared for organ in scores.organs))
    if box_organ is None and reference_study and CHIASM in organs:
        box_organ = CHIASM
    box_organ = box_organ or _hardest(compared, organs)
    if box_organ not in organs:
        raise ValueError(f"no experiment has an organ '{box_organ}'; there are {', '.join(organs)}.")
    if unknown := [case for case in cases or () if case not in common]:
        there = ", ".join(common[:6]) + (", ..." if len(common) > 6 else "")
        raise ValueError(f"case '{unknown[0]}' is not among the {len(common)} cases of all experiments: {there}.")

    content = Report(
        out=out,
        experiments=tuple(experiments),
        organs=organs,
        cases=common,
        shown_cases=tuple(cases or _worst_median_best(compared, common)),
        box_organ=box_organ,
        curves=tuple(curves_of(experiments, folders)),
    )
    tables, more = make_tables(experiments, common, organs, box_organ=box_organ, with_study=reference_study)
    remarks += more
    costs, more = costs_table(experiments, models, with_study=reference_study)
    tables.append(costs)
    remarks += more
    # matplotlib takes a second to import, so it is not imported before it is needed.
    from nnunet_ext.reporting.figures import draw_figures
    from nnunet_ext.reporting.page import VIEWER_LIMIT_MB, write_report_page

    pictures, more = draw_figures(content, models, with_study=reference_study, show_progress=show_progress)
    remarks += more
    without = [e.name for e in experiments if not any(e.images.get(case) for case in content.shown_cases)]
    if without:
        remarks.append(Message("no_images_to_draw_on", {"names": without}))
    content = replace(content, tables=tuple(tables), pictures=tuple(pictures), remarks=tuple(remarks))
    _write(content)
    limit_mb = VIEWER_LIMIT_MB if viewer_limit_mb is None else viewer_limit_mb
    write_report_page(content, out / "report.html", viewer_limit_mb=limit_mb, show_progress=show_progress)
    return content


# What can be compared -------------------------------------------------------------------------------------------------


def _hardest(compared: Sequence[EvaluationSummary], organs: Sequence[str]) -> str:
    """The organ with the lowest DSC, mean over the experiments that segment it."""
    means = {}
    for organ in organs:
        found = [s.per_organ[organ]["dsc_percent"].value for s in compared if organ in s.organs]
        found = [mean for mean in found if not np.isnan(mean)]
        means[organ] = float(np.mean(found)) if found else float("inf")
    return min(means, key=lambda organ: means[organ])


def _worst_median_best(compared: Sequence[EvaluationSummary], cases: Sequence[str]) -> list[str]:
    """Up to three cases by their mean DSC over organs and experiments, the worst first. Cases without a score come last."""
    case_means = [scores.case_means() for scores in compared]
    means = {case: np.mean([found[case] for found in case_means]) for case in cases}
    by_score = sorted(cases, key=lambda case: (np.isnan(means[case]), means[case]))
    return list(dict.fromkeys([by_score[0], by_score[len(by_score) // 2], by_score[-1]]))


# Files ----------------------------------------------------------------------------------------------------------------


def _write(content: Report) -> None:
    folder = content.out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for table in content.tables:
        write_text(to_markdown(table), folder / f"{table.name}.md")
        write_text(to_latex(table), folder / f"{table.name}.tex")
    write_text(to_page(content), content.out / "report.md")


def to_page(content: Report) -> str:
    """All of the report in Markdown: remarks, tables, figures."""
    remarks = "".join(f"- {remark}\n" for remark in content.remarks) or "- none\n"
    tables = "\n".join(to_markdown(table) for table in content.tables)
    figures = "\n".join(f"### {picture.title}\n\n![{picture.title}]({picture.png})\n" for picture in content.pictures)
    names = ", ".join(experiment.name for experiment in content.experiments)
    return f"""\
# Report: {names}

{len(content.cases)} cases, {len(content.organs)} organs. Research software: not for clinical use.

## What to know

{remarks}
## Tables

{tables}
## Figures

{figures}"""
