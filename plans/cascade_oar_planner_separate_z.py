"""Planners that take the nearest slice where slices are thick, as nnU-Net does, instead of interpolating between them.

Run by `nnUNetv2_plan_and_preprocess -d ID -pl CascadeOARPlannerSeparateZ`.
"""

from __future__ import annotations

from typing import Any

from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall


class CascadeOARPlannerSeparateZ(CascadeOARPlanner):
    """`CascadeOARPlanner` with nnU-Net's rule for anisotropic images. `results/resampling.md` compares the two."""

    force_separate_z = None

    def __init__(self, *args: Any, plans_name: str = "CascadeOARPlansSeparateZ", **kwargs: Any) -> None:
        super().__init__(*args, plans_name=plans_name, **kwargs)


class CascadeOARPlannerSmallSeparateZ(CascadeOARPlannerSmall):
    """`CascadeOARPlannerSmall` with nnU-Net's rule for anisotropic images."""

    force_separate_z = None

    def __init__(self, *args: Any, plans_name: str = "CascadeOARPlansSmallSeparateZ", **kwargs: Any) -> None:
        super().__init__(*args, plans_name=plans_name, **kwargs)
