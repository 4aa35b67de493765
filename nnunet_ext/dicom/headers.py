"""Headers of DICOM files, and of the frames of multi-frame objects."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.text import element_text, readable_text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
MULTI_FRAME = {
    f"{CT_IMAGE}.1": "an enhanced CT",
    f"{CT_IMAGE}.2": "a legacy converted enhanced CT",
    f"{MR_IMAGE}.1": "an enhanced MR",
    f"{MR_IMAGE}.3": "an enhanced colour MR",
    f"{MR_IMAGE}.4": "a legacy converted enhanced MR",
}
#: Headers of a classic image as a frame of an enhanced object has them: sequence, element, classic element.
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
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
TAGS = [
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
#: Private elements of GE: the creator, and a number for magnitude (0), phase, real or imaginary part (1 to 3).
GE_COMPLEX = (0x00430010, 0x0043102F)
#: Elements of `TAGS` that are text in the character set of the file.
_TEXTS = {
    "AccessionNumber", "AcquisitionContrast", "ContrastBolusAgent", "OtherPatientIDs", "PatientID", "PatientName",
    "ProtocolName", "SequenceName", "SeriesDescription", "StructureSetLabel", "StudyID",
}  # fmt: skip


def start_of_rtstruct(path: Path) -> FileDataset | None:
    """Header of an RTSTRUCT up to its sequences, so that one that is cut off is not overlooked. None of other files."""
    from pydicom.filereader import read_partial

    try:
        with path.open("rb") as file:
            header = read_partial(file, stop_when=lambda tag, vr, length: tag >= 0x30060010, force=True)
    except Exception:
        return None
    return header if header.get("SOPClassUID") == RTSTRUCT else None


def frames(header: Header, sop_class: str) -> list[tuple[int | None, Header]]:
    """Frames of an enhanced object under the headers of classic images. Of any other file, its own header.

    If the frames have no position, it is the file's own header too, and the file is refused as a whole.
    """
    itself: list[tuple[int | None, Header]] = [(None, header)]
    count = header.number("NumberOfFrames") or 1
    per_frame = header.dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if sop_class not in MULTI_FRAME or len(per_frame) != count:
        return itself
    shared = (header.dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    common = {tag: header.dataset.get(tag) for tag in TAGS if not tag.endswith("GroupsSequence")}
    common["SOPClassUID"] = CT_IMAGE if sop_class.startswith(CT_IMAGE) else MR_IMAGE
    common["NumberOfFrames"] = None
    sequence = ["GR"] if header.text("EchoPulseSequence") == "GRADIENT" else []
    sequence += ["EP"] if header.text("EchoPlanarPulseSequence") == "YES" else []
    common["ScanningSequence"] = sequence or common["ScanningSequence"]
    if header.text("TimeOfFlightContrast") == "YES":
        common["AngioFlag"] = "Y"
    frames: list[tuple[int | None, Header]] = []
    for number, groups in enumerate(per_frame):
        values = {**common, **functional_groups(groups, shared)}
        kind = values["ImageType"] or ()
        values["ImageType"] = [*([kind] if isinstance(kind, str) else kind), values.pop("AcquisitionContrast") or ""]
        frame = Header(values)
        if frame.numbers("ImagePositionPatient", 3) is None or frame.numbers("ImageOrientationPatient", 6) is None:
            return itself
        frames.append((number, frame))
    return frames


def functional_groups(groups: Dataset, shared: Dataset | dict[str, Any]) -> dict[str, Any]:
    """Classic element -> value of one frame. A frame's own group goes before the shared one."""
    values = {}
    for sequence, element, classic in _FUNCTIONAL_GROUPS:
        items = groups.get(sequence) or shared.get(sequence)
        value = items[0].get(element) if items else None
        if value is not None:
            values[classic] = np.ravel(value)[0] if element == "InversionTimes" else value
    return values


class Header:
    """A dataset, or values by keyword as of one frame, that is read without errors and warnings."""

    def __init__(self, dataset: Dataset | dict[str, Any]) -> None:
        self.dataset = dataset

    def text(self, tag: str) -> str:
        """Text of an element, with backslashes between several values. Empty if there is none."""
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
        """Value of an element that has one number. None if it has none."""
        values = self.numbers(tag, 1)
        return values[0] if values else None

    def numbers(self, tag: str, count: int) -> tuple[float, ...] | None:
        """Values of an element, None unless these are `count` finite numbers."""
        try:
            value: Any
            if tag == "RawDataType" and not isinstance(self.dataset, dict):
                creator, element = (self.dataset.get(one) for one in GE_COMPLEX)
                value = element.value if str(creator.value) == "GEMS_PARM_01" else None
                value = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else value
            else:
                value = self.dataset.get(tag)
            values = [float(item) for item in ([value] if count == 1 else value)]
        except Exception:
            return None
        return tuple(values) if len(values) == count and np.all(np.isfinite(values)) else None

    def point(self, tag: str) -> tuple[float, float, float] | None:
        """Three numbers, `(x, y, z)`. None if there are none."""
        values = self.numbers(tag, 3)
        return None if values is None else (values[0], values[1], values[2])


def median_of_known(values: Iterable[float | None]) -> float | None:
    """Median of the positive values. None if there is none."""
    known = [value for value in values if value is not None and value > 0]
    return float(np.median(known)) if known else None
