"""One crop of fixed size around each organ that the localizer found, and the network that puts their results together.

The reference study segments so. One network serves all organs. Of each crop only its own organ is kept. The network cuts
the crops itself, because nnU-Net's predictor hands it a window and the localizer's label map, and knows no other crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch.nn import functional

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.networks import CascadeUNet

#: Largest log-odds that a crop's organ gets. Outside of its crop an organ has the least. Sums over windows stay within half
#: precision.
MOST_LOG_ODDS = 20.0


def crop_size_of(configuration: ConfigurationManager) -> tuple[int, ...] | None:
    """Voxels of the crops along the plan's axes, or None if the configuration has none."""
    size = configuration.network_arch_init_kwargs.get("crop_size")
    return None if size is None else tuple(int(n) for n in size)


def organ_boxes(
    label_map: np.ndarray, crop_size: Sequence[int], *, content: roi.Box | None = None
) -> dict[int, roi.Box]:
    """The crop of every organ in a label map of the localizer, without its small false positives.

    Args:
        label_map: Shape `(*plan_axes)`, on the grid that the crops are cut from.
        crop_size: In voxels.
        content: What the crops must not leave. None is the whole array.

    Returns:
        Label value -> box. Crops that would leave `content` are moved inside. They are smaller where that is.
    """
    content = roi.whole(label_map.shape) if content is None else content
    start, shape = [lower for lower, _ in content], [upper - lower for lower, upper in content]
    voxels = (1.0,) * label_map.ndim
    boxes = {}
    for value, extent in roi.organ_extents(label_map[roi.slices(content)], spacing_mm=voxels, clean=True).items():
        box = roi.box_around(roi.middle_of(extent), crop_size, spacing_mm=voxels, shape=shape)
        boxes[value] = tuple((lower + at, upper + at) for (lower, upper), at in zip(box, start, strict=True))
    return boxes


def without_crop(label_map: np.ndarray, configuration: Mapping, labels: Mapping[str, int]) -> list[str]:
    """Names of the organs that a label map of the localizer gives no crop, although the configuration segments them.

    Args:
        label_map: In the box that the crops are cut from.
        configuration: Of the plan.
        labels: Of `dataset.json`.
    """
    there = {0, *np.unique(label_map).tolist(), *roi.left_out_labels(configuration)}
    return [name for name, value in labels.items() if value not in there]


class OrganCropUNet(CascadeUNet):
    """A `CascadeUNet` for crops, which also segments a window with the localizer's label map, one crop per organ.

    Given image channels alone, it is a `CascadeUNet`. So it is trained. Given the localizer's label map one-hot behind them,
    as nnU-Net appends it, it computes the crop of every organ in that map. The logit of an organ in its crop is the log-odds
    of its probability there, and least elsewhere. That of the background is 0. So an organ is predicted where its crop gives
    it more than one half, and where crops overlap, the larger probability decides.

    Args:
        crop_size: Voxels of a crop.
        options: As of `CascadeUNet`.
    """

    def __init__(self, input_channels: int, num_classes: int, *, crop_size: Sequence[int], **options: Any) -> None:
        super().__init__(input_channels, num_classes, **options)
        self.n_image_channels, self.n_labels = input_channels, num_classes
        self.crop_size = tuple(int(n) for n in crop_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits `(B, labels, Z, Y, X)` of crops, or of windows with the localizer's label map."""
        if x.shape[1] == self.n_image_channels:
            return super().forward(x)
        return torch.stack([self._from_crops(*one.split([self.n_image_channels, self.n_labels - 1])) for one in x])

    def _from_crops(self, images: torch.Tensor, localized: torch.Tensor) -> torch.Tensor:
        """Logits `(labels, Z, Y, X)` of images and the localizer's label map, a channel per organ."""
        organs = localized.detach().cpu().numpy() > 0
        label_map = np.where(organs.any(0), organs.argmax(0) + 1, 0)
        logits = images.new_full((self.n_labels, *images.shape[1:]), -MOST_LOG_ODDS)
        logits[0] = 0.0
        for organ, box in organ_boxes(label_map, self.crop_size, content=content_box(images)).items():
            crop = images[(slice(None), *roi.slices(box))]
            padding = padding_to(self.crop_size, crop.shape[1:])
            output = self(functional.pad(crop, [n for pair in reversed(padding) for n in pair])[None])
            output = (output[0] if isinstance(output, list) else output)[0].float()
            inside = tuple(slice(first, first + n) for (first, _), n in zip(padding, crop.shape[1:], strict=True))
            logits[organ][roi.slices(box)] = own_log_odds(output, organ)[inside].to(logits.dtype)
        return logits


def own_log_odds(logits: torch.Tensor, organ: int) -> torch.Tensor:
    """Log-odds `(Z, Y, X)` of an organ's probability against all other labels, of logits `(labels, Z, Y, X)`."""
    others = [label for label in range(len(logits)) if label != organ]
    return (logits[organ] - logits[others].logsumexp(0)).clamp(-MOST_LOG_ODDS, MOST_LOG_ODDS)


def content_box(images: torch.Tensor) -> roi.Box:
    """Box of a window `(C, Z, Y, X)` without the zeros that nnU-Net puts around a volume smaller than the window."""
    there = (images != 0).any(0)
    box = []
    for axis in range(there.ndim):
        index = there.movedim(axis, 0).flatten(1).any(1).nonzero()
        box.append((int(index[0]), int(index[-1]) + 1) if len(index) else (0, there.shape[axis]))
    return tuple(box)


def padding_to(size: Sequence[int], shape: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels before and after along each axis that bring a crop to its size, as nnU-Net's loader pads."""
    return [((n - there) // 2, n - there - (n - there) // 2) for n, there in zip(size, shape, strict=True)]
