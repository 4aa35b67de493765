"""Snakemake on this machine: order, GPUs, a real error, and SIGKILL of Snakemake and of its jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from small_workflows import FOLDS, begun, small_workflow, started, until

from nnunet_ext.end_to_end.workflow import by_snakemake
from nnunet_ext.end_to_end.workflow.by_snakemake import (
    NoSnakemake,
    cancel_orphans,
    check_snakemake,
    write_for_snakemake,
)
from nnunet_ext.end_to_end.workflow.standing import DONE, standings

HAS_SNAKEMAKE = pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake 9 needs Python 3.11")
if sys.version_info >= (3, 11):
    pytest.importorskip("snakemake", reason="the extra `cluster` is not installed")


@pytest.fixture
def made(tmp_path):
    workflow = small_workflow(tmp_path)
    workflow.write()
    write_for_snakemake(workflow, {"experiment": "ours"}, partition=None, account=None)
    return workflow


@HAS_SNAKEMAKE
def test_killed_while_a_fold_trains_the_same_command_trains_no_fold_twice_and_touched_rules_plan_no_job(made, tmp_path):
    data = tmp_path / "data"
    for fold in FOLDS:
        (data / f"hold_{fold}").touch()
    killed = started(made)
    until(lambda: len(begun(tmp_path)) == 3)
    snakemake = json.loads((made.folder / "snakemake.json").read_text())["pid"]
    os.kill(snakemake, signal.SIGSTOP)  # it shall not see that a fold ends
    killed.kill()
    killed.wait()
    (data / f"hold_{FOLDS[1]}").unlink()
    until(lambda: FOLDS[1] in made.done())
    again = started(made)
    until(lambda: "another run makes it" in (made.folder / "snakemake.log").read_text())
    (data / f"hold_{FOLDS[0]}").unlink()
    said = again.communicate()[0]
    assert f"Snakemake of a killed run (process {snakemake}) is ended; its jobs go on" in said
    assert f"{FOLDS[0]}: another run makes it, which is waited for" in said
    assert [one.state for one in standings(made)] == [DONE] * 4
    assert sorted(name for name, _ in begun(tmp_path)) == ["plan", "report", *FOLDS]
    gpus = {name: gpu for name, gpu in begun(tmp_path) if name in FOLDS}
    assert sorted(gpus.values()) == ["4", "7"]
    touched = [made.folder / "Snakefile", *(made.folder / "profiles").rglob("config.yaml")]
    for file in touched:
        file.touch()
    command = [Path(sys.executable).with_name("snakemake"), "--dry-run", "--profile", "profiles/workstation"]
    said = subprocess.run(command, cwd=made.folder, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in said.stdout + said.stderr


@HAS_SNAKEMAKE
@pytest.mark.long
def test_two_experiments_at_once_make_what_they_share_once(made, tmp_path):
    other = small_workflow(tmp_path, "whole")
    other.write()
    write_for_snakemake(other, {"experiment": "whole"}, partition=None, account=None)
    (hold := tmp_path / "data" / f"hold_{FOLDS[0]}").touch()
    both = [started(made), started(other)]
    until(lambda: len(begun(tmp_path)) == 3)
    until(lambda: "another run makes it" in "".join((w.folder / "snakemake.log").read_text() for w in (made, other)))
    hold.unlink()
    assert all("failed={}" in run.communicate()[0] for run in both)
    assert sorted(name for name, _ in begun(tmp_path)) == ["plan", "report", "report", *FOLDS]


@HAS_SNAKEMAKE
@pytest.mark.long
def test_an_interrupt_ends_the_jobs_and_the_same_command_goes_on(made, tmp_path):
    for fold in FOLDS:
        (tmp_path / "data" / f"hold_{fold}").touch()
    run = started(made)
    until(lambda: len(begun(tmp_path)) == 3)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    pids = [int(line.split()[2]) for line in (tmp_path / "data" / "begun.txt").read_text().splitlines()]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert [one.says for one in standings(made)[1:3]] == ["ended by SIGINT: cancelled, preempted, or out of time"] * 2
    for fold in FOLDS:
        (tmp_path / "data" / f"hold_{fold}").unlink()
    assert "failed={}" in started(made).communicate()[0]


def test_jobs_that_wait_for_a_killed_snakemake_are_cancelled_and_no_others(made, tmp_path, monkeypatch):
    (programs := tmp_path / "bin").mkdir()
    jobs = ["81|PENDING|c|run-1", "82|RUNNING|c|run-1", "83|PENDING|c|run-2", "84|PENDING|c|of-another-folder"]
    lines = "\n".join(jobs)
    for name, script in (("squeue", f"echo '{lines}'"), ("scancel", f'echo "$@" > {tmp_path / "cancelled.txt"}')):
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    said: list[str] = []
    cancel_orphans(made, said.append)
    (made.folder / "snakemake.log").write_text("Building DAG\nSLURM run ID: run-1\n...\nSLURM run ID: run-2\n")
    cancel_orphans(made, said.append)
    assert said == ["jobs that wait for a killed Snakemake are cancelled and submitted again: 81, 83"]
    assert (tmp_path / "cancelled.txt").read_text() == "--state=PENDING 81 83\n"


def test_without_snakemake_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr(by_snakemake, "find_spec", lambda name: None)
    with pytest.raises(NoSnakemake, match=r"pip install 'nnunet_ext\[cluster\]'. Without it, --print-sbatch prints"):
        check_snakemake("slurm")
