"""FocusNet's small organs: maps of their centres, crops around these, and the losses of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

#: Standard deviation in voxels of the Gaussian around a centre, and weight of Dice beside the focal loss of a crop.
SIGMA_VOXELS, DICE_WEIGHT = 5.0, 0.5
#: Of the focal loss.
GAMMA = 2.0
#: How far the logit of a small organ lies below all others outside its crop.
ABSENT_GAP = 20.0
SMOOTH = 1e-5


@dataclass(frozen=True)
class HeatmapOutput:
    """Logits of centres `(B, organs, Z, Y, X)` of the organs with these labels."""

    logits: torch.Tensor
    labels: tuple[int, ...]

    def loss(self, target: torch.Tensor) -> torch.Tensor:
        """Squared error against a Gaussian around each centre in a label map `(B, 1, Z, Y, X)`.

        The mean over voxels would be next to nothing for a map that is zero nearly everywhere. So the sum is divided by the
        sum of a Gaussian. An organ that is not there has a map of zeros.
        """
        wanted = torch.stack([_gaussians(target[:, 0] == label) for label in self.labels], 1)
        unit = (2 * torch.pi) ** 1.5 * SIGMA_VOXELS**3
        return ((self.logits.float().sigmoid() - wanted) ** 2).sum() / (unit * wanted.shape[0] * wanted.shape[1])


@dataclass(frozen=True)
class CropOutput:
    """Logits of organs in their crops `(B, organs, *crop)`, and the crops' lower corners in voxels `(B, organs, 3)`."""

    logits: torch.Tensor
    corners: torch.Tensor
    labels: tuple[int, ...]

    def loss(self, target: torch.Tensor) -> torch.Tensor:
        """Focal loss and half of Dice against a label map `(B, 1, Z, Y, X)`, mean over the organs."""
        size = tuple(self.logits.shape[2:])
        wanted = torch.cat(
            [cut((target == label).float(), self.corners[:, i], size) for i, label in enumerate(self.labels)], 1
        )
        logits = self.logits.float()
        log_p = -nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        focal = (-((1 - log_p.exp()) ** GAMMA) * log_p).mean()
        p = logits.sigmoid()
        axes = (0, 2, 3, 4)
        overlap = (2 * (p * wanted).sum(axes) + SMOOTH) / ((p + wanted).sum(axes) + SMOOTH)
        return focal + DICE_WEIGHT * (1 - overlap).mean()


def _gaussians(organ: torch.Tensor) -> torch.Tensor:
    """A Gaussian of height 1 around the centre of an organ `(B, Z, Y, X)`, zeros where it is not there."""
    maps = torch.zeros(organ.shape, device=organ.device)
    for sample, mask in enumerate(organ):
        where = mask.nonzero().float()
        if not len(where):
            continue
        squared = torch.zeros((), device=organ.device)
        for axis, (n, centre) in enumerate(zip(mask.shape, where.mean(0), strict=True)):
            shape = [1] * mask.ndim
            shape[axis] = n
            squared = squared + ((torch.arange(n, device=organ.device) - centre) ** 2).reshape(shape)
        maps[sample] = torch.exp(-squared / (2 * SIGMA_VOXELS**2))
    return maps


def peaks(heatmaps: torch.Tensor, crop: Sequence[int]) -> torch.Tensor:
    """Lower corners `(B, organs, 3)` of crops around the highest value of each map, inside the volume if it is as large."""
    size = heatmaps.shape[2:]
    highest = heatmaps.flatten(2).argmax(2)
    corners = []
    for n, length, stride in zip(size, crop, _strides(size), strict=True):
        at = (highest // stride) % n
        corners.append((at - length // 2).clamp(min=0, max=max(0, n - length)))
    return torch.stack(corners, 2)


def _strides(size: Sequence[int]) -> list[int]:
    """Voxels from one to the next along each axis of a volume that is laid out as a line."""
    strides = [1]
    for n in reversed(size[1:]):
        strides.insert(0, strides[0] * n)
    return strides


def cut(volume: torch.Tensor, corners: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Crops `(B, C, *size)` of a volume `(B, C, Z, Y, X)` at corners `(B, 3)`, with zeros beyond a smaller volume."""
    crops = []
    for sample, corner in zip(volume, corners.tolist(), strict=True):
        part = sample[(slice(None), *(slice(at, at + n) for at, n in zip(corner, size, strict=True)))]
        missing = [n - there for n, there in zip(size, part.shape[1:], strict=True)]
        crops.append(nn.functional.pad(part, [p for n in reversed(missing) for p in (0, n)]))
    return torch.stack(crops)


def merged(logits: torch.Tensor, crops: torch.Tensor, corners: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    """Logits of the whole volume in which small organs are what their crops say.

    Within its crop an organ's logit lies above or below all logits of the others by the crop's logit. Beyond it lies far
    below. Where two small organs claim a voxel, the one whose crop is surer has it.

    Args:
        logits: Of the whole volume, `(B, labels, Z, Y, X)`.
        crops: Logits `(B, organs, *crop)`.
        corners: `(B, organs, 3)`.
        labels: Of the organs.
    """
    others = [channel for channel in range(logits.shape[1]) if channel not in labels]
    highest, lowest = logits[:, others].amax(1), logits[:, others].amin(1)
    result = logits.clone()
    for organ, label in enumerate(labels):
        result[:, label] = lowest - ABSENT_GAP
        for sample, corner in enumerate(corners[:, organ].tolist()):
            inside = tuple(slice(at, at + n) for at, n in zip(corner, crops.shape[2:], strict=True))
            target = result[sample, label][inside]
            own = crops[sample, organ][tuple(slice(0, n) for n in target.shape)]
            target.copy_(highest[sample][inside] + own.to(result.dtype))
    return result
