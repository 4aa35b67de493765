"""`nnunet_ext workflow` before it runs anything: its script, what was made before it, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ext.cli.main import main
from nnunet_ext.end_to_end.workflow.experiment import workflow
from nnunet_ext.end_to_end.workflow.flags import StepsDiffer
from nnunet_ext.end_to_end.workflow.planned_workflow import read_workflow
from nnunet_ext.files import write_json
from nnunet_ext.reporting.page import REFERENCE

OURS = {"dataset_id": 521, "experiment": "ours", "device": "cpu", "folds": [0, 1], "n_processes": 2}


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """nnU-Net's folders, with a data set of two cases."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    labels = tmp_path / "raw" / "Dataset521_Head" / "labelsTr"
    labels.mkdir(parents=True)
    for case in ("case_1", "case_2"):
        (labels / f"{case}.nii.gz").touch()
    write_json({"labels": {"background": 0, "Eye_L": 1}, "channel_names": {"0": "CT"}}, labels.parent / "dataset.json")
    return tmp_path


def test_a_dry_run_says_what_is_to_do_and_writes_nothing(folders, capsys):
    before = sorted(folders.rglob("*"))
    options = ["-o", str(folders / "workflow"), "-device", "cpu", "-f", "0", "1"]
    assert main(["workflow", "-d", "521", "--experiment", "ours", "--dry-run", *options]) == 0
    assert sorted(folders.rglob("*")) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"export nnUNet_raw={folders / 'raw'}"
    assert f"# 0 of 14 steps are done. To do in {folders / 'workflow' / 'ours'}:" in lines
    assert "nnUNetv2_train 521 3d_lowres 1 -tr CascadeOARTrainer -p CascadeOARPlans --val -device cpu" in lines
    assert lines[-1].startswith("nnunet_ext report ours=cross_validation -o report")  # there are no test cases


def test_what_nnunet_made_before_is_not_made_again_but_half_of_the_data_is(folders, capsys):
    data = folders / "preprocessed" / "Dataset521_Head"
    for folder, cases in (
        ("CascadeOARPlans_3d_fullres", ("case_1", "case_2")),
        ("CascadeOARPlans_3d_lowres", ("case_1",)),
    ):
        (data / folder).mkdir(parents=True)
        for case in cases:
            (data / folder / f"{case}.pkl").touch()
    write_json(
        {"configurations": {"3d_cascade_fullres": {"previous_stage": "3d_lowres"}}}, data / "CascadeOARPlans.json"
    )
    workflow(out=folders / "workflow", **OURS, print_sbatch=True)
    planned = read_workflow(folders / "workflow" / "ours")
    assert planned.done() == {"plan_CascadeOARPlans", "preprocess_CascadeOARPlans_3d_fullres"}
    said = capsys.readouterr().out
    assert "plan_CascadeOARPlans: it was done before" in said
    assert "#SBATCH --array=0-1" in said
    written = {file.name for file in planned.folder.iterdir()}
    assert {"Snakefile", "config.yaml", "profiles", "steps.json"} <= written
    profile = planned.folder / "profiles" / "slurm" / "config.yaml"
    profile.write_text("jobs: 3\n")
    workflow(out=folders / "workflow", **OURS, print_sbatch=True)
    assert profile.read_text() == "jobs: 3\n"


def test_what_was_made_before_is_no_newer_than_what_was_made_of_it(folders):
    workflow(out=folders / "workflow", **OURS, print_sbatch=True)
    planned = read_workflow(folders / "workflow" / "ours")
    plan = planned.step("plan_CascadeOARPlans")
    Path(plan.outputs[0]).parent.mkdir(exist_ok=True)
    write_json({"configurations": {"3d_cascade_fullres": {"previous_stage": "3d_lowres"}}}, Path(plan.outputs[0]))
    planned.flags(plan).begin(plan)
    planned.flags(plan).end(plan, 60)
    (folders / "patients").mkdir()
    workflow(folders / "patients", folders / "workflow", **OURS, print_sbatch=True)
    assert read_workflow(folders / "workflow" / "ours").done() == {"convert", plan.name}


def test_other_options_for_what_took_long_ask_for_another_data_set(folders, capsys):
    (folders / "patients").mkdir()
    patients = {**OURS, "source": folders / "patients", "print_sbatch": True}
    workflow(out=folders / "workflow", **patients)
    planned = read_workflow(folders / "workflow" / "ours")
    step = planned.step("convert")
    planned.flags(step).remove_outputs(step)
    assert Path(step.outputs[0]).exists()  # it took long
    with pytest.raises(
        StepsDiffer, match=r"made by another command than today's.* now `nnunet_ext convert .* --register`"
    ):
        workflow(out=folders / "workflow", **patients, convert_options="--register")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset_id": None}, "name the data set and the experiment: -d 521 --experiment ours"),
        ({"experiment": "a b"}, "experiment 'a b': use letters, digits"),
        ({"experiment": REFERENCE}, "the report calls the reference contours so; choose another name"),
        ({"dataset_id": 522, "source": Path()}, "data set 522 is not there yet; name it with -n"),
        ({"dataset_id": 522}, "there is no data set 522"),
    ],
)
def test_an_experiment_that_cannot_be_made_is_refused(folders, changes, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        workflow(out=folders / "workflow", **{**OURS, **changes}, dry_run=True)


def test_nnunets_variables_are_needed(folders, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(FileNotFoundError, match="variable nnUNet_results is not set"):
        workflow(out=folders / "workflow", **OURS, dry_run=True)
