"""What the tests of worker processes run in them; imports nothing heavy."""

import os
import time
from pathlib import Path


def square(number: int) -> int:
    if number < 0:
        os._exit(9)  # what a process that takes too much memory looks like from outside
    return number * number


def wait_for_ever(started: Path) -> None:
    """Say which process this is, then work until it is ended."""
    (started / str(os.getpid())).touch()
    while True:
        time.sleep(0.1)


def done_or_for_ever(started: Path | None) -> str:
    if started is not None:
        wait_for_ever(started)
    return "done"


def is_running(pid: int) -> bool:
    """Whether a process works; one that has ended and whose parent has not yet asked for it does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition, seconds: float = 120.0) -> None:
    """Wait until a condition holds; a loaded machine may take its time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
