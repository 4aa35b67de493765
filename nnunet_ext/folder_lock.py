"""One run per output folder or file: a second one is refused with the host, process and start of the first.

The owner holds a lock on a hidden file in the folder. The system releases it when the process ends, however it ends. The
file also says who the owner is, which counts only while it is locked. A killed run leaves the file behind, and with its
process number the next owner finds and removes the temporary files of that run.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import lock_descriptor, unlock_descriptor

from nnunet_ext.files import check_output_folder

log = logging.getLogger(__name__)

LOCK = ".nnunet_ext.lock"
#: Of one of several parts that share a folder, and of the moment in which a part compares its lock with the others.
_PART, _GATE = ".nnunet_ext.part-{}-of-{}.lock", ".nnunet_ext.parts.lock"
#: To find a folder and a file that others make and remove all the time.
MOST_TRIES = 100


class FolderInUse(OSError):
    """Another run works in the folder; the message says which, and what to do."""


def holding(owned: Callable[..., AbstractContextManager], *parameters: str) -> Callable[[Callable], Callable]:
    """Decorator: a function owns what its arguments of these names say while it runs."""

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options)
            bound.apply_defaults()
            with owned(*(bound.arguments[name] for name in parameters)):
                return function(*args, **options)

        return run

    return decorate


@contextlib.contextmanager
def owned_folder(folder: Path) -> Iterator[None]:
    """Own an output folder. It is made if needed, and removed in the end if this run leaves it empty.

    Raises:
        FolderInUse: If another run works in it.
        OSError: If it cannot be written.
    """
    with _owned(Path(folder), LOCK):
        yield


@contextlib.contextmanager
def owned_file(file: Path) -> Iterator[None]:
    """Own one file of a folder that may have other owners. Errors as for `owned_folder`."""
    file = Path(file)
    with _owned(file.parent, f".{file.name}.nnunet_ext.lock", file=file):
        yield


@contextlib.contextmanager
def owned_part(folder: Path, num_parts: int, part_id: int) -> Iterator[None]:
    """Own one part of the work in a folder; the whole folder if there is one part. Errors as for `owned_folder`.

    The parts of one division share the folder. A part excludes itself, the whole folder and parts of other divisions.
    """
    folder = Path(folder)
    mine = LOCK if num_parts == 1 else _PART.format(part_id, num_parts)

    def others() -> Iterator[Path]:
        for file in (folder / LOCK, *folder.glob(_PART.format("*", "*"))):
            shares = num_parts > 1 and file.match(_PART.format("*", num_parts))
            if file.name != mine and file.exists() and not shares:
                yield file

    with _owned(folder, mine, others=others):
        yield


# ---------------------------------------------------------------------------------------------------- owning


@contextlib.contextmanager
def _owned(
    folder: Path, name: str, *, file: Path | None = None, others: Callable[[], Iterable[Path]] | None = None
) -> Iterator[None]:
    """Hold the lock `name` in a folder while none of `others` is held; `file` is what is owned, None for the folder."""
    check_output_folder(folder)
    made = [path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists()]
    users_own = not made and _is_empty(folder)
    lock = folder / name
    try:
        with contextlib.nullcontext() if others is None else _waited(folder / _GATE):
            for other in () if others is None else others():
                handle = _take(other, folder, None)
                _remove(other, handle)
            handle = _take(lock, folder, file)
    except FolderInUse:
        raise
    except OSError as error:
        _remove_empty(made)
        raise type(error)(_cannot_write(file or folder, lock, error)) from error
    try:
        _sign(handle)
        yield
    finally:
        _remove(lock, handle, made if made or users_own else [folder])


def _take(lock: Path, folder: Path, file: Path | None) -> int:
    """Descriptor of the locked file; what its last owner left behind when it was killed is removed."""
    handle = _locked(lock)
    if handle is None:
        raise FolderInUse(
            f"another run works in {file or folder}: {_owner(lock)}; wait until it has ended, stop it, or choose another "
            "output"
        )
    if killed := _record(lock):
        for path in _temporary_files(folder, file, killed["pid"]):
            with contextlib.suppress(OSError):
                path.unlink()
    return handle


def _locked(lock: Path) -> int | None:
    """Descriptor of a file that is now locked by this process; None if it is locked already."""
    for left in reversed(range(MOST_TRIES)):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):  # its last owner has just removed the empty folder
            if not left:
                raise
            continue
        try:
            if not lock_descriptor(handle, blocking=False):
                os.close(handle)
                return None
        except OSError as error:
            _warn_without_locks(lock.parent, error.strerror or str(error))
        with contextlib.suppress(FileNotFoundError):
            if os.name == "nt" or os.path.samestat(os.fstat(handle), lock.stat()):  # see `_remove`
                return handle
        os.close(handle)  # its last owner has just removed the file: a lock on it keeps nobody out
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(lock.parent))


@functools.cache
def _warn_without_locks(folder: Path, reason: str) -> None:
    log.warning(
        "the file system of %s has no file locks (%s): a second run into this folder would not be noticed, so start none",
        folder,
        reason,
    )


@contextlib.contextmanager
def _waited(lock: Path) -> Iterator[None]:
    """Hold a lock that others hold for a moment only."""
    while (handle := _locked(lock)) is None:
        time.sleep(0.02)
    try:
        yield
    finally:
        _remove(lock, handle)


def _remove(lock: Path, handle: int, folders: Iterable[Path] = ()) -> None:
    """Remove a lock file and empty folders, then release the lock: who waited finds that the file is another one."""
    if os.name == "nt":  # removes no open file, so nobody else has it open where this succeeds
        os.close(handle)
    with contextlib.suppress(OSError):
        lock.unlink()
    _remove_empty(folders)
    if os.name != "nt":
        with contextlib.suppress(OSError):  # a file system without locks
            unlock_descriptor(handle)  # a forked process may have the file open, too
        os.close(handle)


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:  # removed in the meantime, or not to be read
        return False


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _cannot_write(output: Path, lock: Path, error: OSError) -> str:
    if isinstance(error, PermissionError) and lock.exists() and os.access(lock.parent, os.W_OK):
        return f"cannot lock {output}: {lock} is another user's; if no run of theirs works there, delete that file"
    return f"cannot write to {output}: {error.strerror or error}; choose a folder you may write to"


def _temporary_files(folder: Path, file: Path | None, pid: int) -> list[Path]:
    """Files under the names that this package writes before it renames: `.NAME.PID` and `.NAME.PID.*`."""
    if file is not None:
        return list(folder.glob(f".{file.name}.{pid}.*"))
    return [*folder.rglob(f".*.{pid}"), *folder.rglob(f".*.{pid}.*")]


# ------------------------------------------------------------------------------------------------ who owns it


def _sign(handle: int) -> None:
    """Say who the owner is, from the second byte on: Windows lets nobody read the first one, which is locked."""
    record = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    with contextlib.suppress(OSError):  # a full disk will be named by the run itself
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, b" " + json.dumps(record).encode())


def _record(lock: Path) -> dict | None:
    """Host, process and start that a lock file holds; None where it cannot be read."""
    try:
        with lock.open("rb", buffering=0) as file:
            file.seek(1)
            record = json.loads(file.read())
        return {"host": str(record["host"]), "pid": int(record["pid"]), "started": str(record["started"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _owner(lock: Path) -> str:
    record = _record(lock)
    if record is None:
        return "its host, process and start are unknown"
    return f"process {record['pid']} on host {record['host']}, started {record['started']}"
