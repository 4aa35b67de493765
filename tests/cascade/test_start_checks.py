"""Messages if a data set or its plan does not fit the model that a training starts from."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from nnunet_ext.cascade.start_checks import check_names, check_plan
from nnunet_ext.cascade.start_model import StartModel

MODEL = {
    "channel_names": {"0": "CT", "1": "T1"},
    "labels": {"background": 0, "Eye_L": 1, "Eye_R": 2, "OpticChiasm": 3},
}
FACTORISED = [[1, 2]]


def model_of(plans: dict, *, pairs: list | None = None, configuration: str = "3d_lowres") -> StartModel:
    if pairs is not None:
        plans["configurations"][configuration]["architecture"]["arch_kwargs"]["left_right_pairs"] = pairs
    source = {"model": "Theirs", "fold": "all", "configuration": configuration}
    return StartModel(Path("w.pth"), Path("plans.json"), plans, MODEL, source)


@pytest.fixture
def model(cascade_plans) -> StartModel:
    return model_of(cascade_plans(channels=("CT", "T1")), pairs=FACTORISED)


def names_refused(model: StartModel, labels: dict, pairs: list, message: str, channels: tuple = ("T1",)) -> None:
    dataset = {
        "channel_names": {str(at): name for at, name in enumerate(channels)},
        "labels": {"background": 0, **labels},
    }
    with pytest.raises(ValueError, match=message):
        check_names(model, dataset, pairs, where="D/dataset.json")


def test_a_subset_of_channels_and_organs_and_a_new_organ_are_taken(model):
    dataset = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "Cochlea_L": 1, "OpticChiasm": 2}}
    check_names(model, dataset, [], where="D/dataset.json")
    assert model.channel_places(dataset) == [1]


def test_a_channel_that_the_model_lacks_is_refused_with_three_remedies(model):
    message = (
        r"^D/dataset\.json: the model Theirs, fold all has no channel T2, PET; it has CT, T1\. Leave the channel out "
        r"\(nnunet_ext convert --modalities CT\), .* or train from scratch with -pl CascadeOARPlanner$"
    )
    names_refused(model, {"Eye_L": 1}, [], message, channels=("T2", "CT", "PET"))


def test_no_organ_in_common_is_refused(model):
    names_refused(
        model, {"Parotid": 1}, [], r"has none of the organs Parotid; it has Eye_L, Eye_R, OpticChiasm\. Write"
    )


@pytest.mark.parametrize("names", [("left_eye", "right_eye"), ("Eye_Left", "Eye_Right"), ("OS_Eye", "OD_Eye")])
def test_another_spelling_of_left_and_right_is_refused_and_the_models_names_are_given(model, names):
    left, right = names
    message = (
        rf"other names for organs of this data set: '{left}' is 'Eye_L' there; '{right}' is 'Eye_R' there\. Organs"
    )
    names_refused(model, {left: 1, right: 2, "OpticChiasm": 3}, [names], message)


def test_left_and_right_the_other_way_round_are_refused(model):
    labels = {"Eye_L": 1, "Eye_R": 2}
    names_refused(
        model, labels, [("Eye_R", "Eye_L")], r"'Eye_R' is the left and 'Eye_L' the right organ by left_right_pairs"
    )


def test_organs_that_the_model_tells_apart_by_their_side_must_be_a_pair(model, cascade_plans):
    labels = {"Eye_L": 1, "Eye_R": 2}
    names_refused(
        model, labels, [], r"'Eye_L' and 'Eye_R' are no pair by left_right_pairs.* \[\"Eye_L\", \"Eye_R\"\] into"
    )
    plain = model_of(cascade_plans(channels=("CT", "T1")))
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **labels}}
    check_names(plain, dataset, [], where="D/dataset.json")


def test_the_networks_pairs_are_the_data_sets_values(model, cascade_plans):
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "Eye_R": 1, "X": 2, "Eye_L": 3}}
    assert model.network_pairs(dataset, [("Eye_L", "Eye_R")]) == {"left_right_pairs": [[3, 1]]}
    assert model.network_pairs(dataset, []) == {}
    assert model_of(cascade_plans(channels=("CT", "T1"))).network_pairs(dataset, [("Eye_L", "Eye_R")]) == {}


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (
            lambda plans, c: c.update(spacing=[1.5, 2.0, 2.0]),
            "spacing is [1.5, 2.0, 2.0], and [2.0, 2.0, 2.0] in the model",
        ),
        (lambda plans, c: c.update(normalization_schemes=["CTNormalization"]), "normalization_schemes is ['CTNorm"),
        (lambda plans, c: c["architecture"]["arch_kwargs"].update(n_stages=4), "arch_kwargs.n_stages is 4, and 3 in"),
        (lambda plans, c: plans.update(transpose_forward=[1, 0, 2]), "transpose_forward is [1, 0, 2], and [0, 1, 2]"),
        (
            lambda plans, c: plans["foreground_intensity_properties_per_channel"]["0"].update(mean=1.0),
            "foreground_intensity_properties_per_channel.0 is {'mean': 1.0",
        ),
    ],
)
def test_a_plan_whose_images_or_network_were_edited_is_refused(model, cascade_plans, edit, named):
    plans = copy.deepcopy(cascade_plans(channels=("T1",)))
    dataset = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "Eye_L": 1}}
    configuration = plans["configurations"]["3d_lowres"]
    check_plan(model, plans, configuration, dataset, configuration="3d_lowres")
    configuration["patch_size"] = [8, 8, 8]  # the weights fit any
    check_plan(model, plans, configuration, dataset, configuration="3d_lowres")
    edit(plans, configuration)
    with pytest.raises(ValueError, match=rf"^plans 'CascadeOARPlans', configuration '3d_lowres': {re.escape(named)}"):
        check_plan(model, plans, configuration, dataset, configuration="3d_lowres")
