"""A raw dataset with some of the channels of another, for the same cases, splits and references."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.dataset_conversion.dataset import LEARNED_FILES, dataset_folder_of, keep_learned
from nnunet_ext.files import write_json, written_whole
from nnunet_ext.folder_lock import owned_folder
from nnunet_ext.nnunet_folders import (
    channel_files,
    find_dataset,
    find_label_maps,
    need,
    numbered_files,
    read_dataset_json,
)


def select_channels(source_id: int | str, *, dataset_id: int, name: str, modalities: Sequence[str]) -> tuple[Path, int]:
    """Make a dataset of the images that lie on the grid of another dataset's references, some channels of it.

    Files are hard links to those of the source where the file system has them, so they take no space.

    Args:
        source_id: Number or name of a raw dataset.
        dataset_id, name: Of the new one. One of an earlier run is brought up to date.
        modalities: Names of its channels, in nnU-Net's order.

    Returns:
        The new dataset's folder and its number of cases.

    Raises:
        FileNotFoundError: If the source or an image of it is not there.
        ValueError: If a channel is none of the source's or named twice, or the new id is taken.
    """
    source = find_dataset("nnUNet_raw", source_id, "raw data sets")
    dataset_json = read_dataset_json(source / "dataset.json")
    channels = need(dataset_json, "channel_names", source / "dataset.json")
    numbers = {channel: number for number, channel in channels.items()}
    for modality in modalities:
        if modality not in numbers:
            raise ValueError(f"{source.name} has no channel {modality}; it has {', '.join(numbers)}")
    if len(set(modalities)) < len(modalities) or not modalities:
        raise ValueError(f"name each channel once, and at least one: {' '.join(modalities)}")
    out = dataset_folder_of(None, dataset_id, name)
    if out == source:
        raise ValueError(f"{source.name} is the source: give the new data set another number")
    with owned_folder(out):
        n_cases = 0
        for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
            if not (source / images).is_dir():
                continue
            cases, _ = numbered_files(source / images)
            files = {}
            for case in cases:
                there = channel_files(source / images, case, channels)
                for at, modality in enumerate(modalities):
                    ending = there[modality].name.removeprefix(f"{case}_{int(numbers[modality]):04d}")
                    files[f"{case}_{at:04d}{ending}"] = there[modality]
            _make_equal(files, out / images)
            if (source / labels).is_dir():
                _make_equal({file.name: file for file in find_label_maps(source / labels).values()}, out / labels)
            n_cases += len(cases)
        content = {
            **dataset_json,
            "channel_names": {str(at): modality for at, modality in enumerate(modalities)},
            "name": name,
        }
        if "modalities" in dataset_json.get("nnunet_ext", {}):
            content["nnunet_ext"] = {**dataset_json["nnunet_ext"], "modalities": list(modalities)}
        recorded = dataset_json.get("nnunet_ext", {}).get("learned_resampling")
        learned = [source / file for file in LEARNED_FILES if recorded and (source / file).is_file()]
        keep_learned(out, {file.name: file.read_bytes() for file in learned})
        write_json(content, out / "dataset.json", indent=4)
    return out, n_cases


def _make_equal(files: dict[str, Path], folder: Path) -> None:
    """Make a folder hold these files and no other images: name -> where it is taken from."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name not in files and old.is_file():
            old.unlink()
    for name, source in files.items():
        with written_whole(folder / name) as temporary:
            try:
                os.link(source, temporary)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, temporary)
