"""The files of one DICOM series, and the series that they make, one for each volume that may be a channel."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_ext.dicom.contrast import classify, is_combined
from nnunet_ext.dicom.headers import MR_IMAGE, MULTI_FRAME, Header, median_of_known
from nnunet_ext.dicom.model import Series, Slice, Tree
from nnunet_ext.dicom.parts import Part, split_volumes
from nnunet_ext.dicom.personal import patient_of
from nnunet_ext.dicom.traits import Traits, equal_within_rounding
from nnunet_ext.images.reading import SMALLEST_SPACING_MM
from nnunet_ext.messages import Message

#: Direction cosines of one series agree to the first value. If they differ by more, but by less than the second value, they
#: were meant to agree.
DIRECTION_TOLERANCE, OTHER_DIRECTION = 1e-3, 0.1
#: Pixel spacings that differ by less differ by rounding, because archives keep two decimals.
SPACING_ROUNDING_MM = 0.005


@dataclass
class Members:
    """Files of one series.

    Only the first image of every contrast keeps its header, as a tree may hold 100,000 files.
    """

    direction: np.ndarray
    headers: dict[tuple, Header] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    spacings: set = field(default_factory=set)
    photometric: set[str] = field(default_factory=set)
    turned: float = 0.0
    problem: str = ""

    def add(self, header: Header, path: Path, sop: str, frame: int | None, direction: np.ndarray) -> None:
        """Add one image, with the direction of its slices."""
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
        """Of spacings that differ by rounding, the one that is written with most digits. None if one is missing."""
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
    """Values that may differ between the images of a series and that the channel may depend on. Numbers are rounded."""
    return (traits.kind, *(None if value is None else round(value, 1) for value in traits[1:4]))


def _seconds(text: str) -> float | None:
    """Seconds since midnight of a DICOM time, or of a date with time."""
    digits = text.strip().replace(":", "")
    match = re.fullmatch(r"(?:\d{8})?(\d{2})(\d{2})(\d{2}(?:\.\d*)?)(?:[+-]\d{4})?", digits)
    return None if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def series_of(members: Members, tree: Tree) -> list[Series]:
    """Series of files that share UID, frame, direction and matrix, one for each volume that may be a channel."""
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
        header.text("FrameOfReferenceUID"), header.text("Modality"), whole(header.number("SeriesNumber")),
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


def _part(base: Series, part: Part, members: Members) -> Series:
    slices = tuple(base.slices[at] for at in part.images)
    return _classified(replace(base, slices=slices, part=part.name, part_note=part.note), members)


def _classified(series: Series, members: Members) -> Series:
    """The series with its channel and the other values of its first image's header."""
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


def _header_problem(header: Header, members: Members) -> str:
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


def whole(value: float | None) -> int | None:
    """A number without its fraction. None stays None."""
    return None if value is None else int(value)
