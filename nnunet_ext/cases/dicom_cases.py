"""DICOM trees (CT, MR, RTSTRUCT) as cases, under numbers instead of names; for conversion and for prediction.

Series are grouped by patient. A patient with several studies, or frames of reference, that each hold every channel gives
one case for each. Otherwise the patient's series are one case. Channels are recognised from the headers
(`nnunet_ext.dicom.contrast.classify`) or taken from a TOML file:

    [series]                       # for every patient: SeriesDescription or ProtocolName, `*` stands for anything
    T1 = ["*MPRAGE*", "ax t1"]
    ignore = ["*test*"]

    [case_003]                     # for one case: series number, description or SeriesInstanceUID
    T1 = 5
    RTSTRUCT = "approved"          # StructureSetLabel, or SOPInstanceUID

    [case_004]                     # one volume of a series that holds several: the series, a comma, and what tells it apart
    CT = "2, acquisition 1"
    T1 = "MEMPRAGE, echo 1"

The words are `echo`, `acquisition`, `time` (phases of a dynamic), `type` (a value of ImageType, for complex and Dixon
images), `inversion`, `b`, `kVp`, `flip`, `kernel`, `stack`, and `part` where only the order of the images tells. Messages
name every volume as the file has to.

An RTSTRUCT counts only if its patient and frame of reference are those of the reference channel (the CT), and every
image that the contours of organs refer to belongs to it. What else it refers to (an MR it was fused with, another CT) and
regions that are no organ do not matter. Without such references, the series, images or frame of reference it lists must be
the CT's.

Privacy: cases are `case_001`, `case_002`, ... A key file, readable by its owner only, says which patient each one is. It
keeps the numbers the same when patients are added. No other output holds a name, an ID, a date, a UID or a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cases.case import DrawnLabels, ReadImages
from nnunet_ext.cases.key_file import numbered, read_key, same_patient
from nnunet_ext.cases.label_files import is_channel_name, may_be_labels
from nnunet_ext.cases.organ_masks import merge_masks, unite_parts
from nnunet_ext.cases.series_rules import load_series_rules, ruled
from nnunet_ext.cases.structures import Claim, claims_of, drawn_organs, pick_structure, read_structure, refers_to
from nnunet_ext.dicom.model import Series, Tree
from nnunet_ext.dicom.personal import without_personal
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import rasterise, read_rtstruct
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.stack import check_series, series_grid
from nnunet_ext.files import in_one_line
from nnunet_ext.images.channels import reference_channel
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.images.source_files import OF_FAILED, UNREADABLE, FileCount
from nnunet_ext.labels.organs import normalise_name
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message, in_english


@dataclass(frozen=True)
class DicomCase:
    """One case; see `case.Case`. `drawn`: name, number of contours and organ of every region of the RTSTRUCT."""

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
        """The CT (else the first channel), on whose images the case is contoured."""
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


@dataclass
class Found:
    """What a tree gives: cases, cases that cannot be converted and why, lines on what belongs to none.

    `counts` are the files of each case, also of those that failed, `beside` the files of none.
    """

    cases: list[DicomCase] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    leftover: list[str] = field(default_factory=list)
    key_rows: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, FileCount] = field(default_factory=dict)
    beside: FileCount = field(default_factory=FileCount)


def find_cases(
    source: Path,
    *,
    modalities: Sequence[str],
    table: LabelTable | None,
    optional: Sequence[str] = (),
    series_file: Path | None = None,
    key_file: Path | None = None,
    test_cases: Sequence[str] = (),
    unlabelled: bool = False,
    show_progress: bool = True,
) -> Found:
    """Cases of a DICOM tree; nothing is written.

    Args:
        source: Folder at any level above the files.
        modalities: Channels a case needs.
        table: Which regions are which organs; None where no labels are wanted: an RTSTRUCT then only says which of
            several CTs is meant.
        optional: Channels that a case may lack.
        series_file: TOML file that says which series is which channel; see the module's docstring.
        key_file: Earlier key, so that patients keep their numbers; may not exist yet.
        test_cases: Case names that go to the test set.
        unlabelled: So do cases without RTSTRUCT, even if other files could be their labels.
        show_progress: Show a progress bar over the files.

    Raises:
        ValueError: If the tree holds no series, or a TOML or key file is wrong.
    """
    from tqdm import tqdm

    rules = load_series_rules(series_file)
    tree = find_series(source, lambda files: tqdm(files, desc="look", unit="file", disable=not show_progress))
    if not tree.images:
        raise ValueError(f"{source.name} has no CT or MR series; {_counted(tree) or 'it holds no DICOM file'}")
    found = Found(key_rows=read_key(key_file))
    images = ruled(tree.images, rules.get("series", {}))
    structures = [(series, *read_structure(series)) for series in tree.structures]
    patients: dict[str, list[Series]] = {}
    for series in images:
        patients.setdefault(series.patient.key, []).append(series)
    groups = [group for key in sorted(patients) for group in _groups(patients[key], modalities)]
    names = numbered(groups, modalities, found.key_rows)
    unknown = [name for name in rules if name != "series" and name not in names]
    if unknown:
        raise ValueError(f"series file: there is no {', '.join(unknown)}; the cases are {', '.join(names[:3])}, ...")
    claims = claims_of(groups, structures, modalities, table)
    for name, group in sorted(zip(names, groups, strict=True), key=lambda pair: pair[0]):
        words = frozenset().union(*(tree.personal[series.patient.key] for series in group))
        try:
            case = _case(name, group, claims[id(group)], rules.get(name, {}), modalities, optional, table, words)
            if table is not None and not case.has_labels and not unlabelled:
                _refuse_lost_labels(name, case, tree, names, groups)
            found.cases.append(replace(case, test=name in test_cases))
        except Exception as error:  # one case must not stop the others
            found.failed[name] = without_personal(in_one_line(error), words)
    for name, others in (same_patient(names, groups) if table is not None else {}).items():
        for at, case in enumerate(found.cases):
            if case.name == name:
                note = Message("same_patient", {"cases": list(others)})
                found.cases[at] = replace(case, notes=(*case.notes, note))
    if table is not None:
        _strays(found, groups, names, structures, patients)
    _note_unreadable(found, tree, names, groups)
    _count_files(found, tree, names, groups)
    return found


def _count_files(found: Found, tree: Tree, names: Sequence[str], groups: Sequence[Sequence[Series]]) -> None:
    """Put every file of the tree down to a case or to none; without names, which may be personal."""
    cases = {case.name: case for case in found.cases}
    place = {path: name for name, group in zip(names, groups, strict=True) for s in group for path in s.paths}
    drawings = {path for one in tree.structures for path in one.paths}
    used: set[Path] = set()
    for name in names:
        count = found.counts[name] = FileCount()
        if name in cases:
            channels = {path for series in cases[name].series.values() for path in series.paths}
            structure = cases[name].structure
            labels = set() if structure is None else set(structure.paths)
            count.channels, count.labels = len(channels), len(labels)
            used |= channels | labels
    for path in tree.files:
        if path in used:
            continue
        owner = place.get(path)
        if owner is None:
            unused = "RTSTRUCTs that are not used" if path in drawings else "DICOM files that are no images of a series"
            found.beside.leave(tree.left_over.get(path, unused))
        else:
            found.counts[owner].leave("images of series that are no channel" if owner in cases else OF_FAILED)
    found.cases = [replace(case, files=found.counts[case.name]) for case in found.cases]


def _refuse_lost_labels(
    name: str, case: DicomCase, tree: Tree, names: Sequence[str], groups: Sequence[Sequence[Series]]
) -> None:
    """ValueError where a case without RTSTRUCT has labels in a form that is not read: it would become a test case."""
    remedy = "export them as RTSTRUCT, or pass --unlabelled"
    if {series.patient.key for series in case.series.values()} & tree.segmentations:
        raise ValueError(f"it has no RTSTRUCT, but a DICOM SEG, which is not read: if these are its labels, {remedy}")
    for path in tree.volumes:
        stem = image_stem(path) or ""
        if (
            _beside(path.parent, names, groups) == [name]
            and not is_channel_name(stem, case.series)
            and may_be_labels(path)
        ):
            raise ValueError(
                f"it has no RTSTRUCT, but a {path.name[len(stem) :]} file beside its images is not recognised as labels: if "
                f"these are its labels, {remedy}"
            )


def _note_unreadable(found: Found, tree: Tree, names: Sequence[str], groups: Sequence[Sequence[Series]]) -> None:
    """Tell the cases that lie beside files which cannot be read: images or labels may be among them."""
    closed: dict[str, int] = {}
    for path, reason in tree.left_over.items():
        if reason == UNREADABLE:
            for name in _beside(path.parent, names, groups):
                closed[name] = closed.get(name, 0) + 1
    for at, case in enumerate(found.cases):
        if n := closed.get(case.name):
            note = Message("files_unreadable", {"n": n})
            found.cases[at] = replace(case, notes=(*case.notes, note))


def _counted(tree: Tree) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(tree.ignored.items()))


# --------------------------------------------------------------------------------------- patients and numbers


def _groups(series: Sequence[Series], modalities: Sequence[str]) -> list[list[Series]]:
    """One list per case of one patient."""
    for attribute in ("frame_of_reference_uid", "study_uid"):
        parts: dict[str, list[Series]] = {}
        for one in series:
            parts.setdefault(getattr(one, attribute), []).append(one)
        complete = [part for part in parts.values() if {one.channel for one in part} >= set(modalities)]
        if len(complete) > 1:
            rest = [one for part in parts.values() if part not in complete for one in part]
            return [[*complete[0], *(replace(one, channel="") for one in rest)], *complete[1:]]
    return [list(series)]


# ------------------------------------------------------------------------------------------------ one case


def _case(
    name: str,
    group: Sequence[Series],
    claims: Sequence[Claim],
    rules: Mapping[str, Sequence],
    modalities: Sequence[str],
    optional: Sequence[str],
    table: LabelTable | None,
    words: frozenset[str],
) -> DicomCase:
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
                f"{_listed([s.label for s in there]) or 'there is none'}{_parts_of(there)}"
            )
        # What the file names for this case goes before what the headers say.
        group = [s if s.channel != channel or s.by_rule else replace(s, channel="") for s in group]
    birth_dates = {s.patient.birth_date for s in group if re.fullmatch(r"\d{8}", s.patient.birth_date)}
    if len(birth_dates) > 1:
        raise ValueError("its series have one patient ID and different birth dates; correct the patient IDs")
    if len({normalise_name(s.patient.name) for s in group if s.patient.name}) > 1:
        notes.append(Message("names_differ"))
    reference = reference_channel(modalities)
    chosen: dict[str, Series] = {}
    # What the organs are drawn on decides between series.
    good = [
        (s, replace(c, rois=drawn_organs(c, table)), reason) for s, c, reason in claims if c is not None and not reason
    ]
    for channel in [reference, *(m for m in modalities if m != reference)]:
        if channel not in optional or any(series.channel == channel for series in group):
            chosen[channel] = _pick(name, channel, group, chosen.get(reference), good, notes)
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


def _pick(
    name: str,
    channel: str,
    group: Sequence[Series],
    reference: Series | None,
    claims: Sequence[Claim],
    notes: list[Message],
) -> Series:
    candidates = [series for series in group if series.channel == channel]
    if not candidates:
        others = "; ".join(f"{s.label}: {s.reason}" for s in group if not s.channel) or "nothing else"
        raise ValueError(
            f"channel {channel} is missing: no series is recognised as one; left over: {others}. If one is it, name it in "
            f"a file for --series: [{name}] {channel} = NUMBER"
        )
    combined = [series for series in candidates if series.combined]
    for fits, why in (
        (lambda s: not s.problem, Message("other_unreadable")),
        (lambda s: any(content is not None and refers_to(content, s) for _, content, _ in claims),
         Message("rtstruct_drawn_on_it")),
        (lambda s: reference is not None and s.frame_of_reference_uid == reference.frame_of_reference_uid,
         Message("shares_the_frame")),
        (lambda s: reference is not None and s.study_uid == reference.study_uid, Message("same_study")),
        (lambda s: not any(_combines(other, s) for other in combined), Message("other_is_an_echo")),
        (lambda s: not s.derived, Message("other_was_computed")),
    ):  # fmt: skip
        fitting = [series for series in candidates if fits(series)]
        if fitting and len(fitting) < len(candidates):
            chosen = [s.label for s in fitting]
            left = [s.label + (f" ({s.problem})" if s.problem else "") for s in candidates if not fits(s)]
            notes.append(Message("series_chosen", {"channel": channel, "chosen": chosen, "reason": why, "left": left}))
            candidates = fitting
    if len(candidates) > 1:
        labels = [", ".join((series.label, *in_english(series.notes))) for series in candidates]
        whole = "NUMBER, or its SeriesInstanceUID" if any(not series.part for series in candidates) else ""
        parts = " and so on".join(f'"{series.choice}"' for series in [s for s in candidates if s.part][:1])
        raise ValueError(
            f"channel {channel} has {len(candidates)} series, {_listed(labels)}; say which in a file for --series: "
            f"[{name}] {channel} = {' or '.join(filter(None, (whole, parts)))}"
        )
    try:
        check_series(candidates[0])
    except ValueError as error:
        remedy = _parts_of(candidates)
        if remedy:
            remedy += f'; say which in a file for --series: [{name}] {channel} = "{candidates[0].parts[0].choice}"'
        raise ValueError(f"{channel}, {candidates[0].label}: {error}{remedy}") from None
    return candidates[0]


def _combines(series: Series, other: Series) -> bool:
    """Whether a series is the mean of several echoes of which the other is one."""
    same = (series.study_uid, series.frame_of_reference_uid, series.size)
    return (
        series.combined
        and not other.combined
        and any(part.startswith("echo ") for part in other.part)
        and same == (other.study_uid, other.frame_of_reference_uid, other.size)
    )


def _listed(labels: Sequence[str], most: int = 8) -> str:
    return " and ".join(labels[:most]) + (f" and {len(labels) - most} others" if len(labels) > most else "")


def _parts_of(series: Iterable[Series]) -> str:
    """What a file for --series can choose of series that are no volume as a whole."""
    choices = [
        f'"{part.choice}" ({", ".join(filter(None, (part.part_note, f"{len(part.slices)} images")))})'
        for one in series
        for part in one.parts
    ]
    return f"; it can be {_listed(choices)}" if choices else ""


# ----------------------------------------------------------------------------------------------- RTSTRUCT


def _strays(
    found: Found,
    groups: Sequence[Sequence[Series]],
    names: Sequence[str],
    structures: Sequence[Claim],
    patients: Mapping[str, object],
) -> None:
    """RTSTRUCTs of patients without images: the case they lie beside fails, as it would else lose its labels."""
    for structure, content, _ in structures:
        known = set() if content is None else content.series_uids | content.sop_uids
        if structure.patient.key in patients or any(
            not known.isdisjoint({s.uid, *(one.sop_uid for one in s.slices)}) for group in groups for s in group
        ):
            continue
        beside = _beside(structure.paths[0].parent, names, groups)
        reason = "the RTSTRUCT beside its images is of another patient"
        if len(beside) == 1:
            found.cases = [case for case in found.cases if case.name != beside[0]]
            found.failed.setdefault(beside[0], reason)
        else:
            found.failed["RTSTRUCT"] = (
                "an RTSTRUCT belongs to no patient who has images here; remove it, or add the images"
            )


def _beside(here: Path, names: Sequence[str], groups: Sequence[Sequence[Series]]) -> list[str]:
    """Cases whose images lie in a folder, below it or beside it."""
    beside = []
    for name, group in zip(names, groups, strict=True):
        common = Path(os.path.commonpath([path.parent for series in group for path in series.paths]))
        if here == common or common in here.parents or here == common.parent:
            beside.append(name)
    return beside
