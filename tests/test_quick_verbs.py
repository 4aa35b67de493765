"""What the verbs import in processes of their own: those that use no network know no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from case_folders import write_case
from small_experiments import LABELS, SHAPE, label_map, write
from small_workflows import small_workflow
from tiny_starter import write_starter

from nnunet_ext.files import write_json

#: Modules that only plans and trainings need.
UNNEEDED = (
    "matplotlib",
    "seaborn",
    "nnunetv2.experiment_planning",
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
    "nnunet_ext.plans",
    "nnunet_ext.trainers",
    "nnunet_ext.training.losses",
)


def imported(*arguments: str) -> set[str]:
    """Names of the modules that a verb imports, also in the processes that it starts.

    Python does not list those imported by their names as text, as public functions are. It does list what they import.
    """
    done = subprocess.run(
        [sys.executable, "-m", "nnunet_ext", *arguments],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    """References, predictions and images of two cases."""
    root = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    for number, case in enumerate(("case_0", "case_1")):
        write(root / "labelsTs", case, label_map())
        write(root / "predictions", case, label_map(number))
        write(root / "imagesTs", f"{case}_0000", rng.normal(40, 60, SHAPE).astype(np.int16))
    for folder in (root, root / "predictions"):
        write_json({"labels": LABELS, "channel_names": {"0": "CT"}}, folder / "dataset.json")
    return root


def test_help_of_every_kind_knows_no_torch():
    for verb in ([], ["view"], ["evaluate"], ["report"], ["predict"]):
        found = imported(*verb, "--help")
        assert "nnunet_ext.cli.main" in found
        assert "torch" not in found


def test_evaluate_and_report_and_view_know_no_torch(cases, tmp_path):
    scores, labels = str(tmp_path / "scores"), str(cases / "labelsTs")
    evaluated = imported("evaluate", str(cases / "predictions"), labels, "-o", scores, "-np", "2")
    assert "nnunet_ext.evaluation.one_case" in evaluated
    assert "torch" not in evaluated
    page = str(tmp_path / "page.html")
    viewed = imported("view", str(cases / "predictions"), "-i", str(cases / "imagesTs"), "-o", page)
    assert "nnunet_ext.reporting.volumes" in viewed
    assert "torch" not in viewed
    reported = imported("report", f"A={scores}", "-o", str(tmp_path / "report"))
    assert "nnunet_ext.reporting.tables" in reported
    assert "torch" not in reported


def test_the_status_of_a_workflow_knows_no_torch(tmp_path):
    small_workflow(tmp_path).write()
    found = imported("workflow", "status", "-o", str(tmp_path / "workflow"))
    assert "nnunet_ext.end_to_end.workflow.standing" in found
    assert not found & {"torch", "numpy", "nnunetv2"}


def test_a_whole_prediction_imports_nothing_that_only_plans_and_trainings_need(cascade_plans, tmp_path):
    starter = write_starter(tmp_path / "starter", cascade_plans)
    write_case(tmp_path / "in" / "case_a")
    found = imported(
        *("predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")),
        *("--starter", str(starter), "-device", "cpu"),
    )
    assert (tmp_path / "out" / "case_a.nii.gz").is_file()
    assert "torch" in found
    assert [name for name in UNNEEDED if name in found] == []
