"""One step of a workflow as a job: `python -m nnunet_ext.end_to_end.workflow.one_step FOLDER NAME`.

Snakemake's rules and job arrays call it. It holds the step's lease while it runs the step's command, on a GPU of its own
where no cluster hands them out. A time limit that is hit makes SLURM run the job again. A real error is final.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from nnunet_ext.end_to_end.workflow.flags import ERROR, OUT_OF_TIME, SIGNAL, Flags
from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow, read_workflow
from nnunet_ext.end_to_end.workflow.running import WAIT_S, last_line
from nnunet_ext.end_to_end.workflow.slurm import job_ends_s, requeue_this_job
from nnunet_ext.end_to_end.workflow.step import Step
from nnunet_ext.files import in_one_line, read_json, write_json
from nnunet_ext.leases import Lease, LeaseTaken
from nnunet_ext.processes import GRACE_S, KILL_WITH_PARENT, console_script, end_group
from nnunet_ext.training.job import DEADLINE, PROGRESS_FILE
from nnunet_ext.training.job import OUT_OF_TIME as OUT_OF_TIME_CODE

#: Exit code if another run makes the step. Snakemake's run goes on with the rest, and ours asks again.
TAKEN = 76
#: Before a job's end, its command is told to end, and a training stops before that: a share of the job, and at most.
MARGIN_SHARE, MARGIN_S = 0.1, 300.0
#: Times that a step may run out of time one after the other without an epoch more.
MOST_WITHOUT_PROGRESS = 3
#: What SLURM may take to end this job after it agreed to run it again.
REQUEUE_S = 120.0


class Ended(BaseException):
    """A signal asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_step(folder: Path, name: str, *, wait: bool = False, attach: bool = False, cluster: bool = False) -> int:
    """Run the command of a step, unless it is done.

    Args:
        folder: Of the workflow.
        name: Of the step.
        wait: If another run makes it, wait for it.
        attach: Wait for whoever makes it, and never make it.
        cluster: Whether a batch system hands out GPUs, and ends the job in time.

    Returns:
        0 if it is done, 75 if it ran out of time, 76 if another run makes it. After a signal 128 and its number, else 1.
    """
    begun_s = time.time()
    workflow = read_workflow(folder)
    step = workflow.step(name)
    flags = workflow.flags(step)
    said = False
    while True:
        if workflow.is_done(step):
            workflow.write_mark(step)
            return 0
        try:
            lease = Lease(flags.lease_file(step))
            break
        except LeaseTaken as error:
            if not said:
                print(f"{step.name}: another run makes it: {error}", flush=True)
            if not (wait or attach):
                return TAKEN
            said = True
            time.sleep(WAIT_S)
    try:
        if attach and not workflow.is_done(step):
            return TAKEN
        _wait_for_rest(flags, step)
        if not workflow.is_done(step):  # else another run has made it just now
            if flags.is_done(step):
                flags.remove_outputs(step)  # what they are made of is newer
            code = _Job(workflow, step, flags, begun_s, cluster=cluster).run()
            if code != 0:
                return code
        workflow.write_mark(step)
        return 0
    finally:
        lease.release()


def _wait_for_rest(flags: Flags, step: Step) -> None:
    """Wait for the command of a killed run, which ends by itself: two must not write the same files."""
    while flags.still_runs(step):
        time.sleep(WAIT_S)
    flags.end_rest(step)


class _Job:
    def __init__(self, workflow: PlannedWorkflow, step: Step, flags: Flags, begun_s: float, *, cluster: bool) -> None:
        self.workflow, self.step, self.flags, self.cluster = workflow, step, flags, cluster
        self.log = workflow.log(step)
        limit_minutes = workflow.limits_minutes.get(step.name, 0.0)
        ends_s = job_ends_s(limit_minutes, begun_s=begun_s) if cluster else None
        #: When the command must have ended. A training's last epoch ends half a margin earlier.
        self.stop_s: float | None = None
        self.deadline_s: float | None = None
        if ends_s is not None:
            margin_s = min(MARGIN_S, MARGIN_SHARE * max(0.0, ends_s - begun_s))
            self.stop_s, self.deadline_s = ends_s - margin_s / 2, ends_s - margin_s

    def run(self) -> int:
        """Run the command and note what came of it."""
        without_progress, epoch = self._legs()
        self.flags.begin(self.step)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        start = time.time()
        try:
            code = self._command()
        except Ended as ended:
            self._fail(SIGNAL, f"ended by {signal.Signals(ended.number).name}: cancelled, preempted, or out of time")
            return 128 + ended.number
        except OSError as error:
            self._fail(ERROR, in_one_line(error))
            return 1
        progress = self._progress()
        out_of_time = progress.get("out_of_time") and progress.get("written_s", 0.0) >= start
        if code == OUT_OF_TIME_CODE or (code != 0 and out_of_time):
            further = progress.get("epoch", 0) > epoch
            return self._out_of_time(0 if further else without_progress + 1)
        if code != 0:
            self._fail(ERROR, f"exit code {code}: {last_line(self.log)}")
            return 1
        if missing := self.flags.missing(self.step):
            self._fail(ERROR, f"it ended well, but there is no {missing[0]}: {last_line(self.log)}")
            return 1
        self.flags.end(self.step, time.time() - start)
        self._legs_file().unlink(missing_ok=True)
        return 0

    def _command(self) -> int:
        """Exit code of the command."""
        with contextlib.ExitStack() as stack:
            environment = self._environment()
            if self.step.resources.gpus and self.workflow.gpus and not self.cluster:
                mine = stack.enter_context(leased_gpus(self.workflow.gpus, self.step.resources.gpus))
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
            log = stack.enter_context(self.log.open("a", encoding="utf-8"))
            log.write(f"$ {self.step.line}\n")
            log.flush()
            stack.enter_context(_signals_raise())
            process = subprocess.Popen(
                [console_script(self.step.words[0]), *self.step.words[1:]],
                cwd=self.workflow.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=KILL_WITH_PARENT,
                start_new_session=True,  # a group of its own, with all that it starts
            )
            try:
                self.flags.note_process(self.step, process.pid)
                timeout_s = None if self.stop_s is None else max(1.0, self.stop_s - time.time())
                return process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return OUT_OF_TIME_CODE
            finally:
                _end(process)

    def _environment(self) -> dict[str, str]:
        beside = Path(sys.executable).parent
        return {
            "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait slow down a busy machine many times over
            **os.environ,
            **self.workflow.environment,
            "PATH": os.pathsep.join((str(beside), os.environ.get("PATH", os.defpath))),
            "PYTHONUNBUFFERED": "1",
            **({} if self.deadline_s is None else {DEADLINE: f"{self.deadline_s:.0f}"}),
        }

    def _out_of_time(self, without_progress: int) -> int:
        """Ask for another job, unless several came no epoch further."""
        if without_progress >= MOST_WITHOUT_PROGRESS:
            self._legs_file().unlink(missing_ok=True)
            self._fail(
                ERROR,
                f"{without_progress} jobs in a row ran out of time without progress; raise --time-limit",
            )
            return 1
        write_json({"without_progress": without_progress, "epoch": self._progress().get("epoch", 0)}, self._legs_file())
        self._fail(OUT_OF_TIME, "out of time; the next job goes on")
        return OUT_OF_TIME_CODE

    def _legs(self) -> tuple[int, int]:
        """How many jobs before this one came no further, and the epoch that they left off at."""
        file = self._legs_file()
        legs = read_json(file, {"without_progress": int, "epoch": int}, remedy="delete it") if file.is_file() else {}
        return legs.get("without_progress", 0), legs.get("epoch", self._progress().get("epoch", 0))

    def _legs_file(self) -> Path:
        return self.flags.started_file(self.step).with_name(f"{self.step.name}.legs.json")

    def _progress(self) -> Mapping[str, Any]:
        return read_progress(self.workflow, self.step)

    def _fail(self, kind: str, says: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: the status tells it from what is not there
            self.flags.fail(self.step, kind, says, self.log)
        print(f"{self.step.name}: {says} (log {self.log})", flush=True)


def read_progress(workflow: PlannedWorkflow, step: Step) -> Mapping[str, Any]:
    """How far a training is, as its fold's `progress.json` says. Empty for other steps, or before the first epoch."""
    if not step.outputs:
        return {}
    file = (workflow.place(step) / step.outputs[0]).parent / PROGRESS_FILE
    try:
        return read_json(file, dict) if file.is_file() else {}
    except ValueError:
        return {}


@contextlib.contextmanager
def leased_gpus(gpus: Sequence[str], n: int) -> Iterator[list[str]]:
    """Hold so many GPUs of this machine, once they are free. All workflows of a user on it share them."""
    folder = Path(tempfile.gettempdir()) / f"nnunet_ext-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    held: dict[str, Lease] = {}
    try:
        while len(held) < min(n, len(gpus)):
            for gpu in gpus:
                if gpu not in held and len(held) < n:
                    with contextlib.suppress(LeaseTaken):
                        held[gpu] = Lease(folder / f"gpu_{gpu}.lease")
            if len(held) < min(n, len(gpus)):
                time.sleep(WAIT_S)
        yield list(held)
    finally:
        for lease in held.values():
            lease.release()


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Ended` meanwhile."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen) -> None:
    """End a command that still runs, and all that it has left behind."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        process.kill()
        process.wait()
    end_group(process.pid)


def main(argv: Sequence[str] | None = None) -> int:
    """The job's command."""
    parser = argparse.ArgumentParser(description="Run one step of a workflow, as its jobs do.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--wait", action="store_true", help="if another run makes it, wait for it")
    parser.add_argument("--attach", action="store_true", help="wait for whoever makes it, and never make it")
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="a batch system hands out GPUs, and runs the job again if it runs out of time",
    )
    options = parser.parse_args(argv)
    code = run_step(options.folder, options.name, wait=options.wait, attach=options.attach, cluster=options.cluster)
    if code == OUT_OF_TIME_CODE and options.cluster and requeue_this_job():
        time.sleep(REQUEUE_S)  # SLURM ends this job
    return code


if __name__ == "__main__":
    sys.exit(main())
