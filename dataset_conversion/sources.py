"""All cases of a source, whichever its layout."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_ext.cases import dicom_cases
from nnunet_ext.cases.case import SourceCase
from nnunet_ext.cases.label_files import words_of
from nnunet_ext.cases.source_layout import source_layout
from nnunet_ext.dataset_conversion.finding import find_case
from nnunet_ext.dataset_conversion.settings import Settings, checked_modalities, default_modalities
from nnunet_ext.files import in_one_line
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.images.source_files import (
    FileCount,
    count_files,
    reason_beside,
    reason_of,
    reason_of_failed,
    subfolders,
    walk,
)


@dataclass
class Gathered:
    """Cases of a source, and the files of none.

    `identifiers` are nnU-Net's names of all cases, also of those that failed. `counts` are the files of each, `beside` those
    of no case.
    """

    cases: list[SourceCase] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    identifiers: dict[str, str] = field(default_factory=dict)
    leftover: list[str] = field(default_factory=list)
    key_rows: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, FileCount] = field(default_factory=dict)
    beside: FileCount = field(default_factory=FileCount)


def find_layout(source: Path, modalities: Sequence[str] | None = None) -> str:
    """`hanseg`, `folders` or `dicom`, by a folder's content. `folders` if nothing is recognised.

    Raises:
        ValueError: If some cases are DICOM and others are not.
    """
    from nnunet_ext.dataset_conversion import hanseg  # the one place that knows all kinds of source

    if hanseg.is_hanseg(source):
        return "hanseg"
    return source_layout(
        source, checked_modalities(default_modalities("folders") if modalities is None else modalities)
    )


def gather(
    source: Path,
    layout: str,
    settings: Settings,
    test_cases: Sequence[str],
    series_file: Path | None,
    key_file: Path | None,
    unlabelled: bool,
    show_progress: bool,
) -> Gathered:
    """Cases of a source, and its files of no case. Arguments as for `convert`.

    Raises:
        ValueError: If the layout is unknown, or a series file is given without DICOM.
    """
    from nnunet_ext.dataset_conversion import hanseg

    if layout not in ("folders", "dicom", "hanseg"):
        raise ValueError(f"layout {layout!r} is not one of auto, folders, dicom, hanseg")
    if series_file is not None and layout != "dicom":
        raise ValueError(f"a series file is for DICOM; {source.name} is read as {layout}")
    gathered = Gathered()
    if layout == "dicom":
        found = dicom_cases.find_cases(
            source,
            modalities=settings.modalities,
            table=settings.table,
            series_file=series_file,
            key_file=key_file,
            test_cases=test_cases,
            unlabelled=unlabelled,
            show_progress=show_progress,
        )
        gathered = Gathered([*found.cases], found.failed, {}, found.leftover, found.key_rows)
        gathered.counts, gathered.beside = found.counts, found.beside
        gathered.identifiers = {case.name: case.identifier for case in found.cases}
        gathered.identifiers |= {name: name for name in found.failed}
    else:
        folders, broken = hanseg.case_folders(source) if layout == "hanseg" else _case_folders(source)
        gathered.failed |= broken
        identifiers = _identifiers(folders, gathered.failed)
        gathered.identifiers = {folder.name: identifier for folder, identifier in identifiers.items()}
        gathered.identifiers |= {name: _identifier(name) for name in broken}
        files, beside = _by_folder(source, folders)
        gathered.beside = count_files(source, beside, reason=reason_beside)
        for folder in folders:
            used: tuple[set[Path], set[Path]] = set(), set()
            try:
                if folder.name not in gathered.failed:
                    lost = None if unlabelled else [*files[folder], *_named_after(folder, source, beside)]
                    case = find_case(folder, identifiers[folder], folder.name in test_cases, settings, layout, lost)
                    used = case.used_files()
                    case = replace(case, files=count_files(folder, files[folder], channels=used[0], labels=used[1]))
                    gathered.cases.append(case)
            except Exception as error:  # one case must not stop the others
                gathered.failed[folder.name] = in_one_line(error)
            reason = reason_of_failed if folder.name in gathered.failed else reason_of
            count = count_files(folder, files[folder], channels=used[0], labels=used[1], reason=reason)
            gathered.counts.setdefault(folder.name, FileCount()).add(count)
    unknown = [case for case in test_cases if case not in gathered.identifiers]
    if unknown:
        kind = "a case" if layout == "dicom" else "a folder"
        raise ValueError(f"test case {', '.join(map(repr, unknown))} is not {kind} in {source.name}")
    return gathered


def _case_folders(source: Path) -> tuple[list[Path], dict[str, str]]:
    """Case folders, and names of cases that are broken links -> why they fail."""
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder; give the folder that holds one folder per case")
    folders, broken = subfolders(source)
    if not folders and not broken:
        loose = any(image_stem(path) for path in source.iterdir())
        hint = "it holds images; put each case into a folder of its own" if loose else "it holds no folder"
        raise ValueError(f"{source} has no cases: {hint}")
    return folders, broken


def _by_folder(
    source: Path, folders: Sequence[Path]
) -> tuple[dict[Path, list[tuple[Path, str]]], list[tuple[Path, str]]]:
    """Files of every case folder as `walk` gives them, and those of none."""
    files: dict[Path, list[tuple[Path, str]]] = {folder: [] for folder in folders}
    beside: list[tuple[Path, str]] = []
    for path, problem in walk(source):
        # A folder that is closed is its own file.
        folder = next((place for place in (path, *path.parents) if place in files), None)
        (beside if folder is None else files[folder]).append((path, problem))
    return files, beside


def _named_after(folder: Path, source: Path, beside: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Images directly in the source that have a case's name. They could be its labels."""
    words = words_of(folder.name)
    return [
        (path, problem)
        for path, problem in beside
        if path.parent == source and (stem := image_stem(path)) and words_of(stem)[: len(words)] == words
    ]


def _identifier(name: str) -> str:
    """nnU-Net's case name. Letters of any script, digits, `-` and `_` stay, all else becomes `_`."""
    name = unicodedata.normalize("NFC", name)
    kept = (c if c in "-_" or unicodedata.category(c)[0] in "LNM" else " " for c in name)
    return re.sub(" +", "_", "".join(kept))


def _identifiers(folders: Sequence[Path], failed: dict[str, str]) -> dict[Path, str]:
    """nnU-Net's case name per folder. Folders that would share one are put into `failed`."""
    identifiers = {folder: _identifier(folder.name) for folder in folders}
    groups: dict[str, list[Path]] = {}
    for folder, identifier in identifiers.items():
        groups.setdefault(identifier.casefold(), []).append(folder)
    for group in groups.values():
        if len(group) > 1:
            for folder in group:
                others = " and ".join(repr(other.name) for other in group if other is not folder)
                failed[folder.name] = f"duplicate case name, {others} is the same; rename one"
    return identifiers
