"""Planners of the cascade: one plans file with localizer, whole-volume baselines, segmenter and crops of given size.

Run by `nnUNetv2_plan_and_preprocess -d ID -pl CascadeOARPlanner` (or `CascadeOARPlannerSmall`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from tqdm import tqdm

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.plausibility import PLANS_KEY, fit_ranges, unlike_the_others
from nnunet_ext.cascade.preprocessor import body_box
from nnunet_ext.cascade.resampling import resample_image, resample_label_map
from nnunet_ext.cascade.roi_fitting import RoiFit, fit_roi, too_large
from nnunet_ext.files import read_json, written_whole
from nnunet_ext.images.checks import check_arrays
from nnunet_ext.images.label_maps import shown_values
from nnunet_ext.labels.pairs import MIRROR_KEY, PAIRS_KEY, check_mirroring, dataset_pairs, unclear_sides
from nnunet_ext.labels.sides import side_of
from nnunet_ext.labels.values import pair_values
from nnunet_ext.labels.volumes import impossible_volumes, refuse_whole_image
from nnunet_ext.nnunet_folders import find_dataset, need, read_dataset_json
from nnunet_ext.training.recipe import TrainingRecipe
from nnunet_ext.training.schedule import TrainingSchedule

LOCALIZER, WHOLE_VOLUME, SEGMENTER = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
#: The reference study's patches in voxels, coarsest axis first; its grid is 1.25 x 0.8 x 0.8 mm.
STUDY_WHOLE_VOLUME = (80, 256, 256)
STUDY_CROPS = ((32, 128, 128), (32, 96, 96), (16, 64, 64))

#: One case far finer than the rest must not set the grid of all: no target spacing below this share of the median.
FINEST_SHARE_OF_MEDIAN = 0.6
#: Along an axis on which the cases differ, the grid is this much finer than the finest: room for later cases that are finer
#: still. Where all cases agree, their own grid is kept and nothing is resampled.
FINER_THAN_FINEST = 0.95
#: Step in which the localizer's spacing is coarsened.
COARSEN_STEP = 1.02


@dataclass(frozen=True)
class ScannedCase:
    """What planning needs of one training case; axes as read, `(Z, Y, X)`."""

    spacing_mm: tuple[float, ...]
    body_shape: tuple[int, ...]
    organs: Mapping[int, roi.OrganExtent]


def scan_case(
    name: str,
    image_files: Sequence[str],
    label_file: str,
    *,
    reader: BaseReaderWriter,
    channel_names: Mapping[str, str],
    labels: Mapping[str, int],
) -> ScannedCase:
    """Body size and organ extents of one training case.

    Raises:
        ValueError: If a file can't be read, images and label map differ in size, the label map holds a value that is not
            in `labels`, a channel holds nothing, or the reader leaves the axes in a non-canonical order.
    """
    try:
        images, properties = reader.read_images(list(image_files))
        label_map, _ = reader.read_seg(label_file)
    except Exception as e:  # each reader raises what its library raises, nnU-Net a RuntimeError where channels differ
        raise ValueError(
            f"case '{name}': can't be read ({type(e).__name__}: {e}); a file is missing or damaged, or the channels differ "
            f"in size. Files: {', '.join([*image_files, label_file])}."
        ) from e
    if label_map.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"case '{name}': images have size {images.shape[1:]} (Z, Y, X), the label map {label_map.shape[1:]}. "
            f"File: {label_file}. Convert the dataset with nnunet_ext convert."
        )
    if isinstance(reader, SimpleITKIO):
        direction = np.reshape(properties["sitk_stuff"]["direction"], (3, 3))
        if not (np.argmax(np.abs(direction), axis=0) == np.arange(3)).all() or (np.diag(direction) < 0).any():
            raise ValueError(
                f"case '{name}': its axes are not in LPS order (direction {np.round(direction, 2).tolist()}) and "
                f"SimpleITKIO reads arrays as they are stored. File: {label_file}. Convert the dataset with nnunet_ext "
                "convert, or set overwrite_image_reader_writer to NibabelIOWithReorient in dataset.json."
            )
    spacing = tuple(float(s) for s in properties["spacing"])
    # Whole numbers, not nearly: nnU-Net's preprocessing cuts 0.9999999 down to 0.
    if (cut := label_map != np.trunc(label_map)).any():
        raise ValueError(
            f"case '{name}': the label map holds {shown_values(np.unique(label_map[cut]).tolist())}, no whole number, which "
            f"nnU-Net would cut down. File: {label_file}. Convert the dataset with nnunet_ext convert, or round it."
        )
    known = {0, *labels.values()}
    if not min(known) <= label_map.min() <= label_map.max() <= max(known):
        unknown = sorted(set(np.unique(label_map).tolist()) - known)
    else:
        organs = roi.organ_extents(label_map[0].astype(np.int32), spacing_mm=spacing)
        unknown = sorted(set(organs) - known)
    if unknown:
        raise ValueError(
            f"case '{name}': label values [{shown_values(unknown)}] are not in dataset.json ({dict(labels)}). "
            f"File: {label_file}."
        )
    try:
        channels = [channel_names[number] for number in sorted(channel_names, key=int)]
        check_arrays(dict(zip(channels, images, strict=False)), spacing_mm=spacing)
        refuse_whole_image(label_map[0], {organ: value for organ, value in labels.items() if value in organs})
    except ValueError as error:
        raise ValueError(f"case '{name}': {error}. Files: {', '.join([*image_files, label_file])}.") from None
    box = body_box(images, spacing_mm=spacing, channel_names=channel_names)
    return ScannedCase(
        spacing_mm=spacing,
        body_shape=tuple(upper - lower for lower, upper in box),
        organs=organs,
    )


def transposed(organs: Mapping[int, roi.OrganExtent], forward: Sequence[int]) -> dict[int, roi.OrganExtent]:
    """Organ extents with their axes in the plan's order."""

    def move(v: Sequence[float]) -> tuple[float, ...]:
        return tuple(v[i] for i in forward)

    return {
        k: replace(o, centroid_mm=move(o.centroid_mm), lower_mm=move(o.lower_mm), upper_mm=move(o.upper_mm))
        for k, o in organs.items()
    }


def by(size: Sequence[int]) -> str:
    """A size in voxels as it stands in a configuration's name."""
    return "x".join(str(n) for n in size)


def millimetres(size_mm: Sequence[float]) -> str:
    """A size for a person."""
    return " x ".join(f"{x:.0f}" for x in size_mm) + " mm"


def gigabytes(gb: float) -> str:
    """A memory for a person."""
    return f"about {gb:.1f} GB" if gb >= 0.1 else "less than 0.1 GB"


class CascadeOARPlanner(ResEncUNetPlanner):
    """Plans `3d_lowres` (localizer), `3d_fullres` (whole-volume baseline) and `3d_cascade_fullres` (segmenter).

    Beside them the reference study's `3d_fullres_80x256x256` and `3d_cascade_32x128x128`, `..._32x96x96`,
    `..._16x64x64`: `3d_fullres` and `3d_cascade_fullres` with the patch named, from the same preprocessed data. Organs
    too large for a crop are left out of it (`roi.left_out`), and a crop that holds no organ is not planned; both are said.
    A patch is never larger than the largest body.

    Differences from nnU-Net's planners:

    - target spacing: the finest of the training set along each axis (guarded), not the median: a grid coarser than a
      case's own can't hold an organ of one or two voxels;
    - label maps are resampled by `resample_label_map`, so that what small organs lose on the way there comes back;
    - the localizer's spacing is chosen so that every training body fits into one patch;
    - the ROI's size is measured on the training labels (`cascade.roi_fitting.fit_roi`);
    - left and right labels are paired by name, or as `left_right_pairs` in `dataset.json` says, and stand in the plan.
      A name that looks sided and has not one partner stops planning, unless `mirror_left_right` is false there;
    - no `2d`, and no configuration survives from an older plans file of the same name.

    `-overwrite_target_spacing Z Y X` sets the grid of `3d_fullres` and the segmenter; the reference study used
    1.25 0.8 0.8 mm.
    """

    #: Voxels in the localizer's patch, at most: about 3.3 mm for a head. The box needs little more than the eyes (it is
    #: voted for), and four times as many voxels made localizing the slowest step of a prediction without a GPU.
    localizer_voxels = 80**3
    localizer_features = 32
    #: Weight of the organs in the localizer's cross entropy (`recipe.foreground_weight`).
    localizer_foreground_weight = TrainingRecipe.foreground_weight
    #: Room around the organs: the localizer's error and anatomy unlike the training set's.
    roi_margin_mm = 10.0
    #: Largest shift of the box in training, along each axis.
    roi_jitter_mm = 5.0
    dropout = 0.1
    localizer_batch_size: int | None = None
    #: Of the study's crops.
    crop_batch_size: int | None = None
    #: Length of the segmenter's patch along each axis, as a share of the ROI. Small patches find nerves, chiasm and lenses
    #: sooner than the whole ROI at the same cost; with two thirds, eight windows predict the ROI (`results/recipes.md`).
    segmenter_patch_share = 2 / 3
    #: So many patches at a time, where the GPU memory target has room for them.
    segmenter_batch_size = 4
    #: Multiple of the GPU memory target that the segmenter may use.
    segmenter_memory_factor = 1.0
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
        plans_name: str = "CascadeOARPlans",
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        # nnUNetv2_plan_and_preprocess always names a preprocessor; its default would not crop.
        if preprocessor_name == "DefaultPreprocessor":
            preprocessor_name = "CascadeOARPreprocessor"
        file = find_dataset("nnUNet_raw", dataset_name_or_id, "raw data sets") / "dataset.json"
        for key in ("labels", "channel_names", "file_ending"):
            need(read_dataset_json(file), key, file)
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.scanned: dict[str, ScannedCase] | None = None
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

    # --- what the data say -------------------------------------------------------------------------------------------

    def determine_reader_writer(self) -> type[BaseReaderWriter]:
        """nnU-Net's reorienting reader for NIfTI unless `dataset.json` names one: left must be left in every case."""
        named = self.dataset_json.get("overwrite_image_reader_writer", "None")
        if named == "None" and self.dataset_json["file_ending"] in NibabelIOWithReorient.supported_file_endings:
            return NibabelIOWithReorient
        return super().determine_reader_writer()

    def scan(self) -> dict[str, ScannedCase]:
        """Body sizes and organ extents of all training cases; read once per planner.

        Raises:
            ValueError: Listing every case that can't be used.
        """
        if self.scanned is not None:
            return self.scanned
        reader = self.determine_reader_writer()()

        def one(name: str) -> ScannedCase | ValueError:
            try:
                files = self.dataset[name]
                return scan_case(
                    name,
                    files["images"],
                    files["label"],
                    reader=reader,
                    channel_names=self.dataset_json["channel_names"],
                    labels=self.dataset_json["labels"],
                )
            except ValueError as e:
                return e

        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            results = list(
                tqdm(pool.map(one, self.dataset), total=len(self.dataset), desc="Measuring organs and bodies")
            )
        if errors := [str(r) for r in results if isinstance(r, ValueError)]:
            raise ValueError(f"{len(errors)} training cases can't be planned:\n" + "\n".join(errors))
        self.scanned = dict(zip(self.dataset, results, strict=True))
        return self.scanned

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """Finest spacing of the training set along each axis `(Z, Y, X)`; see `FINER_THAN_FINEST` and the guard above it."""
        if self.overwrite_target_spacing is not None:
            return np.array(self.overwrite_target_spacing)
        spacings = np.array([c.spacing_mm for c in self.scan().values()])
        finest = spacings.min(0)
        mixed = spacings.max(0) > 1.01 * finest
        finest[mixed] *= FINER_THAN_FINEST
        return np.maximum(finest, FINEST_SHARE_OF_MEDIAN * np.median(spacings, axis=0))

    def determine_resampling(self, *args, **kwargs):
        """Images as nnU-Net does, faster; label maps by `cascade.resampling.resample_label_map`: keeps small organs."""
        return resample_image, {"force_separate_z": None}, resample_label_map, {"force_separate_z": None}

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """nnU-Net's schemes, never with the nonzero mask: the body crop replaces it."""
        schemes, mask = super().determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        return schemes, [False] * len(mask)

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Our data are cropped differently and are never shared with other plans."""
        return f"{self.plans_identifier}_{configuration_name}"

    # --- configurations ----------------------------------------------------------------------------------------------

    def segmenter_unet(self, spacing_mm: Sequence[float], patch_size: Sequence[int]) -> tuple[tuple[int, ...], dict]:
        """The segmenter's network: residual blocks, strided convolutions, InstanceNorm, LeakyReLU, dropout."""
        dropout = "torch.nn.modules.dropout.Dropout3d" if self.dropout else None
        return self.architecture(
            spacing_mm,
            patch_size,
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

    def localizer_unet(self, spacing_mm: Sequence[float], patch_size: Sequence[int]) -> tuple[tuple[int, ...], dict]:
        """The localizer's network: conv-BN-ReLU, two a stage, and max pooling."""
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
        spacing_mm: Sequence[float],
        patch_size: Sequence[int],
        *,
        features: int,
        n_blocks_per_stage: Sequence[int],
        n_conv_per_stage_decoder: Sequence[int],
        **options: str | bool | dict | None,
    ) -> tuple[tuple[int, ...], dict]:
        """Patch size rounded up to what the network divides, and the plan's `architecture` entry.

        Args:
            features: Features of the first stage; doubled per stage up to nnU-Net's limit.
            n_blocks_per_stage, n_conv_per_stage_decoder: Of `CascadeUNet`, for at least as many stages as there will be.
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

    def feature_map_size(self, patch_size: Sequence[int], architecture: Mapping) -> float:
        return self.static_estimate_VRAM_usage(
            patch_size,
            len(self.dataset_json["channel_names"]),
            len(self.dataset_json["labels"]),
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
        )

    def memory_gb(self, patch_size: Sequence[int], architecture: Mapping, batch_size: int) -> float:
        """GPU memory that a training takes, in GB: nnU-Net's estimate, which is for a batch of two."""
        share = self.feature_map_size(patch_size, architecture) / self.UNet_reference_val_3d
        return share * self.UNet_reference_val_corresp_GB * batch_size / self.UNet_reference_val_corresp_bs_3d

    def batch_size(
        self,
        patch_size: Sequence[int],
        architecture: Mapping,
        *,
        memory_factor: float = 1.0,
        at_most: int | None = None,
        wanted: int | None = None,
    ) -> int:
        """nnU-Net's rule: two at the memory target, more where the patch is smaller, at most a tenth of the cases.

        Where two exceed the target, as a patch that is fixed by its name may, it is one.

        Args:
            patch_size, architecture: Of the configuration.
            memory_factor: Multiple of the GPU memory target that may be used.
            at_most: Instead of a tenth of the cases.
            wanted: Instead of nnU-Net's rule, where two fit.
        """
        fits = 2 * memory_factor * self.memory_budget() / self.feature_map_size(patch_size, architecture)
        if fits < 2:
            return 1
        at_most = round(0.1 * len(self.dataset)) if at_most is None else at_most
        return wanted or int(max(self.UNet_min_batch_size, min(round(fits), at_most)))

    def plan_localizer(self, fullres_spacing_mm: np.ndarray, forward: Sequence[int]) -> dict:
        """Entries of `3d_lowres` that differ from `3d_fullres`: the whole body of every training case in one patch."""
        extent_mm = np.max([np.multiply(c.body_shape, c.spacing_mm) for c in self.scan().values()], axis=0)
        extent_mm = extent_mm[list(forward)]
        # Start from cubic voxels and coarsen until the patch, rounded up to what the network divides, fits the budget.
        # Axes that are coarser already stay as they are.
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
        """Entries of `3d_cascade_fullres` that differ from `3d_fullres`: the ROI in one patch, or in parts of it.

        Where two patches are too large for the GPU memory target, they shrink along their longest axis. A patch smaller than
        the ROI slides over it, as nnU-Net does.
        """
        wanted = [int(np.ceil(size / s - 1e-6)) for size, s in zip(fit.rule.size_mm, spacing_mm, strict=True)]
        box, architecture = self.segmenter_unet(spacing_mm, wanted)
        step = np.prod(architecture["arch_kwargs"]["strides"], axis=0)
        # Two voxels at the deepest stage, at least: one could not be normalised.
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
        limits = {"memory_factor": self.segmenter_memory_factor, "at_most": self.segmenter_batch_size}
        batch_size = self.batch_size(patch, architecture, **limits)
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
        """What a configuration with the data of `parent` and a patch of its own adds to it."""
        return {
            "inherits_from": parent,
            "patch_size": list(patch),
            "batch_size": batch_size or self.batch_size(patch, architecture),
            "architecture": architecture,
            "deep_supervision": True,
        }

    def plan_study_whole_volume(self, spacing_mm: np.ndarray, largest_body: np.ndarray) -> tuple[str, dict]:
        """Name and entries of the reference study's whole-volume configuration; `largest_body` in voxels."""
        patch, architecture = self.segmenter_unet(spacing_mm, np.minimum(STUDY_WHOLE_VOLUME, largest_body).tolist())
        return f"{WHOLE_VOLUME}_{by(STUDY_WHOLE_VOLUME)}", self.patch_entries(WHOLE_VOLUME, patch, architecture)

    def plan_study_crops(
        self,
        spacing_mm: np.ndarray,
        largest_body: np.ndarray,
        cases: Mapping[str, Mapping[int, roi.OrganExtent]],
        segmenter: Mapping,
    ) -> dict[str, dict]:
        """Name -> entries of the reference study's crops that hold an organ; says which organs each leaves out.

        The study cuts one crop around each organ. Here patches of that size are trained all over the ROI, a share of them
        around organs (`recipe.organ_patches`), and slide over it at prediction, as nnU-Net does.

        Args:
            spacing_mm, largest_body: Of the grid, in plan axes; the body in voxels.
            cases: Extents of the organs.
            segmenter: Entries of `3d_cascade_fullres`, whose ROI they share.
        """
        planned = {}
        names = {v: n for n, v in self.dataset_json["labels"].items()}
        pairs = pair_values(self.pairs, self.dataset_json["labels"])
        for crop in STUDY_CROPS:
            name = f"{SEGMENTER.removesuffix('fullres')}{by(crop)}"
            patch, architecture = self.segmenter_unet(spacing_mm, np.minimum(crop, largest_body).tolist())
            crop_mm = np.multiply(patch, spacing_mm)
            large = too_large(cases, crop_mm, voxel_mm=spacing_mm, pairs=pairs)
            for label, needed_mm in large.items():
                print(
                    f"{name}: {names[label]} is left out: it is {millimetres(needed_mm)}, the crop {millimetres(crop_mm)}"
                )
            if large.keys() == set().union(*cases.values()):
                print(f"{name} is left out: no organ fits it")
                continue
            batch_size = self.batch_size(
                patch, architecture, memory_factor=self.segmenter_memory_factor, wanted=self.crop_batch_size
            )
            planned[name] = {
                **self.patch_entries(WHOLE_VOLUME, patch, architecture, batch_size=batch_size),
                "previous_stage": LOCALIZER,
                "roi": {
                    **segmenter["roi"],
                    "size_mm": np.maximum(segmenter["roi"]["size_mm"], crop_mm).tolist(),
                    "left_out": list(large),
                },
            }
        return planned

    def plan_experiment(self) -> dict:
        """Write `<plans_name>.json` and return its content."""
        cases = self.scan()
        forward, backward = self.determine_transpose()
        forward, backward = [int(i) for i in forward], [int(i) for i in backward]
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
        configurations.update([self.plan_study_whole_volume(spacing, largest_body)])
        configurations.update(self.plan_study_crops(spacing, largest_body, organs, configurations[SEGMENTER]))
        lowres["median_image_size_in_voxels"] = [
            round(float(n * s / t)) for n, s, t in zip(median_shape, spacing, lowres["spacing"], strict=True)
        ]
        for name, configuration in configurations.items():
            cropped = configuration.get("previous_stage") is not None
            like = name if name in self.schedules else SEGMENTER if cropped else WHOLE_VOLUME
            configuration["training"] = dict(vars(self.schedules[like]))
            weight = self.localizer_foreground_weight if name == LOCALIZER else TrainingRecipe.foreground_weight
            recipe = TrainingRecipe(foreground_weight=weight, mirror_left_right=self.mirrors)
            configuration["recipe"] = dict(vars(recipe))

        shutil.copy(
            Path(self.raw_dataset_folder, "dataset.json"), Path(nnUNet_preprocessed, self.dataset_name, "dataset.json")
        )
        self.plans = {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_identifier,
            "original_median_spacing_after_transp": np.median([c.spacing_mm for c in cases.values()], axis=0)[forward],
            "original_median_shape_after_transp": [
                round(float(n)) for n in np.median([c.body_shape for c in cases.values()], axis=0)[forward]
            ],
            "image_reader_writer": self.determine_reader_writer().__name__,
            "transpose_forward": forward,
            "transpose_backward": backward,
            # Arrays are read as (Z, Y, X) in a canonical orientation, so X is the patient's left-right axis.
            "left_right_axis": forward.index(2),
            PAIRS_KEY: [list(pair) for pair in self.pairs],
            "configurations": configurations,
            PLANS_KEY: fit_ranges(
                [c.organs for c in cases.values()],
                self.dataset_json["labels"],
                pairs=self.pairs,
                voxel_ml=float(np.median([np.prod(c.spacing_mm) for c in cases.values()])) / 1000,
            ).to_plan(),
            "experiment_planner_used": self.__class__.__name__,
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": self.dataset_fingerprint[
                "foreground_intensity_properties_per_channel"
            ],
        }
        self.report(fit)
        self.save_plans(self.plans)
        return self.plans

    def report(self, fit: RoiFit) -> None:
        """Print what was planned, in a line per configuration, and which of them the GPU memory target has no room for."""
        for name in self.plans["configurations"]:
            c = {**self.plans["configurations"][WHOLE_VOLUME], **self.plans["configurations"][name]}
            mm = ", ".join(f"{s:.2f}" for s in c["spacing"])
            memory_gb = self.memory_gb(c["patch_size"], c["architecture"], c["batch_size"])
            print(
                f"{name}: spacing ({mm}) mm, patch {tuple(c['patch_size'])}, batch size {c['batch_size']}, "
                f"{gigabytes(memory_gb)} of GPU memory"
            )
            factor = self.segmenter_memory_factor if c.get("previous_stage") else 1
            if memory_gb > factor * self.UNet_vram_target_GB and c["batch_size"] == 1:
                print(
                    f"WARNING: {name} needs {gigabytes(memory_gb)} of GPU memory even with a batch size of 1, more "
                    f"than the target of {factor * self.UNet_vram_target_GB:g} GB. Train it on a larger GPU, planned for "
                    f"with -gpu_memory_target {int(np.ceil(memory_gb / factor))}, or leave it out."
                )
        size_mm = self.plans["configurations"][SEGMENTER]["roi"]["size_mm"]
        print(
            f"ROI: {millimetres(size_mm)} (organs of all training cases need {millimetres(fit.needed_mm)}; "
            f"margin {self.roi_margin_mm:g} mm)"
        )
        exchanged = f"Mirroring exchanges {len(self.pairs)} pairs of labels, {PAIRS_KEY} of the plan"
        print(exchanged if self.mirrors else "Left and right are not mirrored, as dataset.json says")
        cases, labels = self.scan(), self.dataset_json["labels"]
        voxel_ml = float(np.median([np.prod(c.spacing_mm) for c in cases.values()])) / 1000
        unlike = unlike_the_others({name: c.organs for name, c in cases.items()}, labels, voxel_ml=voxel_ml)
        names = {value: organ for organ, value in labels.items() if isinstance(value, int)}
        for case, scanned in cases.items():
            volumes_ml = {names[value]: extent.volume_ml for value, extent in scanned.organs.items()}
            if lines := unlike.get(case) or impossible_volumes(volumes_ml):
                print(f"Check the label map of case '{case}': {'; '.join(lines)}")
        if fit.incomplete_cases:
            print(f"Cases with organs missing: {', '.join(fit.incomplete_cases)}")

    def save_plans(self, plans: dict) -> None:
        """Write the plans as they are; nnU-Net would merge configurations of an older file of the same name.

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


def _holds(file: Path, content: object) -> bool:
    """Whether a JSON file holds this; one that cannot be read does not."""
    try:
        return read_json(file) == content
    except ValueError:
        return False


class CascadeOARPlannerSmall(CascadeOARPlanner):
    """`CascadeOARPlanner` for laptops, continuous integration and the demo: 8 base features and short schedules.

    The localizer is kept coarse: at the cost of the segmenter it learned nothing in the time it is given here. Weighting its
    few organ voxels more finds the eyes in fewer epochs (`results/recipes.md`).
    """

    localizer_voxels = 40 * 40 * 48
    localizer_features = 8
    localizer_foreground_weight = 25.0
    dropout = 0.0
    localizer_batch_size = 2
    crop_batch_size = 2
    segmenter_memory_factor = 32.0  # the target below keeps the whole-volume patch small; this one's goes up to 8 GB
    schedules = {  # noqa: RUF012  (read only)
        LOCALIZER: TrainingSchedule(24, 25, 4, initial_lr=6e-3),
        WHOLE_VOLUME: TrainingSchedule(40, 25, 4, initial_lr=6e-3),
        SEGMENTER: TrainingSchedule(40, 25, 4, initial_lr=6e-3),
    }

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 0.25,
        preprocessor_name: str = "CascadeOARPreprocessor",
        plans_name: str = "CascadeOARPlansSmall",
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.UNet_base_num_features = 8
        self.UNet_blocks_per_stage_encoder = (1, 2, 2, 2, 2, 2, 2, 2)
