"""Parts that the networks of other groups share."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from torch import nn

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: BatchNorm and LeakyReLU, as keywords of dynamic-network-architectures' blocks.
BATCH_NORM: dict[str, Any] = {
    "norm_op": nn.BatchNorm3d,
    "norm_op_kwargs": {},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}


def narrowed(channels: int, width: float) -> int:
    """Channels of a layer in a network of `width` times the published width, at least one."""
    return max(1, round(channels * width))


class SqueezeExcite3d(nn.Module):
    """Weighs the channels of a volume by what their means over all voxels say.

    dynamic-network-architectures' block takes the mean over two axes only, which is right in two dimensions.

    Args:
        channels: Of the volume.
        hidden: Between the two layers.
        bias: Whether the layers have biases.

    Source:
        Hu et al. 2018, Squeeze-and-excitation networks, doi:10.1109/CVPR.2018.00745.
    """

    def __init__(self, channels: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(channels, hidden, 1, bias=bias),
            nn.LeakyReLU(inplace=True),
            nn.Conv3d(hidden, channels, 1, bias=bias),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The volume `(B, C, Z, Y, X)` with its channels weighed."""
        return x * self.weights(x)


class SqueezeExciteBlock(BasicBlockD):
    """Residual block of two convolutions whose result is weighed by squeeze and excitation before the addition.

    Args:
        inputs, outputs: Channels.
        reduction: Channels per hidden unit of the squeeze.
        bias: Of the squeeze.
    """

    def __init__(self, inputs: int, outputs: int, *, reduction: int, bias: bool = True) -> None:
        super().__init__(nn.Conv3d, inputs, outputs, 3, 1, squeeze_excitation=True, **BATCH_NORM)
        self.squeeze_excitation = SqueezeExcite3d(outputs, max(1, outputs // reduction), bias=bias)


def feature_values(network: nn.Module, size: Sequence[int]) -> int:
    """Values in the outputs of all convolutions for one image of `size`, `(C, *axes)`, counted without computing them."""
    values: list[int] = []

    def count(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        values.append(output.numel())

    copied = deepcopy(network).to("meta").eval()
    for module in copied.modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(count)
    with torch.no_grad():
        copied(torch.empty((1, *size), device="meta"))
    return sum(values)


def initialize_kaiming(module: nn.Module) -> None:
    """Weights of convolutions by He, for `nn.Module.apply`."""
    if isinstance(module, CONVOLUTIONS):
        nn.init.kaiming_normal_(module.weight)
