"""Names and contents that mean labels, and segmentations of 3D Slicer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from organ_files import SHAPE, grid, like, masks, run, write_ct
from slicer_files import write_segmentation

from nnunet_ext.cases.label_files import (
    is_unread_label_file,
    label_stem,
    may_be_labels,
    read_segments,
    without_label_words,
)
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.images.geometry import place_in, same_grid
from nnunet_ext.images.label_maps import read_layers
from nnunet_ext.messages import in_english


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_ct(tmp_path)


@pytest.mark.parametrize(
    ("stem", "rest"),
    [
        *((name, "") for name in (
            "gt", "mask", "masks", "labels", "label_map", "LabelMap", "groundtruth", "ground_truth", "contours", "rois",
            "ROI", "annotation", "p7_seg", "p7-label", "CT_seg", "T1w-mask", "segmentation_1", "Segmentation-label", "seg2",
            "p7.seg", "seg_v2_final", "label 2024-05-01", "p7_dseg", "分割", "labels (1)", "p7 rtstruct",
        )),
        ("Eye_L_mask", "eye_l"), ("brain_mask", "brain"), ("GTV1_seg", "gtv1"),
        *((name, None) for name in ("Untitled", "CT", "Eye_L", "FLAIR", "segway", "gtv", "masking", "label2brain")),
    ],
)  # fmt: skip
def test_names_that_can_only_mean_labels(stem: str, rest: str | None):
    assert without_label_words(stem, ("p7", "CT", "T1w")) == rest


def test_the_ending_of_slicer_is_no_part_of_a_name():
    assert label_stem(Path("Eye_L.SEG.nrrd")) == "Eye_L"
    assert label_stem(Path("seg.nrrd")) == "seg"
    assert label_stem(Path("a.seg.nii.gz")) == "a.seg"
    assert is_unread_label_file(Path("label.mgz"))
    assert not is_unread_label_file(Path("affine.mat"))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (np.random.default_rng(0).integers(0, 2000, SHAPE), False),
        (np.random.default_rng(0).integers(0, 200, SHAPE), False),
        (np.arange(np.prod(SHAPE)).reshape(SHAPE) // 40, True),
        (np.where(np.arange(np.prod(SHAPE)).reshape(SHAPE) < 60, np.linspace(0, 1, np.prod(SHAPE)).reshape(SHAPE), 0), True),
    ],
)  # fmt: skip
def test_grey_values_are_told_from_labels_and_probabilities(tmp_path: Path, values: np.ndarray, labels: bool):
    sitk.WriteImage(like(values.astype(np.float32), grid()), str(tmp_path / "a.nii.gz"))
    assert may_be_labels(tmp_path / "a.nii.gz") is labels
    (tmp_path / "b.nii.gz").write_bytes(b"")
    assert may_be_labels(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR"])
def test_segments_are_read_by_name_whatever_their_values(case: Path, code: str):
    where = grid(code)
    left, right = masks(where)
    segments = [
        {"Name": "Brain", "LabelValue": 9, "Layer": 0},
        {"Name": "右眼球", "LabelValue": 1, "Layer": 0},
        {"Name": "left eye", "LabelValue": 4, "Layer": 0},
    ]
    values = np.where(left, 4, right).astype(np.uint8)
    values[values == 0] = 9
    write_segmentation(case / "Segmentation.seg.nrrd", [values], where, segments)
    summary, labels = run(case)
    assert summary.failed == {}
    left, right = masks(grid())
    np.testing.assert_array_equal(labels, np.where(left, 1, 2 * right))
    lines = list_cases(case.parent, modalities=["CT"], show_progress=False).lines
    assert "  left over: segment Brain" in lines


def test_layers_that_overlap_are_read_one_by_one(case: Path):
    left, right = masks(grid())
    segments = [{"Name": "Eye_L", "LabelValue": 1, "Layer": 0}, {"Name": "Eye_R", "LabelValue": 1, "Layer": 1}]
    path = write_segmentation(case / "Segmentation.seg.nrrd", [left, right], grid(), segments)
    assert len(read_layers(path)) == 2
    summary, labels = run(case)
    assert summary.failed == {}
    assert np.bincount(labels.ravel())[1:].tolist() == [12, 12]  # the voxel of both counts once
    assert any("masks of Eye_L and Eye_R overlap in 1 voxels" in line for line in in_english(summary.warnings["p7"]))


def test_files_of_older_slicers_have_a_layer_per_segment_and_no_values(case: Path):
    left, right = masks(grid())
    write_segmentation(case / "a.seg.nrrd", [left, right], grid(), [{"ID": "Eye_L"}, {"ID": "s", "Name": "Eye_R"}])
    assert [(s.name, s.layer, s.value) for s in read_segments(case / "a.seg.nrrd")] == [
        ("Eye_L", 0, None),
        ("Eye_R", 1, None),
    ]
    _, labels = run(case)
    np.testing.assert_array_equal(labels > 0, (left | right) > 0)


@pytest.mark.parametrize("code", ["LPS", "RAI"])
def test_a_cropped_segmentation_lands_where_it_was_drawn(case: Path, code: str):
    where = grid(code)
    left, right = masks(where)
    z, y, x = (np.flatnonzero((left | right).any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    crop = tuple(slice(int(a[0]), int(a[-1]) + 1) for a in (z, y, x))
    segments = [{"Name": "Eye_L", "LabelValue": 1, "Layer": 0}, {"Name": "Eye_R", "LabelValue": 1, "Layer": 1}]
    path = write_segmentation(case / "Segmentation.seg.nrrd", [left, right], where, segments, crop=crop)
    assert read_layers(path)[0].GetSize() != where.GetSize()
    summary, labels = run(case)
    assert summary.failed == {}
    left, right = masks(grid())
    np.testing.assert_array_equal(labels > 0, (left | right) > 0)


def test_a_part_that_is_off_the_voxels_of_the_grid_is_no_part():
    part = grid()[3:8, 2:9, 1:5]
    part = part + 1
    whole = place_in(part, grid())
    assert same_grid(whole, grid(), 1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(whole)[1:5, 2:9, 3:8], 1)
    assert sitk.GetArrayFromImage(whole).sum() == 5 * 7 * 4
    for change in (
        lambda: part.SetOrigin([mm + 0.3 for mm in part.GetOrigin()]),
        lambda: part.SetSpacing((1.2, 1.5, 3.2)),
        lambda: part.SetOrigin(grid().TransformIndexToPhysicalPoint((-1, 2, 1))),
    ):
        before = part.GetOrigin(), part.GetSpacing()
        change()
        assert place_in(part, grid()) is None
        part.SetOrigin(before[0])
        part.SetSpacing(before[1])


LEFT = {"Name": "Eye_L", "LabelValue": 1, "Layer": 0}


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{**LEFT, "Name": "Brain"}], "none of the segments Brain of Segmentation.seg.nrrd is in the label table"),
        ([LEFT, {**LEFT, "Name": "eye l", "LabelValue": 2}], "Eye_L is drawn twice in Segmentation.seg.nrrd, as Eye_L"),
        ([{**LEFT, "LabelValue": 5}], "holds the value 1, which no segment has"),
        ([{**LEFT, "Layer": 3}], "segment 'Eye_L' is in layer 3 of 1"),
        ([{"Name": "Eye_L"}, {"Name": "Eye_R"}], "does not say which value 'Eye_L' has"),
    ],
)  # fmt: skip
def test_a_segmentation_that_is_not_clear_fails_by_name(case: Path, segments: list, message: str):
    write_segmentation(case / "Segmentation.seg.nrrd", [masks(grid())[0]], grid(), segments)
    assert message in run(case)[0].failed["p7"]


def test_two_segments_of_one_whole_organ_are_refused_and_an_empty_one_is_no_version(case: Path):
    left, _ = masks(grid())
    segments = [{"Name": "Eye_L", "LabelValue": 1, "Layer": 0}, {"Name": "left eye", "LabelValue": 2, "Layer": 0}]
    front = left.copy()
    front[:, :, 10:] = 0
    write_segmentation(case / "Segmentation.seg.nrrd", [2 * left - front], grid(), segments)
    failed = run(case)[0].failed
    assert (
        "Eye_L is drawn twice, as Eye_L in Segmentation.seg.nrrd and left eye in Segmentation.seg.nrrd" in failed["p7"]
    )
    write_segmentation(case / "Segmentation.seg.nrrd", [left], grid(), segments)
    np.testing.assert_array_equal(run(case)[1], left)


def test_parts_of_an_organ_are_united(case: Path):
    left, _ = masks(grid())
    front = left.copy()
    front[:, :, 10:] = 0
    segments = [{"Name": "Eye_AL", "LabelValue": 1, "Layer": 0}, {"Name": "Eye_PL", "LabelValue": 2, "Layer": 0}]
    write_segmentation(case / "Segmentation.seg.nrrd", [2 * left - front], grid(), segments)
    np.testing.assert_array_equal(run(case)[1], left)
