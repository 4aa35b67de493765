"""Training recipes compared at equal computing time on phantoms, end to end, next to stock nnU-Net.

    python -m nnunet_ext.end_to_end.recipe_benchmark OUT                      every variant, one seed
    python -m nnunet_ext.end_to_end.recipe_benchmark OUT --only adam sgd_1e-2 --seeds 0 1 2
    python -m nnunet_ext.end_to_end.recipe_benchmark OUT --table results/recipes.md
    python -m nnunet_ext.end_to_end.recipe_benchmark OUT --device cuda --size small --planner CascadeOARPlanner

All variants share phantoms, plan, preprocessed data and the localizer's folds. Each is an edit of the plan's configuration
`3d_cascade_fullres`. The default trains for `--iterations`. A variant trains for as many iterations as cost the same
processing time, augmentation and validation included. That ratio is measured in the variant's own process, by iterations of
both in turns on one thread. So it does not depend on how fast or busy the machine is. The learning rate is annealed over
exactly these iterations. The scores are those of hold-out phantoms, located by the localizer (fold 0) and contoured by
`nnunet_ext predict`'s code. Stock nnU-Net gets the processing time of localizer and segmenter together.

On a GPU the measure is the clock instead. Every variant trains for `--seconds`, validation and checkpoints included, one at
a time. Stock nnU-Net trains for `--seconds` and `--localizer-seconds` together.

A run that is there already (`OUT/runs/*.json`) is not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from nnunet_ext.end_to_end.demo import PLANNER, TRAINER, Demo
from nnunet_ext.end_to_end.learning.edits import (
    Edit,
    entries,
    learning_rate,
    network,
    patch,
    recipe,
    resolved,
    unchanged,
)
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.processes import KILL_WITH_PARENT

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

ID, NAME = 503, "Recipes"
DATASET = f"Dataset{ID}_{NAME}"
LOCALIZER, WHOLE, SEGMENTER = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
N_FOLDS = 3
#: Iterations timed before a training, after as many that warm up. On a GPU they use up the loader's head start.
TIMED_ITERATIONS, TIMED_ITERATIONS_GPU = 4, 25
#: The learning rate of stock nnU-Net falls epoch by epoch.
FEWEST_EPOCHS = 5
#: Runs on a GPU that are under way at a time. One of them trains, see `train_and_score`.
AT_A_TIME_GPU = 2
#: Epochs of trainings that end by the clock: iterations, and validation iterations.
EPOCH_GPU = (100, 10)
#: Stock nnU-Net with its own plan, and its recipe on our whole-volume network (8 features, our grid).
STOCK_PLAN, STOCK_RECIPE = "stock nnU-Net 3d_fullres", "stock recipe, our 3d_fullres"


#: Variant -> edit of the segmenter's configuration. What a variant does not name is as in `default`. One of the learning
#: rates is the planner's own, so that variant repeats the default.
VARIANTS: dict[str, Edit] = {
    "default": unchanged,
    "Dice alone": recipe(loss="dice"),
    "cross entropy unweighted": recipe(foreground_weight=1.0),
    "foreground weight 25": recipe(foreground_weight=25.0),
    "Adam": recipe(optimizer="adam"),
    "SGD 1e-2": learning_rate(0.01, optimizer="sgd"),
    "SGD 1e-1": learning_rate(0.1, optimizer="sgd"),
    "AdamW 1e-3": learning_rate(0.001),
    "AdamW 3e-3": learning_rate(0.003),
    "AdamW 6e-3": learning_rate(0.006),
    "AdamW 1.2e-2": learning_rate(0.012),
    "AdamW 2.4e-2": learning_rate(0.024),
    "no deep supervision": entries(deep_supervision=False),
    "plain blocks": network(residual_blocks=False),
    "max pooling": network(downsampling="max_pooling"),
    "no left-right mirroring": recipe(mirror_left_right=False),
    "jitter as planned": recipe(box_jitter="planned"),
    "no jitter": recipe(box_jitter="off"),
    "guidance": recipe(guidance=True),
    "batch size 4": entries(batch_size=4),
    "batch size 16": entries(batch_size=16),
    "organ patches 1.0": recipe(organ_patches=1.0),
    "ROI in one patch, batch size 1": patch(1.0, 1),
    "ROI in one patch, batch size 2": patch(1.0, 2),
    "ROI in one patch, batch size 4": patch(1.0, 4),
    "half patches, batch size 8": patch(0.5, 8),
    "modality dropout 0.3": recipe(modality_dropout=0.3),
}
#: The study's trainer on the same configuration.
REFERENCE = "reference recipe"


#: Options that a run's own process needs too.
FORWARDED = ("device", "planner", "size", "seconds", "localizer_seconds", "train", "test", "phantom_seed")


def key_of(variant: str, seed: int) -> str:
    """Name of a run, fit for a plans file."""
    return "".join(c if c.isalnum() else "_" for c in variant) + f"_seed{seed}"


class Study:
    """Folders, commands and results of one comparison. Steps that are done are not repeated."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.demo = Demo(options.out)
        self.out = self.demo.out
        self.on_gpu = options.device != "cpu"
        self.n_processes = (os.cpu_count() or 2) if self.on_gpu else 2
        # On a CPU a training has one thread, which also augments, so that its time counts. On a GPU it trains as users do.
        self.loader_processes = str(min(12, self.n_processes)) if self.on_gpu else "0"
        self.demo.environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.demo.environment["nnUNet_def_n_proc"] = str(self.n_processes)
        self.plans = options.planner.replace("Planner", "Plans")
        self.preprocessed = self.out / "nnUNet_preprocessed" / DATASET
        self.results = self.out / "nnUNet_results" / DATASET
        self.raw = self.out / "nnUNet_raw" / DATASET
        self.runs = self.out / "runs"
        self.runs.mkdir(exist_ok=True)

    def prepare(self) -> None:
        """Phantoms, plans and preprocessed data."""
        d, o, phantoms = self.demo, self.options, str(self.out / "phantoms")
        n = o.train + o.test
        test = [f"phantom_{i:03d}" for i in range(o.train, n)]
        processes = ["-np", str(self.n_processes)]
        make = ["nnunet_ext", "phantom", phantoms, "--cases", str(n), "--seed", str(o.phantom_seed), "--size", o.size]
        d.step(f"Make {n} phantoms", [*make, *processes])
        convert = ["nnunet_ext", "convert", phantoms, "-d", str(ID), "-n", NAME, "--no-preview", *processes]
        d.step("Convert them", [*convert, "--test", *test])
        plan = ["nnUNetv2_plan_and_preprocess", "-d", str(ID), "-npfp", str(self.n_processes), *processes]
        d.step("Plan and preprocess", [*plan, str(self.n_processes), "-c", WHOLE, LOCALIZER, "-pl", o.planner])
        d.step("Plan and preprocess stock nnU-Net", [*plan, "-c", WHOLE, "-pl", "ExperimentPlanner"])
        cases = [f"phantom_{i:03d}" for i in range(o.train)]
        folds = [
            {"train": [c for i, c in enumerate(cases) if i % N_FOLDS != k], "val": cases[k::N_FOLDS]}
            for k in range(N_FOLDS)
        ]
        (self.preprocessed / "splits_final.json").write_text(json.dumps(folds))

    def locate(self) -> None:
        """The localizer's folds, each with its maps for the next stage."""
        for each in [range(N_FOLDS)] if self.on_gpu else [[fold] for fold in range(N_FOLDS)]:
            seeds = [str(fold) for fold in each]
            self.demo.step(f"Train the localizer, fold {', '.join(seeds)}", self.command(LOCALIZER, seeds))

    def command(self, variant: str, seeds: Sequence[str]) -> list[str]:
        """This module in a process of its own, for one variant."""
        options = [f"--{name.replace('_', '-')}={getattr(self.options, name)}" for name in FORWARDED]
        module = [sys.executable, "-m", "nnunet_ext.end_to_end.recipe_benchmark", str(self.out), *options]
        return [*module, "--run", variant, "--seeds", *seeds]

    def localizer_iterations(self) -> int:
        plans = json.loads((self.preprocessed / f"{self.plans}.json").read_text())
        training = resolved(plans, LOCALIZER)["training"]
        return training["num_epochs"] * training["iterations_per_epoch"]

    def run(self, variant: str, seed: int, iterations: int) -> dict:
        """Scores of one variant and seed, from an earlier run or from a process of its own."""
        file = self.runs / f"{key_of(variant, seed)}.json"
        if not file.is_file():
            print(f"{variant}, seed {seed} ...", flush=True)
            command = [*self.command(variant, [str(seed)]), f"--iterations={iterations}"]
            log = self.demo.logs / f"{key_of(variant, seed)}.log"
            with log.open("w") as stream:
                done = subprocess.run(
                    command,
                    env=self.demo.environment,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    check=False,
                    cwd=self.out,
                    preexec_fn=KILL_WITH_PARENT,
                )
            if done.returncode:
                raise RuntimeError(f"'{variant}' failed: {log}")
        return json.loads(file.read_text())


# ------------------------------------------------------------------------------------------- in a run's own process


def train_localizer(study: Study, fold: int) -> None:
    """As `nnUNetv2_train` does, with its maps for the next stage. On one thread of the CPU."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.set_num_threads(1)
    device = torch.device(study.options.device)
    trainer = get_trainer_from_args(str(ID), LOCALIZER, fold, TRAINER, study.plans, device=device)
    if study.on_gpu:
        until(trainer, study.options.localizer_seconds)
    trainer.run_training()
    trainer.perform_actual_validation()


def train_localizers(study: Study, folds: Sequence[int]) -> None:
    """Several folds at a time. On a GPU they disturb each other, so they get no more done than one alone would."""
    if len(folds) == 1:
        return train_localizer(study, folds[0])
    processes = [subprocess.Popen(study.command(LOCALIZER, [str(fold)]), preexec_fn=KILL_WITH_PARENT) for fold in folds]
    if failed := [fold for fold, process in zip(folds, processes, strict=True) if process.wait()]:
        raise RuntimeError(f"the localizer's folds {failed} failed")
    return None


def until(trainer: CascadeOARTrainer, seconds: float) -> None:
    """Let a training of ours end, its learning rate annealed, after some seconds."""
    trainer.num_epochs = 10**6
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = EPOCH_GPU
    trainer.schedule = dataclasses.replace(
        trainer.schedule, num_epochs=10**6, time_budget_h=seconds / 3600, patience_epochs=None
    )


def train_and_score(study: Study, variant: str, seed: int, default_iterations: int) -> dict:
    """Train one variant for the computing time of so many iterations of the default, contour, score."""
    import torch

    torch.set_num_threads(1)
    stock = variant in (STOCK_PLAN, STOCK_RECIPE)
    record = {"variant": variant, "seed": seed}
    # One training at a time has the GPU to itself. Others import, contour and score meanwhile.
    with FileLock(study.out / "gpu.lock") if study.on_gpu else nullcontext():
        clock = time.perf_counter if study.on_gpu else time.process_time
        if study.on_gpu:
            trainer = _trainer_by_the_clock(study, variant, seed)
        else:
            cost = default_cost = 1.0
            if variant != "default":
                cost, default_cost = _seconds_per_iteration(
                    _trainer(study, variant, seed), _trainer(study, "default", seed)
                )
            trainer = _trainer_of_equal_cost(study, variant, seed, default_iterations * default_cost / cost)
            record["cost_of_iteration"] = round(cost / default_cost, 3)
        iterations = _counted(trainer)
        started = clock()
        trainer.run_training()
        used_s = clock() - started
    record |= {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "clock_s" if study.on_gpu else "cpu_s": round(used_s, 1),
        "iterations": iterations(),
        "patch_size": [int(n) for n in trainer.configuration_manager.patch_size],
        "batch_size": trainer.batch_size,
    }
    predictions = study.out / "predictions" / key_of(variant, seed)
    if stock:
        from nnunet_ext.end_to_end.learning.stock_prediction import predict_by_stock

        predict_by_stock(trainer, study.raw / "imagesTs", predictions)
    else:
        _predict(study, predictions, Path(trainer.output_folder_base))
    return record | _scores(study, predictions)


def _trainer_of_equal_cost(study: Study, variant: str, seed: int, iterations: float) -> nnUNetTrainer:
    # A network so large that few epochs fit gets shorter ones, because stock's learning rate falls by the epoch.
    per_epoch = max(1, min(25, int(iterations / FEWEST_EPOCHS)))
    return _trainer(study, variant, seed, epochs=max(1, round(iterations / per_epoch)), iterations=per_epoch)


def _trainer_by_the_clock(study: Study, variant: str, seed: int) -> nnUNetTrainer:
    """Ours ends on time by its plan. Stock, which can't, gets as many epochs as fit by the time of its iterations."""
    if variant not in (STOCK_PLAN, STOCK_RECIPE):
        trainer = _trainer(study, variant, seed)
        until(trainer, study.options.seconds)
        return trainer
    timed = _trainer(study, variant, seed)
    timed.num_iterations_per_epoch, timed.num_val_iterations_per_epoch = EPOCH_GPU
    [seconds] = _seconds_per_iteration(timed, n=TIMED_ITERATIONS_GPU, clock=time.perf_counter)
    iterations = (study.options.seconds + study.options.localizer_seconds) / seconds
    per_epoch = max(1, min(EPOCH_GPU[0], int(iterations / FEWEST_EPOCHS)))
    trainer = _trainer(study, variant, seed, epochs=max(1, round(iterations / per_epoch)), iterations=per_epoch)
    trainer.num_val_iterations_per_epoch = max(1, per_epoch * EPOCH_GPU[1] // EPOCH_GPU[0])
    return trainer


def _counted(trainer: nnUNetTrainer) -> Callable[[], int]:
    """How many training steps a trainer has made."""
    n, step = [0], trainer.train_step

    def counted(batch: dict) -> dict:
        n[0] += 1
        return step(batch)

    trainer.train_step = counted
    return lambda: n[0]


def _trainer(study: Study, variant: str, seed: int, *, epochs: int = 1, iterations: int = 25) -> nnUNetTrainer:
    """The variant's trainer, from a plans file of its own."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    stock = variant in (STOCK_PLAN, STOCK_RECIPE)
    device = torch.device(study.options.device)
    configuration = WHOLE if stock else SEGMENTER
    trainer_name = f"{TRAINER}Reference" if variant == REFERENCE else TRAINER
    plans = json.loads(
        (study.preprocessed / f"{'nnUNetPlans' if variant == STOCK_PLAN else study.plans}.json").read_text()
    )
    name = plans["plans_name"] = f"Recipe_{key_of(variant, seed)}"
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if not stock:
        edited = plans["configurations"][configuration] = resolved(plans, configuration)
        VARIANTS.get(variant, VARIANTS["default"])(edited)
        edited["training"] |= {"num_epochs": epochs, "iterations_per_epoch": iterations, "patience_epochs": None}
        (study.preprocessed / f"{name}.json").write_text(json.dumps(plans))
        link = study.results / f"{trainer_name}__{name}__{LOCALIZER}"  # the localizer is shared
        if not link.exists():
            link.symlink_to(study.results / f"{TRAINER}__{study.plans}__{LOCALIZER}")
        return get_trainer_from_args(str(ID), configuration, 0, trainer_name, name, device=device)
    # Not by its name: nnU-Net's finder would import all its trainers, some of which need more than nnU-Net does.
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )

    dataset_json = json.loads((study.preprocessed / "dataset.json").read_text())
    made = nnUNetTrainerNoMirroring(plans | {"continue_training": False}, configuration, 0, dataset_json, device)
    made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = epochs, iterations, 1
    return made


def _seconds_per_iteration(
    *trainers: nnUNetTrainer, n: int = TIMED_ITERATIONS, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """Time of an iteration with its share of the validation, per trainer. The trainers take turns."""
    from nnunet_ext.end_to_end.learning.costs import in_turns

    # On a GPU loader processes work in bursts. Their pauses count, so it is the mean.
    average = statistics.median if clock is time.process_time else statistics.mean
    costs = in_turns(trainers, timed=n, warm_up=n, clock=clock, average=average)
    shares = [t.num_val_iterations_per_epoch / t.num_iterations_per_epoch for t in trainers]
    return [train_s + share * val_s for (train_s, val_s), share in zip(costs, shares, strict=True)]


def _predict(study: Study, out: Path, model: Path) -> None:
    """Contours of the hold-out cases by the model and the localizer in the folder beside it."""
    from nnunet_ext.prediction.predicting import predict

    options = {"folds": (0,), "device": study.options.device, "show_progress": False}
    done = predict(images=study.raw / "imagesTs", out=out, model=model, **options)
    if done.failed:
        raise RuntimeError(f"cases without contours: {done.failed}")


def _scores(study: Study, predictions: Path) -> dict:
    from nnunet_ext.evaluation.evaluating import evaluate

    summary = evaluate(
        predictions, study.raw / "labelsTs", predictions / "scores", labels={o: i for i, o in enumerate(ORGANS, 1)}
    )
    return {
        metric: {organ: m[metric].value for organ, m in summary.per_organ.items()}
        for metric in ("dsc_percent", "hd95_mm")
    }


# ----------------------------------------------------------------------------------------------------- the table


def table(records: Sequence[Mapping]) -> str:
    """Markdown with a row per variant, mean over its seeds, the best mean DSC first.

    Raises:
        ValueError: If the runs were made on several devices, because their times mean different things.
    """
    if len(devices := sorted({record["device"] for record in records})) > 1:
        raise ValueError(
            f"The runs in OUT/runs were made on {' and '.join(devices)}: give each device an OUT of its own."
        )
    rows: dict[str, list[Mapping]] = {}
    for record in records:
        rows.setdefault(record["variant"], []).append(record)

    def mean(runs: Sequence[Mapping], metric: str, organs: Sequence[str] = ORGANS) -> float:
        return float(np.mean([run[metric][organ] for run in runs for organ in organs]))

    short = [o.replace("OpticNrv", "Nrv").replace("OpticChiasm", "Chiasm") for o in ORGANS]
    measure = "clock_s" if "clock_s" in records[0] else "cpu_s"
    lines = [
        f"| recipe | seeds | iterations | {'s' if measure == 'clock_s' else 'CPU s'} | {' | '.join(short)} | mean DSC % | "
        "range | mean HD95 mm |",
        "|---" * (len(ORGANS) + 7) + "|",
    ]
    for variant, runs in sorted(rows.items(), key=lambda item: -mean(item[1], "dsc_percent")):
        organs = " | ".join(f"{mean(runs, 'dsc_percent', [o]):.1f}" for o in ORGANS)
        each = [mean([run], "dsc_percent") for run in runs]
        spread = f"{min(each):.1f}..{max(each):.1f}" if len(each) > 1 else ""
        iterations, used_s = (round(float(np.mean([run[k] for run in runs]))) for k in ("iterations", measure))
        lines.append(
            f"| {variant} | {len(runs)} | {iterations} | {used_s} | {organs} | {np.mean(each):.1f} | {spread} | "
            f"{mean(runs, 'hd95_mm'):.2f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="without: all of them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="of weights and augmentation")
    parser.add_argument("--iterations", type=int, default=500, metavar="N", help="of the default recipe")
    parser.add_argument("--train", type=int, default=18, metavar="N", help="training phantoms")
    parser.add_argument("--test", type=int, default=8, metavar="N", help="hold-out phantoms")
    parser.add_argument("--phantom-seed", type=int, default=40, metavar="S")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table of what was run so far, and end")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--planner", default=PLANNER, help=f"default {PLANNER}")
    parser.add_argument("--size", default="tiny", help="of the phantoms")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of a training on a GPU")
    parser.add_argument("--localizer-seconds", type=float, default=30.0, metavar="S", help="the same for the localizer")
    parser.add_argument("--run", metavar="VARIANT", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    study = Study(a)
    if a.run:
        os.environ |= {"nnUNet_n_proc_DA": study.loader_processes}
        if a.run == LOCALIZER:
            train_localizers(study, a.seeds)
            return 0
        record = train_and_score(study, a.run, a.seeds[0], a.iterations)
        (study.runs / f"{key_of(a.run, a.seeds[0])}.json").write_text(json.dumps(record, indent=1) + "\n")
        return 0
    if a.table is None:
        study.prepare()
        study.locate()
        wanted = a.only or [*VARIANTS, REFERENCE, STOCK_RECIPE, STOCK_PLAN]
        if unknown := sorted(set(wanted) - {*VARIANTS, REFERENCE, STOCK_RECIPE, STOCK_PLAN}):
            parser.error(
                f"unknown variants {unknown}; known: {', '.join([*VARIANTS, REFERENCE, STOCK_RECIPE, STOCK_PLAN])}"
            )
        # An iteration of the localizer costs about as much as one of the segmenter.
        more = dict.fromkeys((STOCK_RECIPE, STOCK_PLAN), study.localizer_iterations())
        runs = [(variant, seed, a.iterations + more.get(variant, 0)) for seed in a.seeds for variant in wanted]
        with ThreadPoolExecutor(AT_A_TIME_GPU if study.on_gpu else 1) as pool:
            list(pool.map(lambda run: study.run(*run), runs))
    text = table([json.loads(f.read_text()) for f in sorted(study.runs.glob("*.json"))])
    print(text)
    if a.table is not None:
        a.table.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
