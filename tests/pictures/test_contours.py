"""One slice drawn: the part that is shown, its contours and its marks."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from nnunet_ext.pictures.contours import SMALLEST_VIEW_MM, VIEW_ASPECT, box_mm, draw_contours, draw_marks, zoom_mm


def test_zoom_holds_the_organ_and_its_neighbours_only():
    shape, pixel_mm = (200, 200), (0.8, 0.7)
    lens, eye, far = (np.zeros(shape, bool) for _ in range(3))
    lens[100:104, 100:110] = True
    eye[96:120, 90:120] = True
    far[10:14, 10:14] = True
    left, right, top, bottom = zoom_mm([{"lens": lens, "eye": eye, "far": far}, None], ["lens"], pixel_mm)
    assert (right - left) / (bottom - top) == pytest.approx(VIEW_ASPECT)
    assert right - left == pytest.approx(SMALLEST_VIEW_MM)
    assert left < 90 * 0.7 - 6.0
    assert right > 120 * 0.7 + 6.0 - 0.7
    assert top < 96 * 0.8 - 6.0
    assert bottom > 120 * 0.8 + 6.0 - 0.8
    assert left > 13 * 0.7


def test_contour_lies_half_way_to_the_voxels_outside_and_is_closed_at_the_border():
    mask = np.zeros((5, 7), bool)
    mask[2, 4] = True  # one voxel: a diamond whose corners are half a voxel away
    border = np.zeros((5, 7), bool)
    border[:, 0] = True
    axes = Figure().add_subplot()
    draw_contours(
        axes,
        ({"one": mask, "none": np.zeros_like(mask)}, {"border": border}),
        (2.0, 0.5),
        {"one": "red", "border": "blue"},
    )
    reference, prediction = ([path.vertices for path in drawn.get_paths()] for drawn in axes.collections)
    assert len(axes.collections) == 2, "an empty mask has no contour"
    (diamond,), (band,) = reference, prediction
    assert {tuple(corner) for corner in diamond.tolist()} == {(1.75, 4.0), (2.25, 4.0), (2.0, 3.0), (2.0, 5.0)}
    assert band.min(axis=0).tolist() == [-0.25, -1.0]
    assert band.max(axis=0).tolist() == [0.25, 9.0]
    assert (band[0] == band[-1]).all()


@pytest.mark.parametrize(("plane", "letters"), [("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI")])
def test_marks_name_the_sides_of_the_patient_and_the_length_of_the_bar(plane, letters):
    axes = Figure().add_subplot()
    draw_marks(axes, plane, (-10.0, 40.0, 0.0, 37.5))
    left, right, top, bottom, bar = axes.texts
    assert "".join(text.get_text() for text in (left, right, top, bottom)) == letters
    assert left.get_position()[0] < 0.5 < right.get_position()[0]
    assert bottom.get_position()[1] < 0.5 < top.get_position()[1]
    assert bar.get_text() == "10 mm"
    start, end = axes.lines[0].get_xdata()
    assert (end - start) * 50.0 == pytest.approx(10.0), "of a picture 50 mm wide"


def test_a_box_is_shown_to_its_outer_voxel_edges_and_upside_down_where_slices_are():
    box, shape, spacing_mm = (slice(2, 6), slice(10, 20), slice(30, 50)), (12, 40, 60), (3.0, 0.8, 0.7)
    assert box_mm(box, "axial", shape, spacing_mm) == pytest.approx((29.5 * 0.7, 49.5 * 0.7, 9.5 * 0.8, 19.5 * 0.8))
    # Slices 2 to 5 of 12 are rows 6 to 9 from the top.
    assert box_mm(box, "coronal", shape, spacing_mm) == pytest.approx((29.5 * 0.7, 49.5 * 0.7, 5.5 * 3.0, 9.5 * 3.0))
    assert box_mm(box, "sagittal", shape, spacing_mm) == pytest.approx((9.5 * 0.8, 19.5 * 0.8, 5.5 * 3.0, 9.5 * 3.0))
