"""Training recipes compared at equal computing time on phantoms, end to end, next to stock nnU-Net.

    python -m nnunet_ext.recipe_benchmark OUT                      every variant, one seed
    python -m nnunet_ext.recipe_benchmark OUT --only adam sgd_1e-2 --seeds 0 1 2
    python -m nnunet_ext.recipe_benchmark OUT --table results/recipes.md

All variants share phantoms, plan, preprocessed data and the localizer's folds; each is an edit of the plan's
configuration `3d_cascade_fullres`. The default trains for `--iterations`; a variant trains for as many iterations as cost
the same processing time, augmentation and validation included. That ratio is measured in the variant's own process, by
iterations of both in turns on one thread, so it does not depend on how fast or busy the machine is. The learning rate is
annealed over exactly these iterations. The scores are those of hold-out phantoms, located by the localizer (fold 0) and
contoured by `nnunet_ext predict`'s code. Stock nnU-Net gets the processing time of localizer and segmenter together.

A run that is there already (`OUT/runs/*.json`) is not repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_ext.demo import Demo
from nnunet_ext.labels import ORGANS

ID, NAME = 503, "Recipes"
DATASET = f"Dataset{ID}_{NAME}"
PLANS, TRAINER = "CascadeOARPlansSmall", "CascadeOARTrainer"
LOCALIZER, WHOLE, SEGMENTER = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
N_FOLDS = 3
#: Iterations timed before a training, after as many that warm up.
TIMED_ITERATIONS = 4
#: The learning rate of stock nnU-Net falls epoch by epoch.
FEWEST_EPOCHS = 5
#: Stock nnU-Net with its own plan, and its recipe on our whole-volume network (8 features, our grid).
STOCK_PLAN, STOCK_RECIPE = "stock nnU-Net 3d_fullres", "stock recipe, our 3d_fullres"


def _recipe(**options: object) -> Callable[[dict], None]:
    return lambda c: c["recipe"].update(options)


def _lr(initial_lr: float, **options: object) -> Callable[[dict], None]:
    def edit(c: dict) -> None:
        c["recipe"].update(options)
        c["training"]["initial_lr"] = initial_lr

    return edit


def _network(**options: object) -> Callable[[dict], None]:
    return lambda c: c["architecture"]["arch_kwargs"].update(options)


def _set(**options: object) -> Callable[[dict], None]:
    return lambda c: c.update(options)


def _whole_roi(batch_size: int) -> Callable[[dict], None]:
    """The ROI in one patch."""

    def edit(c: dict) -> None:
        spacing, size_mm = c["spacing"], c["roi"]["size_mm"]
        c["patch_size"] = [round(mm / s) for mm, s in zip(size_mm, spacing, strict=True)]
        c["batch_size"] = batch_size

    return edit


#: Variant -> edit of the segmenter's configuration. What a variant does not name is as in `default`.
VARIANTS: dict[str, Callable[[dict], None]] = {
    "default": lambda c: None,
    "Dice alone": _recipe(loss="dice"),
    "cross entropy unweighted": _recipe(foreground_weight=1.0),
    "Adam": _recipe(optimizer="adam"),
    "SGD 1e-2": _lr(0.01, optimizer="sgd"),
    "SGD 1e-1": _lr(0.1, optimizer="sgd"),
    "AdamW 3e-3": _lr(0.003),
    "AdamW 1.2e-2": _lr(0.012),
    "no deep supervision": _set(deep_supervision=False),
    "plain blocks": _network(residual_blocks=False),
    "max pooling": _network(downsampling="max_pooling"),
    "no left-right mirroring": _recipe(mirror_left_right=False),
    "jitter as planned": _recipe(box_jitter="planned"),
    "no jitter": _recipe(box_jitter="off"),
    "guidance": _recipe(guidance=True),
    "batch size 4": _set(batch_size=4),
    "batch size 16": _set(batch_size=16),
    "organ patches 1.0": _recipe(organ_patches=1.0),
    "ROI in one patch, batch size 1": _whole_roi(1),
    "ROI in one patch, batch size 2": _whole_roi(2),
    "ROI in one patch, batch size 4": _whole_roi(4),
    "modality dropout 0.3": _recipe(modality_dropout=0.3),
}
#: The study's trainer on the same configuration.
REFERENCE = "reference recipe"


def key_of(variant: str, seed: int) -> str:
    """Name of a run, fit for a plans file."""
    return "".join(c if c.isalnum() else "_" for c in variant) + f"_seed{seed}"


class Study:
    """Folders, commands and results of one comparison; steps that are done are not repeated."""

    def __init__(self, out: Path, *, n_train: int, n_test: int, phantom_seed: int) -> None:
        self.demo = Demo(out)
        self.out = self.demo.out
        self.demo.environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.n_train, self.n_test, self.phantom_seed = n_train, n_test, phantom_seed
        self.preprocessed = self.out / "nnUNet_preprocessed" / DATASET
        self.results = self.out / "nnUNet_results" / DATASET
        self.raw = self.out / "nnUNet_raw" / DATASET
        self.runs = self.out / "runs"
        self.runs.mkdir(exist_ok=True)

    def prepare(self) -> None:
        """Phantoms, plans, preprocessed data, and the localizer's folds."""
        d, phantoms = self.demo, str(self.out / "phantoms")
        n = self.n_train + self.n_test
        test = [f"phantom_{i:03d}" for i in range(self.n_train, n)]
        d.step(
            f"Make {n} phantoms",
            ["nnunet_ext", "phantom", phantoms, "--cases", str(n), "--seed", str(self.phantom_seed), "--size", "tiny"],
        )
        d.step(
            "Convert them",
            ["nnunet_ext", "convert", phantoms, "-d", str(ID), "-n", NAME, "--no-preview", "--test", *test],
        )
        plan = ["nnUNetv2_plan_and_preprocess", "-d", str(ID), "-npfp", "2", "-np", "2", "2", "-c", WHOLE]
        d.step("Plan and preprocess", [*plan, LOCALIZER, "-pl", "CascadeOARPlannerSmall"])
        d.step("Plan and preprocess stock nnU-Net", [*plan, "-np", "2", "-pl", "ExperimentPlanner"])
        cases = [f"phantom_{i:03d}" for i in range(self.n_train)]
        folds = [
            {"train": [c for i, c in enumerate(cases) if i % N_FOLDS != k], "val": cases[k::N_FOLDS]}
            for k in range(N_FOLDS)
        ]
        (self.preprocessed / "splits_final.json").write_text(json.dumps(folds))
        for fold in range(N_FOLDS):
            # On one thread, as everything here; nnU-Net's command takes all cores.
            command = [sys.executable, "-m", "nnunet_ext.recipe_benchmark", str(self.out), "--run", LOCALIZER]
            d.step(f"Train the localizer, fold {fold}", [*command, "--seeds", str(fold)])

    def localizer_iterations(self) -> int:
        plans = json.loads((self.preprocessed / f"{PLANS}.json").read_text())
        training = _resolved(plans, LOCALIZER)["training"]
        return training["num_epochs"] * training["iterations_per_epoch"]

    def run(self, variant: str, seed: int, iterations: int) -> dict:
        """Scores of one variant and seed, from an earlier run or from a process of its own."""
        file = self.runs / f"{key_of(variant, seed)}.json"
        if not file.is_file():
            print(f"{variant}, seed {seed} ...", flush=True)
            command = [sys.executable, "-m", "nnunet_ext.recipe_benchmark", str(self.out), "--run", variant]
            command += ["--seeds", str(seed), "--iterations", str(iterations)]
            log = self.demo.logs / f"{key_of(variant, seed)}.log"
            with log.open("w") as stream:
                done = subprocess.run(
                    command,
                    env=self.demo.environment,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    check=False,
                    cwd=self.out,
                )
            if done.returncode:
                raise RuntimeError(f"'{variant}' failed: {log}")
        return json.loads(file.read_text())


# ------------------------------------------------------------------------------------------- in a run's own process


def train_localizer(fold: int) -> None:
    """As `nnUNetv2_train` does, with its maps for the next stage, on one thread."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.set_num_threads(1)
    trainer = get_trainer_from_args(str(ID), LOCALIZER, fold, TRAINER, PLANS, device=torch.device("cpu"))
    trainer.run_training()
    trainer.perform_actual_validation()


def train_and_score(study: Study, variant: str, seed: int, default_iterations: int) -> dict:
    """Train one variant for the processing time of so many iterations of the default, contour, score."""
    import torch

    torch.set_num_threads(1)
    stock = variant in (STOCK_PLAN, STOCK_RECIPE)
    cost = default_cost = 1.0
    if variant != "default":
        cost, default_cost = _seconds_per_iteration(_trainer(study, variant, seed), _trainer(study, "default", seed))
    wanted = default_iterations * default_cost / cost
    # A network so large that few epochs fit gets shorter ones; stock's learning rate falls by the epoch.
    per_epoch = max(1, min(25, int(wanted / FEWEST_EPOCHS)))
    network = _trainer(study, variant, seed, epochs=max(1, round(wanted / per_epoch)), iterations=per_epoch)
    started = time.process_time()
    network.run_training()
    used_s = time.process_time() - started
    predictions = study.out / "predictions" / key_of(variant, seed)
    record = {
        "variant": variant,
        "seed": seed,
        "cost_of_iteration": round(cost / default_cost, 3),
        "cpu_s": round(used_s, 1),
        "iterations": network.num_epochs * network.num_iterations_per_epoch,
        "patch_size": list(network.configuration_manager.patch_size),
        "batch_size": network.batch_size,
    }
    if stock:
        _predict_stock(study, predictions, network)
    else:
        _predict(study, predictions, Path(network.output_folder_base))
    return record | _scores(study, predictions)


def _trainer(study: Study, variant: str, seed: int, *, epochs: int = 1, iterations: int = 25):
    """The variant's trainer, from a plans file of its own."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    stock = variant in (STOCK_PLAN, STOCK_RECIPE)
    configuration = WHOLE if stock else SEGMENTER
    trainer_name = f"{TRAINER}Reference" if variant == REFERENCE else TRAINER
    plans = json.loads((study.preprocessed / f"{'nnUNetPlans' if variant == STOCK_PLAN else PLANS}.json").read_text())
    name = plans["plans_name"] = f"Recipe_{key_of(variant, seed)}"
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if not stock:
        edited = plans["configurations"][configuration] = _resolved(plans, configuration)
        VARIANTS.get(variant, VARIANTS["default"])(edited)
        edited["training"] |= {"num_epochs": epochs, "iterations_per_epoch": iterations, "patience_epochs": None}
        (study.preprocessed / f"{name}.json").write_text(json.dumps(plans))
        link = study.results / f"{trainer_name}__{name}__{LOCALIZER}"  # the localizer is shared
        if not link.exists():
            link.symlink_to(study.results / f"{TRAINER}__{PLANS}__{LOCALIZER}")
        return get_trainer_from_args(str(ID), configuration, 0, trainer_name, name, device=torch.device("cpu"))
    # Not by its name: nnU-Net's finder would import all its trainers, some of which need more than nnU-Net does.
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )

    dataset_json = json.loads((study.preprocessed / "dataset.json").read_text())
    made = nnUNetTrainerNoMirroring(
        plans | {"continue_training": False}, configuration, 0, dataset_json, torch.device("cpu")
    )
    made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = epochs, iterations, 1
    return made


def _resolved(plans: Mapping, configuration: str) -> dict:
    """A configuration with what it inherits, so that one edit reaches all of it."""
    own = copy.deepcopy(plans["configurations"][configuration])
    parent = own.pop("inherits_from", None)
    return own if parent is None else {**_resolved(plans, parent), **own}


def _seconds_per_iteration(*trainers) -> list[float]:
    """Process time of an iteration with its share of the validation, per trainer; all take turns."""
    train_s: list[list[float]] = [[] for _ in trainers]
    val_s: list[float] = []
    for trainer in trainers:
        trainer.disable_checkpointing = True
        trainer.on_train_start()
        trainer.on_train_epoch_start()
    for _ in range(2 * TIMED_ITERATIONS):
        for seconds, trainer in zip(train_s, trainers, strict=True):
            started = time.process_time()
            trainer.train_step(next(trainer.dataloader_train))
            seconds.append(time.process_time() - started)
    for trainer in trainers:
        trainer.network.eval()
        started = time.process_time()
        trainer.validation_step(next(trainer.dataloader_val))
        share = trainer.num_val_iterations_per_epoch / trainer.num_iterations_per_epoch
        val_s.append((time.process_time() - started) * share)
    return [float(np.median(t[TIMED_ITERATIONS:])) + v for t, v in zip(train_s, val_s, strict=True)]


def _predict_stock(study: Study, out: Path, trainer) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    out.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(str(study.raw / "imagesTs"), str(out), save_probabilities=False)


def _predict(study: Study, out: Path, model: Path) -> None:
    """Contours of the hold-out cases by the model and the localizer in the folder beside it."""
    from nnunet_ext.predict import predict

    done = predict(images=study.raw / "imagesTs", out=out, model=model, folds=(0,), device="cpu", show_progress=False)
    if done.failed:
        raise RuntimeError(f"cases without contours: {done.failed}")


def _scores(study: Study, predictions: Path) -> dict:
    from nnunet_ext.evaluation import evaluate

    summary = evaluate(
        predictions, study.raw / "labelsTs", predictions / "scores", labels={o: i for i, o in enumerate(ORGANS, 1)}
    )
    return {
        metric: {organ: m[metric]["mean"] for organ, m in summary.per_organ.items()}
        for metric in ("dsc_percent", "hd95_mm")
    }


# ----------------------------------------------------------------------------------------------------- the table


def table(records: Sequence[Mapping]) -> str:
    """Markdown: a row per variant, mean over its seeds; best mean DSC first."""
    rows: dict[str, list[Mapping]] = {}
    for record in records:
        rows.setdefault(record["variant"], []).append(record)

    def mean(runs: Sequence[Mapping], metric: str, organs: Sequence[str] = ORGANS) -> float:
        return float(np.mean([run[metric][organ] for run in runs for organ in organs]))

    short = [o.replace("OpticNrv", "Nrv").replace("OpticChiasm", "Chiasm") for o in ORGANS]
    lines = [
        f"| recipe | seeds | iterations | CPU s | {' | '.join(short)} | mean DSC % | range | mean HD95 mm |",
        "|---" * (len(ORGANS) + 7) + "|",
    ]
    for variant, runs in sorted(rows.items(), key=lambda item: -mean(item[1], "dsc_percent")):
        organs = " | ".join(f"{mean(runs, 'dsc_percent', [o]):.1f}" for o in ORGANS)
        each = [mean([run], "dsc_percent") for run in runs]
        spread = f"{min(each):.1f}..{max(each):.1f}" if len(each) > 1 else ""
        iterations, cpu_s = (round(float(np.mean([run[k] for run in runs]))) for k in ("iterations", "cpu_s"))
        lines.append(
            f"| {variant} | {len(runs)} | {iterations} | {cpu_s} | {organs} | {np.mean(each):.1f} | {spread} | "
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
    parser.add_argument("--run", metavar="VARIANT", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    study = Study(a.out, n_train=a.train, n_test=a.test, phantom_seed=a.phantom_seed)
    if a.run:
        os.environ |= {"nnUNet_n_proc_DA": "0"}  # augmentation in this process, so that its time counts
        if a.run == LOCALIZER:
            train_localizer(a.seeds[0])
            return 0
        record = train_and_score(study, a.run, a.seeds[0], a.iterations)
        (study.runs / f"{key_of(a.run, a.seeds[0])}.json").write_text(json.dumps(record, indent=1) + "\n")
        return 0
    if a.table is None:
        study.prepare()
        wanted = a.only or [*VARIANTS, REFERENCE, STOCK_RECIPE, STOCK_PLAN]
        if unknown := sorted(set(wanted) - {*VARIANTS, REFERENCE, STOCK_RECIPE, STOCK_PLAN}):
            parser.error(
                f"unknown variants {unknown}; known: {', '.join([*VARIANTS, REFERENCE, STOCK_RECIPE, STOCK_PLAN])}"
            )
        for seed in a.seeds:
            for variant in wanted:
                stock = variant in (STOCK_RECIPE, STOCK_PLAN)
                # An iteration of the localizer costs about as much as one of the segmenter.
                study.run(variant, seed, a.iterations + study.localizer_iterations() if stock else a.iterations)
    text = table([json.loads(f.read_text()) for f in sorted(study.runs.glob("*.json"))])
    print(text)
    if a.table is not None:
        a.table.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
