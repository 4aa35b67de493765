"""The network the plan names, with a few features, and what is hooked onto it."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as find_submodules
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_ext.cascade.networks import LEFT_OUT_LOGIT_GAP, CascadeUNet, keep_channels, never_predict

N_CHANNELS, N_LABELS = 3, 4
IMAGES = (1, N_CHANNELS, 8, 12, 16)
STRIDED, MAX = "strided_convolution", "max_pooling"


@pytest.fixture
def architecture(cascade_plans) -> dict:
    """The localizer's."""
    return copy.deepcopy(cascade_plans()["configurations"]["3d_lowres"]["architecture"])


@pytest.fixture
def segmenter(cascade_plans) -> dict:
    return copy.deepcopy(cascade_plans()["configurations"]["3d_fullres"]["architecture"])


def switched(architecture: dict, *, residual_blocks: bool, downsampling: str) -> dict:
    """The plan's entry after an ablation's edit."""
    architecture["arch_kwargs"].update(residual_blocks=residual_blocks, downsampling=downsampling)
    return architecture


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


def test_the_localizer_pools_and_never_strides(architecture):
    network = build(architecture)
    assert isinstance(network, CascadeUNet)
    pools = [m for m in network.encoder.modules() if isinstance(m, nn.MaxPool3d)]
    strides = {tuple(m.stride) for m in network.encoder.modules() if isinstance(m, nn.Conv3d)}
    assert len(pools) == 2
    assert strides == {(1, 1, 1)}


def test_the_segmenter_is_dynamic_network_architectures_residual_unet(segmenter):
    network = build(segmenter)
    kwargs = dict(segmenter["arch_kwargs"])
    del kwargs["residual_blocks"], kwargs["downsampling"]
    name = f"{ResidualEncoderUNet.__module__}.{ResidualEncoderUNet.__name__}"
    stock = build({**segmenter, "network_class_name": name, "arch_kwargs": kwargs})
    for (ours, a), (theirs, b) in zip(network.state_dict().items(), stock.state_dict().items(), strict=True):
        assert ours == theirs
        assert torch.equal(a, b)  # initialised alike, too
    size = (8, 12, 16)
    assert network.compute_conv_feature_map_size(size) == stock.compute_conv_feature_map_size(size)


@pytest.mark.parametrize(("residual", "downsampling", "deep"), product((True, False), (STRIDED, MAX), (True, False)))
def test_every_combination_of_the_three_switches_is_built_and_trains(segmenter, residual, downsampling, deep):
    edited = switched(segmenter, residual_blocks=residual, downsampling=downsampling)
    network = build(edited, deep_supervision=deep).train()
    shortcuts = [m for m in network.modules() if type(m).__name__ == "BasicBlockD"]
    pools = [m for m in network.modules() if isinstance(m, nn.MaxPool3d) and m.kernel_size != [1, 1, 1]]
    strided = [m for m in network.encoder.modules() if isinstance(m, nn.Conv3d) and max(m.stride) > 1]
    assert bool(shortcuts) is residual
    assert bool(pools) is (downsampling == MAX)
    assert bool(strided) is (downsampling == STRIDED)
    outputs = network(torch.randn(IMAGES))
    assert isinstance(outputs, list) is deep
    outputs = outputs if deep else [outputs]
    assert [tuple(o.shape[2:]) for o in outputs] == [(8, 12, 16), (4, 6, 8)][: len(outputs)]
    sum(o.square().mean() for o in outputs).backward()
    unused = {n for n, p in network.named_parameters() if p.grad is None}
    assert unused == (set() if deep else {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"})
    find_submodules(network)


@pytest.mark.parametrize("residual", [True, False])
def test_without_shortcuts_the_encoder_is_as_deep(segmenter, residual):
    segmenter["arch_kwargs"]["n_blocks_per_stage"] = [1, 2, 3]
    network = build(switched(segmenter, residual_blocks=residual, downsampling=MAX))
    convolutions = [m for m in network.encoder.stages.modules() if isinstance(m, nn.Conv3d) and max(m.kernel_size) > 1]
    assert len(set(convolutions)) == 2 * (1 + 2 + 3)


def test_an_unknown_way_to_downsample_names_the_known_ones(segmenter):
    with pytest.raises(ValueError, match=r"'average'.*strided_convolution, max_pooling"):
        build(switched(segmenter, residual_blocks=True, downsampling="average"))


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


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("downsampling", [STRIDED, MAX])
def test_the_size_estimate_counts_every_feature_map_once(segmenter, residual, downsampling):
    # Channels double: where they stay, the stock estimate counts a convolution in the shortcut that is not there.
    segmenter["arch_kwargs"]["features_per_stage"] = [4, 8, 16]
    network = build(switched(segmenter, residual_blocks=residual, downsampling=downsampling))
    counted = []
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(lambda _m, _i, output: counted.append(output[0].numel()))
    with torch.no_grad():
        network(torch.zeros(IMAGES))
    assert network.compute_conv_feature_map_size(IMAGES[2:]) == sum(counted)


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


# ------------------------------------------------------------------------------------------------ labels left out


@pytest.mark.parametrize("deep", [True, False])
def test_labels_left_out_are_nowhere_the_most_likely_and_the_others_keep_their_logits(architecture, deep):
    network = build(architecture, deep_supervision=deep)
    images = torch.randn(IMAGES)
    with torch.no_grad():
        before = network(images)
        network.register_forward_hook(never_predict([3, 1]))
        after = network(images)
    for old, new in zip(before, after, strict=True) if deep else [(before, after)]:
        assert torch.equal(new[:, [0, 2]], old[:, [0, 2]])
        assert set(old.argmax(1).unique().tolist()) & {1, 3}
        assert set(new.argmax(1).unique().tolist()) <= {0, 2}
        gap = new[:, [0, 2]].amin(1) - new[:, [1, 3]].amax(1)
        torch.testing.assert_close(gap, torch.full_like(gap, LEFT_OUT_LOGIT_GAP), rtol=0, atol=1e-4)


def test_labels_left_out_take_no_part_in_the_gradient():
    logits = torch.randn(1, N_LABELS, 2, 2, 2, requires_grad=True)
    hidden = never_predict([2])(nn.Identity(), (), logits)
    nn.functional.cross_entropy(hidden, torch.ones(1, 2, 2, 2, dtype=torch.long)).backward()
    assert logits.grad[:, 2].abs().max() == 0
    assert (logits.grad[:, [0, 1, 3]].abs() > 0).all()


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_with_pairs_the_network_makes_fewer_maps_and_a_logit_per_label(segmenter, deep_supervision):
    segmenter["arch_kwargs"]["left_right_pairs"] = [[1, 3]]
    network = build(segmenter, deep_supervision=deep_supervision)
    plain = copy.deepcopy(segmenter)
    del plain["arch_kwargs"]["left_right_pairs"]
    plain = build(plain, deep_supervision=deep_supervision)
    assert network.decoder.num_classes == 3 + 2
    outputs, expected = network(torch.randn(IMAGES)), plain(torch.randn(IMAGES))
    if not deep_supervision:
        outputs, expected = [outputs], [expected]
    assert [o.shape for o in outputs] == [o.shape for o in expected]
    assert set(dict(network.named_parameters())) == set(dict(plain.named_parameters()))


def test_seven_organs_in_three_pairs_take_fewer_maps_than_labels(segmenter):
    segmenter["arch_kwargs"]["left_right_pairs"] = [[1, 2], [3, 4], [5, 6]]
    make = {k: v for k, v in segmenter["arch_kwargs"].items() if k != "left_right_pairs"}
    sizes = []
    for pairs in ([], [[1, 2], [3, 4], [5, 6]]):
        architecture = {**segmenter, "arch_kwargs": {**make, "left_right_pairs": pairs}}
        args = architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"]
        network = get_network_from_plans(*args, N_CHANNELS, 8, deep_supervision=True)
        sizes.append(network.compute_conv_feature_map_size(IMAGES[2:]))
    assert sizes[1] < sizes[0]
