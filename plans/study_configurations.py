"""The reference study's whole-volume and crop configurations, planned beside those of the cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.preprocessor import RESCALED
from nnunet_ext.cascade.roi_fitting import too_large
from nnunet_ext.images.channels import is_ct
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import LOCALIZER, ONE_RANGE_KEY, SEGMENTER, WHOLE_VOLUME
from nnunet_ext.training.person_splits import N_FOLDS
from nnunet_ext.training.schedule import TrainingSchedule

if TYPE_CHECKING:
    from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner

#: The study's patches in voxels, coarsest axis first. The study's grid is 1.25 x 0.8 x 0.8 mm.
STUDY_WHOLE_VOLUME = (80, 256, 256)
STUDY_CROPS = ((32, 128, 128), (32, 96, 96), (16, 64, 64))


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
