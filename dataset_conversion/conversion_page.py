"""The page `conversion.html`, which shows all cases of a conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nnunet_ext.files import write_text
from nnunet_ext.images.source_files import FileCount
from nnunet_ext.messages import Message, in_english

FOLDER = "preview"
PAGE = "conversion.html"
#: A label volume is marked where it is this far from the median of the cases: in robust standard deviations, and as a share.
FAR_DEVIATIONS, FAR_SHARE = 3.5, 0.25
#: Volumes are compared from this many cases on.
LEAST_CASES = 5


def write_conversion_page(
    dataset: Path,
    *,
    cases: Sequence[Mapping],
    failed: Mapping[str, str],
    label_names: Sequence[str] = (),
    files: FileCount | None = None,
) -> Path:
    """Write `conversion.html` at the top of a dataset, failures and warnings first, then one row per case.

    The page needs no network. It shows the pictures of `draw_previews` in `preview/CASE/`, if they are there.

    Args:
        dataset: The dataset's folder.
        cases: Provenance of the converted cases, as the converter writes it.
        failed: Case -> reason.
        label_names: Organs in label order.
        files: The count of every file below the source.

    Returns:
        The page.
    """
    volumes = {record["identifier"]: _label_volumes_ml(record) for record in cases}
    marks = _far_volumes(volumes, label_names)
    shown = [
        _case(dataset, record, volumes[record["identifier"]], marks.get(record["identifier"], {})) for record in cases
    ]
    shown.sort(key=lambda case: (-len(case["notes"]), case["name"]))
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("conversion.html.j2")
    path = dataset / PAGE
    noted = [case for case in shown if case["notes"]]
    text = template.render(dataset=dataset.name, cases=shown, noted=noted, failed=failed, files=files)
    write_text(text + "\n", path)
    return path


def _label_volumes_ml(record: Mapping) -> dict[str, float]:
    """Organ -> mL on the grid of the images. Empty without labels."""
    counts = (record.get("label_voxels") or {}).get("after", {})
    spacing_mm = record["channels"][record["reference_channel"]]["spacing_mm"]
    return {organ: n * float(np.prod(spacing_mm)) / 1000 for organ, n in counts.items()}


def _far_volumes(volumes: Mapping[str, Mapping[str, float]], organs: Sequence[str]) -> dict[str, dict[str, Message]]:
    """Case -> organ -> words on a volume far from the median of all cases that have the organ."""
    marks: dict[str, dict[str, Message]] = {}
    for organ in organs:
        found = {case: v[organ] for case, v in volumes.items() if v.get(organ, 0) > 0}
        if len(found) < LEAST_CASES:
            continue
        middle = median(found.values())
        spread = 1.4826 * median(abs(v - middle) for v in found.values())
        for case, v in found.items():
            if abs(v - middle) > max(FAR_DEVIATIONS * spread, FAR_SHARE * middle):
                mark = Message("volume_far_from_the_median", {"organ": organ, "ml": v, "median": middle})
                marks.setdefault(case, {})[organ] = mark
    return marks


def _case(
    dataset: Path, record: Mapping, volumes_ml: Mapping[str, float], marks: Mapping[str, Message]
) -> dict[str, Any]:
    """Values of a case for the page."""
    name = record["identifier"]
    return {
        "name": name,
        "split": "training" if any(file.startswith("labelsTr/") for file in record["outputs"]) else "test",
        "notes": [*record.get("warnings", ()), *in_english(marks.values())],
        "channels": [_channel(channel, entry) for channel, entry in record["channels"].items()],
        "volumes_ml": volumes_ml,
        "marks": marks,
        "pictures": [
            {"path": f"{FOLDER}/{name}/{path.name}", "name": path.stem, "title": path.stem.replace("_", " ")}
            for path in sorted((dataset / FOLDER / name).glob("*.png"))
        ],
    }


def _channel(channel: str, entry: Mapping) -> dict[str, Any]:
    """Words of the page about a channel of a case."""
    done = []
    if "couch_and_mask_removed_ml" in entry:
        done.append(f"couch and mask {entry['couch_and_mask_removed_ml']:.0f} mL")
    if "body_ml" in entry:
        done.append(f"body {entry['body_ml']:.0f} mL")
    if entry.get("voxels_clipped_to_-1024_hu"):
        done.append(f"{entry['voxels_clipped_to_-1024_hu']} voxels of padding clipped")
    if "window_hu" in entry:
        done.append("window {:g}..{:g} HU".format(*entry["window_hu"]))
    if "registration" in entry:
        moved = entry["registration"].get("moved_mm")
        done.append(f"{entry['registration']['kept']} alignment" + (f", moved {moved['mean']:.1f} mm" if moved else ""))
    if "n4_field" in entry:
        done.append("N4 field {:.2f}..{:.2f}".format(*entry["n4_field"]))
    return {
        "name": channel,
        "size": "x".join(map(str, entry["size"])),
        "spacing_mm": "x".join(f"{mm:.3g}" for mm in entry["spacing_mm"]),
        "done": done,
        "coverage": entry.get("coverage"),
    }
