"""Optimizers that a recipe names, and a learning rate that follows a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from nnunet_ext.training.recipe import ADAM, RMSPROP, SGD


def make_optimizer(
    name: str,
    parameters: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.99,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """The optimizer of `TrainingRecipe.optimizer`. `sgd` has nnU-Net's momentum unless another is given."""
    if name == SGD:
        return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)
    if name == RMSPROP:
        return torch.optim.RMSprop(parameters, lr=lr, weight_decay=weight_decay)
    adam = torch.optim.Adam if name == ADAM else torch.optim.AdamW
    return adam(parameters, lr=lr, weight_decay=weight_decay)


class WithoutState:
    """An optimizer as it is before its first step, for a checkpoint that no training is meant to go on from."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict:
        """As `torch.optim.Optimizer.state_dict`, without moments. `load_state_dict` takes it."""
        return {**self.optimizer.state_dict(), "state": {}}


class ScheduledLR:
    """Learning rate scheduler that asks a function for the factor on the initial learning rate at every step."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial_lr: float, factor: Callable[[], float]) -> None:
        self.optimizer, self.initial_lr, self.factor = optimizer, initial_lr, factor

    def step(self, _epoch: int | None = None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_lr * self.factor()
