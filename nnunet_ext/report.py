"""What a report holds: experiments with their scores, tables, figures and training curves.

`report` compares experiments as the reference study does. Tables are made in `report_tables`, figures in `report_figures`;
both only read what is here, and so does the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.evaluation import EvaluationSummary


@dataclass(frozen=True)
class Experiment:
    """One system on its cases.

    Attributes:
        name: As the user calls it; unique in a report.
        folder: The evaluation folder (`evaluation.json`, `.csv`, `.md`).
        scores: Per case and organ, as evaluated: all its cases, also those that other experiments lack.
        predictions, references: Case -> label map. Cross-validations keep theirs in one folder per fold. A file may be
            missing: a failed case has no prediction.
        images: Case -> channel name -> image; empty where they were not found.
        localizer: Scores of the localizer on the same cases, or None.
        pass_rates: Case -> label crop pass rate in [0, 1], for the cases where it is known.
        channels: Names of the model's channels, empty where unknown.
        curves: Training curves of its model and of its localizer.
    """

    name: str
    folder: Path
    scores: EvaluationSummary
    predictions: Mapping[str, Path]
    references: Mapping[str, Path]
    images: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    localizer: EvaluationSummary | None = None
    pass_rates: Mapping[str, float] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    curves: tuple[TrainingCurve, ...] = ()


@dataclass(frozen=True)
class TrainingCurve:
    """What nnU-Net logged for one fold: one value per epoch; NaN where none was logged.

    `pseudo_dice` is organ -> Dice per epoch on the patches nnU-Net validates on while it trains, in [0, 1]; it is no score.
    """

    model: str  # e.g. 3d_lowres
    fold: str
    epochs: tuple[int, ...]
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    pseudo_dice: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, plain (`78.46 +- 6.23`), and whether it is the best of its row."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table. `name` is the stem of its files `tables/<name>.md` and `.tex`; the first column names the row."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure: `png` and, where it was drawn here, `svg`, both relative to the report's folder.

    `kind` is box, overlay, surface (3D), preprocessing or curves. `case` and `experiment` where it shows just that one.
    """

    name: str
    kind: str
    title: str
    png: str
    svg: str | None = None
    case: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class Report:
    """A comparison. Scores in `tables` are over `cases`, those that every experiment has.

    `remarks` are sentences a reader must see: cases left out, tests not made, pictures not drawn and why.
    """

    out: Path
    experiments: tuple[Experiment, ...]
    organs: tuple[str, ...]
    cases: tuple[str, ...]
    box_organ: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    remarks: tuple[str, ...] = ()
