"""A workflow as plain job arrays of SLURM, for sites without Snakemake: one array per kind of step, with many tasks."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow
from nnunet_ext.end_to_end.workflow.step import Step, producers


@dataclass(frozen=True)
class JobArray:
    """Steps that differ by their fold, or by their part.

    Attributes:
        name: Of a variable of a shell, too.
        steps: One per task.
        limit_minutes: Of each task.
    """

    name: str
    steps: tuple[Step, ...]
    limit_minutes: float


def job_arrays(workflow: PlannedWorkflow) -> list[JobArray]:
    """The steps in arrays, in an order in which each comes after those that it needs."""
    kinds: dict[str, list[Step]] = {}
    for step in workflow.steps:
        kinds.setdefault(re.sub(r"\W+", "_", re.sub(r"_fold_\d+$|_\d+_of_\d+$", "", step.name)), []).append(step)
    return [
        JobArray(name, tuple(steps), max(workflow.limits_minutes.get(step.name, 0.0) for step in steps))
        for name, steps in kinds.items()
    ]


def sbatch_script(workflow: PlannedWorkflow, *, partition: str | None = None, account: str | None = None) -> str:
    """A script of a shell that submits the arrays, each to begin when those that it needs have ended well.

    A task that runs out of time asks SLURM to run it again, and those that need it go on waiting. What is done is seen by
    its task, which ends at once. So the script may be run again.
    """
    arrays = job_arrays(workflow)
    by_name = {array.name: array for array in arrays}
    of_step = {step.name: array.name for array in arrays for step in array.steps}
    needs = producers(workflow.steps)
    job = f"{shlex.quote(sys.executable)} -m nnunet_ext.end_to_end.workflow.one_step"
    lines = [
        "#!/bin/bash",
        f"# Job arrays of the experiment {workflow.experiment}, printed by nnunet_ext workflow --print-sbatch.",
        "set -euo pipefail",
        f"cd {shlex.quote(str(workflow.folder))}",
        "mkdir -p logs/sbatch",
    ]
    for array in arrays:
        before = dict.fromkeys(of_step[name] for step in array.steps for name in needs[step.name])
        depends = ",".join(f"{_kind(by_name[name], array, needs)}:${name}" for name in before)
        depends = f' --kill-on-invalid-dep=yes --dependency="{depends}"' if depends else ""
        names = " ".join(step.name for step in array.steps)
        lines += [
            "",
            f"{array.name}=$(sbatch --parsable{depends} <<'JOB' | cut -d';' -f1",
            "#!/bin/bash",
            *(
                f"#SBATCH --{word}={value}"
                for word, value in _asked(array, workflow, partition, account).items()
                if value
            ),
            "#SBATCH --requeue",
            *(f"# {line}" for line in f"{array.steps[0].title}: {array.steps[0].line}".splitlines()),
            f"steps=({names})",
            f'exec {job} . "${{steps[$SLURM_ARRAY_TASK_ID]}}" --cluster --wait',
            "JOB",
            ")",
        ]
    return "\n".join([*lines, "", 'echo "submitted; nnunet_ext workflow status says how they stand"'])


def _asked(array: JobArray, workflow: PlannedWorkflow, partition: str | None, account: str | None) -> dict[str, object]:
    """Options of sbatch. None and 0 are not asked for."""
    resources = array.steps[0].resources
    return {
        "job-name": f"{workflow.experiment}-{array.name}",
        "array": f"0-{len(array.steps) - 1}",
        "output": "logs/sbatch/%x_%A_%a.log",
        "partition": partition,
        "account": account,
        "time": math.ceil(array.limit_minutes),
        "cpus-per-task": resources.processes,
        "mem": f"{math.ceil(1000 * resources.memory_gb)}M",
        "gpus": resources.gpus,
    }


def _kind(before: JobArray, array: JobArray, needs: Mapping[str, Sequence[str]]) -> str:
    """`aftercorr` if each task needs the same task of the array before it, else `afterok`."""
    mine = [[step.name for step in before.steps if step.name in needs[one.name]] for one in array.steps]
    same = len(before.steps) > 1 and mine == [[step.name] for step in before.steps]
    return "aftercorr" if same else "afterok"
