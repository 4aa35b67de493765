"""Planners that take the nearest slice where slices are thick, as nnU-Net does, instead of interpolating between them.

Run by `nnUNetv2_plan_and_preprocess -d ID -pl CascadeOARPlannerSeparateZ`.
"""

from __future__ import annotations

from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall


class CascadeOARPlannerSeparateZ(CascadeOARPlanner):
    """`CascadeOARPlanner` with nnU-Net's rule for anisotropic images. `results/resampling.md` compares the two."""

    default_plans_name = "CascadeOARPlansSeparateZ"
    force_separate_z = None


class CascadeOARPlannerSmallSeparateZ(CascadeOARPlannerSmall):
    """`CascadeOARPlannerSmall` with nnU-Net's rule for anisotropic images."""

    default_plans_name = "CascadeOARPlansSmallSeparateZ"
    force_separate_z = None
