"""Where nnU-Net finds our planners: this file lies inside its package and names them; checked against nnunetv2 2.8.1.

nnU-Net asks every module in turn whether it has a class of the wanted name. The class is imported only when it is ours
that is wanted (PEP 562), so a stock nnU-Net command never imports, and is never slowed or broken by, this package.
"""

from importlib import import_module

LOOKUPS = {
    "CascadeOARPlanner": "nnunet_ext.plans.cascade_oar_planner",
    "CascadeOARPlannerFinetuned": "nnunet_ext.plans.cascade_oar_planner_finetuned",
    "CascadeOARPlannerSeparateZ": "nnunet_ext.plans.cascade_oar_planner_separate_z",
    "CascadeOARPlannerSmall": "nnunet_ext.plans.cascade_oar_planner_small",
    "CascadeOARPlannerSmallSeparateZ": "nnunet_ext.plans.cascade_oar_planner_separate_z",
}


def __getattr__(name: str) -> type:
    if name not in LOOKUPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(LOOKUPS[name]), name)
    except AttributeError as error:  # nnU-Net asks with `hasattr`, which would report a mistake of ours as "not found"
        raise ImportError(f"cannot import {name} from {LOOKUPS[name]}: {error}") from error
