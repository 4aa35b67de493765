"""The whole of a small study on phantoms, as a user would type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference_tables import check_file

from nnunet_ext.end_to_end.learning.benchmark import benchmark_learning
from nnunet_ext.end_to_end.learning.records import read_records
from nnunet_ext.end_to_end.learning.study import Settings, Study
from nnunet_ext.end_to_end.learning.systems import SYSTEMS
from nnunet_ext.labels.organs import ORGANS

NAMES = [
    "default",
    "merged sides",
    "finer grid",
    "FocusNet",
    "stock, small patches, mirrored",
    "stock's plan, our recipe",
]
DATA = ["--name", "tiny", "--train", "4", "--test", "1"]


def command(folder: Path, *options: str, verb: str = "learning") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nnunet_ext", "benchmark", verb, "-o", "out", "--runs", "runs", *options],
        cwd=folder,
        env={**os.environ, "nnUNet_n_proc_DA": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stamps(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.iterdir()}


@pytest.mark.long
def test_systems_are_trained_scored_and_tabled_and_a_repeated_command_does_what_is_missing(tmp_path, shared_phantom):
    shared_phantom.write(tmp_path / "cases", n_cases=5, size="tiny")
    command(tmp_path, "-i", "cases", *DATA, "--only", *NAMES, "--marks", "0.05")
    command(tmp_path, "--only", "merged sides", "--marks", "0.05", "--true-boxes")
    runs = tmp_path / "runs"
    records = read_records(runs, "tiny")
    assert sorted((r.system, r.true_boxes) for r in records) == [
        ("FocusNet", False),
        ("default", False),
        ("finer grid", False),
        ("merged sides", False),
        ("merged sides", True),
        ("stock's plan, our recipe", False),
        ("stock, small patches, mirrored", False),
    ]
    for record in records:
        assert (record.organs, record.n_cases) == (ORGANS, 1)
        assert min(record.spent_s.values()) > 0
    check_file(json.loads((runs / "tiny_default_0.05_seed0.json").read_text()), "DATA_SYSTEM_MARK_seedS.json")
    check_file(json.loads((runs / "costs_tiny.json").read_text()), "costs_DATA.json")
    before = stamps(runs)
    said = command(tmp_path, "--only", "default", "--marks", "0.05", "0.1")
    assert "default, 0.05 min, seed 0: done before" in said
    after = stamps(runs)
    assert {file.name for file in set(after) - set(before)} == {"tiny_default_0.1_seed0.json"}
    assert all(after[file] == stamp for file, stamp in before.items() if "costs" not in file.name)
    trunks = (tmp_path / "out" / "nnUNet_results").glob("*/*default_seed0_trunk*/fold_0/branch_*.pth")
    assert len(list(trunks)) == 2
    said = command(tmp_path, "--only", "default", "atlas, voting", "--marks", "0.05", verb="methods")
    assert "default, 0.05 min, seed 0: done before" in said
    found = {record.system: record for record in read_records(runs, "tiny")}
    assert found["atlas, voting"].predict_s > 1
    assert (found["atlas, voting"].weights, found["atlas, voting"].n_cases) == ({}, 1)
    assert found["default"].weights.keys() == {"localizer", "segmenter"}
    check_file(json.loads((runs / "tiny_atlas_voting_0_seed0.json").read_text()), "DATA_SYSTEM_MARK_seedS.json")
    assert "| atlas, voting | none | not trained |" in said


def test_the_systems_are_listed_without_a_study():
    assert benchmark_learning(list_systems=True).splitlines() == list(SYSTEMS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_begun(tmp_path):
    folders = {"out": tmp_path / "out", "runs": tmp_path / "runs"}
    with pytest.raises(ValueError, match="no GPU that torch can use; without --device"):
        benchmark_learning(tmp_path, device="cuda", n_train=2, n_test=1, **folders)
    assert not list(tmp_path.iterdir())


def test_a_study_goes_on_on_its_own_device(tmp_path):
    Study(tmp_path / "out", tmp_path / "runs", Settings("heads", "/cases", n_train=2, n_test=1))
    with pytest.raises(ValueError, match="holds a study on cpu; use another folder"):
        benchmark_learning(device="cuda", out=tmp_path / "out", runs=tmp_path / "runs")


def test_a_table_is_made_of_the_records_alone(tmp_path):
    text = benchmark_learning(runs=tmp_path, table_file=tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text() == text + "\n" == "No run has been scored yet.\n"
