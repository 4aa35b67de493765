"""Tables 3.1 to 3.3 and 3.5 to 3.7 of the reference study, each with our experiments beside the published values.

Published means come from other patients and are never ranked with ours. A star marks the best published mean of a row, bold
type the best of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_ext.evaluation.statistics import SUMMARISED, mean_of
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.messages import Message
from nnunet_ext.reporting.cells import LARGER_IS_BETTER, best_of, organ_cell
from nnunet_ext.reporting.content import Cell, Experiment, Table, Text
from nnunet_ext.reporting.paired_tests import LEAST_PAIRS, paired_tests
from nnunet_ext.reporting.reference_study import (
    BEST_OF_CROPS,
    CITED,
    CT_AND_MR,
    CT_ONLY,
    LOCALIZER,
    OURS,
    Published,
    by_system,
)
from nnunet_ext.reporting.study_systems import OurSystem, of_channels, our_systems

_NOTE_STUDY = Message("note_study")
_NOTE_PLAIN = Message("note_study_hd95")


def study_tables(experiments: Sequence[Experiment], compared: Mapping[str, EvaluationSummary]) -> list[Table]:
    """The six tables. A system of ours without a counterpart stands at the end of its row."""
    ours = our_systems(experiments, compared)
    localizers = [system for system in ours if system.is_localizer]
    segmenters = [system for system in ours if not system.is_localizer]
    cited = Message("note_study_cited")
    best_crops = _best_of_crops(ours)
    more_notes = (Message("note_best_of_crops"),) if best_crops else ()
    return [
        _table("3.1", Message("title_study_3_1"), "dsc_percent", localizers),
        _table("3.2", Message("title_study_3_2"), "dsc_percent", segmenters),
        _table("3.3", Message("title_study_3_3"), "hd95_mm", segmenters, notes=(_NOTE_PLAIN,)),
        _table("3.5", Message("title_study_3_5"), "dsc_percent", segmenters, best_crops, (cited, *more_notes)),
        _table("3.6", Message("title_study_3_6"), "hd95_mm", segmenters, best_crops, (cited, _NOTE_PLAIN, *more_notes)),
        _modalities_table(segmenters),
    ]


def _table(
    table: str,
    title: Message,
    metric: str,
    ours: Sequence[OurSystem],
    best_crops: Sequence[OurSystem] = (),
    notes: Sequence[Message] = (),
) -> Table:
    """Each published system, followed by those of ours that see as much. The others come at the end."""
    published = by_system(table)
    beside = {name: [system for system in ours if system.size == name] for name in published}
    rest = [system for system in ours if not any(system in found for found in beside.values())]
    organs = [organ for organ in ORGANS if any(organ in values for values in published.values())]
    rows = []
    for organ in organs:
        stars = _stars([values.get(organ) for values in published.values()])
        texts, best = _our_cells(ours, organ, OURS[metric])
        cell_of = {id(system): Cell(t, b) for system, t, b in zip(ours, texts, best, strict=True)}
        cells = [organ_cell(organ)]
        for (name, values), star in zip(published.items(), stars, strict=True):
            cells.append(_published_cell(values.get(organ), star))
            cells += [cell_of[id(system)] for system in beside[name]]
        cells += [cell_of[id(system)] for system in rest]
        if best_crops:
            cells.append(Cell(_best_text(best_crops, organ, OURS[metric])))
        rows.append(tuple(cells))
    header: list[Text] = [Message("head_organ")]
    for name in published:
        header += [_study_head(name, table), *(system.head for system in beside[name])]
    header += [system.head for system in rest]
    if best_crops:
        header.append(Message("head_best_of_crops"))
    said = [*notes, *_common_notes(published, ours)]
    return Table(f"study_{table.replace('.', '_')}", title, tuple(header), tuple(rows), tuple(said))


def _study_head(system: str, table: str) -> Message:
    """Head of a published column. Tables 3.5 and 3.6 are of other methods, but for one column."""
    if system == LOCALIZER:
        return Message("head_study_localizer")
    if system == BEST_OF_CROPS:
        return Message("head_study_best_of_crops")
    return Message("head_cited", {"system": system}) if table in CITED else Message("head_study", {"system": system})


def _common_notes(published: Mapping[str, Mapping[str, Published]], ours: Sequence[OurSystem]) -> list[Message]:
    notes = [_NOTE_STUDY]
    if len(published) > 1:
        notes.append(Message("note_star"))
    if len(ours) > 1:
        notes.append(Message("note_best_of_ours"))
    if any(entry.twice for values in published.values() for entry in values.values()):
        notes.append(Message("note_printed_twice"))
    return notes


def _modalities_table(segmenters: Sequence[OurSystem]) -> Table:
    """Table 3.7: what MR adds. Ours has MR alone too, and a test of CT and MR against CT alone."""
    published = by_system("3.7")
    ours = {channels: of_channels(segmenters, channels) for channels in (CT_ONLY, "T1+T2", CT_AND_MR)}
    known = {channels: system for channels, system in ours.items() if system is not None}
    decimals = SUMMARISED["dsc_percent"]
    pair = {channels: known[channels].scores for channels in (CT_ONLY, CT_AND_MR) if channels in known}
    tests = paired_tests(pair, ORGANS, "dsc_percent") if len(pair) == 2 else {}
    rows = []
    for organ in ORGANS:
        before, after = (published[channels][organ] for channels in (CT_ONLY, CT_AND_MR))
        stars = _stars([before, after])
        texts, best = _our_cells(list(known.values()), organ, "dsc_percent")
        of_ours = dict(zip(known, (Cell(t, b) for t, b in zip(texts, best, strict=True)), strict=True))
        means = [mean_of(pair[c].values(organ).values()).value if c in pair else np.nan for c in (CT_ONLY, CT_AND_MR)]
        test = tests.get((CT_AND_MR, organ))
        rows.append(
            (
                organ_cell(organ),
                _published_cell(before, stars[0]),
                _published_cell(after, stars[1]),
                *_changes(float(before.mean), float(after.mean), decimals=decimals),
                *(of_ours.get(channels, Cell("-")) for channels in ours),
                *_changes(means[0], means[1], decimals=decimals),
                Cell("-" if test is None or test.p is None else "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"),
            )
        )
    header = (
        Message("head_organ"),
        *(Message("head_study", {"system": channels}) for channels in published),
        Message("head_study_change"),
        Message("head_study_change_percent"),
        *(_head_of_channels(channels, system) for channels, system in ours.items()),
        Message("head_our_change"),
        Message("head_our_change_percent"),
        Message("head_our_p"),
    )
    notes = [Message("note_change"), Message("note_modalities_p", {"n": LEAST_PAIRS})]
    said = (*notes, *_common_notes(published, list(known.values())))
    return Table("study_3_7", Message("title_study_3_7"), header, tuple(rows), said)


def _head_of_channels(channels: str, system: OurSystem | None) -> Text:
    if system is None or system.head == channels:
        return Message("head_ours", {"system": channels})
    return Message("head_ours_named", {"system": channels, "name": system.head})


def _changes(before: float, after: float, *, decimals: int) -> tuple[Cell, Cell]:
    """After minus before, in points and in percent of before."""
    if np.isnan(before) or np.isnan(after):
        return Cell("-"), Cell("-")
    relative = f"{100 * (after / before - 1):+.1f} %" if before else "-"
    return Cell(f"{after - before:+.{decimals}f}"), Cell(relative)


def _our_cells(ours: Sequence[OurSystem], organ: str, metric: str) -> tuple[list[str], list[bool]]:
    """Mean +- SD of each system, and whether it is the best of ours."""
    means = [mean_of(system.scores.values(organ, metric).values()) for system in ours]
    decimals = SUMMARISED[metric]
    return [mean.text(decimals) for mean in means], best_of([mean.value for mean in means], metric, decimals)


def _best_of_crops(ours: Sequence[OurSystem]) -> list[OurSystem]:
    """The crops that the best is taken of, those with the most images. Empty for fewer than two."""
    crops = [system for system in ours if system.is_crop and isinstance(system.head, str)]
    most = max((_n_channels(system) for system in crops), default=0)
    crops = [system for system in crops if _n_channels(system) == most]
    return crops if len({system.size for system in crops}) > 1 else []


def _n_channels(system: OurSystem) -> int:
    return len(system.channels.split("+"))


def _best_text(crops: Sequence[OurSystem], organ: str, metric: str) -> str:
    means = [mean_of(system.scores.values(organ, metric).values()) for system in crops]
    valid = [mean for mean in means if mean.n]
    if not valid:
        return "-"
    choose = max if metric in LARGER_IS_BETTER else min
    return choose(valid, key=lambda mean: mean.value).text(SUMMARISED[metric])


def _published_cell(entry: Published | None, star: bool) -> Cell:
    if entry is None:
        return Cell("-")
    return Cell(f"{entry.text}{' *' * star}{' ‡' * entry.twice}")


def _stars(values: Sequence[Published | None]) -> list[bool]:
    """Which have the best published mean of a row, if there are two or more."""
    there = [value for value in values if value is not None]
    if len(there) < 2:
        return [False] * len(values)
    choose = max if there[0].metric in LARGER_IS_BETTER else min
    best = choose(value.mean for value in there)
    return [value is not None and value.mean == best for value in values]
