"""DICOM series, found in any folder and told apart by their headers.

Files are recognised by content, not by name. Localizers, screen captures and files that hold no image are set aside and
counted. The frames of an enhanced (multi-frame) CT or MR count as one image each.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.dicom.contrast import classify, is_combined
from nnunet_ext.dicom.files import holds_dicom
from nnunet_ext.dicom.headers import (
    GE_COMPLEX,
    MR_IMAGE,
    MULTI_FRAME,
    RTSTRUCT,
    SECONDARY_CAPTURE,
    TAGS,
    Header,
    frames,
    median_of_known,
    start_of_rtstruct,
)
from nnunet_ext.dicom.model import Patient, Series, Slice, Tree
from nnunet_ext.dicom.parts import FEWEST_SLICES, PLACE_TOLERANCE_MM, Part, Traits, equal_within_rounding, split_volumes
from nnunet_ext.dicom.personal import patient_of, personal_words, without_personal
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.stack import check_series, series_grid
from nnunet_ext.dicom.text import tolerant_dicom
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.images.reading import SMALLEST_SPACING_MM
from nnunet_ext.images.source_files import EMPTY, UNREADABLE, is_system, reason_of, walk
from nnunet_ext.messages import Message

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

__all__ = ["check_series", "classify", "find_series", "read_series", "series_grid"]

#: Direction cosines of one series agree to the first value. If they differ by more, but by less than the second value, they
#: were meant to agree.
DIRECTION_TOLERANCE, OTHER_DIRECTION = 1e-3, 0.1
#: Pixel spacings that differ by less differ by rounding, because archives keep two decimals.
SPACING_ROUNDING_MM = 0.005


def _files(folder: Path, tree: Tree) -> Iterable[Path]:
    """Files that may be DICOM; the others are counted in the tree."""
    for path, problem in walk(folder):
        tree.files.append(path)
        reason = reason_of(path, problem, folder)
        if problem or is_system(path, folder) or reason in (EMPTY, UNREADABLE):
            tree.set_aside(path, reason)
        elif path.name.upper() == "DICOMDIR":
            tree.set_aside(path, "DICOMDIR files")
        else:
            yield path


def find_series(folder: Path, progress: Callable[[Iterable[Path]], Iterable[Path]] = iter) -> Tree:
    """All series below a folder, whatever its files are called.

    Args:
        folder: Any nesting; files that are no DICOM are counted and left.
        progress: Wraps the iteration over files, for a progress bar.
    """
    import pydicom
    from pydicom.tag import Tag

    tags = [*map(Tag, TAGS), *map(Tag, GE_COMPLEX)]
    tree = Tree()
    groups: dict[tuple, list[_Members]] = {}
    seen: dict[tuple, tuple] = {}
    structures: dict[str, Path] = {}
    owners: dict[str, set[str]] = {}
    with tolerant_dicom():
        for path in progress(list(_files(Path(folder), tree))):
            try:
                found = holds_dicom(path)
            except OSError:
                tree.set_aside(path, UNREADABLE)
                continue
            if not found:
                tree.set_aside(path, "files that are not DICOM")
                tree.volumes += [path] if image_stem(path) else []
                continue
            try:
                dataset: FileDataset | None = pydicom.dcmread(
                    path, stop_before_pixels=True, force=True, specific_tags=tags
                )
            except Exception:
                dataset = start_of_rtstruct(path)
            if dataset is None:
                tree.set_aside(path, "DICOM files that cannot be read")
                continue
            header = Header(dataset)
            sop_class = header.text("SOPClassUID")
            patient = patient_of(header)
            words = tree.personal.get(patient.key, frozenset()) | personal_words(header, patient)
            tree.personal[patient.key] = words
            if sop_class == RTSTRUCT or header.text("Modality") == "RTSTRUCT":
                first = structures.setdefault(header.text("SOPInstanceUID"), path)
                if first != path and first.read_bytes() == path.read_bytes():
                    tree.set_aside(path, "copies of the same RTSTRUCT")
                else:
                    tree.structures.append(_structure(header, patient, path))
                continue
            if header.text("Modality") == "SEG":
                tree.segmentations.add(patient.key)
            sop = header.text("SOPInstanceUID")
            for frame, image in frames(header, sop_class):
                aside = _set_aside(image, image.text("SOPClassUID"))
                if aside:
                    tree.set_aside(path, aside)
                    continue
                place = image.numbers("ImagePositionPatient", 3) or (0.0, 0.0, 0.0)
                first_place = seen.setdefault((sop, frame), place)
                if sop and not all(map(equal_within_rounding, place, first_place, [PLACE_TOLERANCE_MM] * 3)):
                    tree.set_aside(path, "images under the UID of another image")
                    continue
                uid = image.text("SeriesInstanceUID")
                owners.setdefault(uid, set()).add(patient.key)
                key = (patient.key, uid, image.text("FrameOfReferenceUID"), image.text("Rows"), image.text("Columns"))
                direction = np.array(image.numbers("ImageOrientationPatient", 6) or np.zeros(6))
                alike = groups.setdefault(key, [])
                members = next((m for m in alike if np.abs(m.direction - direction).max() <= OTHER_DIRECTION), None)
                if members is None:
                    members = _Members(direction)
                    alike.append(members)
                members.add(image, path, sop, frame, direction)
        for (_, uid, *_), alike in groups.items():
            for members in alike:
                if uid and len(owners[uid]) > 1:
                    members.problem = (
                        f"its images, or copies of it, carry {len(owners[uid])} patient IDs; correct the IDs, or remove "
                        "the copy"
                    )
                for one in _series(members, tree):
                    if len(one.slices) < FEWEST_SLICES and not one.problem:
                        for single in one.slices:
                            tree.set_aside(single.path, "single images and localizers")
                    else:
                        tree.images.append(one)
    order = {"CT": 0, "T1": 1, "T2": 2, "": 3}
    tree.images.sort(
        key=lambda s: (s.patient.key, s.study_uid, s.frame_of_reference_uid, order[s.channel], s.number or 0)
    )
    tree.images = [_with_label(one, tree) for one in tree.images]
    tree.structures = [_with_label(one, tree) for one in tree.structures]
    return tree


@dataclass
class _Members:
    """Files of one series; whole headers only of the first image of every contrast: a tree may hold 100,000 files."""

    direction: np.ndarray
    headers: dict[tuple, Header] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    spacings: set = field(default_factory=set)
    photometric: set[str] = field(default_factory=set)
    turned: float = 0.0
    problem: str = ""

    def add(self, header: Header, path: Path, sop: str, frame: int | None, direction: np.ndarray) -> None:
        position = header.point("ImagePositionPatient") or (0.0, 0.0, 0.0)
        thickness, between = header.number("SliceThickness"), header.number("SpacingBetweenSlices")
        traits = _traits(header, frame)
        self.slices.append(Slice(path, sop, position, thickness, frame, traits, between))
        self.spacings.add(header.numbers("PixelSpacing", 2))
        self.photometric.add(header.text("PhotometricInterpretation"))
        self.turned = max(self.turned, float(np.abs(direction - self.direction).max()))
        if len(self.headers) < 64:
            self.headers.setdefault(_contrast_key(traits), header)

    @property
    def first(self) -> Header:
        return next(iter(self.headers.values()))

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """Of spacings that differ by rounding the one that is written with most digits; None where one is missing."""
        if None in self.spacings:
            return None
        return max(self.spacings, key=lambda spacing: (sum(len(f"{mm:.9g}") for mm in spacing), spacing))


def _traits(header: Header, frame: int | None) -> Traits:
    kind = "\\".join(filter(None, (header.text("ImageType"), header.text("ComplexImageComponent"))))
    clock = next((header.text(tag) for tag in ("AcquisitionTime", "AcquisitionDateTime") if header.text(tag)), "")
    return Traits(
        sys.intern(kind), header.number("EchoTime"), header.number("InversionTime"), header.number("DiffusionBValue"),
        header.number("KVP"), header.number("FlipAngle"), sys.intern(header.text("ConvolutionKernel")) or None,
        sys.intern(header.text("StackID")) or None, header.number("AcquisitionNumber"),
        header.number("TemporalPositionIdentifier"), header.number("TriggerTime"), _seconds(clock),
        header.number("InstanceNumber") if frame is None else float(frame),
        _seconds(header.text("ContentTime")),
    )  # fmt: skip


def _contrast_key(traits: Traits) -> tuple:
    """What a classification may depend on, and may differ between the images of a series; numbers rounded."""
    return (traits.kind, *(None if value is None else round(value, 1) for value in traits[1:4]))


def _seconds(text: str) -> float | None:
    """Seconds since midnight of a DICOM time, or of a date with time."""
    digits = text.strip().replace(":", "")
    match = re.fullmatch(r"(?:\d{8})?(\d{2})(\d{2})(\d{2}(?:\.\d*)?)(?:[+-]\d{4})?", digits)
    return None if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _with_label(series: Series, tree: Tree) -> Series:
    text = without_personal(series.description, tree.personal[series.patient.key], short=True)
    number = "series" if series.number is None else f"series {series.number}"
    if series.modality == "RTSTRUCT":
        return replace(series, label=f"{number} '{text}' ({series.modality})")
    part = without_personal(", ".join(series.part), tree.personal[series.patient.key], short=True)
    choice = ", ".join(filter(None, (str(text if series.number is None else series.number), part)))
    facts = ", ".join(filter(None, (series.modality, series.part_note, f"{len(series.slices)} images")))
    label = ", ".join(filter(None, (f"{number} '{text}'", part)))
    parts = tuple(_with_label(one, tree) for one in series.parts)
    return replace(series, label=f"{label} ({facts})", choice=choice, parts=parts)


def _set_aside(header: Header, sop_class: str) -> str:
    """What a file is that is no slice of a volume; empty where it may be one."""
    kind = header.text("ImageType").upper()
    if sop_class.startswith(SECONDARY_CAPTURE) or "SCREEN" in kind:
        return "screen and secondary captures"
    if "LOCALIZER" in kind or "SCOUT" in kind:
        return "single images and localizers"
    if sop_class in MULTI_FRAME:
        return ""
    modality = header.text("Modality")
    if not modality:
        return "DICOM files without a modality (cut off?)"
    if modality not in ("CT", "MR"):
        return (
            f"files of modality {modality}" if re.fullmatch(r"[A-Z]{2,12}", modality) else "files of other modalities"
        )
    if (header.number("SamplesPerPixel") or 1) != 1:
        return "colour pictures"
    if header.numbers("ImagePositionPatient", 3) is None or header.numbers("ImageOrientationPatient", 6) is None:
        return "images without a position in space"
    return ""


def _structure(header: Header, patient: Patient, path: Path) -> Series:
    name = header.text("StructureSetLabel") or header.text("SeriesDescription")
    return Series(
        patient, header.text("SOPInstanceUID"), header.text("StudyInstanceUID"), header.text("FrameOfReferenceUID"),
        "RTSTRUCT", _whole(header.number("SeriesNumber")), name, "",
        names=tuple(t for t in (name, header.text("SeriesDescription")) if t),
        slices=(Slice(path, header.text("SOPInstanceUID"), (0.0, 0.0, 0.0), None),),
    )  # fmt: skip


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _series(members: _Members, tree: Tree) -> list[Series]:
    """Series of files that share UID, frame, direction and matrix: one for each volume that may be a channel."""
    header = members.first
    slices: list[Slice] = []
    seen = set()
    for one in members.slices:
        if one.sop_uid and (one.sop_uid, one.frame) in seen:
            tree.set_aside(one.path, "copies of the same image")
            continue
        seen.add((one.sop_uid, one.frame))
        slices.append(one)
    direction = header.numbers("ImageOrientationPatient", 6) or ()
    base = Series(
        patient_of(header), header.text("SeriesInstanceUID"), header.text("StudyInstanceUID"),
        header.text("FrameOfReferenceUID"), header.text("Modality"), _whole(header.number("SeriesNumber")),
        header.text("SeriesDescription") or header.text("ProtocolName"), "",
        names=tuple(t for t in (header.text("SeriesDescription"), header.text("ProtocolName")) if t),
        slices=tuple(slices), direction=direction, spacing_mm=members.spacing_mm or (0.0, 0.0),
        size=(int(header.number("Rows") or 0), int(header.number("Columns") or 0)),
    )  # fmt: skip
    base = replace(_classified(base, members), problem=_header_problem(header, members))
    if base.problem:
        return [base]
    normal = np.cross(direction[:3], direction[3:])
    volumes = split_volumes(
        [float(np.dot(one.position_mm, normal)) for one in slices],
        [one.traits for one in slices],
        thickness_mm=median_of_known(one.thickness_mm for one in slices),
        spacing_mm=median_of_known(one.spacing_between_mm for one in slices),
        modality=base.modality,
    )
    if len(volumes) == 1:
        return [replace(base, parts=tuple(_part(base, one, members) for one in volumes[0].rest))]
    parts = tuple(
        replace(_part(base, volume, members), parts=tuple(_part(base, one, members) for one in volume.rest))
        for volume in volumes
    )
    if any(part.channel for part in parts):
        return list(parts)
    return [replace(base, parts=parts, problem=f"it holds {len(parts)} volumes under one UID")]


def _part(base: Series, part: Part, members: _Members) -> Series:
    slices = tuple(base.slices[at] for at in part.images)
    return _classified(replace(base, slices=slices, part=part.name, part_note=part.note), members)


def _classified(series: Series, members: _Members) -> Series:
    """With the channel, and what else the header of its first image says."""
    header = members.headers.get(_contrast_key(series.slices[0].traits), members.first)
    channel, reason, notes = classify(header.text, header.number)
    if len(members.spacings) > 1:
        rows_mm, columns_mm = series.spacing_mm
        notes = [*notes, Message("spacings_rounded", {"mm": rows_mm, "width": columns_mm})]
    derived = header.text("ImageType").upper().startswith("DERIVED")
    combined = is_combined(header.text)
    return replace(
        series, channel=channel, reason=reason, notes=tuple(notes), derived=derived and not combined, combined=combined
    )


def _header_problem(header: Header, members: _Members) -> str:
    if members.problem:
        return members.problem
    if members.turned > DIRECTION_TOLERANCE:
        return f"its images lie in different directions (cosines differ by {members.turned:.2g}); split it into series"
    sop_class = header.text("SOPClassUID")
    if sop_class in MULTI_FRAME or (header.number("NumberOfFrames") or 1) > 1:
        kind = MULTI_FRAME.get(sop_class, "a")
        return (
            f"it is {kind} multi-frame object whose frames do not say where they lie; export it as classic single-frame "
            "DICOM"
        )
    if header.text("Modality") == "CT" and (sop_class == MR_IMAGE or header.number("MagneticFieldStrength") is not None
                                            or header.number("EchoTime") is not None):  # fmt: skip
        return "its modality says CT but it has an MR's header (echo time, field strength); correct the modality"
    spacing = members.spacing_mm
    if spacing is None or min(spacing) <= 0:
        return "its pixel spacing is missing or not positive; export it again"
    if max(spacing) < SMALLEST_SPACING_MM:
        return f"its pixels measure {spacing[0]:g} x {spacing[1]:g} mm, so it is in metres; export it in mm"
    if members.photometric - {"MONOCHROME2", ""}:
        return "its pixels are not plain grey values (MONOCHROME2); export it again"
    for other in members.spacings:
        if not all(map(equal_within_rounding, other, spacing, [SPACING_ROUNDING_MM] * 2)):
            return "its images have different pixel spacings; split it into series"
    return ""
