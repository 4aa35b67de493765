"""Which steps of a workflow are done, kept as two small files per step in the workflow's folder.

`steps/NAME.started.json` says what was begun and `steps/NAME.done.json` what has ended well. A step is done if its flag
has the fingerprint of today's command and if all outputs are there. So a killed run leaves no step that looks done. Jobs
of a workflow also say in `steps/NAME.failed.json` how one failed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import psutil

from nnunet_ext.end_to_end.workflow.step import Step, fingerprints
from nnunet_ext.files import Shape, read_json, write_json
from nnunet_ext.leases import batch_job, describe_process, ended_here, runs_here
from nnunet_ext.processes import end_group

FOLDER = "steps"
_PROCESS: Shape = {"host": str, "pid": int, "pid_started": float, "machine": str}
_FLAG: Shape = {
    "fingerprint": str,
    "command": str,
    "at": str,
    "seconds?": float,
    "process?": _PROCESS,
    "job?": (str, None),
}
_FAILURE: Shape = {"kind": str, "says": str, "log": str, "at": str, "host": str, "job?": (str, None)}
#: How a step has failed: its command did, a time limit ended it, or a signal such as that of `scancel`.
ERROR, OUT_OF_TIME, SIGNAL = "error", "out of time", "signal"
#: Time of the flag of a step that was made before there were flags.
BEFORE_FLAGS_S = 86_400.0
_REMEDY = "delete it to make its step again"


class StepsDiffer(ValueError):
    """A folder holds what another command made, and it took too long to be removed. The message says what to do."""


class Flags:
    """The flags of a list of steps in one folder.

    Args:
        folder: Of the workflow.
        steps: In an order in which each comes after those whose outputs it reads.
    """

    def __init__(self, folder: Path, steps: Sequence[Step]) -> None:
        self.folder = Path(folder)
        self.fingerprints = fingerprints(steps)

    def done_file(self, step: Step) -> Path:
        return self.folder / FOLDER / f"{step.name}.done.json"

    def started_file(self, step: Step) -> Path:
        return self.folder / FOLDER / f"{step.name}.started.json"

    def failed_file(self, step: Step) -> Path:
        return self.folder / FOLDER / f"{step.name}.failed.json"

    def lease_file(self, step: Step) -> Path:
        """Names whoever makes a step, while it is made."""
        return self.folder / FOLDER / f"{step.name}.lease"

    def is_done(self, step: Step) -> bool:
        """Whether nothing of a step is missing.

        Raises:
            ValueError: If its flag is damaged.
        """
        flag = _read(self.done_file(step))
        return flag.get("fingerprint") == self.fingerprints[step.name] and not self.missing(step)

    def missing(self, step: Step) -> list[str]:
        """Outputs of a step that are not there."""
        return [output for output in step.outputs if not (self.folder / output).exists()]

    def check(self, step: Step) -> None:
        """Refuse a step that would take the place of one that took long.

        Raises:
            StepsDiffer: If its outputs were made, or begun, by another command or from the outputs of another one.
            ValueError: If its flag is damaged.
        """
        if not step.lasting or (earlier := self._other(step)) is None:
            return
        made = [path for output in step.outputs if (path := self.folder / output).exists()]
        if made:
            place = made[0] if made[0].is_dir() else made[0].parent
            raise StepsDiffer(
                f"{place} was made by another command than today's, or from other files: then `{earlier}`, now "
                f"`{' '.join(step.command)}`. Give the options of then, choose another folder for the study, or move that "
                "folder away to make it again"
            )

    def begin(self, step: Step) -> None:
        """Note that a step begins. What another command left behind is removed before, unless it is lasting."""
        if step.removes is not None or self._other(step) is not None:
            self.remove_outputs(step)
        self.done_file(step).unlink(missing_ok=True)
        self.failed_file(step).unlink(missing_ok=True)
        self.started_file(step).parent.mkdir(exist_ok=True)
        write_json(self._flag(step), self.started_file(step))

    def note_process(self, step: Step, pid: int) -> None:
        """Note which process a step that has begun is."""
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
            process = describe_process(pid)
            write_json({**self._flag(step), "process": process, "job": batch_job()}, self.started_file(step))

    def still_runs(self, step: Step) -> bool:
        """Whether the command that a step was begun with runs on this machine, though whoever began it was killed."""
        process = _read(self.started_file(step)).get("process")
        return process is not None and runs_here(process)

    def end_rest(self, step: Step) -> None:
        """End what the command of a killed run has left behind on this machine. The command itself has ended."""
        process = _read(self.started_file(step)).get("process")
        if process is not None and ended_here(process):
            end_group(process["pid"])

    def end(self, step: Step, seconds: float) -> None:
        """Note that a step has ended well."""
        write_json({**self._flag(step), "seconds": round(seconds, 1)}, self.done_file(step), flush=True)

    def fail(self, step: Step, kind: str, says: str, log: Path) -> None:
        """Note that a step has failed: `ERROR`, `OUT_OF_TIME` or `SIGNAL`, and what its log says last."""
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        place = {"host": socket.gethostname(), "job": batch_job()}
        write_json({"kind": kind, "says": says, "log": str(log), "at": now, **place}, self.failed_file(step))

    def failure(self, step: Step) -> Mapping:
        """How a step has failed, empty if it has not since it last began."""
        file = self.failed_file(step)
        return read_json(file, _FAILURE, remedy="delete it") if file.is_file() else {}

    def started(self, step: Step) -> Mapping:
        """Which command a step was begun with, when, and as which process. Empty if it was not begun."""
        return _read(self.started_file(step))

    def remove_outputs(self, step: Step) -> None:
        """Remove what a step has made, unless it is lasting."""
        for path in () if step.lasting else step.outputs if step.removes is None else step.removes:
            _remove(self.folder / path)

    def adopt(self, step: Step) -> bool:
        """Take a step for done that was made before there were flags. Whether it was.

        Its flag is older than all others, so that nothing is made again for it.
        """
        if not step.outputs or self.started_file(step).exists() or self.done_file(step).exists() or self.missing(step):
            return False
        self.done_file(step).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._flag(step), self.done_file(step), flush=True)
        os.utime(self.done_file(step), (BEFORE_FLAGS_S, BEFORE_FLAGS_S))
        return True

    def seconds(self, step: Step) -> float | None:
        """Seconds that a step took, None if it is not done."""
        return _read(self.done_file(step)).get("seconds")

    def _flag(self, step: Step) -> dict:
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        return {"fingerprint": self.fingerprints[step.name], "command": " ".join(step.command), "at": now}

    def _other(self, step: Step) -> str | None:
        """The command that a step was begun with, if it is another than today's or had other inputs."""
        for file in (self.started_file(step), self.done_file(step)):
            flag = _read(file)
            if flag and flag["fingerprint"] != self.fingerprints[step.name]:
                return flag["command"]
        return None


def _read(file: Path) -> Mapping:
    return read_json(file, _FLAG, remedy=_REMEDY) if file.is_file() else {}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
