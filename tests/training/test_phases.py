"""A training in phases: what its plan entry may say, when a phase begins, and that a resumed training is in the same one."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from nnunet_ext.training.phases import (
    PhasedLR,
    PhasedOptimizer,
    TrainingPhase,
    phase_at,
    phases_from_plan,
)

TWO = [TrainingPhase(150, "rmsprop", 5e-4), TrainingPhase(50, "sgd", 1e-4, momentum=0.9)]


def network() -> torch.nn.Module:
    net = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(net.weight)
    return net


def step(optimizer: PhasedOptimizer) -> None:
    optimizer.zero_grad()
    optimizer.network.weight.sum().backward()
    optimizer.step()


def test_a_plans_entry_comes_back_as_it_was_written():
    phases = [TrainingPhase(5, "sgd", 0.1, 0.9, 5e-4, (2, 4)), TrainingPhase(1, "adam", 4e-4, decay="poly")]
    assert phases_from_plan([phase.to_plan() for phase in phases], where="c") == phases
    assert phases_from_plan(None, where="c") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimiser": "sgd"}, "unknown keys"),
        ({"optimizer": "lion"}, "must be one of"),
        ({"decay": "linear"}, "must be one of"),
        ({"initial_lr": 0}, "initial_lr is 0"),
        ({"momentum": -1}, "momentum is -1"),
        ({"milestones": [0]}, "whole numbers >= 1"),
        ({"num_epochs": 2.5}, "num_epochs is 2.5"),
    ],
)
def test_an_entry_that_would_be_ignored_or_fail_later_is_refused(change, said):
    entry = {"num_epochs": 3, "optimizer": "sgd", "initial_lr": 0.1, **change}
    with pytest.raises(ValueError, match=said):
        phases_from_plan([entry], where="configuration 'c'")


def test_a_phase_without_a_needed_key_is_refused():
    with pytest.raises(ValueError, match=r"phases\[0\] has no initial_lr"):
        phases_from_plan([{"num_epochs": 3, "optimizer": "sgd"}], where="c")


@pytest.mark.parametrize(
    ("share", "number", "within"), [(0.0, 0, 0.0), (0.5, 0, 2 / 3), (0.75, 1, 0.0), (0.875, 1, 0.5), (1.0, 1, 1.0)]
)
def test_the_phase_follows_the_share_of_the_training(share, number, within):
    assert phase_at(TWO, share) == (number, pytest.approx(within))


def test_a_milestone_divides_the_rate_by_ten_and_poly_ends_at_zero():
    phase = TrainingPhase(600, "sgd", 0.1, milestones=(200, 400))
    assert [phase.factor(epoch / 600) for epoch in (199, 200, 400)] == pytest.approx([1, 0.1, 0.01])
    assert TrainingPhase(10, "sgd", 0.1, decay="poly").factor(1.0) == 0


def test_each_phase_has_its_optimizer_and_its_rate():
    optimizer, share = PhasedOptimizer(TWO, network()), [0.0]
    scheduler = PhasedLR(optimizer, lambda: share[0])
    scheduler.step()
    assert isinstance(optimizer.optimizer, torch.optim.RMSprop)
    assert optimizer.param_groups[0]["lr"] == 5e-4
    step(optimizer)
    assert optimizer.state
    share[0] = 0.8
    scheduler.step()
    assert isinstance(optimizer.optimizer, torch.optim.SGD)
    assert not optimizer.state
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (1e-4, 0.9)
    before = optimizer.network.weight.detach().clone()
    step(optimizer)
    assert torch.allclose(optimizer.network.weight, before - 1e-4)


def test_a_resumed_training_is_in_the_phase_of_its_checkpoint_with_its_moments():
    first = PhasedOptimizer(TWO, network())
    first.begin(1)
    step(first)
    second = PhasedOptimizer(TWO, network())
    second.load_state_dict(deepcopy(first.state_dict()))
    assert second.number == 1
    for optimizer in (first, second):
        optimizer.network.weight.data.fill_(1.0)
        step(optimizer)
    assert torch.equal(first.network.weight, second.network.weight)


class Parted(torch.nn.ModuleDict):
    """Two parts, each of which is trained alone."""

    def begin_part(self, name: str) -> None:
        for part, module in self.items():
            module.requires_grad_(part == name)


def test_a_phase_trains_its_part_alone():
    phases = [TrainingPhase(1, "sgd", 0.1, part="a"), TrainingPhase(1, "sgd", 0.1, part="b")]
    optimizer = PhasedOptimizer(phases, Parted({"a": torch.nn.Linear(2, 1), "b": torch.nn.Linear(3, 1)}))
    for number, size in ((0, 2), (1, 3)):
        optimizer.begin(number)
        assert [p.shape[-1] for p in optimizer.param_groups[0]["params"]] == [size, 1]


def test_a_network_without_parts_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="Linear has no parts, but a phase of the plan names one"):
        PhasedOptimizer([TrainingPhase(1, "sgd", 0.1, part="a")], network())
