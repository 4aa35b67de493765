"""Images as classic DICOM series and organ contours as RTSTRUCT, with no more headers than readers need.

For phantoms and tests: every value is synthetic, dates are left empty, and the same input gives the same UIDs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.geometry import index_to_world

_CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class Study:
    """What the files of one study share. Equal `frame_of_reference` words mean one coordinate system."""

    patient_id: str
    patient_name: str = ""
    study: str = "1"
    frame_of_reference: str = "1"

    def uid(self, *words: object) -> str:
        from pydicom.uid import generate_uid

        return generate_uid(entropy_srcs=["nnunet_ext", self.patient_id, *map(str, words)])


def write_series(
    image: sitk.Image,
    folder: Path,
    *,
    modality: str,
    study: Study,
    number: int,
    description: str = "",
    headers: Mapping[str, object] | None = None,
    name: str = "{:04d}.dcm",
) -> list[Path]:
    """One file per slice along the image's third axis.

    Args:
        image: 16-bit whole numbers, any orientation; CT in HU.
        folder: Made if missing.
        modality: `CT` or `MR`.
        study: Patient, study and frame of reference.
        number: SeriesNumber; with the study it makes the series' UID.
        description: SeriesDescription.
        headers: More elements by keyword, such as `EchoTime`; they win over ours.
        name: File name of slice 1, 2, ...

    Returns:
        The files, in slice order.
    """
    array = sitk.GetArrayFromImage(image).astype(np.int16)
    matrix = index_to_world(image)
    spacing = image.GetSpacing()
    direction = np.reshape(image.GetDirection(), (3, 3))
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k, pixels in enumerate(array):
        dataset = _dataset(_CLASS[modality], study.uid(study.study, number, k), study, modality)
        dataset.SeriesInstanceUID = study.uid(study.study, number)
        dataset.SeriesNumber = number
        dataset.SeriesDescription = description
        dataset.InstanceNumber = k + 1
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.FrameOfReferenceUID = study.uid("frame", study.frame_of_reference)
        dataset.PositionReferenceIndicator = ""
        dataset.ImagePositionPatient = _decimals(matrix[:3, 3] + k * matrix[:3, 2])
        dataset.ImageOrientationPatient = _decimals([*direction[:, 0], *direction[:, 1]])
        dataset.PixelSpacing = _decimals([spacing[1], spacing[0]])
        dataset.SliceThickness = _decimals([spacing[2]])[0]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 1
        dataset.RescaleIntercept, dataset.RescaleSlope = (-1024, 1) if modality == "CT" else (0, 1)
        stored = np.clip(pixels.astype(np.int32) + (1024 if modality == "CT" else 0), -32768, 32767)
        dataset.PixelData = stored.astype("<i2").tobytes()
        for keyword, value in (headers or {}).items():
            setattr(dataset, keyword, value)
        files.append(folder / name.format(k + 1))
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def write_rtstruct(
    organs: Mapping[str, Sequence[np.ndarray]],
    series_files: Sequence[Path],
    path: Path,
    *,
    label: str = "contours",
    headers: Mapping[str, object] | None = None,
) -> Path:
    """RTSTRUCT of closed planar contours on a written series.

    Args:
        organs: ROI name -> polygons `(N, 3)` in mm, LPS, each in the plane of one image; none is an empty ROI.
        series_files: The files of the series.
        path: File to write.
        label: StructureSetLabel.
        headers: More elements by keyword; they win over ours.
    """
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in series_files]
    first = images[0]
    normal = np.cross(*np.reshape(np.asarray(first.ImageOrientationPatient, float), (2, 3)))
    along = np.array([np.dot(np.asarray(image.ImagePositionPatient, float), normal) for image in images])
    study = Study(first.PatientID, str(first.PatientName))
    dataset = _dataset(_RTSTRUCT, generate_uid(entropy_srcs=[first.SeriesInstanceUID, label]), study, "RTSTRUCT")
    dataset.StudyInstanceUID = first.StudyInstanceUID
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[first.SeriesInstanceUID, label, "series"])
    dataset.SeriesNumber = 99
    dataset.FrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.StructureSetLabel = label

    def reference(image: Dataset) -> Dataset:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        return item

    series = Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [reference(image) for image in images]
    of_study = Dataset()
    of_study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    of_study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    of_study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [of_study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, (organ, polygons) in enumerate(organs.items(), start=1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, organ, "AUTOMATIC"
        roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = []
        for polygon in polygons:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(polygon)
            contour.ContourData = _decimals(np.ravel(polygon))
            contour.ContourImageSequence = [reference(images[int(np.argmin(np.abs(along - polygon[0] @ normal)))])]
            drawn.ContourSequence.append(contour)
        observed.ObservationNumber = observed.ReferencedROINumber = number
        observed.RTROIInterpretedType, observed.ROIInterpreter = "ORGAN", ""
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
        dataset.RTROIObservationsSequence.append(observed)
    for keyword, value in (headers or {}).items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _dataset(sop_class: str, sop_uid: str, study: Study, modality: str):
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = sop_class, sop_uid
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_uid
    dataset.PatientID, dataset.PatientName = study.patient_id, study.patient_name
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID = study.uid(study.study)
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ReferringPhysicianName = ""
    dataset.Modality = modality
    dataset.Manufacturer = "nnunet_ext"
    return dataset


def _decimals(values: Sequence[float]) -> list[str]:
    """Numbers as DICOM decimal strings: at most 16 characters each."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]
