"""Trainers of the cascade, for both stages and for the whole-volume baseline.

Run by `nnUNetv2_train ID CONFIGURATION FOLD -tr CascadeOARTrainer -p CascadeOARPlans`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from batchgenerators.utilities.file_and_folder_operations import save_json
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.cascade.networks import keep_channels, never_predict
from nnunet_ext.cascade.preprocessor import stored_extents
from nnunet_ext.cascade.roi import RoiRule, find_roi, label_crop_pass_rate, left_out_labels, vote_centre
from nnunet_ext.cascade.roi_dataset import InMemoryDataset, RoiDatasets
from nnunet_ext.files import check_whole, first_line, read_json, write_json, written_whole
from nnunet_ext.labels.pairs import old_plan_warning, plan_pairs
from nnunet_ext.labels.table import LEFT_OUT_KEY
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import BOXES_FILE, check_labels, read_boxes, read_splits
from nnunet_ext.training.augmentation import augment_batch, replace_transforms
from nnunet_ext.training.checkpoints import different_weights, read_checkpoint, size_mb
from nnunet_ext.training.losses import GatheredCrossEntropyLoss
from nnunet_ext.training.mirroring import LeftRightMirrorTransform
from nnunet_ext.training.modality_dropout import ModalityDropoutTransform, optional_channels
from nnunet_ext.training.recipe import ADAM, AUTO, DEVICE, DICE, MEASURED, OFF, SGD, TrainingRecipe
from nnunet_ext.training.schedule import TrainingSchedule, learning_rate_factor, wind_down_epochs, wind_down_start

T = TypeVar("T")
SECONDS_PER_HOUR = 3600.0
STOP_FILE = "STOP"
#: As many as nnU-Net makes.
N_FOLDS = 5
#: With fewer out-of-fold boxes measured, the jitter is the planned one.
LEAST_MEASURED_BOXES = 3


class ScheduledLR:
    """Learning rate scheduler that asks a function for the factor on the initial learning rate at every step."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial_lr: float, factor) -> None:
        self.optimizer, self.initial_lr, self.factor = optimizer, initial_lr, factor

    def step(self, _epoch: int | None = None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_lr * self.factor()


class CascadeOARTrainer(nnUNetTrainer):
    """The recipe for small organs: batch Dice + weighted cross entropy, AdamW with warm-up, left/right-aware mirroring.

    **Recipe.** Loss, optimizer, mirroring, guidance, sampling and modality dropout come from the configuration's `recipe`
    entry in the plan (`nnunet_ext.training.recipe`), so a comparison is an edit of the plan.

    **Schedule.** Epochs, iterations, patience and time budget come from the configuration's `training` entry in the plan
    (`training/schedule.py`). The learning rate warms up over `warmup_iterations`, then decays polynomially over the share
    of the epochs or of the time budget that is used, whichever is larger: a ten-minute and a ten-hour run both end
    annealed. Early stopping does not cut the decay off: when patience runs out, the learning rate falls to zero over
    `wind_down_epochs`, and then the training ends. `checkpoint_final` holds the weights of the best epoch (nnU-Net's EMA
    pseudo Dice). A file named STOP in the fold's folder ends the training after the epoch. All of it is derived from the
    log in the checkpoint, so `--c` continues the same schedule.

    **Running long.** Checkpoints are written every epoch, whole or not at all. Killed at any moment, `--c` goes on from the
    last finished epoch with the learning rates and the time budget of an uninterrupted run (not its random numbers); the
    time of the epoch that was cut off does not count. A training that had ended goes straight to the validation. The time
    budget counts from the start of the first epoch of a run to the end of the last, with everything in between; it ends
    the training after an iteration, that epoch's short validation and the checkpoint. STOP is deleted when the validation
    is done; until then `--c` takes it for an end. Training anew in the same folder renames the checkpoints that are there.
    With several GPUs, rank 0's clock and files decide, and loss and gradients are those of one GPU on the same batch.

    **Segmenter.** A configuration with a previous stage trains on the ROI (`cascade/roi_dataset.py`): in training around
    the reference organs, moved about by the localizer's measured errors or as planned; in the final validation around the
    localizer's out-of-fold label map, end to end. The network sees the image channels only, unless the recipe asks for
    guidance. `validation/label_crop_pass_rate.json` says for every case which organs placed the box, which share of the
    organ voxels it holds, and which cases the localizer missed.
    Organs that the plan leaves out of a crop are background to it: never predicted, not scored, and named in the model's
    `dataset.json`, for `nnunet_ext predict` and `evaluate`.

    **Left and right.** Axes are mirrored in training only along the patient's left-right axis, with the labels of the
    plan's `left_right_pairs` exchanged, and not at all where its recipe says `mirror_left_right: false`. nnU-Net's
    predictor, which can't exchange channels, is told not to mirror.
    """

    initial_lr_default = 1e-3
    weight_decay_default = 3e-5
    warmup_iterations = 30
    #: What this trainer sets whatever the plan's recipe says.
    recipe_overrides: Mapping[str, object] = MappingProxyType({})
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
        check_labels(dataset_json.get("labels"), Path(f"dataset.json of {plans['dataset_name']}"))
        super().__init__(plans, configuration, fold, dataset_json, device)
        plan = self.configuration_manager.configuration
        self.schedule = TrainingSchedule.from_plan(plan.get("training"), where=f"configuration '{configuration}'")
        recipe = TrainingRecipe.from_plan(plan.get("recipe"), where=f"configuration '{configuration}'")
        self.recipe = replace(recipe, **self.recipe_overrides)
        self.num_epochs = self.schedule.num_epochs
        self.num_iterations_per_epoch = self.schedule.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.schedule.val_iterations_per_epoch
        self.initial_lr = self.schedule.initial_lr or self.initial_lr_default
        self.weight_decay = self.weight_decay_default
        self.enable_deep_supervision = bool(plan.get("deep_supervision", True))
        self.save_every = 1  # a killed run loses at most the epoch it was in
        self.iterations_this_epoch = 0
        self.last_epoch_end: float | None = None  # of this run
        self.left_right_axis = int(self.plans_manager.plans["left_right_axis"])
        plans_labels = self.plans_manager.plans, dataset_json["labels"]
        self.left_right_pairs = pair_values(plan_pairs(*plans_labels), dataset_json["labels"])
        if self.recipe.mirror_left_right and (warning := old_plan_warning(*plans_labels)):
            self.print_to_log_file(f"WARNING, left and right: {warning}")
        self.oversample_foreground_percent = self.recipe.organ_patches
        # Of one patch per batch, nnU-Net would centre all or none on an organ.
        self.probabilistic_oversampling = self.configuration_manager.batch_size == 1
        self.left_out = left_out_labels(plan)
        if self.left_out:
            names = [name for name, value in dataset_json["labels"].items() if value in self.left_out]
            self.dataset_json = {**dataset_json, LEFT_OUT_KEY: names}  # nnU-Net copies it beside model and predictions
        #: Applied in `train_step`, where the loader's workers do not augment; set by `get_training_transforms`.
        self.device_transforms: BasicTransform | None = None
        self.is_segmenter = self.is_cascaded
        if self.is_segmenter:
            # nnU-Net would append the previous stage's labels to the input; see `build_network_architecture`.
            self.is_cascaded = self.recipe.guidance
            if self._roi_is_one_patch():
                self.oversample_foreground_percent = 0.0
            previous = self.configuration_manager.previous_stage_name
            next_stage = self.plans_manager.get_configuration(previous).next_stage_names[0]
            # All segmenter configurations share their data, so they share the localizer's label maps.
            self.folder_with_segs_from_previous_stage = str(
                Path(self.folder_with_segs_from_previous_stage).with_name(next_stage)
            )

    def _roi_is_one_patch(self) -> bool:
        c = self.configuration_manager
        rule = RoiRule.from_plan(c.configuration["roi"])
        return all(n * mm >= size - mm / 2 for n, mm, size in zip(c.patch_size, c.spacing, rule.size_mm, strict=True))

    # --- network, loss, optimizer ------------------------------------------------------------------------------------

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The plan's network; for a segmenter without guidance it ignores the channels nnU-Net adds for a previous stage."""
        guided = TrainingRecipe.from_plan(configuration_manager.configuration.get("recipe")).guidance
        drop = configuration_manager.previous_stage_name is not None and not guided
        n_image_channels = num_input_channels - (num_output_channels - 1) * drop
        network = get_network_from_plans(
            configuration_manager.network_arch_class_name,
            configuration_manager.network_arch_init_kwargs,
            configuration_manager.network_arch_init_kwargs_req_import,
            n_image_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
        if drop:
            network.register_forward_pre_hook(keep_channels(n_image_channels))
        if left_out := left_out_labels(configuration_manager.configuration):
            network.register_forward_hook(never_predict(left_out))
        return network

    def _build_loss(self) -> nn.Module:
        """nnU-Net's Dice + cross entropy, the organs weighted in the cross entropy; or Dice alone, as the recipe says."""
        loss = super()._build_loss()
        inner = loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss
        if isinstance(inner, DC_and_CE_loss):
            weight = torch.full((self.label_manager.num_segmentation_heads,), float(self.recipe.foreground_weight))
            weight[0] = 1.0
            ignore = (
                {} if self.label_manager.ignore_label is None else {"ignore_index": self.label_manager.ignore_label}
            )
            cls = GatheredCrossEntropyLoss if self.is_ddp and not ignore else RobustCrossEntropyLoss
            inner.ce = cls(weight=weight.to(self.device), **ignore)
            inner.weight_ce = 0 if self.recipe.loss == DICE else 1
        return loss

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, ScheduledLR]:
        """The recipe's optimizer; `sgd` with nnU-Net's momentum."""
        options = {"lr": self.initial_lr, "weight_decay": self.weight_decay}
        if self.recipe.optimizer == SGD:
            optimizer = torch.optim.SGD(self.network.parameters(), momentum=0.99, nesterov=True, **options)
        else:
            cls = torch.optim.Adam if self.recipe.optimizer == ADAM else torch.optim.AdamW
            optimizer = cls(self.network.parameters(), **options)
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

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split. Its file is written whole, for both stages may start, or be killed, at the same time.

        Raises:
            FileNotFoundError: If no case is preprocessed.
            ValueError: If there are too few cases to make splits of, or `splits_final.json` is not what it should be.
        """
        cases = self._preprocessed_cases(self.configuration_name)
        file = Path(self.preprocessed_dataset_folder_base, "splits_final.json")
        if self.fold != "all":
            if not (file.exists() or file.is_symlink()):
                if len(cases) < N_FOLDS:
                    raise ValueError(
                        f"{N_FOLDS} folds need at least {N_FOLDS} cases, there are {len(cases)}: pass fold all, or write "
                        f'{file.name}, a list of {{"train": [cases], "val": [cases]}}, into {file.parent}'
                    )
                write_json(
                    generate_crossval_split(cases, seed=12345, n_splits=N_FOLDS), file, flush=True
                )  # as nnU-Net does
            self._check_split(read_splits(file), cases, file)
        return super().do_split()

    def _preprocessed_cases(self, configuration: str) -> list[str]:
        """The cases that are preprocessed for a configuration, sorted.

        Raises:
            FileNotFoundError: If there is none; with the command that preprocesses them.
        """
        identifier = self.plans_manager.get_configuration(configuration).data_identifier
        folder = Path(self.preprocessed_dataset_folder_base, identifier)
        cases = infer_dataset_class(str(folder)).get_identifiers(str(folder)) if _has_data(folder) else ()
        if not cases:
            raise FileNotFoundError(
                f"no case is preprocessed for {configuration} in {folder}; first: {self._preprocess(configuration)}"
            )
        return sorted(cases)

    def _preprocess(self, configuration: str) -> str:
        """The command that preprocesses a configuration's data, which several may share."""
        plans = self.plans_manager.plans_name
        shared = self.plans_manager.get_configuration(configuration).data_identifier.removeprefix(f"{plans}_")
        number = convert_dataset_name_to_id(self.plans_manager.dataset_name)  # this command takes no name
        return f"nnUNetv2_preprocess -d {number} -plans_name {plans} -c {shared}"

    def _check_split(self, splits: Sequence[Mapping[str, Sequence[str]]], cases: Sequence[str], file: Path) -> None:
        """Refuse a split of this fold that cannot be trained and validated with the cases that are preprocessed.

        Raises:
            ValueError: Naming file, fold, case and remedy.
        """
        where = f"{file}: fold {self.fold}"
        if self.fold < 0 or not splits:
            raise ValueError(f"{where} is not there: it holds {len(splits)} splits, counted from 0")
        if self.fold >= len(splits):  # nnU-Net draws a split, as its documentation says
            return
        train, val = (splits[self.fold][part] for part in ("train", "val"))
        for part, names in (("train", train), ("val", val)):
            if not names:
                raise ValueError(
                    f"{where} has no case in '{part}'; list at least one, or pass fold all to train on all cases"
                )
            if unknown := sorted(set(names) - set(cases)):
                raise ValueError(
                    f"{where} names {_listed(unknown)} in '{part}', not among the {len(cases)} preprocessed cases; take it "
                    f"out of the file, or preprocess it: {self._preprocess(self.configuration_name)}"
                )
        if both := sorted(set(train) & set(val)):
            raise ValueError(
                f"{where} has {_listed(both)} both in 'train' and in 'val', so its scores would say nothing about new ones; "
                "keep each case once, or pass fold all to train on all cases"
            )
        if twice := sorted({case for case in val if val.count(case) > 1}):
            raise ValueError(f"{where} names {_listed(twice)} twice in 'val'; keep it once")

    def check_before_training(self) -> None:
        """Refuse, before hours of training, what would end in an error after them; say what is odd about the split.

        Raises:
            FileNotFoundError: If preprocessed data are missing, or those of the next stage, for which this one is validated.
            ValueError: See `do_split`.
        """
        train, val = self.do_split()
        if self.fold != "all":
            folds = len(read_splits(Path(self.preprocessed_dataset_folder_base, "splits_final.json")))
            if self.fold >= folds:
                self.print_to_log_file(
                    f"WARNING: splits_final.json has the folds 0 to {folds - 1}. Fold {self.fold} is none of them: nnU-Net "
                    "draws 80 % of the cases at random for it, so its scores do not belong to the cross-validation."
                )
            if unused := sorted(set(self._preprocessed_cases(self.configuration_name)) - {*train, *val}):
                self.print_to_log_file(
                    f"WARNING: {_listed(unused)} of {len(train) + len(val) + len(unused)} cases are in no list of fold "
                    f"{self.fold} in splits_final.json: neither trained on nor validated."
                )
        folder = Path(self.preprocessed_dataset_folder)
        endings = (".b2nd", "_seg.b2nd", ".pkl") if any(folder.glob("*.b2nd")) else (".npz", ".pkl")
        if lacking := [
            f"{case}{end}" for case in {*train, *val} for end in endings if not (folder / f"{case}{end}").is_file()
        ]:
            raise FileNotFoundError(
                f"the preprocessed data are not whole: {_listed(sorted(lacking))} is missing in {folder}; again: "
                f"{self._preprocess(self.configuration_name)}"
            )
        self._check_next_stages(val)
        references = Path(self.preprocessed_dataset_folder_base, "gt_segmentations")
        ending = self.dataset_json["file_ending"]
        if lost := sorted(case for case in val if not (references / f"{case}{ending}").is_file()):
            self.print_to_log_file(
                f"WARNING: the validation at the end will fail, for {references} lacks {_listed(lost)} ({ending}). Copy "
                "labelsTr of the raw data set there before the training ends."
            )

    def _check_next_stages(self, val: Sequence[str]) -> None:
        """The localizer's validation writes label maps for the next stage, on the grid of its preprocessed cases."""
        for stage in self.configuration_manager.next_stage_names or ():
            if lost := sorted(set(val) - set(self._preprocessed_cases(stage))):
                raise FileNotFoundError(
                    f"{_listed(lost)} is not preprocessed for {stage}, for which {self.configuration_name} is validated; "
                    f"first: {self._preprocess(stage)}"
                )

    def _set_batch_size_and_oversample(self) -> None:
        if self.is_ddp:
            batch_size, n_gpus = self.configuration_manager.batch_size, dist.get_world_size()
            if batch_size % n_gpus:
                raise ValueError(
                    f"configuration '{self.configuration_name}': {n_gpus} GPUs can't share a batch of {batch_size} evenly. "
                    f"Change -num_gpus, or batch_size in {self.plans_manager.plans_name}.json."
                )
        super()._set_batch_size_and_oversample()

    def initialize(self) -> None:
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"there is no GPU that torch can use; add -device cpu: {self._command()} -device cpu")
        super().initialize()
        if self.is_segmenter:
            self.dataset_class = self._roi_datasets(from_localizer=False)
            if self.recipe.guidance:
                train, val = self.do_split()
                self.folder_with_segs_from_previous_stage = str(self._localizer_maps([*train, *val], for_guidance=True))
        elif self.configuration_manager.next_stage_names:
            self.dataset_class = InMemoryDataset

    def get_tr_and_val_datasets(self):
        """nnU-Net's, with as many cases held in memory as the recipe allows: the localizer's whole, the segmenter's ROIs."""
        datasets = super().get_tr_and_val_datasets()
        left_bytes = self.recipe.cache_mb * 1e6
        for dataset in datasets:
            if isinstance(dataset, InMemoryDataset):
                left_bytes -= dataset.hold(left_bytes)
                self.print_to_log_file(f"{len(dataset.held)} of {len(dataset.identifiers)} cases are held in memory.")
        return datasets

    def _roi_datasets(self, *, from_localizer: bool) -> RoiDatasets:
        rule = RoiRule.from_plan(self.configuration_manager.configuration["roi"])
        errors_mm: list[list[float]] = []
        if self.recipe.box_jitter == OFF:
            rule = replace(rule, jitter_mm=0.0)
        elif self.recipe.box_jitter == MEASURED and not from_localizer:
            errors_mm = self._localizer_errors_mm()
        return RoiDatasets(
            rule=rule,
            spacing_mm=tuple(self.configuration_manager.spacing),
            transpose_forward=tuple(self.plans_manager.transpose_forward),
            from_localizer=from_localizer,
            guidance=self.recipe.guidance,
            errors_mm=errors_mm,
        )

    def _localizer_errors_mm(self) -> list[list[float]]:
        """How far the localizer's out-of-fold boxes lie from where the reference places them; empty if too few are known."""
        errors = []
        for file in sorted(self._localizer_folder().glob(f"fold_[0-9]*/validation/{BOXES_FILE}")):
            records = read_boxes(file).values()
            errors += [r["error_mm"] for r in records if r.get("error_mm") is not None and not is_missed(r)]
        if len(errors) < LEAST_MEASURED_BOXES:
            self.print_to_log_file(
                f"The localizer has been validated on {len(errors)} cases so far: the box is moved about as planned."
            )
            return []
        spread = ", ".join(f"{v:.1f}" for v in np.sqrt(np.mean(np.square(errors), axis=0)))
        self.print_to_log_file(
            f"The box is moved about by the localizer's errors in {len(errors)} out-of-fold cases (RMS {spread} mm)."
        )
        return errors

    def _localizer_folder(self) -> Path:
        return Path(self.folder_with_segs_from_previous_stage).parents[1]

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net, with small rotations and without its mirroring; see `get_training_transforms`."""
        _, dummy_2d, _, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        rotation = (-self.max_rotation_rad, self.max_rotation_rad)
        patch_size = self.configuration_manager.patch_size
        initial_patch_size = get_patch_size(patch_size, rotation, rotation, rotation, (0.85, 1.25))
        if dummy_2d:
            initial_patch_size[0] = patch_size[0]
        if self.is_segmenter and self._roi_is_one_patch():
            initial_patch_size = list(patch_size)  # around the ROI there is nothing to turn into the patch
        self.inference_allowed_mirroring_axes = None  # nnU-Net's predictor wants None, not (), for no mirroring
        return rotation, dummy_2d, initial_patch_size, ()

    def get_training_transforms(self, *args, **kwargs) -> BasicTransform | None:
        """What the loader's workers do to a sample: the augmentation, or nothing where `train_step` does it."""
        transforms = self.augmentation(*args, **kwargs)
        if not self.augments_on_device:
            return transforms
        self.device_transforms = transforms
        return None

    @property
    def augments_on_device(self) -> bool:
        if self.recipe.augmentation == AUTO:
            return self.device.type == "cuda" and not self.recipe.guidance
        return self.recipe.augmentation == DEVICE

    def augmentation(self, *args, **kwargs) -> ComposeTransforms:
        """nnU-Net's augmentation, after a left/right-aware mirroring of the whole sample, before modality dropout."""
        transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        if not any(kwargs.get("use_mask_for_norm") or ()):  # else the -1 outside the label map has a meaning
            transforms = replace_transforms(transforms)
        transforms.transforms[:0] = [self.mirror_transform()]
        transforms.transforms += self.modality_dropout()
        return transforms

    def modality_dropout(self) -> list[BasicTransform]:
        if not self.recipe.modality_dropout:
            return []
        names = self.dataset_json["channel_names"]
        channels = optional_channels([names[k] for k in sorted(names, key=int)])
        return [ModalityDropoutTransform(channels, self.recipe.modality_dropout)]

    def mirror_transform(self) -> LeftRightMirrorTransform:
        n_axes = len(self.configuration_manager.patch_size)
        axes = tuple(range(n_axes)) if self.mirror_all_axes else (self.left_right_axis,)
        if not self.recipe.mirror_left_right:
            axes = tuple(a for a in axes if a != self.left_right_axis)
        return LeftRightMirrorTransform(axes, self.left_right_axis, self.left_right_pairs)

    # --- schedule ----------------------------------------------------------------------------------------------------

    def scores(self) -> list[float]:
        """EMA pseudo Dice of every finished epoch."""
        return list(self.logger.get_value("ema_fg_dice", step=None))[: self.current_epoch]

    def from_rank_0(self, value: T) -> T:
        """Rank 0's value on every rank: where clocks and files differ, ranks that disagree would wait for each other."""
        if not self.is_ddp:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def elapsed_h(self) -> float:
        """Hours trained so far, the current epoch and earlier runs included; all ranks must ask at the same time."""
        starts = self.logger.get_value("epoch_start_timestamps", step=None)
        ends = self.logger.get_value("epoch_end_timestamps", step=None)
        seconds = sum(end - start for start, end in zip(starts, ends, strict=False))
        if len(starts) > len(ends):
            seconds += time() - starts[-1]
        hours = seconds / SECONDS_PER_HOUR
        return hours if self.schedule.time_budget_h is None else self.from_rank_0(hours)

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
        if self.from_rank_0(self.current_epoch > 0 and stop_file.is_file()):
            return f"the file {stop_file} asks for it"
        return None

    def run_training(self) -> None:
        """nnU-Net's loop, left when `reason_to_stop` says so; a time budget also ends an epoch early."""
        was_final = self.from_rank_0(self.current_epoch > 0 and self._checkpoint("final").is_file())
        if was_final and (reason := self.reason_to_stop()) is not None:
            if self.local_rank == 0:  # the run may have been killed before it did
                self._checkpoint("latest").unlink(missing_ok=True)
            self.print_to_log_file(f"This training has ended before: {reason}. The validation follows.")
            return
        self.check_before_training()
        self.on_train_start()
        if self.local_rank == 0:
            self._take_over_checkpoints()
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

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        # What lies between two epochs, checkpoints and pictures, counts for the time budget.
        if self.last_epoch_end is not None:
            self.logger.get_value("epoch_start_timestamps", step=None)[-1] = self.last_epoch_end

    def on_train_epoch_start(self) -> None:
        self.iterations_this_epoch = 0
        super().on_train_epoch_start()

    def train_step(self, batch: dict) -> dict:
        self.lr_scheduler.step()
        if self.device_transforms is not None:
            with torch.no_grad():
                batch = augment_batch(batch, self.device_transforms, self.device)
        output = super().train_step(batch)
        self.iterations_this_epoch += 1
        return output

    def on_epoch_end(self) -> None:
        patience_had_run_out = wind_down_start(self.scores(), self.schedule.patience_epochs) is not None
        super().on_epoch_end()
        self.iterations_this_epoch = 0
        self.last_epoch_end = self.logger.get_value("epoch_end_timestamps", step=-1)
        if not patience_had_run_out and wind_down_start(self.scores(), self.schedule.patience_epochs) is not None:
            self.print_to_log_file(
                f"No better epoch for {self.schedule.patience_epochs} epochs: the learning rate falls to zero over the next "
                f"{wind_down_epochs(self.schedule)}."
            )

    def on_train_end(self) -> None:
        """Put the best epoch's weights back, then finish as nnU-Net does."""
        best = self._checkpoint("best")  # written by rank 0 before it said that the training ends
        if best.is_file() and not self.disable_checkpointing:
            try:
                checkpoint = read_checkpoint(best, self.device)
            except ValueError as error:
                raise ValueError(f"{error} {self._without(best)}") from error
            self._bare_network().load_state_dict(checkpoint["network_weights"])
            self.print_to_log_file(f"Best weights are those of epoch {checkpoint['current_epoch'] - 1}.")
        super().on_train_end()
        if self.is_ddp:  # what comes next may look for the files that rank 0 has written
            dist.barrier()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self, name: str) -> Path:
        return Path(self.output_folder, f"checkpoint_{name}.pth")

    def _bare_network(self) -> nn.Module:
        network = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)

    def _command(self) -> str:
        options = "" if self.device.type == "cuda" else f" -device {self.device.type}"
        options += f" -num_gpus {dist.get_world_size()}" if self.is_ddp else ""
        return (
            f"nnUNetv2_train {self.plans_manager.dataset_name} {self.configuration_name} {self.fold} "
            f"-tr {self.__class__.__name__} -p {self.plans_manager.plans_name}{options}"
        )

    def save_checkpoint(self, filename: str) -> None:
        """Write to a temporary name, then rename: a killed run or a full disk leaves the previous checkpoint whole.

        Raises:
            OSError: If it can't be written.
        """
        if self.local_rank != 0:
            return
        try:
            with written_whole(Path(filename), flush=True) as temporary:
                nnUNetTrainer.save_checkpoint(self, str(temporary))
        except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
            needed_mb = size_mb([self._bare_network().state_dict(), self.optimizer.state_dict()])
            free_mb = shutil.disk_usage(Path(filename).parent).free / 1e6
            earlier = any(self._checkpoint(name).is_file() for name in ("final", "latest", "best"))
            state = "The checkpoints there are whole" if earlier else "There is no earlier one"
            raise OSError(
                f"{filename} could not be written ({first_line(error)}). It needs {needed_mb:.1f} MB and {free_mb:.1f} MB "
                f"are free. {state}. Make room, then go on: {self._command()}{' --c' if earlier else ''}"
            ) from error

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """nnU-Net's, with the best score taken from the log: nnU-Net saves `latest` before it compares.

        Raises:
            ValueError: If the file is damaged, not a checkpoint, or of another network; with the commands to go on.
        """
        if not self.was_initialized:
            self.initialize()
        is_file = isinstance(filename_or_checkpoint, str)
        try:
            if is_file:
                check_whole(Path(filename_or_checkpoint))
            super().load_checkpoint(filename_or_checkpoint)
        except Exception as error:
            if is_file:
                self._explain(Path(filename_or_checkpoint), error)
            raise
        self._best_ema = max((score for score in self.scores() if not np.isnan(score)), default=None)

    def _explain(self, file: Path, error: Exception) -> None:
        """Raise a ValueError if a checkpoint could not be loaded because of what is in it."""
        try:
            checkpoint = read_checkpoint(file)
        except ValueError as damage:
            raise ValueError(f"{damage} {self._without(file)}") from error
        if difference := different_weights(self._bare_network().state_dict(), checkpoint["network_weights"]):
            made_by = checkpoint["init_args"]
            plans = made_by["plans"]["plans_name"]
            raise ValueError(
                f"{file} does not fit the network of configuration '{self.configuration_name}' in "
                f"{self.plans_manager.plans_name}: {difference}. It was made with plans "
                f"'{plans}', configuration '{made_by['configuration']}'. Put back the plans it was trained with, or train "
                "anew, without --c."
            ) from error

    def _without(self, file: Path) -> str:
        """How to go on without a checkpoint that can't be used."""
        move = f"Move it away, mv '{file}' '{file}.damaged', then {self._command()}"
        for name in ("final", "latest", "best"):  # the order in which nnU-Net looks
            other = self._checkpoint(name)
            if other == file or not other.is_file():
                continue
            try:
                epoch = read_checkpoint(other)["current_epoch"]
            except ValueError:
                continue
            return f"{move} --c goes on from {other.name}, {epoch} epochs done."
        return f"{move} trains anew: no other checkpoint here can be read."

    def _take_over_checkpoints(self) -> None:
        """Make the checkpoints in the folder those of the training that begins or goes on."""
        folder = Path(self.output_folder)
        for leftover in (*folder.glob(".checkpoint_*.tmp"), *folder.glob("checkpoint_*.tmp")):  # of a killed run
            leftover.unlink()
        if self.disable_checkpointing:
            return
        if self.current_epoch == 0:
            # Else a kill before the first epoch's end would make `--c` go on with that other training.
            old = [file for name in ("final", "latest", "best") if (file := self._checkpoint(name)).is_file()]
            for file in old:
                os.replace(file, f"{file}.old")
            if old:
                names = ", ".join(f"{file.name}.old" for file in old)
                self.print_to_log_file(f"Training anew. The checkpoints of an earlier training are now {names}.")
            return
        if self._checkpoint("final").is_file():  # no longer; `--c` would prefer it to what is trained from now on
            os.replace(self._checkpoint("final"), self._checkpoint("latest"))
        if self.scores()[-1:] == [self._best_ema]:  # the run may have been killed before it wrote this one
            self.current_epoch -= 1  # nnU-Net counts the epoch after saving
            self.save_checkpoint(str(self._checkpoint("best")))
            self.current_epoch += 1

    # --- validation --------------------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation; for the segmenter end to end, with boxes from the localizer's out-of-fold label maps.

        Localizer and segmenter write `validation/label_crop_pass_rate.json`, the localizer with the distance of its box
        from where the reference organs place it. Fold `all` validates on its training cases, and says so; its localizer
        keeps its label maps in its own folder, for those of the other folds are out-of-fold.

        Raises:
            FileNotFoundError: If the localizer has not been validated on these cases yet.
        """
        if self.fold == "all":
            self.print_to_log_file(
                "Fold all: the validation cases are the training cases. The scores say how well the network fits them, not "
                "how good it will be on new ones; for that, train the folds of the cross-validation."
            )
        if self.is_segmenter:
            self._validate_segmenter(save_probabilities)
        elif self.configuration_manager.next_stage_names:
            self._validate_localizer(save_probabilities)
        else:
            super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0:
            Path(self.output_folder, STOP_FILE).unlink(missing_ok=True)

    def _validate_localizer(self, save_probabilities: bool) -> None:
        self._check_next_stages(self.do_split()[1])
        base = self.output_folder_base
        if self.fold == "all":
            self.output_folder_base = self.output_folder
        maps = Path(self.output_folder_base, "predicted_next_stage")
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.output_folder_base = base
        if self.local_rank == 0:
            stage = self.configuration_manager.next_stage_names[0]
            self._report_boxes(self._measure_boxes(stage, maps / stage))

    def _measure_boxes(self, stage: str, maps: Path) -> dict[str, dict]:
        """Per validation case: where the localizer's label map places the box of the next stage, and what it holds."""
        configuration = self.plans_manager.get_configuration(stage)
        rule = RoiRule.from_plan(configuration.configuration["roi"])
        folder = Path(self.preprocessed_dataset_folder_base, configuration.data_identifier)
        _, cases = self.do_split()
        dataset = infer_dataset_class(str(folder))(str(folder), cases, str(maps))
        records = {}
        for case in cases:
            _, seg, localizer_map, properties = dataset.load_case(case)
            localizer_map = localizer_map[:].reshape(seg.shape[1:])
            decision = find_roi(localizer_map, rule, spacing_mm=configuration.spacing)
            centre, _, _ = vote_centre(stored_extents(properties), rule)
            rate = label_crop_pass_rate(seg[0], decision.box)
            records[case] = {
                "localizer_found": sorted(int(v) for v in np.unique(localizer_map) if v > 0),
                "voters": list(decision.voters),
                "outliers": list(decision.outliers),
                "fallback_whole_volume": not decision.found,
                "label_crop_pass_rate": None if np.isnan(rate) else rate,
                "error_mm": np.subtract(decision.centre_mm, centre).tolist() if decision.found and centre else None,
            }
        return records

    def _validate_segmenter(self, save_probabilities: bool) -> None:
        self.folder_with_segs_from_previous_stage = str(self._localizer_maps(self.do_split()[1]))
        datasets = self._roi_datasets(from_localizer=True)
        in_training, self.dataset_class = self.dataset_class, datasets
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.dataset_class = in_training
        records = [datasets.records]
        if self.is_ddp:  # every process validated a part of the cases
            records = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(records, datasets.records)
        if self.local_rank == 0:
            self._report_boxes({case: record for part in records for case, record in part.items()})
            self._report_left_out()

    def _report_left_out(self) -> None:
        """Take the organs left out of the crop out of nnU-Net's summary, where they would count as missed."""
        if not self.left_out:
            return
        folder = Path(self.output_folder, "validation")
        summary = without_labels(read_json(folder / "summary.json"), self.left_out)
        save_json(summary, str(folder / "summary.json"), sort_keys=False)
        save_json(self.dataset_json, str(folder / "dataset.json"), sort_keys=False)
        self.print_to_log_file(
            f"Not in this crop and not scored: {', '.join(self.dataset_json[LEFT_OUT_KEY])}. "
            f"Mean validation Dice of the others: {summary['foreground_mean']['Dice']}"
        )

    def _localizer_maps(self, cases: Sequence[str], *, for_guidance: bool = False) -> Path:
        """Folder with the localizer's label maps of these cases: out-of-fold; for fold `all`, else those of its fold `all`.

        Raises:
            FileNotFoundError: If a map is missing.
        """
        folder = Path(self.folder_with_segs_from_previous_stage)
        missing = [case for case in cases if not (folder / f"{case}.b2nd").is_file()]
        if missing and self.fold == "all":
            fitted = self._localizer_folder() / "fold_all" / "predicted_next_stage" / folder.name
            if all((fitted / f"{case}.b2nd").is_file() for case in cases):
                self.print_to_log_file(
                    "The boxes come from the localizer's fold all, which was trained on these cases."
                )
                return fitted
        if missing:
            previous = self.configuration_manager.previous_stage_name
            fold, name = self.fold, self.__class__.__name__
            dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
            if for_guidance:
                state, folds, repeat = "The recipe asks for guidance. ", "of all folds", ""
            else:
                state, folds, repeat = "The segmenter itself is trained. ", "of this fold", " --val"
            raise FileNotFoundError(
                f"The localizer's label maps of {len(missing)} cases are missing, e.g. '{missing[0]}', in {folder}. {state}"
                f"Train the localizer {folds} first (nnUNetv2_train {dataset} {previous} {fold} -tr {name} -p {plans}), "
                f"then repeat: nnUNetv2_train {dataset} {self.configuration_name} {fold} -tr {name} -p {plans}{repeat}"
            )
        return folder

    def _report_boxes(self, records: dict[str, dict]) -> None:
        """Write and log, per case, how the box was placed and what share of the organs it holds; count the misses."""
        rates = {k: r["label_crop_pass_rate"] for k, r in records.items() if r["label_crop_pass_rate"] is not None}
        missed = sorted(case for case, record in records.items() if is_missed(record))
        for case, record in records.items():
            if record["fallback_whole_volume"]:
                self.print_to_log_file(
                    f"WARNING: {case}: the localizer found no organ, so the ROI is the whole volume."
                )
            elif case in rates and rates[case] < 1.0:
                self.print_to_log_file(f"WARNING: {case}: the ROI holds only {100 * rates[case]:.2f} % of the organs.")
        mean = float(np.mean(list(rates.values()))) if rates else float("nan")
        self.print_to_log_file(f"Label crop pass rate: {100 * mean:.2f} % (mean over {len(rates)} cases)")
        listed = f": {', '.join(missed)}" if missed else ""
        self.print_to_log_file(f"The localizer missed {len(missed)} of {len(records)} cases{listed}.")
        report = {"mean": mean, "missed": missed, "cases": records}
        write_json(report, Path(self.output_folder, "validation", BOXES_FILE), flush=True)


def _has_data(folder: Path) -> bool:
    return any(next(folder.glob(f"*{ending}"), None) for ending in (".b2nd", ".npz"))


def _listed(names: Sequence[str]) -> str:
    """Names for a message, the first of many."""
    return " and ".join(f"'{name}'" for name in names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def without_labels(summary: dict, labels: Sequence[int]) -> dict:
    """nnU-Net's `summary.json` without some labels; the foreground mean is taken over the others, as nnU-Net takes it."""
    gone = {str(label) for label in labels}

    def kept(metrics: Mapping) -> dict:
        return {label: values for label, values in metrics.items() if str(label) not in gone}

    mean = kept(summary["mean"])
    return {
        **summary,
        "metric_per_case": [{**case, "metrics": kept(case["metrics"])} for case in summary["metric_per_case"]],
        "mean": mean,
        "foreground_mean": {m: float(np.mean([v[m] for v in mean.values()])) for m in summary["foreground_mean"]},
    }


def is_missed(record: Mapping) -> bool:
    """Whether the localizer missed a case: no organ found, or a box with less than half of the organs' voxels."""
    rate = record["label_crop_pass_rate"]
    return record["fallback_whole_volume"] or (rate is not None and rate < 0.5)


class CascadeOARTrainerReference(CascadeOARTrainer):
    """The reference study's recipe: soft Dice, Adam 2e-4, batch size 1, early stopping, flips and Gaussian noise.

    Its localizer is a plain 3D U-Net, so the localizer is trained without deep supervision whatever the plan says.

    The learning rate is constant: without a decay there is nothing for early stopping to cut off, so the training simply
    ends when patience runs out. Flips along the left-right axis exchange left and right labels, unless the plan's recipe
    says `mirror_left_right: false`.
    """

    initial_lr_default = 2e-4
    weight_decay_default = 0.0
    mirror_all_axes = True
    recipe_overrides = MappingProxyType({"loss": DICE, "optimizer": ADAM})
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
        self.probabilistic_oversampling = True  # of one patch per batch, nnU-Net would centre all or none on an organ
        if self.configuration_manager.next_stage_names is not None:
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

    def augmentation(self, *args, **kwargs) -> ComposeTransforms:
        """Flips and Gaussian noise, then nnU-Net's bookkeeping transforms (those of its validation)."""
        keys = ("is_cascaded", "foreground_labels", "regions", "ignore_label")
        scales = kwargs["deep_supervision_scales"] if "deep_supervision_scales" in kwargs else args[2]
        bookkeeping = nnUNetTrainer.get_validation_transforms(scales, **{k: v for k, v in kwargs.items() if k in keys})
        noise = GaussianNoiseTransform(noise_variance=self.noise_variance, p_per_channel=1, synchronize_channels=True)
        return ComposeTransforms([self.mirror_transform(), noise, *bookkeeping.transforms, *self.modality_dropout()])

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """Nothing is rotated or scaled, so the loader reads the final patch size."""
        rotation, _, _, mirror = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        return rotation, False, list(self.configuration_manager.patch_size), mirror
