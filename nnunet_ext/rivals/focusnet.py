"""FocusNet: a whole-volume network, and two heads that find the small organs and segment each in a crop of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn

from nnunet_ext.rivals.blocks import BATCH_NORM, SqueezeExciteBlock, feature_values, initialize_kaiming, narrowed
from nnunet_ext.rivals.small_organs import CropOutput, HeatmapOutput, cut, merged, peaks

#: The paper's channels: of the first convolutions, of the stages after one and two poolings, and what each branch of the
#: pyramid adds.
FIRST, SECOND, THIRD, GROWTH = 32, 48, 64, 32
#: Channels per hidden unit of squeeze and excitation.
REDUCTION = 8
#: Dilation of the pyramid's branches along `(Z, Y, X)`.
RATES = ((1, 3, 3), (1, 6, 6), (1, 12, 12), (1, 18, 18))
DILATED = (1, 2, 2)
#: Poolings of a slice, then of a volume.
POOLS = ((1, 2, 2), (2, 2, 2))
#: Voxels that both poolings make one, along `(Z, Y, X)`.
STEP = tuple(a * b for a, b in zip(*POOLS, strict=True))
#: Crop of a small organ in voxels, `(Z, Y, X)`.
CROP = (8, 64, 64)
#: Probabilities with which untrained heads begin. Most voxels are far from a centre, and an organ is a hundredth of its crop
#: or less. From one half, the paper's small steps would go on for thousands of iterations to learn where nothing is.
CENTRE_PRIOR, CROP_PRIOR = 0.1, 0.01
#: Parts of the network, in the order in which they are trained.
SEGMENTATION, LOCALISATION, CROPS = "segmentation", "localisation", "crops"
PARTS = (SEGMENTATION, LOCALISATION, CROPS)


class SNet(nn.Module):
    """The whole-volume network. 1,963,114 weights for one image and ten labels.

    The paper's are channels, blocks, poolings, dilations and the dense pyramid. Ours, where it is silent, are the step back
    up, a convolution of one voxel and linear interpolation, and the placing of norms.

    Args:
        input_channels: Images.
        num_classes: Labels with the background.
        width: Channels as a share of the paper's.
    """

    def __init__(self, input_channels: int, num_classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        first, second, third, growth = (narrowed(n, width) for n in (FIRST, SECOND, THIRD, GROWTH))
        self.first = nn.Sequential(_convolution(input_channels, first), _convolution(first, first))
        self.second = nn.Sequential(nn.MaxPool3d(POOLS[0]), _block(first, second), _block(second, second))
        self.third = nn.Sequential(
            nn.MaxPool3d(POOLS[1]),
            _block(second, third),
            _block(third, third),
            _dilated(third),
            _dilated(third),
        )
        self.pyramid = nn.ModuleList()
        channels = third
        for rate in RATES:
            self.pyramid.append(_branch(channels, growth, rate))
            channels += growth
        self.up = nn.ModuleList([_Up(channels, second, second), _Up(second, first, first)])
        self.logits = nn.Conv3d(first, num_classes, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits `(B, labels, Z, Y, X)`, the decoder's last features, and the first features, at the same resolution."""
        first = self.first(x)
        second = self.second(first)
        y = self.third(second)
        for branch in self.pyramid:
            y = torch.cat([y, branch(y)], 1)
        y = self.up[1](self.up[0](y, second), first)
        return self.logits(y), y, first


class FocusNet(nn.Module):
    """`SNet`, which is trained first, then with its weights fixed a head for the centres of small organs, then one for each.

    In training it gives the logits of the whole volume, or what the part in training needs for its own loss
    (`small_organs`). In evaluation it gives logits. Once the last part is in training, a small organ is what its head says
    within the crop around its predicted centre, and nothing beyond. Other organs stay as the whole-volume network has them.

    The paper's are the parts, their order, crops and losses. Ours, where it is silent, are the features that the heads see:
    the decoder's last with the first ones, in which an organ shows that the first part has not learned. The head of an
    organ has two convolutions and one of a voxel. Untrained heads begin as if there were little to find, as networks for
    rare objects do (Lin et al. 2017, doi:10.1109/ICCV.2017.324). The second version's adversarial loss of shapes is not
    built.

    Args:
        input_channels: Images.
        num_classes: Labels with the background.
        small_labels: Values of the organs that have heads.
        width: Channels as a share of the paper's.
        deep_supervision: Of nnU-Net. The paper has none.

    Raises:
        ValueError: If deep supervision is asked for, or a small label is none of the organs.

    Source:
        Gao et al. 2019, FocusNet, doi:10.1007/978-3-030-32248-9_92.
    """

    part: torch.Tensor
    #: As the paper does. Prediction does not cut a body then, in whose windows each small organ would be searched for.
    sees_whole_volumes = True

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        small_labels: Sequence[int] = (),
        width: float = 1.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if deep_supervision:
            raise ValueError("FocusNet has no deep supervision: set deep_supervision to false in the plan.")
        if unknown := [label for label in small_labels if not 0 < label < num_classes]:
            raise ValueError(
                f"FocusNet's small_labels in the plan hold {unknown}, but the data set has the organs 1 to "
                f"{num_classes - 1}: its organs have changed since it was planned. Plan it again."
            )
        self.input_channels, self.small_labels = input_channels, tuple(small_labels)
        features = narrowed(FIRST, width)
        n_small = len(self.small_labels)
        self.snet = SNet(input_channels, num_classes, width=width)
        self.centres = nn.Sequential(
            _full(2 * features, features), _full(features, features), nn.Conv3d(features, max(1, n_small), 1)
        )
        self.organs = nn.ModuleList(
            nn.Sequential(_full(2 * features, features), _full(features, features), nn.Conv3d(features, 1, 1))
            for _ in self.small_labels
        )
        _begin_at(self.centres, CENTRE_PRIOR)
        for organ in self.organs:
            _begin_at(organ, CROP_PRIOR)
        #: Number of the part in training, kept with the weights. Beside it the same as a number.
        self.register_buffer("part", torch.tensor(0))
        self._part = 0
        self.register_load_state_dict_post_hook(lambda network, _keys: network.begin_part(PARTS[int(network.part)]))
        self.begin_part(SEGMENTATION)

    def begin_part(self, name: str) -> None:
        """Train this part from now on. The others keep their weights and statistics.

        Raises:
            ValueError: If there is no such part, or if no organ is small and it is not the first.
        """
        if name not in PARTS or (name != SEGMENTATION and not self.small_labels):
            raise ValueError(f"FocusNet has no part '{name}' to train; with these organs: {', '.join(self.parts)}.")
        self._part = PARTS.index(name)
        self.part.fill_(self._part)
        modules = {SEGMENTATION: self.snet, LOCALISATION: self.centres, CROPS: self.organs}
        for part, module in modules.items():
            module.requires_grad_(part == name)
        self.train(self.training)

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts that can be trained."""
        return PARTS if self.small_labels else PARTS[:1]

    def train(self, mode: bool = True) -> FocusNet:
        """As `nn.Module.train`. Parts that are not in training stay in evaluation."""
        super().train(mode)
        for part, module in zip(PARTS, (self.snet, self.centres, self.organs), strict=True):
            module.train(mode and PARTS.index(part) == self._part)
        return self

    def forward(self, x: torch.Tensor) -> Any:
        """Logits `(B, labels, Z, Y, X)` of images `(B, C, Z, Y, X)`, or in training the present part's output."""
        size = x.shape[2:]
        image = _padded(x)
        part = PARTS[self._part]
        logits, last, first = self.snet(image)
        logits = logits[:, :, : size[0], : size[1], : size[2]]
        if part == SEGMENTATION or (part == LOCALISATION and not self.training):
            return logits
        last, first = (f[:, :, : size[0], : size[1], : size[2]] for f in (last, first))
        features = torch.cat([last, first], 1)
        heatmaps = self.centres(features)
        if part == LOCALISATION:
            return HeatmapOutput(heatmaps, self.small_labels)
        corners = peaks(heatmaps, CROP)
        crops = [head(cut(features, corners[:, i], CROP)) for i, head in enumerate(self.organs)]
        stacked = torch.cat(crops, 1)
        if self.training:
            return CropOutput(stacked, corners, self.small_labels)
        return merged(logits, stacked, corners, self.small_labels)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in all feature maps of `SNet` for one image, nnU-Net's measure of the memory needed."""
        return feature_values(self.snet, (self.input_channels, *_multiple(input_size)))

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """By He."""
        initialize_kaiming(module)


def _begin_at(head: nn.Module, probability: float) -> None:
    """Set the bias of a head's last convolution, so that its sigmoid is near a probability before training."""
    assert isinstance(head, nn.Sequential)
    last = head[-1]
    assert isinstance(last, nn.Conv3d)
    assert last.bias is not None
    nn.init.constant_(last.bias, math.log(probability / (1 - probability)))


class _Up(nn.Module):
    """A convolution of one voxel, linear interpolation to the size of the features kept, and two blocks on both."""

    def __init__(self, inputs: int, kept: int, outputs: int) -> None:
        super().__init__()
        self.narrow = nn.Conv3d(inputs, outputs, 1, bias=False)
        self.blocks = nn.Sequential(_block(outputs + kept, outputs), _block(outputs, outputs))

    def forward(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        larger = nn.functional.interpolate(self.narrow(x), size=kept.shape[2:], mode="trilinear", align_corners=False)
        return self.blocks(torch.cat([larger, kept], 1))


def _convolution(inputs: int, outputs: int) -> ConvDropoutNormReLU:
    """A convolution within slices."""
    return ConvDropoutNormReLU(nn.Conv3d, inputs, outputs, (1, 3, 3), 1, False, **BATCH_NORM)


def _full(inputs: int, outputs: int) -> ConvDropoutNormReLU:
    return ConvDropoutNormReLU(nn.Conv3d, inputs, outputs, 3, 1, False, **BATCH_NORM)


def _block(inputs: int, outputs: int) -> SqueezeExciteBlock:
    return SqueezeExciteBlock(inputs, outputs, reduction=REDUCTION, bias=False)


def _dilated(channels: int) -> SqueezeExciteBlock:
    """A block whose convolutions are dilated within slices."""
    block = _block(channels, channels)
    for convolution in (block.conv1.conv, block.conv2.conv):
        convolution.dilation = convolution.padding = DILATED
    return block


def _branch(inputs: int, growth: int, rate: tuple[int, int, int]) -> nn.Sequential:
    """A branch of the dense pyramid."""
    return nn.Sequential(
        nn.Conv3d(inputs, growth, 3, padding=rate, dilation=rate, bias=False),
        nn.BatchNorm3d(growth),
        nn.LeakyReLU(inplace=True),
    )


def _multiple(size: Sequence[int]) -> list[int]:
    """The next size that both poolings divide."""
    return [n + -n % step for n, step in zip(size, STEP, strict=True)]


def _padded(x: torch.Tensor) -> torch.Tensor:
    """Images padded by their border to a size that both poolings divide."""
    missing = [wanted - n for n, wanted in zip(x.shape[2:], _multiple(x.shape[2:]), strict=True)]
    if not any(missing):
        return x
    return nn.functional.pad(x, [p for n in reversed(missing) for p in (0, n)], mode="replicate")
