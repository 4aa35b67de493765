"""The whole path on phantoms, with the commands a user would type: make, convert, plan, train, predict, score, look."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from nnunet_ext.labels import ORGANS

DATASET_ID, NAME = 501, "DemoHead"
DATASET = f"Dataset{DATASET_ID}_{NAME}"
TRAINER, PLANNER, PLANS = "CascadeOARTrainer", "CascadeOARPlannerSmall", "CascadeOARPlansSmall"
MODALITIES = ("CT", "T1", "T2")
N_TRAINING, N_TEST = 15, 4
SEED = 20
#: What the demo must reach on its test cases (mean DSC in %), so that a broken installation is not taken for a working one.
MIN_EYE_DSC, MIN_MEAN_DSC = 85.0, 60.0


class DemoFailed(RuntimeError):
    """A step of the demo failed or its result is not good enough; the message says which and where its log is."""


class Demo:
    """Paths, environment and log of one run; a step that was finished in an earlier run is not repeated."""

    def __init__(self, out: Path) -> None:
        self.out = Path(out).resolve()
        self.logs = self.out / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.done_file = self.out / "steps.json"
        self.done: dict[str, float] = json.loads(self.done_file.read_text()) if self.done_file.is_file() else {}
        self.n_processes = max(1, min(8, os.cpu_count() or 1))
        self.environment = {
            "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait slow down a busy machine many times over
            **os.environ,
            "nnUNet_raw": str(self.out / "nnUNet_raw"),
            "nnUNet_preprocessed": str(self.out / "nnUNet_preprocessed"),
            "nnUNet_results": str(self.out / "nnUNet_results"),
            "nnUNet_def_n_proc": str(min(2, self.n_processes)),
            "nnUNet_n_proc_DA": str(max(1, self.n_processes // 2)),
            "nnUNet_compile": "f",  # compiling takes longer than this training
            "PYTHONUNBUFFERED": "1",
        }

    def step(self, title: str, command: Sequence[str], *, n_epochs: int | None = None) -> None:
        """Run one command, its output into `logs/`, and say how long it took.

        Raises:
            DemoFailed: If the command fails, with the end of its output.
        """
        number = f"[{len(self.done) + 1}]"
        key = " ".join(command).replace(str(self.out), "OUT")
        if key in self.done:
            print(f"[done] {title} (in an earlier run)", flush=True)
            return
        print(f"{number} {title}\n    $ {' '.join(command).replace(str(self.out) + '/', '')}", flush=True)
        log_file = self.logs / f"{len(self.done) + 1:02d}_{re.sub(r'[^A-Za-z0-9]+', '_', title).strip('_')}.log"
        start = perf_counter()
        tail: deque[str] = deque(maxlen=15)
        process = subprocess.Popen(
            [self.executable(command[0]), *command[1:]],
            cwd=self.out,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        with log_file.open("w") as log, tqdm(total=n_epochs, unit="epoch", disable=n_epochs is None) as bar:
            for line in process.stdout:
                log.write(line)
                tail.append(line)
                if n_epochs is not None and "Pseudo dice" in line:
                    numbers = re.findall(r"\(([0-9.]+|nan)\)", line)
                    bar.set_postfix_str("pseudo Dice " + " ".join(n[:4] for n in numbers))
                    bar.update()
        if process.wait() != 0:
            raise DemoFailed(f"'{title}' failed (exit code {process.returncode}). Log: {log_file}\n" + "".join(tail))
        self.done[key] = round(perf_counter() - start, 1)
        self.done_file.write_text(json.dumps(self.done, indent=2) + "\n")
        print(f"    {self.done[key]:.0f} s", flush=True)

    def executable(self, name: str) -> str:
        """The command of this Python environment, wherever PATH points to."""
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is None:
            raise DemoFailed(f"command {name} not found. Run `nnunet_ext doctor`.")
        return found


def n_epochs(demo: Demo, configuration: str) -> int:
    """Epochs the plan gives a configuration."""
    plans = json.loads((demo.out / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json").read_text())
    return plans["configurations"][configuration]["training"]["num_epochs"]


def demo(out: Path = Path("demo")) -> Path:
    """Make phantoms, convert, plan, train fold 0 of both stages, predict the test cases, score and draw them.

    Every step is a command a user would type; all of it lies below `out`. Running it again repeats only what was not
    finished.

    Returns:
        The folder with table and pictures, `out/results`.

    Raises:
        DemoFailed: If a step fails, or the scores are below `MIN_EYE_DSC` and `MIN_MEAN_DSC`.
    """
    import torch

    d = Demo(out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    raw, results = d.out / "nnUNet_raw" / DATASET, d.out / "results"
    test_cases = [f"phantom_{i:03d}" for i in range(N_TRAINING, N_TRAINING + N_TEST)]
    start = perf_counter()
    print(f"Demo in {d.out}: {N_TRAINING} phantoms to train on, {N_TEST} to test, on {device}.", flush=True)
    phantoms = str(d.out / "phantoms")
    d.step(
        f"Make {N_TRAINING + N_TEST} head phantoms (CT, T1, T2, label)",
        [
            "nnunet_ext",
            "phantom",
            phantoms,
            "--cases",
            str(N_TRAINING + N_TEST),
            "--seed",
            str(SEED),
            "--size",
            "tiny",
            "-np",
            str(d.n_processes),
        ],
    )
    d.step(
        "Convert them to an nnU-Net dataset",
        [
            "nnunet_ext",
            "convert",
            phantoms,
            "-d",
            str(DATASET_ID),
            "-n",
            NAME,
            "--modalities",
            *MODALITIES,
            "--test",
            *test_cases,
            "-np",
            str(d.n_processes),
        ],
    )
    d.step(
        "Plan and preprocess",
        [
            "nnUNetv2_plan_and_preprocess",
            "-d",
            str(DATASET_ID),
            "-pl",
            PLANNER,
            "-npfp",
            "2",
            "-np",
            "2",
            "-c",
            "3d_fullres",
            "3d_lowres",
        ],
    )
    model = ["-tr", TRAINER, "-p", PLANS, "-device", device]
    for title, configuration in (("localizer", "3d_lowres"), ("segmenter", "3d_cascade_fullres")):
        d.step(
            f"Train the {title}, fold 0",
            ["nnUNetv2_train", str(DATASET_ID), configuration, "0", *model],
            n_epochs=n_epochs(d, configuration),
        )
    predict = ["nnUNetv2_predict", "-d", str(DATASET_ID), "-f", "0", "-i", str(raw / "imagesTs"), *model]
    predict += ["-npp", "1", "-nps", "1"]
    located, segmented = d.out / "predictions_localizer", d.out / "predictions"
    d.step("Predict the test cases: localizer", [*predict, "-c", "3d_lowres", "-o", str(located)])
    d.step(
        "Predict the test cases: segmenter",
        [*predict, "-c", "3d_cascade_fullres", "-o", str(segmented), "-prev_stage_predictions", str(located)],
    )
    summary = score(segmented, raw, results)
    missed_by_localizer = cases_outside_roi(d, located, raw)
    seconds = sum(d.done.values())
    print(f"\n{summary.table_markdown}\n\nComputing time of all steps: {seconds / 60:.1f} min "
          f"(this run: {(perf_counter() - start) / 60:.1f} min)\n\n"
          f"Look here: {results}\n  evaluation.md    the table above, evaluation.csv every score\n"
          f"  overlays/*.png   reference and prediction on CT, T1 and T2, near the lenses and near the chiasm")  # fmt: skip
    verdict(summary, missed_by_localizer)
    return results


def score(predictions: Path, raw: Path, results: Path):
    """Tables and pictures of the test cases; returns the evaluation's summary."""
    from nnunet_ext.evaluation import evaluate
    from nnunet_ext.overlays import overlay_folder

    summary = evaluate(predictions, raw / "labelsTs", results)
    dataset = json.loads((raw / "dataset.json").read_text())
    labels = {k: v for k, v in dataset["labels"].items() if k != "background"}
    channels = [dataset["channel_names"][k] for k in sorted(dataset["channel_names"], key=int)]
    scores = {case: summary.scores(case) for case in summary.cases}
    overlay_folder(
        predictions,
        raw / "labelsTs",
        raw / "imagesTs",
        results / "overlays",
        labels=labels,
        channel_names=channels,
        scores=scores,
    )
    return summary


def cases_outside_roi(d: Demo, located: Path, raw: Path) -> list[str]:
    """Test cases of which the box placed by the localizer does not hold every organ voxel, with their pass rates."""
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_ext import roi

    plans = PlansManager(load_json(str(d.out / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json")))
    rule = roi.RoiRule.from_plan(plans.get_configuration("3d_cascade_fullres").configuration["roi"])
    reader = plans.image_reader_writer_class()
    short = []
    for file in sorted((raw / "labelsTs").glob("*.nii.gz")):
        forward = plans.transpose_forward
        reference, properties = reader.read_seg(str(file))
        localizer_map, _ = reader.read_seg(str(located / file.name))
        decision = roi.find_roi(
            localizer_map[0].astype(int).transpose(forward),
            rule,
            spacing_mm=[properties["spacing"][i] for i in forward],
        )
        rate = roi.label_crop_pass_rate(reference[0].transpose(forward), decision.box)
        if not decision.found or rate < 1:
            short.append(f"{file.name}: {'not found' if not decision.found else f'{100 * rate:.2f} % inside'}")
    return short


def verdict(summary, missed_by_localizer: Sequence[str]) -> None:
    """Say whether the demo reached what it must.

    Raises:
        DemoFailed: If not, naming what fell short.
    """
    means = {organ: m["dsc_percent"]["mean"] for organ, m in summary.per_organ.items()}
    eyes = [means[o] for o in ORGANS if o.startswith("Eye_")]
    problems = [f"{f}: {reason}" for f, reason in summary.failed.items()]
    problems += [f"outside the localizer's box: {m}" for m in missed_by_localizer]
    if min(eyes) < MIN_EYE_DSC:
        problems.append(f"eyes reach a mean DSC of {min(eyes):.1f} %, less than {MIN_EYE_DSC:g}")
    if sum(means.values()) / len(means) < MIN_MEAN_DSC:
        problems.append(
            f"the organs reach a mean DSC of {sum(means.values()) / len(means):.1f} %, below {MIN_MEAN_DSC:g}"
        )
    if problems:
        raise DemoFailed("the demo ran, but its result is not what it should be:\n  " + "\n  ".join(problems))
    print("The demo reached what it must: eyes and all organs are good enough, and the localizer missed none.")
