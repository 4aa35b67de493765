"""The scores of one case."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cascade import roi
from nnunet_ext.evaluation.folders import PlacedBox
from nnunet_ext.evaluation.metrics import METRICS, image_diagonal_mm, presence, score_organ
from nnunet_ext.evaluation.statistics import Flag, Score
from nnunet_ext.files import in_one_line
from nnunet_ext.images.geometry import back_to_grid, grid_difference, orientation_code
from nnunet_ext.images.label_maps import label_map_of, shown_values
from nnunet_ext.images.reading import read_image
from nnunet_ext.processes import KILLED, run_in_processes

if TYPE_CHECKING:
    from nnunet_ext.postprocessing.choice import Postprocessing

KILLED_REASON = (
    "a scoring process ended (out of memory? a script without `if __name__ == '__main__'`?); use n_processes=1"
)


def on_grid_of(prediction: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """The prediction with axes ordered and flipped as the reference's. No voxel changes its value.

    Raises:
        ValueError: If the two grids are not the same voxels. The message names the difference.
    """
    try:
        return back_to_grid(prediction, reference)
    except ValueError as error:
        difference = grid_difference(sitk.DICOMOrient(prediction, orientation_code(reference)), reference)
        raise ValueError(f"prediction and reference lie on different grids: {difference}") from error


@dataclass(frozen=True)
class Job:
    """One case, and all that a process needs to score it."""

    case: str
    prediction: Path | None
    reference: Path
    organs: Mapping[str, tuple[int, ...]]
    ignore: tuple[int, ...]
    tolerances_mm: Mapping[str, float]
    box: PlacedBox | None
    not_segmented: tuple[str, ...]
    postprocessing: Postprocessing | None = None


@dataclass(frozen=True)
class Result:
    rows: list[Score]
    failed: str = ""
    pass_rate: float | None = None


def run_job(jobs: list[Job], n_processes: int) -> Iterator[tuple[str, Result]]:
    """Yield case and result in the order the cases finish."""
    n_processes = min(n_processes, len(jobs))
    if n_processes == 1:
        for job in jobs:
            yield job.case, _score_or_fail(job)
        return
    for job, result in run_in_processes(_score_or_fail, jobs, n_processes):
        yield job.case, failed_case(job, KILLED_REASON) if result is KILLED else result


def _score_or_fail(job: Job) -> Result:
    try:
        return _score_case(job)
    except Exception as error:
        return failed_case(job, in_one_line(error))


def _score_case(job: Job) -> Result:
    """Rows of one case, or of a failed one with the reason."""
    try:
        if job.prediction is None:
            raise FileNotFoundError("no prediction")
        known = {value for values in job.organs.values() for value in values} | set(job.ignore)
        reference_image = read_scored_labels(job.reference, known, "reference")
        prediction_image = on_grid_of(read_scored_labels(job.prediction, known, "prediction"), reference_image)
        reference, prediction = (sitk.GetArrayFromImage(image) for image in (reference_image, prediction_image))
        reference_boxes, prediction_boxes = _label_boxes(reference), _label_boxes(prediction)
    except Exception as error:  # one case must not stop the others
        return failed_case(job, in_one_line(error))

    spacing_mm = reference_image.GetSpacing()[::-1]
    if job.postprocessing is not None:
        labels = {organ: values[0] for organ, values in job.organs.items() if len(values) == 1}
        prediction, _ = job.postprocessing.apply(prediction, labels, spacing_mm=spacing_mm)
        prediction_boxes = _label_boxes(prediction)
    if any(value in reference_boxes for value in job.ignore):
        ignored = np.isin(reference, job.ignore)
        reference, prediction = np.where(ignored, 0, reference), np.where(ignored, 0, prediction)
    worst_mm = image_diagonal_mm(reference.shape, spacing_mm)
    rows = []
    for organ, values in job.organs.items():
        box = _union([boxes[v] for boxes in (reference_boxes, prediction_boxes) for v in values if v in boxes])
        masks = _mask(reference[box], values), _mask(prediction[box], values)
        tolerance_mm = job.tolerances_mm[organ]
        scores = score_organ(*masks, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm, worst_mm=worst_mm)
        flag = presence(*masks)
        rows.append(_row(job, organ, scores, "" if flag == "scored" else flag))
    return Result(rows, pass_rate=_pass_rate(job, reference_image))


def failed_case(job: Job, reason: str) -> Result:
    """Rows of a case that could not be scored. Every organ of its reference counts as missed."""
    nan = float("nan")
    try:
        image, _ = label_map_of(read_image(job.reference))  # a value that is no label belongs to no organ
        reference = sitk.GetArrayViewFromImage(image)
        spacing_mm = image.GetSpacing()[::-1]
        masks = {organ: _mask(reference, values) for organ, values in job.organs.items()}
        scores = {organ: score_organ(mask, np.zeros_like(mask), spacing_mm=spacing_mm) for organ, mask in masks.items()}
    except Exception:  # unreadable reference, as `failed` says: no organ to count as missed
        scores = {organ: dict.fromkeys(METRICS, nan) for organ in job.organs}
    unknown = {"prediction_ml": nan, "volume_difference_ml": nan, "volume_difference_percent": nan}
    return Result([_row(job, organ, scores[organ] | unknown, "failed") for organ in job.organs], failed=reason)


def _pass_rate(job: Job, reference: sitk.Image) -> float | None:
    """Share of the reference's organ voxels in the box that `predictions.json` names, organs the model leaves out aside.

    With one crop per organ, it is the share of those that lie in the crop of their own organ.
    """
    if job.box is None:
        return None
    left_out = [value for organ in job.not_segmented for value in job.organs[organ]]
    label_map = sitk.GetArrayFromImage(sitk.DICOMOrient(reference, job.box.axes))
    if any(upper > size for (_, upper), size in zip(job.box.voxels, label_map.shape, strict=True)):
        return None  # a box on another grid: the record belongs to other images
    if (crops := job.box.crops) is not None:
        wanted = {o: values for o, values in job.organs.items() if o not in job.not_segmented}
        inside = [np.isin(label_map[roi.slices(crop)], wanted.get(o, ())).sum() for o, crop in crops.items()]
        total = np.isin(label_map, [value for values in wanted.values() for value in values]).sum()
        return float(sum(inside) / total) if total else None
    rate = roi.label_crop_pass_rate(
        np.where(np.isin(label_map, [*left_out, *job.ignore]), 0, label_map), job.box.voxels
    )
    return None if np.isnan(rate) else rate


def _row(job: Job, organ: str, scores: Mapping[str, float], flag: Flag) -> Score:
    return Score(job.case, organ, tolerance_mm=job.tolerances_mm[organ], flag=flag, **scores)


def read_scored_labels(path: Path, known: Collection[int], role: str) -> sitk.Image:
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
    # The boxes need a place for every value up to the largest, so a value of ten digits would cost too much memory.
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
