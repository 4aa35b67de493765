"""Contours to masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from drawn_contours import SHAPE, SQUARE, contours, grid, lens, polygon

from nnunet_ext.dicom.rasterising import fill_polygon, rasterise
from nnunet_ext.dicom.structure_set import Contour
from nnunet_ext.messages import in_english


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


def test_every_second_slice_is_interpolated_also_where_contours_lie_off_the_slices():
    image = grid()
    notes: list[str] = []
    mask = rasterise([polygon(image, SQUARE, k) for k in (1.4, 3.4, 5.4)], image, notes)
    assert mask.sum(axis=(1, 2)).tolist() == [0, 36, 36, 36, 36, 36, 0, 0, 0]
    assert "no contour on 2 slices (3, 5): interpolated between the neighbours" in in_english(notes)


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


def test_interpolated_contours_cut_holes_and_mix_with_the_others():
    image = grid(oblique=False)
    inner = [(4.5, 4.5), (6.5, 4.5), (6.5, 6.5), (4.5, 6.5)]
    kinds = ("CLOSED_PLANAR", "INTERPOLATED_PLANAR", "CLOSEDPLANAR_XOR")
    for a, b in itertools.product(kinds, repeat=2):
        drawn = [Contour(polygon(image, p, 2).points_mm, kind) for p, kind in ((SQUARE, a), (inner, b))]
        drawn.append(Contour(polygon(image, SQUARE, 3).points_mm, "INTERPOLATED_PLANAR"))
        assert rasterise(drawn, image).sum(axis=(1, 2))[2:4].tolist() == [36 - 4, 36]


def test_a_keyhole_cuts_the_same_hole_as_a_contour_within():
    outer, inner = [(3, 2), (13, 2), (13, 11), (3, 11)], [(6, 4), (6, 8), (10, 8), (10, 4)]
    keyhole = [*outer, outer[0], *inner, inner[0]]  # along one edge inwards, and back along it
    of_two = rasterise([polygon(grid(), points, 4.0) for points in (outer, inner)], grid())
    np.testing.assert_array_equal(rasterise([polygon(grid(), keyhole, 4.0)], grid()), of_two)
    assert of_two[4, 5, 4]
    assert not of_two[4, 5, 8]
