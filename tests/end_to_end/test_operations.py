"""Multiply-adds: those of layers that can be worked out on paper, and of a network of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ext.end_to_end.operations import counted, multiply_adds, multiply_adds_per_s


@pytest.mark.parametrize(
    ("layer", "size", "expected"),
    [
        # 4 x 5 x 6 voxels, 7 channels out, each the sum over 3 channels and 3 x 3 x 3 voxels.
        (nn.Conv3d(3, 7, 3, padding=1), (4, 5, 6), 4 * 5 * 6 * 7 * 3 * 27),
        # Every second voxel along two axes.
        (nn.Conv3d(3, 7, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1)), (4, 6, 8), 4 * 3 * 4 * 7 * 3 * 9),
        # Each output channel sums over the two input channels of its group.
        (nn.Conv3d(4, 6, 1, groups=2), (4, 5, 6), 4 * 5 * 6 * 6 * 2),
        # Each of 4 x 5 x 6 voxels and 3 channels goes to 7 channels of 2 x 2 x 2 voxels.
        (nn.ConvTranspose3d(3, 7, 2, 2), (4, 5, 6), 4 * 5 * 6 * 3 * 7 * 8),
    ],
)
def test_multiply_adds_of_a_convolution_are_those_worked_out_on_paper(layer, size, expected):
    images = torch.zeros(2, layer.in_channels, *size)
    assert multiply_adds(layer, tuple(images.shape), tuple(layer(images).shape)) == 2 * expected


def test_a_networks_layers_add_up_over_its_windows_and_the_largest_is_known():
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv3d(2, 2, 3, 2, padding=1))
    first, second = 4 * 6 * 8 * 2 * 1 * 27, 2 * 3 * 4 * 2 * 2 * 27
    with counted(network) as found:
        network(torch.zeros(1, 1, 4, 6, 8))
        network(torch.zeros(2, 1, 4, 6, 8))
    assert (found.n_windows, found.multiply_adds) == (3, 3 * (first + second))
    assert (found.largest, found.largest_name) == (network[0], "0")
    assert (found.largest_shape, found.largest_multiply_adds) == ((2, 1, 4, 6, 8), 2 * first)
    network(torch.zeros(1, 1, 4, 6, 8))
    assert found.n_windows == 3


def test_the_peak_is_of_the_layer_alone_and_leaves_it_as_it_was():
    layer = nn.Conv3d(2, 4, 3, padding=1)
    weights, seen = layer.weight.clone(), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    n = multiply_adds(layer, (1, 2, 8, 8, 8), (1, 4, 8, 8, 8))
    per_s = multiply_adds_per_s(
        layer, (1, 2, 8, 8, 8), n, precision="bfloat16", device=torch.device("cpu"), seconds=0.01
    )
    assert n / 5 < per_s < 1e15  # quicker than 5 s
    assert seen == []
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight, weights)
