"""When a training ends and how its learning rate falls, as pure functions of the plan and of the training log.

Nothing here keeps a state. A resumed training reads the log stored in its checkpoint and comes to the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

SECONDS_PER_HOUR = 3600.0
#: Keys of a configuration, for all trainers and for that of the reference study alone.
TRAINING_KEY, REFERENCE_KEY = "training", "reference_training"


@dataclass(frozen=True)
class TrainingSchedule:
    """The plan's `training` entry of a configuration. None switches a limit off.

    Attributes:
        num_epochs: Epochs at most.
        iterations_per_epoch, val_iterations_per_epoch: Batches per epoch.
        patience_epochs: Epochs without a better validation score after which the training winds down.
        time_budget_h: Hours of training (validation epochs included) at most, over all resumptions.
        initial_lr: Learning rate after the warm-up. None leaves it to the trainer. In the plan, because the rate that suits
            a network depends on its size.
        constant_share: Share of the training, in [0, 1], that keeps the full learning rate. The decay takes the rest.
            With 1 the training ends at the full rate, as the trunk of several annealed branches does.
    """

    num_epochs: int = 1000
    iterations_per_epoch: int = 250
    val_iterations_per_epoch: int = 50
    patience_epochs: int | None = None
    time_budget_h: float | None = None
    initial_lr: float | None = None
    constant_share: float = 0.0

    @classmethod
    def from_plan(cls, plan: Mapping | None, *, where: str = "the plan") -> TrainingSchedule:
        """Read the plan's entry. Missing keys take the defaults.

        Raises:
            ValueError: On an unknown key, because a misspelt limit would be ignored, or on a number out of range.
        """
        plan = dict(plan or {})
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(plan) - known):
            raise ValueError(f"{where}: 'training' has unknown keys {unknown}. Known: {sorted(known)}.")
        schedule = cls(**plan)
        for name in ("num_epochs", "iterations_per_epoch", "val_iterations_per_epoch"):
            value = getattr(schedule, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{where}: training.{name} is {value!r}; it must be a whole number >= 1.")
        for name in ("patience_epochs", "time_budget_h", "initial_lr"):
            value = getattr(schedule, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and value > 0):
                raise ValueError(f"{where}: training.{name} is {value!r}; it must be > 0, or null.")
        share = schedule.constant_share
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError(f"{where}: training.constant_share is {share!r}; it must be a number in [0, 1].")
        return schedule


def wind_down_epochs(schedule: TrainingSchedule) -> int:
    """Epochs over which the learning rate falls to zero once patience has run out, a tenth of all epochs, 1..50."""
    return min(50, max(1, schedule.num_epochs // 10))


def wind_down_start(scores: Sequence[float], patience_epochs: int | None) -> int | None:
    """First epoch of the wind-down, or None while patience lasts.

    Args:
        scores: Validation score (nnU-Net's EMA pseudo Dice) of every finished epoch. Larger is better.
        patience_epochs: Epochs without a new best that are waited for.
    """
    if patience_epochs is None:
        return None
    best, best_epoch = float("-inf"), -1
    for epoch, score in enumerate(scores):
        if score > best:
            best, best_epoch = score, epoch
        elif epoch - best_epoch >= patience_epochs:
            return epoch + 1
    return None


def progress(schedule: TrainingSchedule, *, epoch: float, elapsed_h: float) -> float:
    """Share of the training that is over, in [0, 1], of the epochs or of the time budget, whichever is larger.

    Args:
        epoch: Epochs done, with a fraction within an epoch.
        elapsed_h: Hours trained, earlier runs of a resumed training included.
    """
    share = epoch / schedule.num_epochs
    if schedule.time_budget_h is not None:
        share = max(share, elapsed_h / schedule.time_budget_h)
    return min(1.0, max(0.0, share))


def elapsed_h(starts_s: Sequence[float], ends_s: Sequence[float], *, now_s: float) -> float:
    """Hours trained so far.

    Args:
        starts_s, ends_s: Time at which each epoch of the log began and ended. The last one may still run.
        now_s: The time.
    """
    seconds = sum(end - start for start, end in zip(starts_s, ends_s, strict=False))
    if len(starts_s) > len(ends_s):
        seconds += now_s - starts_s[-1]
    return seconds / SECONDS_PER_HOUR


def poly(share: float, *, exponent: float = 0.9) -> float:
    """Factor on the learning rate after `share` of the training, by nnU-Net's polynomial decay."""
    return (1.0 - min(1.0, max(0.0, share))) ** exponent


def decay(schedule: TrainingSchedule, share: float) -> float:
    """Factor on the learning rate after `share` of the training, 1 for `constant_share` of it, then `poly` of the rest."""
    if share <= schedule.constant_share:
        return 1.0
    return poly((share - schedule.constant_share) / (1.0 - schedule.constant_share))


def learning_rate_factor(
    schedule: TrainingSchedule,
    *,
    epoch: float,
    elapsed_h: float,
    scores: Sequence[float] = (),
    iteration: int,
    warmup_iterations: int,
) -> float:
    """Factor on the initial learning rate, with linear warm-up, a constant part if there is one, then polynomial decay.

    When patience runs out, the factor falls from its last value to zero over `wind_down_epochs`. To stop at a high
    learning rate would throw away the gain of annealing. Epochs or a time budget that end sooner still end it at zero.

    Args:
        epoch, elapsed_h: See `progress`.
        scores: See `wind_down_start`.
        iteration: Iterations done, over all epochs.
        warmup_iterations: Iterations over which the factor rises.
    """
    factor = decay(schedule, progress(schedule, epoch=epoch, elapsed_h=elapsed_h))
    start = wind_down_start(scores, schedule.patience_epochs)
    if start is not None:
        left = 1.0 - (epoch - start) / wind_down_epochs(schedule)
        factor = min(factor, decay(schedule, start / schedule.num_epochs) * max(0.0, left))
    if iteration < warmup_iterations:
        factor *= (iteration + 1) / warmup_iterations
    return factor
