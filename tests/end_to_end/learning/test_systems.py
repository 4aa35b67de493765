import copy
from dataclasses import asdict

import pytest

from nnunet_ext.end_to_end.learning.edits import resolved
from nnunet_ext.end_to_end.learning.systems import DEFAULT, LOCALIZERS, SYSTEMS, slug, system_of
from nnunet_ext.nnunet_folders import SEGMENTER
from nnunet_ext.training.recipe import CHOICES, TrainingRecipe

PAIRS = [(1, 2), (3, 4)]


@pytest.fixture
def configuration(cascade_plans) -> dict:
    """The segmenter's, with all that it inherits and what a planner writes for the recipe."""
    roi = {"size_mm": [64.0] * 3, "offset_mm": {"1": [0.0] * 3}, "spread_mm": {"1": 1.0}, "jitter_mm": 2.0}
    return {**resolved(cascade_plans(roi=roi), SEGMENTER), "recipe": asdict(TrainingRecipe())}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_differs_from_the_default_in_one_thing(configuration, name):
    system, edited = SYSTEMS[name], copy.deepcopy(configuration)
    system.configure(edited, PAIRS)
    changed = {key for key in edited if edited[key] != configuration[key]}
    assert changed <= {
        "recipe",
        "training",
        "architecture",
        "deep_supervision",
        "batch_size",
        "patch_size",
        "batch_dice",
    }
    other = system.kind != "cascade" or system.merged or system.decays or system.finer
    assert (bool(changed) or other) is (name != DEFAULT)
    TrainingRecipe.from_plan(edited["recipe"])
    step = [2 ** (len(edited["architecture"]["arch_kwargs"]["strides"]) - 1)] * 3
    assert not any(n % s for n, s in zip(edited["patch_size"], step, strict=True))


def test_the_factorised_network_is_told_the_pairs(configuration):
    SYSTEMS["factorised sides"].configure(configuration, PAIRS)
    assert configuration["architecture"]["arch_kwargs"]["left_right_pairs"] == [[1, 2], [3, 4]]


def test_features_double_per_stage(configuration):
    SYSTEMS["16 features"].configure(configuration, PAIRS)
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32, 64]


def test_names_stay_apart_in_files():
    names = [*SYSTEMS, *LOCALIZERS]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("stock's plan, our recipe") == "stocks_plan_our_recipe"


def test_the_stages_of_a_cascade_share_the_minutes():
    for system in SYSTEMS.values():
        shares = [system.share, *([LOCALIZERS[system.localizer].share] if system.localizer else [])]
        assert sum(shares) == pytest.approx(1.0)


def test_an_unknown_system_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no system 'defualt'; known: default, merged sides"):
        system_of("defualt")


@pytest.mark.parametrize(
    ("name", "configuration"),
    [("AnatomyNet", "3d_anatomynet"), ("FocusNet", "3d_focusnet"), ("DeepLabv3+", "2d_deeplab")],
)
def test_another_groups_network_is_a_training_of_its_own_for_every_mark(name, configuration):
    system = SYSTEMS[name]
    assert system.configuration == configuration
    assert system.share == 1
    assert not system.has_trunk  # its phases end with the training
    assert system.localizer is None
    assert not system.stock_prediction


def test_low_resolution_is_compared_in_its_four_settings():
    """The default is nnU-Net's own."""
    names = ("no low resolution", "learned resampling", "learned resampling and low resolution")
    settings = {"nnunet": False}
    for name in names:
        entry = {"recipe": asdict(TrainingRecipe())}
        SYSTEMS[name].configure(entry, PAIRS)
        settings[entry["recipe"]["low_resolution"]] = SYSTEMS[name].learned_resampling
    assert settings == {"nnunet": False, "off": False, "learned": True, "both": True}
    assert settings.keys() == set(CHOICES["low_resolution"])
