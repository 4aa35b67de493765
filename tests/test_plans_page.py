"""`docs/reference/plans.md` against the dataclasses and planners it describes."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from nnunetv2.experiment_planning.aa_nnunet_ext import lookup
from reference_tables import REFERENCE, rows

from nnunet_ext.cascade.plausibility import PlausibleRanges
from nnunet_ext.cascade.roi import RoiRule
from nnunet_ext.training.phases import TrainingPhase
from nnunet_ext.training.recipe import CHOICES, TrainingRecipe
from nnunet_ext.training.schedule import TrainingSchedule

if not REFERENCE.is_dir():
    pytest.skip("the tests do not lie in a checkout", allow_module_level=True)
PLANNERS = lookup.CascadeOARPlanner, lookup.CascadeOARPlannerSmall
CONFIGURATIONS = "3d_lowres", "3d_fullres", "3d_cascade_fullres"


def value_of(cell: str) -> object:
    try:
        return json.loads(cell)
    except json.JSONDecodeError:
        return cell


def plain(setting: object) -> object:
    """As JSON has it."""
    return list(setting) if isinstance(setting, tuple) else setting


def keys_of(heading: str) -> list[str]:
    return [line[0] for line in rows("plans.md", heading)[1:]]


def test_training_is_as_both_planners_write_it():
    schedules = [planner.schedules[name] for planner in PLANNERS for name in CONFIGURATIONS]
    expected = [
        [f.name, *(getattr(schedule, f.name) for schedule in schedules), f.default] for f in fields(TrainingSchedule)
    ]
    listed = rows("plans.md", "`training`")[1:]
    assert [[line[0], *map(value_of, line[1:])] for line in listed] == expected


def test_recipe_has_every_key_with_its_default_and_choices():
    listed = {line[0]: line[1:] for line in rows("plans.md", "`recipe`")[1:]}
    assert {key: value_of(line[0]) for key, line in listed.items()} == dict(vars(TrainingRecipe()))
    for key, choices in CHOICES.items():
        assert listed[key][1].replace("`", "").split(", ") == list(choices)


def test_phases_have_the_keys_that_are_read_with_their_defaults():
    listed = {line[0]: line[1] for line in rows("plans.md", "`phases`")[1:]}
    phase = TrainingPhase(1, "sgd", 0.1)
    expected = {key: value or "none" if value == [] else value for key, value in phase.to_plan().items()}
    needed = dict.fromkeys(("num_epochs", "optimizer", "initial_lr"), "-")
    assert {key: value_of(cell.strip("`")) for key, cell in listed.items()} == {**expected, **needed}


def test_roi_and_plausibility_have_the_keys_that_the_planner_writes():
    assert keys_of("`roi`") == [*(f.name for f in fields(RoiRule)), "margin_mm", "needed_mm"]
    assert keys_of("`plausibility`") == [f.name for f in fields(PlausibleRanges)]


def test_settings_of_the_planners_are_theirs():
    for name, *cells, _ in rows("plans.md", "Settings of the planners")[1:]:
        assert [value_of(cell) for cell in cells] == [plain(getattr(planner, name)) for planner in PLANNERS]
