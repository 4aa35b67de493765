"""An RTSTRUCT as a DICOM dataset: patient and study of the CT, references to its images, regions and contours.

Patient and study are copied from the CT's own headers, in its character set, or in UTF-8 if an organ's name needs other
letters. An element of the CT whose value breaks the standard is left out and said. The structure set is a new series of the
same study, in the CT's frame of reference, and refers to every image of the series.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext._version import __version__
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rtstruct_reader import DAMAGE
from nnunet_ext.dicom.text import element_text, stated_charsets
from nnunet_ext.messages import Message

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.dataset import Dataset

logger = logging.getLogger(__name__)
#: Points are written to 0.1 micrometre. This is far below a voxel, and fits a decimal string of 16 characters.
POINT_DECIMALS = 4
#: Some planning systems cut the names of structures here, and TG-263 keeps to it.
LONGEST_NAME = 16
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"  # retired, and what planning systems write as the class of the referenced study
_UTF_8 = "ISO_IR 192"
_CHARACTER_SET = 0x00080005
#: Types whose values have a form that can be checked.
_FORMATTED = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
#: Patient and study as the images have them. The first must be there, empty if unknown. The others may be left out.
_COPIED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "PositionReferenceIndicator",
)  # fmt: skip
_COPIED_IF_THERE = (
    "SpecificCharacterSet", "IssuerOfPatientID", "OtherPatientIDs", "OtherPatientIDsSequence", "PatientBirthTime",
    "EthnicGroup", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod", "PatientAge", "PatientSize",
    "DeidentificationMethodCodeSequence", "PatientWeight", "StudyDescription", "PhysiciansOfRecord",
    "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence",
)  # fmt: skip


def structure_set(
    contours: Mapping[str, Sequence[np.ndarray]],
    series: Series,
    image: Dataset,
    labels: Mapping[str, int] | None,
    model: str,
    notes: list[Message],
) -> Dataset:
    """The RTSTRUCT of a series as a DICOM dataset.

    Args:
        contours: Organ -> polygons `(N, 3)` in mm, LPS, each in the plane of one image.
        series: The CT.
        image: Header of one of its images.
        labels: All organs in label order, for the colours. None for those of `contours`.
        model: Name of the model that drew the contours.
        notes: Takes one message for everything of the CT's header that is left out.

    Raises:
        ValueError: If the series lacks a UID, or an organ's name is no name of a structure.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, generate_uid

    from nnunet_ext.labels.colours import colours

    uids = {
        "StudyInstanceUID": series.study_uid,
        "SeriesInstanceUID": series.uid,
        "FrameOfReferenceUID": series.frame_of_reference_uid,
        "SOPInstanceUID": all(one.sop_uid for one in series.slices),
        "SOPClassUID": image.get("SOPClassUID"),
    }
    if missing := [keyword for keyword, uid in uids.items() if not uid]:
        raise ValueError(
            f"the series has no {', '.join(missing)}: no planning system could place contours on it; export it again"
        )
    _check_names(contours)
    software = f"nnunet_ext {__version__}"
    drawn_by = f"{software}: {model}" if model else software
    empty = [organ for organ, polygons in contours.items() if not len(polygons)]
    description = f"Automatic, not reviewed. {drawn_by}." + (f" Not found: {', '.join(empty)}." if empty else "")

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    _copy_patient_and_study(image, dataset, "".join((*contours, model)), notes)
    now = datetime.now()
    for moment in ("InstanceCreation", "Series", "StructureSet"):
        setattr(dataset, f"{moment}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{moment}Time", now.strftime("%H%M%S"))
    dataset.SOPClassUID, dataset.SOPInstanceUID = _RTSTRUCT, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = series.study_uid, generate_uid()
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "RTSTRUCT", 99, 1
    dataset.SeriesDescription = f"Contours by {software}"
    dataset.OperatorsName = ""
    dataset.Manufacturer = dataset.ManufacturerModelName = "nnunet_ext"
    dataset.SoftwareVersions = __version__
    dataset.FrameOfReferenceUID = series.frame_of_reference_uid
    dataset.StructureSetLabel = "nnunet_ext auto"  # at most 16 characters
    dataset.StructureSetDescription = description[:1024]
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_references(series, image.SOPClassUID)]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    colour = colours(labels or {organ: number for number, organ in enumerate(contours, start=1)})
    for number, (organ, polygons) in enumerate(contours.items(), start=1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, organ, "AUTOMATIC"
        roi.ROIGenerationDescription = drawn_by.replace("\\", "/")[:64]  # a backslash parts two values
        roi.ReferencedFrameOfReferenceUID = series.frame_of_reference_uid
        drawn.ReferencedROINumber = number
        drawn.ROIDisplayColor = [int(colour[organ][at : at + 2], 16) for at in (1, 3, 5)]
        if len(polygons):  # a list without items is not allowed; an organ without the list is
            drawn.ContourSequence = _drawing(polygons, series, image.SOPClassUID)
        observed.ObservationNumber = observed.ReferencedROINumber = number
        observed.RTROIInterpretedType, observed.ROIInterpreter = "ORGAN", ""
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
        dataset.RTROIObservationsSequence.append(observed)
    return dataset


def _copy_patient_and_study(image: Dataset, dataset: Dataset, our_text: str, notes: list[Message]) -> None:
    """Patient and study byte by byte as in the images, or in UTF-8 if our own text needs other letters than theirs."""
    utf_8 = not our_text.isascii()
    left_out = _copy(image, dataset, (*_COPIED, *_COPIED_IF_THERE), stated_charsets(image), utf_8=utf_8)
    for keyword in _COPIED:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if utf_8:
        dataset.SpecificCharacterSet = _UTF_8
    notes += [Message("breaks_the_standard", {"keyword": keyword}) for keyword in left_out]


def _copy(
    source: Dataset, target: Dataset, keys: Iterable[str | int], charsets: Sequence[str], *, utf_8: bool
) -> list[str]:
    """Copy elements whose value keeps to its type.

    Args:
        source: pydicom's dataset, or an item of a sequence.
        target: Takes the elements.
        keys: Keywords or tags.
        charsets: Of the file.
        utf_8: Whether text is written in UTF-8 and not byte by byte.

    Returns:
        Keywords of the elements that were left out.
    """
    from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag
    from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

    charsets = stated_charsets(source) or charsets
    left_out = []
    for key in keys:
        tag = Tag(key)
        if tag not in source or (utf_8 and tag == _CHARACTER_SET):
            continue
        raw = source.get_item(tag)
        try:
            vr = str(raw.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"))
            if vr == "SQ":
                items = []
                for item in source[tag].value:
                    items.append(Dataset())
                    left_out += _copy(item, items[-1], list(item.keys()), charsets, utf_8=utf_8)
                target.add(DataElement(tag, "SQ", items))
            elif vr not in CUSTOMIZABLE_CHARSET_VR:
                if vr in _FORMATTED and tag != _CHARACTER_SET:  # which may be wrong, and yet the bytes are the CT's
                    _check_value(raw, vr)
                target.add(source[tag])
            elif utf_8:
                text = element_text(source, tag, charsets)
                several = "\\" in text and vr in ("LO", "SH", "PN", "UC")
                target.add(DataElement(tag, vr, text.split("\\") if several else text))
            else:
                target[tag] = raw
        except (*DAMAGE, ValueError, ArithmeticError):
            left_out.append(keyword_for_tag(tag) or str(tag))
    return left_out


def _check_value(raw: DataElement | RawDataElement, vr: str) -> None:
    """ValueError unless the values of an element keep to its type, such as a number, a date or a code."""
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    values = raw.value
    if isinstance(values, bytes):
        values = values.decode("ascii").strip(" \x00").split("\\")
    for value in [values] if values is None or isinstance(values, str) or not hasattr(values, "__iter__") else values:
        validate_value(vr, str(value if value is not None else "").strip(), RAISE)


def _references(series: Series, sop_class: str) -> Dataset:
    """Frame of reference, study, series and all its images. A multi-frame object stands once, for all its frames."""
    from pydicom.dataset import Dataset

    frame, of_study, of_series = Dataset(), Dataset(), Dataset()
    frame.FrameOfReferenceUID = series.frame_of_reference_uid
    frame.RTReferencedStudySequence = [of_study]
    of_study.ReferencedSOPClassUID, of_study.ReferencedSOPInstanceUID = _STUDY, series.study_uid
    of_study.RTReferencedSeriesSequence = [of_series]
    of_series.SeriesInstanceUID = series.uid
    of_series.ContourImageSequence = [
        _reference(sop_uid, sop_class) for sop_uid in dict.fromkeys(one.sop_uid for one in series.slices)
    ]
    return frame


def _reference(sop_uid: str, sop_class: str, frame: int | None = None) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
    if frame is not None:
        item.ReferencedFrameNumber = frame + 1
    return item


def _drawing(polygons: Sequence[np.ndarray], series: Series, sop_class: str) -> list:
    """One item per polygon, which refers to the image in whose plane it lies."""
    from pydicom.dataset import Dataset

    normal = np.cross(series.direction[:3], series.direction[3:])
    along_mm = np.array([one.position_mm for one in series.slices]) @ normal
    items = []
    for number, polygon in enumerate(polygons, start=1):
        drawn_on = series.slices[int(np.abs(along_mm - polygon[0] @ normal).argmin())]
        item = Dataset()
        item.ContourNumber, item.ContourGeometricType = number, "CLOSED_PLANAR"
        item.ContourImageSequence = [_reference(drawn_on.sop_uid, sop_class, drawn_on.frame)]
        item.NumberOfContourPoints = len(polygon)
        item.ContourData = [_decimal(value) for value in np.ravel(polygon).tolist()]
        items.append(item)
    return items


def _check_names(organs: Iterable[str]) -> None:
    cut: dict[str, str] = {}
    for organ in organs:
        if not 1 <= len(organ) <= 64 or "\\" in organ or not organ.isprintable():
            raise ValueError(
                f"{organ!r} cannot be the name of a structure: it needs 1 to 64 characters, no backslash and no control "
                "character"
            )
        if len(organ) > LONGEST_NAME:
            logger.warning("%s: planning systems may cut the name after %d characters", organ, LONGEST_NAME)
        other = cut.setdefault(organ[:LONGEST_NAME], organ)
        if other != organ:
            logger.warning("%s and %s have the same first %d characters: planning systems that cut names cannot tell them "
                           "apart", other, organ, LONGEST_NAME)  # fmt: skip


def _decimal(value: float) -> str:
    """A coordinate as decimal string, such as `-31.7`, never `-0.0` or `1e-05`."""
    text = f"{value:.{POINT_DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
