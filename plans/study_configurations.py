"""The reference study's whole-volume and crop configurations, planned beside those of the cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.roi_fitting import too_large
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, STUDY_LOCALIZER, WHOLE_VOLUME

if TYPE_CHECKING:
    from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner

#: The study's patches in voxels, coarsest axis first. The study's grid is 1.25 x 0.8 x 0.8 mm.
STUDY_WHOLE_VOLUME = (80, 256, 256)
STUDY_CROPS = ((32, 128, 128), (32, 96, 96), (16, 64, 64))
#: Features of the first stage of the study's localizer, a 3D U-Net as published.
STUDY_LOCALIZER_FEATURES = 32
#: Key of a configuration that is smaller than the study's. It says in which way.
REDUCED_KEY = "reduced"


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

    The study cuts one crop around each organ. Here patches of that size are trained all over the ROI, a share of them
    around organs (`recipe.organ_patches`). They slide over the ROI at prediction, as nnU-Net does.

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
    return planned


def by(size: Sequence[int]) -> str:
    """A size in voxels, for a configuration's name."""
    return "x".join(str(n) for n in size)


def millimetres(size_mm: Sequence[float]) -> str:
    """A size for a person."""
    return " x ".join(f"{x:.0f}" for x in size_mm) + " mm"
