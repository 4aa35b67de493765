"""The scores of the starter's card, as tables in Markdown, from the files that judging wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nnunet_ext.end_to_end.starter.judging import SUBSETS
from nnunet_ext.labels.organs import ORGANS

#: Organ groups of the goals.
GROUPS = {
    "eyes": ("Eye_L", "Eye_R"),
    "lenses": ("Lens_L", "Lens_R"),
    "nerves": ("OpticNrv_L", "OpticNrv_R"),
    "chiasm": ("OpticChiasm",),
}


def tables(rows: Sequence[Mapping]) -> str:
    """Tables of DSC and HD95 by subset and grid, and a line on sides and missed organs.

    Args:
        rows: Of `judging.judge_all`, of one model or several.
    """
    return "\n\n".join([_table(rows, "dsc_percent", 1), _table(rows, "hd95_mm", 1), _findings(rows)])


def _table(rows: Sequence[Mapping], metric: str, digits: int) -> str:
    worst = min if metric == "dsc_percent" else max
    title = "DSC in %" if metric == "dsc_percent" else "HD95 in mm"
    lines = [
        f"{title}: mean ± SD over organs of a kind and people, and the worst of them.",
        "",
        "| images | voxels mm | n | " + " | ".join(GROUPS) + " |",
        "|---|---|---|" + "---|" * len(GROUPS),
    ]
    for subset in SUBSETS:
        for spacing in sorted({tuple(row["spacing_mm"]) for row in rows if row["kind"] == "own"}, key=lambda mm: mm[2]):
            chosen = [
                row
                for row in rows
                if row["kind"] == "own" and tuple(row["subset"]) == subset and tuple(row["spacing_mm"]) == spacing
            ]
            cells = [_cell(_values(chosen, organs, metric), worst, digits) for organs in GROUPS.values()]
            voxels = " x ".join(f"{mm:g}" for mm in spacing)
            lines.append(f"| {'+'.join(subset)} | {voxels} | {len(chosen)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _values(rows: Iterable[Mapping], organs: Sequence[str], metric: str) -> list[float]:
    cells = (row["organs"][organ][metric] for row in rows for organ in organs)
    return [value for value in cells if value is not None]


def _cell(values: Sequence[float], worst: object, digits: int) -> str:
    if not values:
        return "-"
    low = worst(values)  # type: ignore[operator]
    spread = f"{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "-"
    return f"{np.mean(values):.{digits}f} ± {spread} ({low:.{digits}f})"


def _findings(rows: Sequence[Mapping]) -> str:
    """Missed organs by subset, and voxels on the wrong side of the midline by kind of head."""
    lines = []
    for subset in SUBSETS:
        chosen = [row for row in rows if row["kind"] == "own" and tuple(row["subset"]) == subset]
        missed = [
            f"{row['case']} {organ}" for row in chosen for organ in ORGANS if row["organs"][organ]["flag"] == "missed"
        ]
        lines.append(f"- {'+'.join(subset)}: {len(missed)} of {len(chosen) * len(ORGANS)} organs without a voxel")
    for kind in ("own", "turned", "mirrored"):
        chosen = [row for row in rows if row["kind"] == kind]
        wrong = [row["wrong_side"] for row in chosen]
        lines.append(
            f"- Heads {kind}: in {sum(n > 0 for n in wrong)} of {len(chosen)} predictions a voxel lies on the wrong side of "
            f"the midline, {sum(wrong)} voxels in all"
        )
    return "\n".join(lines)
