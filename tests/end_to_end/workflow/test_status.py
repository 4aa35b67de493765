"""What `workflow status` says of folds, failures and SLURM's queue, and how fast."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_workflows import FOLDS, begun, job, small_workflow, until

from nnunet_ext.end_to_end.workflow.experiment import planned_experiment
from nnunet_ext.end_to_end.workflow.experiment_steps import Experiment
from nnunet_ext.end_to_end.workflow.flags import ERROR, OUT_OF_TIME, SIGNAL
from nnunet_ext.end_to_end.workflow.one_step import run_step
from nnunet_ext.end_to_end.workflow.slurm import Job
from nnunet_ext.end_to_end.workflow.standing import (
    DONE,
    ENDED,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    TO_DO,
    Standing,
    standings,
)
from nnunet_ext.end_to_end.workflow.status import duration, rows, workflow_status
from nnunet_ext.end_to_end.workflow.step import Step
from nnunet_ext.training.job import write_progress


@pytest.fixture
def made(tmp_path, monkeypatch):
    workflow = small_workflow(tmp_path)
    workflow.write()
    (programs := tmp_path / "bin").mkdir()
    (programs / "squeue").write_text("#!/bin/bash\ncat $(dirname $0)/queue.txt\n")
    (programs / "squeue").chmod(0o755)
    (programs / "queue.txt").touch()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return workflow


def queue(tmp_path: Path, *jobs: str) -> None:
    (tmp_path / "bin" / "queue.txt").write_text("\n".join(jobs))


def test_epoch_dice_and_time_left_of_a_fold_that_trains_are_said(made, tmp_path):
    assert run_step(made.folder, "plan") == 0
    (hold := tmp_path / "data" / f"hold_{FOLDS[0]}").touch()
    done = {"epoch": 30, "num_epochs": 100, "epochs_s": [60.0], "scores": [0.5, 0.7321]}
    write_progress(tmp_path / "data", **done, now_s=time.time())
    training = job(made, FOLDS[0])
    until(lambda: len(begun(tmp_path)) == 2)
    until(lambda: made.flags(made.step(FOLDS[0])).started(made.step(FOLDS[0])).get("process"))
    restarted = workflow_status(tmp_path / "workflow").text.splitlines()[3].split()
    write_progress(tmp_path / "data", **done, now_s=time.time())
    text = workflow_status(tmp_path / "workflow").text.splitlines()
    hold.unlink()
    assert training.wait() == 0
    assert text[0] == "ours: 1 done, 1 running, 2 to do; in squeue 0 running, 0 pending"
    assert restarted[:5] == [FOLDS[0], "running", "30/100", "0.732", "process"]
    assert text[3].split()[:7] == [FOLDS[0], "running", "30/100", "0.732", "70", "min", "process"]


def test_what_failed_is_named_with_its_case_and_its_log(made, tmp_path):
    (tmp_path / "data" / "fail_plan").touch()
    run_step(made.folder, "plan")
    text = workflow_status(tmp_path / "workflow", experiment="ours").text
    assert "exit code 1: case 'head_7': no such patient" in text.splitlines()[2]
    assert text.endswith(f"plan: log {tmp_path / 'data' / 'workflow' / 'logs' / 'plan.log'}")


def test_a_job_that_vanished_or_died_is_named_and_one_that_was_requeued_is_not(made, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "81")
    (tmp_path / "data" / "hold_plan").touch()
    killed = job(made, "plan")
    plan = made.step("plan")
    until(lambda: made.flags(plan).started(plan).get("process"))
    queue(tmp_path, "81|RUNNING|rule_step_wildcards_plan|name")
    assert workflow_status(tmp_path / "workflow").experiments["ours"][0].state == RUNNING
    killed.kill()
    killed.wait()
    until(lambda: standings(made)[0].state != RUNNING)
    queue(tmp_path, "80|RUNNING|rule_step_wildcards_train_ours_fold_0|name")
    (plan_now, fold, *_) = workflow_status(tmp_path / "workflow").experiments["ours"]
    assert (plan_now.state, plan_now.job) == (ENDED, "81")
    assert plan_now.says.startswith("job 81 is not in squeue any more; the log's last line: ")
    assert (fold.state, fold.says) != (QUEUED, "")
    queue(tmp_path, "81|NODE_FAIL|rule_step_wildcards_plan|name")
    assert workflow_status(tmp_path / "workflow").experiments["ours"][0].says.startswith("job 81 is NODE_FAIL; ")
    for kind, state, says in (
        (SIGNAL, "PENDING", QUEUED),
        (SIGNAL, "CANCELLED", FAILED),
        (SIGNAL, "PREEMPTED", PAUSED),
        (ERROR, "PREEMPTED", FAILED),
        (OUT_OF_TIME, "PENDING", QUEUED),
        (OUT_OF_TIME, "RUNNING", QUEUED),
        (OUT_OF_TIME, "FAILED", PAUSED),
        (OUT_OF_TIME, "CANCELLED", FAILED),
    ):
        made.flags(plan).fail(plan, kind, "ended", made.log(plan))
        jobs = {"81": Job("81", state, "rule_step_wildcards_plan", "name")}
        assert standings(made, jobs)[0].state == says
    made.flags(plan).failed_file(plan).unlink()
    assert (
        standings(made, {"81": Job("81", "PREEMPTED", "", "name")})[0].says
        == "job 81 was preempted; the next job goes on"
    )


def test_a_task_of_a_printed_array_that_waits_is_queued(made):
    jobs = {"9_1": Job("9_1", "PENDING", "", "ours-train_ours"), "8_0": Job("8_0", "COMPLETED", "", "ours-plan")}
    plan, _, fold, _ = standings(made, jobs)
    assert (plan.state, fold.state, fold.says) == (TO_DO, QUEUED, "job 9_1 is PENDING")


def test_the_page_says_the_same(made, tmp_path):
    (tmp_path / "data" / "fail_plan").touch()
    run_step(made.folder, "plan")
    workflow_status(tmp_path / "workflow", page=tmp_path / "status.html")
    page = (tmp_path / "status.html").read_text()
    assert "<h2>ours: 1 failed, 3 to do</h2>" in page
    assert '<tr class="failed"><td>plan</td><td>failed</td>' in page
    assert "case &#x27;head_7&#x27;: no such patient" in page
    assert "http" not in page.replace("http-equiv", "")


def test_500_folds_are_said_within_a_second(tmp_path):
    first = Experiment("e0", 521, "Dataset521_Head", *(tmp_path / name for name in ("raw", "preprocessed", "results")))
    for number in range(50):
        made = replace(first, name=f"e{number}", trainer=f"Trainer{number}")
        workflow = planned_experiment(made, tmp_path / "workflow" / made.name)
        workflow.write()
        for step in workflow.steps:
            if step.name.startswith("train_"):
                (fold := Path(step.outputs[0]).parent).mkdir(parents=True)
                write_progress(fold, epoch=40, num_epochs=500, epochs_s=[60], scores=[0.7], now_s=0)
                workflow.flags(step).begin(step)
    before_s = time.process_time()
    status = workflow_status(tmp_path / "workflow")
    taken_s = time.process_time() - before_s
    folds = [one for steps in status.experiments.values() for one in steps if one.step.name.startswith("train_")]
    assert len(folds) == 500
    assert {(one.epoch, one.pseudo_dice) for one in folds} == {(40, 0.7)}
    assert taken_s < 1


def test_where_nothing_was_begun_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="begin one with nnunet_ext workflow"):
        workflow_status(tmp_path)


def test_parts_that_are_done_or_to_do_are_one_row_and_one_that_failed_is_named():
    def part(k: int, state: str, says: str = "", seconds: float | None = None) -> Standing:
        return Standing(
            Step(f"predict_part_{k}_of_5", f"Contour, part {k + 1} of 5", (), ()), state, says, seconds=seconds
        )

    steps = [
        part(0, DONE, seconds=5),
        part(1, FAILED, "case 'a': no file"),
        part(2, DONE, seconds=9),
        part(3, TO_DO, "waits"),
    ]
    whole = Standing(Step("predict", "Contour", (), ()), TO_DO, "waits for parts")
    assert [(one[0], one[1], one[-1]) for one in rows([*steps, part(4, TO_DO, "waits"), whole])] == [
        ("Contour, 2 of 5 parts", DONE, ""),
        ("Contour, part 2 of 5", FAILED, "case 'a': no file"),
        ("Contour, 2 of 5 parts", TO_DO, "waits"),
        ("Contour", TO_DO, "waits for parts"),
    ]


def test_durations_are_in_the_unit_that_fits():
    assert [duration(seconds) for seconds in (45, 720, 12600)] == ["45 s", "12 min", "3.5 h"]
