"""The plans of other groups' networks: the papers' trainings, their widths, and what is left out with a reason."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
from planned_heads import FINE_ZYX, RIVALS, set_paths

from nnunet_ext.cascade.roi import OrganExtent
from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall
from nnunet_ext.plans.rival_configurations import plan_rivals
from nnunet_ext.rivals import deeplab
from nnunet_ext.training.phases import phases_from_plan
from nnunet_ext.training.recipe import TrainingRecipe


@pytest.fixture
def paths(shared_root, monkeypatch) -> None:
    set_paths(monkeypatch, shared_root)


def rivals(planner: CascadeOARPlanner, forward: Sequence[int] = (0, 1, 2)) -> dict[str, dict]:
    """For one case on voxels of 1 mm, with an organ of 8 slices and one of 9."""
    at = {"centroid_mm": (0.0, 0.0, 0.0), "lower_mm": (0.0, 0.0, 0.0)}
    organs = {
        1: OrganExtent(volume_ml=1.0, **at, upper_mm=(9.0, 20.0, 20.0)),
        2: OrganExtent(volume_ml=1.0, **at, upper_mm=(8.0, 64.0, 3.0)),
    }
    return plan_rivals(planner, np.ones(3), np.array([31, 40, 51]), forward, {"case": organs})


def test_anatomynet_is_planned_for_whole_heads_one_at_a_time(planned):
    plan = planned(overwrite_target_spacing=FINE_ZYX)
    entries = plan["configurations"]["3d_anatomynet"]
    assert entries["batch_size"] == 1
    assert not entries["deep_supervision"]
    assert [(p.optimizer, p.num_epochs, p.initial_lr) for p in phases_from_plan(entries["phases"], where="p")] == [
        ("rmsprop", 150, 5e-4),
        ("sgd", 50, 1e-4),
    ]
    recipe = TrainingRecipe.from_plan(entries["recipe"])
    assert (recipe.loss, recipe.cross_entropy_weight, recipe.foreground_weight) == ("dice_focal", 0.5, 1)
    body = plan["original_median_shape_after_transp"]
    assert all(n % 2 == 0 for n in entries["patch_size"])
    assert len(entries["patch_size"]) == len(body)


def test_the_small_planner_says_that_its_networks_are_a_quarter_as_wide(planned, capsys):
    plan = planned()
    said = capsys.readouterr().out
    assert f"{', '.join(RIVALS)}: networks of 0.25 times their published width" in said
    assert plan["configurations"]["3d_anatomynet"]["architecture"]["arch_kwargs"]["width"] == 0.25
    assert CascadeOARPlanner.rival_width == 1


@pytest.mark.usefixtures("paths")
def test_the_full_planners_epochs_are_passes_over_the_cases_of_a_fold():
    planner = CascadeOARPlanner(501)
    entries = rivals(planner)["3d_anatomynet"]
    assert entries["patch_size"] == [32, 40, 52]
    assert entries["training"]["num_epochs"] == 200
    assert entries["training"]["iterations_per_epoch"] == round(0.8 * len(planner.dataset))
    assert entries["architecture"]["arch_kwargs"]["width"] == 1


@pytest.mark.usefixtures("paths")
def test_a_network_whose_library_is_missing_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    planned_for = rivals(CascadeOARPlannerSmall(501))
    assert "2d_deeplab" not in planned_for
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("2d_deeplab"))
    assert "is left out" in line
    assert "pip install 'nnunet_ext[rivals]'" in line


@pytest.mark.usefixtures("paths")
def test_slices_that_are_not_axial_are_not_planned(capsys):
    planned_for = rivals(CascadeOARPlannerSmall(501), [1, 0, 2])
    assert "2d_deeplab" not in planned_for
    assert "2d_deeplab is left out: its slices are axial" in capsys.readouterr().out


@pytest.mark.usefixtures("paths")
@pytest.mark.skipif(deeplab.library_problem() is not None, reason="no segmentation-models-pytorch")
def test_deeplab_is_planned_for_whole_axial_slices_in_batches_of_two_or_more():
    planned_for = rivals(CascadeOARPlannerSmall(501))
    entries = planned_for["2d_deeplab"]
    assert entries["patch_size"] == [48, 64]
    assert entries["batch_size"] >= 2
    assert entries["architecture"]["arch_kwargs"] == {"encoder": "resnet18", "decoder_channels": 64}


@pytest.mark.usefixtures("paths")
def test_focusnet_has_heads_for_the_organs_that_fit_its_crop_in_every_case():
    entries = rivals(CascadeOARPlanner(501))["3d_focusnet"]
    assert entries["architecture"]["arch_kwargs"] == {"width": 1.0, "small_labels": [2]}
    assert entries["patch_size"] == [32, 40, 52]
    assert [(p["part"], p["num_epochs"]) for p in entries["phases"]] == [
        ("segmentation", 600),
        ("localisation", 300),
        ("crops", 300),
    ]
    assert entries["training"]["num_epochs"] == 1200
