"""Networks that dynamic-network-architectures lacks an option for; everything else comes from there through the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn


class MaxPoolUNet(PlainConvUNet):
    """3D U-Net that downsamples by max pooling, as the localizer of the reference study does.

    `PlainConvUNet` always downsamples with strided convolutions although its encoder knows max pooling; this class
    hands the option through. Arguments are those of `PlainConvUNet`; `strides` are the pooling kernel sizes.

    Source:
        Cicek et al. 2016, 3D U-Net, doi:10.1007/978-3-319-46723-8_49.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        n_conv_per_stage_decoder: int | tuple[int, ...] | list[int],
        deep_supervision: bool = False,
        **encoder_kwargs: Any,
    ) -> None:
        super().__init__(
            input_channels=input_channels,
            num_classes=num_classes,
            n_conv_per_stage_decoder=n_conv_per_stage_decoder,
            deep_supervision=deep_supervision,
            **encoder_kwargs,
        )
        self.encoder = PlainConvEncoder(input_channels, return_skips=True, pool="max", **encoder_kwargs)
        self.decoder = UNetDecoder(self.encoder, num_classes, n_conv_per_stage_decoder, deep_supervision)


def keep_channels(n: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    """Forward pre-hook that hands a network only the first `n` channels of its input `(B, C, Z, Y, X)`.

    nnU-Net appends the previous stage's label map one-hot behind the image channels of a cascaded configuration; the
    segmenter looks at the images alone.
    """

    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][:, :n], *inputs[1:])

    return hook
