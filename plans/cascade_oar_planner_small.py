"""Planner of the cascade for laptops, continuous integration and the demo.

Run by `nnUNetv2_plan_and_preprocess -d ID -pl CascadeOARPlannerSmall`.
"""

from __future__ import annotations

from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, WHOLE_VOLUME
from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.training.schedule import TrainingSchedule


class CascadeOARPlannerSmall(CascadeOARPlanner):
    """`CascadeOARPlanner` for laptops, continuous integration and the demo, with 8 base features and short schedules.

    The localizer is kept coarse. On a grid as costly as the segmenter's it learned nothing in so few epochs. Weighting its
    few organ voxels more finds the eyes in fewer epochs (`results/recipes.md`). The study's localizer has a quarter of its
    features and patches of half the length. Its `reduced` says so.
    """

    default_plans_name = "CascadeOARPlansSmall"
    localizer_voxels = 40 * 40 * 48
    localizer_features = 8
    study_localizer_patch = (40, 128, 128)
    localizer_foreground_weight = 25.0
    dropout = 0.0
    localizer_batch_size = 2
    crop_batch_size = 2
    #: The memory target below keeps the whole-volume patch small. With this factor the segmenter may use 8 GB.
    segmenter_memory_factor = 32.0
    has_study_schedule = False
    rival_width = 0.25
    rival_schedule = TrainingSchedule(40, 25, 4)
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
        plans_name: str | None = None,
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
