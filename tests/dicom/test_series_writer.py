"""Classic DICOM series of synthetic images."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from dicom_files import image

from nnunet_ext.dicom.series_writer import Study, write_series


def test_the_same_input_gives_the_same_files_and_another_number_another_series(tmp_path: Path):
    options = {"modality": "CT", "study": Study("p7", "A^B")}
    first = write_series(image(), tmp_path / "a", number=1, **options)
    again = write_series(image(), tmp_path / "b", number=1, **options)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    other = pydicom.dcmread(write_series(image(), tmp_path / "c", number=2, **options)[0])
    one = pydicom.dcmread(first[0])
    assert one.StudyInstanceUID == other.StudyInstanceUID
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


def test_headers_of_the_caller_win_and_no_date_is_written(tmp_path: Path):
    path = write_series(
        image(), tmp_path, modality="MR", study=Study("p"), number=3, headers={"EchoTime": 95, "SeriesNumber": 9}
    )[0]
    dataset = pydicom.dcmread(path)
    assert (dataset.EchoTime, dataset.SeriesNumber) == (95, 9)
    assert dataset.StudyDate == dataset.PatientBirthDate == ""


def test_numbers_fit_the_16_characters_of_decimal_strings(tmp_path: Path):
    grid = image()
    grid.SetOrigin((-1234.56789012345, 1e-7, 100 / 3))
    path = write_series(grid, tmp_path, modality="CT", study=Study("p"), number=1)[0]
    position = pydicom.dcmread(path).ImagePositionPatient
    assert all(len(str(value)) <= 16 for value in position)
    assert [float(value) for value in position] == pytest.approx(grid.GetOrigin(), abs=1e-6)
