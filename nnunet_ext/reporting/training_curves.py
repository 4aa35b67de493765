"""Losses and pseudo Dice of each epoch, from nnU-Net's training logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.files import check_folder
from nnunet_ext.labels.table import LEFT_OUT_KEY
from nnunet_ext.nnunet_folders import read_dataset_json

_LINE = re.compile(r"^[-\d]+ [:.\d]+: (Epoch time:|Epoch|train_loss|val_loss|Pseudo dice) (.*)$")
_NUMBER = re.compile(r"-?(?:\d+\.?\d*(?:e-?\d+)?|nan|inf)")


@dataclass(frozen=True)
class TrainingCurve:
    """Training of one fold, with one value per epoch. A value that was not logged is NaN.

    `pseudo_dice` is organ -> Dice in [0, 1] on the patches that nnU-Net validates on during training. It is no score.
    """

    model: str  # folder name, e.g. CascadeOARTrainer__CascadeOARPlans__3d_lowres
    fold: str
    epochs: tuple[int, ...]
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    pseudo_dice: Mapping[str, tuple[float, ...]]
    epoch_s: tuple[float, ...] = ()

    @property
    def hours(self) -> float:
        """Hours of all epochs that count, with their validation on patches. NaN if the log does not say them."""
        return sum(self.epoch_s) / 3600 if self.epoch_s else float("nan")

    @property
    def configuration(self) -> str:
        """nnU-Net's configuration, e.g. `3d_lowres`."""
        return self.model.rpartition("__")[2]


def read_training_curves(model: Path) -> list[TrainingCurve]:
    """The curves of all folds of a trained model that have finished an epoch.

    A fold keeps one log per start. An epoch that was begun again counts as in the later log. The epochs of the earlier log
    after it are dropped, because a training that is started anew does not continue the old one.

    Raises:
        FileNotFoundError: If there is no log of a finished epoch.
    """
    dataset_file = check_folder(model, "model") / "dataset.json"
    dataset = read_dataset_json(dataset_file) if dataset_file.is_file() else {}
    organs = [o for o in dataset.get("labels", {}) if o not in ("background", "ignore")]
    left_out = dataset.get(LEFT_OUT_KEY, ())
    curves = []
    for folder in sorted(Path(model).glob("fold_*")):
        epochs: dict[int, dict[str, list[float]]] = {}
        now: dict[str, list[float]] = {}
        for log in sorted(folder.glob("training_log_*.txt")):
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                if (match := _LINE.match(line)) is None:
                    continue
                key, text = match[1], match[2].replace("np.float32", "").replace("np.float64", "")
                numbers = [float(number) for number in _NUMBER.findall(text)]
                if key == "Epoch" and re.fullmatch(r"\d+ *", text):
                    epochs = {epoch: found for epoch, found in epochs.items() if epoch < numbers[0]}
                    now = epochs.setdefault(int(numbers[0]), {})
                elif key != "Epoch":
                    now[key] = numbers
        done = {epoch: found for epoch, found in sorted(epochs.items()) if "Pseudo dice" in found}
        if done:
            dice = [found["Pseudo dice"] for found in done.values()]
            names = organs if len(organs) == len(dice[0]) else [f"label {i + 1}" for i in range(len(dice[0]))]
            curves.append(
                TrainingCurve(
                    model=Path(model).name,
                    fold=folder.name.removeprefix("fold_"),
                    epochs=tuple(done),
                    train_loss=tuple(_first(found.get("train_loss")) for found in done.values()),
                    validation_loss=tuple(_first(found.get("val_loss")) for found in done.values()),
                    pseudo_dice={
                        name: tuple(values[i] for values in dice)
                        for i, name in enumerate(names)
                        if name not in left_out
                    },
                    epoch_s=tuple(_first(found.get("Epoch time:")) for found in done.values()),
                )
            )
    if not curves:
        raise FileNotFoundError(
            f"{model} has no log of a finished epoch (fold_*/training_log_*.txt); name the folder of a trained model, "
            "TRAINER__PLANS__CONFIGURATION"
        )
    return curves


def _first(numbers: list[float] | None) -> float:
    return numbers[0] if numbers else float("nan")
