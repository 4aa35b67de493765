"""The model that a prediction is made with: the one that is named, or the starter if none is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.nnunet_folders import model_folder
from nnunet_ext.starter.shipped import CHECKPOINT, FOLD, FOLDER, Starter, find_starter


@dataclass(frozen=True)
class ChosenModel:
    """A trained model and which of its weights are used.

    Attributes:
        folder: Of the trained configuration.
        folds: To average, None for all that are trained.
        checkpoint: File name of the weights in each fold's folder.
        starter: The starter if it is one, else None.
    """

    folder: Path
    folds: Sequence[int | str] | None
    checkpoint: str
    starter: Starter | None = None


def choose_model(
    dataset_id: int | str | None,
    model: Path | None,
    *,
    configuration: str | None = None,
    trainer: str | None = None,
    plans: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = CHECKPOINT,
    starter: Path | None = None,
    use_starter: bool = True,
) -> ChosenModel:
    """The model that is named, or the starter if none is.

    Args:
        dataset_id, model, configuration, trainer, plans: See `model_folder`.
        folds, checkpoint: Which weights.
        starter: Folder of another starter than this build's.
        use_starter: Whether the starter may be used.

    Raises:
        ValueError: If options contradict each other, or no model is named and the starter may not be used.
        FileNotFoundError: If there is none.
    """
    if dataset_id is not None or model is not None:
        if starter is not None:
            raise ValueError("a model is named, and a folder of a starter too: leave out one of them")
        named = model_folder(dataset_id, model, configuration=configuration, trainer=trainer, plans=plans)
        return ChosenModel(named, folds, checkpoint)
    if not use_starter:
        if starter is not None:
            raise ValueError("--starter names a starter, and --no-starter refuses it: leave out one of them")
        raise ValueError("no model is named, and --no-starter refuses the starter: name a model with -d or -m")
    others = {"-c": configuration, "-tr": trainer, "-p": plans, "-f": folds}
    if given := [option for option, value in others.items() if value is not None]:
        raise ValueError(
            f"{', '.join(given)} chooses among the models of a data set, and no data set is named: give -d, or leave it out "
            "to use the starter"
        )
    if checkpoint != CHECKPOINT:
        raise ValueError(f"the starter has no {checkpoint}: leave out -chk, or name a model with -d or -m")
    found = find_starter(FOLDER if starter is None else starter)
    return ChosenModel(found.segmenter, (FOLD,), CHECKPOINT, found)
