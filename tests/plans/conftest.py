"""The synthetic dataset, planned or to be spoilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from planned_heads import make_raw, set_paths

from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall


@pytest.fixture(scope="session")
def shared_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("planner")
    make_raw(root)
    return root


@pytest.fixture
def planned(shared_root, monkeypatch) -> Callable[..., dict]:
    """Plans the shared dataset with `CascadeOARPlannerSmall`; same options, same plans."""
    set_paths(monkeypatch, shared_root)

    def plan(planner=CascadeOARPlannerSmall, **options) -> dict:
        return planner(501, **options).plan_experiment()

    return plan


@pytest.fixture
def own_raw(tmp_path, monkeypatch) -> Path:
    """A dataset of three cases to spoil."""
    set_paths(monkeypatch, tmp_path)
    return make_raw(tmp_path, n=3)
