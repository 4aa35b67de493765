"""Masks of organs that overlap, are empty or are drawn twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from case_folders import SHAPE, array, run, volumes, write_case, write_masks

from nnunet_ext.messages import in_english


def test_a_lens_drawn_inside_the_eye_wins(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    eye = np.zeros(SHAPE, dtype=bool)
    eye[14:18, 5:9, 26:31] = True
    lens = np.zeros(SHAPE, dtype=bool)
    lens[15:17, 4:6, 27:29] = True  # half of it inside
    write_masks(folder, {"Eye_L": eye, "Lens_L": lens})
    summary = run(tmp_path / "src")
    result = array(summary.dataset_folder / "labelsTr" / "a.nii.gz")
    assert (np.count_nonzero(result == 3), np.count_nonzero(result == 1)) == (8, 80 - 4)
    assert any(
        "Eye_L and Lens_L overlap in 4 voxels: they count as Lens_L" in line
        for line in in_english(summary.warnings["a"])
    )


def test_an_empty_mask_is_no_second_version(tmp_path: Path):
    label = volumes()["label"]
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    masks = {"Lens_L": label == 3, "left lens": label > 9, "Eye_L": label == 1}
    write_masks(folder / "masks", masks)
    summary = run(tmp_path / "src")
    assert summary.failed == {}
    result = array(summary.dataset_folder / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(result, np.where(np.isin(label, (1, 3)), label, 0))
    write_masks(folder, {"LENS-L": label == 2})
    reason = run(tmp_path / "src").failed["a"]
    assert "Lens_L is drawn twice, as a/LENS-L.nii.gz and masks/Lens_L.nii.gz; delete or rename one" in reason


@pytest.mark.parametrize("beyond", [False, True])
def test_a_part_beside_the_whole_organ_must_lie_in_it(tmp_path: Path, beyond: bool):
    whole = np.zeros(SHAPE, dtype=bool)
    whole[14:18, 5:9, 20:26] = True
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    write_masks(
        folder, {"Eye_L": whole, "Eye_AL": np.roll(whole, 2, axis=1) if beyond else whole & (np.arange(44) < 23)}
    )
    summary = run(tmp_path / "src")
    if beyond:
        assert "48 voxels of Eye_AL lie beyond the whole" in summary.failed["a"]
    else:
        np.testing.assert_array_equal(array(summary.dataset_folder / "labelsTr" / "a.nii.gz"), whole)


def test_other_overlaps_fail_and_name_both(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    masks = {"OpticNrv_L": np.zeros(SHAPE, dtype=bool), "OpticChiasm": np.zeros(SHAPE, dtype=bool)}
    masks["OpticNrv_L"][14:18, 5:9, 20:26] = True
    masks["OpticChiasm"][14:18, 5:9, 24:30] = True
    write_masks(folder, masks)
    reason = run(tmp_path / "src").failed["a"]
    assert "masks of OpticNrv_L and OpticChiasm overlap in 32 voxels (33% of" in reason
