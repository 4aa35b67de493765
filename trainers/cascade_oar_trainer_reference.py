"""Trainer with the reference study's recipe.

Run by `nnUNetv2_train ID CONFIGURATION FOLD -tr CascadeOARTrainerReference -p CascadeOARPlans`.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.cascade.preprocessor import RESCALED
from nnunet_ext.nnunet_folders import planned
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer
from nnunet_ext.training.recipe import ADAM, DICE, OFF
from nnunet_ext.training.schedule import REFERENCE_KEY, TRAINING_KEY, wind_down_start


class CascadeOARTrainerReference(CascadeOARTrainer):
    """The reference study's recipe, with soft Dice, Adam 2e-4, batch size 1, early stopping, flips and Gaussian noise.

    Its localizer is a plain 3D U-Net, so the localizer is trained without deep supervision whatever the plan says.

    An epoch is a pass over the fold's training cases, if the plan has `reference_training`, as plans of
    `CascadeOARPlanner` do. Else the epochs are those of `training`, as for all trainers.

    The learning rate is constant. So the training ends as soon as patience runs out, without a decay. Flips along the
    left-right axis exchange left and right labels, unless the plan's recipe says `mirror_left_right: false`.
    """

    initial_lr_default = 2e-4
    weight_decay_default = 0.0
    mirror_all_axes = True
    recipe_overrides = MappingProxyType({"loss": DICE, "optimizer": ADAM, "low_resolution": OFF})
    #: The plan's entry of this trainer, else that of all trainers.
    schedule_keys: tuple[str, ...] = (REFERENCE_KEY, TRAINING_KEY)
    #: Variance of the added noise, on z-scores and on intensities from 0 to 1. The study does not say how much it added.
    noise_variance = (0.0, 0.1)
    noise_variance_of_one_range = (0.0, 0.01)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net's signature)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = self.initial_lr_default  # the plan's is for the other recipe
        self.probabilistic_oversampling = True  # of one patch per batch, nnU-Net would centre all or none on an organ
        if planned(plans["configurations"], configuration, "next_stage") is not None:
            self.enable_deep_supervision = False

    def _set_batch_size_and_oversample(self) -> None:
        if self.is_ddp:
            raise ValueError(f"{self.__class__.__name__} has a batch size of 1: train on one GPU, without -num_gpus.")
        super()._set_batch_size_and_oversample()
        self.batch_size = 1

    def learning_rate_factor(self) -> float:
        return 1.0

    def reason_to_stop(self) -> str | None:
        patience = self.schedule.patience_epochs
        if wind_down_start(self.scores(), patience) is not None:
            return f"no better epoch for {patience} epochs"
        return super().reason_to_stop()

    def augmentation(self, *args: Any, **kwargs: Any) -> ComposeTransforms:
        """Flips and Gaussian noise, then nnU-Net's bookkeeping transforms (those of its validation)."""
        keys = ("is_cascaded", "foreground_labels", "regions", "ignore_label")
        scales = kwargs["deep_supervision_scales"] if "deep_supervision_scales" in kwargs else args[2]
        bookkeeping = nnUNetTrainer.get_validation_transforms(scales, **{k: v for k, v in kwargs.items() if k in keys})
        schemes = self.configuration_manager.normalization_schemes
        variance = self.noise_variance_of_one_range if set(schemes) == {RESCALED} else self.noise_variance
        # batchgeneratorsv2 0.3.6 takes what it calls the variance for the standard deviation.
        noise = GaussianNoiseTransform(
            noise_variance=partial(sd_of_random_variance, variance=variance), p_per_channel=1, synchronize_channels=True
        )
        return ComposeTransforms([self.mirror_transform(), noise, *bookkeeping.transforms, *self.modality_dropout()])

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(
        self,
    ) -> tuple[tuple[float, float], bool, np.ndarray | list[int], tuple[int, ...]]:
        """Nothing is rotated or scaled, so the loader reads the final patch size."""
        rotation, _, _, mirror = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        return rotation, False, list(self.configuration_manager.patch_size), mirror


def sd_of_random_variance(image: torch.Tensor, *, variance: tuple[float, float]) -> float:
    """Standard deviation of noise whose variance is drawn uniformly from a range. The image is not looked at."""
    return float(np.sqrt(np.random.uniform(*variance)))
