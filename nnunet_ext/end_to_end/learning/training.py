"""One training of a study: its plan, its trainer, and how it begins or goes on. Run in a process of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.end_to_end.learning.courses import Costs, Course, course
from nnunet_ext.end_to_end.learning.data import STOCK_PLANS, plan_stock
from nnunet_ext.end_to_end.learning.edits import resolved
from nnunet_ext.end_to_end.learning.study import Study, branch_file, model_folder, trainer_name, training_name
from nnunet_ext.end_to_end.learning.systems import System, system_of
from nnunet_ext.end_to_end.learning.trainers import TRAINERS, PlainLogger, epoch_seconds, go_on
from nnunet_ext.files import read_json, write_json
from nnunet_ext.labels.pairs import PAIRS_KEY, plan_pairs
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import BOXES_FILE, WHOLE_VOLUME
from nnunet_ext.training.recipe import TrainingRecipe
from nnunet_ext.training.schedule import TrainingSchedule


def base_plans(study: Study, system: System, memory_gb: float | None) -> dict[str, Any]:
    """The plans of a system before its edit, with all entries of its configuration resolved.

    Args:
        study: The study.
        system: Or a localizer.
        memory_gb: Of stock with small patches.
    """
    planned = study.finer_plans_name if system.finer else study.plans_name
    ours = read_json(study.preprocessed(system.merged) / f"{planned}.json")
    if not system.stock_plan:
        if system.configuration not in ours["configurations"]:
            raise ValueError(
                f"{planned}.json has no configuration {system.configuration}; planning says why it is left out"
            )
        ours["configurations"][system.configuration] = resolved(ours, system.configuration)
        return ours
    name = plan_stock(study, memory_gb) if system.small_patches else STOCK_PLANS
    plans = read_json(study.preprocessed() / f"{name}.json")
    plans["configurations"] = {WHOLE_VOLUME: resolved(plans, WHOLE_VOLUME)}
    if system.kind == "stock's plan":
        plans["left_right_axis"] = plans["transpose_forward"].index(2)
        plans[PAIRS_KEY] = ours[PAIRS_KEY]
        rate = resolved(ours, WHOLE_VOLUME)["training"]["initial_lr"]
        plans["configurations"][WHOLE_VOLUME] |= {
            "batch_dice": True,
            "training": vars(TrainingSchedule(initial_lr=rate)),
            "recipe": vars(TrainingRecipe()),
        }
    return plans


def plans_of(study: Study, name: str, training: str, memory_gb: float | None) -> dict[str, Any]:
    """The plans of a training, with the system's edit."""
    system = system_of(name)
    plans = base_plans(study, system, memory_gb)
    plans["plans_name"] = training
    labels = dataset_json(study, system)["labels"]
    if not system.stock_trainer:
        pairs = pair_values(plan_pairs(plans, labels), labels)
        system.configure(plans["configurations"][system.configuration], pairs)
    return plans


def dataset_json(study: Study, system: System) -> dict[str, Any]:
    return read_json(study.preprocessed(system.merged) / "dataset.json")


def make_trainer(
    study: Study,
    name: str,
    training: str,
    *,
    length: Course,
    constant_share: float,
    seed: int,
    memory_gb: float | None,
    localizer: Path | None = None,
    fold: int = 0,
) -> nnUNetTrainer:
    """The trainer of a training, from a plans file of its own.

    Args:
        study: The study.
        name: Of the system.
        training: Of the training.
        length: Epochs and iterations. For a trunk, `num_epochs` is where it ends.
        constant_share: See `TrainingSchedule`.
        seed: Of weights and augmentation.
        memory_gb: See `base_plans`.
        localizer: Model whose boxes a segmenter is trained and scored with.
        fold: Of the splits.
    """
    system = system_of(name)
    plans = plans_of(study, name, training, memory_gb)
    entry = plans["configurations"][system.configuration]
    if not system.stock_trainer:
        entry["training"] |= {
            "num_epochs": length.num_epochs,
            "iterations_per_epoch": length.epoch_iterations,
            "val_iterations_per_epoch": length.val_iterations,
            "patience_epochs": None,
            "time_budget_h": None,
            "constant_share": constant_share,
        }
    write_json(plans, study.preprocessed(system.merged) / f"{training}.json")
    if localizer is not None:
        link = study.results(system.merged) / f"{trainer_name(system)}__{training}__{entry['previous_stage']}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(localizer)
    _seed(seed)
    made = TRAINERS[trainer_name(system)](
        plans | {"continue_training": False},
        system.configuration,
        fold,
        dataset_json(study, system),
        torch.device(study.settings.device),
    )
    made.logger = PlainLogger(made.output_folder, False)
    made.num_epochs = length.num_epochs
    made.num_iterations_per_epoch = length.epoch_iterations
    made.num_val_iterations_per_epoch = length.val_iterations
    return made


def train(
    study: Study, *, name: str, seed: int, minutes: float, trunk: bool, marks_min: Sequence[float], fold: int = 0
) -> None:
    """Train a trunk up to where the branch of a mark leaves it, or the branch, or a mark's training of its own.

    A localizer's branch also validates, so that the segmenter knows how far off its boxes are.

    Args:
        study: The study.
        name: Of the system or localizer.
        seed: Of weights and augmentation.
        minutes: The mark.
        trunk: Whether it is the trunk.
        marks_min: All marks, at whose branch points a trunk keeps its checkpoint.
        fold: Of the splits.

    Raises:
        ValueError: If the trunk is already past the branch point and kept no checkpoint there.
    """
    torch.set_num_threads(1)
    system, costs = system_of(name), Costs.read(study.costs_file)
    cost = costs.of(name)
    length = course(system, cost, minutes)
    share = 1.0 if trunk else length.branch_epoch / length.num_epochs if system.has_trunk else 0.0
    if trunk:
        length = Course(length.branch_epoch, length.branch_epoch, length.epoch_iterations, length.val_iterations)
    # The trunk takes the first mark's localizer, which is there first.
    boxes_of = min(marks_min) if trunk else minutes
    localizer = None
    if system.localizer is not None:
        localizer = model_folder(study, system_of(system.localizer), training_name(system.localizer, seed, boxes_of))
    made = make_trainer(
        study,
        name,
        training_name(name, seed, None if trunk else minutes),
        length=length,
        constant_share=share,
        seed=seed,
        memory_gb=costs.stock_memory_gb,
        localizer=localizer,
        fold=fold,
    )
    start = None
    folder = Path(made.output_folder)
    if trunk:
        made.branch_epochs = {course(system, cost, mark).branch_epoch for mark in marks_min}
    elif system.has_trunk:
        start = trunk_checkpoint(study, name, seed, length, fold)
        if not made.seconds_file.is_file():
            write_json(epoch_seconds(start.parent)[: length.branch_epoch], made.seconds_file)
    go_on(made, start)
    _seed(seed + made.current_epoch)  # what goes on must not draw the samples of its beginning again
    if trunk and made.current_epoch > length.num_epochs:
        raise ValueError(
            f"the trunk of {name} has trained {made.current_epoch} epochs and kept no checkpoint after "
            f"{length.num_epochs}, where the branch of {minutes:g} min leaves it; run this mark in another folder"
        )
    if made.current_epoch < length.num_epochs or not (folder / "checkpoint_final.pth").is_file():
        made.run_training()
    if not trunk and system.kind == "localizer" and not (folder / "validation" / BOXES_FILE).is_file():
        if made.network is None:
            made.initialize()
        made.perform_actual_validation()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def trunk_checkpoint(study: Study, name: str, seed: int, length: Course, fold: int) -> Path:
    """Checkpoint that a branch starts from."""
    folder = model_folder(study, system_of(name), training_name(name, seed, None)) / f"fold_{fold}"
    return branch_file(folder, length.branch_epoch)
