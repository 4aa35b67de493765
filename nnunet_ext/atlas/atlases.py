"""Training cases as atlases: one image each, and the labels drawn on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.files import in_one_line
from nnunet_ext.images.channels import is_ct
from nnunet_ext.images.geometry import grid_difference, same_grid, to_canonical
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import channel_files, find_label_maps, need
from nnunet_ext.registration.volumes import FINE_LEVEL_MM, Source, Target, shrunk

#: Voxels kept around the organs of a label map, so that interpolation finds background beside them.
_MARGIN_VOXELS = 2


@dataclass(frozen=True)
class Atlas:
    """One training case.

    Attributes:
        name: Of the case.
        image_sha256: Hash of the image's values and grid.
        sha256: The same with the labels.
        labels: Label map, canonical, cropped to the organs.
        organs: Those that have a voxel.
        source: The image as a registration sees it.
    """

    name: str
    image_sha256: str
    sha256: str
    labels: sitk.Image
    organs: tuple[str, ...]
    source: Source


def organs_of(dataset_json: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Organ -> its label value.

    Raises:
        ValueError: If the labels hold regions. A voxel has one label here.
    """
    labels = need(dataset_json, "labels", path)
    regions = [name for name, value in labels.items() if not isinstance(value, int)]
    if regions:
        raise ValueError(
            f"{path}: {', '.join(regions)} are regions, made of several labels: atlases need one value for each organ"
        )
    return {name: value for name, value in labels.items() if value and name != "ignore"}


def read_atlases(
    raw: Path, names: Sequence[str] | None, *, channel: str, channel_names: Mapping[str, str], organs: Mapping[str, int]
) -> tuple[list[Atlas], list[Message]]:
    """The atlases of a raw data set, and a message for each training case that is none or lacks organs.

    Args:
        raw: Folder of the data set.
        names: Training cases to take. All if None.
        channel: Image to register.
        channel_names: As in `dataset.json`.
        organs: Organ -> label value.

    Raises:
        FileNotFoundError: If the data set has no labels.
        ValueError: If no atlas remains.
    """
    label_files = find_label_maps(raw / "labelsTr")
    atlases, messages = [], []
    for name in sorted(label_files) if names is None else names:
        try:
            if name not in label_files:
                raise FileNotFoundError(f"no label map of it in {raw / 'labelsTr'}")
            file = channel_files(raw / "imagesTr", name, channel_names)[channel]
            atlas = make_atlas(
                name, read_image(file), read_label_map(label_files[name]), channel=channel, organs=organs
            )
        except (ValueError, OSError, RuntimeError) as error:  # the others still help
            messages.append(Message("atlas_not_used", {"atlas": name, "error": in_one_line(error)}))
            continue
        atlases.append(atlas)
        if lacking := [organ for organ in organs if organ not in atlas.organs]:
            messages.append(Message("atlas_lacks_organs", {"atlas": name, "organs": lacking}))
    if not atlases:
        raise ValueError(
            f"no training case of {raw} can be an atlas: {'; '.join(map(str, messages)) or 'there is none'}"
        )
    drawn = {organ for atlas in atlases for organ in atlas.organs}
    if nowhere := [organ for organ in organs if organ not in drawn]:
        messages.append(Message("organs_in_no_atlas", {"organs": nowhere}))
    return atlases, messages


def make_atlas(name: str, image: sitk.Image, labels: sitk.Image, *, channel: str, organs: Mapping[str, int]) -> Atlas:
    """An atlas from an image and the label map on its grid, both in the form of the training images.

    Raises:
        ValueError: If the grids differ, no organ is drawn, or the image shows no body.
    """
    if not same_grid(image, labels):
        raise ValueError(f"its label map lies on another grid than its {channel}: {grid_difference(labels, image)}")
    image, labels = to_canonical(image), to_canonical(labels)
    array = sitk.GetArrayViewFromImage(labels)
    there = set(np.unique(array).tolist())
    present = tuple(organ for organ, value in organs.items() if value in there)
    if not present:
        raise ValueError("no organ is drawn in it")
    drawn = np.isin(array, list(organs.values()))
    image_sha256 = sha256_of(image)
    digest = hashlib.sha256(f"{image_sha256} {dict(organs)}".encode())
    digest.update(np.ascontiguousarray(np.where(drawn, array, 0).astype(np.int32)).data)
    source = Source.of(name, small(image), True, is_ct=is_ct(channel))
    return Atlas(name, image_sha256, digest.hexdigest(), _cropped(labels, drawn), present, source)


def make_target(image: sitk.Image, *, channel: str) -> Target:
    """A new case's image as a registration sees it."""
    return Target.of(small(image), is_ct=is_ct(channel), bias_corrected=True)


def small(image: sitk.Image) -> sitk.Image:
    """An image at the finest level of a registration, as 32-bit float. Many atlases are in memory at once."""
    return shrunk(sitk.Cast(image, sitk.sitkFloat32), FINE_LEVEL_MM)


def sha256_of(image: sitk.Image) -> str:
    """Hash of an image's values, as 32-bit float, and of its grid to a micrometre."""
    grid = [np.round(part, 3).tolist() for part in (image.GetSpacing(), image.GetOrigin())]
    grid.append((np.round(image.GetDirection(), 6) + 0.0).tolist())
    digest = hashlib.sha256(repr((image.GetSize(), *grid)).encode())
    digest.update(np.ascontiguousarray(sitk.GetArrayViewFromImage(image).astype(np.float32)).data)
    return digest.hexdigest()


def _cropped(labels: sitk.Image, drawn: np.ndarray) -> sitk.Image:
    """The part of a label map around the organs."""
    box = ndimage.find_objects(drawn.view(np.uint8))[0][::-1]
    first = [max(0, part.start - _MARGIN_VOXELS) for part in box]
    stop = [min(n, part.stop + _MARGIN_VOXELS) for part, n in zip(box, labels.GetSize(), strict=True)]
    return sitk.RegionOfInterest(labels, [b - a for a, b in zip(first, stop, strict=True)], first)


def read_persons(dataset_json: Mapping[str, Any], key: str) -> dict[str, frozenset[str]]:
    """Training case -> all cases of its person, itself included, where several are known to be of one person."""
    return {case: frozenset(cases) for cases in dataset_json.get(key, ()) for case in cases}
