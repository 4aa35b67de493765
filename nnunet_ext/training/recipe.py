"""The recipe of a configuration's training, as the plan's `recipe` entry states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

DICE_CE, DICE, DICE_FOCAL = "dice_ce", "dice", "dice_focal"
ADAMW, ADAM, SGD, RMSPROP = "adamw", "adam", "sgd", "rmsprop"
MEASURED, PLANNED, OFF = "measured", "planned", "off"
AUTO, WORKERS, DEVICE = "auto", "workers", "device"
REFERENCE, ANY = "reference", "any"
NNUNET, LEARNED, BOTH = "nnunet", "learned", "both"
CHOICES = {
    "loss": (DICE_CE, DICE, DICE_FOCAL),
    "optimizer": (ADAMW, ADAM, SGD, RMSPROP),
    "box_jitter": (MEASURED, PLANNED, OFF),
    "augmentation": (AUTO, WORKERS, DEVICE),
    "dropout_spares": (REFERENCE, ANY),
    "low_resolution": (NNUNET, OFF, LEARNED, BOTH),
}
#: Key of a model's `dataset.json`. Its `recipe` is the one that the model was trained with, whatever its plan says.
TRAINED_WITH_KEY = "trained_with"
#: Numbers that are no share.
UNBOUNDED = ("foreground_weight", "dice_weight", "cross_entropy_weight", "skeleton_recall", "cache_mb")


@dataclass(frozen=True)
class TrainingRecipe:
    """The plan's `recipe` entry of a configuration. Keys that are not there take these defaults.

    Which of them were compared, and how that came out, stands in `results/recipes.md`.

    Attributes:
        loss: `dice_ce` is Dice + weighted cross entropy, `dice` is soft Dice alone. `dice_focal` has the focal cross
            entropy with gamma 2.
        skeleton_recall: Weight of the recall of the skeletons of optic nerves and chiasm. See `SkeletonRecallLoss`.
        weights_average: Decay of a moving average over the weights of all iterations, which is validated and kept
            instead of the last weights. 0 is none.
        foreground_weight: Weight of the organs against the background in the cross entropy. An organ of 100 voxels must
            not be cheap to miss.
        optimizer: `adamw`, `adam`, `rmsprop`, or `sgd`, which is nnU-Net's with Nesterov momentum 0.99. A configuration with
            `phases` names optimizers there, and this is not used.
        mirror_left_right: Mirror along the left-right axis with the labels of left and right organs exchanged.
        box_jitter: Movement of the ROI in training, `measured`, `planned` or `off`. `measured` moves the box by the
            errors of the localizer's out-of-fold boxes, if enough of its folds are trained. `planned`, and `measured`
            without these, move it uniformly up to the plan's `jitter_mm`.
        guidance: The segmenter also sees the localizer's label map, one channel per organ, as nnU-Net's cascade does.
            The localizer's folds must then be trained first. No meaning without a previous stage.
        organ_patches: Share of training patches centred on an organ, every organ equally often whatever its size. If
            the ROI is one patch, there is nothing to choose.
        modality_dropout: Probability with which each channel that `dropout_spares` does not spare is blanked in a
            training sample. One model then predicts with and without it.
        dropout_spares: `reference` never blanks the first CT (else the first channel). `any` blanks every channel, but
            one of them at random is left. One model then predicts with any subset of its channels.
        low_resolution: Simulation of low resolution in training. `nnunet` is nnU-Net's, `off` is none. `learned` shows
            samples as thicker slices would, brought back by the data set's learned resampling. `both` has both.
        augmentation: `workers`, `device` or `auto`. Training samples are mirrored, turned, scaled and cut in the workers
            that load them. All else is done there too, or on the training device, in the same way. `auto` takes the
            device if it is a GPU. With guidance it takes the workers, as its transforms only run there.
        cache_mb: Memory for training and validation cases held ready, in MB of 10^6 bytes, for all GPUs together. Cases
            beyond it are read from disk every time, and all of them if 0 or if the loader's processes are not forked.
            The samples are the same either way.
    """

    loss: str = DICE_CE
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    skeleton_recall: float = 0.0
    weights_average: float = 0.0
    foreground_weight: float = 5.0
    optimizer: str = ADAMW
    mirror_left_right: bool = True
    box_jitter: str = MEASURED
    guidance: bool = False
    organ_patches: float = 0.33
    modality_dropout: float = 0.0
    dropout_spares: str = REFERENCE
    low_resolution: str = NNUNET
    augmentation: str = AUTO
    cache_mb: float = 4000.0

    @classmethod
    def from_plan(cls, plan: Mapping | None, *, where: str = "the plan") -> TrainingRecipe:
        """Read the plan's entry.

        Raises:
            ValueError: On an unknown key or a value out of range. A misspelt option would be ignored in silence.
        """
        plan = dict(plan or {})
        known = {f.name: type(f.default) for f in fields(cls)}
        if unknown := sorted(set(plan) - set(known)):
            raise ValueError(f"{where}: 'recipe' has unknown keys {unknown}. Known: {sorted(known)}.")
        for name, value in plan.items():
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{where}: recipe.{name} is {value!r}; it must be one of {', '.join(CHOICES[name])}.")
            if known[name] is bool and not isinstance(value, bool):
                raise ValueError(f"{where}: recipe.{name} is {value!r}; it must be true or false.")
            if known[name] is float:
                highest = float("inf") if name in UNBOUNDED else 1.0
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= highest:
                    raise ValueError(f"{where}: recipe.{name} is {value!r}; it must be a number in [0, {highest:g}].")
        recipe = cls(**plan)
        if recipe.guidance and recipe.augmentation == DEVICE:
            raise ValueError(
                f"{where}: recipe.augmentation is 'device', but the transforms of recipe.guidance run in the workers only. "
                "Set augmentation to 'auto' or 'workers', or guidance to false."
            )
        return recipe
