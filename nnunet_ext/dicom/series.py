"""DICOM series: found in any folder, told apart by their headers, checked, and read as one image.

Files are recognised by content, not by name. A series is what shares SeriesInstanceUID, frame of reference, slice
direction and matrix. One that holds several volumes (echoes, acquisitions) is split into them (`dicom_parts`). Localizers,
screen captures and files that hold no image are set aside and counted. The frames of an enhanced (multi-frame) CT or MR
count as one image each.
Reading refuses what would be read wrongly elsewhere: missing slices, two images at one position, metres, colour, other
multi-frame objects. Slices of a tilted gantry, which form no rectangular grid, are shifted in their own plane; uneven
gaps that the slice thickness explains are interpolated.

Header values that may be personal stay inside `Series`; `Series.label` is the only text made for messages.
"""

from __future__ import annotations

import functools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.dicom.contrast import classify, is_combined
from nnunet_ext.dicom.parts import (
    FEWEST_SLICES,
    PLACE_TOLERANCE_MM,
    Part,
    Traits,
    equal_within_rounding,
    split_volumes,
)
from nnunet_ext.dicom.text import element_text, readable_text, tolerant_dicom
from nnunet_ext.images.reading import SMALLEST_SPACING_MM, image_stem
from nnunet_ext.images.source_files import EMPTY, UNREADABLE, is_system, reason_of, walk

#: Gaps between slices may differ by this share, or this many mm, and count as even: headers round positions.
GAP_TOLERANCE, GAP_TOLERANCE_MM = 0.01, 0.02
#: Gaps that are even one by one, but add up to more than this share of a gap off the straight line, are uneven.
LARGEST_DRIFT = 0.25
#: Uneven gaps up to this ratio are interpolated; larger ones only where the slice thickness covers them.
LARGEST_GAP_RATIO = 1.2
#: Slices nearer to each other on average were meant in metres.
SMALLEST_GAP_MM = 0.1
#: Slices that leave the straight line through the first by more than this belong to a tilted gantry.
SHEAR_TOLERANCE_MM = 0.1
#: Cosines of one series agree to this; images that differ by more and less than the second were meant to agree.
DIRECTION_TOLERANCE, OTHER_DIRECTION = 1e-3, 0.1
#: Pixel spacings that differ by less differ by rounding: archives keep two decimals.
SPACING_ROUNDING_MM = 0.005
#: An even grid with more planes per image than this would be mostly made up.
MOST_PLANES_PER_IMAGE = 1.5
#: Cosines whose lengths or right angle are off by more were rounded to a few decimals.
LARGEST_COSINE_ROUNDING = 1e-4
#: More short gaps than this are counted instead of named.
MOST_SHORT_GAPS = 3
AIR_HU = -1000.0
#: In a sentence of ours, shorter numbers are a count, a size or a case's number, whoever's ID they may be.
LEAST_DIGITS_OF_AN_ID = 6
#: A CT's padding below this is air wherever it lies. Padding of other values may also be tissue.
AIR_PADDING_HU = -900.0
#: Shares of the pixels. In the corners less than the first is chance, and a header that names more than the second is wrong.
PADDED_SHARE = (2e-3, 0.95)

_CT = "1.2.840.10008.5.1.4.1.1.2"
_MR = "1.2.840.10008.5.1.4.1.1.4"
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_MULTI_FRAME = {
    f"{_CT}.1": "an enhanced CT",
    f"{_CT}.2": "a legacy converted enhanced CT",
    f"{_MR}.1": "an enhanced MR",
    f"{_MR}.3": "an enhanced colour MR",
    f"{_MR}.4": "a legacy converted enhanced MR",
}
#: Where a frame of an enhanced object keeps what a classic image has in its header: sequence, element, classic element.
_FUNCTIONAL_GROUPS = (
    ("PlanePositionSequence", "ImagePositionPatient", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing", "PixelSpacing"),
    ("PixelMeasuresSequence", "SliceThickness", "SliceThickness"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime"),
    ("MRModifierSequence", "InversionTimes", "InversionTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "FrameType", "ImageType"),
    ("MRImageFrameTypeSequence", "AcquisitionContrast", "AcquisitionContrast"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent", "ComplexImageComponent"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle"),
    ("CTXRayDetailsSequence", "KVP", "KVP"),
    ("CTReconstructionSequence", "ConvolutionKernel", "ConvolutionKernel"),
    ("FrameContentSequence", "StackID", "StackID"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("FrameContentSequence", "FrameAcquisitionDateTime", "AcquisitionTime"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    ("CTImageFrameTypeSequence", "FrameType", "ImageType"),
    ("PixelValueTransformationSequence", "RescaleSlope", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept", "RescaleIntercept"),
)
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"}
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet", "PatientID", "PatientName", "PatientBirthDate",
    "OtherPatientIDs", "AccessionNumber", "StudyInstanceUID", "StudyID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "Modality", "ImageType", "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "ScanningSequence",
    "EchoTime", "RepetitionTime", "InversionTime", "MagneticFieldStrength", "ContrastBolusAgent", "AngioFlag",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SliceThickness",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "StructureSetLabel", "BodyPartExamined",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "EchoPulseSequence", "EchoPlanarPulseSequence",
    "TimeOfFlightContrast", "AcquisitionContrast", "ComplexImageComponent", "DiffusionBValue", "KVP", "FlipAngle",
    "ConvolutionKernel", "StackID", "AcquisitionNumber", "AcquisitionTime", "AcquisitionDateTime", "ContentTime",
    "TemporalPositionIdentifier", "TriggerTime", "ScanOptions", "SpacingBetweenSlices",
]  # fmt: skip

#: Private elements of GE: creator, and whether an image is magnitude (0), phase, real or imaginary part (1 to 3).
_GE = (0x00430010, 0x0043102F)


#: Those of them that are text in the character set of the file.
_TEXTS = {
    "AccessionNumber", "AcquisitionContrast", "ContrastBolusAgent", "OtherPatientIDs", "PatientID", "PatientName",
    "ProtocolName", "SequenceName", "SeriesDescription", "StructureSetLabel", "StudyID",
}  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """Who a file belongs to. Personal: never printed. `key` tells patients apart: ID, else name, else the study."""

    key: str
    patient_id: str = ""
    name: str = ""
    birth_date: str = ""


@dataclass(frozen=True)
class Slice:
    """One image: centre of its first pixel in mm (LPS), and what decides whether it fits its neighbours.

    `frame` counts from 0 where the file holds several images.
    """

    path: Path
    sop_uid: str
    position_mm: tuple[float, float, float]
    thickness_mm: float | None
    frame: int | None = None
    traits: Traits = field(default_factory=Traits)
    spacing_between_mm: float | None = None


@dataclass(frozen=True)
class Series:
    """Images of one acquisition, or one RTSTRUCT (`modality` RTSTRUCT, without slices' geometry).

    Attributes:
        patient: Whose it is.
        uid, study_uid, frame_of_reference_uid: As in the headers.
        modality: As in the header.
        number: SeriesNumber, None where it is missing.
        description: SeriesDescription as in the header: may be personal.
        label: Number and description for messages, without anything personal.
        channel: `CT`, `T1`, `T2`, or empty where it is none of them.
        reason: Why it is that channel, or none.
        notes: Lines worth knowing where the series is used.
        problem: Why it cannot be read, from the headers; empty where it can.
        derived: Whether it was computed from other images (ImageType).
        combined: Whether it unites several echoes.
        part: Which volume of the series it is, such as `("echo 1",)`; empty where the series is one volume.
        part_note: What that means, such as `TE 1.69 ms`.
        choice: How the series file names it, without anything personal: `7, echo 1`.
        parts: Volumes it can be split into, where it is none as a whole, or where only the order tells them apart.
        slices: In file order.
        direction: Row and column cosines, 6 numbers.
        spacing_mm: Between rows, between columns (DICOM's order).
        size: Rows, columns.
    """

    patient: Patient
    uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    number: int | None
    description: str
    label: str
    names: tuple[str, ...] = ()
    channel: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""
    derived: bool = False
    combined: bool = False
    part: tuple[str, ...] = ()
    part_note: str = ""
    choice: str = ""
    parts: tuple[Series, ...] = ()
    slices: tuple[Slice, ...] = ()
    direction: tuple[float, ...] = ()
    spacing_mm: tuple[float, float] = (0.0, 0.0)
    size: tuple[int, int] = (0, 0)

    @property
    def paths(self) -> list[Path]:
        return list(dict.fromkeys(one.path for one in self.slices))


@dataclass
class Tree:
    """What a folder holds.

    Attributes:
        images, structures: Image series and RTSTRUCTs.
        ignored: What was set aside -> number of images or files.
        personal: Patient key -> words that are personal.
        files: All files below the folder, those too that are set aside.
        left_over: File -> why it is in no series.
        segmentations: Keys of patients with DICOM SEG objects, which are not read.
        volumes: Images in other formats than DICOM.
    """

    images: list[Series] = field(default_factory=list)
    structures: list[Series] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)
    personal: dict[str, frozenset[str]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    left_over: dict[Path, str] = field(default_factory=dict)
    segmentations: set[str] = field(default_factory=set)
    volumes: list[Path] = field(default_factory=list)

    def set_aside(self, path: Path, reason: str) -> None:
        """Count an image or file that is in no series."""
        self.ignored[reason] += 1
        self.left_over.setdefault(path, reason)


# --------------------------------------------------------------------------------------------- finding

#: Files with these endings are no DICOM where it is to be found out quickly whether there is any.
_OTHER_ENDINGS = frozenset({
    ".nii", ".gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff",
    ".svg", ".mp4", ".avi", ".txt", ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".css", ".js", ".md", ".rst",
    ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".zip", ".tar", ".tgz", ".bz2", ".7z", ".rar", ".py",
    ".ipynb", ".m", ".mat", ".npy", ".npz", ".h5", ".bval", ".bvec", ".log", ".toml", ".yaml", ".yml", ".ini", ".inf",
    ".exe", ".dll", ".jar", ".db", ".stl", ".obj", ".ctbl", ".tfm",
})  # fmt: skip


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its content: the mark `DICM`, or without preamble a first tag of group 0002 or 0008."""
    try:
        return _is_dicom(path)
    except OSError:
        return False


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:132] == b"DICM":
        return True
    if len(start) < 16 or start[:2] not in (b"\x08\x00", b"\x02\x00") or start[3:4] != b"\x00":
        return False
    # `08 00 05 00 43 53` (explicit) or a short length (implicit): a NIfTI or text file has neither.
    return start[4:6] in (b"CS", b"UI", b"UL", b"OB") or (
        start[2] <= 0x18 and int.from_bytes(start[4:8], "little") < 256
    )


def has_dicom(folder: Path, *, images_only: bool = False, below: bool = True) -> bool:
    """Whether there is DICOM in a folder.

    Files are opened until one is found, in every folder those first whose names are likely. Pictures, text and the like are
    known by their endings.

    Args:
        folder: Any nesting.
        images_only: RTSTRUCT, plans, doses and segmentations do not count.
        below: Look into the folders below, too.
    """
    here: Path | None = None
    likely: list[Path] = []
    for path, problem in walk(folder):
        if problem or not _may_be_dicom(path, folder) or not (below or path.parent == folder):
            continue
        if path.parent != here:
            if any(_is_wanted(one, images_only) for one in likely):
                return True
            here, likely = path.parent, []
        likely.append(path)
        if path.suffix.lower() in ("", ".dcm", ".ima") or path.suffix[1:].isdigit():
            if _is_wanted(path, images_only):
                return True
            likely.pop()
    return any(_is_wanted(one, images_only) for one in likely)


def _may_be_dicom(path: Path, folder: Path) -> bool:
    return path.suffix.lower() not in _OTHER_ENDINGS and path.name.upper() != "DICOMDIR" and not is_system(path, folder)


def _is_wanted(path: Path, images_only: bool) -> bool:
    return is_dicom(path) and not (images_only and _modality(path).startswith(("RT", "SEG", "REG", "SR", "PR", "KO")))


def _modality(path: Path) -> str:
    import pydicom

    with tolerant_dicom():
        try:
            return str(pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["Modality"]).Modality)
        except Exception:
            return ""


def label_modality(path: Path) -> str:
    """`RTSTRUCT` or `SEG` if a file is one of these DICOM objects, else empty."""
    if path.suffix.lower() in _OTHER_ENDINGS or not is_dicom(path):
        return ""
    modality = _modality(path)
    return modality if modality in ("RTSTRUCT", "SEG") else ""


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

    tree = Tree()
    groups: dict[tuple, list[_Members]] = {}
    seen: dict[tuple, tuple] = {}
    structures: dict[str, Path] = {}
    owners: dict[str, set[str]] = {}
    with tolerant_dicom():
        for path in progress(list(_files(Path(folder), tree))):
            try:
                found = _is_dicom(path)
            except OSError:
                tree.set_aside(path, UNREADABLE)
                continue
            if not found:
                tree.set_aside(path, "files that are not DICOM")
                tree.volumes += [path] if image_stem(path) else []
                continue
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=[*_TAGS, *_GE])
            except Exception:
                header = _start_of_rtstruct(path)
            if header is None:
                tree.set_aside(path, "DICOM files that cannot be read")
                continue
            header = _Header(header)
            sop_class = header.text("SOPClassUID")
            patient = _patient(header)
            words = tree.personal.get(patient.key, frozenset()) | _personal_words(header, patient)
            tree.personal[patient.key] = words
            if sop_class == _RTSTRUCT or header.text("Modality") == "RTSTRUCT":
                first = structures.setdefault(header.text("SOPInstanceUID"), path)
                if first != path and first.read_bytes() == path.read_bytes():
                    tree.set_aside(path, "copies of the same RTSTRUCT")
                else:
                    tree.structures.append(_structure(header, patient, path))
                continue
            if header.text("Modality") == "SEG":
                tree.segmentations.add(patient.key)
            sop = header.text("SOPInstanceUID")
            for frame, image in _frames(header, sop_class):
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
                        for image in one.slices:
                            tree.set_aside(image.path, "single images and localizers")
                    else:
                        tree.images.append(one)
    order = {"CT": 0, "T1": 1, "T2": 2, "": 3}
    tree.images.sort(
        key=lambda s: (s.patient.key, s.study_uid, s.frame_of_reference_uid, order[s.channel], s.number or 0)
    )
    tree.images = [_with_label(one, tree) for one in tree.images]
    tree.structures = [_with_label(one, tree) for one in tree.structures]
    return tree


def _start_of_rtstruct(path: Path):
    """Header of an RTSTRUCT up to its sequences, so that one that is cut off is not overlooked; None of other files."""
    from pydicom.filereader import read_partial

    try:
        with path.open("rb") as file:
            header = read_partial(file, stop_when=lambda tag, vr, length: tag >= 0x30060010, force=True)
    except Exception:
        return None
    return header if header.get("SOPClassUID") == _RTSTRUCT else None


@dataclass
class _Members:
    """Files of one series; whole headers only of the first image of every contrast: a tree may hold 100,000 files."""

    direction: np.ndarray
    headers: dict[tuple, _Header] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    spacings: set = field(default_factory=set)
    photometric: set[str] = field(default_factory=set)
    turned: float = 0.0
    problem: str = ""

    def add(self, header: _Header, path: Path, sop: str, frame: int | None, direction: np.ndarray) -> None:
        position = header.numbers("ImagePositionPatient", 3) or (0.0, 0.0, 0.0)
        thickness, between = header.number("SliceThickness"), header.number("SpacingBetweenSlices")
        traits = _traits(header, frame)
        self.slices.append(Slice(path, sop, position, thickness, frame, traits, between))
        self.spacings.add(header.numbers("PixelSpacing", 2))
        self.photometric.add(header.text("PhotometricInterpretation"))
        self.turned = max(self.turned, float(np.abs(direction - self.direction).max()))
        if len(self.headers) < 64:
            self.headers.setdefault(_contrast_key(traits), header)

    @property
    def first(self) -> _Header:
        return next(iter(self.headers.values()))

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """Of spacings that differ by rounding the one that is written with most digits; None where one is missing."""
        if None in self.spacings:
            return None
        return max(self.spacings, key=lambda spacing: (sum(len(f"{mm:.9g}") for mm in spacing), spacing))


def _traits(header: _Header, frame: int | None) -> Traits:
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


def _frames(header: _Header, sop_class: str) -> list[tuple[int | None, _Header]]:
    """Frames of an enhanced object under the headers of classic images; of any other file, its own header.

    Also the file's own header where the frames do not say where they lie: it is then refused as a whole.
    """
    itself = [(None, header)]
    count = header.number("NumberOfFrames") or 1
    per_frame = header.dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if sop_class not in _MULTI_FRAME or len(per_frame) != count:
        return itself
    shared = (header.dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    common = {tag: header.dataset.get(tag) for tag in _TAGS if not tag.endswith("GroupsSequence")}
    common["SOPClassUID"] = _CT if sop_class.startswith(_CT) else _MR
    common["NumberOfFrames"] = None
    sequence = ["GR"] if header.text("EchoPulseSequence") == "GRADIENT" else []
    sequence += ["EP"] if header.text("EchoPlanarPulseSequence") == "YES" else []
    common["ScanningSequence"] = sequence or common["ScanningSequence"]
    if header.text("TimeOfFlightContrast") == "YES":
        common["AngioFlag"] = "Y"
    frames: list[tuple[int | None, _Header]] = []
    for number, groups in enumerate(per_frame):
        values = {**common, **_functional_groups(groups, shared)}
        kind = values["ImageType"] or ()
        values["ImageType"] = [*([kind] if isinstance(kind, str) else kind), values.pop("AcquisitionContrast") or ""]
        frame = _Header(values)
        if frame.numbers("ImagePositionPatient", 3) is None or frame.numbers("ImageOrientationPatient", 6) is None:
            return itself
        frames.append((number, frame))
    return frames


def _functional_groups(groups, shared) -> dict[str, object]:
    """Classic element -> value of one frame; a frame's own group goes before the shared one."""
    values = {}
    for sequence, element, classic in _FUNCTIONAL_GROUPS:
        items = groups.get(sequence) or shared.get(sequence)
        value = items[0].get(element) if items else None
        if value is not None:
            values[classic] = np.ravel(value)[0] if element == "InversionTimes" else value
    return values


class _Header:
    """A dataset whose values are read without ever raising or warning."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def text(self, tag: str) -> str:
        try:
            if tag in _TEXTS and not isinstance(self.dataset, dict):
                return element_text(self.dataset, tag)
            value = self.dataset.get(tag)
            if value is None:
                return ""
            if not isinstance(value, (str, int, float)) and hasattr(value, "__len__") and tag != "PatientName":
                return "\\".join(str(item) for item in value)
            return readable_text(value, self.dataset)
        except Exception:
            return ""

    def number(self, tag: str) -> float | None:
        values = self.numbers(tag, 1)
        return values[0] if values else None

    def numbers(self, tag: str, count: int) -> tuple[float, ...] | None:
        try:
            if tag == "RawDataType":
                creator, element = (self.dataset.get(one) for one in _GE)
                value = element.value if str(creator.value) == "GEMS_PARM_01" else None
                value = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else value
            else:
                value = self.dataset.get(tag)
            values = [float(item) for item in ([value] if count == 1 else value)]
        except Exception:
            return None
        return tuple(values) if len(values) == count and np.all(np.isfinite(values)) else None


def _patient(header: _Header) -> Patient:
    patient_id, name = header.text("PatientID"), header.text("PatientName")
    key = patient_id or name or header.text("StudyInstanceUID")
    return Patient(key, patient_id, name, header.text("PatientBirthDate"))


def _personal_words(header: _Header, patient: Patient) -> frozenset[str]:
    """What may not be in a message: the patient's names and numbers, whole and in parts."""
    words = {patient.patient_id, header.text("OtherPatientIDs"), header.text("AccessionNumber"), patient.birth_date}
    words |= {header.text("StudyID"), patient.name}
    words |= set(re.split(r"[\^=\s,._-]+", patient.name)) | set(re.split(r"[\s^/\\]+", patient.patient_id))
    return frozenset(w for w in (word.strip() for word in words) if len(w) >= 2 or (w and not w.isascii()))


_DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d[-/. ]?(?:0[1-9]|1[0-2])[-/. ]?(?:0[1-9]|[12]\d|3[01])|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d\d)"
    r"(?!\d)|(?:19|20)\d\d年(?:\d{1,2}月)?(?:\d{1,2}[日号])?"
)


def without_personal(text: str, words: Iterable[str], *, short: bool = False) -> str:
    """Text with personal words replaced by `***`.

    Args:
        text: A text of a header, or a sentence of ours in which such texts are clean already.
        words: The patient's names and numbers.
        short: For a text of a header: every such word goes, also within others, and every date. Without, for a sentence of
            ours: only whole words that are none of our own go. A patient called Series, CT or 001 must not black out what
            to do, `[case_001] T1 = NUMBER`.
    """
    for word in sorted(words, key=len, reverse=True):
        if not short and _is_our_own(word):
            continue
        # Chinese has no blanks between words; two Latin letters in a row stand in many.
        within = not word.isascii() or (short and len(word) > 2)
        pattern = re.escape(word) if within else rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
        text = re.sub(pattern, "***", text, flags=re.IGNORECASE)
    return _DATE.sub("***", text) if short else text


def _is_our_own(word: str) -> bool:
    """Whether a sentence of ours may hold a word: it stands in our code, or is a number of a few digits."""
    parts = re.findall(r"[^\W\d_]+|\d+", word.casefold())
    return all(len(part) < LEAST_DIGITS_OF_AN_ID if part.isdecimal() else part in _own_words() for part in parts)


@functools.cache
def _own_words() -> frozenset[str]:
    """Every word of this package's code; its messages, options, file names and channels are among them."""
    words: set[str] = set()
    for file in Path(__file__).parents[1].rglob("*.py"):
        words.update(re.findall(r"[^\W\d_]+", file.read_text(encoding="utf-8").casefold()))
    return frozenset(words)


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


def _set_aside(header: _Header, sop_class: str) -> str:
    """What a file is that is no slice of a volume; empty where it may be one."""
    kind = header.text("ImageType").upper()
    if sop_class.startswith(_CAPTURE) or "SCREEN" in kind:
        return "screen and secondary captures"
    if "LOCALIZER" in kind or "SCOUT" in kind:
        return "single images and localizers"
    if sop_class in _MULTI_FRAME:
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


def _structure(header: _Header, patient: Patient, path: Path) -> Series:
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
        _patient(header), header.text("SeriesInstanceUID"), header.text("StudyInstanceUID"),
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
        thickness_mm=_median(one.thickness_mm for one in slices),
        spacing_mm=_median(one.spacing_between_mm for one in slices),
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
        notes = [*notes, f"stored with rounded pixel spacings: read with {series.spacing_mm[0]:g} x "
                         f"{series.spacing_mm[1]:g} mm"]  # fmt: skip
    derived = header.text("ImageType").upper().startswith("DERIVED")
    combined = is_combined(header.text)
    return replace(
        series, channel=channel, reason=reason, notes=tuple(notes), derived=derived and not combined, combined=combined
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and value > 0]
    return float(np.median(known)) if known else None


def _header_problem(header: _Header, members: _Members) -> str:
    if members.problem:
        return members.problem
    if members.turned > DIRECTION_TOLERANCE:
        return f"its images lie in different directions (cosines differ by {members.turned:.2g}); split it into series"
    sop_class = header.text("SOPClassUID")
    if sop_class in _MULTI_FRAME or (header.number("NumberOfFrames") or 1) > 1:
        kind = _MULTI_FRAME.get(sop_class, "a")
        return (
            f"it is {kind} multi-frame object whose frames do not say where they lie; export it as classic single-frame "
            "DICOM"
        )
    if header.text("Modality") == "CT" and (sop_class == _MR or header.number("MagneticFieldStrength") is not None
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


# --------------------------------------------------------------------------------------------- reading


def read_series(series: Series, notes: list[str] | None = None) -> sitk.Image:
    """The image of a series on one rectangular grid, rescaled (HU for CT).

    Args:
        series: From `find_series`.
        notes: Takes one line for everything that was resampled or dropped.

    Returns:
        16-bit whole numbers where all values are, else 32-bit float. Axes: columns, rows, then along the normal.

    Raises:
        ValueError: If the images are no whole volume; the message names no header value that may be personal.
        OSError: If a file cannot be read.
    """
    notes = [] if notes is None else notes
    stack = _arrange(series, notes)
    along, shift = stack.along_mm, stack.shift_mm
    padded: list[np.ndarray] = []
    volume = np.stack(_pixels(stack.slices, series.size, padded))
    _fill_padding(volume, padded, series.modality, notes)
    if stack.tilted:
        tilt = float(np.degrees(np.arctan2(np.linalg.norm(shift[-1]), along[-1] - along[0])))
        volume = _straighten(volume, shift, series)
        notes.append(f"tilted gantry ({tilt:.1f} degrees): slices were shifted in their plane to a straight grid")
    if not stack.even:
        volume = _interpolate(volume, along, stack.planes_mm)
        gaps = np.diff(along)
        notes.append(
            f"gaps between slices of {gaps.min():.3g} to {gaps.max():.3g} mm: interpolated to {stack.gap_mm:.3g} mm"
        )
    if not np.all(np.isfinite(volume)):
        raise ValueError("it has values that are NaN or infinite; export it again")
    if np.array_equal(volume, np.rint(volume)) and volume.min() >= -32768 and volume.max() <= 32767:
        volume = volume.astype(np.int16)
    else:
        volume = volume.astype(np.float32)
    image = sitk.GetImageFromArray(volume)
    image.CopyInformation(_grid(series, stack))
    return image


def series_grid(series: Series) -> tuple[sitk.Image, list[Slice | None]]:
    """The grid of `read_series` as an image without values, and the image of each of its planes; pixels are not read.

    Planes between the images, where uneven gaps are interpolated, have None.

    Raises:
        ValueError: As `read_series`, where the headers already say it.
    """
    stack = _arrange(series, [])
    grid = _grid(series, stack)
    if stack.even:
        return grid, list(stack.slices)
    apart = np.abs(stack.planes_mm[:, None] - stack.along_mm)
    tolerance = max(GAP_TOLERANCE * stack.gap_mm, GAP_TOLERANCE_MM)
    return grid, [stack.slices[int(mm.argmin())] if mm.min() <= tolerance else None for mm in apart]


def check_series(series: Series) -> None:
    """Raise ValueError where the headers already say that `read_series` will refuse a series."""
    _arrange(series, [])


@dataclass(frozen=True)
class _Stack:
    """Slices in order along the normal, unit vectors, and the distance of the planes of the straight grid."""

    slices: list[Slice]
    rows: np.ndarray
    columns: np.ndarray
    normal: np.ndarray
    gap_mm: float
    even: bool
    straight_mm: float = SHEAR_TOLERANCE_MM

    @property
    def positions_mm(self) -> np.ndarray:
        return np.array([one.position_mm for one in self.slices])

    @property
    def along_mm(self) -> np.ndarray:
        return self.positions_mm @ self.normal

    @property
    def planes_mm(self) -> np.ndarray:
        """Along the normal; the slices' own where these are even."""
        along = self.along_mm
        count = len(along) if self.even else int(np.floor((along[-1] - along[0]) / self.gap_mm + 1e-6)) + 1
        return along[0] + self.gap_mm * np.arange(count)

    @property
    def shift_mm(self) -> np.ndarray:
        """How far each slice leaves the straight line through the first, along the row and down the column."""
        return (self.positions_mm - self.positions_mm[0]) @ np.stack([self.rows, self.columns]).T

    @property
    def tilted(self) -> bool:
        return float(np.abs(self.shift_mm).max()) > self.straight_mm


def _grid(series: Series, stack: _Stack) -> sitk.Image:
    """The straight grid, which holds every slice of a tilted gantry whole."""
    between_rows, between_columns = series.spacing_mm
    low, high = _reach(stack.shift_mm, series) if stack.tilted else np.zeros((2, 2), dtype=int)
    size = np.add(series.size[::-1], high - low)
    grid = sitk.Image([*size.tolist(), len(stack.planes_mm)], sitk.sitkUInt8)
    grid.SetSpacing((between_columns, between_rows, stack.gap_mm))
    grid.SetDirection(np.stack([stack.rows, stack.columns, stack.normal], axis=1).ravel().tolist())
    offset = low[0] * between_columns * stack.rows + low[1] * between_rows * stack.columns
    grid.SetOrigin((stack.positions_mm[0] + offset).tolist())
    return grid


def _arrange(series: Series, notes: list[str]) -> _Stack:
    if series.problem:
        raise ValueError(series.problem)
    if len(series.slices) < FEWEST_SLICES:
        raise ValueError(f"it has {len(series.slices)} images, too few for a volume")
    rows, columns = (np.asarray(series.direction[at : at + 3]) for at in (0, 3))
    if abs(np.linalg.norm(rows) - 1) > 0.01 or abs(np.linalg.norm(columns) - 1) > 0.01 or abs(rows @ columns) > 0.01:
        raise ValueError("its direction (ImageOrientationPatient) is no pair of perpendicular axes; export it again")
    cosine_rounding = max(abs(np.linalg.norm(rows) - 1), abs(np.linalg.norm(columns) - 1), abs(rows @ columns))
    rows = rows / np.linalg.norm(rows)
    columns = columns - (columns @ rows) * rows
    columns = columns / np.linalg.norm(columns)
    normal = np.cross(rows, columns)
    slices = sorted(series.slices, key=lambda one: float(np.dot(one.position_mm, normal)))
    extent = float(np.dot(np.subtract(slices[-1].position_mm, slices[0].position_mm), normal))
    if 0 < extent < SMALLEST_GAP_MM * (len(slices) - 1):
        raise ValueError(
            f"its slices are {extent / (len(slices) - 1):.3g} mm apart, so it is in metres; export it in mm"
        )
    slices = _without_twins(slices, series.size, normal, notes)
    positions = np.array([one.position_mm for one in slices])
    rounding = _rounding_mm(positions)
    straight = max(SHEAR_TOLERANCE_MM, 1.5 * rounding, 3 * cosine_rounding * extent)
    leaves = (positions - positions[0]) @ np.stack([rows, columns]).T
    if SHEAR_TOLERANCE_MM < np.abs(leaves).max() <= straight and cosine_rounding > LARGEST_COSINE_ROUNDING:
        # The positions know the normal better than cosines with two or three decimals.
        normal = (positions[-1] - positions[0]) / np.linalg.norm(positions[-1] - positions[0])
        rows = rows - (rows @ normal) * normal
        rows = rows / np.linalg.norm(rows)
        columns = np.cross(normal, rows)
    along = positions @ normal
    spacing = _median(one.spacing_between_mm for one in slices)
    gap, even = _gap_mm(along, [one.thickness_mm for one in slices], rounding, spacing, notes)
    return _Stack(slices, rows, columns, normal, gap, even, straight)


def _rounding_mm(positions_mm: np.ndarray) -> float:
    """The coarsest decimal, of 1, 0.1 and 0.01 mm, to which all coordinates are rounded; 0 where they are finer."""
    for step in (1.0, 0.1, 0.01):
        if np.abs(positions_mm / step - np.rint(positions_mm / step)).max() < 1e-4:
            return step
    return 0.0


def _without_twins(slices: Sequence[Slice], size: tuple[int, int], normal: np.ndarray, notes: list[str]) -> list[Slice]:
    """Slices without exact copies under another UID; ValueError where different images share a position."""
    kept: list[Slice] = []
    dropped = 0
    for one in slices:
        if kept and abs(np.dot(np.subtract(one.position_mm, kept[-1].position_mm), normal)) < GAP_TOLERANCE_MM:
            if not np.array_equal(*_pixels([one, kept[-1]], size)):
                count = sum(abs(np.dot(np.subtract(o.position_mm, one.position_mm), normal)) < GAP_TOLERANCE_MM
                            for o in slices)  # fmt: skip
                raise ValueError(
                    f"it has {count} different images at one position; split it into series (phases, echoes) first"
                )
            dropped += 1
        else:
            kept.append(one)
    if dropped:
        notes.append(f"{dropped} images are copies of others: counted once")
    if len(kept) < FEWEST_SLICES:
        raise ValueError(f"it has {len(kept)} positions, too few for a volume")
    return kept


def _gap_mm(
    along: np.ndarray,
    thickness_mm: Sequence[float | None],
    rounding_mm: float,
    spacing_mm: float | None,
    notes: list[str],
) -> tuple[float, bool]:
    """Distance of the slices on the straight grid, and whether they lie so already.

    Args:
        along: Positions along the normal, in order.
        thickness_mm: Of each slice.
        rounding_mm: To which the positions are rounded.
        spacing_mm: SpacingBetweenSlices, None if the headers do not say it.
        notes: Takes a line for every two slices that lie much nearer to each other than the others.
    """
    gaps, n = np.diff(along), len(along)
    usual = float(np.quantile(gaps, 0.5, method="lower"))
    tolerance = max(GAP_TOLERANCE * usual, GAP_TOLERANCE_MM)
    fitted, start = np.polyfit(np.arange(n), along, 1)
    off_mm = float(np.abs(along - (start + fitted * np.arange(n))).max())
    if np.all(np.abs(gaps - usual) <= tolerance) and off_mm <= max(tolerance, LARGEST_DRIFT * usual):
        return float((along[-1] - along[0]) / (n - 1)), True
    # Positions in whole mm may be rounded or be meant so: the gap that the headers say decides.
    said = [mm for mm in (spacing_mm, _median(thickness_mm)) if mm is not None]
    if off_mm <= 0.87 * rounding_mm and (
        rounding_mm < 1 or any(equal_within_rounding(fitted, mm, 0, GAP_TOLERANCE) for mm in said)
    ):
        return float(fitted), True
    thinner = [min(pair) if None not in pair else None for pair in pairwise(thickness_mm)]
    near = np.array([
        gap < 0.5 * usual and (mm is None or gap < 0.5 * mm) for gap, mm in zip(gaps, thinner, strict=True)
    ])  # fmt: skip
    smallest = float(gaps[~near].min())
    # Slices that overlap are as thick as the hole that a missing one leaves: then thickness explains nothing.
    shares = [mm / gap for mm, gap in zip(thinner, gaps, strict=True) if mm is not None]
    overlapping = bool(shares) and float(np.median(shares)) > 1.05
    for at, gap in enumerate(gaps):
        explained = [mm for mm in thickness_mm[at : at + 2] if mm is not None]
        if gap > LARGEST_GAP_RATIO * smallest and (overlapping or not explained or max(explained) < 0.95 * gap):
            if gap > 1.5 * usual:
                missing = max(1, round(gap / usual) - 1)
                raise ValueError(
                    f"slices are missing: {gap:.3g} mm between images {at + 1} and {at + 2} of {n}, {usual:.3g} mm "
                    f"between the others, about {missing} lost; export the series again"
                )
            raise ValueError(
                f"its slices lie at uneven distances, {gaps.min():.3g} to {gaps.max():.3g} mm, which their thickness does "
                "not explain; export the series again"
            )
    usual = float(np.quantile(gaps[~near], 0.5, method="lower"))
    planes = int((along[-1] - along[0]) / usual + 1e-6) + 1
    if planes > MOST_PLANES_PER_IMAGE * n:
        raise ValueError(
            f"its slices lie at uneven distances, {smallest:.3g} to {gaps.max():.3g} mm: an even grid of {usual:.3g} mm "
            f"would have {planes} planes for {n} images; export thin and thick slices as two series, or with even gaps"
        )
    short = np.flatnonzero(gaps * LARGEST_GAP_RATIO < usual)
    if len(short) > MOST_SHORT_GAPS:
        notes.append(
            f"{len(short)} gaps between slices are shorter than the {usual:.3g} mm of the grid: detail is lost"
        )
    else:
        notes += [
            f"images {at + 1} and {at + 2} of {n} are only {gaps[at]:.2g} mm apart, the others {usual:.3g} mm: check the "
            "series"
            for at in short
        ]
    return usual, False


def _pixels(slices: Sequence[Slice], size: tuple[int, int], padded: list[np.ndarray] | None = None) -> list[np.ndarray]:
    """Rescaled pixels `(rows, columns)` of each slice, 64-bit float.

    `padded` takes a bool array per slice: the pixels whose value the header names as padding.
    """
    frames = {one.path: _stored(one.path) for one in slices if one.frame is not None}
    result = []
    for one in slices:
        stored, rescale, padding = frames[one.path] if one.frame is not None else _stored(one.path)
        number = one.frame or 0
        if stored.shape[1:] != size or number >= len(stored):
            raise ValueError(
                f"one of its images has {stored.shape[1:]} pixels where the header says {size}; export it again"
            )
        slope, intercept = rescale[number]
        if slope == 0:
            raise ValueError("one of its images has the rescale slope 0, which leaves no image; export it again")
        result.append(stored[number].astype(np.float64) * slope + intercept)
        if padded is not None:
            low, high = (-np.inf, -np.inf) if padding is None else padding
            padded.append((stored[number] >= low) & (stored[number] <= high))
    return result


def _stored(path: Path) -> tuple[np.ndarray, list[tuple[float, float]], tuple[float, float] | None]:
    """Stored pixels `(frames, rows, columns)` of one file, slope and intercept of each frame, and range of the padding."""
    import pydicom

    with tolerant_dicom():
        try:
            dataset = pydicom.dcmread(path, force=True)
            syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", "1.2.840.10008.1.2"))
            per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
            if syntax not in _UNCOMPRESSED and not per_frame:
                pixels = sitk.GetArrayFromImage(_decompress(path))
                padding = _padding(dataset, np.dtype(np.int16 if dataset.get("PixelRepresentation") else np.uint16))
                if padding is not None:  # the pixels are rescaled
                    header = _Header(dataset)
                    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept") or 0.0
                    slope = 1.0 if slope is None else slope
                    low, high = sorted(value * slope + intercept for value in padding)
                    padding = low - 0.5 * abs(slope), high + 0.5 * abs(slope)
                return pixels.reshape(-1, *pixels.shape[-2:]), [(1.0, 0.0)], padding
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = syntax
            shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
            headers = [_Header(_functional_groups(groups, shared)) for groups in per_frame or ()] or [_Header(dataset)]
            slopes = [header.number("RescaleSlope") for header in headers]
            intercepts = [header.number("RescaleIntercept") or 0.0 for header in headers]
            pixels = dataset.pixel_array
            pixels = pixels.reshape(-1, *pixels.shape[-2:])
            padding = _padding(dataset, pixels.dtype)
        except OSError as error:
            raise OSError(f"one of its files cannot be read: {error.strerror or 'I/O error'}") from None
        except Exception as error:
            raise ValueError(
                f"the pixels of one of its files cannot be read ({type(error).__name__}): cut off or compressed in a "
                "way that is not supported; export it again, uncompressed"
            ) from None
    rescale = [
        (1.0 if slope is None else slope, intercept) for slope, intercept in zip(slopes, intercepts, strict=True)
    ]
    return pixels, rescale, padding


def _padding(dataset, dtype: np.dtype) -> tuple[float, float] | None:
    """Lowest and highest stored value that PixelPaddingValue and PixelPaddingRangeLimit name; None without.

    Headers write a negative value as an unsigned one, and the other way round. So 16 bits are read as the pixels' are.
    """
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        try:
            value = dataset.get(keyword)
            if isinstance(value, bytes):  # without a value representation
                value = int.from_bytes(value[:2], "little")
            value = int(value)
            ends.append(float(np.uint16(value % 2**16).astype(dtype) if dtype.itemsize == 2 else value))
        except (TypeError, ValueError):  # missing, empty or no number
            break
    return (min(ends), max(ends)) if ends else None


def _fill_padding(volume: np.ndarray, padded: Sequence[np.ndarray], modality: str, notes: list[str]) -> None:
    """Set pixels that the header names as padding to air in CT, to the lowest measured value in MR; in place.

    Some headers name a value that is tissue elsewhere in the image, such as 0 in HU. Padding surrounds what was
    scanned, so such a value counts only where it hangs together with a corner of its slice. What is darker than all that
    was measured, and in CT what is air anyway, counts everywhere.

    Args:
        volume: Rescaled, `(Z, rows, columns)`.
        padded: Bool `(rows, columns)` per slice.
        modality: `CT` or `MR`.
        notes: Takes a line where only the corners are filled.
    """
    mask = np.stack(padded)
    least, most = PADDED_SHARE
    if not mask.any() or mask.mean() > most:
        return
    measured_low, values = float(volume[~mask].min()), volume[mask]
    is_ct = modality == "CT"
    if not is_ct and values.min() >= 0 and values.max() <= measured_low:
        return  # background already
    if float(values.max()) >= max(measured_low, AIR_PADDING_HU if is_ct else -np.inf):
        for one in mask:
            regions, _ = ndimage.label(one)
            corners = np.setdiff1d(regions[[0, 0, -1, -1], [0, -1, 0, -1]], [0])
            one &= np.isin(regions, corners)
        if mask.mean() < least:
            return
        measured_low = float(volume[~mask].min())
        notes.append(f"padding named in the header, {mask.mean():.0%} of the pixels, was set to background")
    volume[mask] = AIR_HU if is_ct else measured_low


def _decompress(path: Path) -> sitk.Image:
    """One image through GDCM, which applies the rescale slope and intercept itself."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader.Execute()


def _reach(shift_mm: np.ndarray, series: Series) -> tuple[np.ndarray, np.ndarray]:
    """First and last whole pixel `(x, y)` that slices shifted by so much start at."""
    pixel = np.array(series.spacing_mm[::-1])
    low = np.floor(shift_mm.min(axis=0) / pixel + 1e-6).astype(int)
    return low, np.ceil(shift_mm.max(axis=0) / pixel - 1e-6).astype(int)


def _straighten(volume: np.ndarray, shift_mm: np.ndarray, series: Series) -> np.ndarray:
    """Slices on one rectangular grid that holds them all.

    Cubic interpolation within each slice, clipped to the slice's own range; none across slices, so nothing is blurred
    along the normal. What no slice covers is air in CT and the image's minimum in MR.
    """
    pixel = np.array(series.spacing_mm[::-1])
    low, high = _reach(shift_mm, series)
    n, rows, columns = volume.shape
    shape = (rows + high[1] - low[1], columns + high[0] - low[0])
    outside = AIR_HU if series.modality == "CT" else float(volume.min())
    result = np.full((n, *shape), outside)
    for k, one in enumerate(volume):
        at = (shift_mm[k] / pixel - low)[::-1]  # rows, columns
        whole = np.rint(at)
        if np.abs(at - whole).max() < 1e-3:
            r, c = whole.astype(int)
            result[k, r : r + rows, c : c + columns] = one
            continue
        r, c = (np.arange(size)[:, None] for size in shape)
        where = np.meshgrid(r.ravel() - at[0], c.ravel() - at[1], indexing="ij")
        moved = ndimage.map_coordinates(one, where, order=3, mode="nearest")
        covered = ((where[0] >= -0.5) & (where[0] <= rows - 0.5)) & ((where[1] >= -0.5) & (where[1] <= columns - 0.5))
        result[k] = np.where(covered, np.clip(moved, one.min(), one.max()), outside)
    if np.array_equal(volume, np.rint(volume)):
        result = np.rint(result)
    return result


def _interpolate(volume: np.ndarray, along: np.ndarray, straight: np.ndarray) -> np.ndarray:
    """Slices at other positions, linearly between the two neighbours."""
    above = np.clip(np.searchsorted(along, straight, side="right"), 1, len(along) - 1)
    share = np.clip((straight - along[above - 1]) / (along[above] - along[above - 1]), 0.0, 1.0)[:, None, None]
    result = (1 - share) * volume[above - 1] + share * volume[above]
    return np.rint(result) if np.array_equal(volume, np.rint(volume)) else result
