"""What an iteration costs, and how many of them a mark is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.end_to_end.learning.study import CPU
from nnunet_ext.end_to_end.learning.systems import CONSTANT_SHARE, System
from nnunet_ext.files import read_json

#: Validation iterations per training iteration, as in the small planner's schedules (4 of 25).
VALIDATION_SHARE = 0.16
#: Most iterations of an epoch, and how many epochs the shortest mark has at least where its iterations allow that.
LONGEST_EPOCH, LEAST_EPOCHS = 25, 20
#: nnU-Net's. On a GPU the time between two epochs is a larger share of a short one.
LONGEST_EPOCH_GPU = 250
SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True)
class Cost:
    """Seconds of a training's iteration and of a validation iteration, and the length of its epochs.

    Attributes:
        train_s, val_s: Of one iteration, augmentation included. CPU seconds on a CPU, else by the clock.
        epoch_iterations: Of a trunk and its branches, fixed when the cost was measured.
        longest_epoch: Most iterations of an epoch.
    """

    train_s: float
    val_s: float
    epoch_iterations: int
    longest_epoch: int = LONGEST_EPOCH

    def epoch_s(self, iterations: int) -> float:
        return self.train_s * iterations + self.val_s * validation_iterations(iterations)


@dataclass(frozen=True)
class Course:
    """How long a training is.

    Attributes:
        num_epochs: Up to the mark.
        branch_epoch: After so many the branch leaves the trunk.
        epoch_iterations, val_iterations: Of each epoch.
    """

    num_epochs: int
    branch_epoch: int
    epoch_iterations: int
    val_iterations: int

    @property
    def iterations(self) -> int:
        return self.num_epochs * self.epoch_iterations


def validation_iterations(epoch_iterations: int) -> int:
    return max(1, round(VALIDATION_SHARE * epoch_iterations))


def epoch_length(train_s: float, val_s: float, seconds: float, longest: int = LONGEST_EPOCH) -> int:
    """Iterations of an epoch of a training of so many seconds."""
    iterations = seconds / (train_s + VALIDATION_SHARE * val_s)
    return max(1, min(longest, int(iterations / LEAST_EPOCHS)))


def course(system: System, cost: Cost, minutes: float) -> Course:
    """The training of a system up to a mark.

    A trunk's epochs are as long for all marks. A training of its own has epochs of a length that suits it, because
    stock's learning rate falls by the epoch.

    Args:
        system: Or a localizer.
        cost: Of its iteration.
        minutes: The mark, core minutes (on a GPU minutes of the clock) of all stages together.
    """
    seconds = minutes * SECONDS_PER_MINUTE * system.share
    length = (
        cost.epoch_iterations
        if system.has_trunk
        else epoch_length(cost.train_s, cost.val_s, seconds, cost.longest_epoch)
    )
    num_epochs = max(2, round(seconds / cost.epoch_s(length)))
    branch_epoch = min(num_epochs - 1, max(1, round(CONSTANT_SHARE * num_epochs)))
    return Course(num_epochs, branch_epoch, length, validation_iterations(length))


class Costs:
    """The file of costs of one data set, `results/runs/costs_DATA.json`."""

    def __init__(self, content: Mapping) -> None:
        self.content = content

    @classmethod
    def read(cls, file: Path) -> Costs:
        """Costs that were measured.

        Raises:
            FileNotFoundError: If none were.
        """
        return cls(read_json(file, {"systems": {str: dict}, "marks_min": [float]}))

    def of(self, name: str) -> Cost:
        """Cost of a system's or a localizer's iteration.

        Raises:
            ValueError: If it was not measured, or the system can't be built.
        """
        entry = self.content["systems"].get(name)
        if entry is None or "not_built" in entry:
            reason = "not measured" if entry is None else f"not built: {entry['not_built']}"
            raise ValueError(f"the cost of an iteration of {name!r} is {reason}")
        return Cost(entry["train_s"], entry["val_s"], entry["epoch_iterations"], self.longest_epoch)

    @property
    def longest_epoch(self) -> int:
        return LONGEST_EPOCH if self.content.get("device", CPU) == CPU else LONGEST_EPOCH_GPU

    @property
    def marks_min(self) -> list[float]:
        return sorted(self.content["marks_min"])

    @property
    def not_built(self) -> dict[str, str]:
        """System -> why its plan can't be trained."""
        return {name: e["not_built"] for name, e in self.content["systems"].items() if "not_built" in e}

    @property
    def stock_memory_gb(self) -> float | None:
        """GPU memory target of stock with small patches."""
        return self.content.get("stock_memory_gb")
