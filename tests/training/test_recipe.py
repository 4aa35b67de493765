"""The plan's `recipe` entry."""

import pytest

from nnunet_ext.training.recipe import TrainingRecipe


def test_what_the_plan_leaves_out_takes_the_default():
    assert TrainingRecipe.from_plan(None) == TrainingRecipe()
    assert TrainingRecipe.from_plan({"optimizer": "sgd"}) == TrainingRecipe(optimizer="sgd")
    assert TrainingRecipe.from_plan(vars(TrainingRecipe(guidance=True))).guidance


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"optimiser": "sgd"}, r"configuration 'x': 'recipe' has unknown keys \['optimiser'\]"),
        ({"optimizer": "lion"}, "recipe.optimizer is 'lion'; it must be one of adamw, adam, sgd"),
        ({"guidance": 1}, "recipe.guidance is 1; it must be true or false"),
        ({"modality_dropout": 1.5}, r"recipe.modality_dropout is 1.5; it must be a number in \[0, 1\]"),
        ({"foreground_weight": "5"}, r"recipe.foreground_weight is '5'; it must be a number in \[0, inf\]"),
        ({"organ_patches": True}, "recipe.organ_patches is True"),
        ({"augmentation": "gpu"}, "recipe.augmentation is 'gpu'; it must be one of auto, workers, device"),
        ({"low_resolution": "ours"}, "recipe.low_resolution is 'ours'; it must be one of nnunet, off, learned, both"),
        ({"cache_mb": -1}, r"recipe.cache_mb is -1; it must be a number in \[0, inf\]"),
        ({"augmentation": "device", "guidance": True}, "transforms of recipe.guidance run in the workers only"),
    ],
)
def test_a_misspelt_or_impossible_entry_is_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        TrainingRecipe.from_plan(plan, where="configuration 'x'")
