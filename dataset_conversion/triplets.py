"""Folders of NIfTI, NRRD or MetaImage files, one folder per case, to nnU-Net's raw format.

A case folder holds one image per channel (`CT.nii.gz`, `patient7_T1.nrrd`) and, for training, one label map
(`label.nii.gz`, values in the order of the label table) or one mask per organ (`Lens_L.nii.gz`, beside the images or
in `masks/` or `structures/`). Each case is written as a whole or not at all, and again only when its files or the
options change.

Several files may name one organ and are united; `organ_masks` settles overlaps. Files that the label table does not know
are left out and listed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from nnunet_ext import dicom_cases
from nnunet_ext.channels import ChannelOptions, prepare_channels, reference_channel
from nnunet_ext.cleaning import is_ct
from nnunet_ext.geometry import (
    CANONICAL,
    GRID_TOLERANCE_MM,
    describe_grid,
    grid_difference,
    orientation_code,
    resample_labels,
    same_grid,
    to_canonical,
)
from nnunet_ext.image_checks import check_images
from nnunet_ext.image_io import find_channel_files, image_files, image_stem, read_image, write_image
from nnunet_ext.labels import LabelTable, default_label_table, left_right_pairs, load_label_table
from nnunet_ext.organ_masks import merge_masks
from nnunet_ext.organ_volumes import check_organs
from nnunet_ext.preview import FOLDER as PREVIEWS
from nnunet_ext.preview import PAGE, draw_previews, write_conversion_page
from nnunet_ext.registration import RegistrationOptions

log = logging.getLogger(__name__)

FILE_ENDING = ".nii.gz"
#: nnU-Net's reader that turns any image to RAS on reading and writes the result back on the image's own grid.
READER = "NibabelIOWithReorient"
LABEL_MAP_NAMES = ("label", "labels", "seg", "segmentation", "labelmap")
MASK_FOLDERS = ("masks", "mask", "structures", "segmentations")
#: An organ with more than this share beyond a channel's field of view fails the case.
LARGEST_ORGAN_SHARE_OUTSIDE = 0.5
#: Raised when the same input and options give other files than before: cases are then converted again.
FORMAT = 3


@dataclass
class ConversionSummary:
    """What `convert` did.

    Attributes:
        dataset_folder: `nnUNet_raw/DatasetID_NAME`.
        written: Cases converted now.
        skipped: Cases that were there already, from the same files with the same options.
        failed: Case -> reason, one line. Nothing of these cases is in the dataset.
        warnings: Case -> lines worth reading, for the cases written now.
        listing: After a dry run, what would be taken for what.
    """

    dataset_folder: Path
    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    listing: list[str] = field(default_factory=list)


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
    images and not used. No attribute or result that is written or printed may name a patient.
    """

    name: str
    identifier: str
    test: bool
    ignored: list[str]

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
        return _label_map(self, table) if None in self.label_files else _merged_masks(self, table, warnings)

    def describe(self, table: LabelTable) -> list[str]:
        lines = [f"{modality} <- {path.name}" for modality, path in self.images.items()]
        for organ, paths in self.label_files.items():
            lines.append(f"{organ or 'labels'} <- {' + '.join(path.name for path in paths)}")
        if self.label_files and None not in self.label_files:
            lacking = [organ for organ in table.names if organ not in self.label_files]
            lines += [f"no mask of {', '.join(lacking)}"] if lacking else []
        return lines + ([f"left over: {', '.join(self.ignored)}"] if self.ignored else [])

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
        labels_file: TOML label table (`load_label_table`); the seven organs of `ORGANS` if None.
        test_cases: Names of cases that go to `imagesTs` (and `labelsTs`). So do cases without labels.
        layout: `folders`, `dicom`, `hanseg`, or `auto` to look what is there.
        series_file: DICOM only: TOML file that says which series is which channel (see `dicom_cases`).
        key_file: DICOM only: the private file that says which patient each case is; `DatasetID_NAME.key.csv` beside the
            dataset folder if None.
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
        OSError: If the output folder cannot be written.
    """
    source = Path(source)
    layout = find_layout(source) if layout == "auto" else layout
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
            show_progress=show_progress,
        )
        return ConversionSummary(Path(f"Dataset{dataset_id:03d}_{name}"), failed=listing.failed, listing=listing.lines)
    dataset = _dataset_folder(raw_folder, dataset_id, name)
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}; at least 1 is needed")
    if key_file is None:
        key_file = dataset.with_name(f"{dataset.name}.key.csv")
    if layout == "dicom":
        numbered = any((dataset / "provenance").glob("case_*.json"))
        dicom_cases.check_key(Path(key_file), dataset, numbered=numbered)
    gathered = _gather(source, layout, settings, test_cases, series_file, Path(key_file), show_progress)

    summary = ConversionSummary(dataset, failed=dict(gathered.failed))
    _check_other_cases(dataset, set(gathered.identifiers.values()), settings)
    _check_writable(dataset)
    if layout == "dicom":
        dicom_cases.write_key(gathered.key_rows, Path(key_file))
    jobs = [_Job(case, settings, dataset, preview) for case in gathered.cases]
    for line in gathered.leftover:
        log.info(line)

    try:
        for job, outcome in _run(jobs, n_processes, show_progress):
            case_name = job.case.name
            if isinstance(outcome, str):
                summary.failed[case_name] = outcome
            elif outcome is None:
                summary.skipped.append(case_name)
            else:
                summary.written.append(case_name)
                if outcome:
                    summary.warnings[case_name] = outcome
        for failed in summary.failed:
            if failed in gathered.identifiers:
                _remove_case(dataset, gathered.identifiers[failed])
        _write_dataset_json(dataset, name, settings)
        _write_page(dataset, summary.failed, settings)
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
    """What `convert` would do: lines to print, and case -> why it cannot be converted."""

    lines: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def list_cases(
    source: Path,
    *,
    modalities: Sequence[str] | None = None,
    labels_file: Path | None = None,
    test_cases: Sequence[str] = (),
    layout: str = "auto",
    series_file: Path | None = None,
    key_file: Path | None = None,
    show_progress: bool = True,
) -> Listing:
    """What `convert` would take for what, what is left over and which case lacks what; headers are read, nothing is written.

    Arguments and errors as for `convert`. Without `key_file`, the numbers of DICOM cases are those of a first conversion.
    """
    source = Path(source)
    layout = find_layout(source) if layout == "auto" else layout
    settings = _Settings(
        _checked_modalities(_default_modalities(layout) if modalities is None else modalities),
        _label_table(layout, labels_file),
        ChannelOptions(),
    )
    gathered = _gather(source, layout, settings, test_cases, series_file, key_file, show_progress)
    lines = []
    for case in gathered.cases:
        labels = f" + labels{_split(case)}" if case.has_labels else ""
        lines.append(f"{case.name} -> images{_split(case)}{labels}")
        lines += [f"  {line}" for line in case.describe(settings.table)]
    lines += [f"{name} -> nothing: {reason}" for name, reason in sorted(gathered.failed.items())]
    lines += gathered.leftover
    n = len(gathered.cases) + len(gathered.failed)
    lines.append(f"{n} cases ({layout}): {len(gathered.cases)} to convert, {len(gathered.failed)} not")
    return Listing(lines, gathered.failed)


@dataclass
class _Gathered:
    """What a source holds. `identifiers`: nnU-Net's name of every case, also of those that failed."""

    cases: list[Case] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    identifiers: dict[str, str] = field(default_factory=dict)
    leftover: list[str] = field(default_factory=list)
    key_rows: list[dict[str, str]] = field(default_factory=list)


def find_layout(source: Path) -> str:
    """`hanseg`, `folders` or `dicom`, by what a folder holds; `folders` where nothing is recognised."""
    from nnunet_ext.dataset_conversion import hanseg  # the one place that knows all kinds of source
    from nnunet_ext.dicom_series import has_dicom

    if not source.is_dir():
        return "folders"
    if hanseg.is_hanseg(source):
        return "hanseg"
    if any(image_stem(path) for path in source.glob("*/*") if path.is_file()):
        return "folders"
    return "dicom" if has_dicom(source) else "folders"


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
            show_progress=show_progress,
        )
        gathered = _Gathered(list(found.cases), found.failed, {}, found.leftover, found.key_rows)
        gathered.identifiers = {case.name: case.identifier for case in found.cases}
        gathered.identifiers |= {name: name for name in found.failed}
    else:
        folders = hanseg.case_folders(source) if layout == "hanseg" else _case_folders(source)
        identifiers = _identifiers(folders, gathered.failed)
        gathered.identifiers = {folder.name: identifier for folder, identifier in identifiers.items()}
        for folder in folders:
            if folder.name in gathered.failed:
                continue
            test = folder.name in test_cases
            try:
                if layout == "hanseg":
                    images = hanseg.find_images(folder, settings.modalities)
                    masks, ignored = hanseg.find_masks(folder, settings.table)
                    notes = (hanseg.NOTE,) if len(images) > 1 and not settings.channels.register else ()
                    case = _Case(folder, identifiers[folder], test, images, masks, ignored, notes)
                else:
                    case = _find_case(folder, identifiers[folder], test, settings)
                gathered.cases.append(case)
            except (ValueError, OSError) as error:
                gathered.failed[folder.name] = _reason(error)
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
    if not low < high:
        raise ValueError(f"window {low:g}..{high:g} HU is empty; give the lower end first, e.g. -160 240")
    return low, high


def _dataset_folder(raw_folder: Path | None, dataset_id: int, name: str) -> Path:
    if raw_folder is None:
        if not os.environ.get("nnUNet_raw"):  # noqa: SIM112 nnU-Net's own spelling
            raise ValueError(
                "nnUNet_raw is not set: say where raw datasets go, e.g. export nnUNet_raw=$HOME/nnUNet_raw"
            )
        raw_folder = Path(os.environ["nnUNet_raw"])  # noqa: SIM112
    raw_folder = Path(raw_folder)
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


def _case_folders(source: Path) -> list[Path]:
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder; give the folder that holds one folder per case")
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        loose = any(image_stem(path) for path in source.iterdir())
        hint = "it holds images; put each case into a folder of its own" if loose else "it holds no folder"
        raise ValueError(f"{source} has no cases: {hint}")
    return folders


def _identifiers(folders: Sequence[Path], failed: dict[str, str]) -> dict[Path, str]:
    """nnU-Net's case name per folder; folders that would share one are put into `failed`."""
    identifiers = {folder: re.sub(r"[^A-Za-z0-9_-]+", "_", folder.name) for folder in folders}
    groups: dict[str, list[Path]] = {}
    for folder, identifier in identifiers.items():
        groups.setdefault(identifier.casefold(), []).append(folder)
    for group in groups.values():
        if len(group) > 1:
            for folder in group:
                others = " and ".join(repr(other.name) for other in group if other is not folder)
                failed[folder.name] = f"duplicate case name, {others} is the same; rename one"
    return identifiers


def _check_other_cases(dataset: Path, identifiers: set[str], settings: _Settings) -> None:
    """Refuse to mix: cases of an earlier run that this one does not replace must have its channels and labels."""
    for path in sorted((dataset / "provenance").glob("*.json")):
        if path.stem in identifiers:
            continue
        options = (_read_json(path) or {}).get("options", {})
        mine = settings.as_dict()
        if options.get("modalities") != mine["modalities"] or list(options.get("label_table", ())) != list(
            settings.table.names
        ):
            raise ValueError(
                f"{dataset.name} holds case '{path.stem}' with other channels or labels; use another dataset id or "
                "remove that dataset"
            )


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


def _find_case(folder: Path, identifier: str, test: bool, settings: _Settings) -> _Case:
    images = find_channel_files(folder, settings.modalities)
    label_files, ignored = _find_labels(folder, set(images.values()), settings.table)
    return _Case(folder, identifier, test, images, label_files, ignored)


def _find_labels(folder: Path, images: set[Path], table: LabelTable) -> tuple[dict[str | None, list[Path]], list[str]]:
    """Label files of a case and the names of images that are neither channel nor organ."""
    free = [path for path in sorted(folder.iterdir()) if path.is_file() and image_stem(path) and path not in images]
    maps = [path for path in free if image_stem(path).lower() in LABEL_MAP_NAMES]
    subfolders = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in MASK_FOLDERS]
    drawn = [path for sub in subfolders for path in sorted(sub.iterdir()) if path.is_file() and image_stem(path)]
    organs: dict[str | None, list[Path]] = {}
    ignored = []
    for path in [*(path for path in free if path not in maps), *drawn]:
        organ = table.organ(image_stem(path))
        if organ is None:
            ignored.append(path.relative_to(folder).as_posix())
        else:
            organs.setdefault(organ, []).append(path)
    for organ, paths in organs.items():
        stems = [image_stem(path).casefold() for path in paths]
        if len(set(stems)) != len(stems):
            raise ValueError(f"organ {organ} has the same file twice, {_names(paths)}; keep one")
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


def _names(paths: Sequence[Path], most: int = 4) -> str:
    names = " and ".join(path.name for path in paths[:most])
    return names + (f" and {len(paths) - most} more" if len(paths) > most else "")


# -------------------------------------------------------------------------------------------------- the pool


def _run(jobs: Sequence[_Job], n_processes: int, show_progress: bool) -> Iterable[tuple[_Job, str | list[str] | None]]:
    """Each job with its outcome, as they finish: the reason it failed, None if nothing was to do, else its warnings."""
    from tqdm import tqdm

    with tqdm(total=len(jobs), desc="convert", unit="case", disable=not show_progress) as bar:
        if n_processes == 1 or not jobs:
            for job in jobs:
                yield job, _convert_case(job)
                bar.update()
            return
        lost = []
        for job, outcome in _run_pool(jobs, min(n_processes, len(jobs))):
            if outcome is _LOST:
                lost.append(job)
                continue
            yield job, outcome
            bar.update()
        for job in lost:  # a killed process takes its neighbours along; alone, each shows whose fault it was
            outcome = next(iter(_run_pool([job], 1)))[1]
            if outcome is _LOST:
                outcome = "its process was killed, probably out of memory; convert with -np 1 or more memory"
            yield job, outcome
            bar.update()


_LOST = object()


def _run_pool(jobs: Sequence[_Job], n_processes: int) -> Iterable[tuple[_Job, object]]:
    context = multiprocessing.get_context("spawn")  # forking a process that has threads (ITK, torch) can hang
    pool = ProcessPoolExecutor(n_processes, mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(_convert_case, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], _LOST
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the cases are what runs in parallel


# -------------------------------------------------------------------------------------------------- one case


def _convert_case(job: _Job) -> str | list[str] | None:
    """Convert one case if needed; returns the reason where that fails."""
    case, dataset = job.case, job.dataset
    partial = dataset / ".partial" / case.identifier
    try:
        hashes = {name: _sha256(path) for name, path in case.inputs().items()}
        fingerprint = _fingerprint(case, job.settings, hashes)
        if _is_done(dataset, case, fingerprint) and (
            not job.preview or (dataset / PREVIEWS / case.identifier).is_dir()
        ):
            return None
        _remove_case(dataset, case.identifier)
        partial.mkdir(parents=True, exist_ok=True)
        files, provenance = _build(job, partial)
        provenance = {
            "case": case.name,
            "identifier": case.identifier,
            "fingerprint": fingerprint,
            "inputs_sha256": hashes,
            "outputs": sorted(files),
            "options": job.settings.as_dict(),
            "versions": _versions(),
            **provenance,
        }
        if job.preview:
            (dataset / PREVIEWS).mkdir(exist_ok=True)
            (partial / PREVIEWS).rename(dataset / PREVIEWS / case.identifier)
        for file in files:
            (dataset / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial / Path(file).name if not file.startswith("labels") else partial / "label" / Path(file).name,
                       dataset / file)  # fmt: skip
        _write_json(provenance, dataset / "provenance" / f"{case.identifier}.json")
        return provenance["warnings"]
    except Exception as error:  # one case must not stop the others
        _remove_case(dataset, case.identifier)
        if isinstance(error, (ValueError, OSError)):
            return case.public(_reason(error))
        log.debug("case '%s'", case.name, exc_info=case.public(str(error)) == str(error))
        return case.public(f"{type(error).__name__}: {_reason(error)}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _build(job: _Job, partial: Path) -> tuple[list[str], dict]:
    """Write a case's channels and labels below `partial`; names of the files in the dataset, and the record."""
    case, settings = job.case, job.settings
    warnings: list[str] = []
    read = case.read_images(warnings)
    images = {modality: image for modality, (image, _) in read.items()}
    check_images(images)
    name = reference_channel(list(images))
    reference = to_canonical(images[name])
    labels = counts = None
    if case.has_labels:
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
            draw_previews(case.identifier, partial / PREVIEWS, originals=images, channels=channels, labels=organs,
                          label_values=settings.table.values)  # fmt: skip
        except Exception as error:  # a picture is no reason to lose a case
            warnings.append(f"not all pictures could be drawn: {type(error).__name__}")
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
                f"labels do not lie on the grid of a channel (within {GRID_TOLERANCE_MM} mm): "
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
    image = read_image(path)
    array = sitk.GetArrayViewFromImage(image)
    values = np.unique(array)
    if not values.any():
        raise ValueError(
            f"{path.name} is an empty label map: every voxel is 0; leave it out, or export the labels again"
        )
    known = {0, *table.values.values()}
    wrong = [f"{value:g}" for value in values if float(value) not in known]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"label value {', '.join(wrong[:5])}{more} in {path.name} is not in the label table "
            f"({', '.join(f'{v} {organ}' for organ, v in table.values.items())}); pass a table with --labels"
        )
    image = sitk.Cast(image, sitk.sitkUInt16)
    return image, _counts(sitk.GetArrayViewFromImage(image), table)


def _merged_masks(case: _Case, table: LabelTable, warnings: list[str]) -> tuple[sitk.Image, dict[str, int]]:
    """One label map from one mask per organ; see the module's docstring for overlaps."""
    grid, first = None, ""
    masks: dict[str, np.ndarray] = {}
    for organ in table.names:
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
            if values.size > 2 or (values.size == 2 and values[0] != 0):
                raise ValueError(f"mask {path.name} of {organ} holds {values.size} values, {values[0]:g}..{values[-1]:g}; "
                                 "a mask has 0 and one other")  # fmt: skip
            masks[organ] = masks.get(organ, np.zeros(array.shape, dtype=bool)) | (array != 0)
    return merge_masks(masks, grid, table, warnings)


def _check_sides(array: np.ndarray, table: LabelTable, warnings: list[str]) -> None:
    """Warn where a left organ lies to the right of its partner: swapped names or a flipped image. x runs to the left."""
    names = list(table.names)
    for left, right in left_right_pairs(table.values):
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
    if not dataset.is_dir():
        return
    for folder in [*(path for path in dataset.iterdir() if path.is_dir()), dataset]:
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
    )
    os.replace(partial / "dataset.json", dataset / "dataset.json")


def _write_page(dataset: Path, failed: Mapping[str, str], settings: _Settings) -> None:
    """`conversion.html` for the cases that are there, those of earlier runs too."""
    records = [_read_json(path) for path in sorted((dataset / "provenance").glob("*.json"))]
    if any(records):
        write_conversion_page(
            dataset, cases=[record for record in records if record], failed=failed, label_names=settings.table.names
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
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(content: Mapping, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _reason(error: Exception) -> str:
    """An error's message on one line; the case it belongs to is the key it is kept under."""
    return " ".join(str(error).split()) or type(error).__name__
