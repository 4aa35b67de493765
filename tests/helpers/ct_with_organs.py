"""A small oblique CT as DICOM, organs on it, and the RTSTRUCT of them read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from fault_inputs import set_raw

from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series

SHAPE, SPACING_MM = (9, 13, 17), (3.0, 0.8, 0.7)
LABELS = {"background": 0, "Lens_L": 1, "Cavity": 2, "Border": 3, "Brainstem": 4}


def grid(
    *, flips: Sequence[int] = (1, 1, 1), angles=(0.11, -0.17, 0.23), array: np.ndarray | None = None
) -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros(SHAPE, dtype=np.int16) if array is None else array)
    image.SetSpacing(SPACING_MM[::-1])
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*angles)
    image.SetDirection((np.reshape(transform.GetMatrix(), (3, 3)) * np.asarray(flips, dtype=float)).ravel().tolist())
    image.SetOrigin((-31.7, 12.3, 455.5))
    return image


def label_array() -> np.ndarray:
    """A lens of 73 voxels; a shell with an island in its hole beside voxels at random; a box at three borders."""
    z, y, x = np.indices(SHAPE)
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[6:, 1:12, 2:13] = 2
    array[6:, 3:9, 4:11] = 0
    array[6:, 5:7, 6:9] = 2
    array[8] = 2 * (np.random.default_rng(0).random(SHAPE[1:]) < 0.6)
    array[:2, 9:, 13:] = 3
    array[((z - 3) * 3.0 / 4.4) ** 2 + ((y - 6) * 0.8 / 2.4) ** 2 + ((x - 8) * 0.7 / 2.4) ** 2 < 1] = 1
    assert np.count_nonzero(array == 1) == 73
    return array


def write_ct(folder: Path, image: sitk.Image | None = None, **headers) -> Series:
    write_series(grid() if image is None else image, folder, modality="CT", study=Study("p"), number=1, headers=headers)
    return only(folder)


def only(folder: Path) -> Series:
    (series,) = find_series(folder).images
    return series


def read_back(path: Path, series: Series) -> np.ndarray:
    """The label map of a file, by the path of `convert`: voxels of the CT as `read_series` gives it."""
    image = read_series(series)
    array = np.zeros(image.GetSize()[::-1], dtype=np.uint8)
    for roi in read_rtstruct(path).rois:
        notes: list[str] = []
        mask = rasterise(roi.contours, image, notes)
        assert notes == []
        assert not array[mask].any()
        array[mask] = LABELS[roi.name]
    return array


def edit(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def assert_contours_lie_on_their_images(path: Path, series: Series) -> None:
    normal = np.cross(series.direction[:3], series.direction[3:])
    along = {one.sop_uid: np.dot(one.position_mm, normal) for one in series.slices}
    contours = [contour for roi in read_rtstruct(path).rois for contour in roi.contours]
    assert len(contours) > 10
    for contour in contours:
        np.testing.assert_allclose(contour.points_mm @ normal, along[contour.sop_uid], atol=2e-4)


PERSON = {
    "PatientBirthDate": "19700102", "PatientSex": "F", "StudyDate": "20230115", "StudyTime": "101112", "StudyID": "77",
    "AccessionNumber": "A9", "StudyDescription": "Planning", "PatientAge": "053Y", "PatientIdentityRemoved": "NO",
}  # fmt: skip


def with_iso_2022(folder: Path) -> Series:
    """A CT whose patient is written in ISO 2022 IR 58, with an ideographic group."""
    mark = b"\x1b$)A"
    name = b"Zhang^San=" + mark + "张".encode("gb2312") + b"^" + mark + "三".encode("gb2312")
    for path in write_ct(folder, **PERSON).paths:
        edit(path, lambda d: setattr(d, "SpecificCharacterSet", ["", "ISO 2022 IR 58"]))

        def change(d) -> None:
            person, number = pydicom.Dataset(), mark + "号".encode("gb2312") + b"7"
            set_raw(person, "PatientID", number)
            d.OtherPatientIDsSequence = [person]
            set_raw(d, "PatientName", name)
            set_raw(d, "OtherPatientIDs", b"a\\" + mark + "乙".encode("gb2312"))

        edit(path, change)
    return only(folder)
