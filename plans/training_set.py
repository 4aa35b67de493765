"""The training cases of a plan: their body sizes and organ extents, and the list of cases that can't be planned."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from tqdm import tqdm

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.head_crop import HeadCrop
from nnunet_ext.cascade.plausibility import unlike_the_others
from nnunet_ext.cascade.preprocessor import body_box, find_body
from nnunet_ext.cleaning.head import HeadPlace
from nnunet_ext.images.checks import check_arrays
from nnunet_ext.images.label_maps import shown_values
from nnunet_ext.labels.volumes import impossible_volumes, refuse_whole_image
from nnunet_ext.messages import Message


@dataclass(frozen=True)
class ScannedCase:
    """Body size and organ extents of one training case, along its axes as read, `(Z, Y, X)`.

    Attributes:
        spacing_mm: Voxel size.
        body_shape: Voxels of the part that the networks see.
        organs: Label value -> extent.
        head: Where the head lies. None if no body was found.
    """

    spacing_mm: tuple[float, ...]
    body_shape: tuple[int, ...]
    organs: Mapping[int, roi.OrganExtent]
    head: HeadPlace | None = None

    def cropped(self, head_crop: HeadCrop) -> ScannedCase:
        """The case as the networks see it with a crop to the reach of the organs."""
        if self.head is None:
            return self
        return replace(self, body_shape=tuple(end - first for first, end in head_crop.box(self.head)))


def scan_cases(
    dataset: Mapping[str, Mapping],
    *,
    reader: BaseReaderWriter,
    channel_names: Mapping[str, str],
    labels: Mapping[str, int],
) -> dict[str, ScannedCase]:
    """Body sizes and organ extents of all training cases.

    Args:
        dataset: Case -> `images` (files) and `label` (file), as nnU-Net lists them.
        reader: The plan's.
        channel_names, labels: Of `dataset.json`.

    Raises:
        ValueError: Listing every case that can't be planned.
    """

    def one(name: str) -> ScannedCase | ValueError:
        try:
            files = dataset[name]
            return scan_case(
                name, files["images"], files["label"], reader=reader, channel_names=channel_names, labels=labels
            )
        except ValueError as e:
            return e

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        results = list(tqdm(pool.map(one, dataset), total=len(dataset), desc="Measuring organs and bodies"))
    if errors := [str(r) for r in results if isinstance(r, ValueError)]:
        raise ValueError(f"{len(errors)} training cases can't be planned:\n" + "\n".join(errors))
    return dict(zip(dataset, results, strict=True))


def scan_case(
    name: str,
    image_files: Sequence[str],
    label_file: str,
    *,
    reader: BaseReaderWriter,
    channel_names: Mapping[str, str],
    labels: Mapping[str, int],
) -> ScannedCase:
    """Body size and organ extents of one training case.

    Raises:
        ValueError: If a file can't be read, images and label map differ in size, or the reader leaves the axes in a
            non-canonical order. Also if the label map holds a value that is not in `labels`, or a channel holds nothing.
    """
    images, label_map, spacing = _read(name, image_files, label_file, reader)
    organs = _organs(name, label_map, labels, spacing_mm=spacing, label_file=label_file)
    try:
        channels = [channel_names[number] for number in sorted(channel_names, key=int)]
        check_arrays(dict(zip(channels, images, strict=False)), spacing_mm=spacing)
        refuse_whole_image(label_map[0], {organ: value for organ, value in labels.items() if value in organs})
    except ValueError as error:
        raise ValueError(f"case '{name}': {error}. Files: {', '.join([*image_files, label_file])}.") from None
    body = find_body(images, spacing_mm=spacing, channel_names=channel_names)
    box = body_box(body, spacing_mm=spacing, head_crop=None)
    return ScannedCase(
        spacing_mm=spacing,
        body_shape=tuple(upper - lower for lower, upper in box),
        organs=organs,
        head=HeadPlace.of(body, spacing),
    )


def _read(
    name: str, image_files: Sequence[str], label_file: str, reader: BaseReaderWriter
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Images `(C, Z, Y, X)`, label map `(1, Z, Y, X)` and spacing in mm along `(Z, Y, X)`."""
    try:
        images, properties = reader.read_images(list(image_files))
        label_map, _ = reader.read_seg(label_file)
    except Exception as e:  # each reader raises what its library raises, nnU-Net a RuntimeError if channels differ
        raise ValueError(
            f"case '{name}': can't be read ({type(e).__name__}: {e}); a file is missing or damaged, or the channels differ "
            f"in size. Files: {', '.join([*image_files, label_file])}."
        ) from e
    if label_map.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"case '{name}': images have size {images.shape[1:]} (Z, Y, X), the label map {label_map.shape[1:]}. "
            f"File: {label_file}. Convert the dataset with nnunet_ext convert."
        )
    if isinstance(reader, SimpleITKIO):
        direction = np.reshape(properties["sitk_stuff"]["direction"], (3, 3))
        if not (np.argmax(np.abs(direction), axis=0) == np.arange(3)).all() or (np.diag(direction) < 0).any():
            raise ValueError(
                f"case '{name}': its axes are not in LPS order (direction {np.round(direction, 2).tolist()}) and "
                f"SimpleITKIO reads arrays as they are stored. File: {label_file}. Convert the dataset with nnunet_ext "
                "convert, or set overwrite_image_reader_writer to NibabelIOWithReorient in dataset.json."
            )
    return images, label_map, tuple(float(s) for s in properties["spacing"])


def _organs(
    name: str, label_map: np.ndarray, labels: Mapping[str, int], *, spacing_mm: Sequence[float], label_file: str
) -> dict[int, roi.OrganExtent]:
    """Organ extents of a label map that holds no other value than those in `labels`."""
    # Whole numbers, not nearly: nnU-Net's preprocessing cuts 0.9999999 down to 0.
    if (cut := label_map != np.trunc(label_map)).any():
        raise ValueError(
            f"case '{name}': the label map holds {shown_values(np.unique(label_map[cut]).tolist())}, no whole number, which "
            f"nnU-Net would cut down. File: {label_file}. Convert the dataset with nnunet_ext convert, or round it."
        )
    known = {0, *labels.values()}
    organs: dict[int, roi.OrganExtent] = {}
    if not min(known) <= label_map.min() <= label_map.max() <= max(known):
        unknown = sorted(set(np.unique(label_map).tolist()) - known)
    else:
        organs = roi.organ_extents(label_map[0].astype(np.int32), spacing_mm=spacing_mm)
        unknown = sorted(set(organs) - known)
    if unknown:
        raise ValueError(
            f"case '{name}': label values [{shown_values(unknown)}] are not in dataset.json ({dict(labels)}). "
            f"File: {label_file}."
        )
    return organs


def transposed(organs: Mapping[int, roi.OrganExtent], forward: Sequence[int]) -> dict[int, roi.OrganExtent]:
    """Organ extents with their axes in the plan's order."""

    def move(v: Sequence[float]) -> tuple[float, ...]:
        return tuple(v[i] for i in forward)

    return {
        k: replace(o, centroid_mm=move(o.centroid_mm), lower_mm=move(o.lower_mm), upper_mm=move(o.upper_mm))
        for k, o in organs.items()
    }


def median_voxel_ml(cases: Mapping[str, ScannedCase]) -> float:
    """Median volume of a voxel."""
    return float(np.median([np.prod(c.spacing_mm) for c in cases.values()])) / 1000


def odd_label_maps(cases: Mapping[str, ScannedCase], labels: Mapping[str, int]) -> dict[str, Sequence[Message]]:
    """Case -> remarks on organs unlike those of the other cases, or else of impossible volume."""
    unlike = unlike_the_others({name: c.organs for name, c in cases.items()}, labels, voxel_ml=median_voxel_ml(cases))
    names = {value: organ for organ, value in labels.items() if isinstance(value, int)}
    odd: dict[str, Sequence[Message]] = {}
    for case, scanned in cases.items():
        volumes_ml = {names[value]: extent.volume_ml for value, extent in scanned.organs.items()}
        if lines := unlike.get(case) or impossible_volumes(volumes_ml):
            odd[case] = lines
    return odd
