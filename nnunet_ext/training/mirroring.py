"""Mirroring that keeps left and right organs apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform


def swap_labels(label_map: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Label map of any shape with the two labels, both above 0, of every pair exchanged. The input is left as it is."""
    organs = label_map > 0  # few voxels: the comparisons below take no time
    labels = label_map[organs]
    exchanged = labels.clone()
    for left, right in pairs:
        exchanged[labels == left] = right
        exchanged[labels == right] = left
    swapped = label_map.clone()
    swapped[organs] = exchanged
    return swapped


def swap_channels(logits: torch.Tensor, pairs: Sequence[tuple[int, int]], *, channel_axis: int = 0) -> torch.Tensor:
    """Logits with one channel per label (background first), the channels of every pair exchanged."""
    order = list(range(logits.shape[channel_axis]))
    for left, right in pairs:
        order[left], order[right] = right, left
    return logits.index_select(channel_axis, torch.tensor(order, device=logits.device))


class LeftRightMirrorTransform(MirrorTransform):
    """Mirror along any of `allowed_axes`. Along `left_right_axis` the labels of left and right organs are exchanged.

    A mirrored left eye looks like a right eye. With its old label it would teach the network that left is right.

    Args:
        allowed_axes: Spatial axes that may be mirrored, each with probability 0.5, counted without the channel axis.
        left_right_axis: The spatial axis that runs from the patient's one side to the other.
        pairs: `(left, right)` label values.
    """

    def __init__(self, allowed_axes: tuple[int, ...], left_right_axis: int, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__(allowed_axes)
        self.left_right_axis = left_right_axis
        self.pairs = tuple(pairs)

    def _apply_to_segmentation(self, segmentation: torch.Tensor, *, axes: Sequence[int]) -> torch.Tensor:
        mirrored = super()._apply_to_segmentation(segmentation, axes=axes)
        return swap_labels(mirrored, self.pairs) if self.left_right_axis in axes else mirrored
