"""DICOM trees (CT, MR, RTSTRUCT) as cases, under numbers instead of names, for conversion and for prediction.

Series are grouped by patient. A patient with several studies, or frames of reference, that each hold every channel gives
one case for each. Otherwise the patient's series are one case. Channels are recognised from the headers
(`nnunet_ext.dicom.contrast.classify`) or taken from a TOML file (`nnunet_ext.cases.series_rules`).

Privacy: cases are `case_001`, `case_002`, ... A key file, readable by its owner only, says which patient each one is. It
keeps the numbers the same when patients are added. No other output holds a name, an ID, a date, a UID or a path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_ext.cases.dicom_case import DicomCase, case_of_series
from nnunet_ext.cases.key_file import numbered, read_key, same_patient
from nnunet_ext.cases.label_files import is_channel_name, may_be_labels
from nnunet_ext.cases.series_rules import load_series_rules, ruled
from nnunet_ext.cases.structures import Claim, claims_of, read_structure
from nnunet_ext.dicom.model import Series, Tree
from nnunet_ext.dicom.personal import without_personal
from nnunet_ext.dicom.series import find_series
from nnunet_ext.files import in_one_line
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.images.source_files import OF_FAILED, UNREADABLE, FileCount
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message


@dataclass
class Found:
    """Cases of a tree, cases that cannot be converted and why, and lines on series that belong to none.

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
    """Cases of a DICOM tree. Nothing is written.

    Args:
        source: Folder at any level above the files.
        modalities: Channels a case needs.
        table: Which regions are which organs. None if no labels are wanted. An RTSTRUCT then only says which of several
            CTs is meant.
        optional: Channels that a case may lack.
        series_file: TOML file that says which series is which channel, see `series_rules`.
        key_file: Earlier key, so that patients keep their numbers. It may not exist yet.
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
    groups = [group for key in sorted(patients) for group in _groups(patients[key], modalities, optional)]
    names = numbered(groups, modalities, found.key_rows, optional=optional)
    unknown = [name for name in rules if name != "series" and name not in names]
    if unknown:
        raise ValueError(f"series file: there is no {', '.join(unknown)}; the cases are {', '.join(names[:3])}, ...")
    claims = claims_of(groups, structures, modalities, table, optional)
    for name, group in sorted(zip(names, groups, strict=True), key=lambda pair: pair[0]):
        words = frozenset().union(*(tree.personal[series.patient.key] for series in group))
        try:
            case = case_of_series(
                name, group, claims[id(group)], rules.get(name, {}), modalities, optional, table, words
            )
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
    """Put every file of the tree down to a case or to none, without names, which may be personal."""
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
    """ValueError if a case without RTSTRUCT has labels in a form that is not read. It would become a test case."""
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
    """Tell the cases that lie beside files which cannot be read. Images or labels may be among them."""
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


def _groups(series: Sequence[Series], modalities: Sequence[str], optional: Sequence[str]) -> list[list[Series]]:
    """One list per case of one patient. A channel that a case may lack counts where the patient has it at all."""
    wanted = {one.channel for one in series if one.channel in optional}
    wanted |= {modality for modality in modalities if modality not in optional}
    for attribute in ("frame_of_reference_uid", "study_uid"):
        parts: dict[str, list[Series]] = {}
        for one in series:
            parts.setdefault(getattr(one, attribute), []).append(one)
        complete = [part for part in parts.values() if wanted and {one.channel for one in part} >= wanted]
        if len(complete) > 1:
            rest = [one for part in parts.values() if part not in complete for one in part]
            return [[*complete[0], *(replace(one, channel="") for one in rest)], *complete[1:]]
    return [list(series)]


def _strays(
    found: Found,
    groups: Sequence[Sequence[Series]],
    names: Sequence[str],
    structures: Sequence[Claim],
    patients: Mapping[str, object],
) -> None:
    """Fail the case beside which an RTSTRUCT of a patient without images lies. It would else lose its labels."""
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
