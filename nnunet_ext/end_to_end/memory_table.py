"""What `CascadeOARPlanner` plans for GPUs of several sizes, and the memory that its trainings are expected to take.

    python -m nnunet_ext.end_to_end.memory_table OUT --table results/gpu_memory.md

Phantoms are converted and planned with `nnUNetv2_plan_experiment`, once per voxel size and GPU memory target. Nothing is
trained. What is done is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.end_to_end.demo import Demo
from nnunet_ext.files import read_json, written_whole
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, WHOLE_VOLUME
from nnunet_ext.plans.gpu_memory import training_memory_gb

PLANNER = "CascadeOARPlanner"
ID, NAME = 506, "Memory"
#: Voxel sizes `(z, y, x)` in mm: two of planning CTs, and the one of the reference study.
SPACINGS_MM = ((2.4, 0.464, 0.464), (2.85, 0.65, 0.65), (1.25, 0.8, 0.8))
TARGETS_GB = (6, 8, 12, 20, 40)
#: GPUs on the market, by their memory in GB.
CARDS_GB = (8, 11, 16, 24, 48, 80)
#: Share of a card's memory that a training may be planned to take.
USABLE = 0.95
N_CASES = 40


def plan(demo: Demo, n_cases: int) -> list[dict]:
    """Rows of the table: voxel size, target, and configuration -> patch, batch and expected memory."""
    cases = demo.out / "cases"
    demo.step("Make phantoms", ["nnunet_ext", "phantom", str(cases), "--cases", str(n_cases), "--size", "tiny"])
    convert = ["nnunet_ext", "convert", str(cases), "-d", str(ID), "-n", NAME, "--no-preview"]
    demo.step("Convert them", convert)
    demo.step("Extract the fingerprint", ["nnUNetv2_extract_fingerprint", "-d", str(ID)])
    folder = Path(demo.environment["nnUNet_preprocessed"], f"Dataset{ID}_{NAME}")
    rows = []
    for spacing in SPACINGS_MM:
        for target in TARGETS_GB:
            name = f"Plans_{'_'.join(map(str, spacing))}_{target}"
            command = ["nnUNetv2_plan_experiment", "-d", str(ID), "-pl", PLANNER, "-gpu_memory_target", str(target)]
            command += ["-overwrite_target_spacing", *map(str, spacing), "-overwrite_plans_name", name]
            demo.step(f"Plan {name}", command)
            entries = planned(read_json(folder / f"{name}.json"), read_json(folder / "dataset.json"))
            rows.append({"spacing_mm": spacing, "target_gb": target, "planned": entries})
    return rows


def planned(plans: Mapping, dataset: Mapping) -> dict[str, dict]:
    """Patch, batch and expected memory of the three main configurations of a plans file."""
    configurations = plans["configurations"]
    sizes = {"n_channels": len(dataset["channel_names"]), "n_labels": len(dataset["labels"])}
    result = {}
    for name in (LOCALIZER, SEGMENTER, WHOLE_VOLUME):
        c = {**configurations[WHOLE_VOLUME], **configurations[name]}
        memory_gb = training_memory_gb(c["architecture"], c["patch_size"], c["batch_size"], **sizes)
        result[name] = {"patch": c["patch_size"], "batch": c["batch_size"], "memory_gb": memory_gb}
    return result


def card_for(memory_gb: float) -> str:
    """The smallest GPU on which a training of this size has room."""
    fits = [card for card in CARDS_GB if memory_gb <= USABLE * card]
    return f"{fits[0]} GB" if fits else f"above {CARDS_GB[-1]} GB"


def table(rows: Sequence[Mapping]) -> str:
    """The table in Markdown."""
    head = "| voxels, mm (z, y, x) | `-gpu_memory_target` | localizer | segmenter | whole volume | the cascade fits |"
    lines = [head, "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{'x'.join(map(str, c['patch']))}, batch {c['batch']}: {c['memory_gb']:.1f} GB"
            for c in row["planned"].values()
        ]
        cascade = max(row["planned"][name]["memory_gb"] for name in (LOCALIZER, SEGMENTER))
        spacing = " x ".join(f"{s:g}" for s in row["spacing_mm"])
        lines.append(f"| {spacing} | {row['target_gb']} | {' | '.join(cells)} | {card_for(cascade)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for phantoms, plans and the table")
    parser.add_argument("--cases", type=int, default=N_CASES, metavar="N", help="phantoms")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table here")
    options = parser.parse_args(argv)
    text = table(plan(Demo(options.out), options.cases))
    print(text)
    for file in (options.out / "memory.md", *([options.table] if options.table else [])):
        with written_whole(file) as temporary:
            temporary.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
