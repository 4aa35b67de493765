"""Runs what is missing of a list of steps, several at a time, and goes on with the rest where one fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from nnunet_ext.end_to_end.workflow.flags import Flags
from nnunet_ext.end_to_end.workflow.step import Step, producers
from nnunet_ext.leases import Lease, LeaseTaken
from nnunet_ext.processes import GRACE_S, KILL_WITH_PARENT, console_script, end_group

LOGS = "logs"
#: Between two looks whether another run has made a step.
WAIT_S = 1.0


@dataclass
class Outcome:
    """What came of a run: names of steps.

    Attributes:
        before: Done in an earlier run.
        done: Done in this run.
        failed: Name -> what went wrong, with its log and its last line.
        waiting: Not begun, because they need what failed -> the step that failed.
        seconds: Of each step done, whenever it was.
    """

    before: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def nnunet_environment(raw: Path, preprocessed: Path, results: Path, *, n_processes: int) -> dict[str, str]:
    """Environment of nnU-Net's commands: this process's, with its three folders and its numbers of processes."""
    return {
        "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait slow down a busy machine many times over
        **os.environ,
        "nnUNet_raw": str(raw),
        "nnUNet_preprocessed": str(preprocessed),
        "nnUNet_results": str(results),
        "nnUNet_def_n_proc": str(n_processes),
        "PYTHONUNBUFFERED": "1",
    }


def run_steps(
    steps: Sequence[Step],
    folder: Path,
    *,
    environment: Mapping[str, str],
    at_a_time: int = 1,
    gpus: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run the steps that are not done, each as soon as its inputs are made, with its output in `logs/NAME.log`.

    A step that fails does not keep those that do not need it from being run. Commands end with this process. Several runs
    may share a folder, also on several machines: a step that another one makes is waited for.

    Args:
        steps: See `Flags`.
        folder: Of the workflow. The commands run in it.
        environment: Of the commands.
        at_a_time: Steps that run at the same time.
        gpus: Numbers of the GPUs. A step that needs one sees that one alone. At most so many such steps run at a time, and
            one without a number if there are none.
        say: Gets lines for people.

    Raises:
        StepsDiffer: If the folder holds what another command made in a long time. Then nothing is run.
        ValueError: If the list makes no sense, or a flag is damaged.
    """
    run = _Run(steps, Path(folder), environment, list(gpus), say)
    for step in run.todo:
        run.flags.check(step)
    run.all(at_a_time)
    return run.outcome


class _Run:
    def __init__(
        self,
        steps: Sequence[Step],
        folder: Path,
        environment: Mapping[str, str],
        gpus: list[str],
        say: Callable[[str], None],
    ) -> None:
        self.steps, self.folder, self.environment, self.say = steps, folder, environment, say
        self.flags, self.producers = Flags(folder, steps), producers(steps)
        self.outcome = Outcome()
        #: None is a GPU without a number.
        self.free_gpus: list[str | None] = list(gpus) or [None]
        self.n_gpus = len(self.free_gpus)
        self.todo: list[Step] = []
        #: Done, but what they read is made again.
        self.made_again: set[str] = set()
        for step in steps:
            outdated = any(name not in self.outcome.before for name in self.producers[step.name])
            done = self.flags.is_done(step)
            if outdated and done:
                self.made_again.add(step.name)
            if not outdated and done:
                self.outcome.before.append(step.name)
                self.outcome.seconds[step.name] = self.flags.seconds(step) or 0.0
            else:
                self.todo.append(step)
        self.processes: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.stopped = False
        self.begun = 0

    # --- the order ----------------------------------------------------------------------------------------------------

    def all(self, at_a_time: int) -> None:
        """Run all that is to do."""
        if self.outcome.before:
            self.say(f"{len(self.outcome.before)} of {len(self.steps)} steps were done before.")
        running: dict[Future, tuple[Step, list[str | None]]] = {}
        left = list(self.todo)
        with ThreadPoolExecutor(at_a_time) as pool:
            try:
                while left or running:
                    for step in self.ready(left, at_a_time - len(running)):
                        left.remove(step)
                        mine = [self.free_gpus.pop(0) for _ in range(min(step.resources.gpus, self.n_gpus))]
                        self.begun += 1
                        number = len(self.outcome.before) + self.begun
                        self.say(
                            f"[{number}/{len(self.steps)}] {step.title}: {LOGS}/{step.name}.log\n    $ {step.line}"
                        )
                        running[pool.submit(self.one, step, mine)] = (step, mine)
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        step, mine = running.pop(future)
                        self.free_gpus += mine
                        self.note(step, future)
                        self.hold_back(left)
            except BaseException:
                self.stop()
                raise

    def ready(self, left: Sequence[Step], most: int) -> list[Step]:
        """Steps that can begin now, at most so many."""
        done = {*self.outcome.before, *self.outcome.done}
        found: list[Step] = []
        gpus = len(self.free_gpus)
        for step in left:
            needed = min(step.resources.gpus, self.n_gpus)
            if len(found) < most and needed <= gpus and done.issuperset(self.producers[step.name]):
                found.append(step)
                gpus -= needed
        return found

    def note(self, step: Step, future: Future) -> None:
        """Keep what came of a step."""
        try:
            seconds = future.result()
        except (OSError, RuntimeError) as error:
            self.outcome.failed[step.name] = str(error)
            self.say(f"    FAILED: {step.title}: {error}")
            return
        self.outcome.done.append(step.name)
        self.outcome.seconds[step.name] = seconds
        self.say(f"    done: {step.title}, {seconds:.0f} s")

    def hold_back(self, left: list[Step]) -> None:
        """Take out those that need what failed, directly or through others."""
        for step in list(left):
            for name in self.producers[step.name]:
                if name in self.outcome.failed or name in self.outcome.waiting:
                    self.outcome.waiting[step.name] = self.outcome.waiting.get(name, name)
                    left.remove(step)
                    break

    # --- one step -----------------------------------------------------------------------------------------------------

    def one(self, step: Step, gpus: Sequence[str | None]) -> float:
        """Run a step in a thread of its own. Seconds that it took.

        Raises:
            RuntimeError: If it fails, or lacks an output. The message names its log and its last line.
            OSError: If it can't be begun.
        """
        with self.leased(step):
            self.outlived(step)
            if self.flags.is_done(step) and step.name not in self.made_again:
                return self.flags.seconds(step) or 0.0  # another run has made it
            return self.made(step, [gpu for gpu in gpus if gpu is not None])

    @contextlib.contextmanager
    def leased(self, step: Step) -> Iterator[None]:
        """Hold the lease of a step, once nobody else does."""
        file = self.flags.lease_file(step)
        file.parent.mkdir(exist_ok=True)
        said = False
        while True:
            if self.stopped:
                raise RuntimeError("interrupted")
            try:
                lease = Lease(file)
                break
            except LeaseTaken as error:
                if not said:
                    self.say(f"    {step.title}: another run makes it ({error}), which is waited for")
                said = True
                time.sleep(WAIT_S)
        try:
            yield
        finally:
            lease.release()

    def outlived(self, step: Step) -> None:
        """Wait for the command of a killed run, which ends by itself: two must not write the same files."""
        if self.flags.still_runs(step):
            self.say(f"    {step.title}: the command of a killed run is still ending, which is waited for")
        while self.flags.still_runs(step):
            if self.stopped:
                raise RuntimeError("interrupted")
            time.sleep(WAIT_S)
        self.flags.end_rest(step)

    def made(self, step: Step, gpus: Sequence[str]) -> float:
        """Run the command of a step. Errors as for `one`."""
        self.flags.begin(step)
        log_file = self.folder / LOGS / f"{step.name}.log"
        log_file.parent.mkdir(exist_ok=True)
        environment = {**self.environment, **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})}
        start = perf_counter()
        with log_file.open("w", encoding="utf-8") as log:
            log.write(f"$ {step.line}\n")
            log.flush()
            with self.lock:  # none begins after `stop` has looked
                if self.stopped:
                    raise RuntimeError("interrupted")
                process = subprocess.Popen(
                    [console_script(step.words[0]), *step.words[1:]],
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    preexec_fn=KILL_WITH_PARENT,
                    start_new_session=True,  # a group of its own, with all that it starts
                )
                self.processes.add(process)
            self.flags.note_process(step, process.pid)
            code = process.wait()
            end_group(process.pid)
        with self.lock:
            self.processes.discard(process)
        if code != 0:
            raise RuntimeError(f"exit code {code}, log {log_file}: {last_line(log_file)}")
        if missing := self.flags.missing(step):
            raise RuntimeError(f"it ended well, but there is no {missing[0]}; log {log_file}: {last_line(log_file)}")
        seconds = perf_counter() - start
        self.flags.end(step, seconds)
        return seconds

    def stop(self) -> None:
        """End all commands that run."""
        with self.lock:
            self.stopped = True
            for process in self.processes:
                process.terminate()
            for process in self.processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
                process.kill()
                end_group(process.pid)


def last_line(log: Path, *, most_bytes: int = 20_000) -> str:
    """The last line of a log that holds anything. Progress bars overwrite theirs, so that the last state counts."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most_bytes))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "it is empty"
