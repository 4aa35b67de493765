"""RTSTRUCT files, whole and damaged."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from drawn_contours import SHAPE, contours, grid, lens, series
from fault_inputs import set_raw

from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.rtstruct_writer import write_contours
from nnunet_ext.dicom.tracing import trace_mask


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


def test_a_file_that_is_no_rtstruct_raises(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"\x00" * 300)
    with pytest.raises(ValueError, match=r"RTSTRUCT (cannot be read|has no list)"):
        read_rtstruct(tmp_path / "x")


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
