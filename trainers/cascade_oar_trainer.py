"""Trainer of the cascade, for both stages and for the whole-volume baseline.

Run by `nnUNetv2_train ID CONFIGURATION FOLD -tr CascadeOARTrainer -p CascadeOARPlans`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from batchgenerators.utilities.file_and_folder_operations import save_json
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.cascade.box_jitter import JITTER_FILE, BoxJitter, contradiction
from nnunet_ext.cascade.boxes import box_report, measure_box, measured_folds
from nnunet_ext.cascade.building import build_network
from nnunet_ext.cascade.localizers import check_localizer, stage_of_maps, stages_located_by
from nnunet_ext.cascade.organ_crop_dataset import OrganCropDatasets
from nnunet_ext.cascade.organ_crops import crop_size_of
from nnunet_ext.cascade.preprocessor import stored_extents
from nnunet_ext.cascade.roi import RoiRule, left_out_labels
from nnunet_ext.cascade.roi_dataset import InMemoryDataset, RoiDatasets
from nnunet_ext.cascade.shared_cases import hold_together
from nnunet_ext.cascade.start_checks import check_names, check_plan
from nnunet_ext.cascade.start_model import START_KEY, StartModel, copied_source
from nnunet_ext.files import check_whole, read_json, write_json, written_whole
from nnunet_ext.labels.pairs import old_plan_warning, plan_pairs
from nnunet_ext.labels.table import LEFT_OUT_KEY
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import (
    BOXES_FILE,
    DEVICE_FILE,
    PREPROCESSED_PARTS,
    check_labels,
    dataset_folder,
    read_splits,
)
from nnunet_ext.processes import start_method
from nnunet_ext.training.augmentation import augment_batch, replace_transforms, split_after_the_cut, with_low_resolution
from nnunet_ext.training.checkpoints import (
    checkpoint_file,
    explain,
    go_on_without,
    not_written,
    read_checkpoint,
    remove_leftovers,
    set_aside,
    size_mb,
)
from nnunet_ext.training.checks import check_split, listed, missing_files, odd_split, preprocessed_cases
from nnunet_ext.training.compute_device import device_use
from nnunet_ext.training.job import JITTER, OUT_OF_TIME, TrainingJob, write_progress
from nnunet_ext.training.loading import next_batch
from nnunet_ext.training.losses import PartLoss, weigh_organs
from nnunet_ext.training.mirroring import LeftRightMirrorTransform
from nnunet_ext.training.modality_dropout import ModalityDropoutTransform, optional_channels
from nnunet_ext.training.optimizers import ScheduledLR, WithoutState, make_optimizer
from nnunet_ext.training.phases import PhasedLR, PhasedOptimizer, phases_from_plan
from nnunet_ext.training.recipe import (
    ANY,
    AUTO,
    BOTH,
    DEVICE,
    DICE,
    DICE_FOCAL,
    LEARNED,
    MEASURED,
    NNUNET,
    OFF,
    PLANNED,
    TRAINED_WITH_KEY,
    TrainingRecipe,
)
from nnunet_ext.training.schedule import (
    TRAINING_KEY,
    TrainingSchedule,
    elapsed_h,
    learning_rate_factor,
    progress,
    wind_down_epochs,
    wind_down_start,
)
from nnunet_ext.training.skeleton_recall import SkeletonRecallLoss, thin_labels
from nnunet_ext.training.validation_summary import without_labels
from nnunet_ext.training.weights_average import WeightsAverage

T = TypeVar("T", float, bool)
STOP_FILE = "STOP"
#: Of nnU-Net's log.
EPOCH_STARTS = "epoch_start_timestamps"
#: More epochs than any training has, for nnU-Net's `save_every`.
NEVER = 10**9
#: Time for which the other processes wait for the scores of the final validation.
SCORING_AT_MOST = timedelta(days=1)
#: As many as nnU-Net makes.
N_FOLDS = 5


def shares_statistics(network: nn.Module) -> bool:
    """Whether a network has BatchNorm, whose statistics several GPUs share."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def __getattr__(name: str) -> Any:
    """`CascadeOARTrainerReference`, which copied lookup modules of 0.1.0 look for here. Goes with the next version."""
    if name == "CascadeOARTrainerReference":
        from nnunet_ext.trainers.cascade_oar_trainer_reference import CascadeOARTrainerReference

        return CascadeOARTrainerReference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class CascadeOARTrainer(nnUNetTrainer):
    """The recipe for small organs: batch Dice + weighted cross entropy, AdamW with warm-up, left/right-aware mirroring.

    **Recipe.** Loss, optimizer, mirroring, guidance, sampling, low resolution and modality dropout come from the
    configuration's `recipe` entry in the plan (`nnunet_ext.training.recipe`). So recipes are compared by editing the plan.

    **Schedule.** Epochs, iterations, patience and time budget come from the configuration's `training` entry in the plan
    (`nnunet_ext.training.schedule`). The learning rate warms up over `warmup_iterations`. It then decays polynomially over
    the share of the epochs or of the time budget that is used, whichever is larger. So a ten-minute and a ten-hour run both
    end annealed. When patience runs out, the learning rate falls to zero over `wind_down_epochs`, and then the training
    ends. `checkpoint_final` holds the weights of the best epoch (nnU-Net's EMA pseudo Dice). A file named STOP in the
    fold's folder ends the training after the epoch. All of it is derived from the log in the checkpoint, so `--c` continues
    the same schedule.

    **Running long.** Checkpoints are written whole or not at all, `latest` after the first epoch of a run and then at most
    every five minutes. After a kill, `--c` goes on from there. Learning rates and time budget are those of an
    uninterrupted run, random numbers are not. The time of the epochs that were lost does not count, nor does that of a
    run's first training and validation step, which compile the network. A training that had ended goes straight to the
    validation. The time budget counts from the start of the first epoch of a run to the end of the last, with everything
    in between. It ends the training after an iteration, that epoch's short validation and the checkpoint. STOP is
    deleted when the validation is done. Until then `--c` takes it for an end. Training anew in the same folder renames the
    checkpoints that are there. With several GPUs, rank 0's clock and files decide, and loss and gradients are those of
    one GPU on the same batch.

    **Segmenter.** A configuration with a previous stage trains on the ROI (`nnunet_ext.cascade.roi_dataset`). In
    training the box lies around the reference organs, moved by the localizer's measured errors or as planned. In the
    final validation the localizer's out-of-fold label map places it, end to end. The network sees the image channels
    only, unless the recipe asks for guidance. `validation/label_crop_pass_rate.json` says for every case which organs
    placed the box and which share of the organ voxels it holds. It also names the cases that the localizer missed.
    With one crop per organ (`nnunet_ext.cascade.organ_crop_dataset`), it trains on crops around random organs instead.
    Organs that the plan leaves out of a crop are background to it. They are never predicted and not scored. The model's
    `dataset.json` names them for `nnunet_ext predict` and `evaluate`.

    **From a model.** A configuration with `start_from` begins with the weights of that model (`nnunet_ext finetune`), with
    channels and organs matched by name. The log lists what was taken and left. `--c` goes on from a checkpoint as always.

    **Left and right.** Axes are mirrored in training only along the patient's left-right axis, with the labels of the
    plan's `left_right_pairs` exchanged. They are not mirrored if the recipe says `mirror_left_right: false`. nnU-Net's
    predictor, which can't exchange channels, is told not to mirror.
    """

    initial_lr_default = 1e-3
    weight_decay_default = 3e-5
    warmup_iterations = 30
    #: Shortest time between two `checkpoint_latest`, in s. nnU-Net counts epochs, which on a fast GPU take half a minute.
    latest_every_s = 300.0
    #: Entries of the plan's configuration of which the first that is there is the schedule.
    schedule_keys: tuple[str, ...] = (TRAINING_KEY,)
    #: Entries that replace those of the plan's recipe, each of its field's type.
    recipe_overrides: Mapping[str, Any] = MappingProxyType({})
    #: A planning CT is never far from upright. 180 degrees, nnU-Net's choice for anisotropic patches, swaps left and right.
    max_rotation_rad = 15.0 / 180.0 * np.pi
    #: Axes mirrored in training besides the left-right axis, as positions in the plan's axes.
    mirror_all_axes = False
    # Set by nnU-Net, which has no types.
    device: torch.device
    optimizer: Any
    output_folder_base: str
    is_cascaded: bool
    configuration_manager: ConfigurationManager
    _best_ema: float | None
    folder_with_segs_from_previous_stage: str | None
    dataset_class: type[nnUNetBaseDataset] | RoiDatasets | None

    # --- overrides of nnU-Net, in its order --------------------------------------------------------------------------

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
        self.job = TrainingJob.from_environment()
        self.first_epoch_of_run = 0
        self.has_run = False  # not so with `--val`
        schedule = next((plan[key] for key in self.schedule_keys if plan.get(key)), None)
        self.schedule = TrainingSchedule.from_plan(schedule, where=f"configuration '{configuration}'")
        self.phases = phases_from_plan(plan.get("phases"), where=f"configuration '{configuration}'")
        recipe = TrainingRecipe.from_plan(plan.get("recipe"), where=f"configuration '{configuration}'")
        self.recipe = replace(recipe, **self.recipe_overrides)
        self.num_epochs = self.schedule.num_epochs
        self.num_iterations_per_epoch = self.schedule.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.schedule.val_iterations_per_epoch
        self.initial_lr = self.schedule.initial_lr or self.initial_lr_default
        self.weight_decay = self.weight_decay_default
        self.enable_deep_supervision = bool(plan.get("deep_supervision", True))
        self.iterations_this_epoch = 0
        self.last_epoch_end: float | None = None  # in this run
        self.last_latest_s: float | None = None  # when this run last wrote `checkpoint_latest`
        self.average: WeightsAverage | None = None
        self.part_of_best: str | None = None  # of the network, which the best epoch trained alone
        self.steps_done: set[str] = set()  # kinds of steps of which this run has done the first
        #: Of a patch. A slice has no first axis. -1 is an axis that it has not.
        self.left_right_axis = int(self.plans_manager.plans["left_right_axis"]) - self.n_sliced_axes()
        plans_labels = self.plans_manager.plans, dataset_json["labels"]
        self.left_right_pairs = pair_values(plan_pairs(*plans_labels), dataset_json["labels"])
        if self.recipe.mirror_left_right and (warning := old_plan_warning(*plans_labels)):
            self.print_to_log_file(f"WARNING, left and right: {warning}")
        self.oversample_foreground_percent = self.recipe.organ_patches
        # Of one patch per batch, nnU-Net would centre all or none on an organ.
        self.probabilistic_oversampling = self.configuration_manager.batch_size == 1
        #: Folder of the model that the training begins with, below the preprocessed data. None is random weights.
        self.start_from: str | None = plan.get(START_KEY)
        self.left_out = left_out_labels(plan)
        if self.left_out:
            names = [name for name, value in dataset_json["labels"].items() if value in self.left_out]
            self.dataset_json = {**dataset_json, LEFT_OUT_KEY: names}  # nnU-Net copies it beside model and predictions
        #: Applied in `train_step` if the loader's workers do a part only. Set by `get_training_transforms`.
        self.device_transforms: BasicTransform | None = None
        #: Size in voxels of crops, one per organ. None if patches slide over the ROI or the whole volume.
        self.crop_size = crop_size_of(self.configuration_manager)
        self.is_segmenter = self.is_cascaded
        if self.is_segmenter:
            # nnU-Net would append the previous stage's labels to the input. See `build_network_architecture`.
            self.is_cascaded = self.recipe.guidance
            if self.crop_size is not None:
                if self.recipe.guidance:
                    raise ValueError(
                        f"configuration '{configuration}': the localizer places its crops, which see the images only; set "
                        f"guidance to false in {self.plans_manager.plans_name}.json"
                    )
                # The plan's patch is the window that the final validation and predictions cut the crops from.
                self.configuration_manager = ConfigurationManager({**plan, "patch_size": list(self.crop_size)})
            if self._roi_is_one_patch():
                self.oversample_foreground_percent = 0.0
            where = f"configuration '{configuration}' of {self.plans_manager.plans_name}.json"
            previous = check_localizer(plans["configurations"], plan.get("previous_stage"), where=where)
            # All segmenter configurations share their data, so they share the localizer's label maps.
            stage = stage_of_maps(plans["configurations"], configuration, previous)
            self.folder_with_segs_from_previous_stage = str(self._maps_folder().with_name(stage))
        elif stages := stages_located_by(plans["configurations"], configuration):
            # nnU-Net writes label maps for these after the final validation.
            self.configuration_manager = ConfigurationManager({**plan, "next_stage": stages})

    def initialize(self) -> None:
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"there is no GPU that torch can use; add -device cpu: {self._command()} -device cpu")
        super().initialize()
        if self.is_ddp:
            # DDP would send BatchNorm's buffers round before a forward pass, also in the final validation. A process
            # without a case of its own would be waited for there. SyncBatchNorm keeps them equal anyway.
            self.network.broadcast_buffers = False
        if self.is_segmenter:
            self.dataset_class = self._roi_datasets(self._jitter_to_be_had())
            if self.recipe.guidance:
                train, val = self.do_split()
                self.folder_with_segs_from_previous_stage = str(self._localizer_maps([*train, *val], for_guidance=True))
        elif self.configuration_manager.next_stage_names:
            self.dataset_class = InMemoryDataset
        self._average_weights()

    def _average_weights(self) -> None:
        """Begin the moving average with the network's weights, if the recipe asks for one."""
        decay = self.recipe.weights_average
        self.average = WeightsAverage(self._bare_network(), decay) if decay else None

    def _do_i_compile(self) -> bool:
        """nnU-Net's answer, but no for two kinds of networks.

        BatchNorm that is shared by several GPUs breaks the graph at every layer. A network that cuts crops looks at values.
        """
        shared = self.is_ddp and shares_statistics(self.network)
        return super()._do_i_compile() and not shared and self.crop_size is None

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """See `build_network`, which predictions use without this trainer."""
        return build_network(
            configuration_manager, num_input_channels, num_output_channels, deep_supervision=enable_deep_supervision
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

    def _build_loss(self) -> nn.Module:
        """Of the recipe. A network whose parts are trained alone has losses of its own for them."""
        loss = self._recipes_loss()
        return PartLoss(loss) if any(phase.part for phase in self.phases) else loss

    def _recipes_loss(self) -> nn.Module:
        """nnU-Net's Dice + cross entropy with the organs weighted in the cross entropy, or as the recipe says."""
        loss = super()._build_loss()
        weigh_organs(
            loss,
            self.recipe.foreground_weight,
            n_labels=self.label_manager.num_segmentation_heads,
            ignore_label=self.label_manager.ignore_label,
            dice_weight=self.recipe.dice_weight,
            cross_entropy_weight=0.0 if self.recipe.loss == DICE else self.recipe.cross_entropy_weight,
            gathered=self.is_ddp,
            device=self.device,
            focal=self.recipe.loss == DICE_FOCAL,
        )
        thin = [v for v in thin_labels(self.dataset_json["labels"]) if v not in self.left_out]
        if not (self.recipe.skeleton_recall and thin):
            return loss
        options = {"labels": thin, "weight": self.recipe.skeleton_recall, "gathered": self.is_ddp}
        if isinstance(loss, DeepSupervisionWrapper):
            loss.loss = SkeletonRecallLoss(loss.loss, **options)
            return loss
        return SkeletonRecallLoss(loss, **options)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(
        self,
    ) -> tuple[tuple[float, float], bool, np.ndarray | list[int], tuple[int, ...]]:
        """As nnU-Net, with small rotations and without its mirroring. See `get_training_transforms`."""
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

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer | PhasedOptimizer, ScheduledLR | PhasedLR]:
        """The recipe's optimizer, and the learning rate of the schedule. Or those of the phases in the plan."""
        if self.phases:
            if self.is_ddp and any(phase.part for phase in self.phases):
                raise ValueError(
                    f"configuration '{self.configuration_name}' trains its network in parts, which several GPUs can't "
                    "share: pass -num_gpus 1."
                )
            phased = PhasedOptimizer(self.phases, self._bare_network())
            return phased, PhasedLR(phased, self.progress)
        optimizer = make_optimizer(
            self.recipe.optimizer, self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay
        )
        return optimizer, ScheduledLR(optimizer, self.initial_lr, self.learning_rate_factor)

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split. Its file is written whole, because both stages may start or be killed at the same time.

        Raises:
            FileNotFoundError: If no case is preprocessed.
            ValueError: If there are too few cases to make splits of, or `splits_final.json` is damaged or can't be used.
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
            preprocess = self._preprocess_command(self.configuration_name)
            check_split(read_splits(file), self.fold, cases, file=file, preprocess=preprocess)
        return super().do_split()

    def get_tr_and_val_datasets(self) -> tuple[nnUNetBaseDataset, nnUNetBaseDataset]:
        """nnU-Net's, with as many cases in memory as the recipe allows. Those of the segmenter are held as ROIs.

        Several processes hold them once, in a file that all map into memory.

        None is held if the loader's processes are not forked, because they would not share this process's memory.
        """
        datasets = super().get_tr_and_val_datasets()
        left_bytes = self.recipe.cache_mb * 1e6
        if get_allowed_n_proc_DA() > 0 and (method := start_method()) != "fork":
            self.print_to_log_file(
                f"The loader's processes are started by {method} and share no memory: cases are read from disk."
            )
            return datasets
        for dataset in datasets:
            if isinstance(dataset, InMemoryDataset):
                n_bytes, problem = (
                    hold_together(dataset, left_bytes) if self.is_ddp else (dataset.hold(left_bytes), None)
                )
                left_bytes -= n_bytes
                if problem is not None:
                    self.print_to_log_file(f"WARNING: {problem}. TMPDIR may name another folder.")
                self.print_to_log_file(f"{len(dataset.held)} of {len(dataset.identifiers)} cases are held in memory.")
        return datasets

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """The augmentation for the loader's workers, without that part of it which `train_step` does."""
        transforms = self.augmentation(*args, **kwargs)
        if self.augments_on_device:
            transforms, self.device_transforms = split_after_the_cut(transforms)
        return transforms

    def _part_in_training(self) -> str | None:
        """Part of the network that the present phase trains alone. None is all of it."""
        return self.phases[self.optimizer.number].part if self.phases else None

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """nnU-Net's, which knows networks with a decoder that can be told so. Those without have one output."""
        if hasattr(getattr(self._bare_network(), "decoder", None), "deep_supervision"):
            super().set_deep_supervision_enabled(enabled)

    def on_train_start(self) -> None:
        """nnU-Net's. The `dataset.json` that it writes to the model's folder also says what the model is trained with."""
        if not self.was_initialized:
            self.initialize()
        self.dataset_json = {**self.dataset_json, TRAINED_WITH_KEY: self.trained_with()}
        super().on_train_start()
        if self.local_rank == 0:
            self._copy_learned_resampling()

    def on_train_end(self) -> None:
        """Put the best epoch's weights back, then finish as nnU-Net does."""
        if self.is_ddp:  # rank 0 may still write the file that all read
            dist.barrier()
        best = self._checkpoint("best")
        if best.is_file() and not self.disable_checkpointing:
            try:
                checkpoint = read_checkpoint(best)  # on the CPU: a GPU may have no room for it
            except ValueError as error:
                go_on = go_on_without(best, folder=Path(self.output_folder), command=self._command())
                raise ValueError(f"{error} {go_on}") from error
            self._bare_network().load_state_dict(checkpoint["network_weights"])
            self.print_to_log_file(f"Best weights are those of epoch {checkpoint['current_epoch'] - 1}.")
        if self.local_rank == 0:
            use = device_use(self.device, n_devices=dist.get_world_size() if self.is_ddp else 1)
            write_json(use, Path(self.output_folder, DEVICE_FILE))
        super().on_train_end()
        if self.is_ddp:  # what comes next may look for the files that rank 0 has written
            dist.barrier()

    def on_train_epoch_start(self) -> None:
        self.iterations_this_epoch = 0
        if self.average is not None:
            self.average.take_out()
        super().on_train_epoch_start()

    def train_step(self, batch: dict) -> dict:
        self.lr_scheduler.step()
        if (part := self._part_in_training()) != self.part_of_best:
            # Else the last part would be thrown away wherever an earlier one had the better pseudo Dice.
            self._best_ema, self.optimizer.first_epoch, self.part_of_best = None, self.current_epoch, part
        if self.device_transforms is not None:
            with torch.no_grad():
                batch = augment_batch(batch, self.device_transforms, self.device)
        start_s = time()
        try:
            output = super().train_step(batch)
        except torch.OutOfMemoryError as error:
            raise ValueError(self._too_little_memory()) from error
        self.first_step_done("train", time() - start_s)
        if self.average is not None:
            self.average.update()
        self.iterations_this_epoch += 1
        return output

    def on_validation_epoch_start(self) -> None:
        """nnU-Net's. What is validated and written after it is the average of the weights, if the recipe asks for one."""
        super().on_validation_epoch_start()
        if self.average is not None:
            self.average.put_in()

    def validation_step(self, batch: dict) -> dict:
        start_s = time()
        output = super().validation_step(batch)
        self.first_step_done("validation", time() - start_s)
        return output

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        # What lies between two epochs, checkpoints and pictures, counts for the time budget.
        if self.last_epoch_end is not None:
            self.logger.get_value(EPOCH_STARTS, step=None)[-1] = self.last_epoch_end

    def on_epoch_end(self) -> None:
        due = self.last_latest_s is None or time() - self.last_latest_s >= self.latest_every_s
        self.save_every = 1 if due else NEVER
        patience_had_run_out = wind_down_start(self.scores(), self.schedule.patience_epochs) is not None
        super().on_epoch_end()
        self._write_progress()
        self.iterations_this_epoch = 0
        self.last_epoch_end = self.logger.get_value("epoch_end_timestamps", step=-1)
        if not patience_had_run_out and wind_down_start(self.scores(), self.schedule.patience_epochs) is not None:
            self.print_to_log_file(
                f"No better epoch for {self.schedule.patience_epochs} epochs: the learning rate falls to zero over the next "
                f"{wind_down_epochs(self.schedule)}."
            )

    def save_checkpoint(self, filename: str) -> None:
        """Write to a temporary name, then rename, so that a killed run or a full disk leaves the previous one whole.

        `checkpoint_best` has no state of the optimizer. A training that goes on from it begins its moments anew.

        Raises:
            OSError: If it can't be written.
        """
        if self.local_rank != 0:
            return
        file = Path(filename)
        optimizer = self.optimizer
        if file == self._checkpoint("best"):
            # Training goes on from `latest`. Without the optimizer's state `best` is a third as large.
            self.optimizer = WithoutState(optimizer)
        try:
            with written_whole(file, flush=True) as temporary:
                nnUNetTrainer.save_checkpoint(self, str(temporary))
            if file == self._checkpoint("latest"):
                self.last_latest_s = time()
        except (OSError, RuntimeError) as error:  # torch says RuntimeError if the disk is full
            needed_mb = size_mb([self._bare_network().state_dict(), self.optimizer.state_dict()])
            raise OSError(not_written(file, error, needed_mb=needed_mb, command=self._command())) from error
        finally:
            self.optimizer = optimizer

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """nnU-Net's, with the best score taken from the log, because nnU-Net saves `latest` before it compares.

        Raises:
            ValueError: If the file is damaged, not a checkpoint, or of another network, with the commands to go on.
        """
        if not self.was_initialized:
            self.initialize()
        file = Path(filename_or_checkpoint) if isinstance(filename_or_checkpoint, str) else None
        device = self.device
        try:
            if file is not None:
                check_whole(file)
            self.device = torch.device(
                "cpu"
            )  # where nnU-Net reads the file to. A GPU may have no room for all of it twice.
            super().load_checkpoint(filename_or_checkpoint)
        except Exception as error:
            if file is not None:
                explain(
                    file,
                    error,
                    self._bare_network().state_dict(),
                    folder=Path(self.output_folder),
                    configuration=self.configuration_name,
                    plans=self.plans_manager.plans_name,
                    command=self._command(),
                )
            raise
        finally:
            self.device = device
        if file == self._checkpoint("best") and not self.optimizer.state:
            self.print_to_log_file("checkpoint_best holds no state of the optimizer: its moments begin anew.")
        self._average_weights()  # with those of the checkpoint, which are averages
        begun = self.optimizer.first_epoch if self.phases else 0
        self.part_of_best = self._part_in_training()
        self._best_ema = max((score for score in self.scores()[begun:] if not np.isnan(score)), default=None)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation. The segmenter's is end to end, with boxes from the localizer's out-of-fold label maps.

        Localizer and segmenter write `validation/label_crop_pass_rate.json`. The localizer's has the distance of its
        boxes from those that the reference organs vote for. Fold `all` validates on its training cases and says so. Its
        localizer keeps its label maps in its own folder, because those of the other folds are out-of-fold.

        Raises:
            FileNotFoundError: If the localizer has not been validated on these cases yet.
        """
        if not self.job.validates and self.has_run:
            self.print_to_log_file(f"The final validation is left to: {self._command()} --val")
            return
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

    def run_training(self) -> None:
        """nnU-Net's loop, which ends when `reason_to_stop` gives a reason. A time budget also ends an epoch early."""
        self.has_run = True
        was_final = self.from_rank_0(self.current_epoch > 0 and self._checkpoint("final").is_file())
        if was_final and (reason := self.reason_to_stop()) is not None:
            if self.local_rank == 0:  # the run may have been killed before it did
                self._checkpoint("latest").unlink(missing_ok=True)
            self.print_to_log_file(f"This training has ended before: {reason}. The validation follows.")
            return
        self.check_before_training()
        if self.is_segmenter:
            self.settle_jitter()
        self.on_train_start()
        if self.current_epoch == 0:
            self._begin_with_model()
        if self.local_rank == 0:
            self._take_over_checkpoints()
        self.first_epoch_of_run = self.current_epoch
        try:
            self._train_epochs()
        except BaseException:
            self._end_loaders()
            raise
        self.on_train_end()

    def _train_epochs(self) -> None:
        while (reason := self.reason_to_stop()) is None:
            self._leave_before_the_deadline()
            self.on_epoch_start()
            self.on_train_epoch_start()
            train_outputs = []
            for _ in range(self.num_iterations_per_epoch):
                train_outputs.append(self.train_step(self._next_batch(self.dataloader_train)))
                if self.over_budget():
                    break
            self.on_train_epoch_end(train_outputs)
            with torch.no_grad():
                self.on_validation_epoch_start()
                val_outputs = [
                    self.validation_step(self._next_batch(self.dataloader_val))
                    for _ in range(self.num_val_iterations_per_epoch)
                ]
                self.on_validation_epoch_end(val_outputs)
            self.on_epoch_end()
        self.print_to_log_file(f"Training ends: {reason}.")

    def _end_loaders(self) -> None:
        """End the loaders' processes. Else their threads speak of dead workers after an error, and hide it."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()

    def _next_batch(self, loader: Any) -> dict:
        what = f"{self.plans_manager.dataset_name}, {self.configuration_name}, fold {self.fold}"
        return next_batch(loader, of=what, go_on=f"{self._command()} --c")

    def epochs_of_this_run_s(self) -> list[float]:
        """Seconds of the epochs that this run has finished."""
        starts, ends = (self.logger.get_value(f"epoch_{side}_timestamps", step=None) for side in ("start", "end"))
        return [end - start for start, end in zip(starts, ends, strict=False)][self.first_epoch_of_run :]

    def _write_progress(self, *, out_of_time: bool = False) -> None:
        if self.local_rank == 0:
            write_progress(
                Path(self.output_folder),
                epoch=self.current_epoch,
                num_epochs=self.num_epochs,
                epochs_s=self.epochs_of_this_run_s(),
                scores=self.scores(),
                now_s=time(),
                out_of_time=out_of_time,
            )

    def _leave_before_the_deadline(self) -> None:
        """End the process if the next epoch would pass the job's deadline, with a checkpoint to go on from.

        Raises:
            SystemExit: With the code `OUT_OF_TIME`.
        """
        if not self.from_rank_0(self.job.passed_by_next(self.epochs_of_this_run_s(), now_s=time())):
            return
        if self.current_epoch > self.first_epoch_of_run and not self.disable_checkpointing:
            self.current_epoch -= 1  # nnU-Net counts the epoch after saving
            self.save_checkpoint(str(self._checkpoint("latest")))
            self.current_epoch += 1
        self.print_to_log_file(
            f"The next epoch would pass the deadline. {self.current_epoch} of {self.num_epochs} epochs are done; "
            f"go on with: {self._command()} --c"
        )
        self._write_progress(out_of_time=True)
        raise SystemExit(OUT_OF_TIME)

    # --- before a training -------------------------------------------------------------------------------------------

    def check_before_training(self) -> None:
        """Refuse a training that would end in an error after hours, and warn of an odd split.

        Raises:
            FileNotFoundError: If preprocessed data are missing, or those of the next stage, for which this one is validated.
                Or the learned resampling that the recipe asks for.
            ValueError: See `do_split`.
        """
        train, val = self.do_split()
        if self.fold != "all":
            n_splits = len(read_splits(Path(self.preprocessed_dataset_folder_base, "splits_final.json")))
            cases = self._preprocessed_cases(self.configuration_name)
            for warning in odd_split(n_splits, self.fold, cases, train, val):
                self.print_to_log_file(f"WARNING: {warning}")
        folder = Path(self.preprocessed_dataset_folder)
        if missing := missing_files(folder, {*train, *val}):
            raise FileNotFoundError(
                f"the preprocessed data are not whole: {listed(missing)} is missing in {folder}; again: "
                f"{self._preprocess_command(self.configuration_name)}"
            )
        self._check_next_stages(val)
        self.other_thickness()
        if self.current_epoch == 0 and (model := self._start_model()) is not None:
            model.network_weights()
        references = Path(self.preprocessed_dataset_folder_base, "gt_segmentations")
        ending = self.dataset_json["file_ending"]
        if lost := sorted(case for case in val if not (references / f"{case}{ending}").is_file()):
            self.print_to_log_file(
                f"WARNING: the validation at the end will fail, for {references} lacks {listed(lost)} ({ending}). Copy "
                "labelsTr of the raw data set there before the training ends."
            )

    def _check_next_stages(self, val: Sequence[str]) -> None:
        """The localizer's validation writes label maps for the next stage, on the grid of its preprocessed cases."""
        for stage in self.configuration_manager.next_stage_names or ():
            if lost := sorted(set(val) - set(self._preprocessed_cases(stage))):
                raise FileNotFoundError(
                    f"{listed(lost)} is not preprocessed for {stage}, for which {self.configuration_name} is validated; "
                    f"first: {self._preprocess_command(stage)}"
                )

    def _start_model(self) -> StartModel | None:
        """The model that the training begins with. None if it begins with random weights.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it is damaged, or does not fit the data set and its plan.
        """
        if self.start_from is None:
            return None
        model = StartModel.copied(Path(self.preprocessed_dataset_folder_base, self.start_from))
        plans, entry = self.plans_manager.plans, self.configuration_manager.configuration
        where = f"dataset.json of {self.plans_manager.dataset_name}"
        check_names(model, self.dataset_json, plan_pairs(plans, self.dataset_json["labels"]), where=where)
        check_plan(model, plans, entry, self.dataset_json, configuration=self.configuration_name)
        return model

    def _begin_with_model(self) -> None:
        """Give the network the model's weights, and say which."""
        if (model := self._start_model()) is None:
            return
        network = self._bare_network()
        start = model.weights_for(network, self.configuration_manager.configuration, self.dataset_json)
        network.load_state_dict(start.weights)
        self._average_weights()
        self.print_to_log_file(f"The training begins with the weights of {model.title}.")
        for line in start.lines:
            self.print_to_log_file(line)

    def _preprocessed_cases(self, configuration: str) -> list[str]:
        """The cases that are preprocessed for a configuration, sorted.

        Raises:
            FileNotFoundError: If there is none, with the command that preprocesses them.
            ValueError: If parts of them are still to be preprocessed.
        """
        identifier = self.plans_manager.get_configuration(configuration).data_identifier
        folder = Path(self.preprocessed_dataset_folder_base, identifier)
        if not (cases := preprocessed_cases(folder)):
            raise FileNotFoundError(
                f"no case is preprocessed for {configuration} in {folder}; "
                f"first: {self._preprocess_command(configuration)}"
            )
        n_cases = self.dataset_json.get("numTraining", 0)
        if len(cases) < n_cases and (folder / PREPROCESSED_PARTS).is_dir():
            raise ValueError(
                f"{len(cases)} of {n_cases} training cases are preprocessed for {configuration} in {folder}; first: the "
                "other parts of nnunet_ext preprocess"
            )
        return cases

    def _preprocess_command(self, configuration: str) -> str:
        """The command that preprocesses a configuration's data, which several may share."""
        plans = self.plans_manager.plans_name
        shared = self.plans_manager.get_configuration(configuration).data_identifier.removeprefix(f"{plans}_")
        number = convert_dataset_name_to_id(self.plans_manager.dataset_name)  # this command takes no name
        return f"nnUNetv2_preprocess -d {number} -plans_name {plans} -c {shared}"

    def _command(self, configuration: str | None = None, fold: int | str | None = None) -> str:
        """The command of this training, or as this one that of another configuration and fold."""
        options = "" if self.device.type == "cuda" else f" -device {self.device.type}"
        options += f" -num_gpus {dist.get_world_size()}" if self.is_ddp else ""
        return (
            f"nnUNetv2_train {self.plans_manager.dataset_name} {configuration or self.configuration_name} "
            f"{self.fold if fold is None else fold} "
            f"-tr {self.__class__.__name__} -p {self.plans_manager.plans_name}{options}"
        )

    def _too_little_memory(self) -> str:
        """A step did not fit into the GPU: what it was, and the ways out."""
        plan = self.configuration_manager
        size = "x".join(map(str, plan.patch_size))
        return (
            f"configuration '{self.configuration_name}': the GPU has too little memory for a batch of {self.batch_size} "
            f"with {size} voxels. End other programs on it (nvidia-smi lists them). Or plan for it again, with "
            f"-gpu_memory_target or narrower networks (-pl CascadeOARPlannerSmall; nnunet_ext doctor says what fits). Or "
            f"train on a larger GPU, or without one: {self._command()} -device cpu"
        )

    # --- ROI ---------------------------------------------------------------------------------------------------------

    def _roi_is_one_patch(self) -> bool:
        """Whether the loader gives what the network sees, a whole ROI or an organ's crop."""
        if self.crop_size is not None:
            return True
        c = self.configuration_manager
        rule = RoiRule.from_plan(c.configuration["roi"])
        return all(n * mm >= size - mm / 2 for n, mm, size in zip(c.patch_size, c.spacing, rule.size_mm, strict=True))

    def _roi_datasets(self, jitter: BoxJitter | None) -> RoiDatasets:
        """Of the training, with its jitter. Of the final validation without, for the localizer places its boxes."""
        rule = RoiRule.from_plan(self.configuration_manager.configuration["roi"])
        if self.recipe.box_jitter == OFF:
            rule = replace(rule, jitter_mm=0.0)
        datasets = RoiDatasets(
            rule=rule,
            spacing_mm=tuple(self.configuration_manager.spacing),
            transpose_forward=tuple(self.plans_manager.transpose_forward),
            from_localizer=jitter is None,
            guidance=self.recipe.guidance,
            force_separate_z=self.configuration_manager.configuration["resampling_fn_data_kwargs"].get(
                "force_separate_z"
            ),
            errors_mm=() if jitter is None else jitter.errors_mm,
        )
        if self.crop_size is None:
            return datasets
        organ_errors_mm = {} if jitter is None else jitter.organ_errors_mm
        return OrganCropDatasets(**vars(datasets), crop_size=self.crop_size, organ_errors_mm=organ_errors_mm)

    # --- jitter ------------------------------------------------------------------------------------------------------

    def _jitter_to_be_had(self) -> BoxJitter:
        """The jitter of a training that begins now."""
        asked = self.recipe.box_jitter
        return BoxJitter.of_localizer(
            self._localizer_folder(),
            asked,
            wanted=PLANNED if self.job.jitter == PLANNED and asked == MEASURED else asked,
            per_organ=self.crop_size is not None,
            folds=self.job.jitter_folds or None,
        )

    def settle_jitter(self) -> None:
        """Decide how the box is moved in this training, and record it. All jobs of a training move it alike.

        Raises:
            FileNotFoundError: If the job asks for `measured`, and folds of the localizer have not been validated.
            ValueError: If the job asks for what the recipe or an earlier job of this training excludes.
        """
        file = Path(self.output_folder, JITTER_FILE)
        if self.local_rank == 0:
            jitter = self._decided_jitter(file)
            file.parent.mkdir(parents=True, exist_ok=True)
            jitter.write(file)
        if self.is_ddp:
            dist.barrier()
        self.dataset_class = self._roi_datasets(BoxJitter.read(file))

    def _decided_jitter(self, file: Path) -> BoxJitter:
        """The jitter of the record if this training goes on, else one to be had now."""
        job, recipe = self.job, self.recipe.box_jitter
        if wrong := contradiction(job.jitter, recipe):
            raise ValueError(f"{wrong}: change {JITTER}, or the plan {self.plans_manager.plans_name}")
        if self.current_epoch > 0 and file.is_file():
            earlier = BoxJitter.read(file)
            if job.jitter not in (None, earlier.used):
                raise ValueError(
                    f"this training began with the jitter {earlier.used}, and {JITTER} says {job.jitter}: go on with "
                    f"{JITTER}={earlier.used}, or train anew, without --c"
                )
            if recipe == earlier.asked:
                self.print_to_log_file(
                    f"The jitter of the box is {earlier.used}, as {file.name} says of this training."
                )
                return earlier
        if job.jitter == MEASURED:
            self._check_measured()
        jitter = self._jitter_to_be_had()
        if job.jitter not in (None, jitter.used):
            raise ValueError(f"{JITTER} is {job.jitter}, but: {jitter.said} Pass {JITTER}={PLANNED}.")
        if jitter.said:
            self.print_to_log_file(jitter.said)
        return jitter

    def _check_measured(self) -> None:
        """FileNotFoundError if the out-of-fold boxes of a localizer's fold have not been measured yet."""
        splits = Path(self.preprocessed_dataset_folder_base, "splits_final.json")
        n_folds = len(read_splits(splits)) if splits.is_file() else N_FOLDS
        there = measured_folds(self._localizer_folder())
        if missing := [k for k in self.job.jitter_folds or range(n_folds) if k not in there]:
            raise FileNotFoundError(
                f"{JITTER}={MEASURED} needs the errors of the localizer's boxes in all folds, and of "
                f"{', '.join(f'fold {k}' for k in missing)} there are none in {self._localizer_folder()}. First: "
                f"{'; '.join(map(self._localizer_command, missing))}. Or pass {JITTER}={PLANNED}."
            )

    def _localizer_command(self, fold: int | str) -> str:
        """The command after which a fold of the localizer is validated, by what there is of it."""
        folder = self._localizer_folder() / f"fold_{fold}"
        if checkpoint_file(folder, "final").is_file():
            option = " --val"
        else:
            option = " --c" if any(checkpoint_file(folder, name).is_file() for name in ("latest", "best")) else ""
        return f"{self._command(str(self.configuration_manager.previous_stage_name), fold)}{option}"

    def _maps_folder(self) -> Path:
        """Folder of the localizer's label maps, which a segmenter has."""
        assert self.folder_with_segs_from_previous_stage is not None
        return Path(self.folder_with_segs_from_previous_stage)

    def _localizer_folder(self) -> Path:
        return self._maps_folder().parents[1]

    def _folds_of(self, cases: Sequence[str]) -> list[int | str]:
        """Folds in which these cases are validated, this one if the splits do not say."""
        splits = Path(self.preprocessed_dataset_folder_base, "splits_final.json")
        listed = read_splits(splits) if self.fold != "all" and splits.is_file() else []
        return [k for k, split in enumerate(listed) if not set(cases).isdisjoint(split["val"])] or [self.fold]

    def _localizer_maps(self, cases: Sequence[str], *, for_guidance: bool = False) -> Path:
        """Folder with the localizer's out-of-fold label maps of these cases.

        Fold `all` takes those of the localizer's fold `all` if an out-of-fold one is missing.

        Raises:
            FileNotFoundError: If a map is missing.
        """
        folder = self._maps_folder()
        missing = [case for case in cases if not (folder / f"{case}.b2nd").is_file()]
        if missing and self.fold == "all":
            fitted = self._localizer_folder() / "fold_all" / "predicted_next_stage" / folder.name
            if all((fitted / f"{case}.b2nd").is_file() for case in cases):
                self.print_to_log_file(
                    "The boxes come from the localizer's fold all, which was trained on these cases."
                )
                return fitted
        if missing:
            lacking = self._folds_of(missing)
            state = "The recipe asks for guidance" if for_guidance else "The segmenter itself is trained"
            raise FileNotFoundError(
                f"The localizer's label maps of {len(missing)} cases are missing, e.g. '{missing[0]}', in {folder}. "
                f"{state}. First: {'; '.join(map(self._localizer_command, lacking))}. Then repeat: {self._command()}"
                f"{'' if for_guidance else ' --val'}"
            )
        return folder

    # --- augmentation ------------------------------------------------------------------------------------------------

    @property
    def augments_on_device(self) -> bool:
        if self.recipe.augmentation == AUTO:
            return self.device.type == "cuda" and not self.recipe.guidance
        return self.recipe.augmentation == DEVICE

    def augmentation(self, *args: Any, **kwargs: Any) -> ComposeTransforms:
        """nnU-Net's augmentation, after a left/right-aware mirroring of the whole sample, before modality dropout."""
        transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        if not any(kwargs.get("use_mask_for_norm") or ()):  # else the -1 outside the label map has a meaning
            transforms = replace_transforms(transforms)
        if (chosen := self.recipe.low_resolution) != NNUNET:
            transforms = with_low_resolution(transforms, keep=chosen == BOTH, ours=self.other_thickness())
        transforms.transforms[:0] = [self.mirror_transform()]
        transforms.transforms += self.modality_dropout()
        return transforms

    def _copy_learned_resampling(self) -> None:
        """Put what brought the training images onto one grid beside the model, which needs it for new cases."""
        sha256 = self.dataset_json.get("nnunet_ext", {}).get("learned_resampling")
        if sha256 is None:
            return
        from nnunet_ext.superresolution.weights import copy_learned_resampling

        raw = dataset_folder("nnUNet_raw", self.plans_manager.dataset_name)
        if raw is None or not copy_learned_resampling(sha256, raw, Path(self.output_folder_base)):
            self.print_to_log_file(
                f"WARNING: the learned resampling of the training images (SHA-256 {sha256[:12]}...) is not in {raw}. To "
                f"predict cases that lie on several grids, copy it into {self.output_folder_base}."
            )

    def other_thickness(self) -> BasicTransform | None:
        """The data set's learned resampling as an augmentation, if the recipe asks for it.

        Raises:
            FileNotFoundError: If the data set has none.
            ValueError: If it is damaged, or does not fit the channels or the grid.
        """
        if self.recipe.low_resolution not in (LEARNED, BOTH):
            return None
        from nnunet_ext.superresolution.other_thickness import other_thickness
        from nnunet_ext.superresolution.weights import WEIGHTS_FILE, read_learned_resampling

        where = f"configuration '{self.configuration_name}' with recipe.low_resolution '{self.recipe.low_resolution}'"
        folder = Path(self.preprocessed_dataset_folder_base)
        if not (folder / WEIGHTS_FILE).is_file():
            number = convert_dataset_name_to_id(self.plans_manager.dataset_name)
            raise FileNotFoundError(
                f"{where}: there is no {WEIGHTS_FILE} in {folder}. Make it with nnunet_ext learn-resampling -d {number}, or "
                f"set low_resolution to '{NNUNET}' in {self.plans_manager.plans_name}.json."
            )
        names = self.dataset_json["channel_names"]
        n_sliced = self.n_sliced_axes()
        return other_thickness(
            read_learned_resampling(folder / WEIGHTS_FILE),
            [names[key] for key in sorted(names, key=int)],
            spacing_mm=self.configuration_manager.spacing[n_sliced:],
            through_plane=list(self.plans_manager.plans["transpose_forward"]).index(0) - n_sliced,
            where=where,
        )

    def n_sliced_axes(self) -> int:
        """First axes of the plan along which the network sees slices, none of a network in three dimensions."""
        plans = self.plans_manager.plans
        return len(plans["transpose_forward"]) - len(self.configuration_manager.patch_size)

    def mirror_transform(self) -> LeftRightMirrorTransform:
        n_axes = len(self.configuration_manager.patch_size)
        axes = tuple(range(n_axes)) if self.mirror_all_axes else (self.left_right_axis,)
        axes = tuple(a for a in axes if a >= 0)
        if not self.recipe.mirror_left_right:
            axes = tuple(a for a in axes if a != self.left_right_axis)
        return LeftRightMirrorTransform(axes, self.left_right_axis, self.left_right_pairs)

    def modality_dropout(self) -> list[BasicTransform]:
        if not self.recipe.modality_dropout:
            return []
        names = self.dataset_json["channel_names"]
        spares = self.recipe.dropout_spares
        channels = optional_channels([names[k] for k in sorted(names, key=int)], spares=spares)
        return [ModalityDropoutTransform(channels, self.recipe.modality_dropout, leave_one=spares == ANY)]

    def trained_with(self) -> dict[str, Any]:
        """The recipe and the numbers of this training as plain JSON. A trainer may differ from the plan in them."""
        source = self.start_from and copied_source(Path(self.preprocessed_dataset_folder_base, self.start_from))
        return {
            "trainer": self.__class__.__name__,
            "recipe": asdict(self.recipe),
            **(
                {"phases": [phase.to_plan() for phase in self.phases]}
                if self.phases
                else {"initial_lr": self.initial_lr, "weight_decay": self.weight_decay}
            ),
            "batch_size": self.batch_size * (dist.get_world_size() if self.is_ddp else 1),
            "deep_supervision": self.enable_deep_supervision,
            "mirrored_axes": list(self.mirror_transform().allowed_axes),
            **({START_KEY: source} if source else {}),
        }

    # --- schedule ----------------------------------------------------------------------------------------------------

    def epochs_done(self) -> float:
        """Epochs done, with a fraction within an epoch."""
        return self.current_epoch + self.iterations_this_epoch / self.num_iterations_per_epoch

    def progress(self) -> float:
        """Share of the training that is over, in [0, 1]."""
        return progress(self.schedule, epoch=self.epochs_done(), elapsed_h=self.elapsed_h())

    def learning_rate_factor(self) -> float:
        """Factor on the initial learning rate for the next iteration."""
        return learning_rate_factor(
            self.schedule,
            epoch=self.epochs_done(),
            elapsed_h=self.elapsed_h(),
            scores=self.scores(),
            iteration=self.current_epoch * self.num_iterations_per_epoch + self.iterations_this_epoch,
            warmup_iterations=self.warmup_iterations,
        )

    def scores(self) -> list[float]:
        """EMA pseudo Dice of every finished epoch."""
        return list(self.logger.get_value("ema_fg_dice", step=None))[: self.current_epoch]

    def elapsed_h(self) -> float:
        """Hours trained so far, with the current epoch and earlier runs. All ranks must ask at the same time."""
        starts = self.logger.get_value(EPOCH_STARTS, step=None)
        ends = self.logger.get_value("epoch_end_timestamps", step=None)
        hours = elapsed_h(starts, ends, now_s=time())
        return hours if self.schedule.time_budget_h is None else self.from_rank_0(hours)

    def first_step_done(self, kind: str, seconds: float) -> None:
        """Take the first step of its kind in this run out of the epoch's time. It compiles the network, for minutes."""
        if kind in self.steps_done:
            return
        self.steps_done.add(kind)
        if self.schedule.time_budget_h is not None and (starts := self.logger.get_value(EPOCH_STARTS, step=None)):
            starts[-1] += seconds
            if seconds > 1:
                self.print_to_log_file(
                    f"The first {kind} step took {seconds:.0f} s. They do not count for the time budget."
                )

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

    def from_rank_0(self, value: T) -> T:
        """Rank 0's number on every rank. Ranks that disagree about clocks or files would wait for each other."""
        if not self.is_ddp:
            return value
        number = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(number, src=0)
        return type(value)(number.item())

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self, name: str) -> Path:
        return checkpoint_file(Path(self.output_folder), name)

    def _bare_network(self) -> nn.Module:
        network = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)

    def _take_over_checkpoints(self) -> None:
        """Make the checkpoints in the folder those of the training that begins or goes on."""
        folder = Path(self.output_folder)
        remove_leftovers(folder)
        if self.disable_checkpointing:
            return
        if self.current_epoch == 0:
            # Else a kill before the first epoch's end would make `--c` go on with that other training.
            if old := set_aside(folder):
                self.print_to_log_file(
                    f"Training anew. The checkpoints of an earlier training are now {', '.join(old)}."
                )
            return
        if self._checkpoint("final").is_file():  # no longer final, and `--c` would prefer it to later ones
            os.replace(self._checkpoint("final"), self._checkpoint("latest"))
        if self.scores()[-1:] == [self._best_ema]:  # the run may have been killed before it wrote this one
            self.current_epoch -= 1  # nnU-Net counts the epoch after saving
            self.save_checkpoint(str(self._checkpoint("best")))
            self.current_epoch += 1

    # --- validation --------------------------------------------------------------------------------------------------

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
        """Validation case -> record of the box that the localizer's label map gives the next stage."""
        configuration = self.plans_manager.get_configuration(stage)
        rule = RoiRule.from_plan(configuration.configuration["roi"])
        folder = Path(self.preprocessed_dataset_folder_base, configuration.data_identifier)
        _, cases = self.do_split()
        dataset = infer_dataset_class(str(folder))(str(folder), cases, str(maps))
        records = {}
        for case in cases:
            _, seg, localizer_map, properties = dataset.load_case(case)
            localizer_map = localizer_map[:].reshape(seg.shape[1:])
            extents = stored_extents(properties)
            records[case] = measure_box(localizer_map, seg[0], extents, rule, spacing_mm=configuration.spacing)
        return records

    def _validate_segmenter(self, save_probabilities: bool) -> None:
        self.folder_with_segs_from_previous_stage = str(self._localizer_maps(self.do_split()[1]))
        datasets = self._roi_datasets(None)
        # NCCL gives up after ten minutes, while rank 0 computes the scores of all cases.
        patient = dist.new_group(backend="gloo", timeout=SCORING_AT_MOST) if self.is_ddp else None
        in_training = self.dataset_class, self.configuration_manager, self.is_cascaded
        self.dataset_class = datasets
        if (
            self.crop_size is not None
        ):  # as a prediction does: the window of all crops, and the label map that places them
            self.configuration_manager = self.plans_manager.get_configuration(self.configuration_name)
            self.is_cascaded = True
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.dataset_class, self.configuration_manager, self.is_cascaded = in_training
        records = [datasets.records]
        if self.is_ddp:  # every process validated a part of the cases
            records = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(records, datasets.records, group=patient)
        if self.local_rank == 0:
            self._report_boxes({case: record for part in records for case, record in part.items()})
            self._report_left_out()

    def _report_boxes(self, records: Mapping[str, dict]) -> None:
        """Write and log how the boxes were placed."""
        if self.crop_size is None:
            report, lines = box_report(records)
        else:
            organs = {v: n for n, v in self.dataset_json["labels"].items() if v and v not in self.left_out}
            report, lines = box_report(records, crop="x".join(map(str, self.crop_size)), names=organs)
        for line in lines:
            self.print_to_log_file(line)
        write_json(report, Path(self.output_folder, "validation", BOXES_FILE), flush=True)

    def _report_left_out(self) -> None:
        """Take the organs left out of the crop out of nnU-Net's summary, in which they would count as missed."""
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
