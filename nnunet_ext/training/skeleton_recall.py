"""Recall of the skeletons of thin organs, as a term of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import nn
from torch.nn.functional import max_pool3d

from nnunet_ext.labels.organs import built_in_aliases, normalise_name

#: Organs that are thin enough to be lost in the sum over their voxels.
THIN_ORGANS = ("OpticNrv_L", "OpticNrv_R", "OpticChiasm")
#: Depths in voxels that are told apart. An optic nerve with its sheath is 6 mm across.
EROSIONS = 8


def thin_labels(labels: Mapping[str, int]) -> list[int]:
    """Label values of the thin organs, by any name that converters know, sorted."""
    names = {normalise_name(n) for organ, more in built_in_aliases(THIN_ORGANS).items() for n in (organ, *more)}
    return sorted(int(value) for name, value in labels.items() if normalise_name(name) in names)


class SkeletonRecallLoss(nn.Module):
    """A loss plus the share of thin organs' skeletons that a network's probabilities miss.

    The skeleton is where no neighbour lies deeper in the organ. It is widened by a voxel within the organ, to a tube. A gap
    in a nerve costs as much in it as any other piece of its length. The original thins to a line one voxel wide, on the CPU,
    and widens it by two voxels. This runs on the training device.

    Args:
        loss: Called with the same logits and labels.
        labels: Label values of the thin organs.
        weight: Of the term.
        gathered: Whether several processes share a batch. Then the recall is the whole batch's.

    Source:
        Kirchhoff et al. 2024, Skeleton recall loss, arXiv:2404.03010.
    """

    def __init__(self, loss: nn.Module, labels: Sequence[int], weight: float, *, gathered: bool = False) -> None:
        super().__init__()
        self.loss, self.labels, self.weight, self.gathered = loss, list(labels), weight, gathered

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The sum, of logits `(B, labels, *axes)` and labels `(B, 1, *axes)`."""
        loss = self.loss(logits, target)
        probabilities = logits.float().softmax(1)[:, self.labels]
        with torch.no_grad():
            tube = torch.cat([tubed_skeleton(target == label) for label in self.labels], 1)
        axes = [0, *range(2, logits.ndim)]
        found, wanted = (probabilities * tube).sum(axes), tube.sum(axes).float()
        if self.gathered:
            found, wanted = AllGatherGrad.apply(found).sum(0), AllGatherGrad.apply(wanted).sum(0)
        there = wanted > 0
        missed = torch.where(there, 1 - found / wanted.clamp(min=1), 0).sum() / there.sum().clamp(min=1)
        return loss + self.weight * missed


def tubed_skeleton(organ: torch.Tensor) -> torch.Tensor:
    """Skeleton of an organ, one voxel wider on every side, within the organ.

    Args:
        organ: Mask of shape `(B, 1, Z, Y, X)`.
    """
    left = organ.float()
    depth = left.clone()
    for n in range(EROSIONS):
        left = _eroded(left) if n % 2 else _eroded_by_faces(left)
        depth += left
    skeleton = (depth == _dilated(depth)) & organ
    return (_dilated(skeleton.float()) * organ) > 0


def _dilated(mask: torch.Tensor) -> torch.Tensor:
    return max_pool3d(mask, 3, stride=1, padding=1)


def _eroded(mask: torch.Tensor) -> torch.Tensor:
    return -max_pool3d(-mask, 3, stride=1, padding=1)


def _eroded_by_faces(mask: torch.Tensor) -> torch.Tensor:
    """Without corners and edges, so that depths in turns with `_eroded` are nearly Euclidean."""
    faces = [(3, 1, 1), (1, 3, 1), (1, 1, 3)]
    smaller = [-max_pool3d(-mask, size, stride=1, padding=[n // 2 for n in size]) for size in faces]
    return torch.minimum(torch.minimum(smaller[0], smaller[1]), smaller[2])
