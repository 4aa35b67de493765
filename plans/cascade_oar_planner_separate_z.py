"""Planners that take the nearest slice where slices are thick, as nnU-Net does, instead of interpolating between them.

Run by `nnUNetv2_plan_and_preprocess -d ID -pl CascadeOARPlannerSeparateZ`.
"""

from __future__ import annotations

from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall


class CascadeOARPlannerSeparateZ(CascadeOARPlanner):
    """`CascadeOARPlanner` with nnU-Net's rule for anisotropic images. `results/resampling.md` compares the two."""

    force_separate_z = None

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "CascadeOARPreprocessor",
        plans_name: str = "CascadeOARPlansSeparateZ",
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


class CascadeOARPlannerSmallSeparateZ(CascadeOARPlannerSmall):
    """`CascadeOARPlannerSmall` with nnU-Net's rule for anisotropic images."""

    force_separate_z = None

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 0.25,
        preprocessor_name: str = "CascadeOARPreprocessor",
        plans_name: str = "CascadeOARPlansSmallSeparateZ",
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
