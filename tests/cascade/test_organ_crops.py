"""The crops around each organ that the localizer found, and what the network makes of them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_ext.cascade.networks import never_predict
from nnunet_ext.cascade.organ_crops import (
    MOST_LOG_ODDS,
    OrganCropUNet,
    content_box,
    organ_boxes,
    own_log_odds,
    padding_to,
    without_crop,
)

N_CHANNELS, N_LABELS, CROP = 3, 4, (8, 8, 12)
SHAPE = (12, 20, 24)
#: Two organs far from each other, of which the second lies at the border.
ORGANS = {1: np.s_[3:7, 4:8, 4:8], 3: np.s_[6:9, 15:20, 14:20]}
BOXES = {1: ((1, 9), (2, 10), (0, 12)), 3: ((4, 12), (12, 20), (11, 23))}


def localized(organs=ORGANS, shape=SHAPE) -> np.ndarray:
    label_map = np.zeros(shape, np.int16)
    for value, where in organs.items():
        label_map[where] = value
    return label_map


@pytest.fixture
def network(cascade_plans) -> OrganCropUNet:
    architecture = copy.deepcopy(cascade_plans()["configurations"]["3d_fullres"]["architecture"])
    torch.manual_seed(0)
    return get_network_from_plans(
        "nnunet_ext.cascade.organ_crops.OrganCropUNet",
        {**architecture["arch_kwargs"], "crop_size": list(CROP)},
        architecture["_kw_requires_import"],
        N_CHANNELS,
        N_LABELS,
        deep_supervision=False,
    ).eval()


def window(label_map: np.ndarray, seed: int = 0) -> torch.Tensor:
    """Images and the localizer's label map one-hot, as nnU-Net hands them to a network."""
    images = torch.randn(1, N_CHANNELS, *label_map.shape, generator=torch.Generator().manual_seed(seed))
    one_hot = torch.stack([torch.from_numpy(label_map == value) for value in range(1, N_LABELS)])[None]
    return torch.cat([images, one_hot.float()], 1)


def inside(box) -> tuple[slice, ...]:
    return tuple(slice(*axis) for axis in box)


def test_a_crop_lies_around_the_middle_of_its_organ_and_never_leaves_the_volume():
    assert organ_boxes(localized(), CROP) == BOXES


def test_a_false_positive_of_the_localizer_moves_no_crop():
    label_map = localized()
    label_map[0, 0, 0] = label_map[11, 19, 23] = 1
    assert organ_boxes(label_map, CROP) == BOXES


def test_organs_the_localizer_misses_are_named_unless_the_configuration_leaves_them_out():
    labels = {"background": 0, "Eye_L": 1, "Eye_R": 2, "Lens": 3}
    assert without_crop(localized(), {}, labels) == ["Eye_R"]
    assert without_crop(localized(), {"roi": {"left_out": [2]}}, labels) == []


def test_images_alone_are_segmented_as_by_any_unet(network):
    crop = window(localized())[:, :N_CHANNELS, :8, :8, :12]
    with torch.no_grad():
        assert network(crop).shape == (1, N_LABELS, 8, 8, 12)


def test_a_crop_contributes_the_log_odds_of_its_own_organ_and_nothing_else(network):
    whole = window(localized())
    with torch.no_grad():
        logits = network(whole)[0]
        for organ, box in BOXES.items():
            probability = network(whole[:, :N_CHANNELS][(..., *inside(box))])[0].softmax(0)[organ]
            expected = torch.logit(probability)
            torch.testing.assert_close(logits[(organ, *inside(box))], expected, atol=1e-4, rtol=1e-4)
            elsewhere = torch.ones(SHAPE, dtype=torch.bool)
            elsewhere[inside(box)] = False
            assert (logits[organ][elsewhere] == -MOST_LOG_ODDS).all()
    assert (logits[0] == 0).all()
    assert (logits[2] == -MOST_LOG_ODDS).all()  # not found


def test_where_crops_overlap_the_larger_probability_decides_and_one_half_is_needed():
    logits = torch.tensor([[0.0, 0.0], [2.0, 1.0], [1.0, 1.0]])[:, None, None]  # background and two organs, two voxels
    odds = {organ: own_log_odds(logits, organ).flatten().tolist() for organ in (1, 2)}
    e = math.e
    assert odds[1] == pytest.approx([math.log(e**2 / (1 + e)), math.log(e / (1 + e))])
    assert odds[2] == pytest.approx([math.log(e / (1 + e**2)), math.log(e / (1 + e))])
    assert odds[1][0] > 0 > odds[2][0]  # 0.67 and 0.24
    assert odds[1][1] < 0  # 0.42 is the most likely label, but less than one half


def test_zeros_that_nnunet_puts_around_a_small_volume_change_nothing(network):
    whole = window(localized())
    padded = torch.nn.functional.pad(whole, [3, 2, 4, 4, 1, 3])
    assert content_box(padded[0, :N_CHANNELS]) == ((1, 13), (4, 24), (3, 27))
    with torch.no_grad():
        expected, logits = network(whole)[0], network(padded)[0]
    torch.testing.assert_close(logits[:, 1:13, 4:24, 3:27], expected)


def test_a_volume_smaller_than_a_crop_is_padded_as_in_training(network):
    small = window(localized({1: np.s_[2:4, 2:4, 4:6]}, (5, 8, 10)))
    assert padding_to(CROP, (5, 8, 10)) == [(1, 2), (0, 0), (1, 1)]
    with torch.no_grad():
        logits = network(small)[0]
        crop = torch.nn.functional.pad(small[:, :N_CHANNELS], [1, 1, 0, 0, 1, 2])
        expected = torch.logit(network(crop)[0].softmax(0)[1])[1:6, :, 1:11]
    torch.testing.assert_close(logits[1], expected, atol=1e-4, rtol=1e-4)


def test_without_an_organ_nothing_is_predicted(network):
    with torch.no_grad():
        assert (network(window(np.zeros(SHAPE, np.int16))).argmax(1) == 0).all()


def test_organs_left_out_are_never_predicted(network):
    network.register_forward_hook(never_predict([1]))
    with torch.no_grad():
        assert not (network(window(localized())).argmax(1) == 1).any()


def test_the_middle_of_an_organ_lands_in_the_middle_of_its_crop_of_odd_and_even_size():
    one = np.zeros((21, 21, 21), np.int16)
    one[10, 9:11, 10] = 1
    assert organ_boxes(one, (5, 6, 5)) == {1: ((8, 13), (7, 13), (8, 13))}
