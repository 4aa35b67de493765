"""The files of a case that are taken for its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from organ_files import SHAPE, grid, like, masks, run, write_ct
from slicer_files import write_segmentation

from nnunet_ext.dataset_conversion.listing import list_cases


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_ct(tmp_path)


def test_labels_of_the_usual_name_go_before_drafts_and_masks_before_other_maps(case: Path):
    both = 6 * masks(grid())[0] + 5 * (masks(grid())[1] & ~masks(grid())[0])
    sitk.WriteImage(like(both, grid()), str(case / "label.nii.gz"))
    for name in ("p7_seg.nii.gz", "gt.nii.gz", "Segmentation.seg.nrrd", "labels/p7.nii.gz"):
        (case / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(like(np.ones(SHAPE, np.uint8), grid()), str(case / name))
    listing = list_cases(case.parent, modalities=["CT"], show_progress=False)
    assert "  labels <- label.nii.gz" in listing.lines
    (case / "label.nii.gz").unlink()
    sitk.WriteImage(like(masks(grid())[0], grid()), str(case / "Eye_L.nii.gz"))
    lines = list_cases(case.parent, modalities=["CT"], show_progress=False).lines
    assert "  Eye_L <- Eye_L.nii.gz" in lines
    (case / "Eye_L.nii.gz").unlink()
    failed = list_cases(case.parent, modalities=["CT"], show_progress=False).failed
    assert "there are 3 label maps" in failed["p7"]


def test_masks_of_slicer_and_of_other_names_are_their_organs(case: Path):
    left, right = masks(grid())
    write_segmentation(case / "Eye_L.seg.nrrd", [left], grid(), [{"Name": "Segment_1", "LabelValue": 1, "Layer": 0}])
    sitk.WriteImage(like(right & ~left, grid()), str(case / "Eye_R_mask.nii.gz"))
    summary, labels = run(case)
    assert summary.failed == {}
    np.testing.assert_array_equal(labels, left + 2 * (right & ~left))


def test_one_value_under_another_name_could_be_the_mask_of_anything(case: Path):
    sitk.WriteImage(like(masks(grid())[0], grid()), str(case / "mask.nii.gz"))
    assert (
        "mask.nii.gz holds one value, that of Eye_L, so it could be the mask of anything" in run(case)[0].failed["p7"]
    )
