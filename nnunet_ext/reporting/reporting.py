"""Compare any number of experiments as the reference study does: tables, tests, box plots, overlays, 3D, training curves.

Scores are compared on the cases that all experiments have. The first experiment is the one the others are tested against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.evaluation.summary import EvaluationSummary, read_evaluation
from nnunet_ext.files import check_folder, check_output_folder, write_text
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.nnunet_folders import (
    channel_files,
    dataset_folder,
    find_label_maps,
    is_model,
    localizer_of,
    read_dataset_json,
)
from nnunet_ext.reporting.content import Cell, Experiment, Picture, Report, Table
from nnunet_ext.reporting.tables import file_stem, make_tables, to_latex, to_markdown
from nnunet_ext.reporting.training_curves import TrainingCurve, read_training_curves

__all__ = ["Cell", "Experiment", "Picture", "Report", "Table", "TrainingCurve", "report"]

#: References of one case whose volumes differ by more than this share are not the same contours.
REFERENCE_TOLERANCE = 0.01


@holding(owned_folder, "out")
def report(
    runs: Sequence[tuple[str, Path]],
    out: Path,
    *,
    references: Path | None = None,
    images: Path | None = None,
    models: Sequence[Path] = (),
    box_organ: str | None = None,
    cases: Sequence[str] | None = None,
    reference_study: bool = False,
    viewer_limit_mb: float | None = None,
    n_processes: int = 2,
    show_progress: bool = True,
) -> Report:
    """Write `report.html`, `report.md`, `tables/*.md` and `.tex`, `figures/*.png` and `.svg`.

    Args:
        runs: Name and folder of each experiment: an evaluation (`nnunet_ext evaluate -o`), or predictions with
            `references`, or a trained model; the last two are evaluated first, into `out/evaluations/NAME`.
        out: Folder for the report; made if missing. Files of an earlier report are replaced.
        references: Reference label maps, for runs that are folders of predictions.
        images: nnU-Net's `imagesTr` or `imagesTs` to draw on. None: the one beside the references (`labelsTs` ->
            `imagesTs`, `labelsTr` and `gt_segmentations` -> `imagesTr`).
        models: Trained models whose training curves to draw, besides those of cross-validations and their localizers.
        box_organ: Organ of the box plots. None: the one with the lowest mean DSC over all experiments.
        cases: Cases with overlays and surfaces. None: the worst, the median and the best by mean DSC.
        reference_study: Show the study's published values beside the experiments.
        viewer_limit_mb: Size of the cases' images in `report.html`; see `report_page.write_report_page`.
        n_processes: Processes that score cases.
        show_progress: Draw progress bars.

    Raises:
        FileNotFoundError: If a run is not what a run can be.
        ValueError: If names or cases are not unique or unknown, or the experiments can't be compared: no common case, other
            tolerances, other references.
    """
    out = check_output_folder(out)
    for folder, called in ((references, "references folder"), (images, "images folder")):
        if folder is not None:
            check_folder(folder, called)
    for model in models:
        read_training_curves(Path(model))  # before hours of scoring
    experiments = _load(runs, out, references, images, n_processes=n_processes, show_progress=show_progress)
    common, remarks = _common_cases(experiments)
    compared = [experiment.scores.only(common) for experiment in experiments]
    _check_comparable(experiments, common)
    organs = tuple(dict.fromkeys(organ for scores in compared for organ in scores.organs))
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
        curves=tuple(_curves(experiments, models)),
    )
    tables, more = make_tables(experiments, common, organs, box_organ=box_organ, with_study=reference_study)
    remarks += more
    # matplotlib takes a second to import: only here, where it is needed.
    from nnunet_ext.reporting.figures import draw_figures
    from nnunet_ext.reporting.page import VIEWER_LIMIT_MB, write_report_page

    pictures, more = draw_figures(content, with_study=reference_study, show_progress=show_progress)
    remarks += more
    without = [e.name for e in experiments if not any(e.images.get(case) for case in content.shown_cases)]
    if without:
        remarks.append(
            f"No overlays of {', '.join(without)}: no images were found beside the references; name their folder."
        )
    content = replace(content, tables=tuple(tables), pictures=tuple(pictures), remarks=tuple(remarks))
    _write(content)
    limit_mb = VIEWER_LIMIT_MB if viewer_limit_mb is None else viewer_limit_mb
    write_report_page(content, out / "report.html", viewer_limit_mb=limit_mb, show_progress=show_progress)
    return content


# What a run is --------------------------------------------------------------------------------------------------------


def _load(
    runs: Sequence[tuple[str, Path]],
    out: Path,
    references: Path | None,
    images: Path | None,
    *,
    n_processes: int,
    show_progress: bool,
) -> list[Experiment]:
    stems = [file_stem(name) for name, _ in runs]
    if twice := {stem for stem in stems if stems.count(stem) > 1}:
        raise ValueError(f"two runs are called '{sorted(twice)[0]}' (in file names); give each a name: NAME=FOLDER.")
    experiments = []
    for (name, folder), stem in zip(runs, stems, strict=True):
        folder = Path(folder)
        if (folder / "evaluation.json").is_file():
            evaluation = folder
        else:
            if not folder.is_dir():
                there = "it is a file" if folder.exists() else "it does not exist"
                raise FileNotFoundError(f"run '{name}': {folder} is not a folder: {there}. Name runs as NAME=FOLDER.")
            if not is_model(folder) and not find_label_maps(folder):
                raise FileNotFoundError(
                    f"run '{name}': {folder} is neither an evaluation (evaluation.json), nor a trained model (plans.json, "
                    "fold_*), nor a folder of label maps."
                )
            if not is_model(folder) and references is None:
                raise FileNotFoundError(
                    f"run '{name}': {folder} holds predictions; name the folder of their references (--references), or "
                    "evaluate them first and name the evaluation."
                )
            evaluation = out / "evaluations" / stem
            own = None if is_model(folder) else references
            evaluate(folder, own, evaluation, n_processes=n_processes, show_progress=show_progress)
        scores = read_evaluation(evaluation)
        experiments.append(Experiment(name, evaluation, scores, _images(scores, images)))
    return experiments


def _images(scores: EvaluationSummary, folder: Path | None) -> dict[str, dict[str, Path]]:
    """Case -> channel -> image, for the cases whose images are all there."""
    found = {}
    channels: dict[Path, Mapping[str, str]] = {}
    for case, (_, reference) in scores.files.items():
        images = Path(folder) if folder is not None else _images_beside(reference.parent)
        if images is None:
            continue
        if images not in channels:
            channels[images] = _channel_names(images, scores)
        try:
            found[case] = channel_files(images, case, channels[images])
        except FileNotFoundError:
            continue
    return found


def _images_beside(references: Path) -> Path | None:
    """nnU-Net's folder of the images that belong to a folder of references."""
    if references.name == "gt_segmentations":
        raw = dataset_folder("nnUNet_raw", references.parent.name)
        return raw and raw / "imagesTr"
    return references.with_name(references.name.replace("labels", "images")) if "labels" in references.name else None


def _channel_names(images: Path, scores: EvaluationSummary) -> Mapping[str, str]:
    path = images.parent / "dataset.json"
    names = read_dataset_json(path).get("channel_names") if path.is_file() else None
    return names or {str(number): name for number, name in enumerate(scores.channels or ("CT",))}


def _curves(experiments: Sequence[Experiment], models: Sequence[Path]) -> list[TrainingCurve]:
    """Curves of the models asked for, and of those of cross-validations with their localizers where their logs are there."""
    curves = [curve for model in models for curve in read_training_curves(Path(model))]
    known = [experiment.scores.model for experiment in experiments if experiment.scores.model is not None]
    asked = {Path(model).resolve() for model in models}
    stages = [stage for model in known if model.is_dir() for stage in (localizer_of(model), model) if stage is not None]
    for stage in dict.fromkeys(stages):
        if stage not in asked and any(stage.glob("fold_*/training_log_*.txt")):
            curves += read_training_curves(stage)
    return curves


# What can be compared -------------------------------------------------------------------------------------------------


def _common_cases(experiments: Sequence[Experiment]) -> tuple[tuple[str, ...], list[str]]:
    """Cases that every experiment has, and what was left out, in words."""
    common = [c for c in experiments[0].scores.cases if all(c in e.scores.cases for e in experiments)]
    if not common:
        raise ValueError(
            "the experiments have no case in common: "
            + "; ".join(f"{e.name}: {', '.join(e.scores.cases[:3])}, ..." for e in experiments)
        )
    remarks = []
    for experiment in experiments:
        if left_out := [case for case in experiment.scores.cases if case not in common]:
            remarks.append(
                f"Compared on the {len(common)} cases that all experiments have; {experiment.name} has {len(left_out)} "
                f"more: {', '.join(left_out)}."
            )
    return tuple(common), remarks


def _check_comparable(experiments: Sequence[Experiment], common: Sequence[str]) -> None:
    first = experiments[0]
    for other in experiments[1:]:
        for organ in set(first.scores.organs) & set(other.scores.organs):
            tolerances_mm = first.scores.tolerance_mm[organ], other.scores.tolerance_mm[organ]
            if tolerances_mm[0] != tolerances_mm[1]:
                raise ValueError(
                    f"the surface dice of {organ} has a tolerance of {tolerances_mm[0]:g} mm in {first.name} and "
                    f"{tolerances_mm[1]:g} mm in {other.name}. Evaluate both with the same --tolerance-mm."
                )
            volumes_ml = [e.scores.values(organ, "reference_ml") for e in (first, other)]
            for case in common:
                a, b = (volumes[case] for volumes in volumes_ml)
                if abs(a - b) > REFERENCE_TOLERANCE * max(a, b):
                    raise ValueError(
                        f"case '{case}': the reference of {organ} has {a:.3f} mL in {first.name} and {b:.3f} mL in "
                        f"{other.name}, so these are not the same contours. Evaluate both against the same references."
                    )


def _hardest(compared: Sequence[EvaluationSummary], organs: Sequence[str]) -> str:
    """The organ with the lowest DSC, mean over the experiments that segment it."""
    means = {}
    for organ in organs:
        found = [s.per_organ[organ]["dsc_percent"]["mean"] for s in compared if organ in s.organs]
        found = [mean for mean in found if not np.isnan(mean)]
        means[organ] = float(np.mean(found)) if found else float("inf")
    return min(means, key=means.get)


def _worst_median_best(compared: Sequence[EvaluationSummary], cases: Sequence[str]) -> list[str]:
    """Up to three cases by their mean DSC over organs and experiments, the worst first; cases without a score last."""
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
