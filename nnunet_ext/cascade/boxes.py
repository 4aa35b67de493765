"""How the localizer placed the box of each case, how far off the boxes are, and the report of a validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnunet_ext.cascade.roi import OrganExtent, RoiDecision, RoiRule, find_roi, label_crop_pass_rate, vote_centre
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
        organs vote for. It is None if either places no box.
    """
    decision = find_roi(localizer_map, rule, spacing_mm=spacing_mm)
    centre, _, _ = vote_centre(extents, rule)
    rate = label_crop_pass_rate(reference, decision.box)
    placed = decision.centre_mm
    return {
        **box_record(localizer_map, decision, None if np.isnan(rate) else rate),
        "error_mm": None if placed is None or centre is None else np.subtract(placed, centre).tolist(),
    }


def is_missed(record: Mapping) -> bool:
    """Whether the localizer missed a case. It found no organ, or its box has less than half of the organs' voxels."""
    rate = record["label_crop_pass_rate"]
    return record["fallback_whole_volume"] or (rate is not None and rate < 0.5)


def box_report(records: Mapping[str, Mapping]) -> tuple[dict, list[str]]:
    """Content of `BOXES_FILE`, and lines for the log about boxes that fall short, the mean pass rate and the misses.

    Args:
        records: Case -> record, see `box_record`.
    """
    rates = {k: r["label_crop_pass_rate"] for k, r in records.items() if r["label_crop_pass_rate"] is not None}
    missed = sorted(case for case, record in records.items() if is_missed(record))
    lines = []
    for case, record in records.items():
        if record["fallback_whole_volume"]:
            lines.append(f"WARNING: {case}: the localizer found no organ, so the ROI is the whole volume.")
        elif case in rates and rates[case] < 1.0:
            lines.append(f"WARNING: {case}: the ROI holds only {100 * rates[case]:.2f} % of the organs.")
    mean = float(np.mean(list(rates.values()))) if rates else float("nan")
    listed = f": {', '.join(missed)}" if missed else ""
    lines += [
        f"Label crop pass rate: {100 * mean:.2f} % (mean over {len(rates)} cases)",
        f"The localizer missed {len(missed)} of {len(records)} cases{listed}.",
    ]
    return {"mean": mean, "missed": missed, "cases": records}, lines


def measured_errors_mm(localizer: Path) -> tuple[list[list[float]], str]:
    """Errors of the localizer's out-of-fold boxes along each axis, and a line for the log.

    Missed cases are not counted. The list is empty if fewer than `LEAST_MEASURED_BOXES` errors are known.

    Args:
        localizer: Folder of the trained localizer, with its folds.
    """
    errors = []
    for file in sorted(localizer.glob(f"fold_[0-9]*/validation/{BOXES_FILE}")):
        records = read_boxes(file).values()
        errors += [r["error_mm"] for r in records if r.get("error_mm") is not None and not is_missed(r)]
    if len(errors) < LEAST_MEASURED_BOXES:
        n = len(errors)
        return [], f"The localizer has been validated on {n} cases so far: the box is moved about as planned."
    spread = ", ".join(f"{v:.1f}" for v in np.sqrt(np.mean(np.square(errors), axis=0)))
    said = f"The box is moved about by the localizer's errors in {len(errors)} out-of-fold cases (RMS {spread} mm)."
    return errors, said
