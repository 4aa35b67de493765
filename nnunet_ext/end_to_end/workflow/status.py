"""How all experiments stand, as text and as a page: stages with their folds, what failed and its last line."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from nnunet_ext.end_to_end.workflow.planned_workflow import STEPS_FILE, PlannedWorkflow, read_workflow
from nnunet_ext.end_to_end.workflow.slurm import Job, jobs_of_user
from nnunet_ext.end_to_end.workflow.standing import (
    DONE,
    ENDED,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    TO_DO,
    Standing,
    standings,
)
from nnunet_ext.files import check_folder, check_output_file, write_text

#: In the order of the summary.
STATES = (DONE, RUNNING, QUEUED, PAUSED, FAILED, ENDED, TO_DO)
HEADS = ("step", "state", "epoch", "pseudo Dice", "time left", "")
#: Title of a part of a step, of the whole step and of how many.
PART_OF = re.compile(r"(.*), part \d+ of (\d+)")
#: Between two looks of an open page.
RELOAD_S = 60


@dataclass(frozen=True)
class Status:
    """How experiments stand.

    Attributes:
        experiments: Name -> its steps.
        in_slurm: Number of SLURM's jobs that were asked about. None if SLURM is not there.
        text: For a terminal.
    """

    experiments: Mapping[str, Sequence[Standing]]
    in_slurm: int | None
    text: str


def workflow_status(out: Path = Path("workflow"), *, experiment: str | None = None, page: Path | None = None) -> Status:
    """Say how the steps of experiments stand, compared with SLURM's queue where there is one.

    Args:
        out: Folder of all experiments.
        experiment: Name of one. None are all.
        page: File to write the same to, as HTML.

    Raises:
        OSError: If there is no such folder or experiment.
        ValueError: If a file of a workflow is damaged.
    """
    out = check_folder(Path(out), "folder of the experiments")
    folders = [out / experiment] if experiment else sorted(file.parent for file in out.glob(f"*/{STEPS_FILE}"))
    if not folders or not (folders[0] / STEPS_FILE).is_file():
        raise FileNotFoundError(
            f"there is no experiment {experiment or ''} in {out}; begin one with nnunet_ext workflow"
        )
    jobs = jobs_of_user()
    workflows = [read_workflow(folder) for folder in folders]
    found = {workflow.folder.name: standings(workflow, jobs) for workflow in workflows}
    text = "\n\n".join(_text(workflow, found[workflow.folder.name], jobs) for workflow in workflows)
    if page is not None:
        write_text(_page(found, jobs), check_output_file(Path(page), "status.html"))
    return Status(found, None if jobs is None else len(jobs), text)


def summary(steps: Sequence[Standing]) -> str:
    """Numbers of steps by state, in words."""
    counts = {state: sum(one.state == state for one in steps) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def row(one: Standing) -> tuple[str, ...]:
    """A step as texts, in the order of `HEADS`."""
    epoch = "" if one.epoch is None else f"{one.epoch}/{one.num_epochs}"
    dice = "" if one.pseudo_dice is None else f"{one.pseudo_dice:.3f}"
    left = "" if one.left_s is None else duration(one.left_s)
    says = one.says if one.seconds is None else f"in {duration(one.seconds)}"
    return one.step.title, one.state, epoch, dice, left, says


def rows(steps: Sequence[Standing]) -> list[tuple[str, ...]]:
    """A row per step, in the order of `HEADS`. Parts of a step that are done, or to do, are one row together."""
    groups: dict[tuple[str, str], list[Standing]] = {}
    for one in steps:
        whole = PART_OF.fullmatch(one.step.title)
        together = whole is not None and one.state in (DONE, TO_DO)
        groups.setdefault((whole[1] if whole and together else one.step.name, one.state), []).append(one)
    found = []
    for (title, _), group in groups.items():
        _, state, *rest, says = row(group[0])
        whole = PART_OF.fullmatch(group[0].step.title)
        if whole is None or len(group) == 1:
            found.append(row(group[0]))
        else:
            found.append((f"{title}, {len(group)} of {whole[2]} parts", state, *rest, "" if state == DONE else says))
    return found


def duration(seconds: float) -> str:
    """Seconds in words: `45 s`, `12 min`, `3.5 h`."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def _text(workflow: PlannedWorkflow, steps: Sequence[Standing], jobs: Mapping[str, Job] | None) -> str:
    table = [HEADS, *rows(steps)]
    widths = [max(len(line[at]) for line in table) for at in range(len(HEADS))]
    lines = [f"{workflow.experiment}: {summary(steps)}{_queue(jobs)}"]
    for line in table:
        lines.append("  " + "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    logs = [f"  {one.step.title}: log {workflow.log(one.step)}" for one in steps if one.state in (FAILED, ENDED)]
    return "\n".join([*lines, *logs])


def _queue(jobs: Mapping[str, Job] | None) -> str:
    if jobs is None:
        return ""
    states = [job.state for job in jobs.values()]
    return f"; in squeue {states.count('RUNNING')} running, {states.count('PENDING')} pending"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{reload_s}">
<title>Experiments</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; }}
table {{ border-collapse: collapse; margin: 0.5em 0 2em; }}
th, td {{ text-align: left; padding: 0.2em 0.9em 0.2em 0; border-bottom: 1px solid #ddd; vertical-align: top; }}
.failed, .ended {{ color: #a40000; }} .done {{ color: #666; }} .running {{ font-weight: 600; }}
</style></head><body>
<h1>Experiments</h1>
<p>{when}{queue}</p>
{tables}
</body></html>
"""


def _page(experiments: Mapping[str, Sequence[Standing]], jobs: Mapping[str, Job] | None) -> str:
    tables = []
    for name, steps in experiments.items():
        head = "".join(f"<th>{escape(word)}</th>" for word in HEADS)
        body = "\n".join(
            f'<tr class="{words[1].replace(" ", "-")}">{"".join(f"<td>{escape(word)}</td>" for word in words)}</tr>'
            for words in rows(steps)
        )
        tables.append(f"<h2>{escape(name)}: {escape(summary(steps))}</h2>\n<table><tr>{head}</tr>\n{body}\n</table>")
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return _PAGE.format(reload_s=RELOAD_S, when=when, queue=escape(_queue(jobs)), tables="\n".join(tables))
