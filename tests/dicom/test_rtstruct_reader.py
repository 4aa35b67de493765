import itertools
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from fault_inputs import set_raw

from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rasterising import fill_polygon, rasterise
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.rtstruct_writer import write_contours
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.structure_set import Contour, Roi
from nnunet_ext.dicom.text import decode_text, readable_text
from nnunet_ext.dicom.tracing import trace_mask
from nnunet_ext.messages import in_english

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
    assert "cross" in str(notes[0])
    assert "copies" in str(notes[1])


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
    assert in_english(notes) == ["no contour on 2 slices (4, 5): interpolated between the neighbours"]


def test_a_wide_gap_stays_empty_and_is_said():
    image = grid()
    notes: list[str] = []
    mask = rasterise([polygon(image, SQUARE, 1), polygon(image, SQUARE, 6)], image, notes)
    assert mask.any(axis=(1, 2)).nonzero()[0].tolist() == [1, 6]
    assert in_english(notes) == ["no contour on 4 slices (3, 4, 5, 6) between others: left empty"]


def shifted(drawn: list[Contour], image: sitk.Image, slices_off) -> list[Contour]:
    """Contours moved along the slices, by one share of a slice or by one for each."""
    normal = np.reshape(image.GetDirection(), (3, 3))[:, 2] * image.GetSpacing()[2]
    shares = np.broadcast_to(slices_off, len(drawn))
    return [Contour(c.points_mm + share * normal, c.kind, c.images) for c, share in zip(drawn, shares, strict=True)]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("share", [-0.5, -0.4, -0.2, 0.2, 0.4, 0.5])
def test_contours_off_the_slices_move_to_the_nearest_all_to_the_same_side(flips, share: float):
    image, mask = grid(flips=flips), lens()
    notes: list[str] = []
    rng = np.random.default_rng(1)
    drawn = contours(mask, image)
    result = rasterise(shifted(drawn, image, share + rng.uniform(-0.01, 0.01, len(drawn))), image, notes)
    np.testing.assert_array_equal(result, np.roll(mask, -1 if share == -0.5 else 0, axis=0))  # half-way: to the lower
    (note,) = in_english(notes)
    assert note.startswith(f"contours lie up to {abs(share):.1g}")
    assert note.endswith("slices off the images: moved to the nearest")


def test_a_tenth_of_a_slice_is_rounding_and_not_said():
    image, notes = grid(), []
    drawn = shifted(contours(lens(), image), image, 0.08)
    np.testing.assert_array_equal(rasterise(drawn, image, notes), lens())
    assert notes == []


def test_every_second_slice_is_interpolated_also_where_contours_lie_off_the_slices():
    image = grid()
    notes: list[str] = []
    mask = rasterise([polygon(image, SQUARE, k) for k in (1.4, 3.4, 5.4)], image, notes)
    assert mask.sum(axis=(1, 2)).tolist() == [0, 36, 36, 36, 36, 36, 0, 0, 0]
    assert "no contour on 2 slices (3, 5): interpolated between the neighbours" in in_english(notes)


def test_of_contours_finer_than_the_slices_each_slice_takes_the_nearest():
    image = grid()
    notes: list[str] = []
    wide = [(1.5, 1.5), (9.5, 1.5), (9.5, 9.5), (1.5, 9.5)]
    drawn = [polygon(image, SQUARE if k == int(k) else wide, k) for k in (2, 2.25, 2.5, 2.75, 3, 3.25)]
    assert rasterise(drawn, image, notes).sum(axis=(1, 2)).tolist() == [0, 0, 36, 36, 0, 0, 0, 0, 0]
    assert str(notes[-1]) == "4 contours lie between the images, beside nearer ones: left out"


def test_a_contour_belongs_to_the_image_it_refers_to(tmp_path: Path):
    ct = series(tmp_path / "ct")
    image = grid()
    own = [((one.sop_uid, None),) for one in sorted(ct.slices, key=lambda one: one.path)]
    drawn = [Contour(polygon(image, SQUARE, k + 0.5).points_mm, images=own[k]) for k in (2, 3)]
    drawn += [Contour(polygon(image, SQUARE, 4.5).points_mm, images=own[5])]
    result = rasterise(drawn, image, slices=ct.slices)
    assert result.any(axis=(1, 2)).nonzero()[0].tolist() == [2, 3, 4, 5]  # 4 is interpolated
    off = [Contour(polygon(image, SQUARE, 2.4).points_mm, images=own[3])]
    with pytest.raises(ValueError, match=r"1 of 1 contours lie up to 0\.6 slices off the image they belong to"):
        rasterise(off, image, slices=ct.slices)
    elsewhere = [Contour(polygon(image, SQUARE, 2.4).points_mm, images=(("1.2.3", None), own[2][0]))]
    assert rasterise(elsewhere, image, slices=ct.slices)[2].sum() == 36


@pytest.mark.parametrize(("k", "accepted"), [(-0.5, True), (-0.6, False), (8.5, True), (8.6, False)])
def test_contours_beyond_the_first_and_last_slice_are_refused_from_half_a_slice_on(k: float, accepted: bool):
    image = grid()
    drawn = [polygon(image, SQUARE, j) for j in (k, 4)]
    if accepted:
        assert rasterise(drawn, image)[0 if k < 0 else -1].sum() == 36
    else:
        with pytest.raises(ValueError, match=r"1 of 2 contours lie up to 0\.6 slices off"):
            rasterise(drawn, image)


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
    line = Contour(polygon(image, SQUARE, 3).points_mm, "OPEN_PLANAR")
    assert rasterise([polygon(image, SQUARE, 2), point, line], image, notes).sum() == 36
    assert in_english(notes) == ["2 of 3 contours are points or open lines: left out"]
    assert not Roi(1, "x", "", (point, line)).encloses


def test_an_open_line_that_ends_where_it_begins_is_closed():
    image = grid()
    notes: list[str] = []
    line = Contour(polygon(image, [*SQUARE, SQUARE[0]], 3).points_mm, "OPEN_PLANAR")
    assert rasterise([line], image, notes)[3].sum() == 36
    assert in_english(notes) == ["1 open lines end where they begin: taken as closed contours"]


def test_interpolated_contours_cut_holes_and_mix_with_the_others():
    image = grid(oblique=False)
    inner = [(4.5, 4.5), (6.5, 4.5), (6.5, 6.5), (4.5, 6.5)]
    kinds = ("CLOSED_PLANAR", "INTERPOLATED_PLANAR", "CLOSEDPLANAR_XOR")
    for a, b in itertools.product(kinds, repeat=2):
        drawn = [Contour(polygon(image, p, 2).points_mm, kind) for p, kind in ((SQUARE, a), (inner, b))]
        drawn.append(Contour(polygon(image, SQUARE, 3).points_mm, "INTERPOLATED_PLANAR"))
        assert rasterise(drawn, image).sum(axis=(1, 2))[2:4].tolist() == [36 - 4, 36]


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


ESCAPED = {
    "chinese": (["", "ISO 2022 IR 58"], b"\x1b$)A" + "左眼球".encode("gb2312"), "左眼球"),
    "chinese, declared alone": (["ISO 2022 IR 58"], b"\x1b$)A" + "左眼球".encode("gb2312"), "左眼球"),
    "chinese, not declared": ([], b"\x1b$)A" + "左眼球".encode("gb2312"), "左眼球"),
    "chinese, declared as latin": (["ISO_IR 100"], b"\x1b$)A" + "左眼球".encode("gb2312"), "左眼球"),
    "chinese, traditional": (["", "ISO 2022 IR 58"], b"\x1b$)A" + "視神經".encode("gbk") + b"_R", "視神經_R"),
    "chinese, back to ascii": (
        ["", "ISO 2022 IR 58"],
        b"Eye \x1b$)A" + "左".encode("gb2312") + b"\x1b(B L",
        "Eye 左 L",
    ),
    "chinese, escape forgotten": (["", "ISO 2022 IR 58"], "左眼球".encode("gb2312"), "左眼球"),
    "korean": (["", "ISO 2022 IR 149"], b"\x1b$)C" + "시신경".encode("euc_kr"), "시신경"),
    "korean, escape forgotten": (["", "ISO 2022 IR 149"], "시신경".encode("euc_kr"), "시신경"),
    "japanese": (["", "ISO 2022 IR 87"], "視神経".encode("iso2022_jp"), "視神経"),
    "japanese kana": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        "ﾔﾏﾀﾞ".encode("shift_jis") + "右".encode("iso2022_jp"),
        "ﾔﾏﾀﾞ右",
    ),
    "kana without escape": (["ISO_IR 13"], "ﾂｱ".encode("shift_jis"), "ﾂｱ"),
    "greek": (["ISO 2022 IR 100", "ISO 2022 IR 126"], b"\x1b-F" + "μάτι".encode("iso8859_7"), "μάτι"),
    "russian": (["ISO_IR 144"], "глаз".encode("iso8859_5"), "глаз"),
    "gbk": (["GBK"], "視神經".encode("gbk"), "視神經"),
    "gb 18030": (["GB18030"], "左眼球".encode("gb18030"), "左眼球"),
    "gb 18030 that is utf-8": (["GB18030"], "左视神经".encode(), "左视神经"),
    "utf-8 that is gb 2312": (["ISO_IR 192"], "左眼球".encode("gb2312"), "左眼球"),
    "utf-8 that is latin": (["ISO_IR 192"], "Müller".encode("latin-1"), "Müller"),
    "padded": (["", "ISO 2022 IR 58"], b" \x1b$)A" + "左眼球".encode("gb2312") + b" \x00", "左眼球"),
}


@pytest.mark.parametrize("kind", ESCAPED)
def test_names_are_decoded_from_their_bytes(kind: str):
    charsets, raw, name = ESCAPED[kind]
    assert decode_text(raw, charsets) == name


def test_each_component_and_group_of_a_person_is_decoded():
    mark = b"\x1b$)A"
    raw = b"Zhang^San=" + mark + "张".encode("gb2312") + b"^" + mark + "三".encode("gb2312")
    assert decode_text(raw, ["", "ISO 2022 IR 58"]) == "Zhang^San=张^三"
    raw = b"Yamada^Tarou=" + b"^".join(part.encode("iso2022_jp") for part in ("山田", "太郎")) + b"=" + b"^".join(
        part.encode("iso2022_jp") for part in ("やまだ", "たろう"))  # fmt: skip
    assert decode_text(raw, ["", "ISO 2022 IR 87"]) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    raw = b"\x1b-F" + "Διον".encode("iso8859_7") + b"^" + "é".encode("latin-1")  # ^ puts the first set back
    assert decode_text(raw, ["ISO 2022 IR 100", "ISO 2022 IR 126"]) == "Διον^é"


def test_western_names_stay_as_they_are():
    for name in ("Müller", "Pääkkönen", "Léa", "Øre"):
        assert readable_text(name, {"SpecificCharacterSet": "ISO_IR 100"}) == name


@pytest.fixture(scope="module")
def two_lenses(tmp_path_factory) -> Path:
    """An RTSTRUCT with `Lens_L` and `Lens_R`, both the same lens of three contours."""
    folder = tmp_path_factory.mktemp("two")
    organs = {name: [c.points_mm for c in contours(lens(), grid())] for name in ("Lens_L", "Lens_R")}
    write_contours(organs, series(folder / "ct"), folder / "RS")
    return folder / "RS"


def spoilt(two_lenses: Path, tmp_path: Path, damage) -> Path:
    dataset = pydicom.dcmread(two_lenses)
    damage(dataset)
    dataset.save_as(tmp_path / "RS")
    return tmp_path / "RS"


def first(dataset) -> pydicom.Dataset:
    return dataset.ROIContourSequence[0].ContourSequence[0]


def swap_numbers_for_none(dataset) -> None:
    dataset.ROIContourSequence[0].ReferencedROINumber = None


DAMAGED = {  # what is done to the first of two regions -> its problem
    "no number": (swap_numbers_for_none, "has no contour, and the RTSTRUCT has a region without a number; export"),
    "two values": (lambda d: setattr(first(d), "ContourData", ["1", "2"]), "has points that are not x, y, z numbers"),
    "comma": (lambda d: set_raw(first(d), "ContourData", b"1\\2\\3,5"), "has points that are not x, y, z numbers"),
    "infinite": (lambda d: set_raw(first(d), "ContourData", b"1\\2\\inf"), "has points that are not x, y, z numbers"),
    "fewer points": (lambda d: set_raw(first(d), "ContourData", b"1\\2\\3"), "has 1 points and says it has"),
    "no points": (lambda d: delattr(first(d), "ContourData"), "has 0 points and says it has"),
    "type": (lambda d: setattr(first(d), "ContourGeometricType", "CIRCLE"), "contour 1 of 3 is of an unknown type"),
    "no sequence": (lambda d: first(d).add_new("ContourImageSequence", "LO", "what"), "its contours are damaged"),
    "stranger": (
        lambda d: [setattr(d.ROIContourSequence[0], "ReferencedROINumber", 7),
                   setattr(d.StructureSetROISequence[0], "ROINumber", None)],
        "is a region without a number"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_wrong_with_one_region_stays_with_it(two_lenses: Path, tmp_path: Path, kind: str):
    damage, problem = DAMAGED[kind]
    broken, whole = read_rtstruct(spoilt(two_lenses, tmp_path, damage)).rois
    assert problem in broken.problem
    assert broken.problem.endswith("export it again")
    assert (whole.problem, len(whole.contours)) == ("", 3)


def test_two_regions_with_one_number_are_a_problem_of_both(two_lenses: Path, tmp_path: Path):
    rois = read_rtstruct(
        spoilt(two_lenses, tmp_path, lambda d: setattr(d.StructureSetROISequence[1], "ROINumber", 1))
    ).rois
    assert [roi.problem for roi in rois] == ["is one of two regions with the number 1; export it again"] * 2


def no_name_no_frame_no_list(dataset) -> None:
    dataset.StructureSetROISequence[1].ROIName = ""
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = None
    del dataset.ROIContourSequence[1].ContourSequence
    dataset.ROIContourSequence.append(pydicom.Dataset())  # nothing
    contour = first(dataset)
    contour.NumberOfContourPoints = None
    set_raw(contour, "ContourGeometricType", b" closed_planar ")
    del dataset.ROIContourSequence[0].ContourSequence[1].ContourGeometricType


def test_what_is_missing_and_does_no_harm_is_no_problem(two_lenses: Path, tmp_path: Path):
    a, b = read_rtstruct(spoilt(two_lenses, tmp_path, no_name_no_frame_no_list)).rois
    assert (a.problem, b.problem, b.name, b.frame_of_reference_uid, b.contours) == ("", "", "", "", ())
    np.testing.assert_array_equal(rasterise(a.contours, grid()), lens())


def test_contours_of_no_region_are_named(two_lenses: Path, tmp_path: Path):
    def change(dataset) -> None:
        dataset.ROIContourSequence.append(deepcopy(dataset.ROIContourSequence[0]))
        dataset.ROIContourSequence[2].ReferencedROINumber = 77

    structures = read_rtstruct(spoilt(two_lenses, tmp_path, change))
    assert structures.leftover == ("contours of region 77, which is not in the list of regions",)
    assert [roi.problem for roi in structures.rois] == ["", ""]


def test_a_damaged_sequence_raises_one_line(two_lenses: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"the RTSTRUCT is damaged \(OSError\); export it again"):
        read_rtstruct(spoilt(two_lenses, tmp_path, lambda d: d.add_new("ROIContourSequence", "LO", "what")))


def test_a_file_that_is_cut_off_anywhere_raises_or_has_all_or_no_contours(two_lenses: Path, tmp_path: Path):
    content = two_lenses.read_bytes()
    for at in np.random.default_rng(2).integers(400, len(content) - 1, 60):
        (tmp_path / "RS").write_bytes(content[:at])
        try:
            rois = read_rtstruct(tmp_path / "RS").rois
        except ValueError:
            continue
        assert {len(roi.contours) for roi in rois} in ({0}, {3})  # cut between two elements


def test_a_keyhole_cuts_the_same_hole_as_a_contour_within():
    outer, inner = [(3, 2), (13, 2), (13, 11), (3, 11)], [(6, 4), (6, 8), (10, 8), (10, 4)]
    keyhole = [*outer, outer[0], *inner, inner[0]]  # along one edge inwards, and back along it
    of_two = rasterise([polygon(grid(), points, 4.0) for points in (outer, inner)], grid())
    np.testing.assert_array_equal(rasterise([polygon(grid(), keyhole, 4.0)], grid()), of_two)
    assert of_two[4, 5, 4]
    assert not of_two[4, 5, 8]
