"""A moving average over the weights of a training."""

from __future__ import annotations

import torch
from torch import nn

#: The average begins with the first weights, so its decay grows from this share on: `(1 + n) / (10 + n)` after n updates.
EARLY = 10


class WeightsAverage:
    """Exponential moving average of a network's parameters, with its buffers as they are.

    Args:
        network: Whose weights are averaged.
        decay: Share of the average that an update keeps, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.n = network, decay, 0
        self.average = {name: p.detach().clone() for name, p in network.named_parameters()}
        self.own: dict[str, torch.Tensor] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after an iteration into the average."""
        decay = min(self.decay, (1 + self.n) / (EARLY + self.n))
        self.n += 1
        for name, parameter in self.network.named_parameters():
            self.average[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def put_in(self) -> None:
        """Give the network the average, and remember its own weights."""
        if self.own is None:
            self.own = {name: p.detach().clone() for name, p in self.network.named_parameters()}
            for name, parameter in self.network.named_parameters():
                parameter.copy_(self.average[name])

    @torch.no_grad()
    def take_out(self) -> None:
        """Give the network its own weights back."""
        if self.own is not None:
            for name, parameter in self.network.named_parameters():
                parameter.copy_(self.own[name])
            self.own = None
