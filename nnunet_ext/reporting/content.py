"""The data of a report: experiments with their scores, tables, figures and training curves.

`reporting.report` makes it. The tables, figures and page read this data and do not change it. Its texts become words when
they are written: English in Markdown and LaTeX, English and Chinese in the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.messages import Message
from nnunet_ext.reporting.training_curves import TrainingCurve

#: A text of the report. A plain string is the same in every language: a name, a number, the text of an error.
Text = str | Message


@dataclass(frozen=True)
class Experiment:
    """One system on its cases.

    Attributes:
        name: The user's name for it. No other experiment of the report has it.
        folder: The evaluation folder (`evaluation.json`, `.csv`, `.md`).
        scores: Per case and organ, as evaluated. They include cases that other experiments lack, and hold the files of
            predictions and references, label crop pass rates, channels and the localizer's scores.
        images: Case -> channel name -> image. Pictures are drawn on the first channel. Cases without images are not in it.
    """

    name: str
    folder: Path
    scores: EvaluationSummary
    images: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text (`78.46 +- 6.23`), and whether it is the best of its row."""

    text: Text
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: Stem of its files `tables/<name>.md` and `.tex`.
        rows: Cells, of which the first names the row.
        notes: Sentences below the table.
    """

    name: str
    title: Text
    header: tuple[Text, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[Text, ...] = ()

    @property
    def note(self) -> str:
        """The notes in English."""
        return " ".join(map(str, self.notes))


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        kind: box, overlay, pair (reference beside prediction), surface (3D), preprocessing or curves.
        png: File, relative to the report's folder.
        svg: The same. None for a picture that was not drawn here.
        case: The only case that it shows, or None.
        experiment: The only experiment that it shows, or None.
    """

    name: str
    kind: str
    title: Text
    png: str
    svg: str | None = None
    case: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class Report:
    """A comparison.

    Attributes:
        out: Its folder.
        experiments: In the order given. The others are tested against the first one.
        organs: Those of all experiments, in label order.
        cases: Cases that every experiment has. Tables and box plots show these.
        shown_cases: Those with overlays and surfaces, the worst first.
        box_organ: The organ of the box plots.
        curves: Training curves of the models that are known.
        remarks: A reader must see these: cases left out, tests not made, pictures not drawn and why.
    """

    out: Path
    experiments: tuple[Experiment, ...]
    organs: tuple[str, ...]
    cases: tuple[str, ...]
    shown_cases: tuple[str, ...]
    box_organ: str
    curves: tuple[TrainingCurve, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    remarks: tuple[Message, ...] = ()

    @property
    def failed(self) -> dict[str, str]:
        """`case (experiment)` -> why it could not be scored."""
        return {f"{case} ({one.name})": why for one in self.experiments for case, why in one.scores.failed.items()}
