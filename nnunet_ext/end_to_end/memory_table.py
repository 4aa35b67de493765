"""What `CascadeOARPlanner` plans for GPUs of several sizes, and the memory and time that its trainings may take.

    python -m nnunet_ext.end_to_end.memory_table OUT --table results/gpu_memory.md

Phantoms are converted and planned with `nnUNetv2_plan_experiment`, once per voxel size and GPU. Nothing is
trained. What is done is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.end_to_end.demo import Demo
from nnunet_ext.files import read_json, written_whole
from nnunet_ext.installation.gpu_memory import memory_target_gb
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, WHOLE_VOLUME
from nnunet_ext.plans.gpu_memory import expected_memory_gib, hours_on_a100

PLANNER = "CascadeOARPlanner"
ID, NAME = 506, "Memory"
#: Voxel sizes `(z, y, x)` in mm: two of planning CTs, and the one of the reference study.
SPACINGS_MM = ((2.4, 0.464, 0.464), (2.85, 0.65, 0.65), (1.25, 0.8, 0.8))
#: Memory in GB by which a GPU is sold -> memory in GiB that it has.
CARDS = {8: 7.8, 11: 10.9, 16: 15.7, 24: 23.6, 48: 47.4}
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
        for card, card_gib in CARDS.items():
            target = memory_target_gb(card_gib)
            name = f"Plans_{'_'.join(map(str, spacing))}_{target}"
            command = ["nnUNetv2_plan_experiment", "-d", str(ID), "-pl", PLANNER, "-gpu_memory_target", str(target)]
            command += ["-overwrite_target_spacing", *map(str, spacing), "-overwrite_plans_name", name]
            demo.step(f"Plan {name}", command)
            entries = planned(read_json(folder / f"{name}.json"), read_json(folder / "dataset.json"))
            rows.append({"spacing_mm": spacing, "card_gb": card, "target_gb": target, "planned": entries})
    return rows


def planned(plans: Mapping, dataset: Mapping) -> dict[str, dict]:
    """Patch, batch and expected memory of the three main configurations of a plans file."""
    configurations = plans["configurations"]
    n_channels, n_labels = len(dataset["channel_names"]), len(dataset["labels"])
    result = {}
    for name in (LOCALIZER, SEGMENTER, WHOLE_VOLUME):
        c = {**configurations[WHOLE_VOLUME], **configurations[name]}
        architecture, patch, batch = c["architecture"], c["patch_size"], c["batch_size"]
        n_epochs = c["training"]["num_epochs"]
        result[name] = {
            "patch": patch,
            "batch": batch,
            "memory_gib": expected_memory_gib(architecture, patch, batch, n_channels=n_channels, n_labels=n_labels),
            "hours": hours_on_a100(
                architecture, patch, batch, n_channels=n_channels, n_labels=n_labels, n_epochs=n_epochs
            ),
        }
    return result


def table(rows: Sequence[Mapping]) -> str:
    """The table in Markdown."""
    head = "| voxels, mm (z, y, x) | card, GB | `-gpu_memory_target` | localizer | segmenter | whole volume |"
    lines = [head, "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{' x '.join(map(str, c['patch']))}, batch {c['batch']}: {c['memory_gib']:.1f} GiB, {c['hours']:.1f} h"
            for c in row["planned"].values()
        ]
        spacing = " x ".join(f"{s:g}" for s in row["spacing_mm"])
        lines.append(f"| {spacing} | {row['card_gb']} | {row['target_gb']} | {' | '.join(cells)} |")
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
