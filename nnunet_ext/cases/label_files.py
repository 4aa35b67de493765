"""Files that hold labels, recognised by name and content, and the segmentations of 3D Slicer.

3D Slicer writes `Segmentation.seg.nrrd`. Its header says which value is which segment, so its values need no table. Segments
that overlap lie in layers, the first axis of a 4D file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cases.organ_masks import merge_masks, unite_parts
from nnunet_ext.images.file_names import MODALITY_ALIASES, image_stem
from nnunet_ext.images.itk_headers import read_header_fields
from nnunet_ext.images.label_maps import read_layers
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.organs import normalise_name
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message

SLICER_ENDING = ".seg.nrrd"

#: A name of these words, with or without the name of the case or of a channel, means labels: `CASE_seg`, `CT-label`.
_LABEL_WORDS = (
    "labels?|labelmaps?|dseg|segm?|segs|segmentations?|gt|groundtruth|masks?|contours?|rois?|annotations?|delineations?|"
    "rtstruct|rtss|structures?|structureset|标签|标注|分割|勾画|轮廓|掩膜|掩码"
)
#: Words that say who drew the labels, or which version they are.
_OTHER_WORDS = (
    "manual|final|corrected|approved|expert|reader|rater|observer|v|ver|version|map|set|truth|ground|desc|ses|copy"
)
_OTHER_WORDS += "|all|multi|multiclass|merged|combined|oars?|organs?"
#: Volumes in these formats are not read. The endings also stand for other things, so a name must mean labels.
_UNREAD_ENDINGS = (
    ".mgz", ".mgh", ".img", ".hdr", ".nhdr", ".gipl", ".gipl.gz", ".mnc", ".npy", ".npz", ".h5", ".hdf5", ".mat", ".vtk",
    ".vti", ".vtp", ".stl", ".obj", ".nia", ".zip", ".nii.zip", ".nii.bz2", ".am",
)  # fmt: skip
#: In a label map at least this share of neighbours in the foreground have one value. Parcellations of the brain have 86 %
#: or more, images 32 % or less, also those of 8 bits. Probabilities are told by zeros nearly everywhere.
_LABEL_NEIGHBOURS_EQUAL, _LABEL_ZEROS = 0.5, 0.95


def label_stem(path: Path) -> str | None:
    """`image_stem` without the `.seg` of 3D Slicer."""
    stem = image_stem(path)
    return stem[:-4] if stem and path.name.lower().endswith(SLICER_ENDING) and len(stem) > 4 else stem


def without_label_words(stem: str, known: Iterable[str] = ()) -> str | None:
    """The rest of a name that says it is labels.

    It is empty for `P7_seg`, and `Eye_L` for `Eye_L_mask`. None if no word of the name means labels.

    Args:
        stem: File name without its ending.
        known: Names whose words say nothing more, such as those of the case, its images and channels.
    """
    said = {word for name in known for word in words_of(name)}
    words = words_of(stem)
    means = [bool(re.fullmatch(rf"(?:{_LABEL_WORDS})\d*", word)) for word in words]
    means = [
        found or pair in (("label", "map"), ("ground", "truth"))
        for found, pair in zip(means, zip(words, [*words[1:], ""], strict=True), strict=True)
    ]
    if not any(means):
        return None
    rest = [
        word
        for word, label in zip(words, means, strict=True)
        if not (label or word in said or re.fullmatch(rf"(?:{_OTHER_WORDS})?\d*", word))
    ]
    return "_".join(rest)


def words_of(name: str) -> list[str]:
    """Words of a name in lower case."""
    return [word for word in re.split(r"[\W_]+", name.lower()) if word]


def is_channel_name(stem: str, modalities: Iterable[str]) -> bool:
    """Whether a name, such as `CT` or `patient7_T1`, is that of a channel that this package knows, used or not."""
    names = {name.lower() for name in modalities}
    names |= {alias.lower() for aliases in MODALITY_ALIASES.values() for alias in aliases}
    return stem.lower() in names or re.split(r"[_\- ]", stem.lower())[-1] in names


def may_be_labels(path: Path) -> bool:
    """Whether an image that is no channel could hold labels, by its values. True if it cannot be read."""
    try:
        image = read_image(path)
    except (ValueError, OSError):
        return True
    array = sitk.GetArrayViewFromImage(image)
    values, counts = np.unique(array, return_counts=True)
    background = values[counts.argmax()]
    if background == 0 and counts.max() >= _LABEL_ZEROS * array.size:
        return True
    pairs = equal = 0
    for axis in range(3):
        one, other = (np.moveaxis(array, axis, 0)[part] for part in (slice(1, None), slice(-1)))
        inside = (one != background) & (other != background)
        pairs += int(np.count_nonzero(inside))
        equal += int(np.count_nonzero(inside & (one == other)))
    return equal >= _LABEL_NEIGHBOURS_EQUAL * pairs


def is_unread_label_file(path: Path, known: Iterable[str] = ()) -> bool:
    """Whether a file that is not read is labels by its name, such as `label.mgz`."""
    lower = path.name.lower()
    ending = next((e for e in sorted(_UNREAD_ENDINGS, key=len, reverse=True) if lower.endswith(e)), None)
    return ending is not None and without_label_words(path.name[: -len(ending)], known) is not None


# --------------------------------------------------------------------------------------- segmentations of 3D Slicer


@dataclass(frozen=True)
class Segment:
    """One segment of a 3D Slicer file, with its name, and the layer and value of its voxels.

    Without a value, these are all voxels that are not 0.
    """

    name: str
    layer: int
    value: int | None


def read_segments(path: Path) -> list[Segment]:
    """Segments that the header of a `.seg.nrrd` names, in their order. None if it is a plain label map.

    Raises:
        ValueError: If the header cannot be read, or does not say which value a segment has.
    """
    try:
        fields, layers = read_header_fields(path)
    except RuntimeError:
        return []  # `read_image` says what is wrong with the file
    numbers = sorted(int(match[1]) for key in fields if (match := re.fullmatch(r"Segment(\d+)_(?:Name|ID)", key)))
    segments = []
    for at, number in enumerate(dict.fromkeys(numbers)):
        name = fields.get(f"Segment{number}_Name") or fields[f"Segment{number}_ID"]
        layer, value = (_whole(fields.get(f"Segment{number}_{what}")) for what in ("Layer", "LabelValue"))
        # Before 4.11, 3D Slicer gave every segment a layer of its own and wrote neither number.
        layer = (at if layers > 1 else 0) if layer is None else layer
        if layer >= layers:
            raise ValueError(
                f"{path.name}: segment {name!r} is in layer {layer} of {layers}; save it again in 3D Slicer"
            )
        segments.append(Segment(name, layer, value))
    unclear = [s.name for s in segments if s.value is None and sum(o.layer == s.layer for o in segments) > 1]
    if unclear:
        raise ValueError(
            f"{path.name} does not say which value {unclear[0]!r} has (no SegmentN_LabelValue); save it again in 3D Slicer"
        )
    return segments


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d+", text) else None


def organs_of(segments: Iterable[Segment], table: LabelTable, path: Path) -> tuple[dict[str, list[Segment]], list[str]]:
    """Segments per organ, and names of those that the table does not know.

    Raises:
        ValueError: If none is an organ, or two segments of one name are versions of an organ.
    """
    organs: dict[str, list[Segment]] = {}
    unknown = []
    for segment in segments:
        organ = table.organ(segment.name)
        if organ is None:
            unknown.append(segment.name)
            continue
        twin = next((s for s in organs.get(organ, ()) if normalise_name(s.name) == normalise_name(segment.name)), None)
        if twin is not None:
            raise ValueError(
                f"{organ} is drawn twice in {path.name}, as {twin.name} and {segment.name}; delete or rename one of them"
            )
        organs.setdefault(organ, []).append(segment)
    if not organs:
        raise ValueError(
            f"none of the segments {', '.join(unknown[:6])} of {path.name} is in the label table "
            f"({', '.join(table.names)}); rename them, or add their names as aliases"
        )
    return organs, unknown


def read_slicer_labels(path: Path, table: LabelTable, warnings: list[Message]) -> tuple[sitk.Image, dict[str, int]]:
    """Label map of the organs of a 3D Slicer file on its own grid, and voxels per organ before overlaps were settled.

    Raises:
        ValueError: As `read_segments` and `organs_of`, or if a value belongs to no segment.
    """
    segments = read_segments(path)
    organs, _ = organs_of(segments, table, path)
    layers = read_layers(path)
    arrays = [sitk.GetArrayFromImage(layer) for layer in layers]
    for number, array in enumerate(arrays):
        named = {s.value for s in segments if s.layer == number}
        strange = [value for value in np.unique(array) if value and value not in named]
        if strange and None not in named:
            raise ValueError(
                f"{path.name} holds the value {strange[0]:g}, which no segment has; save it again in 3D Slicer"
            )
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for organ, of in organs.items():
        for one in of:
            mask = arrays[one.layer] != 0 if one.value is None else arrays[one.layer] == one.value
            drawn.setdefault(organ, {})[one.name] = mask
    filled = [name for of in drawn.values() for name, mask in of.items() if mask.any()]
    table.check_drawn_once((name, f"{name} in {path.name}") for name in filled)
    masks = {organ: unite_parts(organ, drawn[organ], table) for organ in table.names if organ in drawn}
    return merge_masks(masks, layers[0], table, warnings)
