"""DICOM trees (CT, MR, RTSTRUCT) as cases, under numbers instead of names; for conversion and for prediction.

Series are grouped by patient. A patient with several studies, or frames of reference, that each hold every channel gives
one case for each; else the patient's series are one case. Channels are recognised from the headers
(`dicom_series.classify`) or taken from a TOML file:

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

Privacy: cases are `case_001`, `case_002`, ... A key file, readable by its owner only, says which patient each one is;
it keeps the numbers the same when patients are added. No other output holds a name, an ID, a date, a UID or a path.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cases.label_files import is_channel_name, may_be_labels
from nnunet_ext.cases.organ_masks import merge_masks, unite_parts
from nnunet_ext.dicom.parts import PART_WORDS
from nnunet_ext.dicom.rtstruct_reader import Roi, StructureSet, rasterise, read_rtstruct
from nnunet_ext.dicom.series import (
    Series,
    Tree,
    check_series,
    find_series,
    read_series,
    series_grid,
    without_personal,
)
from nnunet_ext.files import in_one_line, read_text, read_toml, written_whole
from nnunet_ext.images.channels import reference_channel
from nnunet_ext.images.reading import image_stem
from nnunet_ext.images.source_files import OF_FAILED, UNREADABLE, FileCount
from nnunet_ext.labels.table import LabelTable, normalise_name

_KEY_FIELDS = ("case", "patient_key", "patient_id", "patient_name", "patient_birth_date", "study_instance_uid",
               "frame_of_reference_uid")  # fmt: skip
_CASE_NAME = re.compile(r"case_\d{3,}")


@dataclass(frozen=True)
class DicomCase:
    """One case; see `triplets.Case`. `drawn`: name, number of contours and organ of every region of the RTSTRUCT."""

    name: str
    identifier: str
    test: bool
    series: dict[str, Series]
    structure: Series | None
    drawn: tuple[tuple[str, int, str | None], ...]
    ignored: list[str]
    notes: tuple[str, ...]
    personal: frozenset[str]
    files: FileCount = field(default_factory=FileCount)

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

    def read_images(self, warnings: list[str]) -> dict[str, tuple[sitk.Image, str]]:
        warnings += self.notes
        images = {}
        for channel, series in self.series.items():
            notes: list[str] = []
            try:
                images[channel] = (read_series(series, notes), series.label)
            except ValueError as error:
                raise ValueError(f"{channel}, {series.label}: {error}") from None
            warnings += [f"{channel}: {note}" for note in notes]
        return images

    def same_frame(self) -> list[list[str]] | None:
        frames: dict[str, list[str]] = {}
        for channel, series in self.series.items():
            frames.setdefault(series.frame_of_reference_uid, []).append(channel)
        return None if "" in frames else list(frames.values())

    def read_labels(
        self, images: Mapping[str, sitk.Image], table: LabelTable, warnings: list[str]
    ) -> tuple[sitk.Image, dict[str, int]]:
        assert self.structure is not None
        reference = reference_channel(list(self.series))
        image = images[reference]
        drawn: dict[str, dict[str, np.ndarray]] = {}
        noted: dict[str, list[str]] = {}  # what is said of several organs is said once
        for roi in read_rtstruct(self.structure.paths[0]).rois:
            organ = table.organ(roi.name)
            if organ is None:
                continue
            if not roi.contours:
                warnings.append(f"{organ}: its region in the RTSTRUCT is empty, no contour is drawn")
                continue
            notes: list[str] = []
            try:
                mask = rasterise(roi.contours, image, notes, slices=self.series[reference].slices)
            except ValueError as error:
                raise ValueError(f"{organ}: {error}") from None
            if not mask.any() and not notes:
                notes.append("its contours hold no voxel's centre, so it has no voxel")
            for note in notes:
                noted.setdefault(note, []).append(organ)
            drawn.setdefault(organ, {})[roi.name] = mask
        warnings += [f"{', '.join(dict.fromkeys(organs))}: {note}" for note, organs in noted.items()]
        masks = {organ: unite_parts(organ, parts, table) for organ, parts in drawn.items()}
        if not any(mask.any() for mask in masks.values()):
            raise ValueError(
                "the RTSTRUCT is empty: no organ of the label table has a contour; leave it out, or draw it"
            )
        return merge_masks(masks, image, table, warnings)

    def describe(self, table: LabelTable) -> list[str]:
        lines = [f"{channel} <- {series.label}, {series.reason}" for channel, series in self.series.items()]
        if self.structure is None:
            lines.append("no RTSTRUCT: goes to imagesTs")
        else:
            for organ in table.names:
                names = [f"{name} ({n} contours)" for name, n, of in self.drawn if of == organ]
                lines.append(f"{organ} <- {' + '.join(names)}" if names else f"{organ} is not in the RTSTRUCT")
            reference = reference_channel(list(self.series))
            self.read_labels({reference: series_grid(self.series[reference])[0]}, table, lines)  # as `convert` will
        lines += list(self.notes)
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
    images = _ruled(tree.images, rules.get("series", {}))
    structures = [(series, *_read_structure(series)) for series in tree.structures]
    patients: dict[str, list[Series]] = {}
    for series in images:
        patients.setdefault(series.patient.key, []).append(series)
    groups = [group for key in sorted(patients) for group in _groups(patients[key], modalities)]
    names = _number(groups, modalities, found.key_rows)
    unknown = [name for name in rules if name != "series" and name not in names]
    if unknown:
        raise ValueError(f"series file: there is no {', '.join(unknown)}; the cases are {', '.join(names[:3])}, ...")
    claims = _claims(groups, structures, modalities, table)
    for name, group in sorted(zip(names, groups, strict=True), key=lambda pair: pair[0]):
        words = frozenset().union(*(tree.personal[series.patient.key] for series in group))
        try:
            case = _case(name, group, claims[id(group)], rules.get(name, {}), modalities, optional, table, words)
            if table is not None and not case.has_labels and not unlabelled:
                _refuse_lost_labels(name, case, tree, names, groups)
            found.cases.append(replace(case, test=name in test_cases))
        except Exception as error:  # one case must not stop the others
            found.failed[name] = without_personal(in_one_line(error), words)
    for name, others in (_same_patient(names, groups) if table is not None else {}).items():
        for at, case in enumerate(found.cases):
            if case.name == name:
                note = f"is the same patient as {', '.join(others)}: keep them in one fold"
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
    structures = {path for structure in tree.structures for path in structure.paths}
    used: set[Path] = set()
    for name in names:
        count = found.counts[name] = FileCount()
        if name in cases:
            channels = {path for series in cases[name].series.values() for path in series.paths}
            labels = set() if cases[name].structure is None else set(cases[name].structure.paths)
            count.channels, count.labels = len(channels), len(labels)
            used |= channels | labels
    for path in tree.files:
        if path in used:
            continue
        name = place.get(path)
        if name is None:
            unused = (
                "RTSTRUCTs that are not used" if path in structures else "DICOM files that are no images of a series"
            )
            found.beside.leave(tree.left_over.get(path, unused))
        else:
            found.counts[name].leave("images of series that are no channel" if name in cases else OF_FAILED)
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
            note = (
                f"{n} files beside its images cannot be read, images or labels may be among them: give read permission"
            )
            found.cases[at] = replace(case, notes=(*case.notes, note))


def _counted(tree: Tree) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(tree.ignored.items()))


# ----------------------------------------------------------------------------------------- the series file


def load_series_rules(path: Path | None) -> dict[str, dict[str, list]]:
    """`[series]` and `[case_001]` sections of the series file: channel -> names and numbers."""
    if path is None:
        return {}
    path = Path(path)
    content = read_toml(path, called=f"series file {path.name}")
    rules: dict[str, dict[str, list]] = {}
    for section, lines in content.items():
        if not isinstance(lines, dict) or not (section == "series" or _CASE_NAME.fullmatch(section)):
            raise ValueError(f"series file {path.name}: {section!r} is not a section [series] or [case_001]")
        rules[section] = {}
        for channel, value in lines.items():
            values = value if isinstance(value, list) else [value]
            if not all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in values):
                raise ValueError(f'series file {path.name}: {channel} needs names or numbers, such as ["ax t1", 5]')
            rules[section][channel] = values
    return rules


_BY_FILE = "by the series file"
_PART = re.compile(rf"(.+)[\s,;:]+(acq|{'|'.join(PART_WORDS)})(?![a-z])[\s=#:]*([^\s,;:].*)", re.IGNORECASE)


def _means(rule: str | int, series: Series) -> bool:
    """Whether a rule names a series, or a part of it; a description that ends like a part goes first."""
    return series.number == rule if isinstance(rule, int) else _names(rule, series) or _means_part(rule, series)


def _means_part(rule: str | int, series: Series) -> bool:
    """Whether a rule such as `7, echo 1` names this part of a series."""
    own = {_plain_part(*part.split(" ", 1)) for part in series.part}
    asked: set[str] = set()
    while own and isinstance(rule, str) and (match := _PART.fullmatch(rule)):
        rule, word, value = match[1].rstrip(" \t,;:"), match[2], match[3]
        asked.add(_plain_part(word, value))
        if asked <= own and _names(rule, series):
            return True
    return False


def _plain_part(word: str, value: str) -> str:
    """`Acq #02` as `acquisition 2`."""
    word = "acquisition" if word.lower() == "acq" else word.lower()
    number = re.fullmatch(r"\s*0*(\d+)(?:\.0*)?\s*", value)
    return f"{word} {number[1] if number else normalise_name(value)}"


def _names(name: str, series: Series) -> bool:
    name = name.strip()
    if name == series.uid:
        return True
    number = re.fullmatch(r"(?:series\s*)?(\d+)", name, re.IGNORECASE)
    if number and series.number == int(number[1]):
        return True
    pattern = "*".join(normalise_name(part) for part in name.split("*"))
    return any(fnmatch.fnmatchcase(normalise_name(one), pattern) for one in series.names)


def _ruled(images: Iterable[Series], rules: Mapping[str, Sequence]) -> list[Series]:
    """The series with the channels that the user's rules give them, in parts where a rule names a part."""
    ruled = [_with_rule(one, rules) for series in images for one in _opened(series, rules)]
    chosen = {(one.patient.key, one.uid) for one in ruled if one.part and one.channel and one.reason == _BY_FILE}
    return [
        replace(one, channel="", reason="the series file chooses another part of it")
        if one.part and one.reason != _BY_FILE and (one.patient.key, one.uid) in chosen
        else one
        for one in ruled
    ]


def _opened(series: Series, rules: Mapping[str, Sequence]) -> list[Series]:
    parts = [end for part in series.parts for end in _opened(part, rules)]
    values = [value for channel, values in rules.items() if channel != "RTSTRUCT" for value in values]
    named = any(_means_part(value, part) and not _means_part(value, series) for value in values for part in parts)
    return parts if named else [series]


def _with_rule(series: Series, rules: Mapping[str, Sequence]) -> Series:
    """CT and MR studies may count their series alike, so a number is looked for among the series of its modality."""
    for channel, values in rules.items():
        fits = channel == "ignore" or (channel == "CT") == (series.modality == "CT")
        if channel != "RTSTRUCT" and fits and any(_means(value, series) for value in values):
            return replace(series, channel="" if channel == "ignore" else channel, reason=_BY_FILE)
    return series


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


def _anchor(group: Sequence[Series], modalities: Sequence[str]) -> tuple[str, str]:
    """Study and frame of reference of the reference channel; empty where it is not clear."""
    places = {(s.study_uid, s.frame_of_reference_uid) for s in group if s.channel == reference_channel(modalities)}
    return places.pop() if len(places) == 1 else ("", "")


def check_key(key_file: Path, folder: Path, *, numbered: bool) -> None:
    """Refuse a key that would be handed on with the cases, or that is gone: numbers would mean other patients.

    Args:
        key_file: May not exist yet.
        folder: Where the numbered cases go.
        numbered: Whether numbered cases are there already.

    Raises:
        ValueError: Saying what to do.
    """
    for parent in key_file.resolve().parents:
        if parent == folder.resolve() or re.fullmatch(r"Dataset\d{3}_.+", parent.name):
            raise ValueError(f"the key file would lie inside {parent.name}, which is handed on; choose another place")
    if numbered and not key_file.exists():
        raise ValueError(
            f"the key file {key_file.name} is gone, so the cases in {folder.name} cannot be told apart; put it back, name "
            "it with --key, or write to a new place"
        )


def _number(groups: Sequence[Sequence[Series]], modalities: Sequence[str], rows: list[dict[str, str]]) -> list[str]:
    """Case name per group: the key's where it knows the patient, else the next number. New rows are appended."""
    per_patient: dict[str, int] = {}
    for group in groups:
        key = group[0].patient.key
        per_patient[key] = per_patient.get(key, 0) + 1
    taken: set[str] = set()
    names: list[str | None] = []
    for group in groups:
        patient, (study, frame) = group[0].patient, _anchor(group, modalities)
        mine = [row for row in rows if row["patient_key"] == patient.key]
        match = next((row for row in mine if (row["study_instance_uid"], row["frame_of_reference_uid"]) == (study, frame)
                      and row["case"] not in taken), None)  # fmt: skip
        if match is None and len(mine) == 1 and (per_patient[patient.key] == 1 or not mine[0]["study_instance_uid"]):
            match = None if mine[0]["case"] in taken else mine[0]
        if match is not None:
            taken.add(match["case"])
            if study and not match["study_instance_uid"]:
                match["study_instance_uid"], match["frame_of_reference_uid"] = study, frame
        names.append(match["case"] if match else None)
    number = max((int(row["case"].split("_")[1]) for row in rows), default=0)
    for at, group in enumerate(groups):
        if names[at] is None:
            number += 1
            names[at] = f"case_{number:03d}"
            patient, (study, frame) = group[0].patient, _anchor(group, modalities)
            values = (names[at], patient.key, patient.patient_id, patient.name, patient.birth_date, study, frame)
            rows.append(dict(zip(_KEY_FIELDS, values, strict=True)))
    return [str(name) for name in names]


def _same_patient(names: Sequence[str], groups: Sequence[Sequence[Series]]) -> dict[str, list[str]]:
    by_patient: dict[str, list[str]] = {}
    for name, group in zip(names, groups, strict=True):
        by_patient.setdefault(group[0].patient.key, []).append(name)
    return {name: [o for o in cases if o != name] for cases in by_patient.values() if len(cases) > 1 for name in cases}


def read_key(path: Path | None) -> list[dict[str, str]]:
    """Rows of a key file, none where it does not exist yet."""
    if path is None or not Path(path).exists():
        return []
    called = f"the key file {Path(path).name}"
    text = read_text(path, called=called, remedy="put the original back, or name another place with --key")
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
    except csv.Error:
        rows = [{}]
    names = [row.get("case") or "" for row in rows]
    if any(set(row) != set(_KEY_FIELDS) for row in rows) or not all(map(_CASE_NAME.fullmatch, names)):
        raise ValueError(
            f"{called} is damaged: it needs the columns {', '.join(_KEY_FIELDS)}, between commas; put the original back"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"{called} names a case twice; put the original back")
    return rows


def write_key(rows: Iterable[Mapping[str, str]], path: Path) -> None:
    """Write the key so that only its owner can read it, whole or not at all.

    Raises:
        OSError: In one line that names the file.
        ValueError: If another run has numbered patients in it since it was read: a number would mean two patients.
    """
    path, rows = Path(path), list(rows)
    mine = {row["case"]: row["patient_key"] for row in rows}
    if any(mine.get(row["case"]) != row["patient_key"] for row in read_key(path)):
        raise ValueError(
            f"another run has changed the key file {path.name} meanwhile; run the same command again, which reads it again"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, _KEY_FIELDS)
                writer.writeheader()
                writer.writerows(rows)
        for left_behind in path.parent.glob(f".{path.name}.[0-9]*"):  # names of patients, by a run that was killed
            left_behind.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write the key file {path}: {error.strerror or error}") from error


# ------------------------------------------------------------------------------------------------ one case


def _case(
    name: str,
    group: Sequence[Series],
    claims: Sequence[tuple[Series, StructureSet | None, str]],
    rules: Mapping[str, Sequence],
    modalities: Sequence[str],
    optional: Sequence[str],
    table: LabelTable | None,
    words: frozenset[str],
) -> DicomCase:
    notes: list[str] = []
    group = _ruled(group, rules)
    for channel in rules:
        if channel not in (*modalities, "RTSTRUCT", "ignore"):
            raise ValueError(f"the series file gives it a channel {channel}; the channels are {', '.join(modalities)}")
        if channel not in modalities:
            continue
        if not any(s.channel == channel and s.reason == _BY_FILE for s in group):
            asked = " or ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in rules[channel])
            there = [s for s in group if (channel == "CT") == (s.modality == "CT")]
            raise ValueError(
                f"the series file says {channel} = {asked}, which is none of its series: "
                f"{_listed([s.label for s in there]) or 'there is none'}{_parts_of(there)}"
            )
        # What the file names for this case goes before what the headers say.
        group = [s if s.channel != channel or s.reason == _BY_FILE else replace(s, channel="") for s in group]
    birth_dates = {s.patient.birth_date for s in group if re.fullmatch(r"\d{8}", s.patient.birth_date)}
    if len(birth_dates) > 1:
        raise ValueError("its series have one patient ID and different birth dates; correct the patient IDs")
    if len({normalise_name(s.patient.name) for s in group if s.patient.name}) > 1:
        notes.append("its series have one patient ID and names written in different ways: check that it is one patient")
    reference = reference_channel(modalities)
    chosen: dict[str, Series] = {}
    # What the organs are drawn on decides between series.
    good = [(s, replace(c, rois=_organs(c, table)), reason) for s, c, reason in claims if c is not None and not reason]
    for channel in [reference, *(m for m in modalities if m != reference)]:
        if channel not in optional or any(series.channel == channel for series in group):
            chosen[channel] = _pick(name, channel, group, chosen.get(reference), good, notes)
    chosen = {channel: chosen[channel] for channel in modalities if channel in chosen}
    for channel, series in chosen.items():
        notes += [f"{channel} is {note}" for note in series.notes]
        if series.frame_of_reference_uid != chosen[reference].frame_of_reference_uid:
            notes.append(f"{channel} has another frame of reference than the {reference}: where it lies is by its own "
                         "coordinates, which need not agree; see the registration")  # fmt: skip
    structure = content = None
    if table is not None:
        structure, content = _pick_structure(
            name, claims, chosen[reference], rules.get("RTSTRUCT"), reference, notes, table, group
        )
    drawn = ()
    ignored = [f"{s.label}: {s.reason}" if not s.channel else s.label for s in group
               if all(s.slices is not one.slices for one in chosen.values())]  # fmt: skip
    if content is not None:
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
    claims: Sequence[tuple[Series, StructureSet | None, str]],
    notes: list[str],
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
        (lambda s: not s.problem, "the other cannot be read"),
        (lambda s: any(_refers(content, s) for _, content, _ in claims), "the RTSTRUCT is drawn on it"),
        (lambda s: reference is not None and s.frame_of_reference_uid == reference.frame_of_reference_uid,
         "it shares the frame of reference"),
        (lambda s: reference is not None and s.study_uid == reference.study_uid, "it is of the same study"),
        (lambda s: not any(_combines(other, s) for other in combined), "the other is one of the echoes it combines"),
        (lambda s: not s.derived, "the other was computed from images"),
    ):  # fmt: skip
        fitting = [series for series in candidates if fits(series)]
        if fitting and len(fitting) < len(candidates):
            left = ", ".join(s.label + (f" ({s.problem})" if s.problem else "") for s in candidates if not fits(s))
            notes.append(f"{channel} is {' or '.join(s.label for s in fitting)}, because {why}; not {left}")
            candidates = fitting
    if len(candidates) > 1:
        labels = [", ".join((series.label, *series.notes)) for series in candidates]
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


def _read_structure(series: Series) -> tuple[StructureSet | None, str]:
    try:
        return read_rtstruct(series.paths[0]), ""
    except (ValueError, OSError) as error:
        return None, str(error) if isinstance(error, ValueError) else "the RTSTRUCT cannot be read"


def _refers(content: StructureSet, series: Series) -> bool:
    """Whether contours are drawn on images of a series; if they do not say, whether the series is listed."""
    there = {one.sop_uid for one in series.slices}
    drawn_on = content.contour_sop_uids
    if drawn_on:
        return not drawn_on.isdisjoint(there)
    if series.part and content.sop_uids:  # all parts of a series share its UID
        return not content.sop_uids.isdisjoint(there)
    return series.uid in content.series_uids or not content.sop_uids.isdisjoint(there)


def _organs(content: StructureSet, table: LabelTable | None) -> tuple[Roi, ...]:
    """Regions with contours that are organs; all with contours where there are no organs, or nobody says which."""
    drawn = tuple(roi for roi in content.rois if roi.contours)
    return tuple(roi for roi in drawn if table is not None and table.organ(roi.name)) or drawn


def _mismatch(
    structure: Series,
    content: StructureSet,
    series: Series,
    channel: str,
    table: LabelTable | None,
    others: Sequence[Series] = (),
) -> str:
    """Why an RTSTRUCT does not belong to a series, with the remedy after a semicolon; empty where it does."""
    if structure.patient.key != series.patient.key:
        return f"its patient is not the {channel}'s"
    frame, frames = series.frame_of_reference_uid, content.frame_of_reference_uids
    if frames and frame and frame not in frames:
        return f"its frame of reference is not the {channel}'s"
    organs = _organs(content, table)

    def name(roi: Roi) -> str:
        return (table.organ(roi.name) if table is not None else None) or "a region"

    elsewhere = [name(roi) for roi in organs if frame and roi.frame_of_reference_uid not in ("", frame)]
    if elsewhere:
        return (
            f"some of its regions are drawn in another frame of reference than the {channel}'s: "
            f"{', '.join(dict.fromkeys(elsewhere))}"
        )
    there = {one.sop_uid for one in series.slices}
    for roi in organs:
        drawn_on = [{uid for uid, _ in contour.images} for contour in roi.contours]
        lost = [uids for uids in drawn_on if uids and uids.isdisjoint(there)]
        if lost:
            where = [s.label for s in others if not {one.sop_uid for one in s.slices}.isdisjoint(set().union(*lost))]
            return (
                f"{name(roi)}: {len(lost)} of its {len(drawn_on)} contours are drawn on images that are not in the "
                f"{channel}" + (f" but in {' and '.join(where)}; draw it on the {channel}, or copy it there"
                                if where else f"; export the {channel} it was drawn on, all images")
            )  # fmt: skip
    if any(contour.images for roi in organs for contour in roi.contours):
        return ""
    listed = content.references(organs)
    if listed.series_uids or listed.sop_uids:
        ties = series.uid in listed.series_uids or not listed.sop_uids.isdisjoint(there)
        return "" if ties else f"the series it refers to is not the {channel}"
    if not frame or frame not in frames:
        return f"it does not say which images it was drawn on, so nothing ties it to the {channel}"
    return ""


def _claims(
    groups: Sequence[list[Series]],
    structures: Sequence[tuple[Series, StructureSet | None, str]],
    modalities: Sequence[str],
    table: LabelTable | None,
) -> dict[int, list[tuple[Series, StructureSet | None, str]]]:
    """RTSTRUCTs per group, each with the reason it does not fit; one that fits another group is left to that one."""
    channel = reference_channel(modalities)
    claims: dict[int, list] = {id(group): [] for group in groups}
    # Looked up, not searched: 1,000 patients have half a million images.
    owner = {uid: id(group) for group in groups for s in group for uid in (s.uid, *(one.sop_uid for one in s.slices))}
    for structure, content, problem in structures:
        related, fits = [], []
        referred = set() if content is None else {owner.get(uid) for uid in content.series_uids | content.sop_uids}
        for group in groups:
            if structure.patient.key != group[0].patient.key and id(group) not in referred:
                continue
            candidates = [series for series in group if series.channel == channel] or list(group)
            reasons = (
                [_mismatch(structure, content, s, channel, table, group) for s in candidates]
                if content is not None
                else [problem]
            )
            related.append((group, min(reasons, key=len)))
            if "" in reasons:
                fits.append(group)
        several = len(fits) > 1 and not replace(content, rois=_organs(content, table)).contour_sop_uids
        for group, reason in related:
            if not fits or group in fits:
                unclear = (
                    f"it refers to the {channel}s of several cases, and its contours do not say which they are drawn on"
                )
                claims[id(group)].append((structure, content, unclear if several else reason))
    return claims


def _pick_structure(
    name: str,
    claims: Sequence[tuple[Series, StructureSet | None, str]],
    series: Series,
    rule: Sequence | None,
    channel: str,
    notes: list[str],
    table: LabelTable,
    group: Sequence[Series],
) -> tuple[Series | None, StructureSet | None]:
    if rule:
        claims = [claim for claim in claims if any(_means(value, claim[0]) for value in rule)]
        if not claims:
            raise ValueError("the RTSTRUCT that the series file names is not there")
    checked = [
        (s, c, reason if c is None else _mismatch(s, c, series, channel, table, group) or reason)
        for s, c, reason in claims
    ]
    good = [(s, c) for s, c, reason in checked if not reason]
    bad = [(s, reason) for s, _, reason in checked if reason]
    if len(good) > 1:
        raise ValueError(
            f"{len(good)} RTSTRUCTs belong to the {channel}, {' and '.join(s.label for s, _ in good)}; say which in a file "
            f'for --series: [{name}] RTSTRUCT = "LABEL", or its SOPInstanceUID'
        )
    if not good and bad:
        remedy = "" if ";" in bad[0][1] else "; export both again, or remove it"
        raise ValueError(f"the RTSTRUCT, {bad[0][0].label}, is refused: {bad[0][1]}{remedy}")
    notes += [f"the RTSTRUCT, {s.label}, is left out: {reason}" for s, reason in bad]
    return good[0] if good else (None, None)


def _strays(
    found: Found,
    groups: Sequence[Sequence[Series]],
    names: Sequence[str],
    structures: Sequence[tuple[Series, StructureSet | None, str]],
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
