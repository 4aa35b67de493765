"""nnU-Net's summary of a validation without the organs left out."""

from __future__ import annotations

import copy

import pytest

from nnunet_ext.training.validation_summary import without_labels


def test_the_mean_of_the_others_is_taken_anew_and_the_callers_summary_stays():
    metrics = {str(k): {"Dice": d, "FN": n} for k, d, n in ((1, 0.0, 50), (2, 0.4, 60), (3, 0.8, 4))}
    summary = {
        "metric_per_case": [{"metrics": metrics, "prediction_file": "a.nii.gz", "reference_file": "b.nii.gz"}],
        "mean": metrics,
        "foreground_mean": {"Dice": 0.4, "FN": 38.0},
    }
    before = copy.deepcopy(summary)
    kept = without_labels(summary, (1,))
    others = {"2": {"Dice": 0.4, "FN": 60}, "3": {"Dice": 0.8, "FN": 4}}
    assert kept["mean"] == others
    assert kept["metric_per_case"] == [{**summary["metric_per_case"][0], "metrics": others}]
    assert kept["foreground_mean"] == {"Dice": pytest.approx(0.6), "FN": 32.0}
    assert summary == before
