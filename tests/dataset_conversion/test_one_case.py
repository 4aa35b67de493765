"""One case converted: its record, its pictures, and what replaces it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from case_folders import SHAPE, SPACING_MM, array, files_of, run, to_image, truncate, volumes, write_case
from reference_tables import check_file

from nnunet_ext.images.geometry import same_grid
from nnunet_ext.images.reading import read_image


def test_an_mr_on_its_own_grid_lands_on_the_ct(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("T1",))
    mr = to_image(volumes()["T1"])
    fine = sitk.Resample(
        mr, (60, 50, 40), sitk.Transform(), sitk.sitkLinear, (-112, -97, 297), (4, 4.3, 5), mr.GetDirection()
    )
    sitk.WriteImage(sitk.DICOMOrient(fine, "RIA"), str(folder / "T1.nii.gz"))
    summary = run(tmp_path / "src", n4=True)
    assert summary.failed == {}
    images = [read_image(summary.dataset_folder / "imagesTr" / f"a_{n:04d}.nii.gz") for n in range(3)]
    assert all(same_grid(image, images[0], 1e-4) for image in images)
    inside = sitk.GetArrayFromImage(images[1])[10:20, 12:24, 14:30]
    assert np.all(np.abs(inside - 125) < 25)
    record = json.loads((summary.dataset_folder / "provenance" / "a.json").read_text())
    assert record["channels"]["T1"]["orientation"] == "RIA"
    check_file(record, "provenance/CASE.json")
    assert 0.9 < record["channels"]["T1"]["coverage"] <= 1


def test_couch_is_removed_and_drawn_organs_are_not(tmp_path: Path):
    ct, label = volumes()["CT"], volumes()["label"]
    ct[:, 34:] = 100  # a slab behind the head
    label[20, 34, 3] = 7
    write_case(tmp_path / "src" / "a", CT=ct, label=label)
    summary = run(tmp_path / "src")
    result = array(summary.dataset_folder / "imagesTr" / "a_0000.nii.gz")
    assert result[20, 34, 3] == 100
    assert np.mean(result[:, 34:] == -1000) > 0.99
    np.testing.assert_array_equal(result[(label > 0)], ct[label > 0])
    record = json.loads((summary.dataset_folder / "provenance" / "a.json").read_text())["channels"]["CT"]
    assert record["couch_and_mask_removed_ml"] == pytest.approx(30 * 2 * 44 * 0.165, rel=0.02)


def test_provenance_says_what_went_in_and_holds_no_machine_path(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    (tmp_path / "src" / "a" / "FLAIR.nii.gz").touch()
    summary = run(tmp_path / "src")
    text = (summary.dataset_folder / "provenance" / "a.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text
    assert set(record["inputs_sha256"]) == {"CT.nii.gz", "T1.nii.gz", "T2.nii.gz", "label.nii.gz"}
    assert record["ignored_files"] == ["FLAIR.nii.gz"]
    assert record["channels"]["CT"]["size"] == list(SHAPE[::-1])
    assert record["channels"]["CT"]["spacing_mm"] == pytest.approx(SPACING_MM[::-1])


def test_pictures_and_the_page_come_with_a_case_and_go_with_it(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    write_case(tmp_path / "src" / "b", skip=("T2",))
    summary = run(tmp_path / "src", preview=True)
    dataset = summary.dataset_folder
    pictures = {path.name for path in (dataset / "preview" / "a").iterdir()}
    assert pictures == {"1_couch_and_mask.png", "4_alignment.png", "5_labels.png"}
    assert not (dataset / "preview" / "b").exists()
    page = (dataset / "conversion.html").read_text()
    assert "channel T2 is missing" in page
    assert "preview/a/5_labels.png" in page
    assert run(tmp_path / "src", preview=True).skipped == ["a"]
    shutil.rmtree(dataset / "preview")
    assert run(tmp_path / "src", preview=False).skipped == ["a"]  # nothing is missing that was asked for
    assert run(tmp_path / "src", preview=True).written == ["a"]
    assert (dataset / "preview" / "a").is_dir()


def snapshot(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")}


def test_running_again_converts_only_what_changed(tmp_path: Path):
    for name in "ab":
        write_case(tmp_path / "src" / name)
    dataset = run(tmp_path / "src").dataset_folder
    first = snapshot(dataset)
    assert run(tmp_path / "src").skipped == ["a", "b"]
    assert snapshot(dataset) == first
    write_case(tmp_path / "src" / "b", seed=3)
    write_case(tmp_path / "src" / "c")
    summary = run(tmp_path / "src")
    assert (summary.written, summary.skipped) == (["b", "c"], ["a"])
    (dataset / "imagesTr" / "a_0001.nii.gz").unlink()
    assert run(tmp_path / "src").written == ["a"]
    assert run(tmp_path / "src", window_hu=(-100, 100)).written == ["a", "b", "c"]
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 3


def test_a_case_that_moves_to_the_test_set_leaves_no_training_file(tmp_path: Path):
    for name in "ab":
        write_case(tmp_path / "src" / name)
    run(tmp_path / "src")
    summary = run(tmp_path / "src", test_cases=["b"])
    assert (summary.written, summary.skipped) == (["b"], ["a"])
    assert files_of(summary.dataset_folder, "b_") + files_of(summary.dataset_folder, "b.n") == [
        "imagesTs/b_0000.nii.gz", "imagesTs/b_0001.nii.gz", "imagesTs/b_0002.nii.gz", "labelsTs/b.nii.gz",
    ]  # fmt: skip
    assert json.loads((summary.dataset_folder / "dataset.json").read_text())["numTraining"] == 1


def test_a_case_that_turned_bad_is_taken_out(tmp_path: Path):
    for name in "ab":
        write_case(tmp_path / "src" / name)
    run(tmp_path / "src", preview=True)
    truncate(tmp_path / "src" / "b" / "CT.nii.gz")
    summary = run(tmp_path / "src", preview=True)
    assert (summary.skipped, list(summary.failed)) == (["a"], ["b"])
    assert not [file for file in files_of(summary.dataset_folder, "b") if "/b" in file]
