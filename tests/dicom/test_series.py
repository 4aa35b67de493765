import copy
import itertools
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from nnunet_ext.dicom.contrast import classify
from nnunet_ext.dicom.files import has_dicom, is_dicom
from nnunet_ext.dicom.personal import without_personal
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.stack import check_series, series_grid
from nnunet_ext.images.geometry import index_to_world, same_grid, to_canonical
from nnunet_ext.messages import Message, in_english

SHAPE, SPACING_MM = (5, 7, 11), (3.0, 0.8, 0.7)


def image(flips=(1, 1, 1), *, oblique: bool = True, array: np.ndarray | None = None) -> sitk.Image:
    if array is None:
        array = np.random.default_rng(0).integers(-1000, 1500, SHAPE)
    result = sitk.GetImageFromArray(array.astype(np.int16))
    result.SetSpacing(SPACING_MM[::-1])
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*((0.11, -0.17, 0.23) if oblique else (0.0, 0.0, 0.0)))
    direction = np.reshape(transform.GetMatrix(), (3, 3)) * np.asarray(flips, dtype=float)
    result.SetDirection(direction.ravel().tolist())
    result.SetOrigin((-31.7, 12.3, 455.5))
    return result


def write(folder: Path, what: sitk.Image | None = None, **options) -> list[Path]:
    options = {"modality": "CT", "study": Study("p"), "number": 1, **options}
    return write_series(image() if what is None else what, folder, **options)


def edit(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def move(files: list[Path], places_mm) -> None:
    """Put slice k at the given points."""
    for path, place in zip(files, places_mm, strict=True):
        edit(path, lambda d, p=place: setattr(d, "ImagePositionPatient", [float(v) for v in p]))


def only(folder: Path):
    (series,) = find_series(folder).images
    return series


def array(series, notes=None) -> np.ndarray:
    return sitk.GetArrayFromImage(read_series(series, notes))


# ------------------------------------------------------------------------------------------- reading


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


def as_jpeg_lossless(dataset) -> None:
    """JPEG Lossless (process 14, first order) by the encoder of GDCM, as CT scanners archive."""
    stored = sitk.GetImageFromArray(dataset.pixel_array[None])
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    name = Path(dataset.filename).with_name("compressed.dcm")
    writer.SetFileName(str(name))
    writer.Execute(stored)
    written = pydicom.dcmread(name)
    name.unlink()
    assert written.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    dataset.PixelData = written.PixelData
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID


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


def round_view(padding: float, low: int = -900) -> tuple[np.ndarray, np.ndarray]:
    """Values from `low` to 1500, a block of 0 among them, in a round view within a square of padding; and its corners."""
    rows, columns = np.indices((24, 30))
    beyond = np.hypot((rows - 11.5) / 12, (columns - 14.5) / 15) > 1
    values = np.random.default_rng(0).integers(low, 1500, (4, 24, 30))
    values[1:3, 8:16, 10:18] = 0
    values[:, beyond] = padding
    return values, np.broadcast_to(beyond, values.shape)


def write_stored(
    folder: Path, stored: np.ndarray, *, intercept=0, modality="CT", signed=True, padding=()
) -> list[Path]:
    """A series of these stored values; `padding` is the value representation, the value and perhaps the range's limit."""
    files = write(folder, image(array=np.zeros(stored.shape)), modality=modality)
    for path, pixels in zip(files, stored, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.PixelRepresentation, dataset.RescaleIntercept = int(signed), intercept
        dataset.PixelData = pixels.astype("<i2" if signed else "<u2").tobytes()
        for keyword, value in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), padding[1:], strict=False):
            dataset.add_new(keyword, padding[0], value)
        dataset.save_as(path)
    return files


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


@pytest.mark.parametrize("rounded", [[0.8, 0.703], [0.8, 0.7]])
def test_pixel_spacings_that_differ_by_rounding_are_one(tmp_path: Path, rounded: list[float]):
    files = write(tmp_path)
    for k, path in enumerate(files):
        edit(path, lambda d, k=k: setattr(d, "PixelSpacing", rounded if k % 2 else [0.8, 0.703125]))
    series = only(tmp_path)
    assert series.spacing_mm == (0.8, 0.703125)
    assert in_english(series.notes) == ["stored with rounded pixel spacings: read with 0.8 x 0.703125 mm"]
    check_series(series)


def test_a_copy_whose_position_was_rounded_is_a_copy(tmp_path: Path):
    files = write(tmp_path / "a")
    shutil.copy(files[2], tmp_path / "copy")
    edit(
        tmp_path / "copy",
        lambda d: setattr(d, "ImagePositionPatient", [round(float(v), 1) for v in d.ImagePositionPatient]),
    )
    tree = find_series(tmp_path)
    assert dict(tree.ignored) == {"copies of the same image": 1}
    np.testing.assert_array_equal(array(tree.images[0]), sitk.GetArrayFromImage(image()))


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


# ------------------------------------------------------------------------------------------- multi-frame


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


def test_each_frame_of_an_enhanced_object_has_its_own_slope(to_enhanced, tmp_path: Path):
    slopes = np.array([0.5, 1, 2, 1, 4])
    to_enhanced(write(tmp_path, modality="MR"), slopes=slopes, change=lambda d: d.compress(pydicom.uid.RLELossless))
    np.testing.assert_array_equal(array(only(tmp_path)), sitk.GetArrayFromImage(image()) * slopes[:, None, None])


def no_position(dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


def lose_a_frame(dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[2]
    dataset.NumberOfFrames, dataset.PixelData = 4, dataset.PixelData[: 7 * 11 * 2 * 4]


def second_phase(dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence.extend(dataset.PerFrameFunctionalGroupsSequence[:])
    dataset.NumberOfFrames, dataset.PixelData = 10, dataset.PixelData + dataset.PixelData[::-1]


def diffusion(dataset) -> None:
    value = pydicom.Dataset()
    value.DiffusionBValue = 1000.0
    dataset.SharedFunctionalGroupsSequence[0].MRDiffusionSequence = [value]


def fluid_attenuated(dataset) -> None:
    dataset.AcquisitionContrast = "FLUID_ATTENUATED"


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


@pytest.mark.parametrize("change", [diffusion, fluid_attenuated])
def test_enhanced_diffusion_and_flair_are_no_t2(to_enhanced, tmp_path: Path, change):
    to_enhanced(write(tmp_path, modality="MR"), change=change)
    assert only(tmp_path).channel == ""


# ------------------------------------------------------------------------------------------- finding


def test_series_are_told_apart_by_patient_study_and_frame(tmp_path: Path):
    for n, study in enumerate([Study("a"), Study("a", study="2"), Study("b"), Study("a", frame_of_reference="2")]):
        write(tmp_path / str(n), study=study, number=n)
    series = find_series(tmp_path).images
    assert sorted((s.patient.key, s.number) for s in series) == [("a", 0), ("a", 1), ("a", 3), ("b", 2)]
    assert len({(s.study_uid, s.frame_of_reference_uid) for s in series}) == 4


def test_copies_count_once_and_other_files_are_counted(tmp_path: Path):
    files = write(tmp_path / "a")
    shutil.copy(files[0], tmp_path / "copy")
    shutil.copy(files[1], tmp_path / "twin")
    edit(tmp_path / "twin", lambda d: setattr(d, "SOPInstanceUID", "1.2.3"))
    (tmp_path / "readme.txt").write_text("hello")
    tree = find_series(tmp_path)
    assert dict(tree.ignored) == {"copies of the same image": 1, "files that are not DICOM": 1}
    notes: list[str] = []
    np.testing.assert_array_equal(array(tree.images[0], notes), sitk.GetArrayFromImage(image()))
    assert in_english(notes) == ["1 images are copies of others: counted once"]


def test_localizers_in_other_directions_under_the_same_uid_are_set_aside(tmp_path: Path):
    write(tmp_path / "a")
    for path in write(tmp_path / "b", image((1, 1, 1), oblique=False))[2:]:
        path.unlink()
    for path in (tmp_path / "b").iterdir():
        edit(path, lambda d: setattr(d, "SOPInstanceUID", d.SOPInstanceUID[:-2] + ".9"))
    tree = find_series(tmp_path)
    assert len(tree.images) == 1
    assert tree.ignored["single images and localizers"] == 2


def test_a_direction_at_the_edge_of_rounding_does_not_split_a_series(tmp_path: Path):
    for k, path in enumerate(write(tmp_path)):
        cosines = [float(value) for value in pydicom.dcmread(path).ImageOrientationPatient]
        cosines[0] = 0.985001 if k % 2 else 0.984999
        edit(path, lambda d, c=cosines: setattr(d, "ImageOrientationPatient", c))
    assert len(only(tmp_path).slices) == 5


def test_slices_that_turn_within_a_series_are_refused(tmp_path: Path):
    for k, path in enumerate(write(tmp_path)):
        edit(
            path, lambda d, k=k: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, np.cos(0.01 * k), np.sin(0.01 * k)])
        )
    with pytest.raises(ValueError, match=r"images lie in different directions \(cosines differ by 0.04\)"):
        check_series(only(tmp_path))


@pytest.mark.parametrize("shared", [2, 5])
def test_a_series_under_two_patient_ids_is_refused(tmp_path: Path, shared: int):
    files = write(tmp_path / "a")  # the end of it, or an anonymised copy of it all, under another ID
    for path in files[:shared]:
        if shared == 5:
            path = shutil.copy(path, tmp_path / path.name)
        edit(Path(path), lambda d: setattr(d, "PatientID", "q"))
    for series in find_series(tmp_path).images:
        with pytest.raises(ValueError, match="carry 2 patient IDs"):
            check_series(series)


def test_two_echoes_in_one_series_are_two_series(tmp_path: Path):
    for n, (te, study) in enumerate([(12, Study("p")), (95, Study("p"))]):
        for path in write(tmp_path / str(n), image(array=np.full(SHAPE, te)), modality="MR", study=study,
                          description="pd+t2", headers={"EchoTime": te, "RepetitionTime": 3000}):  # fmt: skip
            edit(path, lambda d, n=n: setattr(d, "SOPInstanceUID", f"{d.SOPInstanceUID[:-2]}.{n}"))
    found = {s.channel: array(s).max() for s in find_series(tmp_path).images}
    assert found == {"T2": 95, "": 12}


def repeat(files: list[Path], times: int, change) -> None:
    """The same slices again under new UIDs; `change(dataset, repetition)` says what differs."""
    for number, path in enumerate(files):
        for k in range(times):
            dataset = pydicom.dcmread(path)
            change(dataset, k)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
            dataset.save_as(path.with_name(f"{k}_{number}"))
        path.unlink()


def test_echoes_are_named_with_their_times(tmp_path: Path):
    files = write(tmp_path, modality="MR", number=7, description="MEMPRAGE p", headers={"RepetitionTime": 2530})
    repeat(files, 5, lambda d, k: setattr(d, "EchoTime", 1.69 + 1.86 * k))
    labels = [series.label for series in find_series(tmp_path).images]
    assert labels[4] == "series 7 'MEMPRAGE p', echo 5 (MR, TE 9.13 ms, 5 images)"
    assert [series.choice for series in find_series(tmp_path).images] == [f"7, echo {k}" for k in range(1, 6)]


def test_the_echoes_of_a_field_map_stay_one_series_that_is_no_channel(tmp_path: Path):
    headers = {"RepetitionTime": 400, "ScanningSequence": "GR"}
    repeat(write(tmp_path, modality="MR", description="gre_field_mapping", headers=headers), 2,
           lambda d, k: setattr(d, "EchoTime", 4.92 + 2.46 * k))  # fmt: skip
    series = only(tmp_path)
    assert (series.channel, series.reason) == ("", "its name says a special sequence (field map)")
    assert [part.choice for part in series.parts] == ["1, echo 1", "1, echo 2"]
    with pytest.raises(ValueError, match="it holds 2 volumes under one UID"):
        check_series(series)


def test_the_images_of_a_dixon_series_are_classified_by_their_own_types(tmp_path: Path):
    files = write(tmp_path, modality="MR", description="t1_mDIXON")
    kinds = ("W", "F", "IP", "OP")
    repeat(files, 4, lambda d, k: setattr(d, "ImageType", ["DERIVED", "PRIMARY", kinds[k], kinds[k], "DERIVED"]))
    found = {series.part[0]: (series.channel, in_english(series.notes)) for series in find_series(tmp_path).images}
    assert found == {
        "type W": ("T1", ["fat-saturated"]), "type IP": ("T1", []), "type F": ("", []), "type OP": ("", []),
    }  # fmt: skip


def test_words_of_a_part_that_are_personal_are_left_out(tmp_path: Path):
    files = write(tmp_path, modality="CT", study=Study("MRN42", "Zhang^San"))
    repeat(files, 2, lambda d, k: setattr(d, "ConvolutionKernel", ("B30", "Zhang")[k]))
    labels = " ".join(f"{series.label} {series.choice}" for series in find_series(tmp_path).images)
    assert "kernel ***" in labels
    assert "zhang" not in labels.lower()


def test_frames_of_an_enhanced_object_are_told_apart(to_enhanced, tmp_path: Path):
    def two_time_points(dataset) -> None:
        frames = dataset.PerFrameFunctionalGroupsSequence
        dataset.PerFrameFunctionalGroupsSequence = [*frames, *copy.deepcopy(list(frames))]
        for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            content = pydicom.Dataset()
            content.TemporalPositionIndex = 1 + k // 5
            frame.FrameContentSequence = [content]
        dataset.NumberOfFrames, dataset.PixelData = 10, dataset.PixelData + dataset.PixelData[::-1]

    to_enhanced(write(tmp_path, modality="MR"), change=two_time_points)
    series = find_series(tmp_path).images
    assert [one.part for one in series] == [("time 1",), ("time 2",)]
    np.testing.assert_array_equal(array(series[0]), sitk.GetArrayFromImage(image()))


def test_the_imaginary_part_of_an_enhanced_object_is_no_channel(to_enhanced, tmp_path: Path):
    def imaginary(dataset) -> None:
        kind = pydicom.Dataset()
        kind.ComplexImageComponent = "IMAGINARY"
        dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence = [kind]

    to_enhanced(write(tmp_path, modality="MR"), change=imaginary)
    assert only(tmp_path).reason == "its image type says IMAGINARY"


@pytest.mark.parametrize("value", [1, b"\x01\x00"])
def test_a_phase_image_of_ge_is_no_channel(tmp_path: Path, value: int | bytes):
    for path in write(tmp_path, modality="MR", description="t1"):

        def mark(dataset) -> None:
            dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(
                0x2F, "SS" if isinstance(value, int) else "UN", value)  # fmt: skip

        edit(path, mark)
    assert only(tmp_path).reason == "its image type says PHASE"


@pytest.mark.parametrize(
    ("headers", "channel"),
    [
        ({"SeriesDescription": "t1_mprage_sag"}, "T1"),
        ({"SeriesDescription": "AX T1 FLAIR", "EchoTime": 20, "RepetitionTime": 2000}, "T1"),
        ({"SeriesDescription": "Sag BRAVO"}, "T1"),
        ({"SeriesDescription": "eT2W_TSE"}, ""),  # a house name: the mapping file
        ({"SeriesDescription": "T2W_TSE", "EchoTime": 90, "RepetitionTime": 4000}, "T2"),
        ({"ProtocolName": "T2 tra"}, "T2"),
        ({"SeriesDescription": "T2 FLAIR"}, ""),
        ({"SeriesDescription": "AX T2", "EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500}, ""),  # FLAIR
        ({"SeriesDescription": "AX T2 STIR-like", "EchoTime": 80, "RepetitionTime": 4000, "InversionTime": 160}, ""),
        ({"SeriesDescription": "t2_spc_ir_sag_da-fl_iso"}, ""),
        ({"SeriesDescription": "T2 space dark-fluid"}, ""),
        ({"SeriesDescription": "T2压水"}, ""),
        ({"SeriesDescription": "横断位T2WI抑脂"}, "T2"),
        ({"SeriesDescription": "t2*"}, ""),
        ({"SeriesDescription": "T2-star"}, ""),
        ({"SeriesDescription": "T2_mapping"}, ""),
        ({"SeriesDescription": "T1 SUB"}, ""),
        ({"SeriesDescription": "t1 twist dynamic"}, ""),
        ({"SeriesDescription": "isoDWI", "EchoTime": 90, "RepetitionTime": 4000}, ""),
        ({"SeriesDescription": "eADC", "EchoTime": 90, "RepetitionTime": 4000}, ""),
        ({"EchoTime": 90, "RepetitionTime": 4000, "ScanningSequence": "EP\\SE"}, ""),
        ({"EchoTime": 90, "RepetitionTime": 4000, "SequenceName": "*ep_b1000t"}, ""),
        ({"EchoTime": 90, "RepetitionTime": 4000, "ImageType": "DERIVED\\PRIMARY\\DIFFUSION\\ADC"}, ""),
        ({"SeriesDescription": "t2 tse", "ImageType": "ORIGINAL\\PRIMARY\\P\\ND"}, ""),  # phase
        ({"EchoTime": 20, "RepetitionTime": 28, "ScanningSequence": "GR"}, ""),  # susceptibility
        ({"EchoTime": 3.6, "RepetitionTime": 22, "ScanningSequence": "GR", "AngioFlag": "Y"}, ""),
        ({"EchoTime": 2.9, "RepetitionTime": 2300, "InversionTime": 900, "ScanningSequence": "GR\\IR"}, "T1"),
        ({"SeriesDescription": "T2 STIR"}, ""),
        ({"SeriesDescription": "ADC"}, ""),
        ({"SeriesDescription": "T1", "EchoTime": 100, "RepetitionTime": 4000}, ""),
        ({"SeriesDescription": "brain", "EchoTime": 10, "RepetitionTime": 500}, "T1"),
        ({"SeriesDescription": "brain", "EchoTime": 100, "RepetitionTime": 4000}, "T2"),
        ({"SeriesDescription": "brain", "EchoTime": 100, "RepetitionTime": 9000, "InversionTime": 2500}, ""),
        ({"SeriesDescription": "brain"}, ""),
        ({"Modality": "CT", "SeriesDescription": "T1"}, "CT"),
        ({"Modality": "US"}, ""),
    ],
)
def test_channels_are_recognised_from_the_headers(headers: dict, channel: str):
    values = {"Modality": "MR", **headers}
    found, reason, _ = classify(lambda tag: str(values.get(tag, "")), lambda tag: values.get(tag))
    assert found == channel
    assert reason


@pytest.mark.parametrize(
    "headers",
    [
        {"ContrastBolusAgent": "Gd"},
        {"SeriesDescription": "t1 tse +C"},
        {"ProtocolName": "gd"},
        {"SeriesDescription": "T1增强"},
    ],
)
def test_a_contrast_enhanced_t1_is_a_t1_with_a_note(headers: dict):
    values = {"Modality": "MR", "SeriesDescription": "t1 tse", **headers}
    assert classify(lambda tag: values.get(tag, ""), lambda tag: None)[::2] == ("T1", [Message("contrast_enhanced")])


def test_other_files_are_no_dicom(tmp_path: Path):
    sitk.WriteImage(image(), str(tmp_path / "a.nii"))
    sitk.WriteImage(image(), str(tmp_path / "a.nrrd"))
    (tmp_path / "empty").touch()
    assert not any(is_dicom(path) for path in tmp_path.iterdir())
    assert not has_dicom(tmp_path)


def test_labels_hold_nothing_personal(tmp_path: Path):
    study = Study("MRN42", "Zhang^San Feng")
    write(tmp_path, study=study, description="CT mrn42 ZHANG 20230115 feng 2023-01-15 head")
    assert only(tmp_path).label == "series 1 'CT *** *** *** *** *** head' (CT, 5 images)"


def test_short_names_and_other_dates_are_personal_too(tmp_path: Path):
    write(tmp_path, study=Study("MRN42", "Li^Bo"), description="Li Bo line 15.1.2023 2023年1月15日 bone")
    assert only(tmp_path).label == "series 1 '*** *** line *** *** bone' (CT, 5 images)"
    assert without_personal("its boundary", {"it", "bo"}) == "its boundary"


NASTY = {
    *("T1", "T1 2019", "Series", "CT", "The", "Case", "Li", "No", "001", "2019", "case_001", "1", "say", "Number"),
    *("images", "MR", "96", "Series^CT", "HEAD-001", "file", "左", "Hu"),
}


@pytest.mark.parametrize(
    "sentence",
    [
        "channel T1 has 2 series, series 3 '***' (MR, 24 images) and series 8 't1 +C' (MR, 96 images); say which in a file "
        "for --series: [case_001] T1 = NUMBER, or its SeriesInstanceUID",
        "CT: values -1024..3071 HU, 20101203 voxels at 2023-10-01; see nnunet_ext 0.1.0",
        "no image case_001_0000.nii.gz (channel CT) in imagesTr; the CT is left out",
    ],
)
def test_a_patient_named_as_our_own_words_leaves_our_sentences_as_they_are(sentence):
    assert without_personal(sentence, NASTY) == sentence


def test_what_is_none_of_our_words_is_taken_out_of_sentences_too():
    words = {"Zhangsan", "MRN-4711", "20190304", "Zhangsan^San Feng", "张", "Müller", "12345678"}
    said = "cannot read /data/Zhangsan/MRN-4711/x_12345678.dcm of Müller (张三), born 20190304; export it again"
    assert without_personal(said, words) == (
        "cannot read /data/***/***/x_***.dcm of *** (***三), born ***; export it again"
    )


def test_every_word_of_a_patient_named_as_our_words_is_taken_out_of_a_header(tmp_path: Path):
    write(tmp_path, study=Study("T1", "Series^CT"), description="Series T1 ct 2019-03-04 plan")
    assert only(tmp_path).label == "series 1 '*** *** *** *** plan' (CT, 5 images)"


def test_a_straight_reading_agrees_with_the_written_grid(tmp_path: Path):
    given = image()
    write(tmp_path, given)
    np.testing.assert_allclose(index_to_world(read_series(only(tmp_path))), index_to_world(given), atol=1e-6)
