"""The reference study's whole-volume and crop configurations, planned beside those of the cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.organ_crops import OrganCropUNet
from nnunet_ext.cascade.preprocessor import RESCALED
from nnunet_ext.cascade.roi_fitting import too_large
from nnunet_ext.images.channels import is_ct
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import LOCALIZER, ONE_RANGE_KEY, SEGMENTER, STUDY_LOCALIZER, WHOLE_VOLUME
from nnunet_ext.training.person_splits import N_FOLDS
from nnunet_ext.training.schedule import TrainingSchedule

if TYPE_CHECKING:
    from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner

#: The study's patches in voxels, coarsest axis first. The study's grid is 1.25 x 0.8 x 0.8 mm.
STUDY_WHOLE_VOLUME = (80, 256, 256)
STUDY_CROPS = ((32, 128, 128), (32, 96, 96), (16, 64, 64))
#: Features of the first stage of the study's localizer, a 3D U-Net as published.
STUDY_LOCALIZER_FEATURES = 32
#: Begins the names of the configurations with one crop per organ.
ORGAN_CROPS = "3d_organ_crops_"
#: Key of a configuration that is smaller than the study's. It says in which way.
REDUCED_KEY = "reduced"


#: Epochs at most, each a pass over the cases, and those without a better score after which the training ends. The study
#: stopped early, after about 100 to 150 epochs, and does not say by which rule.
STUDY_EPOCHS, STUDY_PATIENCE_EPOCHS = 150, 30


def study_schedule(n_cases: int) -> TrainingSchedule:
    """The study's schedule for the folds of so many cases, with a batch size of 1.

    The loader draws a case for each iteration. So an epoch has as many patches as a fold has training cases, not one of
    each.
    """
    n_validated = max(1, round(n_cases / N_FOLDS))
    return TrainingSchedule(
        STUDY_EPOCHS, max(1, n_cases - n_validated), n_validated, patience_epochs=STUDY_PATIENCE_EPOCHS
    )


def normalization_of(dataset_json: Mapping, schemes: Sequence[str], *, where: str) -> list[str]:
    """nnU-Net's normalization of each channel. It is the study's one range, 0 to 1, if `dataset.json` says so.

    Raises:
        ValueError: If the entry is no truth value, or the CT has no window. Metal would then set the range.
    """
    one_range = dataset_json.get(ONE_RANGE_KEY, False)
    if not isinstance(one_range, bool):
        raise ValueError(f"{where}: {ONE_RANGE_KEY} is {one_range!r}; write true or false.")
    if not one_range:
        return list(schemes)
    recorded = dataset_json.get("nnunet_ext")
    has_ct = any(map(is_ct, dataset_json["channel_names"].values()))
    if has_ct and recorded is not None and recorded.get("window_hu") is None:
        raise ValueError(
            f"{where}: {ONE_RANGE_KEY} needs a CT with a window, else metal sets the range. Convert the cases with "
            "--window-hu LO HI --one-range."
        )
    return [RESCALED] * len(schemes)


def plan_study_whole_volume(
    planner: CascadeOARPlanner, spacing_mm: np.ndarray, largest_body: np.ndarray
) -> tuple[str, dict]:
    """Name and entries of the study's whole-volume configuration.

    Args:
        planner: Chooses network and batch size.
        spacing_mm: Of the grid, in plan axes.
        largest_body: In voxels of the grid.
    """
    patch, architecture = planner.segmenter_unet(spacing_mm, np.minimum(STUDY_WHOLE_VOLUME, largest_body).tolist())
    return f"{WHOLE_VOLUME}_{by(STUDY_WHOLE_VOLUME)}", planner.patch_entries(WHOLE_VOLUME, patch, architecture)


def plan_study_localizer(
    planner: CascadeOARPlanner, spacing_mm: np.ndarray, largest_body: np.ndarray
) -> tuple[str, dict]:
    """Name and entries of the study's localizer, a 3D U-Net on the whole volume at full resolution.

    It has no deep supervision, and uses the preprocessed data of `3d_fullres`. Its label maps are written for those data
    too, so that any segmenter may name it as its `previous_stage`. A planner with a smaller patch or fewer features says so
    under `reduced`.

    Args:
        planner, spacing_mm, largest_body: See `plan_study_whole_volume`.
    """
    wanted, features = planner.study_localizer_patch, planner.localizer_features
    patch, architecture = planner.localizer_unet(spacing_mm, np.minimum(wanted, largest_body).tolist())
    batch_size = planner.batch_size(patch, architecture, wanted=planner.localizer_batch_size)
    entries = {
        **planner.patch_entries(WHOLE_VOLUME, patch, architecture, batch_size=batch_size),
        "deep_supervision": False,
        "next_stage": SEGMENTER,
    }
    if wanted != STUDY_WHOLE_VOLUME or features != STUDY_LOCALIZER_FEATURES:
        entries[REDUCED_KEY] = f"patches of at most {by(wanted)} voxels, {features} features in the first stage"
    return STUDY_LOCALIZER, entries


def plan_study_crops(
    planner: CascadeOARPlanner,
    spacing_mm: np.ndarray,
    largest_body: np.ndarray,
    cases: Mapping[str, Mapping[int, roi.OrganExtent]],
    segmenter: Mapping,
) -> dict[str, dict]:
    """Name -> entries of the study's crops that hold an organ. Prints the organs that each crop leaves out.

    Each size is planned twice. `3d_cascade_..` has patches of that size, trained all over the ROI, a share of them around
    organs (`recipe.organ_patches`). They slide over the ROI at prediction, as nnU-Net does. `3d_organ_crops_..` has one
    crop around each organ, as the study has (`cascade.organ_crops`).

    Args:
        planner: Chooses network and batch size.
        spacing_mm: Of the grid, in plan axes.
        largest_body: In voxels of the grid.
        cases: Case -> extents of its organs, plan axes.
        segmenter: Entries of `3d_cascade_fullres`, whose ROI the crops share.
    """
    planned = {}
    labels = planner.dataset_json["labels"]
    names = {v: n for n, v in labels.items()}
    pairs = pair_values(planner.pairs, labels)
    for crop in STUDY_CROPS:
        name = f"{SEGMENTER.removesuffix('fullres')}{by(crop)}"
        patch, architecture = planner.segmenter_unet(spacing_mm, np.minimum(crop, largest_body).tolist())
        crop_mm = np.multiply(patch, spacing_mm)
        large = too_large(cases, crop_mm, voxel_mm=spacing_mm, pairs=pairs)
        for label, needed_mm in large.items():
            print(
                f"{name}: {names[label]} is left out: it is {millimetres(needed_mm)}, the crop {millimetres(crop_mm)}"
            )
        if large.keys() == set().union(*cases.values()):
            print(f"{name} is left out: no organ fits it")
            continue
        batch_size = planner.batch_size(
            patch, architecture, memory_factor=planner.segmenter_memory_factor, wanted=planner.crop_batch_size
        )
        planned[name] = {
            **planner.patch_entries(WHOLE_VOLUME, patch, architecture, batch_size=batch_size),
            "previous_stage": LOCALIZER,
            "roi": {
                **segmenter["roi"],
                "size_mm": np.maximum(segmenter["roi"]["size_mm"], crop_mm).tolist(),
                "left_out": list(large),
            },
        }
        organ_crops = plan_organ_crops(planner, planned[name], spacing_mm, largest_body, cases)
        planned[name.replace(SEGMENTER.removesuffix("fullres"), ORGAN_CROPS)] = organ_crops
    return planned


def plan_organ_crops(
    planner: CascadeOARPlanner,
    sliding: Mapping,
    spacing_mm: np.ndarray,
    largest_body: np.ndarray,
    cases: Mapping[str, Mapping[int, roi.OrganExtent]],
) -> dict:
    """Entries of a configuration with one crop per organ, of the size of the patches of another that slide over the ROI.

    Its `patch_size` is the window that nnU-Net's predictor hands the network. It holds all crops of all training cases, and
    the margin. So does `roi.size_mm`, the box that is cut out. The trainer trains on patches of `crop_size`.

    Args:
        planner: Knows the margin.
        sliding: Entries of the other configuration.
        spacing_mm, largest_body, cases: See `plan_study_crops`.
    """
    rule = roi.RoiRule.from_plan(sliding["roi"])
    crop_mm = np.multiply(sliding["patch_size"], spacing_mm)
    half = np.zeros(len(crop_mm))
    for organs in cases.values():
        centre, _, _ = roi.vote_centre(organs, rule)
        for organ in organs.keys() - set(rule.left_out):
            assert centre is not None  # every organ votes
            half = np.maximum(half, np.abs(np.subtract(roi.middle_of(organs[organ]), centre)) + crop_mm / 2)
    options = sliding["architecture"]["arch_kwargs"]
    step = np.prod(options["strides"], axis=0)
    wanted = np.minimum(2 * (half + planner.roi_margin_mm) / spacing_mm, largest_body)
    window = step * np.ceil(wanted / step - 1e-6).astype(int)
    architecture = {
        **sliding["architecture"],
        "network_class_name": f"{OrganCropUNet.__module__}.{OrganCropUNet.__name__}",
        "arch_kwargs": {**options, "crop_size": list(sliding["patch_size"])},
    }
    return {
        **sliding,
        "patch_size": window.tolist(),
        "architecture": architecture,
        "previous_stage": STUDY_LOCALIZER,
        "roi": {**sliding["roi"], "size_mm": (window * spacing_mm).tolist()},
    }


def trained_patch(configuration: Mapping) -> list[int]:
    """Voxels of the patches that a configuration trains on: its crops, where it has one per organ."""
    return configuration["architecture"]["arch_kwargs"].get("crop_size", configuration["patch_size"])


def by(size: Sequence[int]) -> str:
    """A size in voxels, for a configuration's name."""
    return "x".join(str(n) for n in size)


def millimetres(size_mm: Sequence[float]) -> str:
    """A size for a person."""
    return " x ".join(f"{x:.0f}" for x in size_mm) + " mm"
