"""Networks of other groups, planned beside the cascade on its whole-volume data, with the training of their papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.nnunet_folders import WHOLE_VOLUME
from nnunet_ext.training.phases import TrainingPhase
from nnunet_ext.training.recipe import DICE_FOCAL, RMSPROP, SGD, TrainingRecipe
from nnunet_ext.training.schedule import TrainingSchedule

if TYPE_CHECKING:
    from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner

ANATOMYNET = "3d_anatomynet"
#: RMSprop for 150 epochs, then SGD for 50, as the paper has it.
ANATOMYNET_PHASES = (
    TrainingPhase(150, RMSPROP, initial_lr=5e-4),
    TrainingPhase(50, SGD, initial_lr=1e-4, momentum=0.9),
)
#: Share of the cases that a fold of nnU-Net's cross-validation trains on.
TRAINED_SHARE = 0.8


def plan_rivals(planner: CascadeOARPlanner, largest_body: np.ndarray) -> dict[str, dict]:
    """Name -> entries of the other groups' networks that can be trained on these cases.

    Args:
        planner: Gives width and schedule, `rival_width` and `rival_schedule`.
        largest_body: In voxels of the whole-volume grid, in plan axes.
    """
    planned = {ANATOMYNET: _anatomynet(planner, largest_body)}
    if planner.rival_width != 1:
        print(f"{', '.join(planned)}: networks of {planner.rival_width:g} times their published width")
    return planned


def _anatomynet(planner: CascadeOARPlanner, largest_body: np.ndarray) -> dict:
    """The paper's: whole volumes one at a time, its optimizers, and Dice with half a focal loss of gamma 2.

    Ours are nnU-Net's augmentation and batch Dice, and the weight of the focal loss, which was not found in the paper. An
    epoch is a pass over the cases.
    """
    patch = [int(n + n % 2) for n in largest_body]
    recipe = TrainingRecipe(
        loss=DICE_FOCAL,
        cross_entropy_weight=0.5,
        foreground_weight=1.0,
        organ_patches=0.0,
        mirror_left_right=planner.mirrors,
    )
    architecture = _architecture("nnunet_ext.rivals.anatomynet.AnatomyNet", width=planner.rival_width)
    return {
        **planner.patch_entries(WHOLE_VOLUME, patch, architecture, batch_size=1),
        **_training(planner, ANATOMYNET_PHASES, batch_size=1),
        "deep_supervision": False,
        "recipe": dict(vars(recipe)),
    }


def _architecture(name: str, **options: object) -> dict:
    """The plan's `architecture` entry."""
    return {"network_class_name": name, "arch_kwargs": options, "_kw_requires_import": []}


def _training(planner: CascadeOARPlanner, phases: Sequence[TrainingPhase], *, batch_size: int) -> Mapping:
    """`training` and `phases` of a configuration, at the paper's length or in the epochs of the planner's schedule."""
    schedule = planner.rival_schedule
    if schedule is None:
        trained = max(1, round(TRAINED_SHARE * len(planner.dataset)))
        schedule = TrainingSchedule(
            sum(phase.num_epochs for phase in phases),
            iterations_per_epoch=max(1, trained // batch_size),
            val_iterations_per_epoch=max(1, (len(planner.dataset) - trained) // batch_size),
        )
    return {
        "training": {**vars(schedule), "patience_epochs": None, "initial_lr": phases[0].initial_lr},
        "phases": [phase.to_plan() for phase in phases],
    }
