"""Steps whose cases are shared among jobs: the same files, other numbers of parts, failures, and older outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from case_folders import truncate, write_case
from planned_heads import NAME, make_raw, set_paths

from nnunet_ext.end_to_end.workflow.experiment import planned_experiment, workflow
from nnunet_ext.end_to_end.workflow.experiment_steps import Experiment
from nnunet_ext.end_to_end.workflow.flags import ERROR
from nnunet_ext.end_to_end.workflow.one_step import run_step
from nnunet_ext.end_to_end.workflow.parts import (
    begun_in_parts,
    in_parts,
    look_again_after_a_failure,
    numbers_of_parts,
)
from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow, read_workflow
from nnunet_ext.end_to_end.workflow.step import Step
from nnunet_ext.files import write_json
from nnunet_ext.leases import Lease

QUICK = {"device": "cpu", "folds": [0, 1], "n_processes": 1, "print_sbatch": True}


def contents(folder: Path) -> dict[str, bytes]:
    """Files below a folder and what they hold, but for hidden ones."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {
        file.as_posix(): (folder / file).read_bytes()
        for file in files
        if not any(name.startswith(".") for name in file.parts)
    }


# --- real files -------------------------------------------------------------------------------------------------------


def run_at_once(made: PlannedWorkflow, forked: list[str], *names: str) -> list[str]:
    """Run the commands of steps at once, and note what came of them as their jobs do. What they say last."""
    steps = [made.step(name) for name in names]
    for step in steps:
        made.flags(step).begin(step)
    environment = {**os.environ, **made.environment}
    running = [
        subprocess.Popen(
            [*forked, *step.words], cwd=made.folder, env=environment, stdout=PIPE, stderr=STDOUT, text=True
        )
        for step in steps
    ]
    said = [one.communicate()[0].strip().splitlines()[-1] for one in running]
    for step, one, line in zip(steps, running, said, strict=True):
        if one.returncode == 0 and not made.flags(step).missing(step):
            made.flags(step).end(step, 1.0)
        else:
            made.flags(step).fail(step, ERROR, line, made.log(step))
    return said


@pytest.mark.slow
def test_two_jobs_at_once_convert_to_the_files_of_one_and_after_a_failure_the_cases_are_found_anew(
    tmp_path, monkeypatch, capsys, forked
):
    for seed, case in enumerate("abc"):
        write_case(tmp_path / "patients" / case, seed=seed, skip=("T2",))
    truncate(tmp_path / "patients" / "c" / "T1.nii.gz")
    words = "--modalities CT T1 --no-n4 --no-preview"

    def planned(n_parts: int) -> PlannedWorkflow:
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / f"{n_parts}" / name))
        out = tmp_path / f"{n_parts}" / "workflow"
        which = {"dataset_id": 501, "name": "Heads", "experiment": "ours", "convert_options": words}
        workflow(tmp_path / "patients", out, parts=n_parts, **which, **QUICK)
        return read_workflow(out / "ours")

    parts = [f"convert_part_{k}_of_2" for k in range(2)]
    run_at_once(planned(2), forked, "convert_scan")
    assert run_at_once(planned(2), forked, *parts)[0].startswith("nnunet_ext convert: error: case 'c': ")
    shutil.rmtree(tmp_path / "patients" / "c")
    capsys.readouterr()
    again = planned(2)
    assert "# convert: a part of it failed, so the cases are found anew" in capsys.readouterr().out
    assert again.done() == set()
    run_at_once(again, forked, "convert_scan")
    run_at_once(again, forked, *parts)
    run_at_once(again, forked, "convert")
    run_at_once(planned(1), forked, "convert")
    one, two = (contents(tmp_path / name / "raw" / "Dataset501_Heads") for name in "12")
    assert one == two
    assert sum(name.endswith(".nii.gz") for name in one) == 6
    assert [step.name for step in planned(2).steps][:2] == ["convert", "plan_CascadeOARPlans"]  # in any number of parts
    assert planned(2).done() == {"convert"}


@pytest.mark.slow
def test_two_jobs_at_once_preprocess_what_the_last_one_takes_for_done(
    tmp_path, monkeypatch, cascade_plans: Callable[..., dict], forked
):
    raw = make_raw(tmp_path, n=3)
    planned = tmp_path / "preprocessed" / NAME
    shutil.copy(raw / "dataset.json", planned)
    plans = cascade_plans(spacing_mm=(3.1, 1.7, 1.6), localizer_spacing_mm=(4.0, 3.0, 3.0), channels=("CT", "T1"))
    write_json({**plans, "dataset_name": NAME}, planned / "CascadeOARPlans.json")
    set_paths(monkeypatch, tmp_path)
    workflow(out=tmp_path / "workflow", experiment="ours", dataset_id=501, parts=2, **QUICK)
    made = read_workflow(tmp_path / "workflow" / "ours")
    name = "preprocess_CascadeOARPlans_3d_lowres"
    run_at_once(made, forked, *(f"{name}_part_{k}_of_2" for k in range(2)))
    data = planned / "CascadeOARPlans_3d_lowres"
    files = {file: file.stat().st_mtime_ns for file in data.iterdir() if file.is_file()}
    assert len(files) == 9
    assert run_at_once(made, forked, name)[0].endswith("0 written, 3 skipped (already there), 0 failed")
    assert files == {file: file.stat().st_mtime_ns for file in data.iterdir() if file.is_file()}
    assert {"plan_CascadeOARPlans", name} <= made.done()


# --- stand-ins --------------------------------------------------------------------------------------------------------

#: Adds a line to a file in the folder of its output.
WRITE = "import sys; from pathlib import Path; p = Path(sys.argv[1]); p.mkdir(exist_ok=True)\n"
WRITE += "(p / sys.argv[2]).write_text('made')"


def divided(root: Path, n_parts: int) -> PlannedWorkflow:
    """Networks, and a prediction by them, which is shared among jobs."""
    networks = Step("networks", "networks", ("python", "-c", WRITE, "model", "weights"), ("model",))
    whole = Step("predict", "predict", ("python", "-c", WRITE, "predicted", "all"), ("predicted",), ("model",))
    scan = Step(
        "predict_scan",
        "scan",
        ("python", "-c", WRITE, "listed", "list.json"),
        ("listed/list.json",),
        ("model",),
        removes=("listed", "predicted"),
    )
    made = PlannedWorkflow(root, "ours", root / "shared", [networks, *in_parts(whole, n_parts, scan=scan, last=whole)])
    made.write()
    return made


def run_all(made: PlannedWorkflow) -> None:
    assert [run_step(made.folder, step.name) for step in made.steps] == [0] * len(made.steps)


def test_what_older_networks_predicted_goes_when_the_cases_are_listed_and_not_at_the_end(tmp_path):
    made = divided(tmp_path, 2)
    run_all(made)
    (tmp_path / "predicted" / "of_a_part").touch()
    (tmp_path / "predicted" / "all").unlink()
    flags = made.flags(made.step("predict"))
    flags.done_file(made.step("predict")).unlink()
    assert run_step(tmp_path, "predict") == 0
    assert {file.name for file in (tmp_path / "predicted").iterdir()} == {"of_a_part", "all"}
    made.flags(made.step("networks")).done_file(made.step("networks")).unlink()
    run_all(made)
    assert {file.name for file in (tmp_path / "predicted").iterdir()} == {"all"}


def test_what_is_done_stays_done_in_any_number_of_parts_and_two_numbers_are_not_mixed(tmp_path):
    said: list[str] = []
    two, whole = divided(tmp_path, 2), divided(tmp_path, 1)
    assert numbers_of_parts(whole, 3, said.append) == {"predict": 3}
    for name in ("networks", "predict_scan", "predict_part_1_of_2"):
        assert run_step(divided(tmp_path, 2).folder, name) == 0
    part = two.step("predict_part_0_of_2")
    two.flags(part).begin(part)
    assert set(begun_in_parts(whole, whole.step("predict"))) == {2}
    lease = Lease(two.flags(part).lease_file(part))
    with pytest.raises(ValueError, match=r"predict runs in 2 parts: process \d+ .* give --parts 2, or wait"):
        numbers_of_parts(whole, 3, said.append)
    assert numbers_of_parts(whole, 2, said.append) == {"predict": 2}
    assert said == []
    lease.release()
    for n_parts in (3, 1):
        assert numbers_of_parts(whole, n_parts, said.append) == {"predict": n_parts}
        assert said.pop().startswith(f"predict: it was begun in 2 parts and goes on in {n_parts}; cases that are done")
    run_all(divided(tmp_path, 2))
    assert numbers_of_parts(whole, 3, said.append) == {"predict": 1}


def test_one_job_that_runs_is_waited_for_instead_of_being_shared(tmp_path):
    said: list[str] = []
    whole = divided(tmp_path, 1)
    lease = Lease(whole.flags(whole.step("predict")).lease_file(whole.step("predict")))
    assert numbers_of_parts(whole, 4, said.append) == {"predict": 1}
    assert said[0].startswith("predict: it runs in one job, which is waited for: process ")
    lease.release()


def test_a_scan_that_takes_predictions_away_is_not_repeated_for_a_failed_part(tmp_path):
    made = divided(tmp_path, 2)
    for name in ("networks", "predict_scan"):
        assert run_step(made.folder, name) == 0
    part = made.step("predict_part_0_of_2")
    made.flags(part).begin(part)
    made.flags(part).fail(part, "error", "case 'a': no such file", made.log(part))
    assert look_again_after_a_failure(made) == []


def test_parts_of_experiments_on_one_data_set_are_shared_and_those_of_a_prediction_are_not(tmp_path):
    first = Experiment("e", 521, "Dataset521_Head", *(tmp_path / name for name in ("raw", "preprocessed", "results")))
    parts = {"preprocess_CascadeOARPlans_3d_fullres": 2, "predict": 2}
    made = planned_experiment(first, tmp_path / "e", parts=parts)
    places = {step.name: made.place(step) for step in made.steps if "_part_" in step.name or "_scan" in step.name}
    assert {name: place == made.shared for name, place in places.items()} == {
        "preprocess_CascadeOARPlans_3d_fullres_part_0_of_2": True,
        "preprocess_CascadeOARPlans_3d_fullres_part_1_of_2": True,
        "predict_scan": False,
        "predict_part_0_of_2": False,
        "predict_part_1_of_2": False,
    }
    made.write()
    assert read_workflow(tmp_path / "e").steps == made.steps
    assert json.loads((tmp_path / "e" / "steps.json").read_text())["needs"]["predict"][-1] == "predict_part_1_of_2"


@pytest.mark.parametrize("n_parts", [0, 1001])
def test_no_part_and_more_than_an_array_of_slurm_holds_are_refused(tmp_path, monkeypatch, n_parts):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path))
    (tmp_path / "Dataset501_Head").mkdir()
    with pytest.raises(ValueError, match=f"{n_parts} parts: give 1 to 1000"):
        workflow(out=tmp_path, dataset_id=501, experiment="ours", parts=n_parts, dry_run=True)
