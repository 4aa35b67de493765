"""Trainers of the cascade, for both stages and for the whole-volume baseline.

Run by `nnUNetv2_train ID CONFIGURATION FOLD -tr CascadeOARTrainer -p CascadeOARPlans`.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import time

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.labels import left_right_pairs
from nnunet_ext.mirroring import LeftRightMirrorTransform
from nnunet_ext.networks import keep_channels
from nnunet_ext.roi import RoiRule
from nnunet_ext.roi_dataset import RoiDatasets
from nnunet_ext.schedule import TrainingSchedule, learning_rate_factor, wind_down_epochs, wind_down_start

SECONDS_PER_HOUR = 3600.0
STOP_FILE = "STOP"


class ScheduledLR:
    """Learning rate scheduler that asks a function for the factor on the initial learning rate at every step."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial_lr: float, factor) -> None:
        self.optimizer, self.initial_lr, self.factor = optimizer, initial_lr, factor

    def step(self, _epoch: int | None = None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_lr * self.factor()


class CascadeOARTrainer(nnUNetTrainer):
    """The recipe for small organs: batch Dice + weighted cross entropy, AdamW with warm-up, left/right-aware mirroring.

    **Schedule.** Epochs, iterations, patience and time budget come from the configuration's `training` entry in the plan
    (`nnunet_ext.schedule`). The learning rate warms up over `warmup_iterations`, then decays polynomially over the share
    of the epochs or of the time budget that is used, whichever is larger: a ten-minute and a ten-hour run both end
    annealed. Early stopping does not cut the decay off: when patience runs out, the learning rate falls to zero over
    `wind_down_epochs`, and then the training ends. `checkpoint_final` holds the weights of the best epoch (nnU-Net's EMA
    pseudo Dice). A file named STOP in the fold's folder ends the training after the epoch. All of it is derived from the
    log in the checkpoint, so `--c` continues the same schedule.

    **Segmenter.** A configuration with a previous stage trains on the ROI (`nnunet_ext.roi_dataset`): in training around
    the reference organs with jitter, in the final validation around the localizer's out-of-fold label map, end to end.
    The network sees the image channels only. `validation/label_crop_pass_rate.json` says for every case which organs
    placed the box and which share of the organ voxels it holds.

    **Left and right.** Axes are mirrored in training only along the patient's left-right axis, with the labels exchanged;
    nnU-Net's predictor, which can't exchange channels, is told not to mirror.
    """

    initial_lr_default = 1e-3
    weight_decay_default = 3e-5
    warmup_iterations = 30
    #: Weight of the organs against the background in the cross entropy: an organ of 100 voxels must not be cheap to miss.
    foreground_weight = 5.0
    #: A planning CT is never far from upright; 180 degrees, nnU-Net's choice for anisotropic patches, swaps left and right.
    max_rotation_rad = 15.0 / 180.0 * np.pi
    #: Axes mirrored in training besides the left-right axis, as positions in the plan's axes.
    mirror_all_axes = False

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net's signature)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        plan = self.configuration_manager.configuration
        self.schedule = TrainingSchedule.from_plan(plan.get("training"), where=f"configuration '{configuration}'")
        self.num_epochs = self.schedule.num_epochs
        self.num_iterations_per_epoch = self.schedule.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.schedule.val_iterations_per_epoch
        self.initial_lr = self.schedule.initial_lr or self.initial_lr_default
        self.weight_decay = self.weight_decay_default
        self.enable_deep_supervision = bool(plan.get("deep_supervision", True))
        self.save_every = 1  # a killed run loses at most the epoch it was in
        self.iterations_this_epoch = 0
        self.left_right_axis = int(self.plans_manager.plans["left_right_axis"])
        self.left_right_pairs = left_right_pairs(dataset_json["labels"])
        self.is_segmenter = self.is_cascaded
        if self.is_segmenter:
            # nnU-Net would append the previous stage's labels to the input; see `build_network_architecture`.
            self.is_cascaded = False
            self.oversample_foreground_percent = 0.0  # the box is the whole patch: nothing to choose
            previous = self.configuration_manager.previous_stage_name
            next_stage = self.plans_manager.get_configuration(previous).next_stage_names[0]
            # All segmenter configurations share their data, so they share the localizer's label maps.
            self.folder_with_segs_from_previous_stage = str(
                Path(self.folder_with_segs_from_previous_stage).with_name(next_stage)
            )

    # --- network, loss, optimizer ------------------------------------------------------------------------------------

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The plan's network; for the segmenter without the one-hot channels nnU-Net counts for a previous stage."""
        cascaded = configuration_manager.previous_stage_name is not None
        n_image_channels = num_input_channels - (num_output_channels - 1) * cascaded
        network = get_network_from_plans(
            configuration_manager.network_arch_class_name,
            configuration_manager.network_arch_init_kwargs,
            configuration_manager.network_arch_init_kwargs_req_import,
            n_image_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
        if cascaded:
            network.register_forward_pre_hook(keep_channels(n_image_channels))
        return network

    def _build_loss(self) -> nn.Module:
        """nnU-Net's Dice + cross entropy, the organs weighted by `foreground_weight` in the cross entropy."""
        loss = super()._build_loss()
        inner = loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss
        if isinstance(inner, DC_and_CE_loss):
            weight = torch.full((self.label_manager.num_segmentation_heads,), self.foreground_weight)
            weight[0] = 1.0
            ignore = (
                {} if self.label_manager.ignore_label is None else {"ignore_index": self.label_manager.ignore_label}
            )
            inner.ce = RobustCrossEntropyLoss(weight=weight.to(self.device), **ignore)
        return loss

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, ScheduledLR]:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, ScheduledLR(optimizer, self.initial_lr, self.learning_rate_factor)

    def learning_rate_factor(self) -> float:
        """Factor on the initial learning rate for the next iteration."""
        share_of_epoch = self.iterations_this_epoch / self.num_iterations_per_epoch
        return learning_rate_factor(
            self.schedule,
            epoch=self.current_epoch + share_of_epoch,
            elapsed_h=self.elapsed_h(),
            scores=self.scores(),
            iteration=self.current_epoch * self.num_iterations_per_epoch + self.iterations_this_epoch,
            warmup_iterations=self.warmup_iterations,
        )

    # --- data --------------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        super().initialize()
        if self.is_segmenter:
            self.dataset_class = self._roi_datasets(from_localizer=False)

    def _roi_datasets(self, *, from_localizer: bool) -> RoiDatasets:
        return RoiDatasets(
            rule=RoiRule.from_plan(self.configuration_manager.configuration["roi"]),
            spacing_mm=tuple(self.configuration_manager.spacing),
            transpose_forward=tuple(self.plans_manager.transpose_forward),
            from_localizer=from_localizer,
        )

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net, with small rotations and without its mirroring; see `get_training_transforms`."""
        _, dummy_2d, _, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        rotation = (-self.max_rotation_rad, self.max_rotation_rad)
        patch_size = self.configuration_manager.patch_size
        initial_patch_size = get_patch_size(patch_size, rotation, rotation, rotation, (0.85, 1.25))
        if dummy_2d:
            initial_patch_size[0] = patch_size[0]
        self.inference_allowed_mirroring_axes = None  # nnU-Net's predictor wants None, not (), for no mirroring
        return rotation, dummy_2d, initial_patch_size, ()

    def get_training_transforms(self, *args, **kwargs) -> BasicTransform:
        """nnU-Net's augmentation, after a left/right-aware mirroring of the whole sample."""
        transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        transforms.transforms.insert(0, self.mirror_transform())
        return transforms

    def mirror_transform(self) -> LeftRightMirrorTransform:
        n_axes = len(self.configuration_manager.patch_size)
        axes = tuple(range(n_axes)) if self.mirror_all_axes else (self.left_right_axis,)
        return LeftRightMirrorTransform(axes, self.left_right_axis, self.left_right_pairs)

    # --- schedule ----------------------------------------------------------------------------------------------------

    def scores(self) -> list[float]:
        """EMA pseudo Dice of every finished epoch."""
        return list(self.logger.get_value("ema_fg_dice", step=None))[: self.current_epoch]

    def elapsed_h(self) -> float:
        """Hours spent in epochs so far, the current one and those of earlier runs included."""
        starts = self.logger.get_value("epoch_start_timestamps", step=None)
        ends = self.logger.get_value("epoch_end_timestamps", step=None)
        seconds = sum(end - start for start, end in zip(starts, ends, strict=False))
        if len(starts) > len(ends):
            seconds += time() - starts[-1]
        return seconds / SECONDS_PER_HOUR

    def over_budget(self) -> bool:
        budget_h = self.schedule.time_budget_h
        return budget_h is not None and self.elapsed_h() >= budget_h

    def reason_to_stop(self) -> str | None:
        """Why no further epoch is trained, or None."""
        if self.current_epoch >= self.num_epochs:
            return f"all {self.num_epochs} epochs are done"
        if self.over_budget():
            return f"the time budget of {self.schedule.time_budget_h:g} h is used"
        start = wind_down_start(self.scores(), self.schedule.patience_epochs)
        if start is not None and self.current_epoch >= start + wind_down_epochs(self.schedule):
            return f"no better epoch for {self.schedule.patience_epochs} epochs, and the wind-down is over"
        stop_file = Path(self.output_folder, STOP_FILE)
        if stop_file.is_file():
            stop_file.unlink()
            return f"a file named {STOP_FILE} asked for it"
        return None

    def run_training(self) -> None:
        """nnU-Net's loop, left when `reason_to_stop` says so; a time budget also ends an epoch early."""
        self.on_train_start()
        while (reason := self.reason_to_stop()) is None:
            self.on_epoch_start()
            self.on_train_epoch_start()
            train_outputs = []
            for _ in range(self.num_iterations_per_epoch):
                train_outputs.append(self.train_step(next(self.dataloader_train)))
                if self.over_budget():
                    break
            self.on_train_epoch_end(train_outputs)
            with torch.no_grad():
                self.on_validation_epoch_start()
                val_outputs = [
                    self.validation_step(next(self.dataloader_val)) for _ in range(self.num_val_iterations_per_epoch)
                ]
                self.on_validation_epoch_end(val_outputs)
            self.on_epoch_end()
        self.print_to_log_file(f"Training ends: {reason}.")
        self.on_train_end()

    def on_train_epoch_start(self) -> None:
        self.iterations_this_epoch = 0
        super().on_train_epoch_start()

    def train_step(self, batch: dict) -> dict:
        self.lr_scheduler.step()
        output = super().train_step(batch)
        self.iterations_this_epoch += 1
        return output

    def on_epoch_end(self) -> None:
        patience_had_run_out = wind_down_start(self.scores(), self.schedule.patience_epochs) is not None
        super().on_epoch_end()
        self.iterations_this_epoch = 0
        if not patience_had_run_out and wind_down_start(self.scores(), self.schedule.patience_epochs) is not None:
            self.print_to_log_file(
                f"No better epoch for {self.schedule.patience_epochs} epochs: the learning rate falls to zero over the next "
                f"{wind_down_epochs(self.schedule)}."
            )

    def on_train_end(self) -> None:
        """Put the best epoch's weights back, then finish as nnU-Net does."""
        best = Path(self.output_folder, "checkpoint_best.pth")
        if best.is_file() and not self.disable_checkpointing:
            checkpoint = torch.load(best, map_location=self.device, weights_only=False)
            network = self.network.module if self.is_ddp else self.network
            getattr(network, "_orig_mod", network).load_state_dict(checkpoint["network_weights"])
            self.print_to_log_file(f"Best weights are those of epoch {checkpoint['current_epoch'] - 1}.")
        super().on_train_end()

    def save_checkpoint(self, filename: str) -> None:
        """Write to a temporary name, then rename: a killed run leaves the previous checkpoint whole."""
        if self.local_rank != 0:
            return
        temporary = Path(f"{filename}.tmp")
        temporary.unlink(missing_ok=True)  # of a killed run
        try:
            super().save_checkpoint(str(temporary))
            if temporary.is_file():  # not where checkpointing is disabled
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, filename)
        finally:
            temporary.unlink(missing_ok=True)

    # --- validation --------------------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation; for the segmenter end to end, with boxes from the localizer's out-of-fold label maps.

        Raises:
            FileNotFoundError: If the localizer has not been validated on these cases yet.
        """
        if not self.is_segmenter:
            super().perform_actual_validation(save_probabilities)
            return
        self._require_localizer_maps()
        datasets = self._roi_datasets(from_localizer=True)
        self.dataset_class = datasets
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.dataset_class = self._roi_datasets(from_localizer=False)
        if self.local_rank == 0:
            self._report_boxes(datasets.records)

    def _require_localizer_maps(self) -> None:
        _, cases = self.do_split()
        folder = Path(self.folder_with_segs_from_previous_stage)
        missing = [case for case in cases if not (folder / f"{case}.b2nd").is_file()]
        if missing:
            previous = self.configuration_manager.previous_stage_name
            fold, name = self.fold, self.__class__.__name__
            dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
            raise FileNotFoundError(
                f"The localizer's label maps of {len(missing)} validation cases are missing, e.g. '{missing[0]}', in "
                f"{folder}. The segmenter itself is trained. Train the localizer's fold first (nnUNetv2_train {dataset} "
                f"{previous} {fold} -tr {name} -p {plans}), then repeat this validation: nnUNetv2_train {dataset} "
                f"{self.configuration_name} {fold} -tr {name} -p {plans} --val"
            )

    def _report_boxes(self, records: dict[str, dict]) -> None:
        """Write and log, per case, how the box was placed and what share of the organs it holds."""
        rates = {k: r["label_crop_pass_rate"] for k, r in records.items() if r["label_crop_pass_rate"] is not None}
        for case, record in records.items():
            if record["fallback_whole_volume"]:
                self.print_to_log_file(
                    f"WARNING: {case}: the localizer found no organ; the whole volume was segmented."
                )
            elif case in rates and rates[case] < 1.0:
                self.print_to_log_file(f"WARNING: {case}: the ROI holds only {100 * rates[case]:.2f} % of the organs.")
        mean = float(np.mean(list(rates.values()))) if rates else float("nan")
        self.print_to_log_file(f"Label crop pass rate: {100 * mean:.2f} % (mean over {len(rates)} cases)")
        save_json(
            {"mean": mean, "cases": records},
            str(Path(self.output_folder, "validation", "label_crop_pass_rate.json")),
        )


class CascadeOARTrainerReference(CascadeOARTrainer):
    """The reference study's recipe: soft Dice, Adam 2e-4, batch size 1, early stopping, flips and Gaussian noise.

    The learning rate is constant: without a decay there is nothing for early stopping to cut off, so the training simply
    ends when patience runs out. Flips along the left-right axis exchange left and right labels.
    """

    initial_lr_default = 2e-4
    mirror_all_axes = True
    #: Variance of the added noise, on normalised intensities.
    noise_variance = (0.0, 0.1)

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

    def _set_batch_size_and_oversample(self) -> None:
        super()._set_batch_size_and_oversample()
        self.batch_size = 1

    def _build_loss(self) -> nn.Module:
        """Soft Dice of every organ; per sample, which at batch size 1 is the whole batch."""
        loss = super()._build_loss()
        inner = loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss
        if isinstance(inner, DC_and_CE_loss):
            inner.weight_ce = 0
        return loss

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, ScheduledLR]:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.initial_lr)
        return optimizer, ScheduledLR(optimizer, self.initial_lr, lambda: 1.0)

    def reason_to_stop(self) -> str | None:
        patience = self.schedule.patience_epochs
        if wind_down_start(self.scores(), patience) is not None:
            return f"no better epoch for {patience} epochs"
        return super().reason_to_stop()

    def get_training_transforms(self, *args, **kwargs) -> BasicTransform:
        """Flips and Gaussian noise, then nnU-Net's bookkeeping transforms (those of its validation)."""
        keys = ("is_cascaded", "foreground_labels", "regions", "ignore_label")
        scales = kwargs["deep_supervision_scales"] if "deep_supervision_scales" in kwargs else args[2]
        bookkeeping = nnUNetTrainer.get_validation_transforms(scales, **{k: v for k, v in kwargs.items() if k in keys})
        noise = GaussianNoiseTransform(noise_variance=self.noise_variance, p_per_channel=1, synchronize_channels=True)
        return ComposeTransforms([self.mirror_transform(), noise, *bookkeeping.transforms])

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """Nothing is rotated or scaled, so the loader reads the final patch size."""
        rotation, _, _, mirror = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        return rotation, False, list(self.configuration_manager.patch_size), mirror
