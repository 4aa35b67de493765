"""A training in phases, each with an optimizer of its own, as the plan's `phases` entry of a configuration states it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from nnunet_ext.training.optimizers import make_optimizer
from nnunet_ext.training.recipe import CHOICES
from nnunet_ext.training.schedule import poly

#: How the learning rate runs through a phase.
CONSTANT, POLY = "constant", "poly"
DECAYS = (CONSTANT, POLY)
#: Factor on the learning rate at each milestone.
MILESTONE_FACTOR = 0.1


@dataclass(frozen=True)
class TrainingPhase:
    """Part of a training.

    Attributes:
        num_epochs: Of this phase. In a training of another length, or under a time budget, each phase takes its share.
        optimizer: As of `TrainingRecipe.optimizer`.
        initial_lr: Learning rate at the beginning of the phase. There is no warm-up.
        momentum, weight_decay: Of the optimizer. AdamW and Adam have no momentum.
        milestones: Epochs of the phase at which the learning rate falls to a tenth.
        decay: `constant` between milestones, or `poly`, nnU-Net's polynomial decay.
        part: Of the network, which is trained alone. None is all of it.
    """

    num_epochs: int
    optimizer: str
    initial_lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    decay: str = CONSTANT
    part: str | None = None

    def factor(self, share: float) -> float:
        """Factor on the initial learning rate after `share` of the phase, in [0, 1]."""
        if self.decay == POLY:
            return poly(share)
        return MILESTONE_FACTOR ** sum(share * self.num_epochs >= epoch for epoch in self.milestones)

    def to_plan(self) -> dict[str, Any]:
        """The plan's entry, as plain JSON."""
        return {**asdict(self), "milestones": list(self.milestones)}


def phases_from_plan(plan: Sequence[Mapping] | None, *, where: str) -> list[TrainingPhase]:
    """The phases of a configuration, or none.

    Args:
        plan: The entry.
        where: Of the configuration, for messages.

    Raises:
        ValueError: On an unknown key or a value out of range.
    """
    return [_phase(entry, where=f"{where}: phases[{number}]") for number, entry in enumerate(plan or ())]


def _phase(entry: Mapping, *, where: str) -> TrainingPhase:
    known = {field.name for field in fields(TrainingPhase)}
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"{where} has unknown keys {unknown}. Known: {sorted(known)}.")
    if missing := sorted({"num_epochs", "optimizer", "initial_lr"} - set(entry)):
        raise ValueError(f"{where} has no {', '.join(missing)}.")
    phase = TrainingPhase(**{**entry, "milestones": tuple(entry.get("milestones", ()))})
    for name, choices in (("optimizer", CHOICES["optimizer"]), ("decay", DECAYS)):
        if getattr(phase, name) not in choices:
            raise ValueError(f"{where}.{name} is {getattr(phase, name)!r}; it must be one of {', '.join(choices)}.")
    for name, lowest in (("initial_lr", 0), ("momentum", None), ("weight_decay", None)):
        value = getattr(phase, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value == lowest:
            raise ValueError(f"{where}.{name} is {value!r}; it must be a number {'>' if lowest == 0 else '>='} 0.")
    for name, values in (("num_epochs", [phase.num_epochs]), ("milestones", phase.milestones)):
        if any(isinstance(value, bool) or not isinstance(value, int) or value < 1 for value in values):
            raise ValueError(f"{where}.{name} is {entry[name]!r}; whole numbers >= 1 are needed.")
    return phase


def phase_at(phases: Sequence[TrainingPhase], share: float) -> tuple[int, float]:
    """Number of the phase after `share` of the training, and the share of that phase that is over."""
    total = sum(phase.num_epochs for phase in phases)
    epoch = share * total
    for number, phase in enumerate(phases):
        if epoch < phase.num_epochs or number == len(phases) - 1:
            return number, min(1.0, epoch / phase.num_epochs)
        epoch -= phase.num_epochs
    raise ValueError("there is no phase")


class PhasedOptimizer:
    """The optimizer of the phase that a training is in, as nnU-Net's trainer uses an optimizer.

    An optimizer begins without moments in its phase. The state is that of the present phase.

    Args:
        phases: Of the training.
        network: Whose parts, if a phase names one, it begins with `begin_part`.

    Raises:
        ValueError: If the network has no parts to train one by one.
    """

    def __init__(self, phases: Sequence[TrainingPhase], network: torch.nn.Module) -> None:
        if any(phase.part for phase in phases) and not hasattr(network, "begin_part"):
            raise ValueError(
                f"{type(network).__name__} has no parts, but a phase of the plan names one: remove it there."
            )
        self.phases, self.network = list(phases), network
        #: Epoch in which the part in training was begun. Scores before it are those of another network.
        self.first_epoch = 0
        self.begin(0)

    def begin(self, number: int) -> None:
        """Go into a phase, with a new optimizer."""
        self.number, phase = number, self.phases[number]
        if phase.part is not None:
            network: Any = self.network
            network.begin_part(phase.part)
        self.optimizer = make_optimizer(
            phase.optimizer,
            [parameter for parameter in self.network.parameters() if parameter.requires_grad],
            lr=phase.initial_lr,
            weight_decay=phase.weight_decay,
            momentum=phase.momentum,
            nesterov=False,
        )

    @property
    def param_groups(self) -> list[dict]:
        return self.optimizer.param_groups

    @property
    def state(self) -> Mapping:
        return self.optimizer.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        self.optimizer.step()

    def state_dict(self) -> dict:
        """As `torch.optim.Optimizer.state_dict`, with the number of the phase, and when its part was begun."""
        return {**self.optimizer.state_dict(), "phase": self.number, "first_epoch": self.first_epoch}

    def load_state_dict(self, state: Mapping) -> None:
        """Go into the phase of the state, and take it."""
        state = dict(state)
        self.first_epoch = int(state.pop("first_epoch"))
        self.begin(int(state.pop("phase")))
        self.optimizer.load_state_dict(state)


class PhasedLR:
    """Asks for the share of the training that is over, and gives the optimizer its phase and learning rate."""

    def __init__(self, optimizer: PhasedOptimizer, share: Callable[[], float]) -> None:
        self.optimizer, self.share = optimizer, share

    def step(self, _epoch: int | None = None) -> None:
        number, share = phase_at(self.optimizer.phases, self.share())
        if number != self.optimizer.number:
            self.optimizer.begin(number)
        phase = self.optimizer.phases[number]
        for group in self.optimizer.param_groups:
            group["lr"] = phase.initial_lr * phase.factor(share)
