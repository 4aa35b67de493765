"""The cases of a folder to contour: files named as nnU-Net names them, one folder per case, or a DICOM tree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from nnunet_ext import dicom_cases
from nnunet_ext.cascade_predictor import CascadePredictor, PreparedCase
from nnunet_ext.channels import ChannelOptions, reference_channel
from nnunet_ext.dicom_series import Series, has_dicom
from nnunet_ext.image_io import find_channel_files, image_stem


class PredictionCase(Protocol):
    """One case, before anything is read. No text that leaves it may name a patient."""

    name: str
    notes: Sequence[str]

    def prepare(self, predictor: CascadePredictor, options: ChannelOptions | None) -> PreparedCase:
        """Read the case and do all that needs no network; `options` None: it has the form of the training images."""

    def public(self, text: str) -> str:
        """A message without what only the owner of the data may see."""


@dataclass(frozen=True)
class FilesCase:
    """Files `<name>_0000<ending>`, ... of an nnU-Net images folder, in the form of the training images."""

    name: str
    files: tuple[Path, ...]
    notes = ()

    def prepare(self, predictor: CascadePredictor, options: ChannelOptions | None) -> PreparedCase:
        assert options is None
        ending = predictor.dataset_json["file_ending"]
        return predictor.prepare(channel_files(self.name, self.files, predictor.channels, ending))

    def public(self, text: str) -> str:
        return text


@dataclass(frozen=True)
class FolderCase:
    """A folder with one image per channel, as `nnunet_ext convert` reads it."""

    name: str
    folder: Path
    notes = ()

    def prepare(self, predictor: CascadePredictor, options: ChannelOptions | None) -> PreparedCase:
        files = find_channel_files(self.folder, predictor.channels, optional=predictor.optional)
        return predictor.prepare(files, options=options)

    def public(self, text: str) -> str:
        return text


@dataclass(frozen=True)
class SeriesCase:
    """One case of a DICOM tree, under a number."""

    case: dicom_cases.DicomCase

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def notes(self) -> Sequence[str]:
        return self.case.notes

    @property
    def reference_series(self) -> Series:
        """The CT (else the first channel), on whose images the case is contoured."""
        return self.case.series[reference_channel(list(self.case.series))]

    def prepare(self, predictor: CascadePredictor, options: ChannelOptions | None) -> PreparedCase:
        assert options is not None
        warnings: list[str] = []
        images = {channel: image for channel, (image, _) in self.case.read_images(warnings).items()}
        warnings = [line for line in warnings if line not in self.notes]
        groups = self.case.same_frame()
        if not options.register and (groups is None or len(groups) > 1):
            warnings.append(
                "its series do not share a frame of reference and were not registered: check that they match, or add "
                "--register"
            )
        prepared = predictor.prepare(images, options=options, same_frame=groups)
        return replace(prepared, warnings=[*warnings, *prepared.warnings])

    def public(self, text: str) -> str:
        return self.case.public(text)


@dataclass
class FoundCases:
    """What a folder holds.

    Attributes:
        kind: `files`, `folders` (files may lie beside them) or `dicom`.
        cases: Name -> case, sorted.
        failed: Name -> why the case can't be contoured.
        others: Names of files that belong to no case.
        key_rows: DICOM: which case is which patient; personal.
    """

    kind: str
    cases: dict[str, PredictionCase]
    failed: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    key_rows: list[dict[str, str]] = field(default_factory=list)


def find_cases(
    source: Path,
    *,
    channels: Sequence[str],
    optional: Sequence[str],
    ending: str,
    series_file: Path | None = None,
    key_file: Path | None = None,
    show_progress: bool = True,
) -> FoundCases:
    """The cases of a folder; only headers are read.

    Args:
        source: Folder of files, of one folder per case, or with DICOM files at any depth.
        channels: Of the model, in its order.
        optional: Those that a case may lack.
        ending: Of the files in an nnU-Net images folder.
        series_file, key_file: DICOM only; see `dicom_cases.find_cases`.
        show_progress: Show a progress bar over DICOM files.

    Raises:
        FileNotFoundError: If the folder or a case is not there.
        ValueError: If a case is both files and a folder, or a series file is given and there is no DICOM.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"images folder {source} does not exist.")
    files, others = numbered_files(source, ending)
    has_folders = any(image_stem(path) for path in source.glob("*/*") if path.is_file())
    if not files and not has_folders and has_dicom(source):
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
            "dicom", {case.name: SeriesCase(case) for case in found.cases}, found.failed, [], found.key_rows
        )
    if series_file is not None:
        raise ValueError(f"a series file is for DICOM; {source} holds none, or other images beside it")
    folders = {f.name: f for f in sorted(source.iterdir()) if f.is_dir() and not f.name.startswith(".")}
    if not files and not folders:
        raise FileNotFoundError(
            f"no case in {source}: files must be named <case>_0000{ending}, <case>_0001{ending}, ..., or every case be a "
            "folder with one image per channel, or there be DICOM series."
        )
    if both := sorted(set(files) & set(folders)):
        raise ValueError(f"{both} are both files and folders in {source}; keep one of each.")
    cases = {name: FilesCase(name, tuple(paths)) for name, paths in files.items()}
    cases |= {name: FolderCase(name, folder) for name, folder in folders.items()}
    return FoundCases("folders" if folders else "files", dict(sorted(cases.items())), {}, [f.name for f in others])


def numbered_files(folder: Path, ending: str) -> tuple[dict[str, list[Path]], list[Path]]:
    """Cases of an nnU-Net images folder with their files in channel order, and the files named otherwise."""
    cases: dict[str, list[Path]] = {}
    others = []
    for file in sorted(folder.glob(f"*{ending}")):
        if match := re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", file.name):
            cases.setdefault(match[1], []).append(file)
        else:
            others.append(file)
    return cases, others


def channel_files(case: str, files: Sequence[Path], channels: Sequence[str], ending: str) -> dict[str, Path]:
    """Channel name -> file of a case whose files are numbered as the model's channels are.

    Raises:
        ValueError: On a number the model has no channel for.
    """
    names = {f"{case}_{number:04d}{ending}": channel for number, channel in enumerate(channels)}
    if odd := [f.name for f in files if f.name not in names]:
        raise ValueError(
            f"the model was trained on the channels {', '.join(channels)}, so the files must be {', '.join(names)}; "
            f"found {', '.join(odd)}"
        )
    return {names[f.name]: f for f in files}
