"""Snakemake on a SLURM of one node (`make long`): time limit, scancel, a dead node, a vanished job, and real trainings."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import psutil
import pytest
from slurm_node import slurm, slurm_node
from small_workflows import FOLDS, begun, small_workflow, started, until

from nnunet_ext.end_to_end.workflow.by_snakemake import write_for_snakemake
from nnunet_ext.end_to_end.workflow.slurm import jobs_of_user
from nnunet_ext.end_to_end.workflow.standing import DONE, QUEUED, standings
from nnunet_ext.end_to_end.workflow.status import workflow_status

pytestmark = pytest.mark.long
if sys.version_info < (3, 11):
    pytest.skip("Snakemake 9 needs Python 3.11", allow_module_level=True)
pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra `cluster` is not installed")
#: The node is nearer than a cluster.
OFTEN = "--slurm-init-seconds-before-status-checks", "3"


@pytest.fixture
def node(tmp_path):
    with slurm_node(tmp_path / "slurm"):
        yield


@pytest.fixture
def made(node, tmp_path):
    workflow = small_workflow(tmp_path, gpus_of_fold=0, limit_minutes=10)
    workflow.write()
    write_for_snakemake(workflow, {"experiment": "ours"}, partition=None, account=None)
    return workflow


def state(workflow, name: str) -> str:
    return next(one.state for one in standings(workflow, jobs_of_user()) if one.step.name == name)


def job_of(workflow, name: str) -> str:
    return workflow.flags(workflow.step(name)).started(workflow.step(name))["job"]


def names(tmp_path: Path) -> list[str]:
    return [name for name, _ in begun(tmp_path)]


def at_once(number: str) -> None:
    """Spare a requeued job the two minutes that SLURM waits."""
    until(lambda: slurm("squeue", "-h", "-j", number, "-o", "%T") == "PENDING")
    slurm("scontrol", "update", f"JobId={number}", "StartTime=now")


def test_a_time_limit_goes_on_and_a_cancelled_fold_is_named_until_the_same_command_makes_it(made, tmp_path):
    data = tmp_path / "data"
    (data / f"late_{FOLDS[0]}").touch()
    (data / f"hold_{FOLDS[1]}").touch()
    run = started(made, "slurm", *OFTEN)
    until(lambda: FOLDS[0] in names(tmp_path), seconds=120)
    at_once(job_of(made, FOLDS[0]))
    until(lambda: FOLDS[1] in names(tmp_path), seconds=120)
    until(lambda: made.flags(made.step(FOLDS[1])).started(made.step(FOLDS[1])).get("job"))
    slurm("scancel", job_of(made, FOLDS[1]))
    said = run.communicate(timeout=240)[0]
    assert f"FAILED: {FOLDS[1]}: ended by SIGTERM: cancelled, preempted, or out of time" in said
    assert f"waiting={{'report': '{FOLDS[1]}'}}" in said
    assert names(tmp_path).count(FOLDS[0]) == 2
    assert state(made, FOLDS[0]) == DONE
    (data / f"hold_{FOLDS[1]}").unlink()
    assert "failed={}" in started(made, "slurm", *OFTEN).communicate(timeout=240)[0]
    assert [one.state for one in standings(made)] == [DONE] * 4


def test_a_preempted_fold_is_queued_and_run_again_while_the_rest_finishes(made, tmp_path):
    (hold := tmp_path / "data" / f"hold_{FOLDS[0]}").touch()
    run = started(made, "slurm", *OFTEN, "--default-resources", "slurm_partition=low")
    until(lambda: FOLDS[0] in names(tmp_path), seconds=120)
    until(lambda: made.flags(made.step(FOLDS[0])).started(made.step(FOLDS[0])).get("job"))
    number = job_of(made, FOLDS[0])
    until(lambda: state(made, FOLDS[1]) == DONE, seconds=120)
    urgent = slurm("sbatch", "--parsable", "--partition=main", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: slurm("squeue", "-h", "-j", number, "-o", "%T") in ("PENDING", "COMPLETING"), seconds=60)
    until(lambda: state(made, FOLDS[0]) == QUEUED, seconds=60)
    hold.unlink()
    until(lambda: slurm("squeue", "-h", "-j", urgent, "-o", "%T") not in ("PENDING", "RUNNING"), seconds=120)
    at_once(number)
    assert "failed={}" in run.communicate(timeout=240)[0]
    assert [one.state for one in standings(made)] == [DONE] * 4
    assert names(tmp_path).count(FOLDS[0]) == 2
    assert names(tmp_path).count(FOLDS[1]) == 1


def test_a_job_whose_node_died_is_run_again_and_one_that_vanished_is_named_while_the_rest_finishes(
    made, tmp_path, monkeypatch
):
    data, programs = tmp_path / "data", tmp_path / "bin"
    programs.mkdir()
    hidden = programs / "hidden.txt"
    hidden.write_text("none\n")
    squeue = shutil.which("squeue")
    (programs / "squeue").write_text(f'#!/bin/bash\n{squeue} "$@" | grep -v -f {hidden}\nexit 0\n')
    (programs / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (data / "hold_plan").touch()
    run = started(made, "slurm", *OFTEN)
    until(lambda: "plan" in names(tmp_path), seconds=120)
    until(lambda: made.flags(made.step("plan")).started(made.step("plan")).get("job"))
    number = job_of(made, "plan")
    slurm("scontrol", "update", "NodeName=localhost", "State=DOWN", "Reason=test")
    until(lambda: state(made, "plan") == QUEUED, seconds=60)
    (data / "hold_plan").unlink()
    until(
        lambda: not _steps_of_slurm(), seconds=60
    )  # the node comes back by itself, and would refuse its job until then
    at_once(number)
    (data / f"hold_{FOLDS[0]}").touch()
    until(lambda: FOLDS[0] in names(tmp_path), seconds=240)
    until(lambda: made.flags(made.step(FOLDS[0])).started(made.step(FOLDS[0])).get("job"))
    number = job_of(made, FOLDS[0])
    hidden.write_text(f"^{number}|\n")
    _kill_without_a_word(made, FOLDS[0])
    said = run.communicate(timeout=300)[0]
    assert re.search(rf"FAILED: {FOLDS[0]}: job {number} is not in squeue any more; the log's last line: ", said)
    assert state(made, FOLDS[1]) == DONE
    assert workflow_status(tmp_path / "workflow").experiments["ours"][1].job == number
    (data / f"hold_{FOLDS[0]}").unlink()
    assert "failed={}" in started(made, "slurm", *OFTEN).communicate(timeout=240)[0]
    assert names(tmp_path).count(FOLDS[1]) == 1


def _steps_of_slurm() -> list[int]:
    return [process.pid for process in psutil.process_iter(["name"]) if process.info["name"] == "slurmstepd"]


def _kill_without_a_word(workflow, name: str) -> None:
    """End a job's processes with no chance to note anything, as a machine does that dies."""
    lease = workflow.flags(workflow.step(name)).lease_file(workflow.step(name))
    pid = int(re.search(r'"pid": (\d+)', lease.read_text())[1])
    os.kill(pid, 9)
