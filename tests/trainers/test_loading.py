"""Trainings as jobs of a workflow that lose a process which loads cases, or the room on the disk, and go on."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from small_disks import fill, mounted
from small_workflows import job, until, work
from tiny_cases import DATASET

from nnunet_ext.end_to_end.workflow.one_step import run_step
from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow
from nnunet_ext.end_to_end.workflow.standing import DONE, FAILED, RUNNING, TO_DO, standings
from nnunet_ext.end_to_end.workflow.status import workflow_status
from nnunet_ext.end_to_end.workflow.step import Resources, Step
from nnunet_ext.training.loading import LoaderDied, next_batch

TRAINING = "train_CascadeOARTrainer__CascadeOARPlans__3d_lowres_fold_0"


@pytest.fixture
def made(folders, make, monkeypatch) -> PlannedWorkflow:
    """A real training by nnU-Net's command, with one process per loader, and another step beside it."""
    trainer = make(configuration="3d_lowres", num_epochs=4, iterations_per_epoch=4, val_iterations_per_epoch=1)
    base = folders / "preprocessed" / "Dataset501_Test"
    (base / "CascadeOARPlans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (base / "dataset.json").write_text(json.dumps({**DATASET, "numTraining": 4}))
    for name in ("nnUNet_n_proc_DA", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("nnUNet_compile", "f")
    command = (
        "env nnunet_ext_validation=off nnUNetv2_train 501 3d_lowres 0 -tr CascadeOARTrainer -p CascadeOARPlans --c"
    )
    fold = Path(trainer.output_folder)
    step = Step(
        TRAINING,
        "Train 3d_lowres, fold 0",
        tuple(command.split()),
        (str(fold / "checkpoint_final.pth"),),
        how=("-device", "cpu"),
        resources=Resources(1, 1.0),
        lasting=True,
    )
    (folders / "data").mkdir()
    workflow = PlannedWorkflow(
        folders / "workflow" / "ours", "ours", base / "workflow", [step, work(folders / "data", "other")]
    )
    workflow.write()
    return workflow


def epoch(workflow: PlannedWorkflow) -> int:
    return next(one.epoch or 0 for one in standings(workflow))


def test_a_full_disk_and_a_killed_loader_are_said_with_fold_and_remedy_and_the_same_command_goes_on(made, folders):
    with mounted(Path(made.steps[0].outputs[0]).parent, megabytes=4) as fold:
        other = fill(fold, leave=100_000)
        assert run_step(made.folder, TRAINING) == 1
        failed, waiting = standings(made)
        assert (failed.state, waiting.state) == (FAILED, TO_DO)
        assert re.search(
            r"OSError: .*fold_0/checkpoint_latest.pth could not be written .* Make room, then go on: ", failed.says
        )
        assert not [file.name for file in fold.iterdir() if "checkpoint" in file.name]
        other.unlink()
        kill_a_loader_and_go_on(made, folders)


def kill_a_loader_and_go_on(made: PlannedWorkflow, folders: Path) -> None:
    training = job(made, TRAINING)
    until(lambda: standings(made)[0].state == RUNNING and epoch(made) > 0)
    assert run_step(made.folder, "other") == 0
    command = psutil.Process(made.flags(made.steps[0]).started(made.steps[0])["process"]["pid"])
    os.kill(command.children(recursive=True)[0].pid, signal.SIGKILL)
    assert training.wait(60) == 1
    (one, other) = standings(made)
    assert (one.state, other.state) == (FAILED, DONE)
    assert "Dataset501_Test, 3d_lowres, fold 0: a process that loads cases was killed (SIGKILL)" in one.says
    assert "nnUNet_n_proc_DA, now 1" in one.says
    assert "Train 3d_lowres, fold 0  failed" in workflow_status(folders / "workflow").text

    assert run_step(made.folder, TRAINING) == 0
    assert [one.state for one in standings(made)] == [DONE, DONE]
    assert epoch(made) == 4


class Broken:
    """A loader without processes, as with `nnUNet_n_proc_DA=0`."""

    def __next__(self) -> dict:
        raise RuntimeError("no voxel of Eye_L")


def test_an_error_of_the_loader_itself_stays_as_it_is():
    with pytest.raises(RuntimeError, match=r"^no voxel of Eye_L$"):
        next_batch(Broken(), of="fold 0", go_on="--c")


class Failed(Broken):
    """A loader whose process has ended by itself."""

    _processes = (SimpleNamespace(exitcode=0),)


def test_a_process_that_failed_by_itself_has_said_why():
    with pytest.raises(
        LoaderDied, match=r"^fold 0: a process that loads cases failed, with an error that stands above; .*--c$"
    ):
        next_batch(Failed(), of="fold 0", go_on="--c")
