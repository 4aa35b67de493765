"""The whole path on phantoms, from making them to a page of scores, with the commands that a user would type."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from tqdm import tqdm

from nnunet_ext.end_to_end.workflow.running import nnunet_environment
from nnunet_ext.files import check_output_folder, read_json
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.processes import KILL_WITH_PARENT, console_script, ended

if TYPE_CHECKING:
    from nnunet_ext.evaluation.summary import EvaluationSummary

DATASET_ID, NAME = 501, "DemoHead"
DATASET = f"Dataset{DATASET_ID}_{NAME}"
SEGMENTER = "3d_cascade_fullres"
TRAINER, PLANNER, PLANS = "CascadeOARTrainer", "CascadeOARPlannerSmall", "CascadeOARPlansSmall"
MODALITIES = ("CT", "T1", "T2")
N_TRAINING, N_TEST = 15, 4
SEED = 20
#: What the demo must reach on its test cases (mean DSC in %), so that a broken installation is not taken for a working one.
MIN_EYE_DSC, MIN_MEAN_DSC = 85.0, 60.0


class DemoFailed(RuntimeError):
    """A step of the demo failed or its result is not good enough. The message names the step and its log."""


class Demo:
    """Paths, environment and log of one run. A step that was finished in an earlier run is not repeated."""

    def __init__(self, out: Path) -> None:
        self.out = check_output_folder(Path(out).resolve())
        self.logs = self.out / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.done_file = self.out / "steps.json"
        self.done: dict[str, float] = _steps_done(self.done_file)
        self.n_processes = max(1, min(8, os.cpu_count() or 1))
        folders = (self.out / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"))
        self.environment = {
            **nnunet_environment(*folders, n_processes=min(2, self.n_processes)),
            "nnUNet_n_proc_DA": str(max(1, self.n_processes // 2)),
            "nnUNet_compile": "f",  # compiling takes longer than this training
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
            preexec_fn=KILL_WITH_PARENT,
        )
        bar = tqdm(total=n_epochs, unit="epoch", disable=n_epochs is None)
        with ended(process), log_file.open("w") as log, bar:
            assert process.stdout is not None  # it is a pipe
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
        try:
            return console_script(name)
        except FileNotFoundError as error:
            raise DemoFailed(str(error)) from error


def _steps_done(file: Path) -> dict[str, float]:
    return read_json(file, {str: float}, remedy=f"delete {file.parent} to begin anew") if file.is_file() else {}


def n_epochs(demo: Demo, configuration: str) -> int:
    """Epochs the plan gives a configuration."""
    plans = read_json(demo.out / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json")
    return plans["configurations"][configuration]["training"]["num_epochs"]


@holding(owned_folder, "out")
def demo(out: Path = Path("demo")) -> Path:
    """Make phantoms, convert, plan, train fold 0 of both stages, contour the test cases, score them, show them in a page.

    Every step is a command that a user would type. All files lie below `out`. A second run repeats only the steps that
    were not finished.

    Returns:
        The folder with the page, tables and pictures, `out/results`.

    Raises:
        DemoFailed: If a step fails, or the scores are below `MIN_EYE_DSC` and `MIN_MEAN_DSC`.
    """
    import torch

    from nnunet_ext.evaluation.score_files import read_evaluation

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
    for title, configuration in (("localizer", "3d_lowres"), ("segmenter", SEGMENTER)):
        d.step(
            f"Train the {title}, fold 0",
            ["nnUNetv2_train", str(DATASET_ID), configuration, "0", *model],
            n_epochs=n_epochs(d, configuration),
        )
    located, segmented, scores = d.out / "predictions_localizer", d.out / "predictions", results / "scores"
    on = ["-d", str(DATASET_ID), "-f", "0", "-i", str(raw / "imagesTs"), *model]
    d.step("Contour the test cases", ["nnunet_ext", "predict", *on, "-o", str(segmented)])
    d.step(
        "Contour them with the localizer alone, to compare",
        ["nnUNetv2_predict", *on, "-c", "3d_lowres", "-o", str(located), "-npp", "1", "-nps", "1"],
    )
    references = ["--localizer", str(located), "-np", str(d.n_processes)]
    d.step(
        "Score both", ["nnunet_ext", "evaluate", str(segmented), str(raw / "labelsTs"), "-o", str(scores), *references]
    )
    models = [str(d.out / "nnUNet_results" / DATASET / f"{TRAINER}__{PLANS}__{c}") for c in ("3d_lowres", SEGMENTER)]
    runs = [f"segmenter={scores}", f"localizer={scores / 'localizer'}"]
    d.step("Show them", ["nnunet_ext", "report", *runs, "-o", str(results), "--models", *models])
    summary = read_evaluation(scores)
    seconds = sum(d.done.values())
    print(f"\n{summary.table_markdown}\n\nComputing time of all steps: {seconds / 60:.1f} min "
          f"(this run: {(perf_counter() - start) / 60:.1f} min)\n\n"
          f"Open this page in a browser: {results / 'report.html'}\n"
          f"Beside it: report.md, tables/, figures/, and every score in scores/evaluation.csv")  # fmt: skip
    verdict(summary)
    return results


def verdict(summary: EvaluationSummary) -> None:
    """Say whether the scores of the demo are good enough.

    Raises:
        DemoFailed: If not. The message names the score.
    """
    means = {organ: m["dsc_percent"].value for organ, m in summary.per_organ.items()}
    eyes = [means[o] for o in ORGANS if o.startswith("Eye_")]
    problems = [f"{f}: {reason}" for f, reason in summary.failed.items()]
    problems += [f"{case}: {100 * r:.2f} % of the organs in the box" for case, r in summary.pass_rates.items() if r < 1]
    if min(eyes) < MIN_EYE_DSC:
        problems.append(f"eyes reach a mean DSC of {min(eyes):.1f} %, less than {MIN_EYE_DSC:g}")
    if sum(means.values()) / len(means) < MIN_MEAN_DSC:
        problems.append(
            f"the organs reach a mean DSC of {sum(means.values()) / len(means):.1f} %, below {MIN_MEAN_DSC:g}"
        )
    if problems:
        raise DemoFailed("the demo ran, but its result is not what it should be:\n  " + "\n  ".join(problems))
    print("The demo reached what it must: eyes and all organs are good enough, and no box cut an organ.")
