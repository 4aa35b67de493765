"""Images as classic DICOM series, with no more headers than readers need.

For phantoms and tests. Every value is synthetic, dates are left empty, and the same input gives the same UIDs. Contours
on such a series are written by `rtstruct_writer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.geometry import index_to_world

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}


@dataclass(frozen=True)
class Study:
    """Values that the files of one study share. Equal `frame_of_reference` words mean one coordinate system."""

    patient_id: str
    patient_name: str = ""
    study: str = "1"
    frame_of_reference: str = "1"

    def uid(self, *words: object) -> str:
        """A UID that is the same for the same patient and words."""
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
        image: 16-bit whole numbers, in any orientation. CT is in HU.
        folder: Made if missing.
        modality: `CT` or `MR`.
        study: Patient, study and frame of reference.
        number: SeriesNumber. With the study it makes the series' UID.
        description: SeriesDescription.
        headers: More elements by keyword, such as `EchoTime`. They win over ours.
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


def _dataset(sop_class: str, sop_uid: str, study: Study, modality: str) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop_uid)
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
    """Numbers as DICOM decimal strings of at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]
