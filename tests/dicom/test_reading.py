"""A series read as one image, whatever its orientation, gantry and gaps."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import SHAPE, array, edit, image, move, only, round_view, write, write_stored

from nnunet_ext.dicom.reading import read_series
from nnunet_ext.images.geometry import index_to_world, same_grid, to_canonical
from nnunet_ext.messages import in_english


@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_every_orientation_comes_back_voxel_by_voxel(tmp_path: Path, flips, modality: str):
    given = image(flips)
    write(tmp_path, given, modality=modality)
    notes: list[str] = []
    result = to_canonical(read_series(only(tmp_path), notes))
    expected = to_canonical(given)
    assert same_grid(result, expected, 1e-3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(expected))
    assert notes == []


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(tmp_path: Path):
    files = write(tmp_path / "a")
    for n, (path, name) in enumerate(zip(files, "zyxwv", strict=True)):
        edit(path, lambda d, n=n: setattr(d, "InstanceNumber", (n * 3) % 5))
        (tmp_path / name).mkdir()
        path.rename(tmp_path / name / "x.jpg")
    np.testing.assert_array_equal(array(only(tmp_path)), sitk.GetArrayFromImage(image()))


def test_a_tilted_gantry_is_filled_with_what_was_measured_not_with_padding(tmp_path: Path):
    given, _ = round_view(-32768, low=3)
    files = write_stored(tmp_path, given, modality="MR", padding=("SS", -32768))
    places = [pydicom.dcmread(path).ImagePositionPatient for path in files]
    move(files, [[x, y + 2.1 * k, z] for k, (x, y, z) in enumerate(places)])
    assert array(only(tmp_path)).min() == given[given > -32768].min()


def test_a_tilted_gantry_becomes_a_straight_grid(tmp_path: Path):
    # A ramp along the table, which a straight reading would slide by 1.6 mm per slice: the tilt is 28 degrees.
    ramp = np.broadcast_to((np.arange(20) * 10)[None, :, None], (5, 20, 11))
    given = image(oblique=False, array=ramp)
    files = write(tmp_path, given)
    origin = np.array(given.GetOrigin())
    shifts = [1.6 * k for k in range(5)]
    move(files, [origin + np.array([0, shift, 3.0 * k]) for k, shift in enumerate(shifts)])
    notes: list[str] = []
    result = read_series(only(tmp_path), notes)
    assert in_english(notes) == ["tilted gantry (28.1 degrees): slices were shifted in their plane to a straight grid"]
    np.testing.assert_allclose(np.reshape(result.GetDirection(), (3, 3)), np.eye(3), atol=1e-9)
    values = sitk.GetArrayFromImage(result)
    for k, shift in enumerate(shifts):
        for j in (2, 9, 17):  # the voxel measured at this place holds the value measured there
            place = origin + np.array([3 * 0.7, j * 0.8 + shift, 3.0 * k])
            x, y, z = result.TransformPhysicalPointToIndex(place.tolist())
            assert values[z, y, x] == 10 * j
    assert (values == -1000).any()


def test_a_tilt_of_half_pixels_is_interpolated_within_the_slice(tmp_path: Path):
    ramp = np.broadcast_to((np.arange(20) * 10)[None, :, None], (5, 20, 11))
    given = image(oblique=False, array=ramp)
    files = write(tmp_path, given)
    origin = np.array(given.GetOrigin())
    move(files, [origin + np.array([0, 0.4 * k, 3.0 * k]) for k in range(5)])
    values = array(only(tmp_path))
    assert values.shape == (5, 22, 11)
    np.testing.assert_allclose(values[1, 5:16, 3], np.arange(5, 16) * 10 - 5, atol=1)


def test_uneven_gaps_that_the_thickness_explains_are_interpolated(tmp_path: Path):
    # Values are 10 times the height in mm, so they are right wherever they are read right.
    heights = np.array([0.0, 2.0, 4.0, 8.0, 12.0])
    given = image(oblique=False, array=np.broadcast_to((heights * 10)[:, None, None], SHAPE))
    files = write(tmp_path, given)
    move(files, [np.array(given.GetOrigin()) + np.array([0, 0, h]) for h in heights])
    for path, thickness in zip(files, (2, 2, 4, 4, 4), strict=True):
        edit(path, lambda d, t=thickness: setattr(d, "SliceThickness", t))
    notes: list[str] = []
    result = read_series(only(tmp_path), notes)
    assert result.GetSpacing()[2] == pytest.approx(2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result)[:, 3, 4], [0, 20, 40, 60, 80, 100, 120])
    assert in_english(notes) == ["gaps between slices of 2 to 4 mm: interpolated to 2 mm"]


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("flips", [(1, 1, 1), (1, -1, 1)])
def test_an_enhanced_object_is_read_as_its_classic_twin(to_enhanced, tmp_path: Path, modality: str, flips):
    given = image(flips)
    to_enhanced(write(tmp_path, given, modality=modality))
    series = only(tmp_path)
    assert (series.channel, len(series.slices), len(series.paths)) == ("CT" if modality == "CT" else "T2", 5, 1)
    notes: list[str] = []
    result = to_canonical(read_series(series, notes))
    assert same_grid(result, to_canonical(given), 1e-3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(to_canonical(given)))
    assert notes == []


def test_a_straight_reading_agrees_with_the_written_grid(tmp_path: Path):
    given = image()
    write(tmp_path, given)
    np.testing.assert_allclose(index_to_world(read_series(only(tmp_path))), index_to_world(given), atol=1e-6)
