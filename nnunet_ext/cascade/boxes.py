"""How the localizer placed the box of each case, how far off the boxes are, and the report of a validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from nnunet_ext.cascade.roi import (
    OrganExtent,
    RoiDecision,
    RoiRule,
    find_roi,
    label_crop_pass_rate,
    middle_of,
    organ_extents,
    vote_centre,
)
from nnunet_ext.nnunet_folders import BOXES_FILE, read_boxes

#: The planned jitter is used if fewer out-of-fold boxes have been measured.
LEAST_MEASURED_BOXES = 3


def box_record(localizer_map: np.ndarray, decision: RoiDecision, pass_rate: float | None) -> dict:
    """How the box of one case was placed, as plain JSON.

    Args:
        localizer_map: Label map of the localizer.
        decision: The box it votes for.
        pass_rate: Label crop pass rate of the box, or None without an organ in the reference.
    """
    return {
        "localizer_found": sorted(int(v) for v in np.unique(localizer_map) if v > 0),
        "voters": list(decision.voters),
        "outliers": list(decision.outliers),
        "fallback_whole_volume": not decision.found,
        "label_crop_pass_rate": pass_rate,
    }


def measure_box(
    localizer_map: np.ndarray,
    reference: np.ndarray,
    extents: Mapping[int, OrganExtent],
    rule: RoiRule,
    *,
    spacing_mm: tuple[float, ...],
) -> dict:
    """Record of the box that the localizer's label map votes for, with its error.

    Args:
        localizer_map: Shape `(*plan_axes)`.
        reference: Label map of the same shape.
        extents: Of the organs in the reference.
        rule: The plan's.
        spacing_mm: Voxel size along the same axes.

    Returns:
        See `box_record`. `error_mm` is the distance, along each axis, of the box centre from the one that the reference
        organs vote for. It is None if either places no box. `organ_error_mm` has, for each organ found, that of the middle
        of its bounding box from the reference's.
    """
    found = organ_extents(localizer_map, spacing_mm=spacing_mm, clean=True)
    decision = find_roi(localizer_map, rule, spacing_mm=spacing_mm)
    centre, _, _ = vote_centre(extents, rule)
    rate = label_crop_pass_rate(reference, decision.box)
    placed = decision.centre_mm
    return {
        **box_record(localizer_map, decision, None if np.isnan(rate) else rate),
        "error_mm": None if placed is None or centre is None else np.subtract(placed, centre).tolist(),
        "organ_error_mm": {
            str(value): np.subtract(middle_of(found[value]), middle_of(extents[value])).tolist()
            for value in sorted(found.keys() & extents.keys())
        },
    }


def is_missed(record: Mapping) -> bool:
    """Whether the localizer missed a case. It found no organ, or its box has less than half of the organs' voxels."""
    rate = record["label_crop_pass_rate"]
    return record["fallback_whole_volume"] or (rate is not None and rate < 0.5)


def box_report(
    records: Mapping[str, Mapping], *, crop: str = "", names: Mapping[int, str] = MappingProxyType({})
) -> tuple[dict, list[str]]:
    """Content of `BOXES_FILE`, and lines for the log about boxes that fall short, the mean pass rate and the misses.

    Args:
        records: Case -> record, see `box_record`. With one crop per organ, they also have what `crop_rates` gives.
        crop: Size of such crops, for the log. Without them it is empty.
        names: Label value -> organ, for such crops.
    """
    rates = {k: r["label_crop_pass_rate"] for k, r in records.items() if r["label_crop_pass_rate"] is not None}
    missed = sorted(case for case, record in records.items() if is_missed(record))
    lines = []
    for case, record in records.items():
        if record["fallback_whole_volume"] and not crop:
            lines.append(f"WARNING: {case}: the localizer found no organ, so the ROI is the whole volume.")
        elif case in rates and rates[case] < 1.0:
            held = "crops hold" if crop else "ROI holds"
            lines.append(f"WARNING: {case}: the {held} only {100 * rates[case]:.2f} % of the organs.")
        if missed_organs := [names[value] for value in record.get("without_crop", ())]:
            lines.append(
                f"WARNING: {case}: the localizer did not find {', '.join(missed_organs)}, so there is no crop."
            )
    of_organs = {}
    for value, name in names.items():
        of_organ = [r["organ_pass_rates"][str(value)] for r in records.values() if str(value) in r["organ_pass_rates"]]
        if of_organ:
            of_organs[name] = float(np.mean(of_organ))
            lines.append(
                f"Label crop pass rate of {name} in {crop}: {100 * of_organs[name]:.2f} % (mean over {len(of_organ)} cases)"
            )
    mean = float(np.mean(list(rates.values()))) if rates else float("nan")
    listed = f": {', '.join(missed)}" if missed else ""
    lines += [
        f"Label crop pass rate: {100 * mean:.2f} % (mean over {len(rates)} cases)",
        f"The localizer missed {len(missed)} of {len(records)} cases{listed}.",
    ]
    organs = {"organs": of_organs} if crop else {}
    return {"mean": mean, **organs, "missed": missed, "cases": records}, lines


def measured_folds(localizer: Path) -> list[int]:
    """The folds of a trained localizer that have been validated, so that their out-of-fold boxes are measured."""
    found = (file.parents[1].name.removeprefix("fold_") for file in localizer.glob(f"fold_*/validation/{BOXES_FILE}"))
    return sorted(int(fold) for fold in found if fold.isdecimal())


def _boxes_of(localizer: Path, folds: Sequence[int]) -> list[dict]:
    """Records of all cases of these folds."""
    files = (localizer / f"fold_{fold}" / "validation" / BOXES_FILE for fold in folds)
    return [record for file in files for record in read_boxes(file).values()]


def measured_errors_mm(localizer: Path, folds: Sequence[int]) -> tuple[list[list[float]], str]:
    """Errors of the localizer's out-of-fold boxes along each axis, and a line for the log.

    Missed cases are not counted. The list is empty if fewer than `LEAST_MEASURED_BOXES` errors are known.

    Args:
        localizer: Folder of the trained localizer, with its folds.
        folds: Some of `measured_folds`.
    """
    records = _boxes_of(localizer, folds)
    errors = [r["error_mm"] for r in records if r.get("error_mm") is not None and not is_missed(r)]
    if len(errors) < LEAST_MEASURED_BOXES:
        n = len(errors)
        return [], f"The localizer has been validated on {n} cases so far: the box is moved about as planned."
    spread = ", ".join(f"{v:.1f}" for v in np.sqrt(np.mean(np.square(errors), axis=0)))
    said = f"The box is moved about by the localizer's errors in {len(errors)} out-of-fold cases (RMS {spread} mm)."
    return errors, said


def measured_organ_errors_mm(localizer: Path, folds: Sequence[int]) -> tuple[dict[int, list[list[float]]], str]:
    """Errors of the middles of the localizer's out-of-fold organs along each axis, and a line for the log.

    Args:
        localizer: Folder of the trained localizer, with its folds.
        folds: Some of `measured_folds`.

    Returns:
        Label value -> errors. An organ that the localizer missed has none in that case.
    """
    errors: dict[int, list[list[float]]] = {}
    for record in _boxes_of(localizer, folds):
        for value, error_mm in record.get("organ_error_mm", {}).items():
            errors.setdefault(int(value), []).append(error_mm)
    every = [error for of_organ in errors.values() for error in of_organ]
    if len(every) < LEAST_MEASURED_BOXES:
        n = len(every)
        return {}, f"The localizer's places of {n} organs have been measured so far: crops are moved about as planned."
    spread = ", ".join(f"{v:.1f}" for v in np.sqrt(np.mean(np.square(every), axis=0)))
    said = f"Crops are moved about by the localizer's errors for {len(every)} out-of-fold organs (RMS {spread} mm)."
    return errors, said
