"""How the planner for laptops differs."""

from __future__ import annotations

from planned_heads import RIVALS

from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall


def test_only_the_small_planners_localizers_weigh_the_organs_more(planned):
    planned_for = planned()["configurations"]
    weights = {n: c["recipe"]["foreground_weight"] for n, c in planned_for.items() if n not in RIVALS}
    for localizer in ("3d_lowres", "3d_localizer_80x256x256"):
        assert weights.pop(localizer) == CascadeOARPlannerSmall.localizer_foreground_weight == 25
    assert set(weights.values()) == {5} == {CascadeOARPlanner.localizer_foreground_weight}
