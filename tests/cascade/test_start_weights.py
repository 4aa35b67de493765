"""Weights of a trained network for one of other channels and organs."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.cascade.networks import CascadeUNet
from nnunet_ext.cascade.start_weights import NetworkNames, start_weights

MODEL = {
    "channel_names": {"0": "CT", "1": "T1", "2": "T2"},
    "labels": {"background": 0, "Eye_L": 1, "Chiasm": 2, "Eye_R": 3},
}
OURS = {"channel_names": {"0": "T2", "1": "CT"}, "labels": {"background": 0, "Cochlea": 1, "Eye_R": 2, "Eye_L": 3}}
SIDES = {"model": [[1, 3]], "ours": [[3, 2]]}


def network(dataset: dict, pairs: list, *, residual_blocks: bool = True) -> CascadeUNet:
    made = CascadeUNet(
        len(dataset["channel_names"]),
        len(dataset["labels"]),
        n_stages=2,
        features_per_stage=[4, 8],
        conv_op=torch.nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * 2,
        strides=[[1, 1, 1], [2, 2, 2]],
        n_blocks_per_stage=[1, 1],
        n_conv_per_stage_decoder=[1],
        residual_blocks=residual_blocks,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=torch.nn.LeakyReLU,
        deep_supervision=True,
        left_right_pairs=pairs,
    )
    for value in made.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return made.eval()


@pytest.mark.parametrize("residual_blocks", [True, False])
@pytest.mark.parametrize("factorised", [True, False])
def test_common_organs_have_the_logits_that_the_model_gives_without_the_other_channel(residual_blocks, factorised):
    torch.manual_seed(1)
    pairs = SIDES if factorised else {"model": [], "ours": []}
    theirs = network(MODEL, pairs["model"], residual_blocks=residual_blocks)
    ours = network(OURS, pairs["ours"], residual_blocks=residual_blocks)
    before = [layer.weight.detach().clone() for layer in ours.decoder.seg_layers]
    start = start_weights(
        ours,
        theirs.state_dict(),
        ours=NetworkNames.of(OURS, left_right_pairs=pairs["ours"]),
        theirs=NetworkNames.of(MODEL, left_right_pairs=pairs["model"]),
    )
    ours.load_state_dict(start.weights)
    t2, ct = torch.randn(2, 1, 1, 8, 8, 8)
    with torch.no_grad():
        expected = theirs(torch.cat([ct, torch.zeros_like(ct), t2], 1))
        found = ours(torch.cat([t2, ct], 1))
    for one, other in zip(found, expected, strict=True):  # of each resolution
        torch.testing.assert_close(one[:, [0, 2, 3]], other[:, [0, 3, 1]])
    new = 1  # the map of the cochlea, either way
    assert all(
        torch.equal(layer.weight[new], old[new]) for layer, old in zip(ours.decoder.seg_layers, before, strict=True)
    )
    assert start.lines == [
        "Inputs taken from the model by name: T2, CT.",
        "Inputs of the model that the data set does not have, left out: T1.",
        "Organs taken from the model by name: Eye_R, Eye_L.",
        "Organs of the model that the data set does not have, left out: Chiasm.",
        "Organs that the model does not have, begun with random weights: Cochlea.",
    ]


def test_a_guided_segmenters_maps_of_organs_are_inputs_by_name():
    names = NetworkNames.of(OURS, guided=True)
    assert names.inputs == ("T2", "CT", "map of Cochlea", "map of Eye_R", "map of Eye_L")


def test_weights_of_another_network_and_values_that_are_none_are_refused():
    ours, names = network(OURS, []), NetworkNames.of(OURS)
    weights = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match=r"weights of another network: 'encoder\.stem.* in the network and "):
        start_weights(ours, weights, ours=names, theirs=NetworkNames.of(MODEL))
    name = next(iter(weights))
    weights[name].view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=rf"'{name}' holds values that are no finite numbers"):
        start_weights(ours, weights, ours=names, theirs=names)
