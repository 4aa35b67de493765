"""The network: what cubic interpolation lost of a plane across slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

#: Features of the hidden layers, and their number.
FEATURES, HIDDEN_LAYERS = 16, 4
#: Reach along the slice axis and across it, in pixels. Information is missing along the slice axis, so it reaches further.
KERNEL = (5, 3)
#: Slope below zero of the activation.
SLOPE = 0.1


class SliceNetwork(nn.Module):
    """A small 2D network that predicts the difference between a plane and its cubic interpolation.

    The layers have no bias, and the kernels of the first one add up to zero. So with `a x + b` in place of `x`, the
    difference is `a` times the one before, for any positive `a`. HU, arbitrary units of an MR and z-scores need no
    normalising, and nothing that a patch or a volume could disagree about.

    How much is to be sharpened, and of which channel, scales the features of each layer. It begins as cubic
    interpolation: the last layer is zero.

    Args:
        n_channels: Kinds of images that it tells apart.
        features: Of the hidden layers.
        hidden_layers: Their number.
    """

    def __init__(self, n_channels: int, *, features: int = FEATURES, hidden_layers: int = HIDDEN_LAYERS) -> None:
        super().__init__()
        self.n_channels = n_channels
        padding = (KERNEL[0] // 2, KERNEL[1] // 2)
        self.padding = (padding[1], padding[1], padding[0], padding[0])
        self.first = nn.Conv2d(1, features, KERNEL, bias=False)
        self.hidden = nn.ModuleList(
            nn.Conv2d(features, features, KERNEL, padding=padding, bias=False) for _ in range(hidden_layers - 1)
        )
        self.last = nn.Conv2d(features, 1, KERNEL, padding=padding, bias=False)
        self.gains = nn.Linear(2 + n_channels, features * hidden_layers)
        for layer in (self.last.weight, self.gains.weight, self.gains.bias):
            nn.init.zeros_(layer)

    def forward(self, planes: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """Differences of interpolated planes.

        Args:
            planes: Shape `(N, 1, slices, pixels)`.
            conditions: `conditions_of` each plane, shape `(N, 2 + n_channels)`.
        """
        gains = (1 + self.gains(conditions)).chunk(1 + len(self.hidden), dim=1)
        kernels = self.first.weight - self.first.weight.mean((2, 3), keepdim=True)
        x = functional.conv2d(functional.pad(planes, self.padding, mode="replicate"), kernels)
        x = functional.leaky_relu(x, SLOPE) * gains[0][..., None, None]
        for layer, gain in zip(self.hidden, gains[1:], strict=True):
            x = x + functional.leaky_relu(layer(x), SLOPE) * gain[..., None, None]
        return self.last(x)


def conditions_of(
    channels: Sequence[int] | np.ndarray, n_channels: int, *, thickness: float, spacing: float, pixel: float
) -> torch.Tensor:
    """What the network knows of planes, shape `(len(channels), 2 + n_channels)`.

    Args:
        channels: Index of each plane's channel.
        n_channels: Number of channels.
        thickness: Of the slices that were interpolated, in mm or any other unit that the next ones share.
        spacing: Distance of the slices they were interpolated to.
        pixel: Spacing across the slice axis.
    """
    result = torch.zeros(len(channels), 2 + n_channels)
    result[:, 0] = float(np.log2(thickness / spacing)) / 2
    result[:, 1] = float(np.log2(spacing / pixel)) / 2
    result[torch.arange(len(channels)), 2 + torch.as_tensor(np.asarray(channels))] = 1
    return result
