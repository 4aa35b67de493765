"""A training as a job of a cluster: its deadline, whether it validates, and how far it is."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.files import write_json
from nnunet_ext.training.recipe import MEASURED, PLANNED

#: Environment variables. nnU-Net's command passes no options of ours.
DEADLINE, VALIDATION, JITTER = "nnunet_ext_deadline", "nnunet_ext_validation", "nnunet_ext_jitter"
#: Exit code of a training that its deadline ended, and that goes on with `--c`. It is sysexits' for "try again".
OUT_OF_TIME = 75
#: File in a fold's folder.
PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class TrainingJob:
    """What a job's environment says.

    Attributes:
        deadline_s: Time since the epoch of 1970 at which the job is ended. None is no limit.
        validates: Whether the final validation follows the training. `--val` makes up for it.
        jitter: `measured` if the segmenter's box must be moved by the localizer's errors, `planned` if it must not. None
            takes `measured` of the recipe for "if enough are known when the training begins".
        jitter_folds: Of the localizer, whose errors `measured` takes. Empty for all of the cross-validation.
    """

    deadline_s: float | None = None
    validates: bool = True
    jitter: str | None = None
    jitter_folds: tuple[int, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> TrainingJob:
        """Read the variables. Missing and empty ones say nothing.

        Raises:
            ValueError: If one holds something else than a time, `on` or `off`, or `planned` or `measured` with folds.
        """
        environment = os.environ if environment is None else environment
        deadline, validation = (environment.get(name, "").strip() for name in (DEADLINE, VALIDATION))
        if validation not in ("", "on", "off"):
            raise ValueError(f"the environment variable {VALIDATION} is {validation!r}; it must be on or off")
        try:
            deadline_s = float(deadline) if deadline else None
        except ValueError:
            deadline_s = math.nan
        if deadline_s is not None and not math.isfinite(deadline_s):
            raise ValueError(
                f"the environment variable {DEADLINE} is {deadline!r}; it must be a time in seconds since 1970, "
                "such as $(date -d '+50 minutes' +%s)"
            )
        jitter, *folds = environment.get(JITTER, "").split() or [""]
        if jitter not in ("", PLANNED, MEASURED) or not all(map(str.isdecimal, folds)) or (folds and jitter == PLANNED):
            raise ValueError(
                f"the environment variable {JITTER} is {environment[JITTER]!r}; it must be {PLANNED}, {MEASURED}, or "
                f"{MEASURED} and the localizer's folds, such as '{MEASURED} 0 1'"
            )
        return cls(deadline_s, validation != "off", jitter or None, tuple(int(fold) for fold in folds))

    def passed_by_next(self, epochs_s: Sequence[float], *, now_s: float) -> bool:
        """Whether the next epoch would end after the deadline, if it takes as long as the longest of this run.

        Before the first epoch of a run nothing is known. Then only a deadline that is over counts.
        """
        return self.deadline_s is not None and now_s + max(epochs_s, default=0.0) > self.deadline_s


def write_progress(
    folder: Path,
    *,
    epoch: int,
    num_epochs: int,
    epochs_s: Sequence[float],
    scores: Sequence[float],
    now_s: float,
    out_of_time: bool = False,
) -> None:
    """Write how far a training is, whole, so that a status need not read the log.

    Args:
        folder: Of the fold.
        epoch: Epochs done.
        num_epochs: At most.
        epochs_s: Seconds of the epochs of this run.
        scores: EMA pseudo Dice of every finished epoch.
        now_s: The time since 1970.
        out_of_time: Whether a deadline ended the run.
    """
    mean_s = sum(epochs_s) / len(epochs_s) if epochs_s else None
    content: dict[str, Any] = {
        "epoch": epoch,
        "num_epochs": num_epochs,
        "pseudo_dice": _number(scores[-1]) if scores else None,
        "best_pseudo_dice": _number(max((s for s in scores if not math.isnan(s)), default=math.nan)),
        "seconds_per_epoch": mean_s,
        "seconds_left": None if mean_s is None else mean_s * max(0, num_epochs - epoch),
        "written_s": now_s,
        "out_of_time": out_of_time,
    }
    write_json(content, folder / PROGRESS_FILE)


def _number(score: float) -> float | None:
    """A score for JSON, which has no NaN."""
    return None if math.isnan(score) else float(score)
