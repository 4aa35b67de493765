"""Files, bytes and jobs of a data set and of experiments on it: measured on few cases, extrapolated to 10,000.

`python tests/scale.py FOLDER OUT.json` takes ten minutes of a core. It asks for 50 experiments on 10,000 cases, which are
empty files, without running them. Then it converts, plans and preprocesses 20 and 40 tiny phantoms, trains and validates one
fold for one epoch, and predicts the test cases, each by its command. It counts what each left.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.end_to_end.workflow.experiment import planned_experiment
from nnunet_ext.end_to_end.workflow.experiment_steps import Experiment, experiment_steps
from nnunet_ext.end_to_end.workflow.job_arrays import job_arrays
from nnunet_ext.files import write_json

CASES, TESTS_SHARE = (20, 40), 0.25
MANY_CASES, EXPERIMENTS, PARTS = 10_000, 50, 50
NNUNET = ("raw", "preprocessed", "results")
TRAIN = ("-tr", "CascadeOARTrainer", "-p", "CascadeOARPlansSmallEpochs1Iterations1", "-device", "cpu")


def run(*words: str, root: Path) -> dict[str, float]:
    """Run a command in a folder with nnU-Net's folders below it: CPU seconds and the largest memory until then."""
    environment = {**os.environ, **{f"nnUNet_{name}": str(root / name) for name in NNUNET}, "nnUNet_compile": "f"}
    environment |= {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "MPLBACKEND": "Agg"}
    program = Path(sys.executable).with_name(words[0])
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([program, *words[1:]], env=environment, cwd=root, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "cpu_s": round(cpu_s, 1),
        "wall_s": round(time.monotonic() - start_s, 1),
        "peak_mb": after.ru_maxrss // 1000,
    }


def tally(*folders: Path) -> dict[str, int]:
    """Files, also folders because they take an inode too, and bytes."""
    found = [path for folder in folders for path in (folder, *folder.rglob("*")) if path.exists()]
    size = sum(path.stat().st_size for path in found if path.is_file())
    return {"files": len(found), "bytes": size}


def of_cases(root: Path, n_cases: int) -> dict[str, dict[str, int]]:
    """What each step leaves for a data set of so many cases."""
    for name in NNUNET:
        (root / name).mkdir(parents=True, exist_ok=True)
    run("nnunet_ext", "phantom", "patients", "--cases", str(n_cases), "--size", "tiny", "-np", "1", root=root)
    convert = ("nnunet_ext", "convert", "patients", "-d", "531", "-n", "Head", "--no-n4", "--test", str(TESTS_SHARE))
    for more in (("--scan",), ("-num_parts", "1", "-part_id", "0", "-np", "1"), ("--finish",)):
        run(*convert, *more, root=root)
    found = {"patients": tally(root / "patients")}
    raw, data = root / "raw" / "Dataset531_Head", root / "preprocessed" / "Dataset531_Head"
    found["raw"], found["list of the scan"] = tally(raw), tally(root / "raw" / ".Dataset531_Head.parts")
    run(
        "nnUNetv2_plan_and_preprocess", "-d", "531", "-pl", "CascadeOARPlannerSmall", "--no_pp", "-npfp", "1", root=root
    )
    for configuration in ("3d_lowres", "3d_fullres"):
        run(
            "nnunet_ext",
            "preprocess",
            "-d",
            "531",
            "-p",
            "CascadeOARPlansSmall",
            "-c",
            configuration,
            "-np",
            "1",
            root=root,
        )
        found[f"preprocessed {configuration}"] = tally(data / f"CascadeOARPlansSmall_{configuration}")
    found["references"] = tally(data / "gt_segmentations")
    schedule = ("-p", "CascadeOARPlansSmall", "-o", TRAIN[3], "--epochs", "1", "--iterations", "1")
    run("nnunet_ext", "schedule", "531", *schedule, root=root)
    run("nnUNetv2_train", "531", "3d_lowres", "0", *TRAIN, root=root)
    fold = next((root / "results").rglob("fold_0"))
    found["validation of a fold"] = tally(fold / "validation")
    found["maps of a fold for the segmenter"] = tally(*fold.parent.glob("predicted_next_stage"))
    found["training of a fold"] = {
        key: tally(fold)[key] - found["validation of a fold"][key] for key in ("files", "bytes")
    }
    predict = ("nnunet_ext", "predict", "-d", "531", "-c", "3d_lowres", "-f", "0", *TRAIN, "-i", str(raw / "imagesTs"))
    run(*predict, "--no-postprocessing", "-o", "predicted", root=root)
    found["predicted"] = tally(root / "predicted")
    return found


def jobs() -> dict[str, object]:
    """Steps of an experiment on a new data set, and of each further one, as Snakemake and SLURM see them."""
    where = (Path("/raw"), Path("/preprocessed"), Path("/results"))
    first = Experiment("e0", 521, "Dataset521_Head", *where, source=Path("/patients"))
    names = [step.name for step in experiment_steps(first)]
    parts = {name: PARTS for name in names if name in ("convert", "predict") or name.startswith("preprocess_")}
    divided = planned_experiment(first, Path("/workflow"), parts=parts)
    return {
        "steps in one job each": len(names),
        f"steps with {PARTS} parts": len(divided.steps),
        "arrays": len(job_arrays(divided)),
        "steps of a further experiment": sum(
            not name.startswith(("convert", "plan_", "preprocess_")) for name in names
        ),
    }


def asked_for(root: Path) -> dict[str, object]:
    """CPU seconds and memory of `--dry-run`, of what is written, of Snakemake's own plan, and of `status`."""
    dataset = root / "raw" / "Dataset521_Head"
    for split, cases in (("Tr", range(MANY_CASES * 4 // 5)), ("Ts", range(MANY_CASES * 4 // 5, MANY_CASES))):
        for folder in (f"images{split}", f"labels{split}"):
            (dataset / folder).mkdir(parents=True, exist_ok=True)
        for case in cases:
            for channel in range(3):
                (dataset / f"images{split}" / f"case_{case:05d}_{channel:04d}.nii.gz").touch()
            (dataset / f"labels{split}" / f"case_{case:05d}.nii.gz").touch()
    write_json({"labels": {"background": 0, "Eye_L": 1}, "channel_names": {"0": "CT"}}, dataset / "dataset.json")
    found: dict[str, object] = {}
    for name, more in (("--dry-run", ["--dry-run"]), ("--print-sbatch", ["--print-sbatch", "--parts", str(PARTS)])):
        each = [
            run("nnunet_ext", "workflow", "-d", "521", "--experiment", f"e{k}", "-tr", f"T{k}", *more, root=root)
            for k in range(EXPERIMENTS)
        ]
        found[name] = _sum(each)
    found["workflow status"] = run("nnunet_ext", "workflow", "status", root=root)
    folder = root / "workflow" / "e0"
    found["files of the folders of all experiments"] = tally(root / "workflow")
    found["snakemake --dry-run of one"] = _snakemake(folder)
    return found


def _sum(each: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        "cpu_s": round(sum(one["cpu_s"] for one in each), 1),
        "wall_s": round(sum(one["wall_s"] for one in each), 1),
        "peak_mb": max(one["peak_mb"] for one in each),
    }


def _snakemake(folder: Path) -> dict[str, float]:
    script = (
        "import json, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps({'cpu_s': round(used.ru_utime + used.ru_stime, 1), 'peak_mb': used.ru_maxrss // 1000}))"
    )
    command = [str(Path(sys.executable).with_name("snakemake")), "--dry-run", "--profile", "profiles/workstation"]
    said = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    return json.loads(said)


def main() -> None:
    folder, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    measured: dict[str, object] = {"jobs": jobs(), "asked for": asked_for(folder / "many")}
    write_json(measured, out)
    for n_cases in CASES:
        measured[f"{n_cases} cases"] = of_cases(folder / str(n_cases), n_cases)
        write_json(measured, out)


if __name__ == "__main__":
    main()
