"""The networks the plan names, with a few features each."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_ext.networks import MaxPoolUNet, keep_channels

N_CHANNELS, N_LABELS = 3, 4
IMAGES = (1, N_CHANNELS, 8, 12, 16)


@pytest.fixture
def architecture(cascade_plans) -> dict:
    return cascade_plans()["configurations"]["3d_lowres"]["architecture"]


def build(architecture: dict, *, n_channels: int = N_CHANNELS, deep_supervision: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        n_channels,
        N_LABELS,
        deep_supervision=deep_supervision,
    ).eval()


def test_the_plan_builds_a_max_pool_unet_that_pools_and_never_strides(architecture):
    network = build(architecture)
    assert isinstance(network, MaxPoolUNet)
    pools = [m for m in network.encoder.modules() if isinstance(m, nn.MaxPool3d)]
    strides = {tuple(m.stride) for m in network.encoder.modules() if isinstance(m, nn.Conv3d)}
    assert len(pools) == 2
    assert strides == {(1, 1, 1)}


def test_the_encoder_in_use_is_the_one_the_decoder_was_built_for(architecture):
    network = build(architecture)
    assert network.decoder.encoder is network.encoder
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"encoder", "decoder"}


def test_the_output_has_the_size_of_the_input(architecture):
    with torch.no_grad():
        assert build(architecture)(torch.zeros(IMAGES)).shape == (1, N_LABELS, 8, 12, 16)


def test_deep_supervision_returns_one_output_per_resolution(architecture):
    network = build(architecture, deep_supervision=True)
    with torch.no_grad():
        outputs = network(torch.zeros(IMAGES))
        assert [tuple(o.shape) for o in outputs] == [(1, N_LABELS, 8, 12, 16), (1, N_LABELS, 4, 6, 8)]
        network.decoder.deep_supervision = False  # what nnU-Net's trainer does before the validation
        assert network(torch.zeros(IMAGES)).shape == (1, N_LABELS, 8, 12, 16)


def test_the_size_estimate_of_the_planner_grows_with_the_patch(architecture):
    network = build(architecture)
    small, large = (network.compute_conv_feature_map_size(s) for s in ((8, 12, 16), (16, 12, 16)))
    assert large == 2 * small


def test_keep_channels_makes_the_output_independent_of_the_channels_behind(architecture):
    torch.manual_seed(1)
    network, images = build(architecture), torch.randn(IMAGES)
    with torch.no_grad():
        expected = network(images)
        network.register_forward_pre_hook(keep_channels(N_CHANNELS))
        assert torch.equal(network(images), expected)
        for value in (0.0, 1.0, float("nan")):
            previous_stage = torch.full((1, N_LABELS - 1, *IMAGES[2:]), value)
            assert torch.equal(network(torch.cat([images, previous_stage], 1)), expected)


def test_keep_channels_adds_nothing_to_the_weights(architecture):
    network = build(architecture)
    before = list(network.state_dict())
    network.register_forward_pre_hook(keep_channels(N_CHANNELS))
    assert list(network.state_dict()) == before
    build(architecture).load_state_dict(network.state_dict())
