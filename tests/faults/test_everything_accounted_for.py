"""Labelled cases stay labelled, links are followed, DICOM is found, and every file is counted on console and page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pydicom
import pytest
import SimpleITK as sitk
from fault_inputs import CASES, copy_cases, edit, slices

CASE = CASES[0]
COUNT = re.compile(r"^(\d+) files: (\d+) used as channels, (\d+) as labels, (\d+) left over", re.MULTILINE)


def counts(text: str) -> tuple[int, int, int, int]:
    found = COUNT.search(text)
    assert found, text
    return tuple(map(int, found.groups()))


def renamed(phantom_files: Path, folder: Path, name: str) -> Path:
    """A case whose label map has another name and format."""
    case = copy_cases(phantom_files, folder) / CASE
    (case / name).parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.ReadImage(str(case / "label.nii.gz")), str(case / name), True)
    (case / "label.nii.gz").unlink()
    return folder


# ------------------------------------------------------------------------------------------------ labels of other names


@pytest.mark.parametrize("name", ["Segmentation.seg.nrrd", f"{CASE}_label.nii.gz", "gt.nii.gz"])
def test_a_label_map_whose_name_can_only_mean_labels_is_used(converter, phantom_files, tmp_path: Path, name: str):
    done = converter(renamed(phantom_files, tmp_path / "src", name), "--list")
    assert done.code == 0, done.text
    assert f"{CASE} -> imagesTr + labelsTr" in done.out
    assert f"labels <- {name}" in done.out
    assert counts(done.out) == (5, 3, 1, 1)  # phantom.json


def test_a_label_map_of_another_name_is_kept_with_a_case_of_the_test_set(converter, phantom_files, tmp_path: Path):
    done = converter(renamed(phantom_files, tmp_path / "src", f"{CASE}_seg.nii.gz"), "--test", CASE)
    assert done.code == 0, done.text
    assert converter.files("labelsTs") == [f"{CASE}.nii.gz"]
    assert counts(done.out) == (5, 3, 1, 1)
    given = sitk.GetArrayFromImage(sitk.ReadImage(str(phantom_files / CASE / "label.nii.gz")))
    assert sum(converter.voxels(CASE, "Ts").values()) == (given > 0).sum()


@pytest.mark.parametrize("name", ["Untitled.nii.gz", "brain_mask.nii.gz", "old/contoured.nrrd", "label.mgz"])
def test_a_file_that_may_be_the_labels_is_never_left_out_in_silence(
    converter, phantom_files, tmp_path: Path, name: str
):
    source = tmp_path / "src"
    if name.endswith("mgz"):
        copy_cases(phantom_files, source)
        (source / CASE / "label.nii.gz").rename(source / CASE / name)
    else:
        renamed(phantom_files, source, name)
    for more in ([], ["--list"], ["--test", CASE]):
        done = converter(source, *more)
        assert done.code == 1
        assert f"not recognised as labels: {name};" in done.text
        assert "pass --unlabelled" in done.text
        assert not converter.dataset.exists()
    done = converter(source, "--list", "--unlabelled")
    assert (done.code, f"{CASE} -> imagesTs\n" in done.out) == (0, True), done.text


def test_an_rtstruct_beside_nifti_images_is_refused_with_a_remedy(
    converter, phantom_files, phantom_dicom, tmp_path: Path
):
    source = copy_cases(phantom_files, tmp_path / "src")
    (source / CASE / "label.nii.gz").unlink()
    shutil.copy(phantom_dicom / CASE / "RTSTRUCT.dcm", source / CASE)
    done = converter(source)
    assert done.code == 1
    assert "not recognised as labels: RTSTRUCT.dcm is a DICOM RTSTRUCT" in done.err


@pytest.mark.parametrize("name", ["body", "External"])
def test_an_outline_of_the_patient_is_left_over_and_no_lost_label(converter, phantom_files, tmp_path: Path, name: str):
    source = copy_cases(phantom_files, tmp_path / "src")
    (source / CASE / "label.nii.gz").unlink()
    ct = sitk.ReadImage(str(source / CASE / "CT.nii.gz"))
    sitk.WriteImage(ct > -300, str(source / CASE / f"{name}.nii.gz"))
    done = converter(source, "--list")
    assert done.code == 0, done.text
    assert f"{CASE} -> imagesTs\n" in done.out
    assert f"left over: {name}.nii.gz" in done.out


def test_channels_alone_and_grey_images_beside_them_stay_a_test_case(converter, phantom_files, tmp_path: Path):
    source = copy_cases(phantom_files, tmp_path / "src")
    (source / CASE / "label.nii.gz").unlink()
    assert converter(source, "--list").code == 0
    for name in ("FLAIR", "T1c", "CT_resampled"):
        shutil.copy(source / CASE / "T2.nii.gz", source / CASE / f"{name}.nii.gz")
    (source / CASE / "original").mkdir()
    shutil.copy(source / CASE / "CT.nii.gz", source / CASE / "original")
    done = converter(source, "--list")
    assert done.code == 0, done.text
    assert f"{CASE} -> imagesTs\n" in done.out
    assert "left over: CT_resampled.nii.gz, FLAIR.nii.gz, T1c.nii.gz" in done.out
    assert counts(done.out) == (8, 3, 0, 5)
    done = converter(source, "--list", "--modalities", "CT", "T1")  # T2 is a channel, though not of this data set
    assert done.code == 0, done.text


@pytest.mark.parametrize("kind", ["SEG", "NIfTI"])
def test_labels_of_a_dicom_case_in_another_form_are_refused(
    converter, phantom_dicom, phantom_files, tmp_path: Path, kind: str
):
    source = copy_cases(phantom_dicom, tmp_path / "src")
    structures = source / CASE / "RTSTRUCT.dcm"
    if kind == "SEG":

        def to_segmentation(dataset: pydicom.Dataset) -> None:
            dataset.Modality = "SEG"
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"

        edit(structures, to_segmentation)
    else:
        structures.unlink()
        shutil.copy(phantom_files / CASE / "label.nii.gz", source / CASE / "Zhang_San.nii.gz")
    done = converter(source, "--list")
    assert done.code == 1
    assert "it has no RTSTRUCT, but" in done.out
    assert "Zhang" not in done.text
    done = converter(source, "--list", "--unlabelled")
    assert (done.code, "case_001 -> imagesTs" in done.out) == (0, True)


# ------------------------------------------------------------------------------------------------ links


def test_linked_patients_and_series_are_read_and_loops_end(converter, phantom_dicom, tmp_path: Path):
    source = copy_cases(phantom_dicom, tmp_path / "src", CASES[1:])
    (source / CASE).mkdir()
    for part in ("CT", "T1", "T2"):
        (source / CASE / part).symlink_to(phantom_dicom / CASE / part)
    shutil.copy(phantom_dicom / CASE / "RTSTRUCT.dcm", source / CASE)
    (source / CASES[1] / "loop").symlink_to(source)
    (source / "up").symlink_to(tmp_path)
    (source / "one more").symlink_to(slices(source / CASES[1] / "CT")[0])
    (source / "Li^Si").symlink_to(tmp_path / "nowhere")
    done = converter(source, "--list")
    assert done.code == 0, done.text
    assert "2 cases (dicom): 2 to convert" in done.out
    assert "1 broken links (copy what they should lead to), 1 copies of the same image" in done.out
    assert "2 links to folders that are read already" in done.out
    assert "Li^Si" not in done.text
    only = tmp_path / "only"
    only.mkdir()
    (only / "anyone").symlink_to(phantom_dicom / CASE)
    done = converter(only, "--list")
    assert "1 cases (dicom): 1 to convert" in done.out


@pytest.mark.parametrize("name", ["label.nii.gz", "T1.nii.gz", "masks"])
def test_a_broken_link_to_what_a_case_needs_fails_it_by_name(converter, phantom_files, tmp_path: Path, name: str):
    source = copy_cases(phantom_files, tmp_path / "src", CASES)
    (source / CASE / "label.nii.gz").unlink()
    (source / CASE / name).unlink(missing_ok=True)
    (source / CASE / name).symlink_to(tmp_path / "nowhere")
    (source / "phantom_007").symlink_to(tmp_path / "nowhere")
    (source / "linked").symlink_to(phantom_files / CASE)
    done = converter(source, "--list")
    assert done.code == 1
    assert re.search(
        rf"{CASE} -> nothing: .*{re.escape(name)} is a broken link: .*; copy it, or mend or remove", done.out
    )
    assert "phantom_007 -> nothing: phantom_007 is a broken link" in done.out
    assert "linked -> imagesTr + labelsTr" in done.out
    assert f"2 broken links (copy what they should lead to) [{CASE}/{name}, phantom_007]" in done.out


# ------------------------------------------------------------------------------------------------ kind of source


def test_dicom_behind_pictures_and_beside_a_converted_image_is_found(
    converter, phantom_dicom, phantom_files, tmp_path: Path
):
    source = copy_cases(phantom_dicom, tmp_path / "src")
    (source / "0_pictures").mkdir()
    for number in range(250):
        (source / "0_pictures" / f"{number:03d}.jpg").write_bytes(b"\xff\xd8\xff")
    shutil.copy(phantom_files / CASE / "CT.nii.gz", source / CASE / "CT_resampled.nii.gz")
    done = converter(source, "--list")
    assert done.code == 0, done.text
    assert "1 cases (dicom): 1 to convert" in done.out
    files, channels, labels, left = counts(done.out)
    assert (labels, left, files) == (1, 252, channels + 253)
    assert "252 files that are not DICOM" in done.out


# ------------------------------------------------------------------------------------------------ names of cases


def test_chinese_names_are_cases_of_their_own_to_the_end(converter, phantom_files, tmp_path: Path, monkeypatch):
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    source = tmp_path / "src"
    for name, case in zip(("张三", "李四"), CASES, strict=True):
        shutil.copytree(phantom_files / case, source / name)
    done = converter(source)
    assert done.code == 0, done.text
    assert converter.files("labelsTr") == ["张三.nii.gz", "李四.nii.gz"]
    assert sorted(get_filenames_of_train_images_and_targets(str(converter.dataset))) == ["张三", "李四"]
    assert counts((converter.dataset / "conversion.html").read_text().replace('<p class="sum">', "\n")) == (10, 6, 2, 2)
    record = converter.record("张三")
    assert record["files"]["left_over_files"] == {"files that are no images": ["phantom.json"]}
    # An earlier version called both `_`, and a case Müller `M_ller`.
    record = {**record, "identifier": "_"}
    for folder, name in (("imagesTr", "__0000.nii.gz"), ("labelsTr", "_.nii.gz")):
        shutil.copy(next((converter.dataset / folder).iterdir()), converter.dataset / folder / name)
    (converter.dataset / "provenance" / "_.json").write_text(json.dumps(record))
    from nnunet_ext.dataset_conversion.convert import convert

    options = {"n4": False, "clean_ct": False, "preview": False, "n_processes": 1, "show_progress": False}
    assert convert(source, dataset_id=901, name="Faults", **options).skipped == ["张三", "李四"]
    assert converter.files("labelsTr") == ["张三.nii.gz", "李四.nii.gz"]


@pytest.mark.parametrize(
    ("names", "failed"),
    [
        (("Jos\u00e9", "Jose\u0301"), 2),
        (("a b", "a_b"), 2),
        (("a.b", "a-b"), 0),
        (("राम", "रम"), 0),
        (("A", "a"), 2),
    ],
)
def test_names_that_would_be_one_case_are_refused(converter, tmp_path: Path, names: tuple[str, str], failed: int):
    for name in names:
        (tmp_path / "src" / name).mkdir(parents=True)
        for file in ("CT", "T1", "T2", "label"):
            (tmp_path / "src" / name / f"{file}.nii.gz").write_bytes(b"x")
    done = converter(tmp_path / "src", "--list")
    assert done.out.count("duplicate case name") == failed


def test_hanseg_folders_with_misnamed_images_fail_by_name(converter, tmp_path: Path):
    source = tmp_path / "src" / "set_1"
    header = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1 1 1\nspace: LPS\nencoding: raw\n\n\0"
    for case, ct in (("case_01", "case_01_IMG_CT"), ("case_07", "case_7_IMG_CT"), ("case_08", "CT")):
        (source / case).mkdir(parents=True)
        for name in (ct, f"{case}_OAR_Eye_AL.seg"):
            (source / case / f"{name}.nrrd").write_bytes(header)
    (source / "case_09").mkdir()
    (source / "case_10").mkdir()
    for name in ("case_10_IMG_CT", "case_10_Eye_L.seg"):
        (source / "case_10" / f"{name}.nrrd").write_bytes(header)
    (source / "atlas.nrrd").write_bytes(header)
    done = converter(tmp_path / "src", "--list", "--modalities", "CT")
    assert done.code == 1
    assert "case_01 -> imagesTr + labelsTr" in done.out
    assert (
        "case_07 -> nothing: channel CT is missing: there is no case_07_IMG_CT.nrrd; found case_7_IMG_CT.nrrd"
        in done.out
    )
    for case in ("case_08", "case_09"):
        assert f"{case} -> nothing: channel CT is missing" in done.out
    assert "case_10 -> nothing: not recognised as labels: case_10_Eye_L.seg.nrrd" in done.out
    assert counts(done.out) == (9, 1, 1, 7)
    assert "1 files beside the cases [set_1/atlas.nrrd]" in done.out
