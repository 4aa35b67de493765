"""Pixel values: compression, rescaling and padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import array, as_jpeg_lossless, edit, image, only, round_view, write, write_stored

from nnunet_ext.dicom.files import has_dicom
from nnunet_ext.dicom.reading import read_series


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path: Path):
    files = write(tmp_path)
    edit(files[2], lambda d: (setattr(d, "RescaleSlope", 2), setattr(d, "RescaleIntercept", -1000)))
    expected = sitk.GetArrayFromImage(image()).astype(int)
    expected[2] = (expected[2] + 1024) * 2 - 1000
    np.testing.assert_array_equal(array(only(tmp_path)), expected)


def test_fractions_stay(tmp_path: Path):
    for path in write(tmp_path, modality="MR"):
        edit(path, lambda d: setattr(d, "RescaleSlope", "0.25"))
    np.testing.assert_allclose(array(only(tmp_path)), sitk.GetArrayFromImage(image()) * 0.25)


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG lossless", "big endian", "implicit", "without preamble"])
def test_compressed_files_and_files_without_preamble_are_read(tmp_path: Path, syntax: str):
    for path in write(tmp_path):
        dataset = pydicom.dcmread(path)
        if syntax == "JPEG lossless":
            as_jpeg_lossless(dataset)
            dataset.save_as(path)
        elif syntax == "implicit":
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            dataset.save_as(path, implicit_vr=True, little_endian=True)
        elif syntax == "big endian":
            dataset.PixelData = dataset.pixel_array.astype(">i2").tobytes()
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
            pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False)
        elif syntax == "RLELossless":
            dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            dataset.save_as(path)
        else:
            dataset.save_as(path)
            path.write_bytes(path.read_bytes()[132:])
    assert has_dicom(tmp_path)
    np.testing.assert_array_equal(array(only(tmp_path)), sitk.GetArrayFromImage(image()))


@pytest.mark.parametrize(
    ("stored", "signed", "padding"),
    [
        (-2000, True, ("SS", -2000)),
        (-2000, True, ("US", 63536)),  # by its bits
        (-32768, True, ("SS", -32768)),
        (-3024, True, ("SS", -3000, -3100)),
        (0, False, ("US", 0)),
        (63536, False, ("US", 63536)),
        (63536, False, ("SS", -2000)),
        (65535, False, ("US", 65000, 65535)),
        (3071, True, ("SS", 3071)),  # its value may be metal elsewhere
    ],
)
@pytest.mark.parametrize("coding", ["plain", "implicit", "JPEG lossless", "RLELossless"])
def test_padding_named_in_the_header_is_air_in_ct(
    tmp_path: Path, stored: int, signed: bool, padding: tuple, coding: str
):
    intercept = 0 if signed else -1024
    given, beyond = round_view(stored + intercept)
    files = write_stored(tmp_path, given - intercept, intercept=intercept, signed=signed, padding=padding)
    for path in files:
        dataset = pydicom.dcmread(path)
        if coding == "implicit":
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            dataset.save_as(path, implicit_vr=True, little_endian=True)
        elif coding == "RLELossless":
            dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            dataset.save_as(path)
        elif coding == "JPEG lossless":
            as_jpeg_lossless(dataset)
            dataset.save_as(path)
    notes: list[str] = []
    np.testing.assert_array_equal(array(only(tmp_path), notes), np.where(beyond, -1000, given))
    assert len(notes) == (stored + intercept > -900)


@pytest.mark.parametrize("corners", [-1000, 0])
def test_a_padding_value_that_is_also_tissue_is_believed_in_the_corners_only(tmp_path: Path, corners: int):
    given, beyond = round_view(corners)
    write_stored(tmp_path, given, padding=("SS", 0))
    result = array(only(tmp_path))
    np.testing.assert_array_equal(result[~beyond], given[~beyond])
    assert (result[1:3, 8:16, 10:18] == 0).all()
    assert (result[beyond] == -1000).all()


def test_a_padding_range_that_would_leave_no_image_is_not_believed(tmp_path: Path):
    given, _ = round_view(-1000)
    write_stored(tmp_path, given, padding=("SS", -2000, 3000))
    np.testing.assert_array_equal(array(only(tmp_path)), given)


@pytest.mark.parametrize(
    ("stored", "signed", "padding"),
    [(-32768, True, ("SS", -32768)), (63536, False, ("US", 63536)), (4095, False, ("US", 4095))],
)
def test_padding_of_an_mr_is_its_lowest_measured_value(tmp_path: Path, stored: int, signed: bool, padding: tuple):
    given, beyond = round_view(stored, low=3)
    given[1:3, 8:16, 10:18] = 700
    write_stored(tmp_path, given, modality="MR", signed=signed, padding=padding)
    np.testing.assert_array_equal(array(only(tmp_path)), np.where(beyond, given[~beyond].min(), given))


def test_a_dark_background_that_an_mr_names_as_padding_stays(tmp_path: Path):
    given, _ = round_view(0, low=3)
    write_stored(tmp_path, given, modality="MR", padding=("SS", 0))
    np.testing.assert_array_equal(array(only(tmp_path)), given)


def test_padding_of_an_enhanced_object_is_taken_by_its_stored_value(to_enhanced, tmp_path: Path):
    given, beyond = round_view(-2000)
    files = write_stored(tmp_path, given, padding=("SS", -2000))
    to_enhanced(files, slopes=[1, 2, 1, 3])
    expected = given * np.reshape([1, 2, 1, 3], (4, 1, 1))
    np.testing.assert_array_equal(array(only(tmp_path)), np.where(beyond, -1000, expected))


def test_a_slope_of_zero_is_refused(tmp_path: Path):
    edit(write(tmp_path)[3], lambda d: setattr(d, "RescaleSlope", 0))
    with pytest.raises(ValueError, match="rescale slope 0"):
        read_series(only(tmp_path))


def test_pixels_that_are_cut_off_are_refused_without_a_path(tmp_path: Path):
    path = write(tmp_path)[3]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"pixels of one of its files cannot be read \(\w+\): cut off") as caught:
        read_series(only(tmp_path))
    assert str(tmp_path) not in str(caught.value)


def test_each_frame_of_an_enhanced_object_has_its_own_slope(to_enhanced, tmp_path: Path):
    slopes = np.array([0.5, 1, 2, 1, 4])
    to_enhanced(write(tmp_path, modality="MR"), slopes=slopes, change=lambda d: d.compress(pydicom.uid.RLELossless))
    np.testing.assert_array_equal(array(only(tmp_path)), sitk.GetArrayFromImage(image()) * slopes[:, None, None])
