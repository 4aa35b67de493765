"""Contours that enclose an area, and those that do not."""

from __future__ import annotations

import numpy as np
from drawn_contours import SQUARE, grid, polygon

from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.structure_set import Contour, References, Roi, StructureSet
from nnunet_ext.messages import in_english


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


def test_references_are_those_of_the_frames_of_the_regions():
    point = np.zeros((1, 3))
    listed = {
        "1": References(frozenset({"ct"}), frozenset({"ct.1", "ct.2"})),
        "2": References(frozenset({"mr"}), frozenset({"mr.1"})),
    }
    eye = Roi(1, "Eye_L", "1", (Contour(point, images=(("ct.2", None),)),))
    lens = Roi(2, "Lens_L", "2", (Contour(point, images=(("mr.1", 0),)),))
    lost = Roi(3, "x", "3", ())
    content = StructureSet((eye, lens, lost), listed)
    assert content.references([eye]) == listed["1"]
    assert content.references([eye, lens]).series_uids == {"ct", "mr"}
    assert content.references([lost]) == content.references([]) == listed["1"] | listed["2"]
    assert content.series_uids == {"ct", "mr"}
    assert content.contour_sop_uids == {"ct.2", "mr.1"}
    assert content.sop_uids == {"ct.1", "ct.2", "mr.1"}
    assert content.frame_of_reference_uids == {"1", "2", "3"}
    assert eye.contours[0].sop_uid == "ct.2"
    assert Contour(point).sop_uid == ""
