"""A score per case and organ, from two folders of label maps or from the cross-validation of a trained model.

The rules for each case that has a reference:

- Every organ gets the metrics of `nnunet_ext.evaluation.metrics`. Its docstring has the values for an empty mask.
- A FAILED case has no prediction, a damaged or unreadable file, another grid or an unknown label. It is named, and every
  organ of its reference scores as missed, with DSC 0, the image diagonal as HD95 and surface dice 0. A lost case must not
  improve the mean, so the rest of a damaged prediction is never scored. A case whose reference cannot be read is in no
  mean, because its organs are unknown.
- An organ that the model does not segment, because its crop is too small for it, has no score in any case. The
  `left_out_organs` of the `dataset.json` beside the predictions names them.

Label maps are read as `convert` reads them. Those of one case are compared voxel by voxel, so their grids are compared
first (`images.geometry.grid_tolerance_mm`). A prediction on the reference's grid with other axis order or flips is
reoriented. Any other difference fails the case. Files in the two folders that are not compared are named.

`summary` makes the means, `table` the table and `score_files` the files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from nnunet_ext.evaluation.folders import Folders, example_of, find_folders
from nnunet_ext.evaluation.metrics import METRICS, tolerance_mm_of
from nnunet_ext.evaluation.one_case import Job, run_job
from nnunet_ext.evaluation.score_files import write_evaluation
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.files import check_output_folder
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.labels.pairs import dataset_pairs
from nnunet_ext.labels.values import organ_values, values_of
from nnunet_ext.nnunet_folders import dataset_json_of, labels_from_dataset_json, organs_not_segmented

if TYPE_CHECKING:
    from nnunet_ext.postprocessing.choice import Postprocessing

logger = logging.getLogger(__name__)


@holding(owned_folder, "out")
def evaluate(
    predictions: Path,
    references: Path | None,
    out: Path,
    *,
    localizer: Path | None = None,
    folds: Sequence[Path] = (),
    without_postprocessing: Path | None = None,
    labels: Mapping[str, int] | None = None,
    tolerance_mm: float | Mapping[str, float] | None = None,
    n_processes: int = 2,
    show_progress: bool = True,
) -> EvaluationSummary:
    """Score every prediction that has a reference. Write `evaluation.csv`, `evaluation.json` and `evaluation.md`.

    Args:
        predictions: Folder with one label map per case, or a trained model. The name of a label map without its ending is
            the case. Of a model (`.../CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres`), the cases of its validated
            folds are scored.
        references: Folder with the reference label maps. They have the names of the predictions, and may have another file
            ending. For a trained model, None stands for `labelsTr` of its dataset in `$nnUNet_raw`, or
            `gt_segmentations` in `$nnUNet_preprocessed`.
        out: Folder for the three files, made if missing. Each replaces an old one only when it is complete.
        localizer: Label maps of the localizer for the same cases, or its trained model, to compare with. Its scores go to
            `out/localizer`. For a trained model, None stands for the stage before, if it is there.
        folds: Label maps of the same cases, a folder for the model of each single fold, to hold against the ensemble. The
            mean over folds is taken per case, then mean and SD over cases. Their scores go to `out/folds/1`, ...
        without_postprocessing: Label maps of the same cases, predicted with `--no-postprocessing`, to hold against. Their
            scores go to `out/without_postprocessing`. For a trained model, the postprocessing that it brings is put on the
            label maps of its cross-validation, and the scores with it go to `out/with_postprocessing`.
        labels: Organ -> label value, or a list of values for a region. None stands for `labels` of the `dataset.json` in
            `predictions`, `references` or the folder above `references`. `background` is skipped. Voxels that the
            reference marks `ignore` count as background in both.
        tolerance_mm: Tolerance of the surface dice, for all organs or by organ. Organs that are not named have that of
            `metrics.tolerance_mm_of`.
        n_processes: Processes that read and score cases. With 1, this process does so itself.
        show_progress: Draw a progress bar.

    Returns:
        The scores. Cases that failed are in `.failed` with their reason. The others are scored all the same.

    Raises:
        FileNotFoundError: If a folder does not exist, no case has both files, or no `dataset.json` names the labels.
        ValueError: If two files of a folder are the same case, or a label or tolerance is unusable. If folds are given for a
            trained model, whose cross-validation has one model per case, or one fold alone. If predictions without
            postprocessing are given for a trained model.
    """
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}; give 1 or more.")
    check_output_folder(out)
    folders = find_folders(Path(predictions), references)
    if folds and (folders.model is not None or len(folds) == 1):
        wrong = "one folder: a mean needs two or more" if len(folds) == 1 else "given for a trained model"
        raise ValueError(f"folds is {wrong}. Name the predictions of each fold's model on the same test cases.")
    if without_postprocessing is not None and folders.model is not None:
        raise ValueError(
            "without_postprocessing is given for a trained model, whose cross-validation is without. Leave it out: the "
            "scores with the model's postprocessing are added if it has one."
        )
    of_folds = [find_folders(Path(fold), folders.references) for fold in folds]
    labels = dict(labels) if labels is not None else labels_from_dataset_json(folders.dataset, folders.references)
    score = partial(
        _score, labels=labels, tolerance_mm=tolerance_mm, n_processes=n_processes, show_progress=show_progress
    )
    summary = score(folders, title="Scoring")
    localizer = localizer or folders.localizer
    if localizer is not None:
        try:
            before = find_folders(Path(localizer), folders.references)
        except FileNotFoundError as error:
            if folders.localizer is None:  # asked for
                raise
            logger.warning("Not compared with the localizer: %s", error)
        else:
            cases = folders.reference_of.keys() & before.reference_of.keys()
            before = replace(before, reference_of={case: before.reference_of[case] for case in cases})
            summary = replace(summary, localizer=score(before, title="Scoring the localizer"))
    if of_folds:
        n_folds = len(of_folds)
        scores = (score(one, title=f"Scoring fold {n + 1} of {n_folds}") for n, one in enumerate(of_folds))
        summary = replace(summary, of_folds=tuple(scores))
    if without_postprocessing is not None:
        without = find_folders(Path(without_postprocessing), folders.references)
        summary = replace(summary, with_other_postprocessing=score(without, title="Scoring without postprocessing"))
    elif (brings := _postprocessing_of(folders)) is not None:
        with_it = score(folders, title="Scoring with postprocessing", postprocessing=brings)
        summary = replace(summary, with_other_postprocessing=with_it)
    write_evaluation(summary, Path(out))
    return summary


def _postprocessing_of(folders: Folders) -> Postprocessing | None:
    """What a trained model brings, if it does anything. A file that is damaged costs the comparison, not the scores."""
    if folders.model is None:
        return None
    from nnunet_ext.postprocessing.choice import read_postprocessing  # it asks nnU-Net for its folders

    try:
        found = read_postprocessing(folders.model, dataset_json_of(folders.model))
    except ValueError as error:
        logger.warning("Not scored with postprocessing: %s", error)
        return None
    return found if found is not None and (found.steps or found.largest_of) else None


def _score(
    folders: Folders,
    *,
    labels: Mapping[str, int],
    tolerance_mm: float | Mapping[str, float] | None,
    n_processes: int,
    show_progress: bool,
    title: str,
    postprocessing: Postprocessing | None = None,
) -> EvaluationSummary:
    organs = organ_values(labels)
    tolerances_mm = _tolerances(organs, tolerance_mm)
    not_segmented = organs_not_segmented(folders.dataset, organs)
    if folders.model is None and not folders.prediction_of.keys() & folders.reference_of.keys():
        raise FileNotFoundError(
            f"None of the {len(folders.prediction_of)} predictions in {folders.dataset} has a reference in "
            f"{folders.references}: {example_of(folders.prediction_of)} there, {example_of(folders.reference_of)} here. "
            "A case has the same name in both folders, up to the file ending."
        )
    jobs = [
        Job(
            case,
            folders.prediction_of.get(case),
            reference,
            organs,
            values_of(labels.get("ignore", ())),
            tolerances_mm,
            folders.boxes.get(case),
            not_segmented,
            postprocessing,
        )
        for case, reference in sorted(folders.reference_of.items())
    ]
    results = dict(tqdm(run_job(jobs, n_processes), total=len(jobs), desc=title, disable=not show_progress))
    rows = [
        replace(row, flag="not_segmented", **dict.fromkeys(METRICS, float("nan")))
        if row.organ in not_segmented
        else row
        for job in jobs
        for row in results[job.case].rows
    ]
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


def _pairs(folders: Folders, labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """Left and right organs, from the `dataset.json` beside predictions or references, or by name."""
    places = (folders.dataset, folders.references, folders.references.parent)
    stated = next((content for place in places if (content := dataset_json_of(place))), {})
    pairs = dataset_pairs({"labels": labels, **stated}, where=f"dataset.json of {folders.dataset.name}")
    return [pair for pair in pairs if set(pair) <= set(labels)]


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


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else Path(path).resolve()
