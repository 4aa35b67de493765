"""The loss over several processes as it is over one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss


class GatheredCrossEntropyLoss(RobustCrossEntropyLoss):
    """Weighted cross entropy of one process's part of a batch, such that the mean over the processes is the whole batch's.

    torch divides by the weights of the voxels it sees. A process whose samples hold more organ has more weight, and the
    plain mean over processes, which DDP takes of loss and gradients, would make its organs cheaper than on one GPU.

    Every process must call it equally often, so not with an ignore label: nnU-Net leaves the term out where a process sees
    nothing else.
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.CrossEntropyLoss`, times the share of this process in the weight, times the number of processes."""
        loss = super().forward(input, target)
        own = self.weight[target.long()].sum()
        total = own.clone()
        dist.all_reduce(total)
        return loss * own * dist.get_world_size() / total
