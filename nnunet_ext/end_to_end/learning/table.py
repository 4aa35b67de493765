"""The table of a study of learning, in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from nnunet_ext.end_to_end.learning.records import END_GAIN, RunRecord, last_gain
from nnunet_ext.end_to_end.learning.study import CPU

Line = tuple[str, bool, int]


def table(
    records: Sequence[RunRecord],
    *,
    systems: Sequence[str],
    marks_min: Collection[float] = (),
    not_built: Mapping[str, str] | None = None,
) -> str:
    """A row per system, mark and seed, and what was not run.

    Args:
        records: Of one data set and device.
        systems: All that there are. The rows have their order.
        marks_min: All marks. One that a system was not run at is listed.
        not_built: System -> why this version can't train it.
    """
    if not records:
        return "No run has been scored yet."
    not_built = not_built or {}
    organs = records[0].organs
    on_cpu = records[0].device == CPU
    measure = "CPU" if on_cpu else "clock"
    heads = [
        "system",
        "min",
        "seed",
        "iterations",
        f"{measure} min",
        *organ_heads(organs),
        "mean DSC %",
        "SD",
        "HD95 mm",
        "missed",
        "at its end",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    order = {name: at for at, name in enumerate(systems)}

    def key(record: RunRecord) -> tuple:
        return order.get(record.system, len(order)), record.system, record.true_boxes, record.seed, record.mark_min

    ordered = sorted(records, key=key)
    lines += [_row(record, [r for r in ordered if line_of(r) == line_of(record)]) for record in ordered]
    cases = sorted({record.n_cases for record in records})
    machines = sorted({record.machine for record in records})
    minutes = "Min: core minutes" if on_cpu else "Min: minutes"
    lines += [
        "",
        f"n = {' or '.join(map(str, cases))} cases of other people. {minutes} of the mark, all stages together, on "
        f"{' and '.join(machines)}, {'one thread' if on_cpu else records[0].device}. Iterations: localizer + segmenter. "
        f"{measure} min: spent on them. SD: over cases, "
        "of the mean over organs. HD95: mean over organs and cases, a missed organ counts with the image's diagonal. "
        "Missed: organs without a voxel. At its end: the last doubling of time gained less than "
        f"{END_GAIN:g} point of DSC.",
    ]
    return "\n".join([*lines, *_not_run(records, systems, marks_min, not_built)])


def organ_heads(organs: Sequence[str]) -> list[str]:
    """Short heads of columns."""
    return [name.replace("OpticNrv", "Nrv").replace("OpticChiasm", "Chiasm") for name in organs]


def line_of(record: RunRecord) -> Line:
    """Records with the same are points of one curve."""
    return record.system, record.true_boxes, record.seed


def has_learned(record: RunRecord) -> bool:
    """Whether a run knows any organ at all."""
    return record.dsc >= END_GAIN


def title_of(line: Line) -> str:
    return line[0] + (", true boxes" if line[1] else "")


def _row(record: RunRecord, curve: Sequence[RunRecord]) -> str:
    iterations = " + ".join(str(record.iterations[s]) for s in ("localizer", "segmenter") if s in record.iterations)
    sd = "" if np.isnan(record.dsc_sd) else f"{record.dsc_sd:.1f}"
    cells = [
        title_of(line_of(record)),
        f"{record.mark_min:g}",
        str(record.seed),
        iterations,
        f"{sum(record.spent_s.values()) / 60:.1f}",
        *("" if np.isnan(v) else f"{v:.1f}" for v in record.organ_dsc),
        f"{record.dsc:.1f}",
        sd,
        f"{record.hd95:.2f}",
        str(record.missed),
        end_of(record, curve),
    ]
    return f"| {' | '.join(cells)} |"


def end_of(record: RunRecord, curve: Sequence[RunRecord]) -> str:
    """Whether a system is at its end, with the gain of the last doubling. One that knows no organ yet is not.

    Args:
        record: A run.
        curve: All runs of its line. Nothing is said of a run that another one is longer than.
    """
    if record.mark_min < max(r.mark_min for r in curve):
        return ""
    if not has_learned(record):
        return "nothing learned yet"
    gain = last_gain(curve)
    if gain is None:
        return "one mark"
    return f"{'yes' if gain < END_GAIN else 'not at its end'} ({gain:+.1f})"


def _not_run(
    records: Sequence[RunRecord], systems: Sequence[str], marks_min: Collection[float], not_built: Mapping[str, str]
) -> list[str]:
    """Lines on the systems and marks without a run."""
    run = {(record.system, record.mark_min) for record in records if not record.true_boxes}
    marks = sorted({*marks_min, *(mark for _, mark in run)})
    lines = []
    for system in systems:
        if system in not_built:
            lines.append(f"- {system}: not built ({not_built[system]})")
        elif lacking := [f"{mark:g}" for mark in marks if (system, mark) not in run]:
            lines.append(f"- {system}: {'at no mark' if len(lacking) == len(marks) else ', '.join(lacking) + ' min'}")
    return ["", "Not run:", "", *lines] if lines else []
