"""Scores and means as rows."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nnunet_ext.evaluation.metrics import METRICS
from nnunet_ext.evaluation.statistics import SUMMARISED, Mean, Score, mean_of, mean_over_folds

NAN = float("nan")


def test_a_score_has_a_field_for_each_metric_in_their_order():
    names = [field.name for field in fields(Score)]
    assert names == ["case", "organ", *METRICS, "tolerance_mm", "flag"]
    assert set(SUMMARISED) <= set(METRICS)


def test_a_metric_is_read_by_its_name():
    score = Score("case_1", "Lens_L", *(float(number) for number in range(len(METRICS))), tolerance_mm=1.0)
    assert [score.metric(name) for name in METRICS] == [float(number) for number in range(len(METRICS))]


def test_a_mean_counts_the_values_that_are_no_nan():
    # Deviations from 4 are -3, -1 and 4: their squares sum to 26, over two degrees of freedom.
    found = mean_of([1.0, NAN, 3.0, 8.0])
    assert (found.value, found.median, found.n) == (4.0, 3.0, 3)
    assert found.sd == pytest.approx(13**0.5)


def test_mean_over_folds_keeps_a_flag_that_all_folds_have_and_drops_values_that_none_has():
    def fold(dsc: float, flag: str, case: str = "case_1") -> Score:
        values = {**dict.fromkeys(METRICS, NAN), "dsc_percent": dsc}
        return Score(case, "Lens_L", **values, tolerance_mm=1.0, flag=flag)

    (missed,) = mean_over_folds([[fold(0.0, "missed")], [fold(0.0, "missed"), fold(9.0, "", "case_2")]])
    assert (missed.case, missed.dsc_percent, missed.flag) == ("case_1", 0.0, "missed")
    (found,) = mean_over_folds([[fold(0.0, "missed")], [fold(80.0, "")], [fold(NAN, "left_out")]])
    assert (found.dsc_percent, found.flag) == (40.0, "")
    assert found.hd95_mm != found.hd95_mm  # NaN


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (mean_of([70.0, 72.0]), "71.00 +- 1.41"),
        (mean_of([70.0]), "70.00 +- -"),
        (mean_of([NAN]), "-"),
        (mean_of([]), "-"),
    ],
)
def test_a_mean_without_sd_or_without_values_shows_a_dash(mean: Mean, text: str):
    assert mean.text(2) == text


def test_a_mean_has_the_keys_of_evaluation_json():
    assert mean_of([1.0, 3.0]).as_json() == {"mean": 2.0, "sd": pytest.approx(2**0.5), "median": 2.0, "n": 2}
