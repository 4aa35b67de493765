"""Channels blanked at random in training, so that one model predicts with and without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform

from nnunet_ext.images.channels import is_ct
from nnunet_ext.training.recipe import ANY, REFERENCE


def optional_channels(channel_names: Sequence[str], *, spares: str = REFERENCE) -> tuple[int, ...]:
    """Indices of the channels a case may lack.

    Args:
        channel_names: In the model's order.
        spares: The recipe's `dropout_spares`. With `reference`, all but the CT, or all but the first if there is no CT.
            With `any`, all, as long as one is there.
    """
    if spares == ANY:
        return tuple(range(len(channel_names)))
    needed = next((i for i, name in enumerate(channel_names) if is_ct(name)), 0)
    return tuple(i for i in range(len(channel_names)) if i != needed)


class ModalityDropoutTransform(ImageOnlyTransform):
    """Set each of some channels of an image `(C, *axes)` to zero with a probability, independently.

    nnU-Net's z-score makes zeros of a constant image, so a file of one value stands for a missing channel at
    prediction.

    Args:
        channels: Indices of the channels that may go.
        probability: Of each, in [0, 1].
        leave_one: One of the channels, at random, stays where all would go.
    """

    def __init__(self, channels: Sequence[int], probability: float, *, leave_one: bool = False) -> None:
        super().__init__()
        self.channels, self.probability, self.leave_one = tuple(channels), probability, leave_one

    def get_parameters(self, **_data_dict: object) -> dict[str, list[int]]:
        dropped = [c for c in self.channels if torch.rand(1).item() < self.probability]
        if self.leave_one and len(dropped) == len(self.channels):
            dropped.pop(int(torch.randint(len(dropped), (1,))))
        return {"dropped": dropped}

    def _apply_to_image(self, img: torch.Tensor, *, dropped: Sequence[int]) -> torch.Tensor:
        if not dropped:
            return img
        img = img.clone()
        img[list(dropped)] = 0
        return img
