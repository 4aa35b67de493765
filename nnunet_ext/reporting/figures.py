"""The figures of a report as files: plots, overlays, surfaces, and pictures of the preprocessing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from tqdm import tqdm

from nnunet_ext.files import written_whole
from nnunet_ext.messages import Message
from nnunet_ext.pictures.case_figure import draw_case, draw_comparison
from nnunet_ext.pictures.surfaces import draw_surfaces
from nnunet_ext.pictures.volumes import read_case
from nnunet_ext.reporting.content import Experiment, Picture, Report, Text
from nnunet_ext.reporting.plots import draw_all_organs, draw_box_plots, draw_training_curves
from nnunet_ext.reporting.reference_study import CHIASM
from nnunet_ext.reporting.table_text import file_stem

#: Folder of the figures in a report.
FOLDER = "figures"
#: Pictures that `convert` draws of a case, by the stem of their file.
PREPROCESSING_STEPS = {
    "1_couch_and_mask": Message("step_couch_and_mask"),
    "2_bias_field": Message("step_bias_field"),
    "3_window": Message("step_window"),
    "4_alignment": Message("step_alignment"),
    "5_labels": Message("step_labels"),
}


def draw_figures(report: Report, *, with_study: bool, show_progress: bool) -> tuple[list[Picture], list[Message]]:
    """Draw all figures into the report's folder.

    Returns:
        The pictures, and remarks on those that could not be drawn.
    """
    pictures, remarks = [], []
    compared = {e.name: e.scores.only(report.cases) for e in report.experiments}
    n_cases = len(report.cases)
    chiasm = [CHIASM] if with_study and CHIASM in report.organs else []
    for organ in dict.fromkeys([*chiasm, report.box_organ]):
        figure = draw_box_plots(compared, organ, with_study=with_study)
        title = Message("title_box_plots", {"organ": organ, "n": n_cases})
        pictures.append(_save(figure, report.out, f"box_{file_stem(organ)}", "box", title))
    figure = draw_all_organs(compared, report.organs)
    title = Message("title_box_plots_by_organ", {"n": n_cases})
    pictures.append(_save(figure, report.out, "box_all_organs", "box", title))
    if report.curves:
        figure = draw_training_curves(report.curves)
        pictures.append(_save(figure, report.out, "training_curves", "curves", Message("title_training_curves")))
    for case in tqdm(report.shown_cases, desc="Drawing", unit="case", disable=not show_progress):
        # One by one: a damaged prediction of one experiment must not cost the others their pictures.
        overlays = [_overlay(report, case, experiment) for experiment in report.experiments]
        surfaces = [_surface(report, case, experiment) for experiment in report.experiments]
        for drawn in (*overlays, _comparison(report, case), *surfaces, _preprocessing(report, case)):
            try:
                pictures += drawn
            except (OSError, RuntimeError, ValueError) as error:  # SimpleITK raises RuntimeError
                remarks.append(Message("case_not_drawn", {"case": case, "error": " ".join(str(error).split())}))
    return pictures, list(dict.fromkeys(remarks))


def _overlay(report: Report, case: str, experiment: Experiment) -> Iterator[Picture]:
    """All channels with the prediction of one experiment."""
    if not experiment.images.get(case):
        return
    prediction, reference = experiment.scores.files[case]
    grid, volumes, maps = read_case(experiment.images[case], (reference, prediction))
    figure = draw_case(
        case,
        grid,
        volumes,
        *maps,
        labels=experiment.scores.labels,
        scores=experiment.scores.scores(case),
        pairs=experiment.scores.left_right_pairs,
    )
    stem = f"overlay_{file_stem(case)}_{file_stem(experiment.name)}"
    title = f"{case}, {experiment.name}"
    yield _save(figure, report.out, stem, "overlay", title, case=case, experiment=experiment.name)


def _comparison(report: Report, case: str) -> Iterator[Picture]:
    """The first channel with all experiments side by side."""
    with_images = [e for e in report.experiments if e.images.get(case)]
    if len(with_images) < 2:
        return
    first = with_images[0]
    channel, path = next(iter(first.images[case].items()))
    maps = [first.scores.files[case][1], *(e.scores.files[case][0] for e in report.experiments)]
    grid, volumes, (reference, *predictions) = read_case({channel: path}, maps)
    assert reference is not None  # compared are cases with a reference
    figure = draw_comparison(
        case,
        grid,
        channel,
        volumes[channel],
        reference,
        dict(zip((e.name for e in report.experiments), predictions, strict=True)),
        labels=first.scores.labels,
        scores={e.name: e.scores.scores(case) for e in report.experiments},
        pairs=first.scores.left_right_pairs,
    )
    title = Message("title_all_experiments", {"case": case})
    yield _save(figure, report.out, f"overlay_{file_stem(case)}", "overlay", title, case=case)


def _surface(report: Report, case: str, experiment: Experiment) -> Iterator[Picture]:
    prediction, reference = experiment.scores.files[case]
    if prediction is None or reference is None:
        return
    grid, _, (drawn, predicted) = read_case({"reference": reference}, (reference, prediction))
    assert drawn is not None  # the maps of the two files
    assert predicted is not None
    title = f"{case}, {experiment.name}"
    figure = draw_surfaces(title, grid.GetSpacing()[::-1], drawn, predicted, labels=experiment.scores.labels)
    stem = f"surface_{file_stem(case)}_{file_stem(experiment.name)}"
    yield _save(figure, report.out, stem, "surface", title, case=case, experiment=experiment.name)


def _preprocessing(report: Report, case: str) -> Iterator[Picture]:
    """Copies of the pictures that `convert` drew of the case, if they lie beside its images."""
    for folder in _preview_folders(report.experiments, case):
        for source in sorted(folder.glob("*.png")):
            stem = f"preprocessing_{file_stem(case)}_{source.stem}"
            target = report.out / FOLDER / f"{stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(target) as temporary:
                shutil.copyfile(source, temporary)
            step = PREPROCESSING_STEPS.get(source.stem) or source.stem.partition("_")[2].replace("_", " ")
            title = Message("title_preprocessing", {"case": case, "step": step})
            yield Picture(stem, "preprocessing", title, f"{FOLDER}/{stem}.png", case=case)
        return


def _preview_folders(experiments: Sequence[Experiment], case: str) -> Iterator[Path]:
    for experiment in experiments:
        for path in experiment.images.get(case, {}).values():
            folder = path.parent.parent / "preview" / case
            if folder.is_dir():
                yield folder


def _save(
    figure: Figure,
    out: Path,
    stem: str,
    kind: str,
    title: Text,
    *,
    case: str | None = None,
    experiment: str | None = None,
) -> Picture:
    """Write PNG and SVG, each complete or not at all."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        # Without a date and with fixed ids the same scores give the same file.
        metadata = {"Date": None} if ending == "svg" else None
        with (
            written_whole(folder / f"{stem}.{ending}", ending=f".{ending}") as temporary,
            matplotlib.rc_context({"svg.hashsalt": stem}),
        ):
            figure.savefig(temporary, facecolor=figure.get_facecolor(), metadata=metadata)
    return Picture(stem, kind, title, f"{FOLDER}/{stem}.png", f"{FOLDER}/{stem}.svg", case, experiment)
