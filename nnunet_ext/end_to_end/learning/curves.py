"""Curves of DSC, HD95 and missed organs against time, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_ext.end_to_end.learning.records import RunRecord
from nnunet_ext.end_to_end.learning.study import CPU
from nnunet_ext.end_to_end.learning.table import has_learned, line_of, title_of
from nnunet_ext.files import written_whole

#: What is drawn, with the title of its axis.
PANELS: tuple[tuple[str, Callable[[RunRecord], float]], ...] = (
    ("mean DSC in %", lambda record: record.dsc),
    ("mean HD95 in mm", lambda record: record.hd95),
    ("organs missed", lambda record: float(record.missed)),
)
DASHES = ("-", "--", ":", "-.")


def draw_curves(records: Sequence[RunRecord], file: Path, *, systems: Sequence[str]) -> None:
    """Write a PNG with a curve per system and seed. Seeds differ in their dashes, and true boxes have crosses.

    Runs that have learned nothing are named in a line and not drawn, so that the others can be told apart.

    Args:
        records: Of one data set and device.
        file: The picture.
        systems: All that there are, in the order of the legend.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    drawn = [record for record in records if has_learned(record)]
    seeds = sorted({record.seed for record in drawn})
    marks = sorted({record.mark_min for record in drawn})
    order = {name: at for at, name in enumerate(systems)}
    lines = sorted({line_of(record) for record in drawn}, key=lambda line: (order.get(line[0], len(order)), line))
    names = list(dict.fromkeys(line[0] for line in lines))
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    for panel, (title, value) in zip(axes, PANELS, strict=True):
        for line in lines:
            points = sorted((r for r in drawn if line_of(r) == line), key=lambda r: r.mark_min)
            panel.plot(
                [r.mark_min for r in points],
                [value(r) for r in points],
                marker="x" if line[1] else "o",
                linestyle=DASHES[seeds.index(line[2]) % len(DASHES)],
                color=palette(names.index(line[0]) % palette.N),
                label=f"{title_of(line)}, seed {line[2]}",
            )
        panel.set_xscale("log")
        panel.set_xticks(marks, [f"{mark:g}" for mark in marks])
        panel.minorticks_off()
        panel.set_xlabel("core minutes" if records[0].device == CPU else "minutes")
        panel.set_title(title)
        panel.grid(alpha=0.3)
    axes[-1].set_ylim(bottom=0, top=1.1 * max([1.0, *(record.missed for record in drawn)]))
    axes[-1].yaxis.get_major_locator().set_params(integer=True)
    if lines:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    if idle := [f"{title_of(line_of(r))}, {r.mark_min:g} min" for r in records if not has_learned(r)]:
        figure.suptitle(f"Nothing learned yet: {'; '.join(dict.fromkeys(idle))}", fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file, ending=".png") as temporary:
        figure.savefig(temporary, dpi=110)
