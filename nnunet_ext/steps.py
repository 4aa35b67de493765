"""Time and peak memory of named steps, recorded when someone measures.

Code that prepares a case names its steps: `with step("N4"): ...`. Without a recorder this costs nothing. `recorded_steps`
records the steps of the thread that opens it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

#: Name of what a case takes outside its named steps.
OTHER = "other"


@dataclass
class Step:
    """What one step of one case took, without the steps inside it.

    Attributes:
        case: The case, or None outside of cases.
        name: Of the step.
        cpu_s: CPU seconds of the process and of its children that have ended.
        wall_s: Seconds by the clock.
        peak_mb: Highest resident memory of the process. None where the system does not say.
    """

    case: str | None
    name: str
    cpu_s: float = 0.0
    peak_mb: float | None = None
    wall_s: float = 0.0


class _Recorder:
    def __init__(self) -> None:
        self.steps: dict[tuple[str | None, str], Step] = {}
        self.inside: list[Step] = []
        self.cpu_s = 0.0
        self.wall_s = 0.0

    def begin(self, case: str | None, name: str) -> None:
        self._account()
        case = self.inside[-1].case if case is None and self.inside else case
        self.inside.append(self.steps.setdefault((case, name), Step(case, name)))

    def end(self) -> None:
        self._account()
        self.inside.pop()

    def _account(self) -> None:
        """Give what was used since the last call to the innermost step."""
        cpu_s, wall_s = _cpu_s(), perf_counter()
        if self.inside:
            step = self.inside[-1]
            step.cpu_s += cpu_s - self.cpu_s
            step.wall_s += wall_s - self.wall_s
            peak_mb = _peak_mb()
            step.peak_mb = peak_mb if step.peak_mb is None else max(step.peak_mb, peak_mb or 0.0)
        _forget_peak()
        self.cpu_s, self.wall_s = cpu_s, wall_s


_recorder: ContextVar[_Recorder | None] = ContextVar("_recorder", default=None)


@contextmanager
def step(name: str, *, case: str | None = None) -> Iterator[None]:
    """A step of a case. A step with `case` begins that case, and steps within it belong to it."""
    recorder = _recorder.get()
    if recorder is None:
        yield
        return
    recorder.begin(case, name)
    try:
        yield
    finally:
        recorder.end()


@contextmanager
def recorded_steps() -> Iterator[list[Step]]:
    """Record steps. The list is filled at the end, in the order in which the steps began first."""
    recorder = _Recorder()
    found: list[Step] = []
    token = _recorder.set(recorder)
    try:
        yield found
    finally:
        _recorder.reset(token)
        found += recorder.steps.values()


def _cpu_s() -> float:
    """CPU seconds of this process, all its threads, and its children that have ended."""
    return sum(os.times()[:4])


def _peak_mb() -> float | None:
    """Highest resident memory since `_forget_peak` (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    return None if kilobytes is None else kilobytes * 1024 / 1e6


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: the peak starts from the memory in use now
    except OSError:  # not Linux, or not allowed: then peaks never fall
        return
