"""Slices in space: even and uneven gaps, rounded positions, and stacks that are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import edit, image, move, only, write

from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.stack import check_series, series_grid
from nnunet_ext.messages import in_english


@pytest.mark.parametrize("thickness", [2, None])
def test_one_gap_that_is_much_smaller_than_the_others_does_not_set_the_grid(tmp_path: Path, thickness: float | None):
    heights = np.array([0, 2, 4, 3.97, 6, 8])
    given = image(oblique=False, array=np.broadcast_to((heights * 100)[:, None, None], (6, 7, 11)))
    files = write(tmp_path, given, headers={"SliceThickness": thickness})
    move(files, [np.array(given.GetOrigin()) + np.array([0, 0, h]) for h in heights])
    notes: list[str] = []
    series = only(tmp_path)
    result = read_series(series, notes)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result)[:, 3, 4], [0, 200, 400, 600, 800])
    assert result.GetSpacing()[2] == pytest.approx(2)
    assert in_english(notes) == [
        "images 3 and 4 of 6 are only 0.03 mm apart, the others 2 mm: check the series",
        "gaps between slices of 0.03 to 2 mm: interpolated to 2 mm",
    ]
    assert None not in series_grid(series)[1]  # a planning system finds an image at every plane


def test_a_short_gap_before_thick_slices_does_not_set_the_grid(tmp_path: Path):
    heights = [0, 2, 4, 6, 8, 10, 12, 12.2, 18.2]
    files = write(tmp_path, image(oblique=False, array=np.arange(9 * 77).reshape(9, 7, 11)))
    move(files, [(0, 0, h) for h in heights])
    for path, thickness in zip(files, [2] * 7 + [6] * 2, strict=True):
        edit(path, lambda d, t=thickness: setattr(d, "SliceThickness", t))
    notes: list[str] = []
    result = read_series(only(tmp_path), notes)
    assert (result.GetSize()[2], result.GetSpacing()[2]) == (10, pytest.approx(2))
    assert str(notes[0]) == "images 7 and 8 of 9 are only 0.2 mm apart, the others 2 mm: check the series"


@pytest.mark.parametrize(
    ("heights", "line"),
    [
        ([0, 3, 6, 7.6, 10.6, 13.6], "images 3 and 4 of 6 are only 1.6 mm apart, the others 3 mm: check the series"),
        (
            [0, 2, 4, 6, 8, 12, 16, 20, 24, 28],
            "4 gaps between slices are shorter than the 4 mm of the grid: detail is lost",
        ),
    ],
)
def test_short_gaps_are_named_or_counted(tmp_path: Path, heights: list[float], line: str):
    files = write(tmp_path, image(oblique=False, array=np.arange(len(heights) * 77).reshape(-1, 7, 11)))
    move(files, [(0, 0, h) for h in heights])
    for path, thickness in zip(files, np.diff(heights, append=heights[-1] + 4), strict=True):
        edit(path, lambda d, t=thickness: setattr(d, "SliceThickness", max(t, 3) if len(heights) < 8 else t))
    notes: list[str] = []
    read_series(only(tmp_path), notes)
    assert str(notes[0]) == line


def test_a_grid_that_would_be_mostly_made_up_is_refused(tmp_path: Path):
    heights = [0, 1, 2, 3, 4, 9, 14, 19]
    files = write(tmp_path, image(oblique=False, array=np.arange(8 * 77).reshape(8, 7, 11)))
    move(files, [(0, 0, h) for h in heights])
    for path, thickness in zip(files, [1] * 4 + [5] * 4, strict=True):
        edit(path, lambda d, t=thickness: setattr(d, "SliceThickness", t))
    with pytest.raises(
        ValueError, match=r"1 to 5 mm: an even grid of 1 mm would have 20 planes for 8 images; export thin"
    ):
        check_series(only(tmp_path))


@pytest.mark.parametrize(("decimals", "gap", "headers"), [
    (3, 1.23456, {}), (2, 1.23456, {}), (1, 1.25, {}), (1, 0.625, {}),
    (0, 3.2, {"SliceThickness": 3.2}), (0, 3.2, {"SpacingBetweenSlices": 3.2}),
])  # fmt: skip
def test_positions_that_were_rounded_lie_evenly(tmp_path: Path, decimals: int, gap: float, headers: dict):
    files = write(tmp_path, image(oblique=False, array=np.arange(12 * 77).reshape(12, 7, 11)), headers=headers)
    move(files, [np.round((-31.4, 12.7, gap * k), decimals) for k in range(12)])
    notes: list[str] = []
    result = read_series(only(tmp_path), notes)
    assert notes == []
    assert result.GetSize()[2] == 12
    assert result.GetSpacing()[2] == pytest.approx(gap, rel=0.02)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), np.arange(12 * 77).reshape(12, 7, 11))


@pytest.mark.parametrize("decimals", [2, 3])
def test_directions_that_were_rounded_are_no_tilted_gantry(tmp_path: Path, decimals: int):
    given = image(array=np.arange(40 * 77).reshape(40, 7, 11))
    files = write(tmp_path, given)
    cosines = np.round([float(value) for value in pydicom.dcmread(files[0]).ImageOrientationPatient], decimals)
    for path in files:
        edit(path, lambda d: setattr(d, "ImageOrientationPatient", [float(v) for v in cosines]))
    notes: list[str] = []
    result = read_series(only(tmp_path), notes)
    assert notes == []
    corners = [np.array(one.TransformIndexToPhysicalPoint([10, 6, 39])) for one in (given, result)]
    assert np.linalg.norm(corners[0] - corners[1]) < 0.1
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(given))


def wrong_twin(path: Path) -> None:
    """The same stored pixels at the same place, scaled in another way."""
    twin = Path(shutil.copy(path, path.with_name("twin")))
    edit(twin, lambda d: (setattr(d, "SOPInstanceUID", "1.2.3"), setattr(d, "RescaleIntercept", 0)))


BAD = {
    "missing slice": (lambda f: f[2].unlink(), "slices are missing: 6 mm between images 2 and 3 of 5"),
    "missing slice among overlapping ones": (
        lambda f: [edit(p, lambda d: setattr(d, "SliceThickness", 6)) for p in f] + [f[3].unlink()],
        "slices are missing: 6 mm between images 3 and 4 of 5"),
    "uneven": (lambda f: move(f, [(0, 0, z) for z in (0, 3, 6, 10, 13, 16)]), "uneven distances, 3 to 4 mm"),
    "two at one position": (
        lambda f: edit(f[1], lambda d: setattr(d, "ImagePositionPatient", pydicom.dcmread(f[2]).ImagePositionPatient)),
        "2 different images at one position"),
    "metres": (lambda f: [edit(p, lambda d: setattr(d, "PixelSpacing", [0.0008, 0.0007])) for p in f],
               "pixels measure 0.0008 x 0.0007 mm, so it is in metres"),
    "metres along": (lambda f: move(f, [(0, 0, 0.003 * k) for k in range(6)]), "slices are 0.003 mm apart"),
    "MR as CT": (lambda f: [edit(p, lambda d: setattr(d, "MagneticFieldStrength", 3)) for p in f], "it has an MR's header"),
    "inverted": (lambda f: [edit(p, lambda d: setattr(d, "PhotometricInterpretation", "MONOCHROME1")) for p in f],
                 "not plain grey values"),
    "twin of other scaling": (lambda f: wrong_twin(f[0]), "2 different images at one position"),
    "spacings differ": (lambda f: edit(f[0], lambda d: setattr(d, "PixelSpacing", [1, 1])), "different pixel spacings"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_would_be_read_wrongly_is_refused_from_the_headers(tmp_path: Path, kind: str):
    damage, message = BAD[kind]
    damage(write(tmp_path, image(oblique=False, array=np.arange(6 * 77).reshape(6, 7, 11))))
    with pytest.raises(ValueError, match=message):
        check_series(only(tmp_path))


def no_position(dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


def lose_a_frame(dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[2]
    dataset.NumberOfFrames, dataset.PixelData = 4, dataset.PixelData[: 7 * 11 * 2 * 4]


def second_phase(dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence.extend(dataset.PerFrameFunctionalGroupsSequence[:])
    dataset.NumberOfFrames, dataset.PixelData = 10, dataset.PixelData + dataset.PixelData[::-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_position, "enhanced MR multi-frame object whose frames do not say where they lie; export it as classic"),
        (lose_a_frame, "slices are missing: 6 mm between images 2 and 3 of 4"),
        (second_phase, "2 different images at one position"),
        (lambda d: setattr(d, "NumberOfFrames", 4), "whose frames do not say where they lie"),
    ],
)
def test_an_enhanced_object_without_one_regular_stack_is_refused(to_enhanced, tmp_path: Path, change, message: str):
    to_enhanced(write(tmp_path, modality="MR"), change=change)
    with pytest.raises(ValueError, match=message):
        check_series(only(tmp_path))
