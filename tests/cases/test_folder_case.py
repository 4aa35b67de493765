"""A case folder read and converted, with a label map or a mask per organ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from case_folders import array, run, to_image, volumes, write_case, write_masks

from nnunet_ext.images.geometry import same_grid
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.organs import ORGANS


@pytest.mark.parametrize(("code", "ending"), [("LPS", ".nii.gz"), ("PIR", ".nrrd"), ("RSA", ".mha"), ("AIL", ".nii")])
def test_a_case_comes_out_voxel_by_voxel_in_canonical_order(tmp_path: Path, code: str, ending: str):
    given = volumes()
    write_case(tmp_path / "src" / "a", code=code, ending=ending)
    summary = run(tmp_path / "src", clean_ct=False)
    assert (summary.written, summary.skipped, summary.failed) == (["a"], [], {})
    dataset = tmp_path / "raw" / "Dataset501_Heads"
    assert summary.dataset_folder == dataset
    for number, name in enumerate(("CT", "T1", "T2")):
        image = read_image(dataset / "imagesTr" / f"a_{number:04d}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), given[name])
        assert same_grid(image, to_image(given[name]), 1e-3)
    label = array(dataset / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(label, given["label"])
    assert label.dtype == np.uint8
    counts = json.loads((dataset / "provenance" / "a.json").read_text())["label_voxels"]
    assert counts["before"] == counts["after"] == dict.fromkeys(ORGANS, 8)
    assert not (dataset / ".partial").exists()


@pytest.mark.parametrize("sub", ["", "masks", "Structures"])
def test_masks_per_organ_are_merged_by_the_alias_table(tmp_path: Path, sub: str):
    label = volumes()["label"]
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    front = label == 1
    front[15] = False
    names = ("RightEye", "LENS-LT", "lens_r", "optic_nerve_left", "OpticNerve_R", "Chiasm")
    masks = {name: label == value for name, value in zip(names, range(2, 8), strict=True)}
    write_masks(folder / sub, {**masks, "Eye_AL": front, "Eye_PL": (label == 1) & ~front, "Brainstem": label > 9})
    summary = run(tmp_path / "src")
    assert summary.failed == {}
    np.testing.assert_array_equal(array(summary.dataset_folder / "labelsTr" / "a.nii.gz"), label)
    record = json.loads((summary.dataset_folder / "provenance" / "a.json").read_text())
    assert record["ignored_files"] == [f"{sub}/Brainstem.nii.gz".lstrip("/")]


def test_a_users_table_gives_other_organs(tmp_path: Path):
    table = tmp_path / "organs.toml"
    table.write_text('[labels]\nTumour = ["GTV"]\nHippocampus = []\n')
    label = (volumes()["label"] == 7).astype(np.uint8)
    label[20:22, 20:22, 20:22] = 2
    write_case(tmp_path / "src" / "a", label=label)
    summary = run(tmp_path / "src", labels_file=table)
    assert summary.failed == {}
    labels = json.loads((summary.dataset_folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "Tumour": 1, "Hippocampus": 2}


def test_masks_that_the_table_does_not_know_fail(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    write_masks(folder / "masks", {"Heart": volumes()["label"] == 1})
    assert "none of the masks Heart.nii.gz is in the label table" in run(tmp_path / "src").failed["a"]
