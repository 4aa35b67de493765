"""A workflow of commands that take no time: a plan, two folds that need a GPU each, and a report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow
from nnunet_ext.end_to_end.workflow.step import Resources, Step

#: A step says that it begins and which GPU it sees, waits or fails if it is told to, and writes its output.
WORK = """
import os, sys, time
from pathlib import Path
name, out = sys.argv[1], Path(sys.argv[2])
with out.with_name("begun.txt").open("a") as file:
    print(name, os.environ.get("CUDA_VISIBLE_DEVICES", "-"), os.getpid(), file=file)
while out.with_name(f"hold_{name}").exists():
    time.sleep(0.02)
if out.with_name(f"fail_{name}").exists():
    sys.exit("case 'head_7': no such patient")
if out.with_name(f"fill_{name}").exists():
    out.with_name("checkpoint.pth").write_bytes(bytes(1_000_000))
if (late := out.with_name(f"late_{name}")).exists():
    late.unlink()
    sys.exit(75)
out.write_text(name)
"""
FOLDS = "train_ours_fold_0", "train_ours_fold_1"
NAMES = "plan", *FOLDS, "report"
#: Runs or goes on with such a workflow, in a process of its own.
RUNNER = """
import sys
from pathlib import Path
from nnunet_ext.end_to_end.workflow.by_snakemake import run_by_snakemake
from nnunet_ext.end_to_end.workflow.planned_workflow import read_workflow
from nnunet_ext.folder_lock import owned_folder
with owned_folder(Path(sys.argv[1])):
    print(run_by_snakemake(read_workflow(Path(sys.argv[1])), executor=sys.argv[2], more=sys.argv[3:]))
"""


def small_workflow(
    root: Path,
    experiment: str = "ours",
    *,
    gpus: Sequence[str] = ("4", "7"),
    gpus_of_fold: int = 1,
    limit_minutes: float = 1,
) -> PlannedWorkflow:
    """The workflow, whose plan and folds belong to the data set, and its report to the experiment."""
    data = root / "data"
    data.mkdir(parents=True, exist_ok=True)
    steps = [work(data, "plan")]
    steps += [work(data, name, "plan", gpus=gpus_of_fold) for name in FOLDS]
    report = Step(
        "report",
        "report",
        ("python", "-c", WORK, "report", "report.txt"),
        ("report.txt",),
        tuple(str(data / f"{name}.txt") for name in FOLDS),
        resources=Resources(1, 0.1),
    )
    limits = {step.name: limit_minutes for step in (*steps, report)}
    folder = root / "workflow" / experiment
    return PlannedWorkflow(folder, experiment, data / "workflow", [*steps, report], {}, tuple(gpus), limits)


def work(data: Path, name: str, *before: str, gpus: int = 0) -> Step:
    inputs = tuple(str(data / f"{one}.txt") for one in before)
    out = str(data / f"{name}.txt")
    return Step(name, name, ("python", "-c", WORK, name, out), (out,), inputs, resources=Resources(1, 0.1, gpus))


def begun(root: Path) -> list[tuple[str, str]]:
    """Steps that began, in this order, each with the GPU that it saw."""
    found = []
    for folder in (root / "data", *sorted((root / "workflow").glob("*"))):
        if (file := folder / "begun.txt").is_file():
            found += [tuple(line.split()[:2]) for line in file.read_text().splitlines()]
    return found


def started(workflow: PlannedWorkflow, executor: str = "workstation", *more: str) -> subprocess.Popen:
    """A run of a workflow in a process of its own."""
    command = [sys.executable, "-c", RUNNER, str(workflow.folder), executor, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def job(workflow: PlannedWorkflow, name: str, *more: str, environment: dict | None = None) -> subprocess.Popen:
    """One step as a job."""
    command = [sys.executable, "-m", "nnunet_ext.end_to_end.workflow.one_step", str(workflow.folder), name, *more]
    variables = {**os.environ, **(environment or {})}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(met: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.02)
