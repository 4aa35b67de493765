"""Cases in worker processes and threads, commands that end with this process, and the memory of processes."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import psutil

Job = TypeVar("Job")

#: What a job gets for a result if its process was killed.
KILLED = object()
#: What a command may take to end.
GRACE_S = 10.0


def usable_cores() -> int:
    """Number of cores that the system lets this process use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_method() -> str:
    """How Python starts processes if nobody says otherwise: `fork`, `forkserver` (on Linux from Python 3.14 on) or `spawn`.

    Other than `multiprocessing.get_start_method`, this doesn't settle it.
    """
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def run_in_processes(
    function: Callable[[Job], Any], jobs: Sequence[Job], n_processes: int
) -> Generator[tuple[Job, Any], None, None]:
    """Each job with its result, in the order they finish; `KILLED` for jobs whose process was killed.

    The processes end with this one, also when it is killed, and when the iterator is closed or fails.

    Args:
        function: Importable by its name, as are the jobs' types.
        jobs: What it is called with.
        n_processes: How many run at the same time. ITK uses one thread in each, because the jobs run in parallel.

    Raises:
        Exception: What `function` raises.
    """
    # Not fork: a forked child inherits the thread pools of ITK and torch without their threads and can hang.
    context = multiprocessing.get_context("spawn")
    watched, mine = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(n_processes, len(jobs)), mp_context=context, initializer=_start_worker, initargs=(watched,)
    )
    try:
        with _interrupts_held():
            futures = {pool.submit(function, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], KILLED
    except BaseException:
        mine.send_bytes(b"end")  # nobody wants the rest: not even a case that takes an hour is finished
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        mine.close()
        watched.close()


def run_each(
    function: Callable[[Job], Any], jobs: Sequence[Job], n_processes: int
) -> Generator[tuple[Job, Any], None, None]:
    """As `run_in_processes`, but `KILLED` is a job only whose process was killed while it ran alone.

    With one process, all jobs run in this one.
    """
    if n_processes == 1 or not jobs:
        for job in jobs:
            yield job, function(job)
        return
    lost = []
    with contextlib.closing(run_in_processes(function, jobs, n_processes)) as outcomes:
        for job, outcome in outcomes:
            if outcome is KILLED:
                lost.append(job)
            else:
                yield job, outcome
    for job in lost:  # a killed process takes its neighbours along; alone, each shows whose fault it was
        yield from run_in_processes(function, [job], 1)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which a terminal sends to all; this one sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(watched: Connection) -> None:
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _end_with_parent(watched: Connection) -> None:
    """End this process as soon as its parent has ended or wants it to. Files have temporary names until complete."""
    parent = multiprocessing.parent_process()
    wait([watched] if parent is None else [watched, parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[None]:
    """A command that is told to end where its output is no longer wanted, because this run fails or is interrupted."""
    try:
        yield
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        process.kill()
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()


def end_group(leader: int) -> None:
    """End all that a command which led a process group of its own has left of it, such as nnU-Net's loaders."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):  # there is nothing left
            os.killpg(leader, signal.SIGKILL)


def run_command(command: Sequence[str], *, environment: Mapping[str, str], folder: Path, failed: str) -> None:
    """Run a command without showing its output. It ends with this process.

    Args:
        command: And its arguments.
        environment: Of the command.
        folder: It runs in.
        failed: Begin of the message if it fails. The last lines of its output follow.

    Raises:
        RuntimeError: If it fails.
    """
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        preexec_fn=KILL_WITH_PARENT,
    )
    if done.returncode:
        raise RuntimeError(f"{failed}: " + "\n".join(done.stdout.splitlines()[-5:]))


def console_script(name: str) -> str:
    """File of a command of this Python environment, wherever PATH points to.

    Raises:
        FileNotFoundError: If there is none.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"the command {name} is not there; run nnunet_ext doctor")
    return found


def _kill_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


#: For `subprocess`'s `preexec_fn`: nnU-Net's own commands watch no parent, so the system does it where it can.
KILL_WITH_PARENT: Callable[[], None] | None = None
if sys.platform == "linux":
    _LIBC = ctypes.CDLL(None)
    if hasattr(_LIBC, "prctl"):
        KILL_WITH_PARENT = _kill_with_parent


def in_background(function: Callable, *arguments: Any) -> Future:
    """Call a function in a thread of its own, which does not keep an interrupted process from ending (see `cli.command`)."""
    future: Future = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, name="nnunet_ext case", daemon=True).start()
    return future


def timed(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """A function's result, and the seconds it took."""
    start = perf_counter()
    return function(*arguments), perf_counter() - start


def processor_name() -> str:
    """Name of this machine's processor, as far as the system says."""
    with contextlib.suppress(OSError):  # Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """Most memory that this process has held so far, in MB of 1024 x 1024 bytes."""
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / 1024**2, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def memory_mb(pids: Sequence[int]) -> float | None:
    """Memory of some processes with shared pages counted once, in MB of 1,000,000 bytes.

    None where the system does not say, or where a process has ended.
    """
    try:
        return sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 1e6
    except (psutil.Error, AttributeError, ValueError):  # AttributeError: only Linux counts shared pages
        return None


def process_tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:  # ended in the meantime
        return [pid]
