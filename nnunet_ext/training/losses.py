"""The organs' weight in the cross entropy, and the loss over several processes as it is over one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from torch import nn


class FocalCrossEntropyLoss(RobustCrossEntropyLoss):
    """Weighted cross entropy in which a voxel counts by `(1 - p) ** gamma`, with the probability `p` of its label.

    As in the cross entropy, the sum is divided by the voxels' weights, not by what they count.

    Source:
        Lin et al. 2017, Focal loss for dense object detection, doi:10.1109/ICCV.2017.324.
    """

    gamma = 2.0

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.CrossEntropyLoss`, of logits `(B, labels, *axes)` and labels `(B, 1, *axes)`."""
        target = target[:, 0].long() if target.ndim == input.ndim else target.long()
        known = target != self.ignore_index
        target = torch.where(known, target, 0)
        log_p = input.float().log_softmax(1).gather(1, target[:, None])[:, 0]
        weight = self.weight[target] * known
        return -(weight * (1 - log_p.exp()) ** self.gamma * log_p).sum() / weight.sum()


class GatheredCrossEntropyLoss(RobustCrossEntropyLoss):
    """Weighted cross entropy of one process's part of a batch, such that the mean over the processes is the whole batch's.

    torch divides by the weights of the voxels it sees. A process whose samples hold more organ has more weight. DDP takes
    the plain mean of loss and gradients over processes, which would make its organs cheaper than on one GPU.

    Every process must call it equally often. So it cannot have an ignore label, as nnU-Net leaves the term out if a
    process sees nothing else.
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.CrossEntropyLoss`, times the share of this process in the weight, times the number of processes."""
        loss = super().forward(input, target)
        own = self.weight[target.long()].sum()
        total = own.clone()
        dist.all_reduce(total)
        return loss * own * dist.get_world_size() / total


class GatheredFocalCrossEntropyLoss(GatheredCrossEntropyLoss, FocalCrossEntropyLoss):
    """`FocalCrossEntropyLoss` of one process's part of a batch."""


def weigh_organs(
    loss: nn.Module,
    weight: float,
    *,
    n_labels: int,
    ignore_label: int | None,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
    gathered: bool,
    device: torch.device,
    focal: bool = False,
) -> None:
    """Set the organs' weight in the cross entropy of nnU-Net's loss, and the weights of its terms, or make it focal.

    Args:
        loss: nnU-Net's, which is changed. A loss that is not Dice + cross entropy stays as it is.
        weight: Of each organ. The background has 1.
        n_labels: With the background.
        ignore_label: nnU-Net's.
        dice_weight, cross_entropy_weight: Of the two terms. 0 switches one off.
        gathered: Whether several processes share a batch, see `GatheredCrossEntropyLoss`.
        device: Of the loss.
        focal: Whether the cross entropy is `FocalCrossEntropyLoss`.
    """
    inner = loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss
    if not isinstance(inner, DC_and_CE_loss):
        return
    weights = torch.full((n_labels,), float(weight))
    weights[0] = 1.0
    ignore = {} if ignore_label is None else {"ignore_index": ignore_label}
    alone, together = (
        (FocalCrossEntropyLoss, GatheredFocalCrossEntropyLoss)
        if focal
        else (RobustCrossEntropyLoss, GatheredCrossEntropyLoss)
    )
    cls = together if gathered and not ignore else alone
    inner.ce = cls(weight=weights.to(device), **ignore)
    inner.weight_ce, inner.weight_dice = cross_entropy_weight, dice_weight


class PartLoss(nn.Module):
    """The loss of a network's output that has one, `output.loss(target)`, or of logits.

    Args:
        of_logits: For logits.
    """

    def __init__(self, of_logits: nn.Module) -> None:
        super().__init__()
        self.of_logits = of_logits

    def forward(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        """Loss of an output against labels `(B, 1, *axes)`."""
        return output.loss(target) if hasattr(output, "loss") else self.of_logits(output, target)
