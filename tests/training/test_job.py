"""What a cluster's job tells a training, and what the training tells of itself."""

from __future__ import annotations

import json
import math

import pytest

from nnunet_ext.training.job import PROGRESS_FILE, TrainingJob, write_progress


def test_without_variables_a_training_has_no_deadline_and_validates():
    assert TrainingJob.from_environment({}) == TrainingJob(None, True)
    assert TrainingJob.from_environment({"nnunet_ext_deadline": "", "nnunet_ext_validation": ""}) == TrainingJob()


def test_the_variables_are_read():
    environment = {"nnunet_ext_deadline": "1700000000", "nnunet_ext_validation": "off"}
    assert TrainingJob.from_environment(environment) == TrainingJob(1.7e9, False)
    assert TrainingJob.from_environment({"nnunet_ext_jitter": "planned"}).jitter == "planned"
    assert TrainingJob.from_environment({"nnunet_ext_jitter": "measured 0 3"}).jitter_folds == (0, 3)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("nnunet_ext_deadline", "soon", "seconds since 1970"),
        ("nnunet_ext_deadline", "nan", "seconds since 1970"),
        ("nnunet_ext_deadline", "inf", "seconds since 1970"),
        ("nnunet_ext_validation", "no", "on or off"),
        ("nnunet_ext_jitter", "off", "it must be planned, measured, or measured and the localizer's folds"),
        ("nnunet_ext_jitter", "planned 0", "such as 'measured 0 1'"),
        ("nnunet_ext_jitter", "measured all", "such as 'measured 0 1'"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_the_remedy(variable, value, said):
    with pytest.raises(ValueError, match=said):
        TrainingJob.from_environment({variable: value})


def test_the_longest_epoch_of_the_run_decides_whether_another_fits():
    job = TrainingJob(deadline_s=1000.0)
    assert not job.passed_by_next([10.0, 50.0], now_s=949)
    assert job.passed_by_next([10.0, 50.0], now_s=951)
    assert not job.passed_by_next([], now_s=999)  # nothing is known yet
    assert job.passed_by_next([], now_s=1001)
    assert not TrainingJob().passed_by_next([1e9], now_s=1e12)


def test_progress_is_plain_json(tmp_path):
    write_progress(tmp_path, epoch=2, num_epochs=10, epochs_s=[4.0, 6.0], scores=[0.5, 0.4], now_s=99.0)
    assert json.loads((tmp_path / PROGRESS_FILE).read_text()) == {
        "epoch": 2,
        "num_epochs": 10,
        "pseudo_dice": 0.4,
        "best_pseudo_dice": 0.5,
        "seconds_per_epoch": 5.0,
        "seconds_left": 40.0,
        "written_s": 99.0,
        "out_of_time": False,
    }
    write_progress(tmp_path, epoch=0, num_epochs=10, epochs_s=[], scores=[math.nan], now_s=99.0, out_of_time=True)
    content = json.loads((tmp_path / PROGRESS_FILE).read_text())
    assert content["pseudo_dice"] is content["best_pseudo_dice"] is content["seconds_left"] is None
    assert content["out_of_time"]
