"""Folders of NIfTI, NRRD or MetaImage files, one folder per case, to nnU-Net's raw format.

A case folder holds one image per channel (`CT.nii.gz`, `patient7_T1.nrrd`) and, for training, one label map
(`label.nii.gz`, values in the order of the label table; `label_files` knows other names) or one mask per organ
(`Lens_L.nii.gz`, beside the images or in `masks/` or `structures/`). Each case is written as a whole or not at all, and
again only when its files or the options change.

Several files may hold the parts of one organ and are united; two files of the whole organ are refused. `organ_masks`
settles overlaps. Files that the label table does not know are left out and listed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cases import dicom_cases
from nnunet_ext.cases.key_file import check_key, write_key
from nnunet_ext.cases.label_files import (
    SLICER_ENDING,
    is_channel_name,
    is_unread_label_file,
    label_stem,
    may_be_labels,
    organs_of,
    read_segments,
    read_slicer_labels,
    without_label_words,
    words_of,
)
from nnunet_ext.cases.organ_masks import check_files_drawn_once, merge_masks, unite_parts
from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.cases.source_layout import source_layout
from nnunet_ext.dataset_conversion.preview import FOLDER as PREVIEWS
from nnunet_ext.dataset_conversion.preview import PAGE, draw_previews, write_conversion_page
from nnunet_ext.dicom.files import label_modality
from nnunet_ext.files import check_output_folder, in_one_line, read_json, write_json
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.images.channels import is_ct, reference_channel
from nnunet_ext.images.checks import check_images
from nnunet_ext.images.file_names import (
    MODALITY_ALIASES,
    broken_link,
    find_channel_files,
    image_files,
    image_stem,
    refuse_no_file,
)
from nnunet_ext.images.geometry import (
    CANONICAL,
    describe_grid,
    grid_difference,
    grid_tolerance_mm,
    orientation_code,
    place_in,
    resample_labels,
    same_grid,
    to_canonical,
)
from nnunet_ext.images.label_maps import label_map_of, shown_values, whole_labels
from nnunet_ext.images.notes import collected_notes
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.source_files import (
    BROKEN,
    CLOSED,
    OTHER_IMAGES,
    READ_ALREADY,
    FileCount,
    count_files,
    is_system,
    reason_beside,
    reason_of,
    reason_of_failed,
    subfolders,
    total,
    walk,
)
from nnunet_ext.images.writing import write_image
from nnunet_ext.labels.organs import normalise_name
from nnunet_ext.labels.pairs import MIRROR_KEY, PAIRS_KEY, unclear_sides
from nnunet_ext.labels.table import LabelTable, default_label_table, load_label_table
from nnunet_ext.labels.values import pair_values
from nnunet_ext.labels.volumes import WHOLE_BODY, check_organs
from nnunet_ext.processes import KILLED, run_in_processes
from nnunet_ext.registration.registering import RegistrationOptions
from nnunet_ext.steps import OTHER, step

log = logging.getLogger(__name__)

FILE_ENDING = ".nii.gz"
#: nnU-Net's reader that turns any image to RAS on reading and writes the result back on the image's own grid.
READER = "NibabelIOWithReorient"
#: What the page and a second run need of a provenance file.
_RECORD = {
    "identifier": str,
    "fingerprint": str,
    "outputs": [str],
    "options": dict,
    "channels": {str: {"size": [int] * 3, "spacing_mm": [float] * 3}},
    "reference_channel": str,
    "warnings": [str],
}
LABEL_MAP_NAMES = ("label", "labels", "seg", "segmentation", "labelmap")
MASK_FOLDERS = ("masks", "mask", "structures", "segmentations")
#: An organ with more than this share beyond a channel's field of view fails the case.
LARGEST_ORGAN_SHARE_OUTSIDE = 0.5
#: Header files of formats that keep the voxels in a file of their own.
HEADERS = (".mhd", ".nhdr", ".hdr")
#: Raised when the same input and options give other files than before: cases are then converted again.
FORMAT = 4


@dataclass
class ConversionSummary:
    """What `convert` did.

    Attributes:
        dataset_folder: `nnUNet_raw/DatasetID_NAME`.
        written: Cases converted now.
        skipped: Cases that were there already, from the same files with the same options.
        failed: Case -> reason, one line. It says whether the files of an earlier conversion were taken out or are kept;
            nothing else of these cases is in the dataset.
        warnings: Case -> lines worth reading, for the cases written now.
        listing: After a dry run, what would be taken for what.
        files: What became of every file below the source.
    """

    dataset_folder: Path
    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    listing: list[str] = field(default_factory=list)
    files: FileCount = field(default_factory=FileCount)


@dataclass(frozen=True)
class _Settings:
    modalities: tuple[str, ...]
    table: LabelTable
    channels: ChannelOptions

    def as_dict(self) -> dict:
        return {
            "modalities": list(self.modalities),
            **asdict(self.channels),
            "orientation": CANONICAL,
            "label_table": self.table.as_dict(),
        }


class Case(Protocol):
    """What a kind of source (folders, DICOM) hands over per case; also runs in worker processes, so it pickles.

    `name` is what messages call the case, `identifier` what nnU-Net calls it, `ignored` what was found beside its
    images and not used, `files` the count of its files. No attribute or result that is written or printed may name a
    patient.
    """

    name: str
    identifier: str
    test: bool
    ignored: list[str]
    files: FileCount

    @property
    def has_labels(self) -> bool: ...

    def inputs(self) -> dict[str, Path]:
        """Every file that is read, under the name that the provenance gives it."""

    def roles(self) -> dict:
        """Plain JSON: which input is which channel or organ; with the inputs' content it decides the result."""

    def read_images(self, warnings: list[str]) -> dict[str, tuple[sitk.Image, str]]:
        """Channel -> image, and where it is from in a word or two, in channel order."""

    def same_frame(self) -> list[list[str]] | None:
        """Channels in groups that share a frame of reference; None where the files do not say."""

    def read_labels(
        self, images: Mapping[str, sitk.Image], table: LabelTable, warnings: list[str]
    ) -> tuple[sitk.Image, dict[str, int]]:
        """Label map as drawn, and voxels per organ before overlaps were settled."""

    def describe(self, table: LabelTable) -> list[str]:
        """Lines for the dry run: what is taken for what, what is left over."""

    def public(self, text: str) -> str:
        """A message without what only the owner of the data may see."""


@dataclass(frozen=True)
class _Case:
    """One case folder. `label_files`: organ -> mask files, or None -> one label map; empty without labels."""

    folder: Path
    identifier: str
    test: bool
    images: dict[str, Path]
    label_files: dict[str | None, list[Path]]
    ignored: list[str]
    notes: tuple[str, ...] = ()
    files: FileCount = field(default_factory=FileCount)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def has_labels(self) -> bool:
        return bool(self.label_files)

    def inputs(self) -> dict[str, Path]:
        paths = [*self.images.values(), *(path for paths in self.label_files.values() for path in paths)]
        files = sorted({file for path in paths for file in image_files(path)})
        return {path.relative_to(self.folder).as_posix(): path for path in files}

    def used_files(self) -> tuple[set[Path], set[Path]]:
        """Files of the channels, files of the labels."""
        labels = [path for paths in self.label_files.values() for path in paths]
        return tuple({file for path in paths for file in image_files(path)} for paths in (self.images.values(), labels))

    def roles(self) -> dict:
        return {
            "images": {modality: path.name for modality, path in self.images.items()},
            "labels": {str(organ): [path.name for path in paths] for organ, paths in self.label_files.items()},
        }

    def read_images(self, warnings: list[str]) -> dict[str, tuple[sitk.Image, str]]:
        warnings += self.notes
        return {
            modality: (read_image(path), path.relative_to(self.folder).as_posix())
            for modality, path in self.images.items()
        }

    def same_frame(self) -> None:
        return None  # NIfTI, NRRD and MetaImage have no word for it

    def read_labels(
        self, images: Mapping[str, sitk.Image], table: LabelTable, warnings: list[str]
    ) -> tuple[sitk.Image, dict[str, int]]:
        if None not in self.label_files:
            return _merged_masks(self, table, warnings)
        path = self.label_files[None][0]
        segments = _is_slicer(path) and read_segments(path)
        labels, counts = read_slicer_labels(path, table, warnings) if segments else _label_map(self, table)
        drawn = [organ for organ, voxels in counts.items() if voxels]
        if not segments and image_stem(path).lower() not in LABEL_MAP_NAMES and len(drawn) == 1 < len(table.names):
            raise ValueError(
                f"{path.name} holds one value, that of {drawn[0]}, so it could be the mask of anything; name it "
                f"{drawn[0]}{path.name[len(image_stem(path)) :]}, or label{path.name[len(image_stem(path)) :]}"
            )
        if not _is_slicer(path):
            return labels, counts
        # 3D Slicer writes only the part of the grid that holds segments.
        placed = (place_in(to_canonical(labels), to_canonical(image)) for image in images.values())
        return next((whole for whole in placed if whole is not None), labels), counts

    def describe(self, table: LabelTable) -> list[str]:
        lines = [f"{modality} <- {path.name}" for modality, path in self.images.items()]
        for organ, paths in self.label_files.items():
            lines.append(f"{organ or 'labels'} <- {' + '.join(path.name for path in paths)}")
        if self.label_files and None not in self.label_files:
            lacking = [organ for organ in table.names if organ not in self.label_files]
            lines += [f"no mask of {', '.join(lacking)}"] if lacking else []
        lines += [f"left over: {', '.join(self.ignored)}"] if self.ignored else []
        # The images are named above.
        others = [reason for reason in self.files.reasons() if OTHER_IMAGES not in reason]
        return lines + ([f"also left over: {', '.join(others)}"] if others else [])

    def public(self, text: str) -> str:
        return text


def _split(case: Case) -> str:
    return "Ts" if case.test or not case.has_labels else "Tr"


@dataclass(frozen=True)
class _Job:
    case: Case
    settings: _Settings
    dataset: Path
    preview: bool = False
    source: str = ""  # `_hashed_source`


@dataclass(frozen=True)
class _Failed:
    """Why a case failed; `outdated` if its own files are bad, so that what an earlier run made of them is wrong too."""

    reason: str
    outdated: bool = False


class _OtherCase(ValueError):
    """The dataset holds a case of this name that was made from other files of another source."""


def convert(
    source: Path,
    *,
    dataset_id: int,
    name: str,
    modalities: Sequence[str] | None = None,
    labels_file: Path | None = None,
    test_cases: Sequence[str] = (),
    layout: str = "auto",
    series_file: Path | None = None,
    key_file: Path | None = None,
    unlabelled: bool = False,
    dry_run: bool = False,
    n_processes: int = 2,
    allow_non_hu: bool = False,
    window_hu: tuple[float, float] | None = None,
    clean_ct: bool = True,
    n4: bool = True,
    register: bool = False,
    register_backend: str = "simpleitk",
    raw_folder: Path | None = None,
    show_progress: bool = True,
    preview: bool = True,
) -> ConversionSummary:
    """Folder of cases or DICOM tree -> nnU-Net raw dataset with `dataset.json` and a provenance file per case.

    Every image is turned to `LPS` axes without interpolation; channels on other grids than the CT (the first channel
    where there is no CT) are resampled onto it by cubic B-splines. Label maps must lie on the grid of that channel, or
    of another channel of the case: then each label is resampled on its own. A case that fails is left out as a whole and
    the others are finished. Running again converts only what is new, changed or failed.

    Args:
        source: Folder with one folder per case, or a DICOM tree of any nesting.
        dataset_id: nnU-Net's dataset number, 1..999.
        name: Dataset name: `Dataset501_NAME`.
        modalities: Channels in nnU-Net's order; file names are looked up by `find_channel_files`. `CT` is treated as CT.
            CT, T1, T2 if None; CT, T1 for HaN-Seg.
        labels_file: TOML label table (`load_label_table`); the seven organs of `ORGANS` if None. What it says about left
            and right goes into `dataset.json`.
        test_cases: Names of cases that go to `imagesTs` (and `labelsTs`). So do cases without labels.
        layout: `folders`, `dicom`, `hanseg`, or `auto` to look what is there (`source_layout`).
        series_file: DICOM only: TOML file that says which series is which channel (see `dicom_cases`).
        key_file: DICOM only: the private file that says which patient each case is; `DatasetID_NAME.key.csv` beside the
            dataset folder if None.
        unlabelled: A case without recognised labels goes to the test set even if files beside its images could be labels.
        dry_run: Only say what would be taken for what (`list_cases`); nothing is written, `raw_folder` need not be set.
        n_processes: Cases converted at the same time. More than one starts new Python processes, so a script needs
            `if __name__ == "__main__":`.
        allow_non_hu: Accept a CT whose values are not HU.
        window_hu: Clip the CT to this window.
        clean_ct: Replace couch and fixation mask by air.
        n4: Remove the bias field of channels that are not CT.
        register: Register the other channels to the CT (the first channel where there is no CT); the warnings say where
            elastic registration was not kept.
        register_backend: Whose optimiser: `simpleitk`, or `elastix` (the package `itk-elastix`).
        raw_folder: nnU-Net's raw folder; the environment variable `nnUNet_raw` if None.
        show_progress: Show a progress bar.
        preview: Draw a picture of every step of every case, and `conversion.html` that shows them.

    Returns:
        Which cases were written, skipped or failed, and why.

    Raises:
        ValueError: If an argument is wrong, before anything is written.
        FileNotFoundError: If `source` or the label table does not exist.
        OSError: If the output folder cannot be written, or another run works in it (`folder_lock.FolderInUse`).
    """
    source = Path(source)
    layout = find_layout(source, modalities) if layout == "auto" else layout
    settings = _Settings(
        _checked_modalities(_default_modalities(layout) if modalities is None else modalities),
        _label_table(layout, labels_file),
        ChannelOptions(
            clean_ct,
            n4,
            None if window_hu is None else _checked_window(window_hu),
            allow_non_hu,
            register,
            register_backend,
        ),
    )
    if register:
        RegistrationOptions(backend=register_backend)  # an unknown or missing backend is no fault of every case
    elif register_backend != "simpleitk":
        raise ValueError(f"registration backend {register_backend!r} without registration: add --register")
    if dry_run:
        if key_file is None and (raw_folder is not None or os.environ.get("nnUNet_raw")):  # noqa: SIM112 nnU-Net's spelling
            dataset = _dataset_folder(raw_folder, dataset_id, name)
            key_file = dataset.with_name(f"{dataset.name}.key.csv")
        listing = list_cases(
            source,
            modalities=settings.modalities,
            labels_file=labels_file,
            test_cases=test_cases,
            layout=layout,
            series_file=series_file,
            key_file=key_file,
            unlabelled=unlabelled,
            show_progress=show_progress,
        )
        return ConversionSummary(
            Path(f"Dataset{dataset_id:03d}_{name}"),
            failed=listing.failed,
            listing=listing.lines,
            files=listing.files,
        )
    dataset = _dataset_folder(raw_folder, dataset_id, name)
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}; at least 1 is needed")
    if key_file is None:
        key_file = dataset.with_name(f"{dataset.name}.key.csv")
    return _convert_into(
        dataset,
        source,
        name,
        layout,
        settings,
        test_cases,
        series_file,
        key_file,
        unlabelled,
        n_processes,
        show_progress,
        preview,
    )


@holding(owned_folder, "dataset")
def _convert_into(
    dataset: Path,
    source: Path,
    name: str,
    layout: str,
    settings: _Settings,
    test_cases: Sequence[str],
    series_file: Path | None,
    key_file: Path,
    unlabelled: bool,
    n_processes: int,
    show_progress: bool,
    preview: bool,
) -> ConversionSummary:
    """What `convert` does once its arguments make sense; nobody else writes to the dataset meanwhile."""
    if layout == "dicom":
        numbered = any((dataset / "provenance").glob("case_*.json"))
        check_key(Path(key_file), dataset, numbered=numbered)
    gathered = _gather(source, layout, settings, test_cases, series_file, Path(key_file), unlabelled, show_progress)

    summary = ConversionSummary(dataset, failed=dict(gathered.failed))
    hashed = _hashed_source(source, dataset)
    _check_other_cases(dataset, set(gathered.identifiers.values()), settings, hashed)
    _check_writable(dataset)
    _remove_renamed(dataset, gathered.identifiers)
    if layout == "dicom":
        write_key(gathered.key_rows, Path(key_file))
    jobs = [_Job(case, settings, dataset, preview, hashed) for case in gathered.cases]
    for line in gathered.leftover:
        log.info(line)
    for line in _side_warnings(settings.table, dataset):
        log.warning(line)

    outdated = _outdated(dataset, gathered, hashed)
    try:
        with contextlib.closing(_run(jobs, n_processes, show_progress)) as outcomes:
            for job, outcome in outcomes:
                case_name = job.case.name
                if isinstance(outcome, _Failed):
                    summary.failed[case_name] = outcome.reason
                    outdated |= {case_name} if outcome.outdated else set()
                elif outcome is None:
                    summary.skipped.append(case_name)
                else:
                    summary.written.append(case_name)
                    if outcome:
                        summary.warnings[case_name] = outcome
        for failed, reason in summary.failed.items():
            identifier = gathered.identifiers.get(failed)
            if identifier is None:
                continue
            earlier = _read_json(dataset / "provenance" / f"{identifier}.json")
            take_out = failed in outdated or earlier is None or not _is_of_kind(earlier, settings)
            if earlier is not None:
                done = "was taken out" if take_out else "is kept"
                summary.failed[failed] = f"{reason}; its earlier conversion {done}"
            if take_out:  # without a record at most half a case, of a run that was killed
                _remove_case(dataset, identifier)
        _write_dataset_json(dataset, name, settings)
        summary.files = total(gathered.counts, gathered.beside, summary.failed)
        _write_page(dataset, summary.failed, settings, summary.files)
    finally:
        shutil.rmtree(dataset / ".partial", ignore_errors=True)
        _remove_empty_folders(dataset)
    summary.written.sort()
    summary.skipped.sort()
    summary.failed = dict(sorted(summary.failed.items()))
    for case_name, lines in sorted(summary.warnings.items()):
        for line in lines:
            log.warning("case '%s': %s", case_name, line)
    return summary


@dataclass
class Listing:
    """What `convert` would do: lines to print, case -> why it cannot be converted, and the count of all files."""

    lines: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    files: FileCount = field(default_factory=FileCount)


def list_cases(
    source: Path,
    *,
    modalities: Sequence[str] | None = None,
    labels_file: Path | None = None,
    test_cases: Sequence[str] = (),
    layout: str = "auto",
    series_file: Path | None = None,
    key_file: Path | None = None,
    unlabelled: bool = False,
    show_progress: bool = True,
) -> Listing:
    """What `convert` would take for what, what is left over and which case lacks what; nothing is written.

    Headers are read, and of cases without labels the images that could be labels.

    Arguments and errors as for `convert`. Without `key_file`, the numbers of DICOM cases are those of a first conversion.
    """
    source = Path(source)
    layout = find_layout(source, modalities) if layout == "auto" else layout
    settings = _Settings(
        _checked_modalities(_default_modalities(layout) if modalities is None else modalities),
        _label_table(layout, labels_file),
        ChannelOptions(),
    )
    gathered = _gather(source, layout, settings, test_cases, series_file, key_file, unlabelled, show_progress)
    lines = []
    cases = []
    for case in gathered.cases:
        try:
            described = case.describe(settings.table)
        except (ValueError, OSError) as error:
            gathered.failed[case.name] = case.public(in_one_line(error))
            continue
        cases.append(case)
        labels = f" + labels{_split(case)}" if case.has_labels else ""
        lines.append(f"{case.name} -> images{_split(case)}{labels}")
        lines += [f"  {line}" for line in described]
    lines += [f"{name} -> nothing: {reason}" for name, reason in sorted(gathered.failed.items())]
    lines += [*gathered.leftover, *_side_warnings(settings.table)]
    files = total(gathered.counts, gathered.beside, gathered.failed)
    lines.append(str(files))
    n = len(cases) + len(gathered.failed)
    lines.append(f"{n} cases ({layout}): {len(cases)} to convert, {len(gathered.failed)} not")
    return Listing(lines, gathered.failed, files)


@dataclass
class _Gathered:
    """What a source holds.

    `identifiers` are nnU-Net's names of all cases, also of those that failed. `counts` are the files of each, `beside` those
    of no case.
    """

    cases: list[Case] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    identifiers: dict[str, str] = field(default_factory=dict)
    leftover: list[str] = field(default_factory=list)
    key_rows: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, FileCount] = field(default_factory=dict)
    beside: FileCount = field(default_factory=FileCount)


def find_layout(source: Path, modalities: Sequence[str] | None = None) -> str:
    """`hanseg`, `folders` or `dicom`, by what a folder holds; `folders` where nothing is recognised.

    Raises:
        ValueError: If some cases are DICOM and others are not.
    """
    from nnunet_ext.dataset_conversion import hanseg  # the one place that knows all kinds of source

    if hanseg.is_hanseg(source):
        return "hanseg"
    return source_layout(
        source, _checked_modalities(_default_modalities("folders") if modalities is None else modalities)
    )


def _default_modalities(layout: str) -> tuple[str, ...]:
    from nnunet_ext.dataset_conversion import hanseg

    return hanseg.MODALITIES if layout == "hanseg" else ("CT", "T1", "T2")


def _label_table(layout: str, labels_file: Path | None) -> LabelTable:
    from nnunet_ext.dataset_conversion import hanseg

    if labels_file is not None:
        return load_label_table(labels_file)
    return hanseg.label_table() if layout == "hanseg" else default_label_table()


def _gather(
    source: Path,
    layout: str,
    settings: _Settings,
    test_cases: Sequence[str],
    series_file: Path | None,
    key_file: Path | None,
    unlabelled: bool,
    show_progress: bool,
) -> _Gathered:
    from nnunet_ext.dataset_conversion import hanseg

    if layout not in ("folders", "dicom", "hanseg"):
        raise ValueError(f"layout {layout!r} is not one of auto, folders, dicom, hanseg")
    if series_file is not None and layout != "dicom":
        raise ValueError(f"a series file is for DICOM; {source.name} is read as {layout}")
    gathered = _Gathered()
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
        gathered = _Gathered(list(found.cases), found.failed, {}, found.leftover, found.key_rows)
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
                    case = _find_case(folder, identifiers[folder], folder.name in test_cases, settings, layout, lost)
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


# ------------------------------------------------------------------------------------ checks before the start


def _checked_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    names = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    if not names or len({name.casefold() for name in names}) != len(names):
        raise ValueError(f"modalities {list(names)}: give each channel once, e.g. CT T1 T2")
    return tuple("CT" if name.casefold() == "ct" else name for name in names)  # nnU-Net looks for this word


def _checked_window(window_hu: Sequence[float]) -> tuple[float, float]:
    low, high = (float(value) for value in window_hu)
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"window {low:g}..{high:g} HU is empty; give the lower end first, e.g. --window-hu -160 240")
    return low, high


def _side_warnings(table: LabelTable, dataset: Path | None = None) -> list[str]:
    """What planning will refuse about left and right, and lines of an earlier `dataset.json` that the table lacks."""
    stated = table.side_entries
    unclear = None if stated else unclear_sides(table.names)
    warnings = [f"planning will refuse these labels: {unclear}"] if unclear else []
    before: dict = {}
    if dataset is not None:
        with contextlib.suppress(OSError, ValueError):  # none yet, or a damaged one, which is written again
            before = read_json(dataset / "dataset.json", dict)
    lost = {key: before[key] for key in (PAIRS_KEY, MIRROR_KEY) if key in before and key not in stated}
    warnings += [
        f"{dataset.name}/dataset.json had {key} = {json.dumps(value, ensure_ascii=False)}, which the label table does not "
        "say: it is removed. Write the line above [labels] in the table of --labels to keep it"
        for key, value in lost.items()
    ]
    return warnings


def _dataset_folder(raw_folder: Path | None, dataset_id: int, name: str) -> Path:
    if raw_folder is None:
        if not os.environ.get("nnUNet_raw"):  # noqa: SIM112 nnU-Net's own spelling
            raise ValueError(
                "nnUNet_raw is not set: say where raw datasets go, e.g. export nnUNet_raw=$HOME/nnUNet_raw"
            )
        raw_folder = Path(os.environ["nnUNet_raw"])  # noqa: SIM112
    raw_folder = check_output_folder(raw_folder)
    if not 1 <= dataset_id <= 999:
        raise ValueError(f"dataset id {dataset_id} is not within 1..999")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"dataset name {name!r}: use letters, digits, '_', '-' and '.'")
    wanted = f"Dataset{dataset_id:03d}_{name}"
    if raw_folder.is_dir():
        for other in sorted(raw_folder.glob(f"Dataset{dataset_id:03d}_*")):
            if other.name != wanted and other.is_dir():
                raise ValueError(f"dataset id {dataset_id} is taken by {other.name}; use another id or that name")
    return raw_folder / wanted


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
    beside = []
    for path, problem in walk(source):
        # A folder that is closed is its own file.
        folder = next((place for place in (path, *path.parents) if place in files), None)
        (beside if folder is None else files[folder]).append((path, problem))
    return files, beside


def _named_after(folder: Path, source: Path, beside: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Images directly in the source that have a case's name: they could be its labels."""
    words = words_of(folder.name)
    return [
        (path, problem)
        for path, problem in beside
        if path.parent == source and (stem := image_stem(path)) and words_of(stem)[: len(words)] == words
    ]


def _identifier(name: str) -> str:
    """nnU-Net's case name: letters of any script, digits, `-` and `_` stay, all else becomes `_`."""
    name = unicodedata.normalize("NFC", name)
    kept = (c if c in "-_" or unicodedata.category(c)[0] in "LNM" else " " for c in name)
    return re.sub(" +", "_", "".join(kept))


def _identifiers(folders: Sequence[Path], failed: dict[str, str]) -> dict[Path, str]:
    """nnU-Net's case name per folder; folders that would share one are put into `failed`."""
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


def _remove_renamed(dataset: Path, identifiers: Mapping[str, str]) -> None:
    """Remove what an earlier version wrote for these cases under another name: letters beyond ASCII were `_`."""
    for path in sorted((dataset / "provenance").glob("*.json")):
        case = (_read_json(path) or {}).get("case")
        if case in identifiers and identifiers[case] != path.stem and path.stem not in identifiers.values():
            _remove_case(dataset, path.stem)


def _check_other_cases(dataset: Path, identifiers: set[str], settings: _Settings, source: str) -> None:
    """Refuse to mix: cases of an earlier run that this one does not replace must have its channels and labels."""
    for path in sorted((dataset / "provenance").glob("*.json")):
        record = _read_json(path)
        if path.stem in identifiers and (record is None or record.get("source", source) == source):
            continue
        if record is None:
            raise ValueError(
                f"{path} is damaged, so nobody knows which channels and labels case '{path.stem}' has; delete that file and "
                "convert that case again too, or use another dataset id"
            )
        if not _is_of_kind(record, settings):
            raise ValueError(
                f"{dataset.name} holds case '{path.stem}' with other channels or labels; use another dataset id or "
                "remove that dataset"
            )


def _is_of_kind(record: Mapping, settings: _Settings) -> bool:
    """Whether a converted case has these channels and labels."""
    options = record.get("options", {})
    names = list(options.get("label_table", ()))
    return options.get("modalities") == list(settings.modalities) and names == list(settings.table.names)


def _outdated(dataset: Path, gathered: _Gathered, source: str) -> set[str]:
    """Cases whose files lack something now, so that what an earlier run made of the same source is wrong.

    Not those of another source, where this one may hold another patient, and not those whose names have become ambiguous.
    """
    names = Counter(identifier.casefold() for identifier in gathered.identifiers.values())
    outdated = set()
    for name in gathered.failed.keys() & gathered.identifiers.keys():
        identifier = gathered.identifiers[name]
        earlier = _read_json(dataset / "provenance" / f"{identifier}.json") or {}
        if earlier.get("source") == source and names[identifier.casefold()] == 1:
            outdated.add(name)
    return outdated


def _check_writable(dataset: Path) -> None:
    """Make the folder for unfinished cases; OSError in one line where that is impossible."""
    try:
        partial = dataset / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "probe").write_bytes(b"")
    except OSError as error:
        raise type(error)(
            f"cannot write to {dataset}: {error.strerror or error}; choose a folder you may write to"
        ) from error


# ------------------------------------------------------------------------------------------- finding the files


def _find_case(
    folder: Path,
    identifier: str,
    test: bool,
    settings: _Settings,
    layout: str,
    lost: Sequence[tuple[Path, str]] | None,
) -> _Case:
    """The case of one folder; `lost`: files that must not be labels if none is recognised."""
    from nnunet_ext.dataset_conversion import hanseg

    notes: tuple[str, ...] = ()
    if layout == "hanseg":
        images = hanseg.find_images(folder, settings.modalities)
        label_files, ignored = hanseg.find_masks(folder, settings.table)
        if len(images) > 1 and not settings.channels.register:
            notes = (hanseg.NOTE,)
    else:
        images = find_channel_files(folder, settings.modalities)
        label_files, ignored = _find_labels(folder, set(images.values()), settings.table)
    if not label_files and lost is not None:
        _refuse_lost_labels(folder, lost, images, settings.table)
    for path in label_files.get(None, ()):
        if _is_slicer(path) and (segments := read_segments(path)):
            ignored = [*ignored, *(f"segment {name}" for name in organs_of(segments, settings.table, path)[1])]
    return _Case(folder, identifier, test, images, label_files, ignored, notes)


def _is_slicer(path: Path) -> bool:
    return path.name.lower().endswith(SLICER_ENDING)


def _names_of_case(folder: Path, images: Iterable[Path]) -> list[str]:
    """Names that say nothing about what a file of the case is: the case's, its images' and the channels'."""
    channels = [name for names in MODALITY_ALIASES.values() for name in names]
    return [folder.name, "MR", "MRI", *channels, *(image_stem(path) or "" for path in images)]


def _find_labels(folder: Path, images: set[Path], table: LabelTable) -> tuple[dict[str | None, list[Path]], list[str]]:
    """Label files of a case and the names of images that are neither channel nor organ."""
    here = sorted(folder.iterdir())
    free = [path for path in here if not path.is_dir() and image_stem(path) and path not in images]
    maps = [path for path in free if image_stem(path).lower() in LABEL_MAP_NAMES]
    masks = [path for path in here if path.is_dir() and path.name.lower() in MASK_FOLDERS]
    drawn = [path for sub in masks for path in sorted(sub.iterdir()) if not path.is_dir() and image_stem(path)]
    organs: dict[str | None, list[Path]] = {}
    unknown = []
    for path in [*(path for path in free if path not in maps), *drawn]:
        organ = table.organ(image_stem(path))
        if organ is None:
            unknown.append(path)
        else:
            organs.setdefault(organ, []).append(path)
    if not maps:
        maps = _by_other_names(folder, unknown, organs, table, _names_of_case(folder, images))
    for path in (*maps, *(path for paths in organs.values() for path in paths)):
        refuse_no_file(path)
    ignored = [path.relative_to(folder).as_posix() for path in unknown]
    names = _names_of_case(folder, images)
    drawn_once = ((_drawn_name(path, table, names), path) for paths in organs.values() for path in paths)
    check_files_drawn_once(drawn_once, table)
    if len(maps) > 1:
        raise ValueError(f"there are {len(maps)} label maps, {_names(maps)}; keep one")
    if maps and organs:
        masks = [path for paths in organs.values() for path in paths]
        raise ValueError(f"there is a label map, {maps[0].name}, and masks per organ, {_names(masks)}; keep one kind")
    if drawn and not organs and not maps:
        raise ValueError(
            f"none of the masks {_names(drawn)} is in the label table ({', '.join(table.names)}); add their names as aliases"
        )
    return ({None: maps} if maps else organs), ignored


def _drawn_name(path: Path, table: LabelTable, known: Sequence[str]) -> str:
    """Name of an organ in a mask's file name, without the words that only say that it is a mask."""
    stem = label_stem(path) or ""
    return stem if table.organ(stem) else without_label_words(stem, known) or stem


def _by_other_names(
    folder: Path, unknown: list[Path], organs: dict[str | None, list[Path]], table: LabelTable, known: Sequence[str]
) -> list[Path]:
    """Label maps among files of unknown names; masks of organs that have none yet are put into `organs`.

    Label maps count only if there are no masks, and files in a folder that is not one of `MASK_FOLDERS` only if there is
    nothing else: what lies beside labels of the usual names is a draft or a copy. What is found is taken out of `unknown`.
    """
    groups = [list(unknown)]
    if not organs:
        groups.append(_in_label_folders(folder, known))
    maps: list[Path] = []
    masks: dict[str, list[Path]] = {}
    for group in groups:
        for path in group:
            stem = label_stem(path) or ""
            # In a folder of labels, a file with the case's name is its label map.
            named = path.parent == folder or is_channel_name(stem, ())
            rest = without_label_words(stem if named else f"label_{stem}", known)
            organ = table.organ(stem) or table.organ(rest or "")
            if organ is None and (rest == "" or _is_slicer(path)):
                maps.append(path)
            elif organ is not None and organ not in organs:
                masks.setdefault(organ, []).append(path)
        if maps or masks:
            break
    maps = [] if organs else maps
    organs.update(masks)
    taken = {*maps, *(path for paths in masks.values() for path in paths)}
    unknown[:] = [path for path in dict.fromkeys([*unknown, *group]) if path not in taken]
    return maps


def _in_label_folders(folder: Path, known: Sequence[str]) -> list[Path]:
    """Images in folders such as `labels`, `case_rois` or `gt`."""
    names = [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and sub.name.lower() not in MASK_FOLDERS]
    subs = [sub for sub in names if without_label_words(sub.name, known) is not None]
    return [path for sub in subs for path in sorted(sub.iterdir()) if not path.is_dir() and image_stem(path)]


def _refuse_lost_labels(
    folder: Path, files: Sequence[tuple[Path, str]], images: Mapping[str, Path], table: LabelTable
) -> None:
    """ValueError where a case without labels has a file that could be its labels: it would become a test case."""
    used = {file for path in images.values() for file in image_files(path)}
    known = _names_of_case(folder, images.values())
    for path, problem in files:
        below = folder in path.parents
        if path in used or problem == READ_ALREADY or is_system(path, folder if below else path.parent):
            continue
        name = path.relative_to(folder).as_posix() if below else path.name
        stem, ending = image_stem(path), path.name[len(image_stem(path) or "") :]
        named = [stem or path.name, *(part for part in Path(name).parts[:-1])]
        means_labels = any(without_label_words(part, known) is not None for part in named)
        possible = means_labels or (stem is not None and not is_channel_name(stem, images))
        if problem and (possible or problem == CLOSED):
            reason = broken_link(path) if problem == BROKEN else f"{name} is among the {problem}"
            raise ValueError(f"not recognised as labels: {reason}; or pass --unlabelled")
        if problem:
            continue
        if stem and normalise_name(stem) in WHOLE_BODY:
            continue  # an outline of the patient says nothing about organs
        if stem and possible and may_be_labels(path):
            raise ValueError(
                f"not recognised as labels: {name}; name it label{ending}, or {table.names[0]}{ending} if it is the mask of "
                "that organ, or pass --unlabelled"
            )
        if not stem and is_unread_label_file(path, known):
            raise ValueError(
                f"not recognised as labels: {name}; write it as NIfTI or NRRD and name it label.nii.gz, or pass --unlabelled"
            )
        if not stem and (modality := label_modality(path)):
            raise ValueError(
                f"not recognised as labels: {name} is a DICOM {modality}, which refers to DICOM images; give these "
                "with --layout dicom, or write it as label.nii.gz, or pass --unlabelled"
            )


def _names(paths: Sequence[Path], most: int = 4) -> str:
    names = " and ".join(path.name for path in paths[:most])
    return names + (f" and {len(paths) - most} more" if len(paths) > most else "")


# -------------------------------------------------------------------------------------------------- the pool


def _run(
    jobs: Sequence[_Job], n_processes: int, show_progress: bool
) -> Iterator[tuple[_Job, _Failed | list[str] | None]]:
    """Each job with its outcome, as they finish: why it failed, None if nothing was to do, else its warnings."""
    from tqdm import tqdm

    with tqdm(total=len(jobs), desc="convert", unit="case", disable=not show_progress) as bar:
        if n_processes == 1 or not jobs:
            for job in jobs:
                with step(OTHER, case=job.case.identifier):
                    outcome = _convert_case(job)
                yield job, outcome
                bar.update()
            return
        lost = []
        for job, outcome in run_in_processes(_convert_case, jobs, n_processes):
            if outcome is KILLED:
                lost.append(job)
                continue
            yield job, outcome
            bar.update()
        for job in lost:  # a killed process takes its neighbours along; alone, each shows whose fault it was
            ((_, outcome),) = run_in_processes(_convert_case, [job], 1)
            if outcome is KILLED:
                outcome = _Failed("its process was killed, probably out of memory; convert with -np 1 or more memory")
            yield job, outcome
            bar.update()


# -------------------------------------------------------------------------------------------------- one case


def _convert_case(job: _Job) -> _Failed | list[str] | None:
    """Convert one case if needed. What an earlier run made of it stays until the new files are complete."""
    case, dataset = job.case, job.dataset
    partial = dataset / ".partial" / case.identifier
    earlier = _read_json(dataset / "provenance" / f"{case.identifier}.json") or {}
    hashes: dict[str, str] = {}
    try:
        hashes = {name: _sha256(path) for name, path in case.inputs().items()}
        fingerprint = _fingerprint(case, job.settings, hashes)
        if _is_done(dataset, case, fingerprint) and (
            not job.preview or (dataset / PREVIEWS / case.identifier).is_dir()
        ):
            return None
        replaced = _check_earlier(job, hashes, earlier)
        partial.mkdir(parents=True, exist_ok=True)
        files, provenance = _build(job, partial)
        provenance["warnings"] += replaced
        provenance = {
            "case": case.name,
            "identifier": case.identifier,
            "fingerprint": fingerprint,
            "source": job.source,
            "inputs_sha256": hashes,
            "outputs": sorted(files),
            "options": job.settings.as_dict(),
            "versions": _versions(),
            **provenance,
        }
        write_json(provenance, partial / "provenance.json")
        _remove_case(dataset, case.identifier)
        try:
            _move_case(job, partial, files)
        except BaseException:
            _remove_case(dataset, case.identifier)
            raise
        return provenance["warnings"]
    except Exception as error:  # one case must not stop the others
        changed = hashes != earlier.get("inputs_sha256")
        outdated = changed and isinstance(error, ValueError) and not isinstance(error, _OtherCase)
        return _Failed(case.public(in_one_line(error)), outdated)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_case(job: _Job, partial: Path, files: Sequence[str]) -> None:
    """Move a complete case into the dataset, its provenance last."""
    dataset, identifier = job.dataset, job.case.identifier
    if job.preview:
        (dataset / PREVIEWS).mkdir(exist_ok=True)
        (partial / PREVIEWS).rename(dataset / PREVIEWS / identifier)
    for file in files:
        (dataset / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / Path(file).name if not file.startswith("labels") else partial / "label" / Path(file).name,
                   dataset / file)  # fmt: skip
    (dataset / "provenance").mkdir(exist_ok=True)
    os.replace(partial / "provenance.json", dataset / "provenance" / f"{identifier}.json")


def _check_earlier(job: _Job, hashes: Mapping[str, str], earlier: Mapping) -> list[str]:
    """Refuse to replace another source's case of the same name; a warning if the same source now has other files.

    It is the same case if one of its images is among the files it was converted from before, wherever they lay then.

    Raises:
        _OtherCase: If neither a file nor the source is the same.
    """
    case, dataset = job.case, job.dataset
    labels = case.roles()["labels"]
    drawn = {file for files in labels.values() for file in files} if isinstance(labels, Mapping) else {labels}
    # Masks without the organ and headers apart from their voxels can be equal for two patients.
    images = {sha for name, sha in hashes.items() if Path(name).name not in drawn and not name.endswith(HEADERS)}
    if not earlier.get("inputs_sha256") or not images.isdisjoint(earlier["inputs_sha256"].values()):
        return []
    if earlier.get("source") != job.source:
        raise _OtherCase(
            f"{dataset.name} holds a case {case.identifier!r} that was converted from other images in another folder; "
            f"rename this case (DICOM: convert both folders in one run), or delete provenance/{case.identifier}.json there "
            "to replace the earlier one"
        )
    return ["all its images have changed since the earlier conversion, which it replaces: check that it is one patient"]


def _build(job: _Job, partial: Path) -> tuple[list[str], dict]:
    """Write a case's channels and labels below `partial`; names of the files in the dataset, and the record."""
    case, settings = job.case, job.settings
    warnings: list[str] = []
    labels = counts = None
    with collected_notes(warnings):
        with step("read"):
            read = case.read_images(warnings)
        images = {modality: image for modality, (image, _) in read.items()}
        check_images(images)
        name = reference_channel(list(images))
        reference = to_canonical(images[name])
        if case.has_labels:
            with step("labels"):
                labels, counts = _labels(
                    case, images, reference, settings.table, warnings, registered=settings.channels.register
                )
    organs = None if labels is None else sitk.GetArrayFromImage(labels)
    channels = prepare_channels(
        images,
        settings.channels,
        keep=None if organs is None else organs > 0,
        same_frame=case.same_frame(),
    )
    warnings += channels.warnings
    if organs is not None:
        _check_organs_covered(organs, channels.fields_of_view, settings.table, warnings)
    files = []
    with step("write"):
        for number, image in enumerate(channels.images.values()):
            file = f"images{_split(case)}/{case.identifier}_{number:04d}{FILE_ENDING}"
            write_image(image, partial / Path(file).name)
            files.append(file)
        if labels is not None:
            file = f"labels{_split(case)}/{case.identifier}{FILE_ENDING}"
            (partial / "label").mkdir(exist_ok=True)
            write_image(labels, partial / "label" / Path(file).name)
            files.append(file)
    if job.preview:
        try:
            with step("pictures"):
                draw_previews(case.identifier, partial / PREVIEWS, originals=images, channels=channels, labels=organs,
                              label_values=settings.table.values, pairs=settings.table.pairs)  # fmt: skip
        except Exception as error:  # a picture is no reason to lose a case
            warnings.append(f"not all pictures could be drawn: {in_one_line(error)}")
    record = {
        "channels": {
            modality: {
                "file": read[modality][1],
                "size": list(image.GetSize()),
                "spacing_mm": [round(mm, 6) for mm in image.GetSpacing()],
                "orientation": orientation_code(image),
                "direction": [round(cosine, 8) for cosine in image.GetDirection()],
                **channels.record[modality],
            }
            for modality, image in images.items()
        },
        "reference_channel": name,
        "label_voxels": counts,
        "ignored_files": case.ignored,
        "files": case.files.as_dict(),
        "warnings": warnings,
    }
    return files, record


def _labels(
    case: Case,
    images: Mapping[str, sitk.Image],
    reference: sitk.Image,
    table: LabelTable,
    warnings: list[str],
    *,
    registered: bool,
) -> tuple[sitk.Image, dict]:
    """Label map on the reference's grid, and voxels per organ in the files and in the map."""
    drawn, before = case.read_labels(images, table, warnings)
    canonical = to_canonical(drawn)
    if same_grid(canonical, reference):
        canonical.CopyInformation(reference)
        labels = canonical
    else:
        others = {modality: to_canonical(image) for modality, image in images.items()}
        owner = next((m for m, image in others.items() if same_grid(canonical, image)), None)
        if owner is None:
            raise ValueError(
                f"labels do not lie on the grid of a channel (within {grid_tolerance_mm(canonical, reference):g} mm): "
                f"{grid_difference(canonical, reference)}; export them on the grid of the {reference_channel(list(images))}"
            )
        if registered:
            raise ValueError(
                f"labels are drawn on the grid of {owner}, which --register moves; draw them on the "
                f"{reference_channel(list(images))}, or convert without --register"
            )
        labels = resample_labels(canonical, reference)
        warnings.append(f"labels are drawn on the grid of {owner} and were resampled: {describe_grid(canonical)}")
        _report_cut_labels(canonical, labels, table, warnings)
    array = sitk.GetArrayViewFromImage(labels)
    after = _counts(array, table)
    for organ, n in before.items():
        if n and not after[organ]:
            raise ValueError(f"{organ} has {n} voxels as drawn and none on the grid of the images; check where it lies")
    missing = [organ for organ, n in after.items() if not n]
    if missing:
        warnings.append(f"no voxel is labelled {', '.join(missing)}: nnU-Net will learn that it is not there")
    _check_sides(array, table, warnings)
    values = sitk.GetArrayViewFromImage(reference)
    in_hu = is_ct(reference_channel(list(images))) and values.min() <= -500
    spacing_mm = reference.GetSpacing()[::-1]
    warnings += check_organs(array, table.values, spacing_mm=spacing_mm, ct_hu=values if in_hu else None)
    pixel = sitk.sitkUInt8 if len(table.names) < 256 else sitk.sitkUInt16
    return sitk.Cast(labels, pixel), {"before": before, "after": after}


def _report_cut_labels(drawn: sitk.Image, labels: sitk.Image, table: LabelTable, warnings: list[str]) -> None:
    """Warn where resampling changed an organ's volume by more than a tenth: cut at the border, or finer than a voxel."""
    voxel = [float(np.prod(image.GetSpacing())) for image in (drawn, labels)]
    before, after = (_counts(sitk.GetArrayViewFromImage(image), table) for image in (drawn, labels))
    for organ in table.names:
        volume = before[organ] * voxel[0], after[organ] * voxel[1]
        if volume[0] and abs(volume[1] / volume[0] - 1) > 0.1:
            warnings.append(f"{organ} went from {volume[0]:.0f} to {volume[1]:.0f} mm3 on the grid of the images")


def _counts(array: np.ndarray, table: LabelTable) -> dict[str, int]:
    counts = np.bincount(array.ravel().astype(np.intp), minlength=len(table.names) + 1)
    return {organ: int(counts[value]) for organ, value in table.values.items()}


def _label_map(case: _Case, table: LabelTable) -> tuple[sitk.Image, dict[str, int]]:
    path = case.label_files[None][0]
    image, odd = label_map_of(read_image(path))
    values = np.unique(sitk.GetArrayViewFromImage(image)).tolist()
    if not any(values) and not odd:
        raise ValueError(
            f"{path.name} is an empty label map: every voxel is 0; leave it out, or export the labels again"
        )
    known = {0, *table.values.values()}
    if wrong := [*odd, *(value for value in values if value not in known)]:
        raise ValueError(
            f"label value {shown_values(wrong)} in {path.name} is not in the label table "
            f"({', '.join(f'{v} {organ}' for organ, v in table.values.items())}); pass a table with --labels"
        )
    image = sitk.Cast(image, sitk.sitkUInt16)
    return image, _counts(sitk.GetArrayViewFromImage(image), table)


def _merged_masks(case: _Case, table: LabelTable, warnings: list[str]) -> tuple[sitk.Image, dict[str, int]]:
    """One label map from one mask per organ; see the module's docstring for overlaps."""
    grid, first = None, ""
    masks: dict[str, np.ndarray] = {}
    for organ in table.names:
        drawn: dict[str, np.ndarray] = {}
        for path in case.label_files.get(organ, ()):
            image = read_image(path)
            if grid is None:
                grid, first = image, path.name
            elif not same_grid(image, grid):
                image = to_canonical(image)
                if not same_grid(image, to_canonical(grid)):
                    raise ValueError(
                        f"masks {path.name} and {first} lie on different grids: {grid_difference(image, to_canonical(grid))}"
                    )
                image = sitk.DICOMOrient(image, orientation_code(grid))
            array = sitk.GetArrayViewFromImage(image)
            values = np.unique(array)
            if values.size > 2:  # what scaling and resampling left of whole numbers
                array, odd = whole_labels(array)
                values = values if odd else np.unique(array)
            if values.size > 2 or (values.size == 2 and values[0] != 0):
                raise ValueError(f"mask {path.name} of {organ} holds {values.size} values, {shown_values(values.tolist())}; "
                                 "a mask has 0 and one other")  # fmt: skip
            name = _drawn_name(path, table, _names_of_case(case.folder, case.images.values()))
            drawn[name] = drawn.get(name, np.zeros(array.shape, dtype=bool)) | (array != 0)
        if drawn:
            masks[organ] = unite_parts(organ, drawn, table)
    return merge_masks(masks, grid, table, warnings)


def _check_sides(array: np.ndarray, table: LabelTable, warnings: list[str]) -> None:
    """Warn where a left organ lies to the right of its partner: swapped names or a flipped image. x runs to the left."""
    names = list(table.names)
    for left, right in pair_values(table.pairs, table.values):
        x = [np.nonzero((array == value).any(axis=(0, 1)))[0] for value in (left, right)]
        if x[0].size and x[1].size and x[0].mean() < x[1].mean():
            warnings.append(f"{names[left - 1]} lies to the right of {names[right - 1]}: are the sides swapped?")


def _check_organs_covered(
    organs: np.ndarray, fields_of_view: Mapping[str, np.ndarray], table: LabelTable, warnings: list[str]
) -> None:
    for modality, inside in fields_of_view.items():
        total = np.bincount(organs.ravel(), minlength=len(table.names) + 1)
        outside = np.bincount(organs[~inside], minlength=len(table.names) + 1)
        for organ, value in table.values.items():
            if not outside[value]:
                continue
            share = outside[value] / total[value]
            if share > LARGEST_ORGAN_SHARE_OUTSIDE:
                raise ValueError(
                    f"{share:.0%} of {organ} lies outside the field of view of {modality}; register {modality}, or leave "
                    "it out with --modalities"
                )
            warnings.append(f"{share:.0%} of {organ} lies outside the field of view of {modality}")


# -------------------------------------------------------------------------------------- files of the dataset


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def _hashed_source(source: Path, dataset: Path) -> str:
    """Tells sources of one dataset apart without saying where they lay; slow to compute, so that paths can't be guessed."""
    path = os.path.normcase(source.resolve())
    return hashlib.pbkdf2_hmac("sha256", path.encode(errors="surrogateescape"), dataset.name.encode(), 100_000).hex()


def _fingerprint(case: Case, settings: _Settings, hashes: Mapping[str, str]) -> str:
    """Hash of all that decides what a case's files hold and where they go."""
    content = {
        "format": FORMAT,
        "split": _split(case),
        "options": settings.as_dict(),
        "files": dict(hashes),
        **case.roles(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=False).encode()).hexdigest()


def _is_done(dataset: Path, case: Case, fingerprint: str) -> bool:
    provenance = _read_json(dataset / "provenance" / f"{case.identifier}.json")
    if not provenance or provenance.get("fingerprint") != fingerprint:
        return False
    return all((dataset / file).is_file() for file in provenance.get("outputs", ("missing",)))


def _remove_case(dataset: Path, identifier: str) -> None:
    """Remove a case's files wherever an earlier run put them, its provenance first."""
    (dataset / "provenance" / f"{identifier}.json").unlink(missing_ok=True)
    shutil.rmtree(dataset / PREVIEWS / identifier, ignore_errors=True)
    for split in ("Tr", "Ts"):
        (dataset / f"labels{split}" / f"{identifier}{FILE_ENDING}").unlink(missing_ok=True)
        for path in (dataset / f"images{split}").glob(f"{identifier}_[0-9][0-9][0-9][0-9]{FILE_ENDING}"):
            path.unlink()


def _remove_empty_folders(dataset: Path) -> None:
    """Remove what is empty in a dataset; its owner removes the dataset itself."""
    if not dataset.is_dir():
        return
    for folder in [path for path in dataset.iterdir() if path.is_dir()]:
        if not any(folder.iterdir()):
            folder.rmdir()


def _write_dataset_json(dataset: Path, name: str, settings: _Settings) -> None:
    """`dataset.json` for the cases that are there; removed where there is none."""
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    n_training = len(list((dataset / "labelsTr").glob(f"*{FILE_ENDING}")))
    if not n_training and not any((dataset / "imagesTs").glob(f"*{FILE_ENDING}")):
        (dataset / "dataset.json").unlink(missing_ok=True)
        return
    partial = dataset / ".partial"
    partial.mkdir(exist_ok=True)
    generate_dataset_json(
        str(partial),
        channel_names=dict(enumerate(settings.modalities)),
        labels=settings.table.dataset_labels,
        num_training_cases=n_training,
        file_ending=FILE_ENDING,
        dataset_name=name,
        overwrite_image_reader_writer=READER,
        license="not stated",
        converted_by=f"nnunet_ext {_versions()['nnunet_ext']}",
        nnunet_ext={**settings.as_dict(), "versions": _versions()},
        **settings.table.side_entries,
    )
    os.replace(partial / "dataset.json", dataset / "dataset.json")


def _write_page(dataset: Path, failed: Mapping[str, str], settings: _Settings, files: FileCount) -> None:
    """`conversion.html` for the cases that are there, those of earlier runs too."""
    records = [_read_json(path) for path in sorted((dataset / "provenance").glob("*.json"))]
    if any(records):
        write_conversion_page(
            dataset,
            cases=[record for record in records if record],
            failed=failed,
            label_names=settings.table.names,
            files=files,
        )
    else:
        (dataset / PAGE).unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"

    return {
        "nnunet_ext": installed("nnunet-ext"),
        "nnunetv2": installed("nnunetv2"),
        "SimpleITK": sitk.Version_VersionString(),
        "numpy": np.__version__,
    }


def _read_json(path: Path) -> dict | None:
    try:
        return read_json(path, _RECORD)
    except (OSError, ValueError):
        return None
