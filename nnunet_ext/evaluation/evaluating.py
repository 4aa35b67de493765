"""Predictions against references: from two folders of label maps, or a trained model, to a score per case and organ.

What counts, for each case that has a reference:

- every organ gets the metrics of `nnunet_ext.evaluation.metrics`, whose module text says what an empty mask is worth;
- a FAILED case (no prediction, a damaged or unreadable file, another grid, an unknown label) is named and scores as if
  every organ of its reference were missed: DSC 0, HD95 = image diagonal, surface dice 0. What is left of a damaged
  prediction is never scored, and a lost case must not improve the mean. Only a reference that cannot be read stays out of
  the means: nobody knows which organs it holds;
- an organ that the model does not segment, because its crop is too small for it, has no score in any case: `left_out_organs`
  of the `dataset.json` beside the predictions names them.

Means, tables and files are made in `nnunet_ext.evaluation.summary`.

Label maps are read by `image_io`, as `convert` reads them. Those of one case are compared voxel by voxel, so their grids
are compared first (`geometry.grid_tolerance_mm`). A prediction on the reference's grid with other axis order or flips
(another writer's orientation) is reoriented. Any other difference fails the case. Whatever lies in the two folders and is
not compared is named.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from tqdm import tqdm

from nnunet_ext.cascade import roi
from nnunet_ext.evaluation.cross_validation import read_cross_validation, reference_folder
from nnunet_ext.evaluation.metrics import METRICS, image_diagonal_mm, presence, score_organ, tolerance_mm_of
from nnunet_ext.evaluation.summary import EvaluationSummary, write_evaluation
from nnunet_ext.files import check_output_folder, in_one_line
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.images.geometry import back_to_grid, grid_difference, orientation_code
from nnunet_ext.images.reading import ENDINGS, image_files, image_stem, label_map_of, read_image, shown_values
from nnunet_ext.labels.table import dataset_pairs
from nnunet_ext.labels.values import organ_values, values_of
from nnunet_ext.nnunet_folders import (
    dataset_json_of,
    find_label_maps,
    is_model,
    labels_from_dataset_json,
    organs_not_segmented,
    read_predictions_json,
)
from nnunet_ext.processes import KILLED, run_in_processes

logger = logging.getLogger(__name__)

#: What nnU-Net and this package write beside label maps.
COMPANIONS = (".json", ".npz", ".pkl")

KILLED_REASON = (
    "a scoring process ended (out of memory? a script without `if __name__ == '__main__'`?); use n_processes=1"
)


@holding(owned_folder, "out")
def evaluate(
    predictions: Path,
    references: Path | None,
    out: Path,
    *,
    localizer: Path | None = None,
    labels: Mapping[str, int] | None = None,
    tolerance_mm: float | Mapping[str, float] | None = None,
    n_processes: int = 2,
    show_progress: bool = True,
) -> EvaluationSummary:
    """Score every prediction that has a reference; write `evaluation.csv`, `evaluation.json` and `evaluation.md`.

    Args:
        predictions: Folder with one label map per case; the file name without its ending is the case. Or a trained model
            (`.../CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres`): its cross-validation is scored, the cases of the
            folds that have been validated.
        references: Folder with the reference label maps, same names; the file ending may differ. None for a trained model:
            `labelsTr` of its dataset in `$nnUNet_raw`, else `gt_segmentations` in `$nnUNet_preprocessed`.
        out: Folder for the three files; made if missing. Each replaces an old one only when it is complete.
        localizer: Label maps of the localizer for the same cases, or its trained model, to compare with; scored into
            `out/localizer`. None, for a trained model: that of the stage before, if it is there.
        labels: Organ -> label value, or a list of values for a region. Default: `labels` of the `dataset.json` in
            `predictions`, `references` or the folder above `references`. `background` is skipped; voxels that the
            reference marks `ignore` count as background in both.
        tolerance_mm: Tolerance of the surface dice, for all organs or by organ; for organs not named,
            `metrics.tolerance_mm_of`.
        n_processes: Processes that read and score cases; 1 stays in this process.
        show_progress: Draw a progress bar.

    Returns:
        The scores. Cases that failed are in `.failed` with their reason, the others are scored all the same.

    Raises:
        FileNotFoundError: If a folder does not exist, there is no reference, no prediction is of a case that has one, or no
            `dataset.json` names the labels.
        ValueError: If two files of a folder are the same case, a label or tolerance is unusable.
    """
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}; give 1 or more.")
    check_output_folder(out)
    folders = _find(Path(predictions), references)
    labels = dict(labels) if labels is not None else labels_from_dataset_json(folders.dataset, folders.references)
    options = {"labels": labels, "tolerance_mm": tolerance_mm, "n_processes": n_processes}
    options["show_progress"] = show_progress
    summary = _score(folders, title="Scoring", **options)
    localizer = localizer or folders.localizer
    if localizer is not None:
        try:
            before = _find(Path(localizer), folders.references)
        except FileNotFoundError as error:
            if folders.localizer is None:  # asked for
                raise
            logger.warning("Not compared with the localizer: %s", error)
        else:
            cases = folders.reference_of.keys() & before.reference_of.keys()
            before = replace(before, reference_of={case: before.reference_of[case] for case in cases})
            summary = replace(summary, localizer=_score(before, title="Scoring the localizer", **options))
    write_evaluation(summary, Path(out))
    return summary


@dataclass(frozen=True)
class _Box:
    """What the segmenter saw of a case: voxels along `(Z, Y, X)` of its grid with the axes running to `axes` (x, y, z)."""

    voxels: roi.Box
    axes: str


@dataclass(frozen=True)
class _Folders:
    """What is to be scored: case -> prediction, case -> reference, and what is known about the predictions."""

    dataset: Path  # where a dataset.json may lie beside the predictions
    references: Path
    prediction_of: Mapping[str, Path]
    reference_of: Mapping[str, Path]
    boxes: Mapping[str, _Box] = field(default_factory=dict)
    pass_rates: Mapping[str, float] = field(default_factory=dict)
    model: Path | None = None
    folds: tuple[str, ...] = ()
    localizer: Path | None = None
    others: tuple[str, ...] = ()  # in the two folders, and no label map


def _find(predictions: Path, references: Path | None) -> _Folders:
    """Files of both folders; for a trained model those of its validated folds, and its references where none are named."""
    if is_model(predictions):
        references = reference_folder(predictions) if references is None else Path(references)
        found = read_cross_validation(predictions)
        reference_of = _references(references)
        if missing := sorted(set(found.cases) - set(reference_of)):
            raise FileNotFoundError(
                f"No reference for {len(missing)} of the {len(found.cases)} validated cases, e.g. '{missing[0]}', in "
                f"{references}. Is it the dataset this model was trained on?"
            )
        validated = {fold: find_label_maps(folder) for fold, folder in found.validation_folders.items()}
        return _Folders(
            predictions,
            references,
            {case: validated[fold][case] for case, fold in found.cases.items() if case in validated[fold]},
            {case: reference_of[case] for case in found.cases},
            pass_rates=found.pass_rates,
            model=found.model,
            folds=found.folds,
            localizer=found.localizer,
        )
    prediction_of = find_label_maps(predictions)
    if references is None:
        raise FileNotFoundError(
            f"{predictions} is no trained model (plans.json, fold_*), so name the folder of the references too."
        )
    references = Path(references)
    reference_of = _references(references)
    others = (*_others(predictions, prediction_of), *_others(references, reference_of))
    return _Folders(predictions, references, prediction_of, reference_of, _boxes(predictions), others=others)


def _references(folder: Path) -> dict[str, Path]:
    found = find_label_maps(folder)
    if not found:
        raise FileNotFoundError(f"No label map ({', '.join(ENDINGS)}) in the references folder {folder}.")
    return found


def _others(folder: Path, label_maps: Mapping[str, Path]) -> list[str]:
    """Files and folders beside label maps that are no part of one and that nnU-Net and this package do not write there."""
    parts = set()
    for path in label_maps.values():
        with suppress(OSError, ValueError):  # said when the label map is read
            parts.update(image_files(path))
    found = [path for path in sorted(folder.iterdir()) if path not in parts and not path.name.startswith(".")]
    return [
        f"{folder.name}/{path.name}{' (a folder)' if path.is_dir() else ''}"
        for path in found
        if path.is_dir() or (image_stem(path) is None and not path.name.lower().endswith(COMPANIONS))
    ]


def _score(
    folders: _Folders,
    *,
    labels: Mapping[str, int],
    tolerance_mm: float | Mapping[str, float] | None,
    n_processes: int,
    show_progress: bool,
    title: str,
) -> EvaluationSummary:
    organs = organ_values(labels)
    tolerances_mm = _tolerances(organs, tolerance_mm)
    not_segmented = organs_not_segmented(folders.dataset, organs)
    if folders.model is None and not folders.prediction_of.keys() & folders.reference_of.keys():
        raise FileNotFoundError(
            f"None of the {len(folders.prediction_of)} predictions in {folders.dataset} has a reference in "
            f"{folders.references}: {_first(folders.prediction_of)} there, {_first(folders.reference_of)} here. A case has "
            "the same name in both folders, up to the file ending."
        )
    jobs = [
        _Job(
            case,
            folders.prediction_of.get(case),
            reference,
            organs,
            values_of(labels.get("ignore", ())),
            tolerances_mm,
            folders.boxes.get(case),
            not_segmented,
        )
        for case, reference in sorted(folders.reference_of.items())
    ]
    results = dict(tqdm(_run(jobs, n_processes), total=len(jobs), desc=title, disable=not show_progress))
    rows = [row for job in jobs for row in results[job.case].rows]
    for row in rows:
        if row["organ"] in not_segmented:
            row.update(dict.fromkeys(METRICS, float("nan")), flag="not_segmented")
    ignored = tuple(sorted(set(folders.prediction_of) - set(folders.reference_of)))
    if ignored and folders.model is None:
        logger.warning("No reference for %d prediction(s), ignored: %s", len(ignored), ", ".join(ignored))
    names = dataset_json_of(folders.dataset).get("channel_names", {})
    measured = {case: result.pass_rate for case, result in results.items() if result.pass_rate is not None}
    rates = {case: rate for case, rate in {**measured, **folders.pass_rates}.items() if case in results}
    return EvaluationSummary(
        labels=dict(labels),
        tolerance_mm=tolerances_mm,
        rows=rows,
        files={job.case: (_absolute(job.prediction), _absolute(job.reference)) for job in jobs},
        failed={job.case: results[job.case].failed for job in jobs if results[job.case].failed},
        ignored=() if folders.model else ignored,
        not_compared=folders.others,
        not_segmented=not_segmented,
        pass_rates=dict(sorted(rates.items())),
        channels=tuple(name for _, name in sorted(names.items(), key=lambda item: int(item[0]))),
        model=folders.model,
        folds=folders.folds,
        left_right_pairs=_pairs(folders, labels),
    )


def _first(files: Mapping[str, Path]) -> str:
    return f"{min(path.name for path in files.values())}{', ...' * (len(files) > 1)}" if files else "no label map"


def _pairs(folders: _Folders, labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """Left and right among the labels: as the `dataset.json` beside predictions or references states, else by name."""
    places = (folders.dataset, folders.references, folders.references.parent)
    stated = next((content for place in places if (content := dataset_json_of(place))), {})
    pairs = dataset_pairs({"labels": labels, **stated}, where=f"dataset.json of {folders.dataset.name}")
    return [pair for pair in pairs if set(pair) <= set(labels)]


def on_grid_of(prediction: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """The prediction with axes ordered and flipped as the reference's; the voxels themselves stay what they are.

    Raises:
        ValueError: If the two grids are not the same voxels; the message names the difference.
    """
    try:
        return back_to_grid(prediction, reference)
    except ValueError as error:
        difference = grid_difference(sitk.DICOMOrient(prediction, orientation_code(reference)), reference)
        raise ValueError(f"prediction and reference lie on different grids: {difference}") from error


# One case -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One case, and all that a process needs to score it."""

    case: str
    prediction: Path | None
    reference: Path
    organs: Mapping[str, tuple[int, ...]]
    ignore: tuple[int, ...]
    tolerances_mm: Mapping[str, float]
    box: _Box | None
    not_segmented: tuple[str, ...]


@dataclass(frozen=True)
class _Result:
    rows: list[dict]
    failed: str = ""
    pass_rate: float | None = None


def _run(jobs: list[_Job], n_processes: int) -> Iterator[tuple[str, _Result]]:
    """Yield case and result in the order the cases finish."""
    n_processes = min(n_processes, len(jobs))
    if n_processes == 1:
        for job in jobs:
            yield job.case, _score_or_fail(job)
        return
    for job, result in run_in_processes(_score_or_fail, jobs, n_processes):
        yield job.case, _failed_case(job, KILLED_REASON) if result is KILLED else result


def _score_or_fail(job: _Job) -> _Result:
    try:
        return _score_case(job)
    except Exception as error:
        return _failed_case(job, in_one_line(error))


def _score_case(job: _Job) -> _Result:
    """Rows of one case, or of a failed one with the reason."""
    try:
        if job.prediction is None:
            raise FileNotFoundError("no prediction")
        known = {value for values in job.organs.values() for value in values} | set(job.ignore)
        reference_image = _read_labels(job.reference, known, "reference")
        prediction_image = on_grid_of(_read_labels(job.prediction, known, "prediction"), reference_image)
        reference, prediction = (sitk.GetArrayFromImage(image) for image in (reference_image, prediction_image))
        reference_boxes, prediction_boxes = _label_boxes(reference), _label_boxes(prediction)
    except Exception as error:  # one case must not stop the others
        return _failed_case(job, in_one_line(error))

    if any(value in reference_boxes for value in job.ignore):
        ignored = np.isin(reference, job.ignore)
        reference, prediction = np.where(ignored, 0, reference), np.where(ignored, 0, prediction)
    spacing_mm = reference_image.GetSpacing()[::-1]
    worst_mm = image_diagonal_mm(reference.shape, spacing_mm)
    rows = []
    for organ, values in job.organs.items():
        box = _union([boxes[v] for boxes in (reference_boxes, prediction_boxes) for v in values if v in boxes])
        masks = _mask(reference[box], values), _mask(prediction[box], values)
        tolerance_mm = job.tolerances_mm[organ]
        scores = score_organ(*masks, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm, worst_mm=worst_mm)
        flag = presence(*masks)
        rows.append(_row(job, organ, scores, "" if flag == "scored" else flag))
    return _Result(rows, pass_rate=_pass_rate(job, reference_image))


def _failed_case(job: _Job, reason: str) -> _Result:
    """Rows of a case that could not be scored: every organ of its reference counts as missed."""
    nan = float("nan")
    try:
        image, _ = label_map_of(read_image(job.reference))  # of a value that is no label nobody knows what it means
        reference = sitk.GetArrayViewFromImage(image)
        spacing_mm = image.GetSpacing()[::-1]
        masks = {organ: _mask(reference, values) for organ, values in job.organs.items()}
        scores = {organ: score_organ(mask, np.zeros_like(mask), spacing_mm=spacing_mm) for organ, mask in masks.items()}
    except Exception:  # unreadable reference, as `failed` says: no organ to count as missed
        scores = {organ: dict.fromkeys(METRICS, nan) for organ in job.organs}
    unknown = {"prediction_ml": nan, "volume_difference_ml": nan, "volume_difference_percent": nan}
    return _Result([_row(job, organ, scores[organ] | unknown, "failed") for organ in job.organs], failed=reason)


def _pass_rate(job: _Job, reference: sitk.Image) -> float | None:
    """Share of the reference's organ voxels in the box that `predictions.json` names, organs the model leaves out aside."""
    if job.box is None:
        return None
    left_out = [value for organ in job.not_segmented for value in job.organs[organ]]
    label_map = sitk.GetArrayFromImage(sitk.DICOMOrient(reference, job.box.axes))
    if any(upper > size for (_, upper), size in zip(job.box.voxels, label_map.shape, strict=True)):
        return None  # a box on another grid: the record belongs to other images
    rate = roi.label_crop_pass_rate(
        np.where(np.isin(label_map, [*left_out, *job.ignore]), 0, label_map), job.box.voxels
    )
    return None if np.isnan(rate) else rate


def _row(job: _Job, organ: str, scores: Mapping[str, float], flag: str) -> dict:
    return {"case": job.case, "organ": organ, **scores, "tolerance_mm": job.tolerances_mm[organ], "flag": flag}


def _read_labels(path: Path, known: Collection[int], role: str) -> sitk.Image:
    """Label map with whole numbers.

    Raises:
        OSError, ValueError: If it cannot be read, or a voxel holds a value that is neither 0 nor in `known`. The message
            begins with the role, because prediction and reference have one name.
    """
    try:
        image, odd = label_map_of(read_image(path))
    except (OSError, ValueError) as error:
        raise type(error)(f"{role} {error}") from error
    array = sitk.GetArrayViewFromImage(image)
    # The boxes need a place for every value up to the largest: not where one has ten digits.
    in_range = array.min() >= 0 and array.max() <= max(known, default=0)
    present = _label_boxes(array) if in_range else np.unique(array).tolist()
    if unknown := [*odd, *(value for value in present if value and value not in known)]:
        raise ValueError(
            f"{role} {path.name} holds label {shown_values(unknown)}, which is not in the mapping {sorted(known)}"
        )
    return image


def _label_boxes(array: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """Label value -> bounding box for every label present. One pass for all labels."""
    return {value: box for value, box in enumerate(ndimage.find_objects(array), start=1) if box is not None}


def _mask(array: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    return array == values[0] if len(values) == 1 else np.isin(array, values)


def _union(boxes: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    if not boxes:
        return (slice(0, 1),) * 3  # neither mask holds the organ: any voxel shows that
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


# Settings -------------------------------------------------------------------------------------------------------------


def _tolerances(
    organs: Mapping[str, tuple[int, ...]], tolerance_mm: float | Mapping[str, float] | None
) -> dict[str, float]:
    given = tolerance_mm if isinstance(tolerance_mm, Mapping) else {}
    if unknown := [organ for organ in given if organ not in organs]:
        raise ValueError(f"tolerance_mm names {', '.join(unknown)}; the organs are {', '.join(organs)}.")
    if tolerance_mm is not None and not isinstance(tolerance_mm, Mapping):
        given = dict.fromkeys(organs, tolerance_mm)
    tolerances_mm = {organ: float(given.get(organ, tolerance_mm_of(organ))) for organ in organs}
    for organ, tolerance in tolerances_mm.items():
        if not 0 <= tolerance < np.inf:
            raise ValueError(f"tolerance_mm of '{organ}' is {tolerance:g}; give a distance of 0 mm or more.")
    return tolerances_mm


def _boxes(predictions: Path) -> dict[str, _Box]:
    """Case -> box of the segmenter, from the `predictions.json` that `nnunet_ext predict` writes beside label maps."""
    path = predictions / "predictions.json"
    if not os.path.lexists(path):
        return {}
    cases = read_predictions_json(path)["cases"]
    dataset = dataset_json_of(predictions)
    reader = dataset.get("overwrite_image_reader_writer", "None")
    # The planner's choice: nnU-Net's reorienting reader for NIfTI; other readers get images whose axes are in LPS order.
    reorients = reader == "NibabelIOWithReorient" or (
        reader == "None" and dataset.get("file_ending", "").startswith(".nii")
    )
    axes = "RAS" if reorients else "LPS"
    return {case: _Box(tuple(map(tuple, record["box"])), axes) for case, record in cases.items() if record.get("box")}


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else Path(path).resolve()
