"""The figures of a report as files: plots, overlays, surfaces, and pictures of the preprocessing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from nnunet_ext.evaluation.folders import has_localizer, placed_boxes
from nnunet_ext.files import written_whole
from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.values import organ_values
from nnunet_ext.messages import Message
from nnunet_ext.pictures.case_figure import draw_case, draw_comparison, draw_crop
from nnunet_ext.pictures.pairs import draw_pairs
from nnunet_ext.pictures.resampling import Resampled, draw_resampling
from nnunet_ext.pictures.surfaces import draw_organ_surfaces, draw_surfaces
from nnunet_ext.pictures.volumes import box_around, display_window, read_case
from nnunet_ext.reporting.content import Experiment, Picture, Report, Text
from nnunet_ext.reporting.costs import NamedModel, models_of
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


def draw_figures(
    report: Report, models: Sequence[NamedModel] = (), *, with_study: bool, show_progress: bool
) -> tuple[list[Picture], list[Message]]:
    """Draw all figures into the report's folder. `models` are trained models that the user named.

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
        pairs = [_pair(report, case, experiment) for experiment in report.experiments]
        surfaces = [_surface(report, case, experiment) for experiment in report.experiments]
        crops = [_crop(report, case, experiment) for experiment in report.experiments]
        steps = _preprocessing(report, case), _resampling(report, case, models), *crops
        for drawn in (*overlays, _comparison(report, case), *pairs, *surfaces, *steps):
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


def _pair(report: Report, case: str, experiment: Experiment) -> Iterator[Picture]:
    """Reference and prediction side by side near lenses and chiasm, on the first channel."""
    prediction, reference = experiment.scores.files[case]
    if not experiment.images.get(case) or prediction is None:
        return
    channel, path = next(iter(experiment.images[case].items()))
    grid, volumes, (drawn, predicted) = read_case({channel: path}, (reference, prediction))
    assert drawn is not None  # the maps of the two files
    assert predicted is not None
    figure = draw_pairs(
        case,
        experiment.name,
        grid,
        channel,
        volumes[channel],
        drawn,
        predicted,
        labels=experiment.scores.labels,
        scores=experiment.scores.scores(case),
        pairs=experiment.scores.left_right_pairs,
    )
    stem = f"pair_{file_stem(case)}_{file_stem(experiment.name)}"
    yield _save(figure, report.out, stem, "pair", f"{case}, {experiment.name}", case=case, experiment=experiment.name)


def _surface(report: Report, case: str, experiment: Experiment) -> Iterator[Picture]:
    prediction, reference = experiment.scores.files[case]
    if prediction is None or reference is None:
        return
    grid, _, (drawn, predicted) = read_case({"reference": reference}, (reference, prediction))
    assert drawn is not None  # the maps of the two files
    assert predicted is not None
    title, scores = f"{case}, {experiment.name}", experiment.scores
    about = grid.GetSpacing()[::-1], drawn, predicted
    figures = {
        "organs": draw_organ_surfaces(
            title, *about, labels=scores.labels, scores=scores.scores(case), pairs=scores.left_right_pairs
        ),
        "surface": draw_surfaces(title, *about, labels=scores.labels),
    }
    for name, figure in figures.items():
        stem = f"{name}_{file_stem(case)}_{file_stem(experiment.name)}"
        yield _save(figure, report.out, stem, "surface", title, case=case, experiment=experiment.name)


def _crop(report: Report, case: str, experiment: Experiment) -> Iterator[Picture]:
    """The box that the segmenter saw, in all channels, if `predict` recorded it. Without a localizer it is no crop."""
    prediction, reference = experiment.scores.files[case]
    if not experiment.images.get(case) or prediction is None:
        return
    box = placed_boxes(prediction.parent).get(case) if has_localizer(prediction.parent) else None
    if box is None:
        return
    grid, volumes, (drawn,) = read_case(experiment.images[case], (reference,))
    about = box.on(grid.GetSize()[::-1], "LPS"), drawn
    scores = experiment.scores
    figure = draw_crop(case, grid, volumes, *about, labels=scores.labels, pairs=scores.left_right_pairs)
    stem = f"crop_{file_stem(case)}_{file_stem(experiment.name)}"
    title = Message("title_crop", {"case": case, "name": experiment.name})
    yield _save(figure, report.out, stem, "preprocessing", title, case=case, experiment=experiment.name)


def _resampling(report: Report, case: str, models: Sequence[NamedModel]) -> Iterator[Picture]:
    """Every channel before and after resampling to the network's grid, of the first experiment whose model is there."""
    for experiment in report.experiments:
        trained = models_of(experiment, models)
        if not trained or not experiment.images.get(case):
            continue
        from nnunet_ext.reporting.network_grid import network_grid, on_network_grid  # nnU-Net, and with it torch

        of_network = network_grid(trained[-1])
        images = {name: to_canonical(read_image(path)) for name, path in experiment.images[case].items()}
        _, volumes, (reference,) = read_case(experiment.images[case], (experiment.scores.files[case][1],))
        assert reference is not None  # of a case that was scored
        grid = next(iter(images.values()))
        box = box_around(reference, None, grid.GetSpacing()[::-1])
        figure = draw_resampling(
            case,
            {
                name: Resampled(
                    image,
                    on_network_grid(image, of_network, channel=number),
                    of_network.range_of(number) or display_window(name, volumes[name], box),
                )
                for number, (name, image) in enumerate(images.items())
            },
            grid.TransformIndexToPhysicalPoint(_shown_voxel(reference, experiment)),
        )
        title = Message("title_preprocessing", {"case": case, "step": Message("step_resampling")})
        yield _save(figure, report.out, f"resampling_{file_stem(case)}", "preprocessing", title, case=case)
        return


def _shown_voxel(reference: np.ndarray, experiment: Experiment) -> list[int]:
    """Voxel `(x, y, z)` in the smallest organ of a case, the lens of most, or the middle without organs."""
    organs = organ_values(experiment.scores.labels)
    masks = [mask for values in organs.values() if (mask := np.isin(reference, values)).any()]
    if not masks:
        return [n // 2 for n in reference.shape[::-1]]
    return [int(v) for v in np.argwhere(min(masks, key=np.count_nonzero)).mean(axis=0)[::-1]]


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
