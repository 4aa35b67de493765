"""AnatomyNet, the whole-volume network for organs of head and neck."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn

from nnunet_ext.rivals.blocks import BATCH_NORM, SqueezeExciteBlock, feature_values, initialize_kaiming, narrowed

#: The paper's channels: of the stem, of three stages, and behind the transposed convolution.
STEM, STAGES, LAST = 28, (30, 32, 34), 14
#: Channels per hidden unit of squeeze and excitation.
REDUCTION = 15


class AnatomyNet(nn.Module):
    """Residual blocks with squeeze and excitation, all at half the resolution, and one step back to the full.

    The paper's are channels, blocks, the one halving, and the concatenations, also of the image itself. 734,478 weights
    for one image and ten labels. It names no padding. Here odd sizes are padded by their border for the halving. Logits
    are returned where the paper has a softmax, which nnU-Net's loss and export apply.

    Args:
        input_channels: Images.
        num_classes: Labels with the background.
        width: Channels as a share of the paper's.
        deep_supervision: Of nnU-Net. The paper has none.

    Raises:
        ValueError: If deep supervision is asked for.

    Source:
        Zhu et al. 2019, AnatomyNet, doi:10.1002/mp.13300.
    """

    #: As the paper does. Prediction does not cut a body then.
    sees_whole_volumes = True

    def __init__(
        self, input_channels: int, num_classes: int, *, width: float = 1.0, deep_supervision: bool = False
    ) -> None:
        super().__init__()
        if deep_supervision:
            raise ValueError("AnatomyNet has no deep supervision: set deep_supervision to false in the plan.")
        self.input_channels = input_channels
        stem, last = narrowed(STEM, width), narrowed(LAST, width)
        one, two, three = (narrowed(n, width) for n in STAGES)
        self.stem = ConvDropoutNormReLU(nn.Conv3d, input_channels, stem, 3, 2, False, **BATCH_NORM)
        self.encoder = nn.ModuleList([_pair(stem, one), _pair(one, two), _pair(two, three)])
        self.decoder = nn.ModuleList([_pair(three + two, two), _pair(two + one, one), _pair(one + stem, stem)])
        self.up = nn.ConvTranspose3d(stem, last, 2, 2)
        self.joined = _joined(last + input_channels, last)
        self.logits = nn.Conv3d(last, num_classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(B, labels, Z, Y, X)` of images `(B, C, Z, Y, X)`."""
        size = x.shape[2:]
        odd = [n % 2 for n in reversed(size)]
        image = nn.functional.pad(x, [p for n in odd for p in (0, n)], mode="replicate") if any(odd) else x
        kept = [self.stem(image)]
        for stage in self.encoder:
            kept.append(stage(kept[-1]))
        y = kept.pop()
        for stage in self.decoder:
            y = stage(torch.cat([y, kept.pop()], 1))
        logits = self.logits(self.joined(torch.cat([self.up(y), image], 1)))
        return logits[:, :, : size[0], : size[1], : size[2]]

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in all feature maps for one image of `input_size`, nnU-Net's measure of the memory needed."""
        return feature_values(self, (self.input_channels, *input_size))

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """As the paper's authors, by He."""
        initialize_kaiming(module)


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    """Two blocks, the first of which changes the number of channels."""
    return nn.Sequential(
        SqueezeExciteBlock(inputs, outputs, reduction=REDUCTION),
        SqueezeExciteBlock(outputs, outputs, reduction=REDUCTION),
    )


def _joined(inputs: int, outputs: int) -> BasicBlockD:
    """The block that sees the image again. Its shortcut is a convolution of 3 voxels."""
    block = BasicBlockD(nn.Conv3d, inputs, outputs, 3, 1, **BATCH_NORM)
    block.skip = ConvDropoutNormReLU(nn.Conv3d, inputs, outputs, 3, 1, False, norm_op=nn.BatchNorm3d, norm_op_kwargs={})
    return block
