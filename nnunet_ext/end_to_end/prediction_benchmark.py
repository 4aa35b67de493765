"""Seconds per case and memory of prediction, from files to masks in whole processes, next to stock nnU-Net.

    nnunet_ext benchmark predict -d 501 -i imagesTs

Three ways are measured on the same cases in the same run: stock nnU-Net's `3d_fullres` without mirroring, our two stages by
two stock commands, and `nnunet_ext predict`. An untrained network is as fast as a trained one, so it takes the place of a
model that is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.end_to_end.demo import TRAINER, Demo
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.processes import KILL_WITH_PARENT, ended, memory_mb, process_tree, run_command, usable_cores

LOCALIZER, SEGMENTER = "3d_lowres", "3d_cascade_fullres"
STOCK = ("nnUNetTrainer", "nnUNetPlans", "3d_fullres")
#: Of the phantoms that are measured if no data set is given. There is one for each size.
PHANTOM_IDS, PHANTOM_NAME = {"tiny": 507, "small": 508, "full": 509}, "Speed"
POLL_S = 0.1
OURS = "nnunet_ext predict"


@holding(owned_folder, "out")
def benchmark_predict(
    dataset_id: int | None = None,
    *,
    images: Path | None = None,
    plans: str = "CascadeOARPlans",
    fold: str = "0",
    size: str = "small",
    n_cases: int = 2,
    device: str = "cpu",
    stock: bool = True,
    out: Path = Path("benchmark"),
) -> str:
    """Measure the prediction of the same cases by stock nnU-Net and by ours. Returns the table, in Markdown.

    Args:
        dataset_id: A planned data set. Its models are used if they are trained. None makes phantoms in `out`.
        images: Folder with `<case>_0000.nii.gz`, ... None stands for the data set's `imagesTr`.
        plans: Of our configurations.
        fold: Of all models.
        size: Of phantoms.
        n_cases: Number of cases, from the first one on. The first case and later ones are told apart.
        device: `cuda`, `cpu` or `mps`.
        stock: Also measure stock nnU-Net's `3d_fullres`, which takes longest.
        out: Folder for `prediction.md`, `prediction.json` and all that is made on the way.

    Raises:
        ValueError: If there are no such images, or no plans.
        RuntimeError: If a command fails, with its last lines.
    """
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    demo = Demo(out)
    if dataset_id is None:
        dataset_id = PHANTOM_IDS[size]
        _make_phantoms(demo, dataset_id, size, n_cases, plans)
    else:
        demo.environment |= {k: v for k, v in os.environ.items() if k.startswith("nnUNet_")}
    folders = {k: Path(demo.environment[f"nnUNet_{k}"]) for k in ("raw", "preprocessed", "results")}
    found = sorted(folders["preprocessed"].glob(f"Dataset{dataset_id:03d}_*/{plans}.json"))
    if not found:
        raise ValueError(f"no {plans}.json for data set {dataset_id} in {folders['preprocessed']}: plan it first")
    dataset = found[0].parent.name
    if stock and not (found[0].parent / f"{STOCK[1]}.json").is_file():
        plan = ["nnUNetv2_plan_experiment", "-d", str(dataset_id), "-pl", "ExperimentPlanner"]
        demo.step(f"Plan stock nnU-Net for {dataset}", plan)
    cases = link_cases(Path(images) if images else folders["raw"] / dataset / "imagesTr", out / "images", n_cases)

    ours = {"trainer": TRAINER, "plans": plans}
    models = {c: {**ours, "configuration": c} for c in (LOCALIZER, SEGMENTER)}
    if stock:
        models[STOCK[2]] = dict(zip(("trainer", "plans", "configuration"), STOCK, strict=True))
    checkpoint = Path(f"fold_{fold}", "checkpoint_final.pth")
    untrained = [
        c
        for c, m in models.items()
        if not (folders["results"] / dataset / "{trainer}__{plans}__{configuration}".format(**m) / checkpoint).is_file()
    ]
    if LOCALIZER in untrained or SEGMENTER in untrained:
        untrained = list(models)  # of one kind, in one folder of models
    where = {c: str(out / "untrained" if c in untrained else folders["results"]) for c in models}
    for c in untrained:
        options = {"dataset_id": dataset_id, **models[c], "fold": fold, "label": int(c == LOCALIZER)}
        _untrained_apart(demo, options, where[c])

    data = ["-d", str(dataset_id), "-f", str(fold), "-i", str(out / "images"), "-device", device]
    model = ["-tr", TRAINER, "-p", plans]
    alone = ["-npp", "1", "-nps", "1", "--disable_tta"]
    located = str(out / "predicted" / "localizer")
    systems = {
        OURS: [["nnunet_ext", "predict", *data, *model]],
        "two stock commands": [
            ["nnUNetv2_predict", *data, *model, *alone, "-c", LOCALIZER, "-o", located],
            ["nnUNetv2_predict", *data, *model, *alone, "-c", SEGMENTER, "-prev_stage_predictions", located],
        ],
    }
    if stock:
        systems["stock 3d_fullres"] = [["nnUNetv2_predict", *data, *alone, "-c", STOCK[2]]]
    shutil.rmtree(out / "predicted", ignore_errors=True)
    records = []
    for number, (name, commands) in enumerate(systems.items()):
        print(f"{name} ...", flush=True)
        results = where[STOCK[2] if name == "stock 3d_fullres" else SEGMENTER]
        runs = []
        for command in commands:
            if "-o" not in command:
                command = [*command, "-o", str(out / "predicted" / str(number))]
            runs.append(run_measured(demo, command, results))
        records.append({"system": name, "cases": cases, **add_up(runs)})
    about = {
        "dataset": dataset,
        "cases": cases,
        "untrained": untrained,
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "cores": usable_cores(),
    }
    text = table(records, about)
    (out / "prediction.md").write_text(text + "\n")
    (out / "prediction.json").write_text(json.dumps({**about, "systems": records}, indent=1) + "\n")
    return text


def _make_phantoms(demo: Demo, dataset_id: int, size: str, n_cases: int, plans: str) -> None:
    phantoms, n = str(demo.out / f"phantoms_{size}"), str(min(2, demo.n_processes))
    make = ["nnunet_ext", "phantom", phantoms, "--cases", str(n_cases), "--size", size, "-np", n]
    demo.step(f"Make {n_cases} phantoms", make)
    convert = ["nnunet_ext", "convert", phantoms, "-d", str(dataset_id), "-n", PHANTOM_NAME, "--no-preview", "-np", n]
    demo.step("Convert them", convert)
    demo.step("Take their fingerprint", ["nnUNetv2_extract_fingerprint", "-d", str(dataset_id), "-np", n])
    planner = plans.replace("Plans", "Planner")
    demo.step("Plan", ["nnUNetv2_plan_experiment", "-d", str(dataset_id), "-pl", planner])


def link_cases(source: Path, folder: Path, n_cases: int) -> list[str]:
    """Link the images of the first cases of an nnU-Net images folder into a folder of their own. Returns their names."""
    files: dict[str, list[Path]] = {}
    for file in sorted(source.glob("*_[0-9][0-9][0-9][0-9].*")):
        if stem := image_stem(file):
            files.setdefault(stem.rpartition("_")[0], []).append(file)
    if not files:
        raise ValueError(f"no image named <case>_0000.nii.gz in {source}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cases = list(files)[:n_cases]
    for file in (f for case in cases for f in files[case]):
        (folder / file.name).symlink_to(file.resolve())
    return cases


# --------------------------------------------------------------------------------------------------- running and measuring


def run_measured(demo: Demo, command: Sequence[str], results: str) -> dict:
    """Run a prediction. Measure seconds until its first mask, between masks and until its end, and its highest memory.

    Raises:
        RuntimeError: If it fails, with its last lines.
    """
    folder = Path(command[command.index("-o") + 1])
    log_file = demo.logs / f"predict_{folder.name}.log"
    peak_mb: float | None = None
    with log_file.open("w") as log:
        start = time.time()
        process = subprocess.Popen(
            [demo.executable(command[0]), *command[1:]],
            env={**demo.environment, "nnUNet_results": results},
            cwd=demo.out,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=KILL_WITH_PARENT,
        )
        with ended(process):
            while process.poll() is None:
                now_mb = memory_mb(process_tree(process.pid))
                peak_mb = now_mb if peak_mb is None else max(peak_mb, now_mb or 0.0)
                time.sleep(POLL_S)
    total_s = time.time() - start
    if process.returncode:
        last = "\n".join(log_file.read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"{' '.join(command)} failed: {last}")
    written = sorted(file.stat().st_mtime - start for file in folder.glob("*.nii.gz"))
    return {"total_s": total_s, "written_s": written, "peak_mb": peak_mb}


def add_up(runs: Sequence[Mapping]) -> dict:
    """Figures of commands run one after the other.

    `first_s` is the time of one case alone. It runs from the start of a command to its first mask, and from its last mask to
    its end. `later_s` is the time of each further case, None if there is none.
    """
    first, later = 0.0, 0.0
    for run in runs:
        written = run["written_s"]
        first += written[0] + run["total_s"] - written[-1]
        later += (written[-1] - written[0]) / max(1, len(written) - 1)
    peaks = [run["peak_mb"] for run in runs]
    return {
        "first_s": first,
        "later_s": later if len(runs[0]["written_s"]) > 1 else None,
        "total_s": sum(run["total_s"] for run in runs),
        "peak_mb": None if None in peaks else max(peaks),
    }


def table(records: Sequence[Mapping], about: Mapping) -> str:
    """Markdown with a row per system, each figure with its ratio to ours."""
    ours = next(r for r in records if r["system"] == OURS)

    def cell(record: Mapping, key: str, digits: int) -> str:
        if record[key] is None or ours[key] is None:
            return ""
        return f"{record[key]:.{digits}f} ({record[key] / ours[key]:.1f}x)"

    lines = ["| prediction | first case s | each later case s | all s | peak memory MB |", "|---" * 5 + "|"]
    lines += [
        f"| {r['system']} | {cell(r, 'first_s', 1)} | {cell(r, 'later_s', 1)} | {cell(r, 'total_s', 1)} | "
        f"{cell(r, 'peak_mb', 0)} |"
        for r in records
    ]
    untrained = f" Untrained: {', '.join(about['untrained'])}." if about["untrained"] else ""
    lines += [
        "",
        f"{about['dataset']}, {len(about['cases'])} cases; {about['device']}, {about['processor']}, {about['cores']} cores. "
        "Whole processes from files to masks, imports included, one after the other, without mirroring; in brackets the "
        f"ratio to {OURS}. Memory: the process and its children, shared pages counted once, every {POLL_S:g} s.{untrained}",
    ]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------- in a process of its own


def _untrained_apart(demo: Demo, options: Mapping, results: str) -> None:
    module = [demo.executable("python"), "-m", "nnunet_ext.end_to_end.prediction_benchmark"]
    run_command(
        [*module, json.dumps(options)],
        environment={**demo.environment, "nnUNet_results": results},
        folder=demo.out,
        failed=f"no untrained model of {options['trainer']} {options['configuration']}",
    )


def save_untrained(*, dataset_id: int, trainer: str, plans: str, configuration: str, fold: str, label: int) -> None:
    """Put a model into `nnUNet_results` as its trainer would, with untrained weights that see one label everywhere.

    A localizer must see an organ, or the whole body would be segmented. Its export then costs more than that of an organ,
    because it sees the organ everywhere. A segmenter that sees none does not have to move its box.
    """
    import torch
    from batchgenerators.utilities.file_and_folder_operations import save_json
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    number = fold if fold == "all" else int(fold)
    training = get_trainer_from_args(str(dataset_id), configuration, number, trainer, plans, device=torch.device("cpu"))
    # Not `initialize`: it looks for preprocessed cases, which no prediction needs.
    network = training.build_network_architecture(
        training.plans_manager,
        training.configuration_manager,
        determine_num_input_channels(training.plans_manager, training.configuration_manager, training.dataset_json),
        training.label_manager.num_segmentation_heads,
        True,
    )
    last = network.decoder.seg_layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[label] = 1.0
    save_json(training.plans_manager.plans, str(Path(training.output_folder_base, "plans.json")), sort_keys=False)
    save_json(training.dataset_json, str(Path(training.output_folder_base, "dataset.json")), sort_keys=False)
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": training.my_init_kwargs,
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, Path(training.output_folder, "checkpoint_final.pth"))


def main(argv: Sequence[str] | None = None) -> int:
    """Make one untrained model, options as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("options", type=json.loads)
    save_untrained(**parser.parse_args(argv).options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
