"""How each step of a workflow stands: done, running, failed, vanished or waiting. It imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_ext.end_to_end.workflow.flags import ERROR, FOLDER, OUT_OF_TIME
from nnunet_ext.end_to_end.workflow.job_arrays import job_arrays
from nnunet_ext.end_to_end.workflow.one_step import read_progress
from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow
from nnunet_ext.end_to_end.workflow.running import last_line
from nnunet_ext.end_to_end.workflow.slurm import ALIVE, PREEMPTED, Job
from nnunet_ext.end_to_end.workflow.step import Step, producers
from nnunet_ext.leases import read_owner, runs_here

DONE, RUNNING, QUEUED, FAILED, ENDED, TO_DO = "done", "running", "queued", "failed", "ended", "to do"
#: Its next job goes on.
PAUSED = "out of time"


@dataclass(frozen=True)
class Standing:
    """How a step stands.

    Attributes:
        step: The step.
        state: `DONE`, `RUNNING`, `QUEUED`, `PAUSED`, `FAILED`, `ENDED` without a word, or `TO_DO`.
        says: Who makes it, what failed with its last line, or for what it waits.
        job: Of the batch system, the last that began it.
        since_s: Time since 1970 at which it began, ended or failed. 0 if it has not begun.
        seconds: That it took, None if it is not done.
        epoch, num_epochs: Of a training.
        pseudo_dice: Of a training, nnU-Net's EMA of the last epoch, 0 to 1.
        left_s: Seconds that a running training has left, if no patience ends it sooner.
    """

    step: Step
    state: str
    says: str = ""
    job: str | None = None
    since_s: float = 0.0
    seconds: float | None = None
    epoch: int | None = None
    num_epochs: int | None = None
    pseudo_dice: float | None = None
    left_s: float | None = None


def standings(workflow: PlannedWorkflow, jobs: Mapping[str, Job] | None = None) -> list[Standing]:
    """How the steps stand.

    Args:
        workflow: As written.
        jobs: Number -> job of SLURM. None if SLURM is not there.
    """
    done, needs = workflow.done(), producers(workflow.steps)
    now_s = {place: clock_s(place / FOLDER) for place in {workflow.place(step) for step in workflow.steps}}
    queued = _steps_of_jobs(jobs or {}, workflow)
    found = []
    for step in workflow.steps:
        found.append(_standing(workflow, step, step.name in done, now_s[workflow.place(step)], jobs, queued))
        if found[-1].state == TO_DO and (missing := [name for name in needs[step.name] if name not in done]):
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            found[-1] = replace(found[-1], says=f"waits for {workflow.step(missing[0]).title}{more}")
    return found


def _standing(
    workflow: PlannedWorkflow,
    step: Step,
    done: bool,
    now_s: float,
    jobs: Mapping[str, Job] | None,
    queued: Mapping[str, Job],
) -> Standing:
    flags = workflow.flags(step)
    progress: Mapping[str, Any] = read_progress(workflow, step) if step.name.startswith("train_") else {}
    training: dict[str, Any] = {key: progress.get(key) for key in ("epoch", "num_epochs", "pseudo_dice")}
    if done:
        file = flags.done_file(step)
        return Standing(step, DONE, since_s=file.stat().st_mtime, seconds=flags.seconds(step), **training)
    started = flags.started(step)
    if (owner := read_owner(flags.lease_file(step), now_s=now_s)) is not None:
        job = jobs.get(started.get("job") or "") if jobs else None
        if job is None or job.state in ALIVE or not started.get("job"):
            since_s = _time_s(flags.started_file(step))
            left_s = _left_s(progress, since_s=since_s, now_s=now_s)
            return Standing(step, RUNNING, owner, started.get("job"), since_s, left_s=left_s, **training)
    job = (jobs or {}).get(started.get("job") or "") or queued.get(step.name)
    if job is not None and job.state in ALIVE and job.state != "RUNNING":  # requeued, or the next one
        return Standing(step, QUEUED, f"job {job.number} is {job.state}", job.number, **training)
    failure = flags.failure(step)
    if (
        job is not None and job.state == PREEMPTED and started and failure.get("kind") != ERROR
    ):  # where it is not requeued
        at_s = _time_s(flags.started_file(step))
        says = f"job {job.number} was preempted; the next job goes on"
        return Standing(step, PAUSED, says, job.number, at_s, **training)
    if failure:
        at_s = _time_s(flags.failed_file(step))
        if failure["kind"] != OUT_OF_TIME:
            return Standing(step, FAILED, failure["says"], failure.get("job"), at_s, **training)
        if job is not None and job.state == "RUNNING":  # it begins
            return Standing(step, QUEUED, f"job {job.number} is {job.state}", job.number, **training)
        if job is not None and job.state.startswith("CANCELLED"):
            return Standing(
                step, FAILED, f"out of time, and then job {job.number} was cancelled", job.number, at_s, **training
            )
        return Standing(step, PAUSED, failure["says"], failure.get("job"), at_s, **training)
    if started and not flags.done_file(step).exists():
        process = started.get("process")
        if process is not None and runs_here(process):
            return Standing(step, RUNNING, "its job was killed, and its command is ending", started.get("job"))
        says, at_s = _obituary(started, workflow.log(step), jobs), _time_s(flags.started_file(step))
        return Standing(step, ENDED, says, started.get("job"), at_s, **training)
    return Standing(step, TO_DO, **training)


def _obituary(started: Mapping[str, Any], log: Path, jobs: Mapping[str, Job] | None) -> str:
    """What is known of a step that ended without a word."""
    number = started.get("job")
    who = f"job {number}" if number else f"process {(started.get('process') or {}).get('pid', 'unknown')}"
    if number and jobs is not None:
        fate = f"is {jobs[number].state}" if number in jobs else "is not in squeue any more"
    else:
        fate = "has ended without a word, as if it was killed"
    try:
        said = last_line(log)
    except OSError:
        said = "there is none"
    return f"{who} {fate}; the log's last line: {said}"


def _left_s(progress: Mapping[str, Any], *, since_s: float, now_s: float) -> float | None:
    """Seconds that a training has left. None before the first epoch of its job, when the file is of the job before."""
    left_s, written_s = progress.get("seconds_left"), progress.get("written_s", 0.0)
    return None if left_s is None or written_s < since_s else max(0.0, left_s - max(0.0, now_s - written_s))


def _steps_of_jobs(jobs: Mapping[str, Job], workflow: PlannedWorkflow) -> dict[str, Job]:
    """Step -> its job that waits or runs, by the comment that Snakemake gives it, or by its place in a printed array."""
    names = {step.name for step in workflow.steps}
    arrays = {f"{workflow.experiment}-{array.name}": array.steps for array in job_arrays(workflow)} if jobs else {}
    found = {}
    for job in jobs.values():
        if job.state not in ALIVE:
            continue
        of, task = job.comment.partition("_wildcards_")[2], job.number.partition("_")[2]
        if job.name in arrays and task.isdecimal() and int(task) < len(arrays[job.name]):
            of = arrays[job.name][int(task)].name
        if of in names:
            found[of] = job
    return found


def clock_s(folder: Path) -> float:
    """The time by the clock of a file system, as leases are touched by it."""
    try:
        file = folder / ".now"
        file.touch()
        return file.stat().st_mtime
    except OSError:
        return time.time()


def _time_s(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
