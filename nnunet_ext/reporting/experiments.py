"""The experiments of a report: their scores, images and training curves, and the check that they can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.evaluation.score_files import read_evaluation
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import (
    channel_files,
    dataset_folder,
    find_label_maps,
    is_model,
    localizer_of,
    read_dataset_json,
)
from nnunet_ext.reporting.content import Experiment
from nnunet_ext.reporting.table_text import file_stem
from nnunet_ext.reporting.training_curves import TrainingCurve, read_training_curves

#: References of one case are other contours if their volumes differ by more than this share.
REFERENCE_TOLERANCE = 0.01


def load_experiments(
    runs: Sequence[tuple[str, Path]],
    out: Path,
    references: Path | None,
    images: Path | None,
    *,
    n_processes: int,
    show_progress: bool,
) -> list[Experiment]:
    """An experiment for each run (name and folder). Predictions and models are scored first, into `out/evaluations`.

    Args:
        runs: As for `reporting.report`.
        out: Folder of the report.
        references: Reference label maps, for folders of predictions.
        images: Folder of images to draw on. None stands for the one beside the references.
        n_processes: Processes that score cases.
        show_progress: Draw progress bars.

    Raises:
        FileNotFoundError: If a folder is no evaluation, no model, and no predictions with references.
        ValueError: If two runs would have the same file names.
    """
    stems = [file_stem(name) for name, _ in runs]
    if twice := {stem for stem in stems if stems.count(stem) > 1}:
        raise ValueError(f"two runs are called '{sorted(twice)[0]}' (in file names); give each a name: NAME=FOLDER.")
    experiments = []
    for (name, folder), stem in zip(runs, stems, strict=True):
        folder = Path(folder)
        if (folder / "evaluation.json").is_file():
            evaluation, scores = folder, read_evaluation(folder)
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
            scores = evaluate(folder, own, evaluation, n_processes=n_processes, show_progress=show_progress)
        experiments.append(Experiment(name, evaluation, scores, _images(scores, images)))
    return experiments


def _images(scores: EvaluationSummary, folder: Path | None) -> dict[str, dict[str, Path]]:
    """Case -> channel -> image, for the cases whose images are all there."""
    found = {}
    channels: dict[Path, Mapping[str, str]] = {}
    for case, (_, reference) in scores.files.items():
        images = Path(folder) if folder is not None else None
        if images is None and reference is not None:
            images = _images_beside(reference.parent)
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


def curves_of(experiments: Sequence[Experiment], models: Sequence[Path]) -> list[TrainingCurve]:
    """Curves of the models asked for, and of cross-validated models and their localizers if they have logs."""
    curves = [curve for model in models for curve in read_training_curves(Path(model))]
    known = [experiment.scores.model for experiment in experiments if experiment.scores.model is not None]
    asked = {Path(model).resolve() for model in models}
    stages = [stage for model in known if model.is_dir() for stage in (localizer_of(model), model) if stage is not None]
    for stage in dict.fromkeys(stages):
        if stage not in asked and any(stage.glob("fold_*/training_log_*.txt")):
            curves += read_training_curves(stage)
    return curves


def common_cases(experiments: Sequence[Experiment]) -> tuple[tuple[str, ...], list[Message]]:
    """Cases that every experiment has, and a remark for each experiment that has more."""
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
                Message(
                    "compared_on_common_cases",
                    {"n": len(common), "name": experiment.name, "more": len(left_out), "cases": left_out},
                )
            )
    return tuple(common), remarks


def check_comparable(experiments: Sequence[Experiment], common: Sequence[str]) -> None:
    """Refuse experiments with other tolerances or other reference contours than the first one.

    Raises:
        ValueError: If there are any. The message names the organ, and the case if its contours differ.
    """
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
