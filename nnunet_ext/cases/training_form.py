"""New cases in the form of the training images, as the `dataset.json` of these records it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.cleaning.ct import hu_problem
from nnunet_ext.images.channels import is_ct
from nnunet_ext.images.geometry import grid_difference, same_grid

if TYPE_CHECKING:  # it needs torch, which few cases do
    from nnunet_ext.superresolution.weights import LearnedResampling


def recorded_options(dataset_json: Mapping[str, Any]) -> ChannelOptions:
    """Options by which `nnunet_ext convert` made the training images.

    Raises:
        ValueError: If they were not made by `nnunet_ext convert`.
    """
    recorded = dataset_json.get("nnunet_ext")
    if recorded is None:
        raise ValueError(
            "the model's dataset.json holds no conversion options: its images were not made by nnunet_ext convert. "
            "Bring yours to the same form and name them <case>_0000, <case>_0001, ..."
        )
    return ChannelOptions(**{f.name: recorded[f.name] for f in fields(ChannelOptions) if f.name in recorded})


def learned_resampling(options: ChannelOptions | None, folders: Iterable[Path]) -> LearnedResampling | None:
    """The learned resampling that the options name, or None if they name none.

    Args:
        options: Of the training images.
        folders: Where it may lie: the data set's raw folder, and the model's.

    Raises:
        FileNotFoundError: If it lies in none of them. The message names them.
        ValueError: If it is damaged.
    """
    if options is None or options.learned_resampling is None:
        return None
    from nnunet_ext.superresolution.weights import RECORD_FILE, WEIGHTS_FILE

    looked = []
    for folder in folders:
        file = folder / WEIGHTS_FILE
        looked.append(str(folder))
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == options.learned_resampling:
            return _read_learned(file, options.learned_resampling)
    raise FileNotFoundError(
        f"the training images got thin slices by a learned resampling, whose weights (SHA-256 "
        f"{options.learned_resampling[:12]}...) are not in {', '.join(looked)}. Copy {WEIGHTS_FILE} and {RECORD_FILE} "
        f"from the data set's folder in nnUNet_raw to {looked[0]}"
    )


@lru_cache(maxsize=2)
def _read_learned(file: Path, _sha256: str) -> LearnedResampling:
    from nnunet_ext.superresolution.weights import read_learned_resampling

    return read_learned_resampling(file)


def refuse_non_hu(images: Mapping[str, sitk.Image], recorded: Mapping[str, Any], *, remedy: str) -> None:
    """Refuse a CT that is not in HU, if those of the training images were and had no window.

    Args:
        images: Channel -> image in the form of the training images.
        recorded: Conversion options of these, as `dataset.json` holds them.
        remedy: What helps, for the message.

    Raises:
        ValueError: Naming what is wrong with the values.
    """
    if recorded.get("allow_non_hu") or recorded.get("window_hu") is not None:
        return
    for channel, image in images.items():
        if is_ct(channel) and (problem := hu_problem(image)) is not None:
            raise ValueError(f"{problem}; {remedy}")


def check_one_grid(images: Mapping[str, sitk.Image]) -> None:
    """Refuse channels on several grids.

    Raises:
        ValueError: Naming two channels and how their grids differ.
    """
    first, *others = images
    for channel in others:
        if not same_grid(images[channel], images[first]):
            raise ValueError(
                f"{channel} and {first} lie on different grids: {grid_difference(images[channel], images[first])}. "
                "Convert the case with nnunet_ext convert, or give it as a folder with one image per channel."
            )
