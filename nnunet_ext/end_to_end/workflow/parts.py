"""A step whose cases are shared among jobs: a scan where one is needed, a job for each part, and a last one.

The last job has the name and the command of the step in one job. So what is done stays done, whatever the number of parts.
Cases that one division has finished are skipped by the next one, and two divisions never run at the same time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from nnunet_ext.end_to_end.workflow.flags import ERROR, FOLDER
from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow
from nnunet_ext.end_to_end.workflow.standing import clock_s
from nnunet_ext.end_to_end.workflow.step import Step
from nnunet_ext.leases import read_owner

#: Steps whose cases may be shared: their names, or how they begin.
SHARED_BY_PARTS = ("convert", "preprocess_", "predict")
SCAN = "{}_scan"
_PART = "{}_part_{}_of_{}"


def in_parts(whole: Step, n_parts: int, *, last: Step, scan: Step | None = None) -> list[Step]:
    """A step as it is, or as jobs that share its cases.

    Args:
        whole: The step in one job.
        n_parts: Number of parts. 1 leaves the step as it is.
        last: The same step after its parts. Its command is that of `whole`.
        scan: Finds the cases before there are parts. None if each part finds its own.
    """
    if n_parts == 1:
        return [whole]
    parts = [
        replace(
            whole,
            name=_PART.format(whole.name, k, n_parts),
            title=f"{whole.title}, part {k + 1} of {n_parts}",
            command=(*whole.command, "-num_parts", str(n_parts), "-part_id", str(k)),
            outputs=(),
            inputs=scan.outputs or whole.inputs if scan else whole.inputs,
            after=(scan.name,) if scan else (),
        )
        for k in range(n_parts)
    ]
    return [*([scan] if scan else []), *parts, replace(last, after=tuple(part.name for part in parts), removes=())]


def numbers_of_parts(workflow: PlannedWorkflow, n_parts: int, say: Callable[[str], None]) -> dict[str, int]:
    """Name of each step whose cases may be shared -> number of its parts. It is 1 if the step is done.

    Args:
        workflow: With each step in one job.
        n_parts: That is asked for.
        say: Gets a line of each step that was begun in another number of parts.

    Raises:
        ValueError: If jobs of another number of parts run.
    """
    done = workflow.done()
    return {
        step.name: 1 if step.name in done else _number(workflow, step, n_parts, say)
        for step in workflow.steps
        if any(step.name == one or (one.endswith("_") and step.name.startswith(one)) for one in SHARED_BY_PARTS)
    }


def begun_in_parts(workflow: PlannedWorkflow, step: Step) -> dict[int, list[Path]]:
    """Number of parts -> leases of the parts that were begun, whoever began them."""
    found: dict[int, list[Path]] = {}
    for file in (workflow.place(step) / FOLDER).glob(_PART.format(step.name, "*", "*") + ".started.json"):
        if match := re.fullmatch(
            _PART.format(re.escape(step.name), r"\d+", r"(\d+)"), file.name.partition(".started")[0]
        ):
            found.setdefault(int(match[1]), []).append(file.with_name(f"{match[0]}.lease"))
    return found


def look_again_after_a_failure(workflow: PlannedWorkflow) -> list[str]:
    """Forget scans of steps that failed in a part or at the end, so that the cases are found anew. Names of the steps.

    Whoever repairs the cause may have taken cases out, or added some. Nothing is forgotten while a part runs. Scans that
    remove what the parts have made are kept.
    """
    found = []
    by_name = {step.name: step for step in workflow.steps}
    for name, scan in by_name.items():
        step = by_name.get(name.removesuffix(SCAN.format("")))
        if step is None or step is scan or scan.removes or not workflow.flags(scan).is_done(scan):
            continue
        jobs = [step, *(by_name[part] for part in step.after)]
        if any(_owners(workflow, [workflow.flags(job).lease_file(job) for job in jobs])):
            continue
        if any(workflow.flags(job).failure(job).get("kind") == ERROR for job in jobs):
            workflow.flags(scan).done_file(scan).unlink()
            found.append(step.name)
    return found


def _number(workflow: PlannedWorkflow, step: Step, n_parts: int, say: Callable[[str], None]) -> int:
    begun = begun_in_parts(workflow, step)
    for other, leases in begun.items():
        if other != n_parts and (owner := next(_owners(workflow, leases), None)):
            raise ValueError(
                f"{step.name} runs in {other} parts: {owner}. Two numbers of parts are not mixed: give --parts {other}, or "
                "wait until its jobs have ended"
            )
    lease = workflow.flags(step).lease_file(step)
    if n_parts not in begun and (owner := next(_owners(workflow, [lease]), None)):
        say(f"{step.name}: it runs in one job, which is waited for: {owner}")
        return 1
    if begun and n_parts not in begun:
        others = " and ".join(str(other) for other in sorted(begun))
        say(
            f"{step.name}: it was begun in {others} parts and goes on in {n_parts}; cases that are done are not repeated"
        )
    return n_parts


def _owners(workflow: PlannedWorkflow, leases: list[Path]) -> Iterator[str]:
    """Those who hold any of these leases now."""
    there = [lease for lease in leases if lease.exists()]
    if there:
        now_s = clock_s(there[0].parent)
        yield from (owner for lease in there if (owner := read_owner(lease, now_s=now_s)))
