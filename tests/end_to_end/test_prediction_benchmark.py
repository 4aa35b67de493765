"""The benchmark of prediction: what is measured, on which cases, and what the table says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nnunet_ext.end_to_end.demo import Demo
from nnunet_ext.end_to_end.prediction_benchmark import (
    OURS,
    _untrained_apart,
    add_up,
    benchmark_predict,
    link_cases,
    run_measured,
    table,
)
from nnunet_ext.prediction.loading import load_stage
from nnunet_ext.processes import process_tree

ABOUT = {
    "dataset": "Dataset501_Head",
    "cases": ["a", "b"],
    "untrained": [],
    "device": "cpu",
    "processor": "p",
    "cores": 2,
}


def test_the_first_and_the_later_cases_are_told_apart_and_commands_add_up():
    localizer = {"total_s": 13.0, "written_s": [6.0, 8.0, 10.0], "peak_mb": 900.0}
    segmenter = {"total_s": 25.0, "written_s": [10.0, 15.0, 20.0], "peak_mb": 700.0}
    # A case alone: 6 s and the 3 s the localizer's command takes to end; 10 s and 5 s.
    assert add_up([localizer, segmenter]) == {"first_s": 24.0, "later_s": 7.0, "total_s": 38.0, "peak_mb": 900.0}
    one = {"total_s": 9.0, "written_s": [7.0], "peak_mb": None}
    assert add_up([one]) == {"first_s": 9.0, "later_s": None, "total_s": 9.0, "peak_mb": None}


def test_the_table_gives_every_figure_with_its_ratio_to_ours():
    ours = {"system": OURS, "first_s": 20.0, "later_s": 4.0, "total_s": 24.0, "peak_mb": 1000.0}
    stock = {"system": "stock 3d_fullres", "first_s": 300.0, "later_s": 200.0, "total_s": 500.0, "peak_mb": 2500.0}
    lines = table([ours, stock], ABOUT).splitlines()
    assert lines[2] == f"| {OURS} | 20.0 (1.0x) | 4.0 (1.0x) | 24.0 (1.0x) | 1000 (1.0x) |"
    assert lines[3] == "| stock 3d_fullres | 300.0 (15.0x) | 200.0 (50.0x) | 500.0 (20.8x) | 2500 (2.5x) |"
    assert "Dataset501_Head, 2 cases; cpu, p, 2 cores" in lines[-1]
    assert "ntrained" not in lines[-1]
    alone = [{**record, "later_s": None, "peak_mb": None} for record in (ours, stock)]
    text = table(alone, {**ABOUT, "untrained": ["3d_fullres"]})
    assert "| stock 3d_fullres | 300.0 (15.0x) |  | 500.0 (20.8x) |  |" in text
    assert "Untrained: 3d_fullres." in text


def test_the_first_cases_are_linked_with_all_their_channels(tmp_path):
    (tmp_path / "in").mkdir()
    for case in ("b_1", "a.x", "c"):
        for channel in (0, 1):
            (tmp_path / "in" / f"{case}_{channel:04d}.nii.gz").write_text(f"{case} {channel}")
    (tmp_path / "in" / "notes.txt").touch()
    assert link_cases(tmp_path / "in", tmp_path / "out", 2) == ["a.x", "b_1"]
    names = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert names == [f"{case}_{channel:04d}.nii.gz" for case in ("a.x", "b_1") for channel in (0, 1)]
    assert (tmp_path / "out" / "b_1_0001.nii.gz").read_text() == "b_1 1"
    assert link_cases(tmp_path / "in", tmp_path / "out", 1) == ["a.x"]
    assert len(list((tmp_path / "out").iterdir())) == 2
    with pytest.raises(ValueError, match="no image named"):
        link_cases(tmp_path / "out" / "none", tmp_path / "x", 1)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="memory is read from Linux's /proc")
def test_a_run_is_timed_until_its_masks_and_its_children_count_as_its_memory(tmp_path, monkeypatch):
    child = "import time; held = bytearray(90_000_000); time.sleep(1.2)"
    code = (
        "import subprocess, sys, time, pathlib\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('-o') + 1]); out.mkdir(parents=True)\n"
        "for case in 'ab':\n"
        "    time.sleep(0.5)\n"
        "    (out / f'{case}.nii.gz').touch()\n"
        "child.wait()\n"
    )
    demo = Demo(tmp_path)
    command = ["python", "-c", code, "-o", str(tmp_path / "out" / "0")]
    run = run_measured(demo, command, str(tmp_path))
    first, second = run["written_s"]
    assert 0.5 <= first <= second - 0.45
    assert second <= run["total_s"]
    assert run["peak_mb"] > 90
    with pytest.raises(RuntimeError, match="failed: no such thing"):
        run_measured(demo, ["python", "-c", "raise SystemExit('no such thing')", "-o", str(tmp_path / "out" / "1")], "")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are read from Linux's /proc")
def test_the_tree_of_a_process_holds_its_children():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        time.sleep(0.1)
        assert child.pid in process_tree(os.getpid())
        child.kill()


def test_a_data_set_without_plans_is_named_before_anything_runs(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    with pytest.raises(ValueError, match=r"no CascadeOARPlans\.json for data set 77"):
        benchmark_predict(77, out=tmp_path / "out")


def test_an_untrained_model_needs_a_plan_and_no_preprocessed_case(tmp_path, cascade_plans):
    demo = Demo(tmp_path)
    planned = Path(demo.environment["nnUNet_preprocessed"], "Dataset501_Test")
    planned.mkdir(parents=True)
    (planned / "CascadeOARPlans.json").write_text(json.dumps(cascade_plans()))
    dataset = {
        "channel_names": {"0": "CT", "1": "T1", "2": "T2"},
        "labels": {"background": 0, "Eye_L": 1, "Eye_R": 2},
        "file_ending": ".nii.gz",
        "numTraining": 1,
    }
    (planned / "dataset.json").write_text(json.dumps(dataset))
    options = {"dataset_id": 501, "trainer": "CascadeOARTrainer", "plans": "CascadeOARPlans", "fold": "0", "label": 1}
    _untrained_apart(demo, {**options, "configuration": "3d_lowres"}, str(tmp_path / "models"))
    model = tmp_path / "models" / "Dataset501_Test" / "CascadeOARTrainer__CascadeOARPlans__3d_lowres"
    stage = load_stage(model, folds=[0], checkpoint="checkpoint_final.pth", device=torch.device("cpu"))
    logits = stage.predict_logits_from_preprocessed_data(torch.randn(3, 16, 16, 16))
    assert (logits.argmax(0) == 1).all()
