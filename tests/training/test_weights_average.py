"""A moving average over weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ext.training.weights_average import WeightsAverage


def test_the_average_follows_the_weights_and_is_put_in_and_taken_out():
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    average = WeightsAverage(layer, 0.9)
    expected = 0.0
    for n in range(200):
        value = 1.0 + (-1) ** n  # 2, 0, 2, 0, ...
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    own = layer.weight.item()
    average.put_in()
    average.put_in()  # a second time changes nothing
    assert layer.weight.item() == pytest.approx(expected, abs=1e-5)
    assert expected == pytest.approx(1.0, abs=0.1)
    average.take_out()
    assert layer.weight.item() == own
    average.take_out()
    assert layer.weight.item() == own


def test_early_updates_count_more_than_late_ones():
    layer = nn.Linear(1, 1, bias=False)
    average = WeightsAverage(layer, 0.999)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    for _ in range(60):
        average.update()
    average.put_in()
    assert layer.weight.item() == pytest.approx(5.0, abs=0.05)
