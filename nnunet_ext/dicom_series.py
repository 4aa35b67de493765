"""DICOM series: found in any folder, told apart by their headers, checked, and read as one image.

Files are recognised by content, not by name. A series is what shares SeriesInstanceUID, frame of reference, slice
direction and matrix (and the echo time, where one series holds several echoes). Localizers, screen captures and files
that hold no image are set aside and counted. The frames of an enhanced (multi-frame) CT or MR count as one image each.
Reading refuses what would be read wrongly elsewhere: missing slices, two images at one position, metres, colour, other
multi-frame objects. Slices of a tilted gantry, which form no rectangular grid, are shifted in their own plane; uneven
gaps that the slice thickness explains are interpolated.

Header values that may be personal stay inside `Series`; `Series.label` is the only text made for messages.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.image_io import SMALLEST_SPACING_MM
from nnunet_ext.rtstruct import readable_text, tolerant_dicom

#: Gaps between slices may differ by this share, or this many mm, and count as even: headers round positions.
GAP_TOLERANCE, GAP_TOLERANCE_MM = 0.01, 0.02
#: Uneven gaps up to this ratio are interpolated; larger ones only where the slice thickness covers them.
LARGEST_GAP_RATIO = 1.2
#: Slices nearer to each other on average were meant in metres.
SMALLEST_GAP_MM = 0.1
#: Slices that leave the straight line through the first by more than this belong to a tilted gantry.
SHEAR_TOLERANCE_MM = 0.1
#: Cosines of one series agree to this; images that differ by more and less than the second were meant to agree.
DIRECTION_TOLERANCE, OTHER_DIRECTION = 1e-3, 0.1
#: Fewer images than this are a localizer or a single picture, no volume.
FEWEST_SLICES = 3
AIR_HU = -1000.0
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
    "TimeOfFlightContrast", "AcquisitionContrast",
]  # fmt: skip


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
    echo_time_ms: float | None
    frame: int | None = None


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
    slices: tuple[Slice, ...] = ()
    direction: tuple[float, ...] = ()
    spacing_mm: tuple[float, float] = (0.0, 0.0)
    size: tuple[int, int] = (0, 0)

    @property
    def paths(self) -> list[Path]:
        return list(dict.fromkeys(one.path for one in self.slices))


@dataclass
class Tree:
    """What a folder holds: image series, RTSTRUCTs, a count of what was set aside, and words that are personal."""

    images: list[Series] = field(default_factory=list)
    structures: list[Series] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)
    personal: dict[str, frozenset[str]] = field(default_factory=dict)


# --------------------------------------------------------------------------------------------- finding


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its content: the mark `DICM`, or without preamble a first tag of group 0002 or 0008."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    if start[128:132] == b"DICM":
        return True
    if len(start) < 16 or start[:2] not in (b"\x08\x00", b"\x02\x00") or start[3:4] != b"\x00":
        return False
    # `08 00 05 00 43 53` (explicit) or a short length (implicit): a NIfTI or text file has neither.
    return start[4:6] in (b"CS", b"UI", b"UL", b"OB") or (
        start[2] <= 0x18 and int.from_bytes(start[4:8], "little") < 256
    )


def has_dicom(folder: Path, most: int = 200) -> bool:
    """Whether there is DICOM among the first files of a folder, at any depth."""
    for looked_at, path in enumerate(_files(folder)):
        if looked_at >= most:
            return False
        if is_dicom(path):
            return True
    return False


def _files(folder: Path) -> Iterable[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.upper() != "DICOMDIR":
                yield Path(root, name)


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
        for path in progress(list(_files(Path(folder)))):
            if not is_dicom(path):
                tree.ignored["files that are not DICOM"] += 1
                continue
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            except Exception:
                tree.ignored["DICOM files that cannot be read"] += 1
                continue
            header = _Header(header)
            sop_class = header.text("SOPClassUID")
            patient = _patient(header)
            words = tree.personal.get(patient.key, frozenset()) | _personal_words(header, patient)
            tree.personal[patient.key] = words
            if sop_class == _RTSTRUCT or header.text("Modality") == "RTSTRUCT":
                first = structures.setdefault(header.text("SOPInstanceUID"), path)
                if first != path and first.read_bytes() == path.read_bytes():
                    tree.ignored["copies of the same RTSTRUCT"] += 1
                else:
                    tree.structures.append(_structure(header, patient, path))
                continue
            sop = header.text("SOPInstanceUID")
            for frame, image in _frames(header, sop_class):
                aside = _set_aside(image, image.text("SOPClassUID"))
                if aside:
                    tree.ignored[aside] += 1
                    continue
                place = (sop, image.numbers("ImagePositionPatient", 3))
                if sop and seen.setdefault((sop, frame), place) != place:
                    tree.ignored["images under the UID of another image"] += 1
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
                        tree.ignored["single images and localizers"] += len(one.slices)
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
    """Files of one series; whole headers only of the first image of every echo, for a tree may hold 100,000 files."""

    direction: np.ndarray
    headers: dict[float | None, _Header] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    spacings: set = field(default_factory=set)
    photometric: set[str] = field(default_factory=set)
    turned: float = 0.0
    problem: str = ""

    def add(self, header: _Header, path: Path, sop: str, frame: int | None, direction: np.ndarray) -> None:
        echo = header.number("EchoTime")
        position = header.numbers("ImagePositionPatient", 3) or (0.0, 0.0, 0.0)
        self.slices.append(Slice(path, sop, position, header.number("SliceThickness"), echo, frame))
        self.spacings.add(header.numbers("PixelSpacing", 2))
        self.photometric.add(header.text("PhotometricInterpretation"))
        self.turned = max(self.turned, float(np.abs(direction - self.direction).max()))
        if len(self.headers) < 8:
            self.headers.setdefault(echo, header)


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
        kind = [*(values["ImageType"] or ()), values.pop("AcquisitionContrast") or ""]
        if float(values.pop("DiffusionBValue", 0) or 0) > 0:
            kind.append("DIFFUSION")
        values["ImageType"] = kind
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
    """Text with personal words and dates replaced by `***`.

    Latin words of two letters count only with `short`, where they stand alone, and then for texts of a header: in our
    own sentences a patient called An would black out an article.
    """
    for word in sorted(words, key=len, reverse=True):
        if len(word) > 2 or not word.isascii():
            text = re.sub(re.escape(word), "***", text, flags=re.IGNORECASE)
        elif short:
            text = re.sub(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", "***", text, flags=re.IGNORECASE)
    return _DATE.sub("***", text)


def _with_label(series: Series, tree: Tree) -> Series:
    text = without_personal(series.description, tree.personal[series.patient.key], short=True)
    number = "series" if series.number is None else f"series {series.number}"
    if len(series.slices) and series.modality != "RTSTRUCT":
        return replace(series, label=f"{number} '{text}' ({series.modality}, {len(series.slices)} images)")
    return replace(series, label=f"{number} '{text}' ({series.modality})")


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
        slices=(Slice(path, header.text("SOPInstanceUID"), (0.0, 0.0, 0.0), None, None),),
    )  # fmt: skip


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _series(members: _Members, tree: Tree) -> list[Series]:
    """Series of files that share UID, frame, direction and matrix: usually one, one per echo where positions repeat."""
    header = next(iter(members.headers.values()))
    slices: list[Slice] = []
    seen = set()
    for one in members.slices:
        if one.sop_uid and (one.sop_uid, one.frame) in seen:
            tree.ignored["copies of the same image"] += 1
            continue
        seen.add((one.sop_uid, one.frame))
        slices.append(one)
    direction = header.numbers("ImageOrientationPatient", 6) or ()
    channel, reason, more = classify(header.text, header.number)
    base = Series(
        _patient(header), header.text("SeriesInstanceUID"), header.text("StudyInstanceUID"),
        header.text("FrameOfReferenceUID"), header.text("Modality"), _whole(header.number("SeriesNumber")),
        header.text("SeriesDescription") or header.text("ProtocolName"), "",
        names=tuple(t for t in (header.text("SeriesDescription"), header.text("ProtocolName")) if t),
        channel=channel, reason=reason, notes=tuple(more), slices=tuple(slices), direction=direction,
        spacing_mm=header.numbers("PixelSpacing", 2) or (0.0, 0.0),
        size=(int(header.number("Rows") or 0), int(header.number("Columns") or 0)),
        derived=header.text("ImageType").upper().startswith("DERIVED"),
    )  # fmt: skip
    base = replace(base, problem=_header_problem(header, members))
    echoes = {one.echo_time_ms for one in slices}
    positions = {one.position_mm for one in slices}
    if 1 < len(echoes) <= 4 and len(slices) == len(echoes) * len(positions) and not base.problem:
        parts = []
        for echo in sorted(echoes, key=lambda value: value or 0.0):
            own = members.headers[echo]
            channel, reason, more = classify(own.text, own.number, use_words=False)
            parts.append(replace(base, channel=channel, reason=reason, notes=tuple(more),
                                 slices=tuple(one for one in slices if one.echo_time_ms == echo)))  # fmt: skip
        return parts
    return [base]


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
    spacing = header.numbers("PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        return "its pixel spacing is missing or not positive; export it again"
    if max(spacing) < SMALLEST_SPACING_MM:
        return f"its pixels measure {spacing[0]:g} x {spacing[1]:g} mm, so it is in metres; export it in mm"
    if members.photometric - {"MONOCHROME2", ""}:
        return "its pixels are not plain grey values (MONOCHROME2); export it again"
    if len(members.spacings) > 1:
        return "its images have different pixel spacings; split it into series"
    return ""


# ------------------------------------------------------------------------------------- which channel


_OTHER = (
    r"\w*adc|\w*dwi|diff\w*|apparent diffusion|trace\w*|epi|dti|fa|swi|swan|mra|tof|mip|perf\w*|asl|dsc|dce|dyn\w*|"
    r"twist|bold|fmri|phase|b0|b1map|fieldmap|field map|(?:t[12][ _-]?)?map\w*|molli|sub|subtr\w*|pd|pdw|proton|stir|ciss|"
    r"fiesta|survey|scout|locali[sz]er|loc|scano\w*|mrs|svs|弥散|扩散|灌注|定位"
)
_FLAIR = r"\w*flair|tirm|da(?:rk)?[ _-]?fl(?:uid)?|压水|水抑制"
#: FLAIR nulls the fluid with an inversion time above this; STIR nulls fat with a shorter one.
_FLUID_INVERSION_MS = 1500
_CONTRAST = r"gd|gad\w*|contrast|post|postgd|ce|cet1\w*|km|enh\w*|cemr\w*|dotarem|gadovist|magnevist|\+c|c\+|增强"
_FAT_SATURATED = r"fs|fatsat|fat sat|spir|spair|chess|抑脂|压脂"
#: Words of ImageType, and AcquisitionContrast, for what is computed from images or weighted otherwise.
_OTHER_TYPES = (
    r"fluid_attenuated|t2_star|proton_density|adc|diffusion|trace\w*|fa|projection image|mip|perfusion|angio|subtraction|"
    r"t[12] map|phase(?: map)?|p"
)


def _word(pattern: str, text: str) -> bool:
    return re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])", text) is not None


def classify(
    text: Callable[[str], str], number: Callable[[str], float | None], *, use_words: bool = True
) -> tuple[str, str, list[str]]:
    """Channel of a series from its headers, why, and notes.

    Names count first (`T1`, `MPRAGE`; `T2`), then echo and repetition time: T1 at TE <= 30 ms with TR <= 1200 ms,
    T2 at TE >= 60 ms with TR >= 1500 ms. A name that the times contradict is not believed. FLAIR, STIR, PD, diffusion,
    angiography and maps are no channel. Other languages and house names: use the mapping file.
    """
    modality = text("Modality")
    if modality == "CT":
        return "CT", "modality CT", []
    if modality != "MR":
        return "", "no CT or MR", []
    words = " ".join(text(tag) for tag in ("SeriesDescription", "ProtocolName")).lower() if use_words else ""
    words = re.sub(r"([^\x00-\x7f]+)", r" \1 ", words.replace("_", " "))  # Chinese words have no blanks around them
    te, tr, ti = number("EchoTime"), number("RepetitionTime"), number("InversionTime")
    sequence = text("ScanningSequence").upper().split("\\")
    gradient = "GR" in sequence
    kind = next((k for k in text("ImageType").lower().split("\\") if re.fullmatch(_OTHER_TYPES, k)), "")
    if kind:
        return "", f"its image type says {kind.upper()}", []
    if "EP" in sequence or text("SequenceName").lower().startswith(("*ep", "ep")):
        return "", "it is echo-planar (diffusion, perfusion)", []
    if text("AngioFlag") == "Y":
        return "", "it is an angiography", []
    t1 = re.search(r"(?<![a-z0-9])(?:ce)?t1(?![0-9])", words) is not None or _word(
        r"mp-?rage|mp2rage|spgr|f?spgr|bravo|vibe|lava|thrive|cube t1|tfl3d\w*", words)  # fmt: skip
    t2 = re.search(r"(?<![a-z0-9])t2(?![0-9*])", words) is not None and not re.search(r"t2[\s-]?(?:\*|star)", words)
    flair = _word(_FLAIR, words)
    by_times = ""
    if te is not None and tr is not None:
        # A gradient echo with a longer echo time is weighted by susceptibility.
        if te <= (10 if gradient else 30) and (tr <= 1200 or (ti is not None and ti > 0 and tr <= 3000)):
            by_times = "T1"
        elif te >= 60 and tr >= 1500 and not gradient:
            by_times = "T2"
    times = "" if te is None or tr is None else f"TE {te:g} ms, TR {tr:g} ms"
    notes = []
    if text("ContrastBolusAgent") not in ("", "NONE", "None", "none", "NO", "No") or (use_words and re.search(
            rf"(?<![a-z0-9+])(?:{_CONTRAST})(?![a-z0-9+])", words)):  # fmt: skip
        notes = ["contrast-enhanced"]
    fat = ["fat-saturated"] if _word(_FAT_SATURATED, words) else []
    if t1 == t2 and use_words and (t1 or _word(_OTHER, words) or flair):
        return "", "its name says neither T1 nor T2 alone", []
    if (t2 or by_times == "T2") and ti is not None and ti > _FLUID_INVERSION_MS:
        return "", f"its inversion time of {ti:g} ms is that of a FLAIR", []
    if t1 != t2:
        named = "T1" if t1 else "T2"
        if _word(_OTHER, words) or (flair and t2):
            return "", f"its name says {named} and a special sequence", []
        if times and ((named == "T1" and te >= 60) or (named == "T2" and te < 30)):
            return "", f"its name says {named} but {times} does not", []
        return named, "named so" + (f", {times}" if times else ""), (notes if named == "T1" else []) + fat
    if by_times:
        return by_times, times, (notes if by_times == "T1" else []) + fat
    return "", f"neither its name nor its times say T1 or T2{f' ({times})' if times else ''}", []


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
        return along[0] + self.gap_mm * np.arange(int(np.floor((along[-1] - along[0]) / self.gap_mm + 1e-6)) + 1)

    @property
    def shift_mm(self) -> np.ndarray:
        """How far each slice leaves the straight line through the first, along the row and down the column."""
        return (self.positions_mm - self.positions_mm[0]) @ np.stack([self.rows, self.columns]).T

    @property
    def tilted(self) -> bool:
        return float(np.abs(self.shift_mm).max()) > SHEAR_TOLERANCE_MM


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
    along = np.array([one.position_mm for one in slices]) @ normal
    gap, even = _gap_mm(along, [one.thickness_mm for one in slices])
    return _Stack(slices, rows, columns, normal, gap, even)


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


def _gap_mm(along: np.ndarray, thickness_mm: Sequence[float | None]) -> tuple[float, bool]:
    """Distance of the slices on the straight grid, and whether they lie so already."""
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    if np.all(np.abs(gaps - usual) <= max(GAP_TOLERANCE * usual, GAP_TOLERANCE_MM)):
        return float((along[-1] - along[0]) / (len(along) - 1)), True
    smallest = float(gaps.min())
    # Slices that overlap are as thick as the hole that a missing one leaves: then thickness explains nothing.
    thinner = [
        min(pair) / gap for *pair, gap in zip(thickness_mm, thickness_mm[1:], gaps, strict=False) if None not in pair
    ]
    overlapping = bool(thinner) and float(np.median(thinner)) > 1.05
    for at, gap in enumerate(gaps):
        explained = [mm for mm in thickness_mm[at : at + 2] if mm is not None]
        if gap > LARGEST_GAP_RATIO * smallest and (overlapping or not explained or max(explained) < 0.95 * gap):
            if gap > 1.5 * usual:
                missing = max(1, round(gap / usual) - 1)
                raise ValueError(
                    f"slices are missing: {gap:.3g} mm between images {at + 1} and {at + 2} of {len(along)}, {usual:.3g} mm "
                    f"between the others, about {missing} lost; export the series again"
                )
            raise ValueError(
                f"its slices lie at uneven distances, {smallest:.3g} to {gaps.max():.3g} mm, which their thickness does "
                "not explain; export the series again"
            )
    return smallest, False


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
