"""Other groups' networks by nnU-Net's own commands: five folds of one epoch, the best configuration, a prediction."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from planned_heads import RIVALS

pytestmark = pytest.mark.long
DATASET, PLANS, TRAINER = "Dataset606_Folds", "CascadeOARPlansSmall", "CascadeOARTrainer"


@pytest.fixture(scope="module")
def commands(tmp_path_factory, shared_phantom, forked) -> tuple[Path, Callable[..., str]]:
    """nnU-Net's folders with five training cases and a test case, planned for a few iterations, and how to run a command."""
    folder = tmp_path_factory.mktemp("folds")
    paths = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **paths, "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}

    def run(*command: str) -> str:
        done = subprocess.run([*forked, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    shared_phantom.write(folder / "phantoms", n_cases=6, size="tiny")
    run(
        "nnunet_ext",
        "convert",
        str(folder / "phantoms"),
        "-d",
        "606",
        "-n",
        "Folds",
        "--test",
        "phantom_005",
        "-np",
        "1",
    )
    plan = ["nnUNetv2_plan_and_preprocess", "-d", "606", "-pl", "CascadeOARPlannerSmall", "-npfp", "1", "-np", "1"]
    run(*plan, "-c", "3d_anatomynet")  # all share its data
    file = folder / "preprocessed" / DATASET / f"{PLANS}.json"
    plans = json.loads(file.read_text())
    for name in RIVALS:
        phases = len(plans["configurations"][name].get("phases", [])) or 1
        length = {"num_epochs": phases, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}
        plans["configurations"][name]["training"].update(length)
    file.write_text(json.dumps(plans))
    return folder, run


def test_five_folds_are_trained_compared_and_the_best_predicts(commands):
    folder, run = commands
    for name in RIVALS:
        if name.startswith("2d"):
            run("nnUNetv2_preprocess", "-d", "606", "-plans_name", PLANS, "-c", name, "-np", "1")
        for fold in "01234":
            run("nnUNetv2_train", "606", name, fold, "-tr", TRAINER, "-p", PLANS, "-device", "cpu", "--npz")
    run("nnUNetv2_find_best_configuration", "606", "-c", *RIVALS, "-tr", TRAINER, "-p", PLANS, "-np", "1")
    found = json.loads((folder / "results" / DATASET / "inference_information.json").read_text())
    for name in RIVALS:
        assert f"{TRAINER}__{PLANS}__{name}" in json.dumps(found["all_results"])
    images = folder / "raw" / DATASET / "imagesTs"
    run(
        "nnunet_ext",
        "predict",
        "-d",
        "606",
        "-c",
        "3d_focusnet",
        "-p",
        PLANS,
        "-i",
        str(images),
        "-o",
        str(folder / "out"),
    )
    mask, ct = (
        sitk.ReadImage(str(f)) for f in (folder / "out" / "phantom_005.nii.gz", images / "phantom_005_0000.nii.gz")
    )
    assert (mask.GetSize(), mask.GetSpacing(), mask.GetDirection()) == (
        ct.GetSize(),
        ct.GetSpacing(),
        ct.GetDirection(),
    )
    record = json.loads((folder / "out" / "predictions.json").read_text())
    assert [name.rpartition("__")[2] for name in record["models"]] == ["3d_focusnet"]
