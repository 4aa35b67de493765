"""Optimizers by their name in the recipe, and the learning rate of every step."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.training.optimizers import ScheduledLR, make_optimizer


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_optimizer_is_the_recipes(name, kind):
    optimizer = make_optimizer(name, torch.nn.Linear(2, 3).parameters(), lr=0.01, weight_decay=3e-5)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.01, 3e-5)
    assert (group.get("momentum"), group.get("nesterov")) == ((0.99, True) if name == "sgd" else (None, None))


def test_every_step_asks_for_the_factor_anew():
    optimizer = make_optimizer("adamw", torch.nn.Linear(2, 3).parameters(), lr=1.0, weight_decay=0.0)
    factors = iter([0.5, 0.25])
    scheduler = ScheduledLR(optimizer, 0.1, lambda: next(factors))
    for expected in (0.05, 0.025):
        scheduler.step(7)  # nnU-Net gives the epoch
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
