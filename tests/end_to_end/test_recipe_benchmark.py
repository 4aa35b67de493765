"""The comparison of recipes: what a variant changes, and what the table says."""

from __future__ import annotations

import copy
from dataclasses import asdict

import pytest

from nnunet_ext.end_to_end.learning.edits import resolved
from nnunet_ext.end_to_end.recipe_benchmark import SEGMENTER, VARIANTS, key_of, table
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.training.recipe import TrainingRecipe


@pytest.fixture
def configuration(cascade_plans) -> dict:
    """The segmenter's, with all that it inherits and what a planner writes for the recipe."""
    roi = {"size_mm": [64.0] * 3, "offset_mm": {"1": [0.0] * 3}, "spread_mm": {"1": 1.0}, "jitter_mm": 2.0}
    return {**resolved(cascade_plans(roi=roi), SEGMENTER), "recipe": asdict(TrainingRecipe())}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_one_edit_that_a_training_understands(configuration, variant):
    edited = copy.deepcopy(configuration)
    VARIANTS[variant](edited)
    assert (edited == configuration) is (variant == "default")
    TrainingRecipe.from_plan(edited["recipe"])
    changed = {key for key in edited if edited[key] != configuration[key]}
    assert changed <= {"recipe", "training", "architecture", "deep_supervision", "batch_size", "patch_size"}
    step = [2 ** (len(edited["architecture"]["arch_kwargs"]["strides"]) - 1)] * 3
    assert not any(n % s for n, s in zip(edited["patch_size"], step, strict=True))


def test_variants_have_names_of_their_own_for_plans_files():
    assert len({key_of(variant, 0) for variant in VARIANTS}) == len(VARIANTS)
    assert key_of("AdamW 1.2e-2", 3) == "AdamW_1_2e_2_seed3"


def test_the_table_has_the_mean_over_seeds_and_the_best_recipe_first():
    def record(variant: str, seed: int, dsc: float) -> dict:
        about = {"variant": variant, "seed": seed, "iterations": 500, "cpu_s": 100.4, "device": "cpu"}
        return {**about, "dsc_percent": dict.fromkeys(ORGANS, dsc), "hd95_mm": dict.fromkeys(ORGANS, 2.0)}

    lines = table([record("worse", 0, 50.0), record("better", 0, 80.0), record("better", 1, 70.0)]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in cells[2:]] == ["better", "worse"]
    assert cells[2][1:4] == ["2", "500", "100"]
    assert cells[2][-3:] == ["75.0", "70.0..80.0", "2.00"]
    assert cells[3][-3:] == ["50.0", "", "2.00"]
    assert len({len(row) for row in cells}) == 1


def test_runs_of_two_devices_are_not_put_into_one_table():
    records = [{"variant": "default", "seed": seed, "device": device} for seed, device in enumerate(["cpu", "A GPU"])]
    with pytest.raises(ValueError, match="A GPU and cpu"):
        table(records)
