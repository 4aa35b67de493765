"""Networks of other groups, planned beside the cascade on its whole-volume data, with the training of their papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.cascade import roi
from nnunet_ext.nnunet_folders import ANATOMYNET, DEEPLAB, FOCUSNET, WHOLE_VOLUME
from nnunet_ext.rivals.deeplab import OUTPUT_STRIDE, library_problem
from nnunet_ext.rivals.focusnet import CROP as FOCUSNET_CROP
from nnunet_ext.rivals.focusnet import CROPS, LOCALISATION, SEGMENTATION
from nnunet_ext.rivals.focusnet import STEP as FOCUSNET_STEP
from nnunet_ext.training.phases import POLY, TrainingPhase
from nnunet_ext.training.recipe import ADAM, DICE_FOCAL, RMSPROP, SGD, TrainingRecipe
from nnunet_ext.training.schedule import TrainingSchedule

if TYPE_CHECKING:
    from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner

#: RMSprop for 150 epochs, then SGD for 50, as the paper has it.
ANATOMYNET_PHASES = (
    TrainingPhase(150, RMSPROP, initial_lr=5e-4),
    TrainingPhase(50, SGD, initial_lr=1e-4, momentum=0.9),
)
#: 30,000 iterations, in epochs of nnU-Net's 250.
DEEPLAB_PHASES = (TrainingPhase(120, SGD, initial_lr=0.007, momentum=0.9, weight_decay=4e-5, decay=POLY),)
DEEPLAB_BATCH_SIZE = 16
#: Weight of an organ's pixel in DeepLabv3+'s cross entropy, twice the cascade's. Whole slices show less of the organs.
DEEPLAB_ORGAN_WEIGHT = 10.0
FOCUSNET_PHASES = (
    TrainingPhase(600, SGD, 0.1, momentum=0.9, weight_decay=5e-4, milestones=(200, 400), part=SEGMENTATION),
    TrainingPhase(300, ADAM, 4e-4, part=LOCALISATION),
    TrainingPhase(300, ADAM, 2e-4, part=CROPS),
)
#: Weight of an organ's voxel in FocusNet's focal loss. Of a head, organs are one voxel in a hundred to a thousand. With a
#: weight of 1, its first hundred steps left every organ to the background.
FOCUSNET_ORGAN_WEIGHT = 50.0
#: Share of the cases that a fold of nnU-Net's cross-validation trains on.
TRAINED_SHARE = 0.8


def plan_rivals(
    planner: CascadeOARPlanner,
    spacing_mm: np.ndarray,
    largest_body: np.ndarray,
    forward: Sequence[int],
    cases: Mapping[str, Mapping[int, roi.OrganExtent]],
) -> dict[str, dict]:
    """Name -> entries of the other groups' networks that can be trained on these cases.

    Args:
        planner: Gives width and schedule, `rival_width` and `rival_schedule`.
        spacing_mm: Of the whole-volume grid, in plan axes.
        largest_body: In voxels of that grid.
        cases: Case -> extents of its organs, plan axes.
        forward: The plan's `transpose_forward`.
    """
    planned = {ANATOMYNET: _anatomynet(planner, largest_body)}
    planned[FOCUSNET] = _focusnet(planner, spacing_mm, largest_body, cases)
    if (problem := _no_slices(forward) or library_problem()) is not None:
        print(f"{DEEPLAB} is left out: {problem}")
    else:
        planned[DEEPLAB] = _deeplab(planner, largest_body)
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
        **_training(planner, ANATOMYNET_PHASES, **_passes(planner, batch_size=1)),
        "deep_supervision": False,
        "recipe": dict(vars(recipe)),
    }


def _focusnet(
    planner: CascadeOARPlanner,
    spacing_mm: np.ndarray,
    largest_body: np.ndarray,
    cases: Mapping[str, Mapping[int, roi.OrganExtent]],
) -> dict:
    """The paper's: whole volumes, and the optimizers and losses of three parts trained one after the other.

    Ours are nnU-Net's augmentation, the weight of the organs in the focal loss, and 300 epochs for the last part, of which
    no number was found. An organ is small if it fits the paper's crop in every case. Without any, only the first part is
    trained. An epoch is a pass over the cases.
    """
    extents: dict[int, np.ndarray] = {}
    for organs in cases.values():
        for value, organ in organs.items():
            size = np.subtract(organ.upper_mm, organ.lower_mm) / spacing_mm
            extents[value] = np.maximum(extents.get(value, 0), size)
    small = [value for value, size in sorted(extents.items()) if (np.ceil(size - 1e-6) <= FOCUSNET_CROP).all()]
    phases = [phase for phase in FOCUSNET_PHASES if small or phase.part == SEGMENTATION]
    patch = [int(n + -n % step) for n, step in zip(largest_body, FOCUSNET_STEP, strict=True)]
    recipe = TrainingRecipe(
        loss=DICE_FOCAL,
        dice_weight=0.2,
        foreground_weight=FOCUSNET_ORGAN_WEIGHT,
        organ_patches=0.0,
        mirror_left_right=planner.mirrors,
    )
    architecture = _architecture("nnunet_ext.rivals.focusnet.FocusNet", width=planner.rival_width, small_labels=small)
    return {
        **planner.patch_entries(WHOLE_VOLUME, patch, architecture, batch_size=1),
        **_training(planner, phases, **_passes(planner, batch_size=1)),
        "deep_supervision": False,
        "recipe": dict(vars(recipe)),
    }


def _no_slices(forward: Sequence[int]) -> str | None:
    """Why a network that sees axial slices can't be planned. None if it can."""
    if forward[0] == 0:
        return None
    return "its slices are axial, but voxels are longest along another axis than the patient's, by which nnU-Net slices"


def _deeplab(planner: CascadeOARPlanner, largest_body: np.ndarray) -> dict:
    """The paper's: SGD whose learning rate decays polynomially from 0.007.

    Ours are momentum, weight decay and length, as usual for such networks, random weights at first, and whole slices.
    Dice with cross entropy is nnU-Net's, and the weight of the organs in it is ours. The paper's cross entropy alone leaves
    organs of a few voxels to the background. A narrower network has a ResNet-18 as encoder. It sees slices around organs as
    often as the cascade does.
    """
    patch = [int(n + -n % OUTPUT_STRIDE) for n in largest_body[1:]]
    narrow = planner.rival_width < 1
    architecture = _architecture(
        "nnunet_ext.rivals.deeplab.DeepLabV3Plus",
        encoder="resnet18" if narrow else "resnet101",
        decoder_channels=round(256 * planner.rival_width),
    )
    batch_size = max(2, planner.batch_size(patch, architecture, wanted=DEEPLAB_BATCH_SIZE))  # for its BatchNorm
    recipe = TrainingRecipe(foreground_weight=DEEPLAB_ORGAN_WEIGHT, mirror_left_right=planner.mirrors)
    return {
        **planner.patch_entries(WHOLE_VOLUME, patch, architecture, batch_size=batch_size),
        **_training(planner, DEEPLAB_PHASES, iterations=250, val_iterations=50),
        "deep_supervision": False,
        "recipe": dict(vars(recipe)),
    }


def _architecture(name: str, **options: object) -> dict:
    """The plan's `architecture` entry."""
    return {"network_class_name": name, "arch_kwargs": options, "_kw_requires_import": []}


def _training(
    planner: CascadeOARPlanner, phases: Sequence[TrainingPhase], *, iterations: int, val_iterations: int
) -> Mapping:
    """`training` and `phases` of a configuration, at the paper's length or in the epochs of the planner's schedule."""
    total = sum(phase.num_epochs for phase in phases)
    schedule = planner.rival_schedule or TrainingSchedule(total, iterations, val_iterations)
    return {"training": dict(vars(schedule)), "phases": [phase.to_plan() for phase in phases]}


def _passes(planner: CascadeOARPlanner, *, batch_size: int) -> dict[str, int]:
    """Iterations of an epoch that is one pass over the cases of a fold."""
    trained = max(1, round(TRAINED_SHARE * len(planner.dataset)))
    validated = max(1, len(planner.dataset) - trained)
    return {"iterations": max(1, trained // batch_size), "val_iterations": max(1, validated // batch_size)}
