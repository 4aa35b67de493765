"""The numbers of the training benchmark; the measurement itself runs in `tests/test_end_to_end.py`."""

import os
import time

import pytest

from nnunet_ext.end_to_end.training_benchmark import _timed, benchmark_train, rate, table
from nnunet_ext.processes import memory_mb

RECORD = {
    "trainer": "CascadeOARTrainer",
    "configuration": "3d_lowres",
    "device": "cpu, ",
    "patch_size": [40, 48, 56],
    "batch_size": 2,
    "cores": 2,
    "threads": 1,
    "workers": 1,
    "cached_per_s": 2.0,
    "real_per_s": 1.9,
    "ratio": 0.95,
    "network_cpu_s": 0.5,
    "loader_cpu_s": 0.025,
    "memory_mb": 520.4,
}


def test_the_rate_counts_waits_and_drops_a_hiccup():
    assert rate([0.5] * 10) == 2.0
    assert (
        rate([0.25, 0.75] * 5) == 2.0
    )  # every second iteration waits for the loader: the median iteration would say 4
    assert rate([0.5] * 9 + [60.0]) == 2.0
    assert rate([4.0]) == 0.25


def test_a_phase_ends_after_its_iterations_or_its_time():
    assert len(_timed(lambda: None, 7)) == 7
    assert len(_timed(lambda: time.sleep(0.02), 50, longest_s=0.05)) < 5
    assert len(_timed(lambda: time.sleep(0.02), 50, longest_s=0.01)) == 1


def test_memory_of_this_process_is_of_its_size_and_of_none_is_unknown():
    used_mb = memory_mb([os.getpid()])
    if used_mb is None:
        pytest.skip("no /proc/PID/smaps_rollup here")
    assert 5 < used_mb < 50_000
    assert memory_mb([os.getpid(), -1]) is None


def test_the_table_has_a_row_per_training_and_says_on_what():
    stock = {**RECORD, "trainer": "nnUNetTrainer", "configuration": "3d_fullres", "memory_mb": None}
    lines = table([RECORD, stock]).splitlines()
    row = "| CascadeOARTrainer 3d_lowres | 40x48x56, 2 | 2.00 | 1.90 | 0.95 | 0.500 | 0.025 | 520 |"
    assert lines[2] == row
    assert lines[3].startswith("| nnUNetTrainer 3d_fullres |")
    assert lines[3].endswith("| 0.025 |  |")
    assert {line.count("|") for line in lines[:4]} == {9}
    assert lines[5].startswith("cpu; 2 cores, 1 threads, 1 loader processes.")


def test_a_data_set_without_plans_is_refused_with_the_command_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    with pytest.raises(ValueError, match=r"no CascadeOARPlans.json for data set 512 .* -d 512 -pl CascadeOARPlanner"):
        benchmark_train(512, out=tmp_path / "out")
