"""Snakemake runs a workflow's jobs, on this machine or by SLURM.

Snakemake keeps no state that counts: its outputs are made anew from our flags each time. So it may be killed at any
moment. Its jobs go on then, and the next run waits for them by their leases.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from nnunet_ext.end_to_end.workflow.flags import FOLDER
from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow
from nnunet_ext.end_to_end.workflow.running import last_line
from nnunet_ext.end_to_end.workflow.slurm import jobs_of_user
from nnunet_ext.end_to_end.workflow.standing import ENDED, FAILED, PAUSED, RUNNING, clock_s, standings
from nnunet_ext.end_to_end.workflow.step import producers
from nnunet_ext.files import read_json, write_json, write_text
from nnunet_ext.leases import describe_process, runs_here
from nnunet_ext.processes import KILL_WITH_PARENT, console_script

PROFILES = "profiles"
WORKSTATION, SLURM = "workstation", "slurm"
CONFIG_FILE, SNAKEFILE, LOG_FILE = "config.yaml", "Snakefile", "snakemake.log"
#: Names the Snakemake that this command started.
_PROCESS_FILE = "snakemake.json"
#: Between two looks whether a job has vanished, and so many must see it gone.
WATCH_S, TIMES_GONE = 20.0, 3
#: What Snakemake may take to cancel its jobs.
CANCEL_S = 60.0
#: Rounds in which no step was done, failed or ran out of time, such as those in which another run began what we wait for.
MOST_IDLE_ROUNDS = 3
REMEDY = (
    "it needs Python 3.11 or newer and the extra `cluster`: pip install 'nnunet_ext[cluster]'. Without it, "
    "--print-sbatch prints job arrays"
)


class NoSnakemake(RuntimeError):
    """Snakemake is not installed. The message says what to do."""


@dataclass
class Ran:
    """What came of a run: names of steps.

    Attributes:
        done: Done in this run, also by others.
        failed: Name -> what went wrong.
        waiting: Name -> the failed step that it needs.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)


def check_snakemake(executor: str) -> None:
    """Refuse to begin without Snakemake.

    Raises:
        NoSnakemake: If it, or its executor, is not installed.
    """
    modules = ["snakemake", *(["snakemake_executor_plugin_slurm"] if executor == SLURM else [])]
    for module in modules:
        if find_spec(module) is None:
            raise NoSnakemake(f"{module.replace('_', '-')} is not installed; {REMEDY}")


def write_for_snakemake(
    workflow: PlannedWorkflow, options: Mapping[str, Any], *, partition: str | None, account: str | None
) -> None:
    """Write the Snakefile, `config.yaml` with every option, and a profile each for a workstation and for SLURM.

    A profile that is there is left as it is, because people edit it.
    """
    text = (files("nnunet_ext.end_to_end.workflow") / SNAKEFILE).read_text(encoding="utf-8")
    write_text(text, workflow.folder / SNAKEFILE)
    write_text(_yaml({**options, "python": shlex.quote(sys.executable)}), workflow.folder / CONFIG_FILE)
    for name, content in ((WORKSTATION, _workstation(workflow)), (SLURM, _slurm(partition, account))):
        file = workflow.folder / PROFILES / name / CONFIG_FILE
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(_yaml(content), file)


def _workstation(workflow: PlannedWorkflow) -> dict[str, Any]:
    memory_mb = round(psutil.virtual_memory().total / 1e6)
    return {
        "executor": "local",
        "cores": os.cpu_count() or 1,
        "resources": [f"gpu={max(1, len(workflow.gpus))}", f"mem_mb={memory_mb}"],
        **_common(latency_s=10),
    }


def _slurm(partition: str | None, account: str | None) -> dict[str, Any]:
    defaults = [f"slurm_partition={partition}"] if partition else []
    defaults += [f"slurm_account={account}"] if account else []
    return {
        "executor": "slurm",
        "jobs": 100,
        "slurm-requeue": True,
        **({"default-resources": defaults} if defaults else {}),
        **({} if _accounts() else {"slurm-no-account": True, "slurm-status-command": "squeue"}),
        **_common(latency_s=120),
    }


def _common(*, latency_s: int) -> dict[str, Any]:
    # Its own rule would train again after an update of this package. A killed Snakemake calls incomplete what its jobs have
    # made meanwhile, but only our flags count.
    return {"keep-going": True, "rerun-triggers": "mtime", "ignore-incomplete": True, "latency-wait": latency_s}


def _accounts() -> bool:
    """Whether SLURM keeps accounts, by which Snakemake asks for jobs."""
    if shutil.which("scontrol") is None:
        return True
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=False)
        return "accounting_storage/none" not in asked.stdout.lower().replace("(null)", "accounting_storage/none")
    return True


def _yaml(content: Mapping[str, Any]) -> str:
    """Each entry on a line, its value as JSON, which is YAML too."""
    return "".join(f"{key}: {json.dumps(value, default=str)}\n" for key, value in content.items())


# --- running ----------------------------------------------------------------------------------------------------------


def run_by_snakemake(
    workflow: PlannedWorkflow,
    *,
    executor: str = WORKSTATION,
    more: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Ran:
    """Run what is missing of a workflow. Call it as the folder's owner.

    Args:
        workflow: As written.
        executor: `WORKSTATION` or `SLURM`, a profile's name.
        more: Words for Snakemake.
        say: Gets lines for people.

    Raises:
        RuntimeError: If Snakemake itself fails, or another one works in the folder.
    """
    _end_stale(workflow, say)
    cancel_orphans(workflow, say)
    ran = Ran()
    before, idle, begun_s = workflow.done(), 0, clock_s(workflow.folder / FOLDER)
    while True:
        done = workflow.write_marks()
        ran.done = [step.name for step in workflow.steps if step.name in done - before]
        ran.waiting = _waiting(workflow, done, ran.failed)
        over = {*done, *ran.failed, *ran.waiting}
        todo = [step.name for step in workflow.steps if step.name not in over]
        if not todo:
            return ran
        attached = [
            s.step.name for s in standings(workflow, jobs_of_user()) if s.state == RUNNING and s.step.name in todo
        ]
        for name in attached:
            say(f"{name}: another run makes it, which is waited for")
        vanished: dict[str, str] = {}
        code = _snakemake(workflow, executor, more, todo, attached, vanished, begun_s)
        now = workflow.done()
        failed = _failed(workflow, todo, begun_s, vanished)
        for name, reason in failed.items():
            say(f"FAILED: {name}: {reason}")
        ran.failed.update(failed)
        again = any(one.state == PAUSED for one in standings(workflow, jobs_of_user()) if one.step.name in todo)
        idle = 0 if now - done or failed or again else idle + 1
        if idle >= MOST_IDLE_ROUNDS:
            log = workflow.folder / LOG_FILE
            raise RuntimeError(f"Snakemake ended with code {code}: {last_line(log)} (log {log})")


def _snakemake(
    workflow: PlannedWorkflow,
    executor: str,
    more: Sequence[str],
    todo: Iterable[str],
    attached: Sequence[str],
    vanished: dict[str, str],
    begun_s: float,
) -> int:
    """Exit code of one Snakemake. It is killed if it would wait for a job that has vanished."""
    command = [console_script("snakemake"), "--profile", f"{PROFILES}/{executor}", "--config"]
    command += [f"attached={','.join(attached)}", *(["cluster=true"] if executor == SLURM else [])]
    # Targets last: options with several words would take them.
    command += [*more, "--ignore-incomplete", "--nocolor", "--", *(f"marks/{name}" for name in todo)]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    }
    with (workflow.folder / LOG_FILE).open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        process = subprocess.Popen(
            command,
            cwd=workflow.folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=KILL_WITH_PARENT,  # it begins no more jobs then, and its jobs go on
            start_new_session=True,  # Ctrl-C reaches it once, from here: the second one would keep it from cancelling
        )
    write_json(describe_process(process.pid), workflow.folder / _PROCESS_FILE)
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(workflow, process, over, vanished, begun_s), daemon=True)
    watch.start()
    try:
        return process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # it cancels its jobs
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CANCEL_S)
        raise
    finally:
        over.set()
        watch.join()
        if vanished:
            _end_stale(workflow, lambda line: None)


def _watch(
    workflow: PlannedWorkflow,
    process: subprocess.Popen,
    over: threading.Event,
    vanished: dict[str, str],
    begun_s: float,
) -> None:
    """Kill Snakemake if a job of SLURM is gone without a word, for which it would wait without end."""
    gone: dict[str, int] = {}
    while not over.wait(WATCH_S):
        jobs = jobs_of_user()
        if jobs is None:
            continue
        ended = {
            s.step.name: s
            for s in standings(workflow, jobs)
            if s.state == ENDED and s.job and s.job not in jobs and s.since_s >= begun_s
        }
        gone = {name: gone.get(name, 0) + 1 for name in ended}
        lost = {name: ended[name].says for name, times in gone.items() if times >= TIMES_GONE}
        if lost:
            vanished.update(lost)
            process.kill()
            return


def _failed(
    workflow: PlannedWorkflow, todo: Sequence[str], begun_s: float, vanished: Mapping[str, str]
) -> dict[str, str]:
    """Steps that failed in this run -> why."""
    found = {}
    jobs = jobs_of_user()
    for standing in standings(workflow, jobs):
        step = standing.step
        if step.name not in todo:
            continue
        if step.name in vanished:
            found[step.name] = vanished[step.name]
        elif standing.state in (FAILED, ENDED) and standing.since_s >= begun_s:
            found[step.name] = standing.says
    return found


def _waiting(workflow: PlannedWorkflow, done: set[str], failed: Mapping[str, str]) -> dict[str, str]:
    """Steps that need what failed, directly or through others -> that step."""
    found: dict[str, str] = {}
    needs = producers(workflow.steps)
    for step in workflow.steps:
        cause = next((found.get(name, name) for name in needs[step.name] if name in failed or name in found), None)
        if cause is not None and step.name not in done and step.name not in failed:
            found[step.name] = cause
    return found


def cancel_orphans(workflow: PlannedWorkflow, say: Callable[[str], None]) -> None:
    """Cancel jobs of SLURM that wait for a Snakemake of this folder which has ended: the next one submits them itself.

    Those that run go on.
    """
    log = workflow.folder / LOG_FILE
    runs = re.findall(r"^SLURM run ID: (\S+)$", log.read_text(errors="replace"), re.MULTILINE) if log.is_file() else []
    jobs = jobs_of_user() if runs else None
    waiting = [job.number for job in (jobs or {}).values() if job.name in runs and job.state == "PENDING"]
    if waiting:
        say(f"jobs that wait for a killed Snakemake are cancelled and submitted again: {', '.join(waiting)}")
        subprocess.run(["scancel", "--state=PENDING", *waiting], check=False)


def _end_stale(workflow: PlannedWorkflow, say: Callable[[str], None]) -> None:
    """End a Snakemake whose `nnunet_ext workflow` was killed, and remove the locks that it left. Its jobs go on.

    Raises:
        RuntimeError: If the locks are of a Snakemake that this command did not start here.
    """
    file = workflow.folder / _PROCESS_FILE
    known: Mapping[str, Any] = read_json(file, dict, remedy="delete it") if file.is_file() else {}
    if known and runs_here(known):
        say(f"Snakemake of a killed run (process {known['pid']}) is ended; its jobs go on")
        os.kill(known["pid"], signal.SIGKILL)
        while runs_here(known):
            time.sleep(0.1)
    locks = workflow.folder / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        if not known:
            raise RuntimeError(
                f"{locks} says that a Snakemake works in the folder, and this command started none. If none runs, remove "
                "the locks: snakemake --unlock"
            )
        say("the locks of a killed Snakemake are removed")
        shutil.rmtree(locks)
    file.unlink(missing_ok=True)
