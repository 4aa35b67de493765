"""The folder of a workflow: its steps, as every job reads them, and which of them are done.

Flags of steps that belong to the data set lie with it, in `nnUNet_preprocessed/DatasetXXX/workflow`, so that experiments
share them. All others lie in the workflow's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nnunet_ext.end_to_end.workflow.flags import FOLDER, Flags
from nnunet_ext.end_to_end.workflow.running import LOGS
from nnunet_ext.end_to_end.workflow.step import Resources, Step, producers
from nnunet_ext.files import Shape, read_json, write_json

STEPS_FILE = "steps.json"
#: Of shared flags, in the folder of preprocessed data.
SHARED = "workflow"
#: What Snakemake takes for outputs. They are made from our flags, and it may delete them.
MARKS = "marks"
_STEP: Shape = {
    "name": str,
    "title": str,
    "command": [str],
    "outputs": [str],
    "inputs": [str],
    "how": [str],
    "resources": {"processes": int, "memory_gb": float, "gpus": int, "minutes": float},
    "lasting": bool,
    "after": [str],
    "removes": ([str], None),
    "limit_minutes": float,
}
_WORKFLOW: Shape = {
    "experiment": str,
    "shared": str,
    "environment": {str: str},
    "gpus": [str],
    "steps": [_STEP],
}


@dataclass(frozen=True)
class PlannedWorkflow:
    """Steps in a folder.

    Attributes:
        folder: Of the workflow. The commands run in it.
        experiment: Its name.
        shared: Where flags and logs of the steps are that belong to the data set.
        steps: Each after those whose outputs it reads.
        environment: Of the commands, beside that of the process.
        gpus: Numbers of this machine's GPUs, which jobs outside of a cluster share out by leases.
        limits_minutes: Name of a step -> time limit of its job.
    """

    folder: Path
    experiment: str
    shared: Path
    steps: Sequence[Step]
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    limits_minutes: Mapping[str, float] = field(default_factory=dict)

    def step(self, name: str) -> Step:
        """The step of a name.

        Raises:
            ValueError: If there is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise ValueError(
            f"{self.folder / STEPS_FILE} has no step {name!r}; it has {', '.join(s.name for s in self.steps)}"
        )

    def place(self, step: Step) -> Path:
        """Folder of a step's flags and log. One without outputs is known by its inputs."""
        own = all(not Path(path).is_absolute() for path in step.outputs or step.inputs)
        return self.folder if own else self.shared

    def flags(self, step: Step) -> Flags:
        """Of one step. Its fingerprint is that of its own command, because a data set's steps have several workflows."""
        return Flags(self.place(step), [step])

    def log(self, step: Step) -> Path:
        return self.place(step) / LOGS / f"{step.name}.log"

    def mark(self, step: Step) -> Path:
        return self.folder / MARKS / step.name

    def done(self) -> set[str]:
        """Names of the steps that are done, and not before what they read.

        Raises:
            ValueError: If a flag is damaged.
        """
        needs: Mapping[str, Sequence[str]] = producers(self.steps)
        found: dict[str, int] = {}
        for step in self.steps:
            flags = self.flags(step)
            if not all(name in found for name in needs[step.name]) or not flags.is_done(step):
                continue
            at = flags.done_file(step).stat().st_mtime_ns
            if all(found[name] <= at for name in needs[step.name]):
                found[step.name] = at
        return set(found)

    def is_done(self, step: Step) -> bool:
        return step.name in self.done()

    def write_marks(self) -> set[str]:
        """Make Snakemake's outputs anew from our flags, at the flags' times. Names of the steps that are done."""
        done = self.done()
        (self.folder / MARKS).mkdir(parents=True, exist_ok=True)
        for step in self.steps:
            if step.name in done:
                self.write_mark(step)
            else:
                self.mark(step).unlink(missing_ok=True)
        return done

    def write_mark(self, step: Step) -> None:
        at = self.flags(step).done_file(step).stat().st_mtime_ns
        mark = self.mark(step)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.utime(mark, ns=(at, at))

    def write(self) -> None:
        """Write what jobs read. Nothing changes if nothing has to, so that it keeps its time."""
        steps = [{**asdict(step), "limit_minutes": self.limits_minutes.get(step.name, 0.0)} for step in self.steps]
        content = {
            "experiment": self.experiment,
            "shared": str(self.shared),
            "environment": dict(self.environment),
            "gpus": list(self.gpus),
            "needs": producers(self.steps),
            "steps": steps,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(content, self.folder / STEPS_FILE)
        for place in {self.place(step) for step in self.steps}:
            for folder in (FOLDER, LOGS):
                (place / folder).mkdir(parents=True, exist_ok=True)


def read_workflow(folder: Path) -> PlannedWorkflow:
    """The workflow of a folder, as `write` wrote it.

    Raises:
        OSError: If there is none.
        ValueError: If it is damaged.
    """
    folder = Path(folder).resolve()
    content = read_json(folder / STEPS_FILE, _WORKFLOW, remedy="repeat `nnunet_ext workflow` to write it anew")
    steps = [
        Step(
            name=one["name"],
            title=one["title"],
            command=tuple(one["command"]),
            outputs=tuple(one["outputs"]),
            inputs=tuple(one["inputs"]),
            how=tuple(one["how"]),
            resources=Resources(**one["resources"]),
            lasting=one["lasting"],
            after=tuple(one["after"]),
            removes=None if one["removes"] is None else tuple(one["removes"]),
        )
        for one in content["steps"]
    ]
    return PlannedWorkflow(
        folder,
        content["experiment"],
        Path(content["shared"]),
        steps,
        content["environment"],
        tuple(content["gpus"]),
        {one["name"]: one["limit_minutes"] for one in content["steps"]},
    )
