"""Who works on something: one file that names its owner, who touches it again and again as long as the work lasts.

No file lock is trusted, because some network file systems let everybody have it. A lease is taken by linking a file to
the lease's name, which one alone can do. It has ended if its owner removed it, if its process is known to have ended, or
if nobody touched it for `STALE_S`. Data must never depend on a lease: it saves work that would be done twice.

Of libraries, flufl.lock is nearest. Its leases end by the clocks of several machines, it doesn't renew them, and it waits
for the end of a lease although its process was killed on this machine.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from nnunet_ext.files import process_mark

log = logging.getLogger(__name__)

#: A lease is touched so often, and ends without that after so long. Network file systems show a touch a minute late.
BEAT_S, STALE_S = 10.0, 120.0
#: How long a lease may be there without being seen, on a file system that shows new files late.
UNSEEN_S = 30.0
#: Variables in which batch systems name a job.
JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
#: Start times of one process may differ so much if its machine's clock was set meanwhile.
SAME_START_S = 2.0


class LeaseTaken(OSError):
    """Somebody else works on it. The message says who."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease, as its file says. What it does not say is None.

    Attributes:
        host: Of the process.
        pid, pid_started: Number of the process, and the time at which it began.
        machine: Where that number means a process: this start of a machine, and its container.
        job: Of a batch system.
        started: Time at which the lease was taken, for people.
        mark: In the names of the temporary files of the process.
    """

    host: str | None = None
    pid: int | None = None
    pid_started: float | None = None
    machine: str | None = None
    job: str | None = None
    started: str | None = None
    mark: str | None = None

    def __str__(self) -> str:
        if self.pid is None:
            return "its host, process and start are unknown"
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on host {self.host}{job}, started {self.started}"


class Lease:
    """A lease that this process holds, until `release`.

    Raises:
        LeaseTaken: If somebody else holds it.
        OSError: If the folder is not there or cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self.file = Path(file)
        #: Whoever was killed while it held the lease.
        self.killed: Owner | None = None
        self._handle = self._take()
        _beating.add(self)

    def _take(self) -> int:
        claim = self._beside("claim")
        handle = os.open(claim, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _write(handle, _this_process())
            unseen_until, pause_s = time.monotonic() + UNSEEN_S, 0.001
            while not self._linked(claim, handle):
                try:
                    content, touched_s = _content(self.file)
                except FileNotFoundError:  # released just now, or taken just now and not seen yet
                    if time.monotonic() > unseen_until:
                        raise LeaseTaken(str(Owner())) from None
                    time.sleep(pause_s)
                    pause_s = min(2 * pause_s, 0.5)
                    continue
                os.utime(claim)  # by the clock of the file system
                owner = _owner(content)
                if (reason := _at_work(owner, os.stat(claim).st_mtime - touched_s)) is not None:
                    raise LeaseTaken(reason)
                if self._broken(content):
                    self.killed = owner
        except BaseException:
            os.close(handle)
            raise
        finally:
            with contextlib.suppress(OSError):
                claim.unlink()
        return handle

    def _beside(self, ending: str) -> Path:
        """A file of this thread alone."""
        return self.file.with_name(f".{self.file.name}.{process_mark()}.{threading.get_ident()}.{ending}")

    def _linked(self, claim: Path, handle: int) -> bool:
        """Give the claim the lease's name, unless somebody has it."""
        try:
            os.link(claim, self.file)
        except FileExistsError:
            return os.fstat(handle).st_nlink == 2  # a network file system may say so of a link that it has just made
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            return self._made(handle)
        return True

    def _made(self, handle: int) -> bool:
        """The same on a file system without hard links."""
        try:
            made = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        os.dup2(made, handle)
        os.close(made)
        _write(handle, _this_process())
        return True

    def _broken(self, content: bytes) -> bool:
        """Remove an ended lease of this content, and none that somebody else has taken since."""
        broken = self._beside("broken")
        try:
            os.rename(self.file, broken)
        except FileNotFoundError:
            return False
        same = _content(broken)[0] == content
        if not same:
            with contextlib.suppress(OSError):
                os.link(broken, self.file)
        broken.unlink(missing_ok=True)
        return same

    def touch(self) -> None:
        """Say that this process is still at work."""
        if os.fstat(self._handle).st_nlink == 0:
            raise OSError(errno.ESTALE, "somebody else took it")
        os.utime(self._handle if os.utime in os.supports_fd else self.file)

    def release(self) -> None:
        """End the lease. Nothing happens to one that somebody else has taken meanwhile."""
        _beating.discard(self)
        with contextlib.suppress(OSError):
            mine = os.path.samestat(os.stat(self.file), os.fstat(self._handle))
            if os.name == "nt":  # removes no open file
                os.close(self._handle)
            if mine:
                self.file.unlink()
        if os.name != "nt":
            os.close(self._handle)


def read_owner(file: Path, *, now_s: float) -> str | None:
    """Whoever holds a lease, in words. None if nobody does, or nobody at work.

    Args:
        file: The lease.
        now_s: Time of a file beside it that was touched just now.
    """
    try:
        content, touched_s = _content(file)
    except OSError:
        return None
    return _at_work(_owner(content), now_s - touched_s)


# ------------------------------------------------------------------------------------------------ who is at work


def _at_work(owner: Owner, age_s: float) -> str | None:
    """The owner in words if its lease has not ended. None if it has."""
    if owner.pid is not None and owner.host == socket.gethostname() and owner.machine in (None, _machine()):
        begun = _begun(owner.pid)
        if begun is None:
            return None
        if owner.pid_started is None or abs(begun - owner.pid_started) < SAME_START_S or age_s < STALE_S:
            return str(owner)
        return None
    return f"{owner}, last heard of {max(age_s, 0):.0f} s ago" if age_s < STALE_S else None


def _begun(pid: int) -> float | None:
    """Time at which a process of this machine began. None if it has ended."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:  # another user's
        return 0.0


def _machine() -> str:
    """This start of this machine, and the set of process numbers. Empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def describe_process(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from all others.

    Raises:
        psutil.NoSuchProcess: If it has ended.
    """
    begun_s = psutil.Process(pid).create_time()
    return {"host": socket.gethostname(), "pid": pid, "pid_started": begun_s, "machine": _machine()}


def runs_here(process: Mapping[str, Any]) -> bool:
    """Whether a process that `describe_process` described still runs, and on this machine."""
    if not _was_here(process):
        return False
    begun_s = _begun(process["pid"])
    return begun_s is not None and abs(begun_s - process["pid_started"]) < SAME_START_S


def ended_here(process: Mapping[str, Any]) -> bool:
    """Whether such a process was one of this machine and has ended, and no other one has its number."""
    return _was_here(process) and _begun(process["pid"]) is None


def _was_here(process: Mapping[str, Any]) -> bool:
    return (process["host"], process["machine"]) == (socket.gethostname(), _machine())


def batch_job() -> str | None:
    """Number of the batch system's job that this process belongs to. None outside of one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    jobs = [f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"] if array else []
    jobs += [os.environ[variable] for variable in JOBS if os.environ.get(variable)]
    return jobs[0] if jobs else None


def _this_process() -> dict[str, Any]:
    return {
        **describe_process(os.getpid()),
        "job": batch_job(),
        "started": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        "mark": process_mark(),
    }


def _write(handle: int, record: dict[str, Any]) -> None:
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(record).encode())


def _content(file: Path) -> tuple[bytes, float]:
    """What a file holds, and when it was touched. Network file systems look it up anew for whoever opens it."""
    handle = os.open(file, os.O_RDONLY)
    try:
        return os.read(handle, 100_000), os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def _owner(content: bytes) -> Owner:
    """The owner that a lease names, with nothing but None if it cannot be read."""
    try:
        record = json.loads(content)
        known = {name: record.get(name) for name in Owner.__dataclass_fields__}
        return Owner(
            **{**known, "pid": int(record["pid"]), "host": str(record["host"]), "started": str(record["started"])}
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Owner()


# ------------------------------------------------------------------------------------------------ staying at work


class _Beating:
    """Touches all leases of this process, in a thread that ends with the last of them."""

    def __init__(self) -> None:
        self.leases: set[Lease] = set()
        self.changed = threading.Condition()
        self.running = False

    def add(self, lease: Lease) -> None:
        with self.changed:
            self.leases.add(lease)
            if not self.running:
                self.running = True
                threading.Thread(target=self.beat, name="lease", daemon=True).start()

    def discard(self, lease: Lease) -> None:
        with self.changed:
            self.leases.discard(lease)
            self.changed.notify_all()

    def beat(self) -> None:
        with self.changed:
            while self.leases:
                self.changed.wait_for(lambda: not self.leases, BEAT_S)
                for lease in list(self.leases):
                    try:
                        lease.touch()
                    except OSError as error:
                        log.warning("%s: this process no longer owns it: %s", lease.file, error.strerror or error)
                        self.leases.discard(lease)
            self.running = False


_beating = _Beating()
if hasattr(os, "register_at_fork"):  # the leases of a process are not those of the ones forked from it
    os.register_at_fork(after_in_child=_beating.__init__)  # type: ignore[misc]
