"""A case as DICOM series of one patient, with at most one RTSTRUCT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cases.case import DrawnLabels, ReadImages
from nnunet_ext.cases.organ_masks import merge_masks, unite_parts
from nnunet_ext.cases.series_choice import listed, parts_of, pick_series
from nnunet_ext.cases.series_rules import ruled
from nnunet_ext.cases.structures import Claim, drawn_organs, pick_structure
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.personal import without_personal
from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.stack import series_grid
from nnunet_ext.images.channels import reference_channel, reference_of_case
from nnunet_ext.images.source_files import FileCount
from nnunet_ext.labels.organs import normalise_name
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message, in_english


@dataclass(frozen=True)
class DicomCase:
    """One case, see `case.Case`. `drawn` has name, number of contours and organ of every region of the RTSTRUCT."""

    name: str
    identifier: str
    test: bool
    series: dict[str, Series]
    structure: Series | None
    drawn: tuple[tuple[str, int, str | None], ...]
    ignored: list[str]
    notes: tuple[Message, ...]
    personal: frozenset[str]
    files: FileCount = field(default_factory=FileCount)
    as_trained: ClassVar[bool] = False

    @property
    def has_labels(self) -> bool:
        return self.structure is not None

    def inputs(self) -> dict[str, Path]:
        files = {
            f"{channel}/{number:04d}": path
            for channel, series in self.series.items()
            for number, path in enumerate(
                dict.fromkeys(one.path for one in sorted(series.slices, key=lambda one: one.sop_uid)), start=1
            )
        }
        return files if self.structure is None else {**files, "RTSTRUCT": self.structure.paths[0]}

    def roles(self) -> dict:
        return {
            "images": {channel: len(series.slices) for channel, series in self.series.items()},
            "labels": "RTSTRUCT" if self.has_labels else "",
        }

    @property
    def reference_series(self) -> Series:
        """The CT (else the first channel that is there), on whose images the case is contoured."""
        return self.series[reference_channel(list(self.series))]

    def read_images(self) -> ReadImages:
        found = ReadImages({}, {channel: series.label for channel, series in self.series.items()})
        frames: dict[str, list[str]] = {}
        for channel, series in self.series.items():
            notes: list[Message] = []
            try:
                found.images[channel] = read_series(series, notes)
            except ValueError as error:
                raise ValueError(f"{channel}, {series.label}: {error}") from None
            found.warnings += [Message("of_channel", {"channel": channel, "message": note}) for note in notes]
            frames.setdefault(series.frame_of_reference_uid, []).append(channel)
        found.same_frame = None if "" in frames else list(frames.values())
        found.may_be_apart = "" in frames or len(frames) > 1
        return found

    def read_labels(self, images: Mapping[str, sitk.Image], table: LabelTable) -> DrawnLabels:
        assert self.structure is not None
        warnings: list[Message] = []
        reference = reference_channel(list(self.series))
        image = images[reference]
        drawn: dict[str, dict[str, np.ndarray]] = {}
        noted: dict[Message, list[str]] = {}  # what is said of several organs is said once
        for roi in read_rtstruct(self.structure.paths[0]).rois:
            organ = table.organ(roi.name)
            if organ is None:
                continue
            if not roi.contours:
                warnings.append(Message("region_empty", {"organ": organ}))
                continue
            notes: list[Message] = []
            try:
                mask = rasterise(roi.contours, image, notes, slices=self.series[reference].slices)
            except ValueError as error:
                raise ValueError(f"{organ}: {error}") from None
            if not mask.any() and not notes:
                notes.append(Message("holds_no_voxel_centre"))
            for note in notes:
                noted.setdefault(note, []).append(organ)
            drawn.setdefault(organ, {})[roi.name] = mask
        warnings += [
            Message("of_organs", {"organs": list(dict.fromkeys(organs)), "message": note})
            for note, organs in noted.items()
        ]
        masks = {organ: unite_parts(organ, parts, table) for organ, parts in drawn.items()}
        if not any(mask.any() for mask in masks.values()):
            raise ValueError(
                "the RTSTRUCT is empty: no organ of the label table has a contour; leave it out, or draw it"
            )
        return DrawnLabels(*merge_masks(masks, image, table, warnings), warnings)

    def describe(self, table: LabelTable) -> list[str]:
        lines = [f"{channel} <- {series.label}, {series.reason}" for channel, series in self.series.items()]
        if self.structure is None:
            lines.append("no RTSTRUCT: goes to imagesTs")
        else:
            for organ in table.names:
                names = [f"{name} ({n} contours)" for name, n, of in self.drawn if of == organ]
                lines.append(f"{organ} <- {' + '.join(names)}" if names else f"{organ} is not in the RTSTRUCT")
            reference = reference_channel(list(self.series))
            grid = series_grid(self.series[reference])[0]
            lines += in_english(self.read_labels({reference: grid}, table).warnings)  # as `convert` will
        lines += in_english(self.notes)
        return lines + ([f"left over: {', '.join(self.ignored)}"] if self.ignored else [])

    def public(self, text: str) -> str:
        for path in self.inputs().values():
            text = text.replace(str(path), "a file of the case")
        return without_personal(text, self.personal)


def case_of_series(
    name: str,
    group: Sequence[Series],
    claims: Sequence[Claim],
    rules: Mapping[str, Sequence],
    modalities: Sequence[str],
    optional: Sequence[str],
    table: LabelTable | None,
    words: frozenset[str],
) -> DicomCase:
    """The case of a group of series, with its channels and its RTSTRUCT chosen.

    Args:
        name: Of the case.
        group: Series of one patient that belong together.
        claims: RTSTRUCTs of the group, from `claims_of`.
        rules: Of the series file, for this case.
        modalities: Channels of a case.
        optional: Channels that a case may lack.
        table: Which regions are which organs. None if no labels are wanted.
        words: Personal words of the patient.

    Raises:
        ValueError: If a channel is missing or not clear, or the RTSTRUCT cannot be used.
    """
    notes: list[Message] = []
    group = ruled(group, rules)
    for channel in rules:
        if channel not in (*modalities, "RTSTRUCT", "ignore"):
            raise ValueError(f"the series file gives it a channel {channel}; the channels are {', '.join(modalities)}")
        if channel not in modalities:
            continue
        if not any(s.channel == channel and s.by_rule for s in group):
            asked = " or ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in rules[channel])
            there = [s for s in group if (channel == "CT") == (s.modality == "CT")]
            raise ValueError(
                f"the series file says {channel} = {asked}, which is none of its series: "
                f"{listed([s.label for s in there]) or 'there is none'}{parts_of(there)}"
            )
        # What the file names for this case goes before what the headers say.
        group = [s if s.channel != channel or s.by_rule else replace(s, channel="") for s in group]
    birth_dates = {s.patient.birth_date for s in group if re.fullmatch(r"\d{8}", s.patient.birth_date)}
    if len(birth_dates) > 1:
        raise ValueError("its series have one patient ID and different birth dates; correct the patient IDs")
    if len({normalise_name(s.patient.name) for s in group if s.patient.name}) > 1:
        notes.append(Message("names_differ"))
    recognised = {series.channel for series in group}
    if set(modalities) <= set(optional) and recognised.isdisjoint(modalities):
        others = "; ".join(f"{s.label}: {s.reason}" for s in group)
        raise ValueError(
            f"no series is recognised as {' or '.join(modalities)}; there is {others}. If one is it, name it in a file for "
            f"--series: [{name}] {modalities[-1]} = NUMBER"
        )
    reference = reference_of_case(modalities, recognised, optional)
    chosen: dict[str, Series] = {}
    # What the organs are drawn on decides between series.
    good = [
        (s, replace(c, rois=drawn_organs(c, table)), reason) for s, c, reason in claims if c is not None and not reason
    ]
    for channel in [reference, *(m for m in modalities if m != reference)]:
        if channel not in optional or channel in recognised:
            chosen[channel] = pick_series(name, channel, group, chosen.get(reference), good, notes)
    chosen = {channel: chosen[channel] for channel in modalities if channel in chosen}
    for channel, series in chosen.items():
        notes += [Message("channel_is", {"channel": channel, "message": note}) for note in series.notes]
        if series.frame_of_reference_uid != chosen[reference].frame_of_reference_uid:
            notes.append(Message("another_frame_of_reference", {"channel": channel, "reference": reference}))
    structure = content = None
    if table is not None:
        structure, content = pick_structure(
            name, claims, chosen[reference], rules.get("RTSTRUCT"), reference, notes, table, group
        )
    drawn: tuple[tuple[str, int, str | None], ...] = ()
    ignored = [f"{s.label}: {s.reason}" if not s.channel else s.label for s in group
               if all(s.slices is not one.slices for one in chosen.values())]  # fmt: skip
    if content is not None and table is not None:
        shown = [without_personal(roi.name, words, short=True) or f"number {roi.number}" for roi in content.rois]
        drawn = tuple(
            (text, len(roi.contours), table.organ(roi.name)) for text, roi in zip(shown, content.rois, strict=True)
        )
        for text, roi in zip(shown, content.rois, strict=True):
            organ = table.organ(roi.name)
            if organ is not None and roi.problem:
                raise ValueError(f"{organ}: its region {text} in the RTSTRUCT {roi.problem}")
            if organ is None:
                ignored.append(f"region {text}" + (f", which {roi.problem}" if roi.problem else ""))
        ignored += content.leftover
        table.check_drawn_once((roi.name, text) for text, roi in zip(shown, content.rois, strict=True) if roi.encloses)
        if not any(organ for _, _, organ in drawn):
            raise ValueError(
                f"none of the regions {', '.join(roi for roi, _, _ in drawn[:6]) or '(none)'} is in the label table "
                f"({', '.join(table.names)}); add their names as aliases"
            )
    ignored = [without_personal(text, words) for text in ignored]
    return DicomCase(name, name, False, chosen, structure, drawn, ignored, tuple(notes), words)
