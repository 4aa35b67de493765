"""Scores of the organs of a case without and with steps of postprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_ext.evaluation.metrics import image_diagonal_mm, presence, score_organ
from nnunet_ext.evaluation.one_case import KILLED_REASON, on_grid_of, read_scored_labels
from nnunet_ext.files import in_one_line
from nnunet_ext.labels.values import values_of
from nnunet_ext.postprocessing.sides import on_own_sides
from nnunet_ext.postprocessing.steps import (
    OWN_SIDE,
    Step,
    after_step,
    box_of,
    ends_of,
    pairs_of_values,
    postprocessed,
)
from nnunet_ext.processes import KILLED, run_in_processes

Found = TypeVar("Found")

#: Metrics that decide, and that the table shows.
DECIDING = ("dsc_percent", "hd95_mm", "plain_hd95_mm")


class Scored(NamedTuple):
    """An organ of a case: `DECIDING`, and whether steps removed all of it."""

    dsc_percent: float
    hd95_mm: float
    plain_hd95_mm: float
    emptied: bool = False


#: Places of the steps that were taken, among those of the organ.
Taken = tuple[int, ...]


@dataclass(frozen=True)
class ScoringJob:
    """One case, and all that a process needs. `steps` are candidates, or those that were chosen.

    `pairs` are the names of left and right organs.
    """

    case: str
    prediction: Path | None
    reference: Path
    labels: Mapping[str, Any]
    steps: Mapping[str, Sequence[Step]]
    pairs: Sequence[tuple[str, str]] = ()


def run_jobs(
    function: Callable[[ScoringJob], Found | str],
    jobs: Sequence[ScoringJob],
    *,
    n_processes: int,
    show_progress: bool,
    title: str,
) -> tuple[dict[str, Found], dict[str, str]]:
    """Case -> result, and case -> why it failed, in the order of the jobs."""
    several = n_processes > 1 and len(jobs) > 1
    results = run_in_processes(function, jobs, n_processes) if several else ((job, function(job)) for job in jobs)
    every = {job.case: result for job, result in tqdm(results, total=len(jobs), desc=title, disable=not show_progress)}
    every = {job.case: KILLED_REASON if every[job.case] is KILLED else every[job.case] for job in jobs}
    failed = {case: result for case, result in every.items() if isinstance(result, str)}
    return {case: result for case, result in every.items() if case not in failed}, failed


def score_candidates(job: ScoringJob) -> dict[str, dict[Taken, Scored]] | str:
    """Organ -> scores with every combination of its steps, for organs that a mask holds. Or why the case failed."""
    try:
        reference, prediction, spacing_mm = _read(job)
        worst_mm = image_diagonal_mm(reference.shape, spacing_mm)
        sided = on_own_sides(prediction, pairs_of_values(job.pairs, job.labels), spacing_mm=spacing_mm)
        found = {}
        for organ, steps in job.steps.items():
            value, ends = job.labels[organ], [job.labels[name] for name in ends_of(organ, job.labels)]
            box = box_of(np.where((reference == value) | (sided == value), value, prediction), [value, *ends])
            if box is None:
                continue
            there, wanted = prediction[box], reference[box] == value
            if wanted.any() or (there == value).any():
                around = {"free": there == 0, "ends": [there == end for end in ends], "spacing_mm": spacing_mm}
                reached = _reached(there == value, steps, own=sided[box] == value, **around)
                found[organ] = _scores(wanted, reached, spacing_mm=spacing_mm, worst_mm=worst_mm)
        return found
    except Exception as error:  # one case must not stop the others
        return in_one_line(error)


def score_both(job: ScoringJob) -> dict[str, tuple[Scored, Scored]] | str:
    """Organ -> scores without and with its steps, for organs that a mask holds. Or why the case failed."""
    try:
        reference, prediction, spacing_mm = _read(job)
        after, changes = postprocessed(prediction, job.steps, job.labels, spacing_mm=spacing_mm, pairs=job.pairs)
        worst_mm = image_diagonal_mm(reference.shape, spacing_mm)
        found = {}
        for organ in job.steps:
            wanted, before, chosen = (array == job.labels[organ] for array in (reference, prediction, after))
            if wanted.any() or before.any():
                emptied = organ in changes and changes[organ].emptied
                without = _scored(wanted, before, spacing_mm=spacing_mm, worst_mm=worst_mm)
                found[organ] = (
                    without,
                    _scored(wanted, chosen, spacing_mm=spacing_mm, worst_mm=worst_mm, emptied=emptied),
                )
        return found
    except Exception as error:  # one case must not stop the others
        return in_one_line(error)


def _read(job: ScoringJob) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Reference, prediction and voxel size along `(Z, Y, X)`. Voxels that the reference ignores are background."""
    if job.prediction is None:
        raise FileNotFoundError("no prediction")
    known = {value for label in job.labels.values() for value in values_of(label)}
    reference_image = read_scored_labels(job.reference, known, "reference")
    prediction_image = on_grid_of(read_scored_labels(job.prediction, known, "prediction"), reference_image)
    reference, prediction = (sitk.GetArrayFromImage(image) for image in (reference_image, prediction_image))
    ignored = np.isin(reference, values_of(job.labels.get("ignore", ())))
    return np.where(ignored, 0, reference), np.where(ignored, 0, prediction), reference_image.GetSpacing()[::-1]


def _reached(mask: np.ndarray, steps: Sequence[Step], *, own: np.ndarray, **around: Any) -> dict[Taken, np.ndarray]:
    """The mask after every combination of the steps, each in order. `own` is the organ on its own side."""
    reached: dict[Taken, np.ndarray] = {(): mask}
    for at, step in enumerate(steps):
        reached |= {
            (*taken, at): own if step.name == OWN_SIDE else after_step(before, step, **around)
            for taken, before in reached.items()
        }
    return reached


def _scores(
    wanted: np.ndarray, reached: Mapping[Taken, np.ndarray], *, spacing_mm: Sequence[float], worst_mm: float
) -> dict[Taken, Scored]:
    """Scores of all masks. Most steps change nothing in most cases, so each different mask is scored once."""
    known: dict[bytes, Scored] = {}
    there = bool(reached[()].any())
    result = {}
    for taken, mask in reached.items():
        key = np.packbits(mask).tobytes()
        if key not in known:
            emptied = there and not mask.any()
            known[key] = _scored(wanted, mask, spacing_mm=spacing_mm, worst_mm=worst_mm, emptied=emptied)
        result[taken] = known[key]
    return result


def _scored(
    wanted: np.ndarray, mask: np.ndarray, *, spacing_mm: Sequence[float], worst_mm: float, emptied: bool = False
) -> Scored:
    if presence(wanted, mask) == "left_out":
        return Scored(100.0, 0.0, 0.0, emptied)
    scores = score_organ(wanted, mask, spacing_mm=spacing_mm, worst_mm=worst_mm)
    dsc_percent, near_mm, plain_mm = (scores[metric] for metric in DECIDING)
    return Scored(dsc_percent, near_mm, plain_mm, emptied)
