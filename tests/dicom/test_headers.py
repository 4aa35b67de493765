"""Headers read without errors, and frames of enhanced objects under classic headers."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from dicom_files import image, write

from nnunet_ext.dicom.headers import RTSTRUCT, Header, frames, functional_groups, median_of_known, start_of_rtstruct


def test_a_header_gives_empty_values_for_what_it_lacks_or_cannot_read():
    dataset = pydicom.Dataset()
    dataset.EchoTime, dataset.ImagePositionPatient = 12.5, [1, 2, 3]
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    header = Header(dataset)
    assert header.number("EchoTime") == 12.5
    assert header.point("ImagePositionPatient") == (1, 2, 3)
    assert header.text("ImageType") == "DERIVED\\PRIMARY"
    assert header.number("RepetitionTime") is None
    assert header.numbers("ImagePositionPatient", 2) is None
    assert header.text("SeriesDescription") == ""
    assert Header({"EchoTime": "twelve", "Rows": float("nan")}).numbers("EchoTime", 1) is None
    assert Header({"Rows": float("nan")}).number("Rows") is None


def test_a_frame_s_own_group_goes_before_the_shared_one():
    def groups(echo_ms: float) -> pydicom.Dataset:
        result, item = pydicom.Dataset(), pydicom.Dataset()
        item.EffectiveEchoTime = echo_ms
        result.MREchoSequence = [item]
        return result

    assert functional_groups(groups(12), groups(95)) == {"EchoTime": 12}
    assert functional_groups(pydicom.Dataset(), groups(95)) == {"EchoTime": 95}
    assert functional_groups(pydicom.Dataset(), {}) == {}


def test_frames_have_the_headers_of_classic_images(tmp_path: Path, to_enhanced):
    files = write(tmp_path, image(), modality="MR")
    positions = [tuple(map(float, pydicom.dcmread(path).ImagePositionPatient)) for path in files]
    dataset = pydicom.dcmread(to_enhanced(files))
    found = frames(Header(dataset), str(dataset.SOPClassUID))
    assert [number for number, _ in found] == list(range(len(files)))
    assert [header.point("ImagePositionPatient") for _, header in found] == positions[::-1]  # last slice first
    assert {header.number("EchoTime") for _, header in found} == {95}
    del dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    ((number, _),) = frames(Header(dataset), str(dataset.SOPClassUID))
    assert number is None


def test_the_start_of_a_file_is_read_if_it_is_an_rtstruct(tmp_path: Path):
    files = write(tmp_path, image())
    assert start_of_rtstruct(files[0]) is None
    dataset = pydicom.dcmread(files[0])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTSTRUCT
    dataset.save_as(files[0])
    assert start_of_rtstruct(files[0]).SOPClassUID == RTSTRUCT


@pytest.mark.parametrize(("values", "median"), [([None, 3.0, 1.0, 2.0], 2), ([None, 0.0, -1.0], None), ([], None)])
def test_the_median_is_that_of_known_positive_values(values: list, median: float | None):
    assert median_of_known(values) == median
