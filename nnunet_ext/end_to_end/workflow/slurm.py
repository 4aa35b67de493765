"""What SLURM says of jobs, and asking it to run one again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass

#: Of a query. A controller under load answers late.
QUERY_S = 60.0
#: States of a job that is not over.
ALIVE = {
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
    "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
#: State of a job that a more urgent one has ended, where SLURM does not run it again by itself.
PREEMPTED = "PREEMPTED"


@dataclass(frozen=True)
class Job:
    """A job of SLURM.

    Attributes:
        number: As SLURM names it, of an array with the number of the task.
        state: `RUNNING`, `PENDING`, ...
        comment: Snakemake's, which says which rule it is of.
        name: Given at submission.
    """

    number: str
    state: str
    comment: str
    name: str


def jobs_of_user() -> dict[str, Job] | None:
    """Number -> job of this user, those included that ended a short time ago. None if SLURM is not there or not asked."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%k|%j"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0:
        return None
    rows = (line.split("|", 3) for line in asked.stdout.splitlines() if line.count("|") >= 3)
    return {row[0].strip(): Job(*(word.strip() for word in row)) for row in rows}


def job_ends_s(limit_minutes: float, *, begun_s: float) -> float | None:
    """Time since 1970 at which this process's job is ended. None if nothing ends it.

    Args:
        limit_minutes: Asked for. It counts if SLURM does not say.
        begun_s: When this process began.
    """
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdecimal():  # from SLURM 23.02 on
        return float(end)
    left_s = None
    number = os.environ.get("SLURM_JOB_ID")
    if number and shutil.which("squeue") is not None:
        command = ["squeue", "--noheader", f"--jobs={number}", "--format=%L"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S, check=False)
            if asked.stdout.strip() == "UNLIMITED":
                return None
            left_s = seconds_of(asked.stdout.strip())
        except (OSError, subprocess.TimeoutExpired):
            left_s = None
    if left_s is not None:
        return time.time() + left_s
    return begun_s + 60 * limit_minutes if limit_minutes > 0 else None


def seconds_of(text: str) -> float | None:
    """Seconds of SLURM's `[days-][hours:]minutes:seconds`. None if it is no time."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def requeue_this_job() -> bool:
    """Ask SLURM to run this process's job again, which ends this one. Whether it agreed."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    number = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    if not number or shutil.which("scontrol") is None:
        return False
    try:
        asked = subprocess.run(["scontrol", "requeue", number], capture_output=True, timeout=QUERY_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0
