import itertools
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from nnunet_ext.dicom_series import Series, find_series
from nnunet_ext.dicom_writer import Study, write_series
from nnunet_ext.rtstruct import Contour, fill_polygon, rasterise, read_rtstruct, readable_text, trace_mask
from nnunet_ext.rtstruct_writer import write_contours

SHAPE, SPACING_MM = (9, 13, 17), (3.0, 0.8, 0.7)


def grid(shape=SHAPE, *, flips=(1, 1, 1), oblique: bool = True) -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros(shape, dtype=np.int16))
    image.SetSpacing(SPACING_MM[::-1])
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*((0.11, -0.17, 0.23) if oblique else (0.0, 0.0, 0.0)))
    direction = np.reshape(transform.GetMatrix(), (3, 3)) * np.asarray(flips, dtype=float)
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((-31.7, 12.3, 455.5))
    return image


def lens(shape=SHAPE) -> np.ndarray:
    z, y, x = np.indices(shape)
    return ((z - 4) * 3.0 / 4.6) ** 2 + ((y - 6) * 0.8 / 2.5) ** 2 + ((x - 8) * 0.7 / 2.5) ** 2 < 1


def contours(mask: np.ndarray, image: sitk.Image) -> list[Contour]:
    return [Contour(points) for points in trace_mask(mask, image)]


def series(folder: Path) -> Series:
    write_series(grid(), folder, modality="CT", study=Study("p"), number=1)
    (found,) = find_series(folder).images
    return found


def polygon(image: sitk.Image, points, k: float) -> Contour:
    """Contour from continuous index `(x, y)` points at slice position k."""
    return Contour(
        np.array([image.TransformContinuousIndexToPhysicalPoint((float(x), float(y), float(k))) for x, y in points])
    )


@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_a_lens_traced_along_voxel_edges_comes_back_identical(flips):
    mask = lens()
    assert 60 <= mask.sum() <= 90
    image = grid(flips=flips)
    notes: list[str] = []
    np.testing.assert_array_equal(rasterise(contours(mask, image), image, notes), mask)
    assert notes == []


def test_holes_islands_corners_and_several_pieces_come_back_identical():
    image = grid()
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3, 1:11, 1:12] = True
    mask[3, 3:9, 3:10] = False  # a hole
    mask[3, 5:7, 5:8] = True  # an island in the hole
    mask[3, 11, 12] = True  # touches at a corner only
    mask[3, 2, 14:16] = True  # another piece
    mask[4] = np.random.default_rng(0).random(SHAPE[1:]) < 0.5
    np.testing.assert_array_equal(rasterise(contours(mask, image), image), mask)


def test_masks_at_the_border_of_the_image_come_back_identical():
    image = grid()
    mask = np.ones(SHAPE, dtype=bool)
    np.testing.assert_array_equal(rasterise(contours(mask, image), image), mask)


def test_vertices_are_not_rounded_to_voxels():
    # A square from x = 2.4 to 5.6: centres 3, 4, 5 lie inside. Rounded to voxels it would reach from 2 to 6.
    square = np.array([[2.4, 1.6], [5.6, 1.6], [5.6, 4.4], [2.4, 4.4]])
    expected = np.zeros((8, 9), dtype=bool)
    expected[2:5, 3:6] = True
    np.testing.assert_array_equal(fill_polygon(square, (8, 9)), expected)


def test_a_circle_keeps_its_area_and_its_centre():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    area, centre = [], []
    for shift in np.random.default_rng(3).random((40, 2)):
        points = np.column_stack([np.cos(angle), np.sin(angle)]) * 5.0 + 10 + shift
        mask = fill_polygon(points, (24, 26))
        area.append(mask.sum() - np.pi * 25)
        centre.append(np.argwhere(mask).mean(axis=0)[::-1] - 10 - shift)
    assert abs(np.mean(area)) < 0.6
    assert np.abs(np.mean(centre, axis=0)).max() < 0.02


def test_two_polygons_that_share_an_edge_never_share_a_voxel():
    left = fill_polygon(np.array([[0.5, 0.5], [4.0, 0.5], [4.0, 6.5], [0.5, 6.5]]), (8, 9))
    right = fill_polygon(np.array([[4.0, 0.5], [7.5, 0.5], [7.5, 6.5], [4.0, 6.5]]), (8, 9))
    assert not (left & right).any()
    assert (left | right).sum() == 6 * 7


def test_crossing_contours_are_united_and_copies_count_once():
    image = grid(oblique=False)
    a = polygon(image, [(1.5, 1.5), (6.5, 1.5), (6.5, 6.5), (1.5, 6.5)], 2)
    b = polygon(image, [(4.5, 4.5), (9.5, 4.5), (9.5, 9.5), (4.5, 9.5)], 2)
    notes: list[str] = []
    mask = rasterise([a, b, a], image, notes)
    assert mask.sum() == 25 + 25 - 4
    assert len(notes) == 2
    assert "cross" in notes[0]
    assert "copies" in notes[1]


def test_closedplanar_xor_leaves_out_what_two_contours_share():
    image = grid(oblique=False)
    a = polygon(image, [(1.5, 1.5), (6.5, 1.5), (6.5, 6.5), (1.5, 6.5)], 2).points_mm
    b = polygon(image, [(4.5, 4.5), (9.5, 4.5), (9.5, 9.5), (4.5, 9.5)], 2).points_mm
    assert rasterise([Contour(p, "CLOSEDPLANAR_XOR") for p in (a, b)], image).sum() == 25 + 25 - 8


SQUARE = [(2.5, 2.5), (8.5, 2.5), (8.5, 8.5), (2.5, 8.5)]


def test_skipped_slices_are_interpolated_and_said():
    # Half widths 3 and 2 voxels: 2.67 on the first skipped slice, which holds centres up to 2.5, then 2.33.
    image = grid()
    notes: list[str] = []
    small = [(3.5, 3.5), (7.5, 3.5), (7.5, 7.5), (3.5, 7.5)]
    mask = rasterise([polygon(image, SQUARE, 2), polygon(image, small, 5)], image, notes)
    assert mask.sum(axis=(1, 2)).tolist() == [0, 0, 36, 36, 16, 16, 0, 0, 0]
    assert notes == ["no contour on 2 slices (4, 5): interpolated between the neighbours"]


def test_a_wide_gap_stays_empty_and_is_said():
    image = grid()
    notes: list[str] = []
    mask = rasterise([polygon(image, SQUARE, 1), polygon(image, SQUARE, 6)], image, notes)
    assert mask.any(axis=(1, 2)).nonzero()[0].tolist() == [1, 6]
    assert notes == ["no contour on 4 slices (3, 4, 5, 6) between others: left empty"]


def test_contours_between_slices_are_interpolated_onto_the_slices():
    image = grid()
    drawn = [polygon(image, SQUARE, k) for k in (1.5, 2.5, 3.5)]
    mask = rasterise(drawn, image)
    assert mask.sum(axis=(1, 2)).tolist() == [0, 36, 36, 36, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(2, 2, 1), (6, 2, 3), (6, 6, 3), (2, 6, 1)], "not parallel to the slices"),
        ([(2, 2, 40), (6, 2, 40), (6, 6, 40), (2, 6, 40)], "outside the image"),
    ],
)
def test_contours_that_do_not_belong_to_the_image_raise(points, message: str):
    image = grid()
    drawn = Contour(np.array([image.TransformContinuousIndexToPhysicalPoint([float(v) for v in p]) for p in points]))
    with pytest.raises(ValueError, match=message):
        rasterise([drawn], image)


def test_a_file_keeps_rois_references_and_chinese_names(tmp_path: Path):
    image = grid()
    ct = series(tmp_path / "ct")
    mask = lens()
    path = tmp_path / "rs"
    write_contours({"左晶体": trace_mask(mask, image), "empty": []}, ct, path)
    structures = read_rtstruct(path)
    assert [(roi.name, bool(roi.contours)) for roi in structures.rois] == [("左晶体", True), ("empty", False)]
    assert len(structures.sop_uids) == SHAPE[0]
    np.testing.assert_array_equal(rasterise(structures.rois[0].contours, image), mask)


def test_points_and_open_lines_are_left_out_and_said():
    image = grid()
    notes: list[str] = []
    point = Contour(np.array([image.GetOrigin()]), "POINT")
    assert rasterise([polygon(image, SQUARE, 2), point], image, notes).sum() == 36
    assert notes == ["1 of 2 contours are points or open lines: left out"]


def test_a_file_that_is_no_rtstruct_raises(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"\x00" * 300)
    with pytest.raises(ValueError, match=r"RTSTRUCT (cannot be read|has no list)"):
        read_rtstruct(tmp_path / "x")


CHINESE = ("左眼球", "视交叉")


@pytest.mark.parametrize(
    ("stated", "encoding"),
    [
        ("GB18030", "gb18030"),
        ("ISO_IR 192", "utf-8"),
        ("ISO_IR 100", "gb2312"),
        ("ISO_IR 100", "utf-8"),
        ("", "gb18030"),
        ("", "utf-8"),
        ("UNHEARD OF", "utf-8"),
    ],
)
def test_chinese_names_are_read_whatever_character_set_is_stated(tmp_path: Path, stated: str, encoding: str):
    ct = series(tmp_path / "ct")
    holders = {letter * len(name.encode(encoding)): name for letter, name in zip("XY", CHINESE, strict=True)}
    path = tmp_path / "RS"
    write_contours({holder: [] for holder in holders}, ct, path)
    raw = path.read_bytes().replace(b"ISO_IR 192", stated.encode().ljust(10))
    for holder, name in holders.items():
        raw = raw.replace(holder.encode(), name.encode(encoding))
    path.write_bytes(raw)
    assert tuple(roi.name for roi in read_rtstruct(path).rois) == CHINESE


def test_western_names_stay_as_they_are():
    for name in ("Müller", "Pääkkönen", "Léa", "Øre"):
        assert readable_text(name, {"SpecificCharacterSet": "ISO_IR 100"}) == name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: setattr(d.ROIContourSequence[0], "ReferencedROINumber", None), "region without a number"),
        (lambda d: d.add_new("ROIContourSequence", "LO", "what"), r"is damaged \(OSError\)"),
        (lambda d: setattr(d.StructureSetROISequence[1], "ROINumber", 1), "two regions with the number 1"),
        (
            lambda d: setattr(d.ROIContourSequence[0].ContourSequence[0], "ContourData", ["1", "2"]),
            "not x, y, z numbers",
        ),
    ],
)
def test_a_damaged_rtstruct_raises_one_line(tmp_path: Path, damage, message: str):
    ct = series(tmp_path / "ct")
    organs = {name: [c.points_mm for c in contours(lens(), grid())] for name in ("Lens_L", "Lens_R")}
    path = tmp_path / "RS"
    write_contours(organs, ct, path)
    dataset = pydicom.dcmread(path)
    damage(dataset)
    dataset.save_as(path)
    with pytest.raises(ValueError, match=message):
        read_rtstruct(path)


def test_a_keyhole_cuts_the_same_hole_as_a_contour_within():
    outer, inner = [(3, 2), (13, 2), (13, 11), (3, 11)], [(6, 4), (6, 8), (10, 8), (10, 4)]
    keyhole = [*outer, outer[0], *inner, inner[0]]  # along one edge inwards, and back along it
    of_two = rasterise([polygon(grid(), points, 4.0) for points in (outer, inner)], grid())
    np.testing.assert_array_equal(rasterise([polygon(grid(), keyhole, 4.0)], grid()), of_two)
    assert of_two[4, 5, 4]
    assert not of_two[4, 5, 8]
