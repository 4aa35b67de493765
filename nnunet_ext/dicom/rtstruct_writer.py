"""RTSTRUCT that a planning system files with the patient and opens beside the CT.

Patient and study are copied from the CT's own headers, in its character set, or in UTF-8 if an organ's name needs other
letters. An element of the CT whose value breaks the standard is left out and said. The structure set is a new series of the
same study, in the CT's frame of reference, and refers to every image of the series. Contours run along the edges of the
voxels, so `rasterise` of `rtstruct_reader` gives the mask back voxel by voxel. Each lies in the plane of one image, as
planning systems expect, also for a tilted gantry, whose images are parallel. A hole is cut by a keyhole, one contour that
runs inwards and back along one line (PS3.3 C.8.8.6.3). Some planning systems unite contours within contours and some
subtract them. A keyhole is the same for both.

Written as Implicit VR Little Endian, in which a contour may have more than the 65,534 bytes of an explicit length.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext._version import __version__
from nnunet_ext.dicom.model import Series, Slice
from nnunet_ext.dicom.rtstruct_reader import DAMAGE, trace_mask
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.stack import series_grid
from nnunet_ext.dicom.text import element_text, stated_charsets, tolerant_dicom
from nnunet_ext.files import check_folder, check_output_file, read_json, written_whole
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.images.geometry import back_to_grid, grid_difference, orientation_code, same_grid
from nnunet_ext.images.label_maps import label_map_of, read_label_map, shown_values
from nnunet_ext.labels.table import load_label_table
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import PREDICTIONS_REMEDY, need, read_dataset_json

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


def rtstruct(
    mask: Path,
    ct_series: Path,
    out: Path,
    *,
    labels_file: Path | None = None,
    dataset_json: Path | None = None,
    notes: list[Message] | None = None,
) -> list[str]:
    """Write the organs of a label map file as RTSTRUCT of the CT series they were contoured on.

    Args:
        mask: Label map on the grid of the series, in any orientation.
        ct_series: Folder with the series, at any depth; of several CTs the one on whose grid the mask lies.
        out: File to write.
        labels_file: Label table, see `labels.load_label_table`.
        dataset_json: `dataset.json` with the labels. Without either, the one beside the mask, or one folder above.
        notes: See `write_rtstruct`.

    Returns:
        Organs without a voxel: they are in the structure set, without contours.

    Raises:
        FileNotFoundError: If a file or folder is not there.
        ValueError: If no series, or more than one, has the mask's grid, or a label has no name.
    """
    from nnunet_ext.labels.values import organ_values
    from nnunet_ext.nnunet_folders import labels_from_dataset_json, organs_not_segmented

    mask = Path(mask)
    check_output_file(out, f"{image_stem(mask) or mask.stem}.dcm")
    label_map = read_label_map(mask)
    if labels_file is not None:
        labels: Mapping = load_label_table(labels_file).values
    elif dataset_json is not None:
        labels = need(read_dataset_json(dataset_json), "labels", dataset_json)
    else:
        labels = labels_from_dataset_json(mask.parent, mask.parent)
        left_out = organs_not_segmented(mask.parent, organ_values(labels))
        labels = {organ: value for organ, value in labels.items() if organ not in left_out}
    manifest = mask.parent / "predictions.json"
    models = []
    if manifest.is_file():
        models = read_json(manifest, {"models?": [str]}, remedy=PREDICTIONS_REMEDY).get("models", [])
    series = _series_of(label_map, Path(ct_series))
    return write_rtstruct(label_map, series, out, labels=labels, model=", ".join(map(str, models[-1:])), notes=notes)


def _series_of(label_map: sitk.Image, folder: Path) -> Series:
    """The one CT (or other image series, where there is no CT) on whose grid a label map lies."""
    if folder.is_file():
        raise NotADirectoryError(
            f"CT series {folder} is a single file; name the folder that holds all images of the series, {folder.parent}"
        )
    check_folder(folder, "folder of the CT series")
    found = find_series(folder).images
    candidates = [one for one in found if one.modality == "CT"] or found
    refused, fitting = [], []
    for one in candidates:
        try:
            _on_grid(label_map, series_grid(one)[0])
            fitting.append(one)
        except ValueError as error:
            refused.append(f"{one.label}: {error}")
    if not fitting:
        raise ValueError(
            f"no image series in {folder} is the one that was contoured. " + ("; ".join(refused) or "There is none")
        )
    if len(fitting) > 1:
        raise ValueError(
            f"{len(fitting)} series in {folder} have the mask's grid: {'; '.join(one.label for one in fitting)}. Give a "
            "folder with the one that was contoured"
        )
    return fitting[0]


def write_rtstruct(
    label_map: sitk.Image,
    series: Series,
    out: Path,
    *,
    labels: Mapping[str, int],
    model: str = "",
    notes: list[Message] | None = None,
) -> list[str]:
    """Write the organs of a label map as RTSTRUCT of the series they were contoured on.

    Args:
        label_map: On the grid of the series (`dicom.stack.series_grid`), its axes in any order and direction.
        series: The CT, from `dicom.series.find_series`.
        out: File to write; replaced only when complete.
        labels: Organ -> label value, as in `dataset.json`, without the organs that the model leaves out. Their order
            gives the organs' numbers and colours, which are those of `labels.colours`.
        model: What drew the contours, for the description of every organ; its first 64 characters go there, all of
            it into the description of the structure set.
        notes: Takes one message for everything of the CT's header that is left out.

    Returns:
        Organs without a voxel. They are in the structure set as organs without contours, and named in its description.

    Raises:
        ValueError: If the label map lies on another grid (the message names both), holds a value that `labels` does
            not know or no organ at all, if an organ lies between the images of a series with uneven gaps, or if the
            series does not say which study and frame of reference it belongs to.
        OSError: If a file cannot be read or written.
    """
    from nnunet_ext.labels.values import organ_values

    organs = organ_values(labels)
    grid, planes = series_grid(series)
    label_map, odd = label_map_of(label_map)
    array = sitk.GetArrayFromImage(_on_grid(label_map, grid))
    box = next(iter(ndimage.find_objects((array != 0).astype(np.uint8))), None)
    if box is None:
        raise ValueError(f"the label map is empty, none of {', '.join(organs)} has a voxel: there is nothing to draw")
    array, grid, planes = array[box], grid[box[::-1]], planes[box[0]]
    known = {0, *(value for values in organs.values() for value in values)}
    if unknown := [*odd, *(value for value in np.unique(array).tolist() if value not in known)]:
        raise ValueError(
            f"the label map holds the value {shown_values(unknown)}, which is none of the labels {dict(labels)}"
        )
    contours = {organ: _contours(organ, np.isin(array, values), grid, planes) for organ, values in organs.items()}
    empty = [organ for organ, polygons in contours.items() if not polygons]
    write_contours(contours, series, out, labels=labels, model=model, notes=notes)
    return empty


def _on_grid(label_map: sitk.Image, grid: sitk.Image) -> sitk.Image:
    turned = sitk.DICOMOrient(label_map, orientation_code(grid))
    if not same_grid(turned, grid):
        raise ValueError(f"the mask lies on another grid than the series: {grid_difference(label_map, grid)}")
    return back_to_grid(turned, grid)


def _contours(organ: str, mask: np.ndarray, grid: sitk.Image, planes: Sequence[Slice | None]) -> list[np.ndarray]:
    """Polygons `(N, 3)` in mm, LPS, each in the plane of its image to the last digit of the image's own position."""
    between = [k for k in np.flatnonzero(mask.any(axis=(1, 2))).tolist() if planes[k] is None]
    if between:
        raise ValueError(
            f"{organ} lies on {len(between)} planes between the images: the gaps of the series are uneven, and the mask "
            "is on the straight grid it was interpolated to. A planning system shows contours on images only; "
            "reconstruct the CT with even gaps and contour that"
        )
    normal = np.reshape(grid.GetDirection(), (3, 3))[:, 2]
    polygons = []
    for points in trace_mask(mask, grid):
        plane = planes[round(grid.TransformPhysicalPointToContinuousIndex(points[0].tolist())[2])]
        polygons.append(points + ((np.asarray(plane.position_mm) - points[0]) @ normal) * normal)
    return polygons


def write_contours(
    contours: Mapping[str, Sequence[np.ndarray]],
    series: Series,
    out: Path,
    *,
    labels: Mapping[str, int] | None = None,
    model: str = "",
    headers: Mapping[str, object] | None = None,
    notes: list[Message] | None = None,
) -> None:
    """Write closed planar contours as RTSTRUCT of a series.

    Args:
        contours: Organ -> polygons `(N, 3)` in mm, LPS, each in the plane of one image; none for an empty organ.
        series: From `dicom.series.find_series`.
        out: File to write; replaced only when complete.
        labels: All organs in label order, for the colours; None for those of `contours`.
        model: See `write_rtstruct`.
        headers: More elements by keyword; they win over ours.
        notes: See `write_rtstruct`.

    Raises:
        ValueError: See `write_rtstruct`; also if a name is no name of a structure.
        OSError: If a file cannot be read or written.
    """
    import pydicom

    out = Path(out)
    with tolerant_dicom():
        image = pydicom.dcmread(series.paths[0], stop_before_pixels=True, force=True)
        dataset = _structure_set(contours, series, image, labels, model, [] if notes is None else notes)
        for keyword, value in (headers or {}).items():
            setattr(dataset, keyword, value)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(out) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)


def _structure_set(
    contours: Mapping[str, Sequence[np.ndarray]],
    series: Series,
    image: Dataset,
    labels: Mapping[str, int] | None,
    model: str,
    notes: list[Message],
) -> Dataset:
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
    """Patient and study byte by byte as in the images, or in UTF-8 where our own text may need other letters than theirs."""
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
    """Copy elements whose value is what their type asks for; keywords of the others.

    Args:
        source: pydicom's dataset, or an item of a sequence.
        target: Takes the elements.
        keys: Keywords or tags.
        charsets: Of the file.
        utf_8: Whether text is written in UTF-8 and not byte by byte.
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
    """ValueError unless the values of an element are what its type asks for: numbers, dates, times, codes."""
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    values = raw.value
    if isinstance(values, bytes):
        values = values.decode("ascii").strip(" \x00").split("\\")
    for value in [values] if values is None or isinstance(values, str) or not hasattr(values, "__iter__") else values:
        validate_value(vr, str(value if value is not None else "").strip(), RAISE)


def _references(series: Series, sop_class: str) -> Dataset:
    """Frame of reference, study, series and all its images; a multi-frame object once, for all its frames."""
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
    """A coordinate as decimal string: `-31.7`, never `-0.0` or `1e-05`."""
    text = f"{value:.{POINT_DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
