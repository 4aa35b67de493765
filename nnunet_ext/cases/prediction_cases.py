"""The cases of a folder to contour: files named as nnU-Net names them, one folder per case, or a DICOM tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from nnunet_ext.cases import dicom_cases
from nnunet_ext.cases.case import Case, ReadImages
from nnunet_ext.cases.folder_case import FolderCase
from nnunet_ext.cases.source_layout import source_layout
from nnunet_ext.dicom.files import has_dicom
from nnunet_ext.images.file_names import ENDINGS, find_channel_files, image_files, image_stem, refuse_no_file
from nnunet_ext.images.notes import collected_notes
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.source_files import (
    BESIDE,
    FileCount,
    count_files,
    reason_beside,
    reason_of_failed,
    subfolders,
    total,
    walk,
)
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import channel_number, numbered_files
from nnunet_ext.steps import step


@dataclass(frozen=True)
class FilesCase:
    """Files `<name>_0000<ending>`, ... of an nnU-Net images folder, in the form of the training images.

    Nothing is done to them, also if folders of other cases lie beside them.
    """

    name: str
    files: tuple[Path, ...]
    channels: tuple[str, ...]
    optional: tuple[str, ...] = ()
    notes: ClassVar[tuple[Message, ...]] = ()
    ignored: ClassVar[tuple[str, ...]] = ()
    as_trained: ClassVar[bool] = True

    def read_images(self) -> ReadImages:
        files = channel_files(self.name, self.files, self.channels)
        check_channels({channel: file.name for channel, file in files.items()}, self.channels, self.optional)
        warnings: list[Message] = []
        with step("reading"), collected_notes(warnings):
            images = {channel: read_image(file) for channel, file in files.items()}
        return ReadImages(images, {channel: file.name for channel, file in files.items()}, warnings)

    def public(self, text: str) -> str:
        return text


def check_channels(there: Mapping[str, str], channels: Sequence[str], optional: Sequence[str]) -> None:
    """Refuse a case that lacks a channel of the model.

    Args:
        there: Channel -> name of its image in messages.
        channels: Of the model.
        optional: Those that a case may lack.

    Raises:
        ValueError: Naming the channels that are not there, or if none is.
    """
    if not there:
        raise ValueError(f"the model was trained on {', '.join(channels)}; there is no image of any of them")
    needed = [channel for channel in channels if channel not in optional and channel not in there]
    if needed:
        raise ValueError(
            f"the model was trained on {', '.join(channels)}; there is no file of {', '.join(needed)}, only "
            f"{', '.join(there.values())}"
            + ("" if optional else " (with modality dropout in its recipe a model also does without some)")
        )


@dataclass
class FoundCases:
    """Cases of a folder, and the count of its files.

    Attributes:
        kind: `files`, `folders` (files may lie beside them) or `dicom`.
        cases: Name -> case, sorted.
        failed: Name -> why the case can't be contoured.
        others: Names of images that belong to no case -> why.
        key_rows: Of DICOM, the patient of each case. Personal.
        counts: Name -> count of the files of a case.
        beside: The files of no case.
    """

    kind: str
    cases: dict[str, Case]
    failed: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    key_rows: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, FileCount] = field(default_factory=dict)
    beside: FileCount = field(default_factory=FileCount)

    def count(self, failed: Sequence[str] = ()) -> FileCount:
        """Count of all files, if some cases fail."""
        return total(self.counts, self.beside, {*self.failed, *failed})


def find_cases(
    source: Path,
    *,
    channels: Sequence[str],
    optional: Sequence[str],
    layout: str = "auto",
    series_file: Path | None = None,
    key_file: Path | None = None,
    show_progress: bool = True,
) -> FoundCases:
    """The cases of a folder. Only headers are read.

    Args:
        source: Folder of files, of one folder per case, or with DICOM files at any depth.
        channels: Of the model, in its order.
        optional: Those that a case may lack.
        layout: `files`, `folders`, `dicom`, or `auto`. With `auto`, files named as nnU-Net names them go first, and
            folders may lie beside them. Without such files, `source_layout` decides.
        series_file, key_file: For DICOM only, see `dicom_cases.find_cases`.
        show_progress: Show a progress bar over DICOM files.

    Raises:
        FileNotFoundError: If the folder or a case is not there.
        ValueError: If a case is both files and a folder, the layout is not clear or unknown, or a series file is given
            without DICOM.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"images folder {source} does not exist.")
    if layout not in ("auto", "files", "folders", "dicom"):
        raise ValueError(f"layout {layout!r} is not one of auto, files, folders, dicom")
    files, others = ({}, {}) if layout in ("folders", "dicom") else numbered_files(source)
    if layout == "dicom" or (
        layout == "auto" and not files and source_layout(source, channels, optional=optional) == "dicom"
    ):
        found = dicom_cases.find_cases(
            source,
            modalities=channels,
            table=None,
            optional=optional,
            series_file=series_file,
            key_file=key_file,
            show_progress=show_progress,
        )
        return FoundCases(
            "dicom",
            {case.name: case for case in found.cases},
            found.failed,
            {},
            found.key_rows,
            found.counts,
            found.beside,
        )
    if series_file is not None:
        raise ValueError(f"a series file is for DICOM; {source} holds none, or other images beside it")
    folders, failed = ([], {}) if layout == "files" else subfolders(source)
    if files:  # logs and notes beside the files are no cases
        folders = [folder for folder in folders if any(map(image_stem, folder.iterdir()))]
    if not files and not folders and not failed:
        raise FileNotFoundError(
            f"no case in {source}: files must be named <case>_0000{ENDINGS[0]}, <case>_0001{ENDINGS[0]}, ..., or every case "
            f"be a folder with one image per channel, or there be DICOM series.{_found(others, channels)}"
        )
    if both := sorted(set(files) & {folder.name for folder in folders}):
        raise ValueError(f"{both} are both files and folders in {source}; keep one of each.")
    result = FoundCases("folders" if folders else "files", {}, failed, others)
    used = {name: _all_files(paths) for name, paths in files.items()}
    for name, paths in files.items():
        try:
            for path in paths:
                refuse_no_file(path)
            result.cases[name] = FilesCase(name, tuple(paths), tuple(channels), tuple(optional))
        except ValueError as error:
            result.failed[name] = str(error)
    for folder in folders:
        try:
            found_files = find_channel_files(folder, channels, optional=optional)
            if not found_files:
                raise ValueError(_no_channel(folder, channels))
            result.cases[folder.name] = FolderCase(folder, folder.name, True, found_files, {}, [])
            used[folder.name] = _all_files(found_files.values())
        except (ValueError, OSError) as error:
            dicom = "; it holds DICOM, which --layout dicom reads" if has_dicom(folder) else ""
            result.failed[folder.name] = f"{error}{dicom}"
    result.cases = dict(sorted(result.cases.items()))
    _count_files(result, source, folders, used)
    return result


def _no_channel(folder: Path, channels: Sequence[str]) -> str:
    """The message for a case folder without any channel, of a model that does without each of them."""
    there = [path.name for path in sorted(folder.iterdir()) if image_stem(path) and not path.is_dir()]
    listed = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
    return (
        f"no image is named as a channel of the model ({', '.join(channels)}): found {listed or 'none'}; rename each image "
        f"to the channel that it is, e.g. {channels[-1]}{ENDINGS[0]} or {folder.name}_{channels[-1]}{ENDINGS[0]}"
    )


def _found(others: dict[str, str], channels: Sequence[str]) -> str:
    """Other images that are there, with a hint if they are channels of one case."""
    if not others:
        return ""
    named = {name.split(".")[0].split("_")[-1].casefold() for name in others} & {name.casefold() for name in channels}
    hint = " Put images of one case into a folder of their own." if named else ""
    return f" Found {', '.join(list(others)[:3])}.{hint}"


def _all_files(paths: Iterable[Path]) -> set[Path]:
    """Files of some images, those with their data too."""
    found = set(paths)
    for path in list(found):
        try:
            found |= set(image_files(path))
        except (ValueError, OSError):  # the case fails by name when the image is read
            continue
    return found


def _count_files(found: FoundCases, source: Path, folders: Sequence[Path], used: dict[str, set[Path]]) -> None:
    """Put every file down to a case or to none."""
    owner = {path: name for name, paths in used.items() for path in paths} | {folder: folder.name for folder in folders}
    walked: dict[str | None, list[tuple[Path, str]]] = {}
    for path, problem in walk(source):
        name = next((owner[place] for place in (path, *path.parents) if place in owner), None)
        walked.setdefault(name, []).append((path, problem))
    for folder in folders:
        walked.setdefault(folder.name, [])
    for name, paths in used.items():
        place = source / name if source / name in folders else source
        found.counts[name] = count = count_files(place, walked.get(name, ()), channels=paths)
        if isinstance(case := found.cases.get(name), FolderCase):
            names = sorted(name for names in count.names.values() for name in names)
            found.cases[name] = replace(case, ignored=names)
    for folder in folders:
        if folder.name not in used:
            found.counts[folder.name] = count_files(folder, walked[folder.name], reason=reason_of_failed)
    found.beside = count_files(source, walked.get(None, ()), reason=_reason_beside)


def _reason_beside(path: Path, problem: str, source: Path) -> str:
    unnumbered = path.parent == source and (stem := image_stem(path)) and not re.fullmatch(r".+_\d{4}", stem)
    reason = reason_beside(path, problem, source)
    return "images that are not named <case>_0000" if unnumbered and reason == BESIDE else reason


def channel_files(case: str, files: Sequence[Path], channels: Sequence[str]) -> dict[str, Path]:
    """Channel name -> file of a case whose files are numbered as the model's channels are.

    Raises:
        ValueError: On a number the model has no channel for, or two files of one number.
    """
    names = {f"{number:04d}": channel for number, channel in enumerate(channels)}
    if odd := [f.name for f in files if channel_number(f) not in names]:
        wanted = ", ".join(f"{case}_{number}{ENDINGS[0]}" for number in names)
        raise ValueError(
            f"the model was trained on the channels {', '.join(channels)}, so the files must be {wanted}; "
            f"found {', '.join(odd)}: rename it to the number of what it shows"
        )
    found: dict[str, Path] = {}
    for file in files:
        channel = names[channel_number(file)]
        if channel in found:
            raise ValueError(f"channel {channel} has 2 files, {found[channel].name} and {file.name}; keep one")
        found[channel] = file
    return found
