"""Files of nnU-Net's raw dataset, those that may be replaced, and its `dataset.json`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.dataset_conversion.conversion_page import FOLDER as PREVIEWS
from nnunet_ext.dataset_conversion.conversion_page import PAGE, write_conversion_page
from nnunet_ext.dataset_conversion.persons import same_person
from nnunet_ext.dataset_conversion.settings import FILE_ENDING, Settings
from nnunet_ext.dataset_conversion.sources import Gathered
from nnunet_ext.files import check_output_folder, read_json, written_whole
from nnunet_ext.images.source_files import FileCount
from nnunet_ext.labels.pairs import MIRROR_KEY, PAIRS_KEY, unclear_sides
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.nnunet_folders import ONE_RANGE_KEY, SAME_PERSON_KEY

log = logging.getLogger(__name__)

#: nnU-Net's reader that turns any image to RAS on reading and writes the result back on the image's own grid.
READER = "NibabelIOWithReorient"
#: Folder for what is not complete yet.
PARTIAL = ".partial"
#: How long to wait for a list of a folder to be a new one.
LISTED_S = 90.0
#: In a dataset's folder if a learned resampling brought its images onto one grid.
LEARNED_FILES = ("learned_resampling.npz", "learned_resampling.json")
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


def side_warnings(table: LabelTable, dataset: Path | None = None) -> list[str]:
    """Left and right names that planning will refuse, and lines of an earlier `dataset.json` that the table lacks."""
    stated = table.side_entries
    unclear = None if stated else unclear_sides(table.names)
    warnings = [f"planning will refuse these labels: {unclear}"] if unclear else []
    if dataset is None:
        return warnings
    before: dict = {}
    with contextlib.suppress(OSError, ValueError):  # none yet, or a damaged one, which is written again
        before = read_json(dataset / "dataset.json", dict)
    lost = {key: before[key] for key in (PAIRS_KEY, MIRROR_KEY) if key in before and key not in stated}
    warnings += [
        f"{dataset.name}/dataset.json had {key} = {json.dumps(value, ensure_ascii=False)}, which the label table does not "
        "say: it is removed. Write the line above [labels] in the table of --labels to keep it"
        for key, value in lost.items()
    ]
    return warnings


def dataset_folder_of(raw_folder: Path | None, dataset_id: int, name: str) -> Path:
    """Folder of a raw dataset, which need not exist.

    Raises:
        ValueError: If there is no raw folder, the id or name is wrong, or another dataset has the id.
    """
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


def remove_renamed(dataset: Path, identifiers: Mapping[str, str]) -> None:
    """Remove files that an earlier version wrote for these cases under another name, with `_` for letters beyond ASCII."""
    for path in sorted((dataset / "provenance").glob("*.json")):
        case = (read_record(path) or {}).get("case", "")
        if case in identifiers and identifiers[case] != path.stem and path.stem not in identifiers.values():
            remove_case(dataset, path.stem)


def check_other_cases(dataset: Path, identifiers: set[str], settings: Settings, source: str) -> None:
    """Refuse to mix cases. Those of an earlier run that this one does not replace must have its channels and labels."""
    for path in sorted((dataset / "provenance").glob("*.json")):
        record = read_record(path)
        if path.stem in identifiers and (record is None or record.get("source", source) == source):
            continue
        if record is None:
            raise ValueError(
                f"{path} is damaged, so nobody knows which channels and labels case '{path.stem}' has; delete that file and "
                "convert that case again too, or use another dataset id"
            )
        if not is_of_kind(record, settings):
            raise ValueError(
                f"{dataset.name} holds case '{path.stem}' with other channels or labels; use another dataset id or "
                "remove that dataset"
            )


def is_of_kind(record: Mapping, settings: Settings) -> bool:
    """Whether a converted case has these channels and labels."""
    options = record.get("options", {})
    names = list(options.get("label_table", ()))
    return options.get("modalities") == list(settings.modalities) and names == list(settings.table.names)


def outdated_cases(dataset: Path, gathered: Gathered, source: str) -> set[str]:
    """Cases whose files lack something now, so that the result of an earlier run on the same source is wrong.

    Not those of another source, which may be another patient, and not those whose names have become ambiguous.
    """
    names = Counter(identifier.casefold() for identifier in gathered.identifiers.values())
    outdated = set()
    for name in gathered.failed.keys() & gathered.identifiers.keys():
        identifier = gathered.identifiers[name]
        earlier = read_record(dataset / "provenance" / f"{identifier}.json") or {}
        if earlier.get("source") == source and names[identifier.casefold()] == 1:
            outdated.add(name)
    return outdated


def check_writable(dataset: Path) -> None:
    """Make the folder for unfinished cases. OSError in one line if that is impossible."""
    try:
        partial = dataset / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "probe").write_bytes(b"")
    except OSError as error:
        raise type(error)(
            f"cannot write to {dataset}: {error.strerror or error}; choose a folder you may write to"
        ) from error


def remove_case(dataset: Path, identifier: str) -> None:
    """Remove a case's files wherever an earlier run put them, its provenance first."""
    (dataset / "provenance" / f"{identifier}.json").unlink(missing_ok=True)
    shutil.rmtree(dataset / PREVIEWS / identifier, ignore_errors=True)
    for split in ("Tr", "Ts"):
        (dataset / f"labels{split}" / f"{identifier}{FILE_ENDING}").unlink(missing_ok=True)
        for path in (dataset / f"images{split}").glob(f"{identifier}_[0-9][0-9][0-9][0-9]{FILE_ENDING}"):
            path.unlink()


def keep_learned(dataset: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of the learned resampling into a dataset. Those of an earlier conversion go."""
    for name in LEARNED_FILES:
        if name in files:
            with written_whole(dataset / name) as temporary:
                temporary.write_bytes(files[name])
        else:
            (dataset / name).unlink(missing_ok=True)


def remove_empty_folders(dataset: Path) -> None:
    """Remove empty folders of a dataset. Its owner removes the dataset itself."""
    if not dataset.is_dir():
        return
    for folder in [path for path in dataset.iterdir() if path.is_dir()]:
        if not any(folder.iterdir()):
            folder.rmdir()


def wait_until_listed(dataset: Path, files: Collection[str]) -> None:
    """Wait until the folders of a dataset list files that are there. A network file system keeps an old list for a minute.

    Raises:
        OSError: If they do not after `LISTED_S`.
    """
    wanted = {str(Path(file).parent): set[str]() for file in files}
    for file in files:
        wanted[str(Path(file).parent)].add(Path(file).name)
    until_s = time.monotonic() + LISTED_S
    while unlisted := [f"{place}/{name}" for place, names in wanted.items()
                       for name in names.difference(os.listdir(dataset / place))]:  # fmt: skip
        if time.monotonic() > until_s:
            raise OSError(f"{dataset} does not list {unlisted[0]}, which is there; run the same command again")
        time.sleep(1.0)


def write_dataset_json(
    dataset: Path, name: str, settings: Settings, persons: Mapping[str, str], identifiers: Mapping[str, str]
) -> None:
    """`dataset.json` for the cases that are there. It is removed if there is none.

    Args:
        dataset: Folder of the dataset.
        name: Of the dataset.
        settings: Of the conversion.
        persons: Case -> person, where that is known.
        identifiers: Case -> nnU-Net's name of it.
    """
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    n_training = len(list((dataset / "labelsTr").glob(f"*{FILE_ENDING}")))
    if not n_training and not any((dataset / "imagesTs").glob(f"*{FILE_ENDING}")):
        (dataset / "dataset.json").unlink(missing_ok=True)
        return
    training, test = (
        {file.name.removesuffix(FILE_ENDING) for file in (dataset / folder).glob(f"*{FILE_ENDING}")}
        for folder in ("labelsTr", "imagesTs")
    )
    test = {case.rpartition("_")[0] for case in test}
    groups = same_person(persons, identifiers, training)
    for group in same_person(persons, identifiers, training | test):
        if training & set(group) and test & set(group):
            shown = ", ".join(group[:4]) + (" ..." if len(group) > 4 else "")
            log.warning("%s are of one person, and some are training cases, others test cases", shown)
    partial = dataset / PARTIAL
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
        converted_by=f"nnunet_ext {versions()['nnunet_ext']}",
        nnunet_ext={**settings.as_dict(), "versions": versions()},
        **settings.table.side_entries,
        **({SAME_PERSON_KEY: groups} if groups else {}),
        **({ONE_RANGE_KEY: True} if settings.one_range else {}),
    )
    os.replace(partial / "dataset.json", dataset / "dataset.json")


def write_page(dataset: Path, failed: Mapping[str, str], settings: Settings, files: FileCount) -> None:
    """`conversion.html` for the cases that are there, those of earlier runs too."""
    records = [read_record(path) for path in sorted((dataset / "provenance").glob("*.json"))]
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


def versions() -> dict[str, str]:
    """Versions of the packages that decide a conversion's result."""

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


def read_record(path: Path) -> dict | None:
    """The provenance of a case, None if it is missing or damaged."""
    try:
        return read_json(path, _RECORD)
    except (OSError, ValueError):
        return None
