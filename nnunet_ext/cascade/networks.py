"""The U-Net of both stages, put together from dynamic-network-architectures' parts, and its hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0
from torch import nn

from nnunet_ext.cascade.side_logits import SideLogits

#: Convolutions in a residual block, and in the plain block that takes its place.
CONVOLUTIONS_PER_BLOCK = 2
#: `downsampling` in the plan -> the encoders' word for it.
POOLING = {"strided_convolution": "conv", "max_pooling": "max"}


class CascadeUNet(AbstractDynamicNetworkArchitectures):
    """U-Net in which each of the reference study's improvements is one word of the plan's `arch_kwargs`.

    With both on and deep supervision (the configuration's `deep_supervision`) it is the study's segmenter. It is then
    the same network as dynamic-network-architectures' `ResidualEncoderUNet`. With all off it is the 3D U-Net that
    localizes.

    Args:
        n_blocks_per_stage: Blocks of two convolutions per stage of the encoder.
        residual_blocks: Add a shortcut around every block, and a stem of one convolution.
        downsampling: `strided_convolution` or `max_pooling`, by `strides` either way.
        left_right_pairs: Label values of left and right organs whose logits are put together from organ and side, see
            `SideLogits`. None of them: a logit per label.
        encoder_kwargs: As of dynamic-network-architectures' encoders.

    Raises:
        ValueError: If `downsampling` is another word, or a pair is none.

    Source:
        Cicek et al. 2016, 3D U-Net, doi:10.1007/978-3-319-46723-8_49, and He et al. 2016, doi:10.1109/CVPR.2016.90.
    """

    key_to_encoder = "encoder.stages"

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        n_blocks_per_stage: Sequence[int],
        n_conv_per_stage_decoder: Sequence[int],
        residual_blocks: bool = True,
        downsampling: str = "strided_convolution",
        deep_supervision: bool = False,
        left_right_pairs: Sequence[Sequence[int]] = (),
        **encoder_kwargs: Any,
    ) -> None:
        super().__init__()
        if downsampling not in POOLING:
            raise ValueError(f"arch_kwargs.downsampling is {downsampling!r} in the plan; known: {', '.join(POOLING)}.")
        options = {"return_skips": True, **encoder_kwargs}
        self.pools = POOLING[downsampling] == "max"
        if residual_blocks:
            self.encoder = ResidualEncoder(
                input_channels, n_blocks_per_stage=n_blocks_per_stage, pool_type=POOLING[downsampling], **options
            )
        else:
            convolutions = [CONVOLUTIONS_PER_BLOCK * n for n in n_blocks_per_stage]
            self.encoder = PlainConvEncoder(
                input_channels, n_conv_per_stage=convolutions, pool=POOLING[downsampling], **options
            )
        self.sides = SideLogits(num_classes, left_right_pairs) if left_right_pairs else None
        n_maps = num_classes if self.sides is None else self.sides.n_maps
        self.decoder = UNetDecoder(self.encoder, n_maps, n_conv_per_stage_decoder, deep_supervision)
        # Where dynamic-network-architectures finds the stem of pretrained weights.
        first = "encoder.stem.convs.0" if residual_blocks else "encoder.stages.0.0.convs.0"
        self.key_to_stem = "encoder.stem" if residual_blocks else "encoder.stages.0"
        self.keys_to_in_proj = (f"{first}.conv", f"{first}.all_modules.0")

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits `(B, labels, Z, Y, X)`. With deep supervision a list, full resolution first."""
        output = self.decoder(self.encoder(x))
        if self.sides is None:
            return output
        return [self.sides(o) for o in output] if isinstance(output, list) else self.sides(output)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in all feature maps for one image of `input_size`, nnU-Net's measure of the memory needed.

        A stage that pools computes on the pooled size. The encoders of dynamic-network-architectures count the size before.
        """
        if not self.pools:
            encoder = self.encoder.compute_conv_feature_map_size(input_size)
        else:
            stem, size = getattr(self.encoder, "stem", None), list(input_size)
            encoder = 0 if stem is None else stem.compute_conv_feature_map_size(size)
            for stage, stride in zip(self.encoder.stages, self.encoder.strides, strict=True):
                size = [n // s for n, s in zip(size, stride, strict=True)]
                encoder += stage[-1].compute_conv_feature_map_size(size)  # what follows the pooling
        return encoder + self.decoder.compute_conv_feature_map_size(input_size)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """As `ResidualEncoderUNet`, by He, and every residual block starts as its shortcut."""
        InitWeights_He(1e-2)(module)
        init_last_bn_before_add_to_0(module)


def keep_channels(n: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    """Forward pre-hook that hands a network only the first `n` channels of its input `(B, C, Z, Y, X)`.

    nnU-Net appends the previous stage's label map one-hot behind the image channels of a cascaded configuration. The
    segmenter looks at the images alone.
    """

    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][:, :n], *inputs[1:])

    return hook


#: How far the logits of labels left out lie below those of all others: their share in a softmax is below 1e-8, and the
#: sums over a sliding window stay within half precision.
LEFT_OUT_LOGIT_GAP = 20.0


def never_predict(labels: Sequence[int]) -> Callable[[nn.Module, tuple, Any], Any]:
    """Forward hook after which the given labels are nowhere the most likely.

    The labels keep their channels, so that nnU-Net's export and the label map's values stay as `dataset.json` has them.
    Means over folds or windows and linear interpolation keep the order of the channels.
    """
    labels = sorted(labels)

    def below_all_others(logits: torch.Tensor) -> torch.Tensor:
        others = [c for c in range(logits.shape[1]) if c not in labels]
        low = logits[:, others].amin(1, keepdim=True).detach() - LEFT_OUT_LOGIT_GAP
        return torch.cat([low if c in labels else logits[:, c : c + 1] for c in range(logits.shape[1])], 1)

    def hook(_module: nn.Module, _inputs: tuple, output: Any) -> Any:
        return [below_all_others(o) for o in output] if isinstance(output, list | tuple) else below_all_others(output)

    return hook
