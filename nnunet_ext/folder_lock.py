"""One run per output folder or file: a second one is refused with the host, process and start of the first.

The owner holds a lease, a hidden file in the folder (`leases.py`). One of a killed run is taken over at once on its own
machine, and after two minutes on another one. The next owner finds and removes the temporary files of the killed run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nnunet_ext.files import check_output_folder
from nnunet_ext.leases import Lease, LeaseTaken, read_owner

LOCK = ".nnunet_ext.lock"
#: Of one of several parts that share a folder.
_PART = ".nnunet_ext.part-{}-of-{}.lock"
#: To find a folder that others make and remove all the time.
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
    """Hold the lease `name` in a folder while none of `others` is held; `file` is what is owned, None for the folder."""
    check_output_folder(folder)
    made = [path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists()]
    users_own = not made and _is_empty(folder)
    output, lock = file or folder, folder / name
    try:
        lease = _leased(lock, output)
    except FolderInUse:
        raise
    except OSError as error:
        _remove_empty(made)
        raise type(error)(_cannot_write(output, lock, error)) from error
    try:
        for other in () if others is None else others():  # after its own lease is there, which the other will see
            if (owner := read_owner(other, now_s=lock.stat().st_mtime)) is not None:
                raise FolderInUse(_in_use(output, owner))
            _leased(other, output).release()  # of a killed run
        yield
    finally:
        lease.release()
        _remove_empty(made if made or users_own else [folder])


def _leased(lock: Path, output: Path) -> Lease:
    """A lease that is taken now; what its last owner left behind when it was killed is removed."""
    for left in reversed(range(MOST_TRIES)):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lease = Lease(lock)
            break
        except (FileNotFoundError, FileExistsError):  # its last owner has just removed the empty folder
            if not left:
                raise
            time.sleep(0.001)
        except LeaseTaken as error:
            raise FolderInUse(_in_use(output, str(error))) from error
    if lease.killed is not None and lease.killed.mark is not None:
        for path in _temporary_files(lock.parent, None if output == lock.parent else output, lease.killed.mark):
            with contextlib.suppress(OSError):
                path.unlink()
    return lease


def _in_use(output: Path, owner: str) -> str:
    return f"another run works in {output}: {owner}; wait until it has ended, stop it, or choose another output"


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


def _temporary_files(folder: Path, file: Path | None, mark: str) -> list[Path]:
    """Files under the names that this package writes before it renames, of one process: `.NAME.MARK.*`."""
    return list(folder.rglob(f".*.{mark}.*") if file is None else folder.glob(f".{file.name}.{mark}.*"))
