"""Records of boxes that the localizer placed: their errors, the report of a validation, and the errors read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from roi_heads import EYE_L, EYE_R, SPACING_MM, fitted, head

from nnunet_ext.cascade.boxes import (
    LEAST_MEASURED_BOXES,
    box_report,
    is_missed,
    measure_box,
    measured_errors_mm,
    measured_folds,
)
from nnunet_ext.cascade.roi import organ_extents
from nnunet_ext.nnunet_folders import BOXES_FILE

RECORD = {"localizer_found": [1], "voters": [1], "outliers": [], "fallback_whole_volume": False}


def measured(localizer_map: np.ndarray, reference: np.ndarray) -> dict:
    extents = organ_extents(reference, spacing_mm=SPACING_MM)
    return measure_box(localizer_map, reference, extents, fitted(margin_mm=3.0), spacing_mm=SPACING_MM)


def test_a_box_is_measured_against_where_the_reference_organs_place_it():
    shifted = np.roll(head(), 2, axis=1)  # 1.6 mm along the second axis
    shifted[~np.isin(shifted, (EYE_L, EYE_R))] = 0
    record = measured(shifted, head())
    assert record["error_mm"] == pytest.approx([0.0, 1.6, 0.0], abs=1e-6)
    assert record["localizer_found"] == record["voters"] == [EYE_L, EYE_R]
    assert record["label_crop_pass_rate"] == 1.0
    assert not record["fallback_whole_volume"]
    assert json.loads(json.dumps(record)) == record


def test_without_an_organ_in_either_label_map_a_box_has_no_error():
    nothing_found = measured(np.zeros_like(head()), head())
    assert nothing_found["fallback_whole_volume"]
    assert nothing_found["error_mm"] is None
    assert nothing_found["label_crop_pass_rate"] == 1.0
    no_reference = measured(head(), np.zeros_like(head()))
    assert not no_reference["fallback_whole_volume"]
    assert no_reference["error_mm"] is no_reference["label_crop_pass_rate"] is None


@pytest.mark.parametrize(
    ("rate", "fallback", "missed"),
    [(1.0, False, False), (0.5, False, False), (0.49, False, True), (1.0, True, True), (None, False, False)],
)
def test_a_case_is_missed_without_an_organ_found_or_with_less_than_half_of_the_organs(rate, fallback, missed):
    assert is_missed({**RECORD, "label_crop_pass_rate": rate, "fallback_whole_volume": fallback}) is missed


def test_the_report_gives_the_mean_and_names_the_cases_that_fall_short():
    records = {
        "a": {**RECORD, "label_crop_pass_rate": 1.0},
        "b": {**RECORD, "label_crop_pass_rate": 0.9},
        "c": {**RECORD, "label_crop_pass_rate": None},
        "d": {**RECORD, "label_crop_pass_rate": 1.0, "fallback_whole_volume": True},
    }
    report, lines = box_report(records)
    assert report["mean"] == pytest.approx(2.9 / 3)
    assert report["missed"] == ["d"]
    assert report["cases"] == records
    assert lines == [
        "WARNING: b: the ROI holds only 90.00 % of the organs.",
        "WARNING: d: the localizer found no organ, so the ROI is the whole volume.",
        "Label crop pass rate: 96.67 % (mean over 3 cases)",
        "The localizer missed 1 of 4 cases: d.",
    ]


def test_the_report_of_cases_without_organs_has_no_mean():
    report, lines = box_report({"c": {**RECORD, "label_crop_pass_rate": None}})
    assert math.isnan(report["mean"])
    assert lines[-1] == "The localizer missed 0 of 1 cases."


def write_fold(folder: Path, fold, errors_mm, **changes) -> None:
    records = {
        f"fold{fold}_{i}": {**RECORD, "label_crop_pass_rate": 1.0, "error_mm": error, **changes}
        for i, error in enumerate(errors_mm)
    }
    file = folder / f"fold_{fold}" / "validation" / BOXES_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(box_report(records)[0]))


def test_errors_are_those_of_the_folds_of_the_cross_validation_without_missed_cases(tmp_path):
    write_fold(tmp_path, 0, [[1.0, 2.0, -3.0], [0.0, 0.5, 0.0], None])
    write_fold(tmp_path, 1, [[-4.0, 0.0, 0.0]])
    write_fold(tmp_path, 2, [[90.0, 90.0, 90.0]], label_crop_pass_rate=0.2)
    write_fold(tmp_path, "all", [[7.0, 7.0, 7.0]])
    assert measured_folds(tmp_path) == [0, 1, 2]
    errors_mm, said = measured_errors_mm(tmp_path, [0, 1, 2])
    assert errors_mm == [[1.0, 2.0, -3.0], [0.0, 0.5, 0.0], [-4.0, 0.0, 0.0]]
    # Root mean squares of 1, 0, 4 and of 2, 0.5, 0 and of 3, 0, 0.
    assert said.endswith("by the localizer's errors in 3 out-of-fold cases (RMS 2.4, 1.2, 1.7 mm).")


def test_with_too_few_measured_boxes_there_are_no_errors(tmp_path):
    n = LEAST_MEASURED_BOXES - 1
    write_fold(tmp_path, 0, [[30.0, 30.0, 30.0]] * n)
    errors_mm, said = measured_errors_mm(tmp_path, measured_folds(tmp_path))
    assert errors_mm == []
    assert said == f"The localizer has been validated on {n} cases so far: the box is moved about as planned."
