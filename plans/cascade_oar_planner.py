"""Planner of the cascade: one plans file with localizer, whole-volume baselines, segmenter and crops of given size.

Run by `nnUNetv2_plan_and_preprocess -d ID -pl CascadeOARPlanner`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunet_ext.cascade.head_crop import PLANS_KEY as HEAD_CROP_KEY
from nnunet_ext.cascade.head_crop import ROOM_MM, WHOLE_KEY, HeadCrop
from nnunet_ext.cascade.plausibility import PLANS_KEY, fit_ranges
from nnunet_ext.cascade.resampling import resample_image, resample_label_map
from nnunet_ext.cascade.roi_fitting import RoiFit, fit_roi
from nnunet_ext.files import read_json, written_whole
from nnunet_ext.labels.pairs import MIRROR_KEY, PAIRS_KEY, check_mirroring, dataset_pairs, unclear_sides
from nnunet_ext.labels.sides import side_of
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import (
    LOCALIZER,
    SAME_PERSON_KEY,
    SEGMENTER,
    STUDY_LOCALIZER,
    WHOLE_VOLUME,
    find_dataset,
    need,
    read_dataset_json,
    read_splits,
)
from nnunet_ext.plans.gpu_memory import expected_memory_gib, written
from nnunet_ext.plans.rival_configurations import plan_rivals
from nnunet_ext.plans.study_configurations import (
    ORGAN_CROPS,
    REDUCED_KEY,
    STUDY_WHOLE_VOLUME,
    millimetres,
    normalization_of,
    plan_study_crops,
    plan_study_localizer,
    plan_study_whole_volume,
    study_schedule,
    trained_patch,
)
from nnunet_ext.plans.training_set import ScannedCase, median_voxel_ml, odd_label_maps, scan_cases, transposed
from nnunet_ext.training.person_splits import divided_persons, person_splits, persons_among
from nnunet_ext.training.recipe import TrainingRecipe
from nnunet_ext.training.schedule import REFERENCE_KEY, TRAINING_KEY, TrainingSchedule

#: No target spacing lies below this share of the median. One case far finer than the rest must not set the grid of all.
FINEST_SHARE_OF_MEDIAN = 0.6
#: Along an axis on which the cases differ, the grid is this much finer than the finest case, for later cases that are finer
#: still. If all cases agree, their own grid is kept and nothing is resampled.
FINER_THAN_FINEST = 0.95
#: Step in which the localizer's spacing is coarsened.
COARSEN_STEP = 1.02

#: nnU-Net's key of the fingerprint and of the plan.
INTENSITIES_KEY = "foreground_intensity_properties_per_channel"

#: Function that brings an array onto another grid.
Resampling = Callable[..., np.ndarray]


def __getattr__(name: str) -> Any:
    """`CascadeOARPlannerSmall`, which copied lookup modules of version 0.1.0 look for here. Goes with the next version."""
    if name == "CascadeOARPlannerSmall":
        from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall

        return CascadeOARPlannerSmall
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class CascadeOARPlanner(ResEncUNetPlanner):
    """Plans `3d_lowres` (localizer), `3d_fullres` (whole-volume baseline) and `3d_cascade_fullres` (segmenter).

    It also plans the reference study's configurations, `3d_fullres_80x256x256`, `3d_localizer_80x256x256`,
    `3d_cascade_32x128x128`, `..._32x96x96` and `..._16x64x64`, and networks of other groups (`plans.rival_configurations`).
    They use the preprocessed data of `3d_fullres`. The study's have patches of the named size. Of each crop size,
    `3d_organ_crops_...` has one crop around each organ instead of sliding patches. Organs too large for a crop are left out
    of it (`roi.left_out`). A crop that holds no organ is not planned. Both are printed. A patch is never larger than the
    largest body.

    Differences from nnU-Net's planners:

    - The target spacing is the finest of the training set along each axis (guarded), not the median. A grid coarser than
      a case's own can't hold an organ of one or two voxels.
    - Images are interpolated along every axis, also between thick slices. `CascadeOARPlannerSeparateZ` takes the nearest
      slice there, as nnU-Net does.
    - Label maps are resampled by `resample_label_map`, from which small organs come back whole.
    - Bodies are cropped to the reach of the training organs below the crown. The grid does not depend on where a CT ends.
      Trunks, which have no crown, are seen whole.
    - The localizer's spacing is chosen so that every training body, so cropped, fits into one patch.
    - The ROI's size is measured on the training labels (`cascade.roi_fitting.fit_roi`).
    - Left and right labels are paired by name, or as `left_right_pairs` in `dataset.json` says. The plan holds the pairs.
      A name that looks sided and has not one partner stops planning, unless `mirror_left_right` is false in
      `dataset.json`.
    - There is no `2d`, and no configuration survives from an older plans file of the same name.

    `-overwrite_target_spacing Z Y X` sets the grid of `3d_fullres` and the segmenter. The reference study used
    1.25 0.8 0.8 mm.
    """

    #: Name of the plans file, unless `-overwrite_plans_name` gives another.
    default_plans_name = "CascadeOARPlans"
    #: Most voxels in the localizer's patch, which gives a head about 3.3 mm. The votes for the box need little more than
    #: the eyes. Four times as many voxels made localizing the slowest step of a prediction without a GPU.
    localizer_voxels = 80**3
    localizer_features = 32
    #: Patch of the study's localizer in voxels, coarsest axis first. A smaller one slides over the volume.
    study_localizer_patch: tuple[int, ...] = STUDY_WHOLE_VOLUME
    #: Weight of the organs in the localizer's cross entropy (`recipe.foreground_weight`).
    localizer_foreground_weight = TrainingRecipe.foreground_weight
    #: Room around the organs for the localizer's error and for anatomy unlike that of the training set.
    roi_margin_mm = 10.0
    #: Largest shift of the box in training, along each axis.
    roi_jitter_mm = 5.0
    #: Room below and around the organs of the training set, to which every body is cropped.
    head_room_mm: float = ROOM_MM
    dropout = 0.1
    #: nnU-Net's option for resampling. False is interpolation along every axis (`results/resampling.md`). None takes the
    #: nearest slice along an axis more than three times as coarse as the others, as nnU-Net does.
    force_separate_z: bool | None = False
    #: Whether the segmenter has one logit per organ and two for the side (`cascade.side_logits`), instead of one per label.
    factorised_sides = False
    localizer_batch_size: int | None = None
    #: Batch size of the study's crops.
    crop_batch_size: int | None = None
    #: Length of the segmenter's patch along each axis, as a share of the ROI. Small patches find nerves, chiasm and lenses
    #: sooner than the whole ROI at the same cost. With two thirds, eight windows predict the ROI (`results/recipes.md`).
    segmenter_patch_share = 2 / 3
    #: Batch size of the segmenter, if the GPU memory target has room for it.
    segmenter_batch_size = 4
    #: Multiple of the GPU memory target that the segmenter may use.
    segmenter_memory_factor = 1.0
    #: Whether the plan has the study's schedule for `CascadeOARTrainerReference`.
    has_study_schedule = True
    #: Channels of the other groups' networks as a share of those of their papers.
    rival_width = 1.0
    #: Schedule of the other groups' networks. None is that of their papers.
    rival_schedule: TrainingSchedule | None = None
    schedules = {  # noqa: RUF012  (read only)
        LOCALIZER: TrainingSchedule(250, 250, 25, patience_epochs=50, initial_lr=1e-3),
        WHOLE_VOLUME: TrainingSchedule(1000, 250, 50, patience_epochs=100, initial_lr=3e-3),
        SEGMENTER: TrainingSchedule(500, 250, 25, patience_epochs=75, initial_lr=3e-3),
    }

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "CascadeOARPreprocessor",
        plans_name: str | None = None,
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        # nnUNetv2_plan_and_preprocess always names a preprocessor. Its default would not crop.
        if preprocessor_name == "DefaultPreprocessor":
            preprocessor_name = "CascadeOARPreprocessor"
        file = find_dataset("nnUNet_raw", dataset_name_or_id, "raw data sets") / "dataset.json"
        for key in ("labels", "channel_names", "file_ending"):
            need(read_dataset_json(file), key, file)
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name or self.default_plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.scanned: dict[str, ScannedCase] | None = None
        self.head_crop: HeadCrop | None = None
        odd = [name for name, v in self.dataset_json["labels"].items() if not isinstance(v, int) or name == "ignore"]
        if odd:
            raise ValueError(
                f"{self.dataset_name}: labels {odd} are regions or nnU-Net's ignore label, which the cascade does not know. "
                "Give every organ one whole number in dataset.json, or plan with another planner."
            )
        where = str(Path(self.raw_dataset_folder, "dataset.json"))
        #: Left and right names, and whether training mirrors one into the other.
        self.pairs = dataset_pairs(self.dataset_json, where=where)
        self.mirrors = check_mirroring(self.dataset_json, where=where)
        names = self.dataset_json["labels"]
        if self.mirrors and self.dataset_json.get(PAIRS_KEY) is None:
            if unclear := unclear_sides(names):
                raise ValueError(f"{where}: {unclear}")
        elif sided := [n for n in names if side_of(n) is not None and n not in chain(*self.pairs)]:
            print(f"Without a partner or a side, as {PAIRS_KEY} or {MIRROR_KEY} of dataset.json says: {sided!a}")

    # --- training set ------------------------------------------------------------------------------------------------

    def determine_reader_writer(self) -> type[BaseReaderWriter]:
        """nnU-Net's reorienting reader for NIfTI, so that left is left in every case, unless `dataset.json` names one."""
        named = self.dataset_json.get("overwrite_image_reader_writer", "None")
        if named == "None" and self.dataset_json["file_ending"] in NibabelIOWithReorient.supported_file_endings:
            return NibabelIOWithReorient
        return super().determine_reader_writer()

    def scan(self) -> dict[str, ScannedCase]:
        """Body sizes and organ extents of all training cases, which are read once per planner.

        The bodies end at the reach of the organs of all cases, see `HeadCrop`.

        Raises:
            ValueError: See `scan_cases`.
        """
        if self.scanned is None:
            scanned = scan_cases(
                self.dataset,
                reader=self.determine_reader_writer()(),
                channel_names=self.dataset_json["channel_names"],
                labels=self.dataset_json["labels"],
            )
            heads = [(case.head, case.organs) for case in scanned.values() if case.head is not None]
            self.head_crop = crop = HeadCrop.fit(heads, self.head_room_mm)
            self.scanned = {name: case.cropped(crop) for name, case in scanned.items()}
        return self.scanned

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """Finest spacing of the training set along `(Z, Y, X)`. See `FINER_THAN_FINEST` and the guard above it."""
        if self.overwrite_target_spacing is not None:
            return np.array(self.overwrite_target_spacing)
        spacings = np.array([c.spacing_mm for c in self.scan().values()])
        finest = spacings.min(0)
        mixed = spacings.max(0) > 1.01 * finest
        finest[mixed] *= FINER_THAN_FINEST
        return np.maximum(finest, FINEST_SHARE_OF_MEDIAN * np.median(spacings, axis=0))

    def determine_resampling(self, *args: object, **kwargs: object) -> tuple[Resampling, dict, Resampling, dict]:
        """Images are resampled as nnU-Net does, but faster. Label maps keep small organs. See `cascade.resampling`."""
        options = {"force_separate_z": self.force_separate_z}
        return resample_image, options, resample_label_map, dict(options)

    def determine_segmentation_softmax_export_fn(self, *args: object, **kwargs: object) -> tuple[Resampling, dict]:
        """nnU-Net's, along the axes that label maps are resampled along. Else they would not come back whole."""
        function, options = super().determine_segmentation_softmax_export_fn(*args, **kwargs)
        return function, {**options, "force_separate_z": self.force_separate_z}

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """nnU-Net's schemes, or the study's range (`normalization_of`). Never with the nonzero mask.

        The crop to the body replaces that mask.
        """
        schemes, mask = super().determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        where = str(Path(self.raw_dataset_folder, "dataset.json"))
        return normalization_of(self.dataset_json, schemes, where=where), [False] * len(mask)

    def generate_data_identifier(self, configuration_name: str) -> str:
        """A name of our own. Our data are cropped differently and are never shared with other plans."""
        return f"{self.plans_identifier}_{configuration_name}"

    # --- configurations ----------------------------------------------------------------------------------------------

    def segmenter_unet(
        self, spacing_mm: Sequence[float] | np.ndarray, patch_size: Sequence[int]
    ) -> tuple[tuple[int, ...], dict]:
        """Patch size and network of the segmenter: residual blocks, strided convolutions, InstanceNorm, dropout."""
        dropout = "torch.nn.modules.dropout.Dropout3d" if self.dropout else None
        return self.architecture(
            spacing_mm,
            patch_size,
            **self.side_options(),
            features=self.UNet_base_num_features,
            n_blocks_per_stage=self.UNet_blocks_per_stage_encoder,
            n_conv_per_stage_decoder=self.UNet_blocks_per_stage_decoder,
            residual_blocks=True,
            downsampling="strided_convolution",
            norm_op="torch.nn.modules.instancenorm.InstanceNorm3d",
            dropout_op=dropout,
            dropout_op_kwargs={"p": self.dropout} if dropout else None,
            nonlin="torch.nn.LeakyReLU",
        )

    def side_options(self) -> dict:
        """`arch_kwargs` of a network that tells organ and side apart, if `factorised_sides` says so."""
        pairs = pair_values(self.pairs, self.dataset_json["labels"]) if self.factorised_sides else []
        return {"left_right_pairs": [list(pair) for pair in pairs]} if pairs else {}

    def localizer_unet(
        self, spacing_mm: Sequence[float] | np.ndarray, patch_size: Sequence[int]
    ) -> tuple[tuple[int, ...], dict]:
        """Patch size and network of the localizer: two convolutions with BatchNorm and ReLU a stage, max pooling."""
        return self.architecture(
            spacing_mm,
            patch_size,
            features=self.localizer_features,
            n_blocks_per_stage=(1,) * 16,
            n_conv_per_stage_decoder=(2,) * 16,
            residual_blocks=False,
            downsampling="max_pooling",
            norm_op="torch.nn.modules.batchnorm.BatchNorm3d",
            dropout_op=None,
            dropout_op_kwargs=None,
            nonlin="torch.nn.ReLU",
        )

    def architecture(
        self,
        spacing_mm: Sequence[float] | np.ndarray,
        patch_size: Sequence[int],
        *,
        features: int,
        n_blocks_per_stage: Sequence[int],
        n_conv_per_stage_decoder: Sequence[int],
        **options: str | bool | dict | list | None,
    ) -> tuple[tuple[int, ...], dict]:
        """Patch size rounded up to a size that the network divides, and the plan's `architecture` entry.

        Args:
            features: Features of the first stage. They double per stage up to nnU-Net's limit.
            n_blocks_per_stage, n_conv_per_stage_decoder: Of `CascadeUNet`, for at least as many stages as the network has.
            options: Further arguments of `CascadeUNet`, classes by dotted name.
        """
        _, strides, kernels, patch, _ = get_pool_and_conv_props(
            spacing_mm, patch_size, self.UNet_featuremap_min_edge_length, 999999
        )
        n = len(strides)
        return tuple(int(p) for p in patch), {
            "network_class_name": "nnunet_ext.CascadeUNet",
            "arch_kwargs": {
                "n_stages": n,
                "features_per_stage": [min(self.UNet_max_features_3d, features * 2**i) for i in range(n)],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": kernels,
                "strides": strides,
                "n_blocks_per_stage": list(n_blocks_per_stage[:n]),
                "n_conv_per_stage_decoder": list(n_conv_per_stage_decoder[: n - 1]),
                "conv_bias": True,
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "nonlin_kwargs": {"inplace": True},
                **options,
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    def memory_budget(self) -> float:
        """nnU-Net's reference feature map size for a batch of two, scaled to the GPU memory target."""
        return self.UNet_reference_val_3d * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB

    @staticmethod
    def static_estimate_VRAM_usage(patch_size: Sequence[int], *network: Any, **options: Any) -> float:
        """nnU-Net's, on a device without memory. It builds a network for every patch size it tries."""
        return _estimate(tuple(int(n) for n in patch_size), written([network, options]))

    def feature_map_size(self, patch_size: Sequence[int], architecture: Mapping) -> float:
        return self.static_estimate_VRAM_usage(
            patch_size,
            len(self.dataset_json["channel_names"]),
            len(self.dataset_json["labels"]),
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
        )

    def target_gb(self, patch_size: Sequence[int], architecture: Mapping, batch_size: int) -> float:
        """GPU memory target that a training needs, in GB, by nnU-Net's measure. What it takes is `expected_gib`."""
        share = self.feature_map_size(patch_size, architecture) / self.UNet_reference_val_3d
        return share * self.UNet_reference_val_corresp_GB * batch_size / self.UNet_reference_val_corresp_bs_3d

    def expected_gib(
        self, patch_size: Sequence[int], architecture: Mapping, batch_size: int, *, deep_supervision: bool = True
    ) -> float:
        """GPU memory that a training is expected to take, in GiB."""
        channels, labels = (len(self.dataset_json[key]) for key in ("channel_names", "labels"))
        return expected_memory_gib(
            architecture,
            patch_size,
            batch_size,
            n_channels=channels,
            n_labels=labels,
            deep_supervision=deep_supervision,
        )

    def batch_size(
        self,
        patch_size: Sequence[int],
        architecture: Mapping,
        *,
        memory_factor: float = 1.0,
        at_most: int | None = None,
        wanted: int | None = None,
    ) -> int:
        """By nnU-Net's rule two at the memory target, more if the patch is smaller, at most a tenth of the cases.

        It is one if two exceed the target, as a patch of fixed size may. Else it is even, so that two GPUs can share it,
        and never above the target.

        Args:
            patch_size, architecture: Of the configuration.
            memory_factor: Multiple of the GPU memory target that may be used.
            at_most: Instead of a tenth of the cases.
            wanted: Instead of nnU-Net's rule, as far as they fit.
        """
        fits = 2 * memory_factor * self.memory_budget() / self.feature_map_size(patch_size, architecture)
        if fits < 2:
            return 1
        at_most = round(0.1 * len(self.dataset)) if at_most is None else at_most
        size = min(wanted or max(self.UNet_min_batch_size, at_most), int(fits))
        return max(2, size - size % 2)

    def plan_localizer(self, fullres_spacing_mm: np.ndarray, forward: Sequence[int]) -> dict:
        """Entries of `3d_lowres` that differ from `3d_fullres`. Its patch holds the body of every training case."""
        extent_mm = np.max([np.multiply(c.body_shape, c.spacing_mm) for c in self.scan().values()], axis=0)
        extent_mm = extent_mm[list(forward)]
        # Start from cubic voxels and coarsen until the patch, rounded up to a size that the network divides, fits the
        # budget. Axes that are coarser already stay as they are.
        cube_mm = (np.prod(extent_mm) / self.localizer_voxels) ** (1 / 3) / COARSEN_STEP
        patch = None
        while patch is None or np.prod(patch) > self.localizer_voxels:
            cube_mm *= COARSEN_STEP
            spacing = np.maximum(fullres_spacing_mm, cube_mm)
            patch, architecture = self.localizer_unet(spacing, [int(n) for n in np.ceil(extent_mm / spacing - 1e-6)])
        return {
            "data_identifier": self.generate_data_identifier(LOCALIZER),
            "spacing": [float(s) for s in spacing],
            "patch_size": list(patch),
            "batch_size": self.batch_size(patch, architecture, wanted=self.localizer_batch_size),
            "architecture": architecture,
            "next_stage": SEGMENTER,
        }

    def plan_segmenter(self, spacing_mm: np.ndarray, fit: RoiFit) -> dict:
        """Entries of `3d_cascade_fullres` that differ from `3d_fullres`. A patch holds the ROI or a part of it.

        If two patches are too large for the GPU memory target, they shrink along their longest axis. A patch smaller than
        the ROI slides over it, as nnU-Net does.
        """
        wanted = [int(np.ceil(size / s - 1e-6)) for size, s in zip(fit.rule.size_mm, spacing_mm, strict=True)]
        box, architecture = self.segmenter_unet(spacing_mm, wanted)
        step = np.prod(architecture["arch_kwargs"]["strides"], axis=0)
        # At least two voxels at the deepest stage, because one could not be normalised.
        share = np.maximum(2, np.ceil(self.segmenter_patch_share * np.array(box) / step - 1e-6).astype(int))
        patch = tuple(int(n) for n in np.minimum(box, step * share))
        wanted_patch = patch
        while self.feature_map_size(patch, architecture) > self.segmenter_memory_factor * self.memory_budget():
            axis = int(np.argmax(patch))
            smaller = list(patch)
            smaller[axis] -= 2 ** sum(s[axis] == 2 for s in architecture["arch_kwargs"]["strides"])
            patch, architecture = self.segmenter_unet(spacing_mm, smaller)
        if patch != wanted_patch:
            print(f"Patches of {wanted_patch} voxels exceed the GPU memory target: smaller ones are used.")
        if patch != box:
            print(f"Patches of {patch} will slide over the ROI of {box} voxels.")
        batch_size = self.batch_size(
            patch, architecture, memory_factor=self.segmenter_memory_factor, at_most=self.segmenter_batch_size
        )
        # The box is one that the network divides, so that a patch may be as large.
        rule = replace(fit.rule, size_mm=tuple(float(n * s) for n, s in zip(box, spacing_mm, strict=True)))
        return {
            **self.patch_entries(WHOLE_VOLUME, patch, architecture, batch_size=batch_size),
            "previous_stage": LOCALIZER,
            "roi": {**rule.to_plan(), "margin_mm": self.roi_margin_mm, "needed_mm": list(fit.needed_mm)},
        }

    def patch_entries(
        self, parent: str, patch: Sequence[int], architecture: Mapping, *, batch_size: int | None = None
    ) -> dict:
        """Entries that a configuration with the data of `parent` and a patch of its own adds to it."""
        return {
            "inherits_from": parent,
            "patch_size": list(patch),
            "batch_size": batch_size or self.batch_size(patch, architecture),
            "architecture": architecture,
            "deep_supervision": True,
        }

    def plan_experiment(self) -> dict:
        """Write `<plans_name>.json` and return its content."""
        cases = self.scan()
        forward = [int(i) for i in self.determine_transpose()[0]]
        spacing = self.determine_fullres_target_spacing()
        shapes = [compute_new_shape(c.body_shape, c.spacing_mm, spacing) for c in cases.values()]
        median_shape = np.median(shapes, axis=0)[forward]
        spacing = spacing[forward]

        fullres = self.get_plans_for_configuration(
            spacing,
            median_shape,
            self.generate_data_identifier(WHOLE_VOLUME),
            float(np.prod(median_shape)) * len(cases),
            {},
        )
        # Same patch size, our network: dropout, and the block counts of this planner.
        patch, fullres["architecture"] = self.segmenter_unet(spacing, fullres["patch_size"])
        fullres.update({"patch_size": list(patch), "batch_dice": True, "deep_supervision": True})
        fullres["batch_size"] = self.batch_size(patch, fullres["architecture"], wanted=fullres["batch_size"])
        lowres = {**fullres, **self.plan_localizer(spacing, forward)}
        organs = {name: transposed(c.organs, forward) for name, c in cases.items()}
        fit = fit_roi(organs, margin_mm=self.roi_margin_mm, jitter_mm=self.roi_jitter_mm)
        largest_body = np.max(shapes, axis=0)[forward]
        configurations = {LOCALIZER: lowres, WHOLE_VOLUME: fullres, SEGMENTER: self.plan_segmenter(spacing, fit)}
        configurations.update([plan_study_whole_volume(self, spacing, largest_body)])
        configurations.update([plan_study_localizer(self, spacing, largest_body)])
        configurations.update(plan_study_crops(self, spacing, largest_body, organs, configurations[SEGMENTER]))
        configurations.update(plan_rivals(self, spacing, largest_body, forward, organs))
        lowres["median_image_size_in_voxels"] = [
            round(float(n * s / t)) for n, s, t in zip(median_shape, spacing, lowres["spacing"], strict=True)
        ]
        for name, configuration in configurations.items():
            cropped = configuration.get("previous_stage") is not None
            like = LOCALIZER if name in (LOCALIZER, STUDY_LOCALIZER) else SEGMENTER if cropped else WHOLE_VOLUME
            configuration.setdefault(TRAINING_KEY, dict(vars(self.schedules[like])))
            if self.has_study_schedule and "phases" not in configuration:
                configuration[REFERENCE_KEY] = dict(vars(study_schedule(len(cases))))
            weight = self.localizer_foreground_weight if like == LOCALIZER else TrainingRecipe.foreground_weight
            recipe = TrainingRecipe(foreground_weight=weight, mirror_left_right=self.mirrors)
            configuration.setdefault("recipe", dict(vars(recipe)))

        return self.write(configurations, fit, forward, self.dataset_fingerprint[INTENSITIES_KEY])

    def write(
        self, configurations: dict[str, dict], fit: RoiFit, forward: Sequence[int], intensities: Mapping[str, Mapping]
    ) -> dict:
        """Write the plans file, and what belongs to it, and return its content.

        Args:
            configurations: Of the plan.
            fit: Of the ROI.
            forward: The plan's `transpose_forward`.
            intensities: Statistics by channel number, for nnU-Net's normalization of a CT.
        """
        cases = self.scan()
        assert self.head_crop is not None  # found by the scan
        shutil.copy(
            Path(self.raw_dataset_folder, "dataset.json"), Path(nnUNet_preprocessed, self.dataset_name, "dataset.json")
        )
        forward = list(forward)
        self.plans = {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_identifier,
            "original_median_spacing_after_transp": np.median([c.spacing_mm for c in cases.values()], axis=0)[forward],
            "original_median_shape_after_transp": [
                round(float(n)) for n in np.median([c.body_shape for c in cases.values()], axis=0)[forward]
            ],
            "image_reader_writer": self.determine_reader_writer().__name__,
            "transpose_forward": forward,
            "transpose_backward": [forward.index(axis) for axis in range(3)],
            # Arrays are read as (Z, Y, X) in a canonical orientation, so X is the patient's left-right axis.
            "left_right_axis": forward.index(2),
            PAIRS_KEY: [list(pair) for pair in self.pairs],
            **self.head_crop.to_plan(),
            "configurations": configurations,
            PLANS_KEY: fit_ranges(
                [c.organs for c in cases.values()],
                self.dataset_json["labels"],
                pairs=self.pairs,
                voxel_ml=median_voxel_ml(cases),
            ).to_plan(),
            "experiment_planner_used": self.__class__.__name__,
            "label_manager": "LabelManager",
            INTENSITIES_KEY: dict(intensities),
        }
        self.report(fit)
        self.save_plans(self.plans)
        self.save_splits(list(cases))
        return self.plans

    def report(self, fit: RoiFit) -> None:
        """Print a line per configuration, warnings about those too large for the GPU memory target, and odd cases."""
        for name in self.plans["configurations"]:
            c = {**self.plans["configurations"][WHOLE_VOLUME], **self.plans["configurations"][name]}
            mm = ", ".join(f"{s:.2f}" for s in c["spacing"])
            network = trained_patch(c), c["architecture"], c["batch_size"]
            print(
                f"{name}: spacing ({mm}) mm, patch {tuple(trained_patch(c))}, batch size {c['batch_size']}, "
                f"{gibibytes(self.expected_gib(*network, deep_supervision=c['deep_supervision']))} of GPU memory"
            )
            if name.startswith(ORGAN_CROPS):
                left_out = c["roi"]["left_out"]
                organs = [n for n, v in self.dataset_json["labels"].items() if v and v not in left_out]
                print(f"{name}: one crop around each of {', '.join(organs)}, placed by {c['previous_stage']}")
            if REDUCED_KEY in c:
                print(f"{name} is smaller than the study's: {c[REDUCED_KEY]}")
            target_gb = self.target_gb(*network)
            factor = self.segmenter_memory_factor if c.get("previous_stage") else 1
            if target_gb > factor * self.UNet_vram_target_GB and c["batch_size"] == 1:
                print(
                    f"WARNING: {name} needs a GPU memory target of {target_gb / factor:.1f} GB even with a batch size of 1, "
                    f"more than {self.UNet_vram_target_GB:g} GB. Train it on a larger GPU, planned for with "
                    f"-gpu_memory_target {int(np.ceil(target_gb / factor))}, or leave it out."
                )
        if self.plans.get(WHOLE_KEY):
            print(
                "Bodies are seen whole: in most cases the image ends inside the body at the top, as that of a trunk does"
            )
        else:
            print(f"Bodies are seen down to {self.plans[HEAD_CROP_KEY]['below_crown_mm']:g} mm below the crown")
        size_mm = self.plans["configurations"][SEGMENTER]["roi"]["size_mm"]
        print(
            f"ROI: {millimetres(size_mm)} (organs of all training cases need {millimetres(fit.needed_mm)}; "
            f"margin {self.roi_margin_mm:g} mm)"
        )
        exchanged = f"Mirroring exchanges {len(self.pairs)} pairs of labels, {PAIRS_KEY} of the plan"
        print(exchanged if self.mirrors else "Left and right are not mirrored, as dataset.json says")
        for case, lines in odd_label_maps(self.scan(), self.dataset_json["labels"]).items():
            print(f"Check the label map of case '{case}': {'; '.join(map(str, lines))}")
        if fit.incomplete_cases:
            print(f"Cases with organs missing: {', '.join(fit.incomplete_cases)}")

    def save_splits(self, cases: Sequence[str]) -> None:
        """Write `splits_final.json` with each person in one fold, if `dataset.json` says who has several cases.

        Raises:
            ValueError: If the file is there and puts a person into training and validation of one fold.
        """
        groups = self.dataset_json.get(SAME_PERSON_KEY, [])
        if not groups or len(persons_among(cases, groups)) < 2:
            return
        file = Path(nnUNet_preprocessed, self.dataset_name, "splits_final.json")
        if file.is_file():
            for fold, trained, validated in divided_persons(read_splits(file), groups):
                raise ValueError(
                    f"{file}: fold {fold} trains on case '{trained}' and validates on '{validated}' of the same person; "
                    "delete the file, and plan again"
                )
            return
        splits = person_splits(cases, groups)
        with written_whole(file) as temporary:
            save_json(splits, str(temporary), sort_keys=False)
        print(f"{len(splits)} folds with each person in one of them were saved to {file}")

    def save_plans(self, plans: dict) -> None:
        """Write the plans as they are. nnU-Net would merge configurations of an older file of the same name.

        An older file that differs is kept as `<plans_name>.json.old`.
        """
        recursive_fix_for_json_export(plans)
        file = Path(nnUNet_preprocessed, self.dataset_name, f"{self.plans_identifier}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and not _holds(file, json.loads(json.dumps(plans))):
            os.replace(file, f"{file}.old")
            print(f"An older {file.name} differed; it is kept as {file.name}.old")
        with written_whole(file) as temporary:
            save_json(plans, str(temporary), sort_keys=False)
        print(f"Plans were saved to {file}")


@cache
def _estimate(patch_size: tuple[int, ...], network: str) -> float:
    """nnU-Net's measure of memory for a network whose arguments are JSON. Many configurations have the same."""
    arguments, options = json.loads(network)
    with torch.device("meta"):
        return ResEncUNetPlanner.static_estimate_VRAM_usage(patch_size, *arguments, **options)


def _holds(file: Path, content: object) -> bool:
    """Whether a JSON file holds this content. A file that can't be read does not."""
    try:
        return read_json(file) == content
    except ValueError:
        return False


def gibibytes(gib: float) -> str:
    """A memory for a person."""
    return f"about {gib:.1f} GiB"
