"""The scores of the starter's card, as tables in Markdown, from the files that judging wrote, and its pictures.

python -m nnunet_ext.end_to_end.starter.card OUT --leg N --document docs/reference/starter.md --picture results/starter.jpg
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from nnunet_ext.end_to_end.starter.judging import LABELS, SUBSETS
from nnunet_ext.files import read_json, write_text
from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.pictures.pairs import draw_pairs

#: Organ groups of the goals.
GROUPS = {
    "eyes": ("Eye_L", "Eye_R"),
    "lenses": ("Lens_L", "Lens_R"),
    "nerves": ("OpticNrv_L", "OpticNrv_R"),
    "chiasm": ("OpticChiasm",),
}


#: What stands between these lines of the document is written anew.
BEGIN, END = "<!-- scores -->", "<!-- end of scores -->"
#: Heads in the picture, and its width in pixels.
PICTURED, WIDTH = 5, 900


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m nnunet_ext.end_to_end.starter.card", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of `starter.making`")
    parser.add_argument("--leg", type=int, default=1, metavar="N", help="number of the leg")
    parser.add_argument(
        "--document", type=Path, required=True, metavar="FILE", help="Markdown whose scores are replaced"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="JPEG of heads, the worst first")
    options = parser.parse_args(argv)
    judged = sorted((options.out / "models" / f"leg_{options.leg}").glob("*/scores.json"))
    rows = {file.parent.name: read_json(file) for file in judged}
    before, _, rest = options.document.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    text = tables([row for some in rows.values() for row in some])
    write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", options.document)
    if options.picture is not None:
        draw_heads(options.out, options.leg, rows, options.picture)
    return 0


def draw_heads(out: Path, leg: int, rows: Mapping[str, Sequence[Mapping]], picture: Path) -> None:
    """Reference and prediction of the worst head, the best, and those between, with all images and 1 x 1 x 2.5 mm.

    Args:
        out: Folder of `starter.making`.
        leg: Number of the leg.
        rows: Judged model -> its scores.
        picture: JPEG to write.
    """
    chosen = [
        (mean_dsc(row), model, row)
        for model, some in rows.items()
        for row in some
        if row["kind"] == "own" and tuple(row["subset"]) == SUBSETS[0] and row["spacing_mm"] == [1.0, 1.0, 2.5]
    ]
    chosen.sort(key=lambda one: one[0])
    which = np.unique(np.linspace(0, len(chosen) - 1, min(PICTURED, len(chosen))).round().astype(int))
    parts = []
    for _, model, row in (chosen[i] for i in which):
        case = out / "judged" / row["case"]
        masks = out / "judging" / f"leg_{leg}_{model}" / "own" / "masks" / "_".join(SUBSETS[0])
        image, reference = (
            to_canonical(read(case / name))
            for read, name in ((read_image, "T1.nii.gz"), (read_label_map, "label.nii.gz"))
        )
        found = to_canonical(read_label_map(masks / f"{row['case']}.nii.gz"))
        figure = draw_pairs(
            f"{row['person']}",
            "starter",
            image,
            "T1",
            *(sitk.GetArrayFromImage(one) for one in (image, reference, found)),
            labels={organ: value for organ, value in LABELS.items() if value},
            scores={o: row["organs"][o]["dsc_percent"] for o in ORGANS if row["organs"][o]["dsc_percent"] is not None},
        )
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        part = Image.open(stream).convert("RGB")
        parts.append(part.resize((WIDTH, round(part.height * WIDTH / part.width)), Image.Resampling.LANCZOS))
    sheet = Image.new("RGB", (WIDTH, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    sheet.save(picture, quality=85)


def mean_dsc(row: Mapping) -> float:
    """Mean over the organs of one prediction."""
    return float(np.mean(_values([row], ORGANS, "dsc_percent")))


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


if __name__ == "__main__":
    raise SystemExit(main())
