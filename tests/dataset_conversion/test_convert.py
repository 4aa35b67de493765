"""A conversion of many cases: bad ones among good ones, arguments, and processes."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from case_folders import DATA, array, files_of, run, truncate, volumes, write_case
from learned_files import write_sharpening
from reference_tables import check_file

from nnunet_ext.images.geometry import orientation_code, same_grid, to_canonical
from nnunet_ext.images.reading import read_image


@pytest.mark.parametrize("modalities", [("CT",), ("CT", "T1"), ("T1", "T2"), ("T2",), ("T1", "CT")])
def test_any_subset_of_channels_works(tmp_path: Path, modalities: tuple[str, ...]):
    write_case(tmp_path / "src" / "a", skip={"CT", "T1", "T2"} - set(modalities))
    summary = run(tmp_path / "src", modalities=modalities)
    assert summary.failed == {}
    assert len(list((summary.dataset_folder / "imagesTr").iterdir())) == len(modalities)
    record = json.loads((summary.dataset_folder / "provenance" / "a.json").read_text())
    assert record["reference_channel"] == ("CT" if "CT" in modalities else modalities[0])
    names = json.loads((summary.dataset_folder / "dataset.json").read_text())["channel_names"]
    assert tuple(names.values()) == modalities


def save_like(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values, nibabel.load(path).affine), path)


def move(path: Path, shift_mm: float) -> None:
    image = sitk.ReadImage(str(path))
    image.SetOrigin([mm + shift_mm for mm in image.GetOrigin()])
    sitk.WriteImage(image, str(path))


def corrupt(path: Path, function) -> None:
    nifti = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(function(np.asarray(nifti.dataobj)), nifti.affine), path)


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    values[3, 4, 5] = np.nan
    return values


def rgb(values: np.ndarray) -> np.ndarray:
    return np.zeros(values.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


BAD = {
    "channel missing": (lambda c: (c / "T2.nii.gz").unlink(), "channel T2 is missing"),
    "two files": (lambda c: shutil.copy(c / "T1.nii.gz", c / "t1w.nii.gz"), "channel T1 has 2 files"),
    "truncated gzip": (lambda c: truncate(c / "T1.nii.gz"), r"T1\.nii\.gz is cut off"),
    "short data": (
        lambda c: (c / "CT.nii.gz").write_bytes(gzip.compress(gzip.decompress((c / "CT.nii.gz").read_bytes())[:-9])),
        r"CT\.nii\.gz is cut off",
    ),
    "4D": (lambda c: corrupt(c / "T1.nii.gz", lambda a: np.stack([a, a], -1)), "is 4D, 44x36x30x2"),
    "RGB": (lambda c: corrupt(c / "T2.nii.gz", rgb), r"T2\.nii\.gz is an RGB"),
    "NaN": (lambda c: corrupt(c / "T1.nii.gz", with_nan), "1 of 47520 voxels are NaN"),
    "empty labels": (lambda c: corrupt(c / "label.nii.gz", lambda a: a * 0), "empty label map"),
    "label outside the table": (
        lambda c: corrupt(c / "label.nii.gz", lambda a: np.where(a == 7, 9, a).astype(np.uint8)),
        r"label value 9 in label\.nii\.gz is not in the label table \(1 Eye_L",
    ),
    "label no whole number": (
        lambda c: corrupt(c / "label.nii.gz", lambda a: (a * 0.5).astype(np.float32)), r"label value 0\.5"),
    "not in HU": (lambda c: corrupt(c / "CT.nii.gz", lambda a: a + 1024), r"not in HU: values 14\.\..*--allow-non-hu"),
    "labels of another size": (
        lambda c: corrupt(c / "label.nii.gz", lambda a: a[:-1]), r"43x36x30 .*against 44x36x30 .*sizes differ"),
    "labels shifted": (lambda c: move(c / "label.nii.gz", 1.0), r"corners up to 1\.73 mm apart"),
    "MR elsewhere": (lambda c: move(c / "T2.nii.gz", 150.0), "T2 does not lie where the CT lies"),
    "label map and masks": (
        lambda c: shutil.copy(c / "label.nii.gz", c / "Eye_L.nii.gz"), "a label map, label.nii.gz, and masks"),
    "git-LFS": (
        lambda c: (c / "CT.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\n"), "git-LFS pointer"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_case_is_named_and_leaves_nothing_while_the_others_finish(tmp_path: Path, kind: str):
    damage, message = BAD[kind]
    write_case(tmp_path / "src" / "good")
    damage(write_case(tmp_path / "src" / "spoilt"))
    summary = run(tmp_path / "src")
    assert summary.written == ["good"]
    assert list(summary.failed) == ["spoilt"]
    reason = summary.failed["spoilt"]
    assert re.search(message, reason), reason
    assert "\n" not in reason
    assert files_of(summary.dataset_folder, "spoilt") == []
    assert len(files_of(summary.dataset_folder, "good")) == 5
    assert json.loads((summary.dataset_folder / "dataset.json").read_text())["numTraining"] == 1


def test_where_all_cases_fail_nothing_is_left(tmp_path: Path):
    write_case(tmp_path / "src" / "a", skip=("T1",))
    summary = run(tmp_path / "src")
    assert list(summary.failed) == ["a"]
    assert not summary.dataset_folder.exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"test_cases": ["zz"]}, ValueError, "test case 'zz' is not a folder"),
        ({"modalities": ()}, ValueError, "give each channel once"),
        ({"modalities": ("CT", "ct")}, ValueError, "give each channel once"),
        ({"window_hu": (5, 5)}, ValueError, "window 5..5 HU is empty"),
        ({"dataset_id": 0}, ValueError, "not within 1"),
        ({"name": "a b"}, ValueError, "dataset name 'a b'"),
        ({"n_processes": 0}, ValueError, "n_processes is 0"),
        ({"labels_file": Path("none.toml")}, FileNotFoundError, "none.toml does not exist"),
    ],
)
def test_wrong_arguments_raise_before_anything_is_written(tmp_path: Path, options, error, message: str):
    write_case(tmp_path / "src" / "a")
    with pytest.raises(error, match=message):
        run(tmp_path / "src", **options)
    assert not (tmp_path / "raw").exists()


def test_two_processes_give_the_same_as_one(tmp_path: Path):
    for name in "ab":
        write_case(tmp_path / "src" / name, code="RAS")
    truncate(write_case(tmp_path / "src" / "c") / "CT.nii.gz")
    two = run(tmp_path / "src", n_processes=2)
    assert (two.written, list(two.failed)) == (["a", "b"], ["c"])
    assert "cut off" in two.failed["c"]
    one = run(tmp_path / "src", n_processes=1, name="Heads2", dataset_id=502)
    for file in sorted((one.dataset_folder / "imagesTr").iterdir()):
        np.testing.assert_array_equal(array(file), array(two.dataset_folder / "imagesTr" / file.name))


KILLER = """
import os
def convert_case(job):
    if job.case.identifier == "b":
        os._exit(9)  # what a process that takes too much memory looks like from outside
    from nnunet_ext.dataset_conversion import one_case
    return one_case._convert_case(job)
"""


def test_a_killed_process_is_a_failed_case_and_the_others_finish(tmp_path: Path, monkeypatch):
    from nnunet_ext.dataset_conversion import one_case

    for name in "abc":
        write_case(tmp_path / "src" / name)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "killer_of_b.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(one_case, "_convert_case", importlib.import_module("killer_of_b").convert_case)
    summary = run(tmp_path / "src", n_processes=2)
    assert summary.written == ["a", "c"]
    assert "its process was killed, probably out of memory" in summary.failed["b"]
    assert files_of(summary.dataset_folder, "b_") == []


@pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the repository")
def test_six_orientations_of_one_real_brain_become_equal(tmp_path: Path):
    for path in sorted((DATA / "orientations").glob("*.nii.gz")):
        (tmp_path / "src" / path.name[:3]).mkdir(parents=True)
        shutil.copyfile(path, tmp_path / "src" / path.name[:3] / "T1.nii.gz")
    summary = run(tmp_path / "src", modalities=("T1",), n4=False)
    assert len(summary.written) == 6
    images = [read_image(path) for path in sorted((summary.dataset_folder / "imagesTs").iterdir())]
    assert len(images) == 6
    for image in images:
        assert orientation_code(image) == "LPS"
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(images[0]))
        assert same_grid(image, images[0], 0.01)


@pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the repository")
def test_the_template_triplet_is_refused_and_converts_with_allow_non_hu(tmp_path: Path):
    (tmp_path / "src" / "template").mkdir(parents=True)
    for name in ("CT", "T1", "T2"):
        shutil.copyfile(DATA / "template_triplet" / f"{name}.nii.gz", tmp_path / "src" / "template" / f"{name}.nii.gz")
    reason = run(tmp_path / "src").failed["template"]
    assert "CT is not in HU: values 0..3794" in reason
    assert "--allow-non-hu" in reason
    summary = run(tmp_path / "src", allow_non_hu=True, n4=True)
    assert summary.written == ["template"]
    ct = read_image(summary.dataset_folder / "imagesTs" / "template_0000.nii.gz")
    original = to_canonical(read_image(DATA / "template_triplet" / "CT.nii.gz"))
    changed = sitk.GetArrayFromImage(ct) != sitk.GetArrayFromImage(original)
    assert np.count_nonzero(changed & (sitk.GetArrayFromImage(original) > 1000)) < 0.005 * changed.size
    record = json.loads((summary.dataset_folder / "provenance" / "template.json").read_text())
    assert record["channels"]["CT"]["in_hu"] is False
    assert record["options"]["allow_non_hu"] is True
    assert 2500 < record["channels"]["CT"]["body_ml"] < 6000


def write_thick_t1(folder: Path) -> None:
    """A case whose T1 has slices twice as thick as those of its CT, tilted against them."""
    write_case(folder, skip={"T1", "T2"})
    thin = sitk.Cast(read_image(folder / "CT.nii.gz"), sitk.sitkFloat32)
    values = volumes()["T1"].astype(np.float32)
    image = sitk.GetImageFromArray((values[::2] + values[1::2]) / 2)
    image.SetSpacing((*thin.GetSpacing()[:2], 2 * thin.GetSpacing()[2]))
    image.SetDirection(thin.GetDirection())
    image.SetOrigin(thin.TransformContinuousIndexToPhysicalPoint((0.3, 0.0, 0.5)))
    sitk.WriteImage(image, str(folder / "T1.nii.gz"))


def test_thick_slices_become_thin_ones_on_the_cts_grid_and_the_dataset_says_by_what(tmp_path: Path):
    write_thick_t1(tmp_path / "src" / "a")
    plain = run(tmp_path / "src", modalities=("CT", "T1")).dataset_folder
    cubic, described = array(plain / "imagesTr" / "a_0001.nii.gz"), json.loads((plain / "dataset.json").read_text())
    assert "learned_resampling" not in described["nnunet_ext"]
    learned = write_sharpening(tmp_path / "weights")
    options = {"modalities": ("CT", "T1"), "learned_resampling": tmp_path / "weights" / "learned_resampling.npz"}
    summary = run(tmp_path / "src", **options)
    assert summary.written == ["a"]
    described = json.loads((plain / "dataset.json").read_text())
    check_file(described, "dataset.json")
    assert described["nnunet_ext"]["learned_resampling"] == learned.sha256
    record = json.loads((plain / "provenance" / "a.json").read_text())
    check_file(record, "provenance/CASE.json")
    assert record["channels"]["T1"]["thin_slices_mm"] == pytest.approx(180 / 33, abs=1e-3)  # a pixel has 5.5 mm
    assert "thin_slices_mm" not in record["channels"]["CT"]
    images = [read_image(plain / "imagesTr" / f"a_{n:04d}.nii.gz") for n in (0, 1)]
    assert same_grid(*images)
    made = array(plain / "imagesTr" / "a_0001.nii.gz")
    assert np.abs(made - cubic).max() > 1
    assert not (tmp_path / "src" / "learned_resampling.npz").exists()
    copies = plain / "learned_resampling.npz", plain / "learned_resampling.json"
    assert all(copy.read_bytes() == (tmp_path / "weights" / copy.name).read_bytes() for copy in copies)
    assert run(tmp_path / "src", **{**options, "learned_resampling": copies[0]}).skipped == ["a"]
    assert run(tmp_path / "src", modalities=("CT", "T1")).written == ["a"]  # without it, all is as before
    np.testing.assert_array_equal(array(plain / "imagesTr" / "a_0001.nii.gz"), cubic)
    assert not any(copy.exists() for copy in copies)


def test_a_learned_resampling_of_other_channels_is_refused_before_anything_is_written(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    write_sharpening(tmp_path / "weights", ("CT", "T2"))
    with pytest.raises(ValueError, match="knows the channels CT, T2, and not T1"):
        run(tmp_path / "src", learned_resampling=tmp_path / "weights" / "learned_resampling.npz")
    assert not (tmp_path / "raw").exists()
