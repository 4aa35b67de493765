"""Where the seconds of a prediction go, and how near its networks come to what the machine can compute.

    nnunet_ext benchmark predict --profile --model FOLDER

Cases go one after the other through one process, so that no step hides another. A second process predicts them as
`nnunet_ext predict` does, where one case is read while the networks see another. The model must find organs, because a box
around nothing never grows. So it is a trained one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.end_to_end.demo import Demo
from nnunet_ext.end_to_end.prediction_benchmark import PHANTOM_IDS, PHANTOM_NAME, link_cases
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.nnunet_folders import read_dataset_json
from nnunet_ext.processes import processor_name, run_command, usable_cores
from nnunet_ext.starter.shipped import find_starter

#: Once per process, then once per case.
ONCE, PER_CASE = (
    ("import", "weights"),
    ("reading", "checks", "body", "localizer", "box", "windows", "export", "writing"),
)
#: The steps in which a network computes.
NETWORKS = ("localizer", "windows")
REST = "other"


@holding(owned_folder, "out")
def profile_prediction(
    model: Path | None = None,
    *,
    images: Path | None = None,
    size: str = "small",
    n_cases: int = 2,
    device: str = "cpu",
    full_precision: bool = False,
    out: Path = Path("benchmark"),
) -> str:
    """Measure each step of the prediction of some cases. Returns tables, in Markdown.

    Args:
        model: Folder of a trained segmenter, its localizer in the folder beside it. None stands for the starter.
        images: Folder with `<case>_0000.nii.gz`, ... in the form of the training images. None makes phantoms in `out`.
        size: Of phantoms.
        n_cases: Number of cases, from the first one on. The first case and later ones are told apart.
        device: `cuda`, `cpu` or `mps`.
        full_precision: See `CascadePredictor`.
        out: Folder for `profile.md`, `profile.json` and all that is made on the way.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If there are no such images.
        RuntimeError: If a command fails, with its last lines.
    """
    out = Path(out).resolve()
    model = find_starter().segmenter if model is None else Path(model).resolve()
    channels = read_dataset_json(model / "dataset.json")["channel_names"]
    out.mkdir(parents=True, exist_ok=True)
    demo = Demo(out)
    if images is None:
        images = _phantoms(demo, size, n_cases, [channels[key] for key in sorted(channels, key=int)])
    cases = link_cases(Path(images), out / "images", n_cases)
    options = {
        "model": str(model),
        "images": str(out / "images"),
        "device": device,
        "full_precision": full_precision,
    }
    alone = _apart(demo, {**options, "what": "alone"})
    together = None
    if len(cases) > 1:
        shutil.rmtree(out / "predicted", ignore_errors=True)
        together = _apart(demo, {**options, "what": "together", "out": str(out / "predicted")})
    record = {
        "model": model.name,
        "cases": cases,
        "device": device,
        "processor": processor_name(),
        "cores": usable_cores(),
        "alone": alone,
        "together": together,
    }
    text = profile_table(record)
    (out / "profile.md").write_text(text + "\n")
    (out / "profile.json").write_text(json.dumps(record, indent=1) + "\n")
    return text


def _phantoms(demo: Demo, size: str, n_cases: int, channels: Sequence[str]) -> Path:
    """Phantoms in the form of the training images. Returns the folder of their images."""
    dataset_id, n = PHANTOM_IDS[size], str(min(2, demo.n_processes))
    phantoms = str(demo.out / f"phantoms_{size}_{n_cases}")
    make = ["nnunet_ext", "phantom", phantoms, "--cases", str(n_cases), "--size", size, "-np", n]
    demo.step(f"Make {n_cases} phantoms", make)
    convert = ["nnunet_ext", "convert", phantoms, "-d", str(dataset_id), "-n", PHANTOM_NAME, "--no-preview", "-np", n]
    demo.step("Convert them", [*convert, "--modalities", *channels])
    return Path(demo.environment["nnUNet_raw"], f"Dataset{dataset_id:03d}_{PHANTOM_NAME}", "imagesTr")


# ---------------------------------------------------------------------------------------------------------- the tables


def profile_table(record: Mapping) -> str:
    """Markdown: seconds of each step, operations of each network, and what a run over many cases takes."""
    alone = record["alone"]
    lines = [*_step_rows(alone), "", *_network_rows(alone), "", _about(record)]
    if record["together"]:
        lines += ["", _many(record["together"], record["cores"])]
    return "\n".join(lines)


def mean_steps(cases: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Name -> mean over the cases of `wall_s` and `cpu_s`. A step that a case had not is 0 there."""
    names = dict.fromkeys(name for case in cases for name in case["steps"])
    return {
        name: {
            key: sum(case["steps"].get(name, {key: 0.0})[key] for case in cases) / len(cases)
            for key in ("wall_s", "cpu_s")
        }
        for name in names
    }


def _step_rows(alone: Mapping) -> list[str]:
    first = {**alone["once"], **mean_steps(alone["cases"][:1])}
    later = mean_steps(alone["cases"][1:]) if len(alone["cases"]) > 1 else {}
    lines = ["| step | first case s | CPU s | each later case s | CPU s |", "|---" * 5 + "|"]

    def row(name: str, names: Sequence[str]) -> str:
        cells = [
            f"{sum(column[one][key] for one in names if one in column):.2f}" if any(n in column for n in names) else ""
            for column in (first, later)
            for key in ("wall_s", "cpu_s")
        ]
        return f"| {name} | {' | '.join(cells)} |"

    steps = [*ONCE, *PER_CASE, REST]
    lines += [row(name, [name]) for name in steps]
    lines.append(row("all", steps))
    lines.append(row("all but the networks", [name for name in steps if name not in NETWORKS]))
    return lines


def _network_rows(alone: Mapping) -> list[str]:
    """Operations of the last case, which is a later one if there are several."""
    case = alone["cases"][-1]
    peak = alone["peak"]["multiply_adds_per_s"]
    lines = ["| network | windows | 10^9 multiply-adds | 10^9 in a second | share of the peak % |", "|---" * 5 + "|"]
    both_s = both = 0.0
    for name in NETWORKS:
        if name not in case["operations"]:
            continue
        found, wall_s = case["operations"][name], case["steps"][name]["wall_s"]
        both, both_s = both + found["multiply_adds"], both_s + wall_s
        lines.append(_network_row(name, found["n_windows"], found["multiply_adds"], wall_s, peak))
    n_windows = sum(found["n_windows"] for found in case["operations"].values())
    return [*lines, _network_row("both", n_windows, both, both_s, peak)]


def _network_row(name: str, n_windows: int, n: float, wall_s: float, peak: float) -> str:
    return f"| {name} | {n_windows} | {n / 1e9:.2f} | {n / wall_s / 1e9:.1f} | {100 * n / wall_s / peak:.0f} |"


def _about(record: Mapping) -> str:
    alone, peak = record["alone"], record["alone"]["peak"]
    grown = sum(case["regrown"] for case in alone["cases"])
    return (
        f"{record['model']}, {len(record['cases'])} cases, of which {grown} had their box enlarged; {record['device']}, "
        f"{record['processor']}, {record['cores']} cores, {alone['precision']}. Cases one after the other in one process. "
        "Import: from the start of the process on. Body: with the grid of the localizer. Box: with the grid of the "
        "segmenter. Multiply-adds: of the convolutions of the last case, counted from their shapes. Peak: "
        f"{peak['multiply_adds_per_s'] / 1e9:.1f} x 10^9 in a second, of the largest layer alone at its quickest "
        f"({peak['layer']} of the {peak['network']}, input {'x'.join(map(str, peak['shape']))})."
    )


def _many(together: Mapping, cores: int) -> str:
    memory = together["peak_memory_mb"]
    later_s = (together["wall_s"] - together["first_s"]) / max(1, len(memory) - 1)
    return (
        f"As `nnunet_ext predict` does it, where one case is read and another written while the networks see one: "
        f"{later_s:.2f} s for each case after the first, {100 * together['cpu_s'] / together['wall_s'] / cores:.0f} % of "
        f"{cores} cores busy from the first case to the last. Most memory held until then, without imports: "
        f"{memory[0]:.0f} MB after the first case, {memory[len(memory) // 2]:.0f} MB after {len(memory) // 2 + 1}, "
        f"{memory[-1]:.0f} MB after all {len(memory)}."
    )


# --------------------------------------------------------------------------------------------- in a process of its own


def _apart(demo: Demo, options: Mapping) -> dict:
    """What a process of its own measures."""
    result = demo.out / "profile_part.json"
    command = [demo.executable("python"), "-m", "nnunet_ext.end_to_end.profiled_prediction"]
    environment = {
        **demo.environment,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(usable_cores())),
    }
    options = {**options, "result": str(result), "started": time.time()}
    run_command(
        [*command, json.dumps(options)], environment=environment, folder=demo.out, failed="the prediction failed"
    )
    try:
        return json.loads(result.read_text())
    finally:
        result.unlink()
