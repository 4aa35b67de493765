"""How the segmenter's box is moved about in a training, the same in all of its jobs, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.cascade.boxes import measured_errors_mm, measured_folds, measured_organ_errors_mm
from nnunet_ext.files import read_json, write_json
from nnunet_ext.training.recipe import MEASURED, OFF, PLANNED

#: In the folder of a segmenter's fold.
JITTER_FILE = "box_jitter.json"
_RECORD = {"box_jitter": str, "asked": str, "folds": [int], "errors_mm": [[(float, int)]], "organ_errors_mm": dict}


@dataclass(frozen=True)
class BoxJitter:
    """Movement of the box in training.

    Attributes:
        used: `measured`, `planned` or `off`.
        asked: The recipe's word. `measured` becomes `planned` if too few boxes are measured.
        folds: Of the localizer, whose out-of-fold boxes were measured.
        errors_mm: Of these boxes, along each axis of the plan. Empty unless they are used.
        organ_errors_mm: Label value -> errors of the organ's middle, with one crop per organ.
        said: For the log.
    """

    used: str
    asked: str
    folds: tuple[int, ...] = ()
    errors_mm: Sequence[Sequence[float]] = ()
    organ_errors_mm: Mapping[int, Sequence[Sequence[float]]] = field(default_factory=dict)
    said: str = ""

    @classmethod
    def of_localizer(
        cls, localizer: Path, asked: str, *, wanted: str, per_organ: bool, folds: Sequence[int] | None = None
    ) -> BoxJitter:
        """What can be had now.

        Args:
            localizer: Folder of the trained localizer, with its folds.
            asked: The recipe's word.
            wanted: The word that holds now, which is that of the recipe or of the job.
            per_organ: Whether there is one crop per organ.
            folds: Of the localizer. None are all that have been validated.
        """
        if wanted != MEASURED:
            return cls(wanted, asked)
        there = tuple(k for k in measured_folds(localizer) if folds is None or k in folds)
        if per_organ:
            organ_errors_mm, said = measured_organ_errors_mm(localizer, there)
            used = MEASURED if organ_errors_mm else PLANNED
            return cls(used, asked, there, organ_errors_mm=organ_errors_mm, said=said)
        errors_mm, said = measured_errors_mm(localizer, there)
        return cls(MEASURED if errors_mm else PLANNED, asked, there, errors_mm, said=said)

    @classmethod
    def read(cls, file: Path) -> BoxJitter:
        """The jitter of a record.

        Raises:
            OSError, ValueError: If there is no such record.
        """
        content = read_json(file, _RECORD, remedy="delete it, or train anew")
        organs = {int(value): errors for value, errors in content["organ_errors_mm"].items()}
        return cls(content["box_jitter"], content["asked"], tuple(content["folds"]), content["errors_mm"], organs)

    def write(self, file: Path) -> None:
        """Write the record, whole."""
        content: dict[str, Any] = {
            "box_jitter": self.used,
            "asked": self.asked,
            "folds": list(self.folds),
            "errors_mm": list(self.errors_mm),
            "organ_errors_mm": {str(value): errors for value, errors in self.organ_errors_mm.items()},
        }
        write_json(content, file, flush=True)


def contradiction(word: str | None, recipe: str) -> str | None:
    """Why an experiment's word for the jitter can't be had with a plan's recipe. None if it can.

    Args:
        word: `measured`, `planned` or None.
        recipe: The plan's `box_jitter`.
    """
    if word is None or recipe in (word, MEASURED):
        return None
    return f"the experiment asks for the jitter {word}, and recipe.box_jitter of the plan is {recipe}" + (
        ", which moves the box not at all" if recipe == OFF else ""
    )
