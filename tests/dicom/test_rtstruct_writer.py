"""Label map -> RTSTRUCT -> label map: voxel by voxel, in every orientation, and as other programs read it."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from ct_with_organs import (
    LABELS,
    PERSON,
    SHAPE,
    assert_contours_lie_on_their_images,
    edit,
    grid,
    label_array,
    only,
    read_back,
    with_iso_2022,
    write_ct,
)
from fault_inputs import set_raw

from nnunet_ext.cli.main import main
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.rtstruct_writer import write_rtstruct
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.stack import series_grid


@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
def test_a_label_map_comes_back_voxel_by_voxel_from_every_ct(tmp_path: Path, flips):
    series = write_ct(tmp_path / "ct", grid(flips=flips))
    write_rtstruct(grid(flips=flips, array=label_array()), series, tmp_path / "rs", labels=LABELS)
    image = read_series(series)
    expected = sitk.DICOMOrient(grid(flips=flips, array=label_array()), "LPS")
    result = sitk.GetImageFromArray(read_back(tmp_path / "rs", series))
    result.CopyInformation(image)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.DICOMOrient(result, "LPS")), sitk.GetArrayFromImage(expected)
    )


@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
def test_smooth_contours_give_the_same_mask_from_every_ct_and_lie_on_its_images(tmp_path: Path, flips):
    series = write_ct(tmp_path / "ct", grid(flips=flips))
    label_map = grid(flips=flips, array=label_array())
    write_rtstruct(label_map, series, tmp_path / "rs", labels=LABELS, smooth_contours=True)
    write_rtstruct(label_map, series, tmp_path / "rough", labels=LABELS)
    np.testing.assert_array_equal(read_back(tmp_path / "rs", series), read_back(tmp_path / "rough", series))
    assert_contours_lie_on_their_images(tmp_path / "rs", series)
    lens = [
        sum(len(contour.points_mm) for contour in read_rtstruct(tmp_path / name).rois[0].contours)
        for name in ("rs", "rough")
    ]
    assert lens[0] > lens[1]


@pytest.mark.parametrize("flips", list(product((False, True), repeat=3)))
def test_a_label_map_may_lie_in_any_orientation_on_the_grid(ct: Series, tmp_path: Path, flips):
    for axes in permutations(range(3)):
        turned = sitk.Flip(sitk.PermuteAxes(grid(array=label_array()), axes), flips)
        write_rtstruct(turned, ct, tmp_path / "rs", labels=LABELS)
        np.testing.assert_array_equal(read_back(tmp_path / "rs", ct), label_array())


def test_slices_of_a_tilted_gantry_get_contours_in_their_own_planes(tmp_path: Path):
    folder = tmp_path / "ct"
    write_ct(folder)
    down = np.reshape(grid().GetDirection(), (3, 3))[:, 1]
    for k, path in enumerate(sorted(folder.iterdir())):
        edit(path, lambda d, k=k: setattr(d, "ImagePositionPatient", [
            round(float(v) + 0.93 * k * t, 6) for v, t in zip(d.ImagePositionPatient, down, strict=True)]))  # fmt: skip
    series = only(folder)
    straight = series_grid(series)[0]
    assert straight.GetSize()[1] > SHAPE[1]  # the straight grid holds every slice whole
    array = np.zeros(straight.GetSize()[::-1], dtype=np.uint8)
    array[:, 3:16, :] = label_array()
    label_map = sitk.GetImageFromArray(array)
    label_map.CopyInformation(straight)
    write_rtstruct(label_map, series, tmp_path / "rs", labels=LABELS)
    np.testing.assert_array_equal(read_back(tmp_path / "rs", series), array)
    assert_contours_lie_on_their_images(tmp_path / "rs", series)


def test_uneven_gaps_are_taken_where_the_organs_are_on_images_and_else_refused(tmp_path: Path):
    folder = tmp_path / "ct"
    write_ct(folder, SliceThickness=6)
    normal = np.reshape(grid().GetDirection(), (3, 3))[:, 2]
    for k, path in enumerate(sorted(folder.iterdir())):  # 3 mm up to the sixth slice, then 6 mm
        edit(path, lambda d, k=k: setattr(d, "ImagePositionPatient", [
            round(float(v) + 3.0 * max(0, k - 5) * n, 6)
            for v, n in zip(d.ImagePositionPatient, normal, strict=True)]))  # fmt: skip
        edit(path, lambda d, k=k: setattr(d, "SliceThickness", 3 if k <= 5 else 6))
    series = only(folder)
    straight, planes = series_grid(series)
    assert [plane is None for plane in planes] == [False] * 6 + [True, False] * 3
    array = np.zeros(straight.GetSize()[::-1], dtype=np.uint8)
    array[:6] = label_array()[:6]
    for organ_between, expected in ((False, None), (True, "Cavity lies on 1 planes between the images")):
        array[6] = 2 * organ_between
        label_map = sitk.GetImageFromArray(array)
        label_map.CopyInformation(straight)
        if expected is None:
            write_rtstruct(label_map, series, tmp_path / "rs", labels=LABELS)
            np.testing.assert_array_equal(read_back(tmp_path / "rs", series), array)
        else:
            with pytest.raises(ValueError, match=expected):
                write_rtstruct(label_map, series, tmp_path / "rs", labels=LABELS)


@pytest.mark.parametrize("uneven", [False, True])
def test_the_grid_from_the_headers_is_that_of_the_image(tmp_path: Path, uneven: bool):
    for k, path in enumerate(sorted(write_ct(tmp_path).paths)):
        shift = np.array([0.4, 0.2, 0.1]) * k + (0.3 * (k > 4) if uneven else 0.0)
        edit(path, lambda d, s=shift: setattr(d, "ImagePositionPatient", [
            round(float(v) + mm, 6) for v, mm in zip(d.ImagePositionPatient, s, strict=True)]))  # fmt: skip
    notes: list[str] = []
    image, (straight, planes) = read_series(only(tmp_path), notes), series_grid(only(tmp_path))
    assert len(notes) == 1 + uneven
    for value in ("Size", "Spacing", "Origin", "Direction"):
        assert getattr(straight, f"Get{value}")() == getattr(image, f"Get{value}")()
    assert len(planes) == image.GetSize()[2]


def test_axial_contours_have_the_very_z_of_their_images(tmp_path: Path):
    series = write_ct(tmp_path / "ct", grid(angles=(0, 0, 0)))
    write_rtstruct(grid(angles=(0, 0, 0), array=label_array()), series, tmp_path / "rs", labels=LABELS)
    z = {one.sop_uid: str(round(one.position_mm[2], 4)).removesuffix(".0") for one in series.slices}
    for roi in pydicom.dcmread(tmp_path / "rs").ROIContourSequence[:3]:
        for contour in roi.ContourSequence:
            expected = z[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert {str(value) for value in contour.ContourData[2::3]} == {expected}


def test_a_contour_beyond_64_kilobytes_survives(tmp_path: Path):
    array = np.zeros((3, 150, 150), dtype=np.uint8)
    array[1] = np.indices((150, 150)).sum(axis=0) % 4 > 0  # 150 x 150 / 4 teeth and holes
    array[1, ::2] = 1
    series = write_ct(tmp_path / "ct", grid(array=array.astype(np.int16)))
    write_rtstruct(grid(array=array), series, tmp_path / "rs", labels=LABELS)
    assert max(contour.NumberOfContourPoints for contour in
               pydicom.dcmread(tmp_path / "rs").ROIContourSequence[0].ContourSequence) > 10_000  # fmt: skip
    np.testing.assert_array_equal(read_back(tmp_path / "rs", series), array)


def test_the_verb_says_what_it_left_out(folder: Path, capsys):
    for path in (folder / "dicom" / "a").iterdir():
        edit(path, lambda d: set_raw(d, "PatientSize", b"1.75 m"))
    argv = ["rtstruct", str(folder / "masks" / "case.nii.gz"), str(folder / "dicom"), "-o", str(folder / "rs.dcm")]
    assert main(argv) == 0
    assert (
        capsys.readouterr().err
        == "warning: PatientSize of the images breaks the DICOM standard: left out of the RTSTRUCT\n"
    )


def test_a_label_map_on_another_grid_is_refused_and_both_grids_named(ct: Series, tmp_path: Path):
    moved = grid(array=label_array())
    moved.SetOrigin((-31.7, 12.3, 458.5))
    with pytest.raises(
        ValueError, match=r"(?s)first voxel at \(-31.7, 12.3, 458.5\) mm against .*455.5\) mm .*3 mm apart"
    ):
        write_rtstruct(moved, ct, tmp_path / "rs", labels=LABELS)
    assert not (tmp_path / "rs").exists()


@pytest.mark.parametrize(
    ("array", "labels", "message"),
    [
        (label_array(), {"Lens_L": 1, "Cavity": 2}, "holds the value 3, which is none of the labels"),
        (0 * label_array(), LABELS, "is empty, none of Lens_L, Cavity, Border, Brainstem has a voxel"),
        (label_array(), {"Lens_L": 1, "a\\b": 2, "c": 3}, "cannot be the name of a structure"),
        (label_array(), {"Lens_L": 1, "x" * 65: 2, "c": 3}, "cannot be the name of a structure"),
        (label_array(), {"Lens_L": 1, "a\x1b$)Ab": 2, "c": 3}, "cannot be the name of a structure"),
    ],
)
def test_labels_that_do_not_fit_are_refused(ct: Series, tmp_path: Path, array, labels, message: str):
    with pytest.raises(ValueError, match=message):
        write_rtstruct(grid(array=array), ct, tmp_path / "rs", labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_write_leaves_the_old_file_and_no_other(ct: Series, tmp_path: Path, monkeypatch):
    path = tmp_path / "rs"
    path.write_text("old")

    def save_as(self, file, **options):
        Path(file).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pydicom.Dataset, "save_as", save_as)
    with pytest.raises(OSError, match="disk full"):
        write_rtstruct(grid(array=label_array()), ct, path, labels=LABELS)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two CTs on different grids, and a mask on the first, in another orientation, with its dataset.json."""
    write_ct(tmp_path / "dicom" / "a")
    other = grid(flips=(1, 1, -1))
    write_series(other, tmp_path / "dicom" / "b", modality="CT", study=Study("p", study="2"), number=2)
    (tmp_path / "masks").mkdir()
    sitk.WriteImage(sitk.DICOMOrient(grid(array=label_array()), "RAS"), str(tmp_path / "masks" / "case.nii.gz"))
    (tmp_path / "masks" / "dataset.json").write_text(json.dumps({"labels": LABELS, "left_out_organs": ["Brainstem"]}))
    (tmp_path / "masks" / "predictions.json").write_text(json.dumps({"models": ["the localizer", "the segmenter"]}))
    return tmp_path


def test_the_verb_finds_labels_model_and_the_series_that_was_contoured(folder: Path, capsys):
    argv = [
        "rtstruct",
        str(folder / "masks" / "case.nii.gz"),
        str(folder / "dicom"),
        "-o",
        str(folder / "out" / "rs.dcm"),
    ]
    assert main(argv) == 0
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(read_back(folder / "out" / "rs.dcm", only(folder / "dicom" / "a")), label_array())
    dataset = pydicom.dcmread(folder / "out" / "rs.dcm")
    assert dataset.StructureSetROISequence[0].ROIGenerationDescription.endswith(": the segmenter")
    assert len(dataset.StructureSetROISequence) == 3  # an organ that the model leaves out is not looked for


def test_the_verb_takes_a_label_table_and_says_what_is_empty(folder: Path, capsys):
    (folder / "labels.toml").write_text("[labels]\nLens_R = []\nChest = []\nSkin = []\nBrain = []\n")
    argv = ["rtstruct", str(folder / "masks" / "case.nii.gz"), str(folder / "dicom"), "-o", str(folder / "rs.dcm")]
    assert main([*argv, "--labels", str(folder / "labels.toml")]) == 0
    assert "warning: Brain has no voxel in" in capsys.readouterr().err
    assert [roi.name for roi in read_rtstruct(folder / "rs.dcm").rois] == ["Lens_R", "Chest", "Skin", "Brain"]


def test_the_verb_names_series_when_none_or_two_fit(folder: Path, capsys):
    argv = ["rtstruct", str(folder / "masks" / "case.nii.gz"), str(folder / "dicom"), "-o", str(folder / "rs.dcm")]
    write_series(grid(), folder / "dicom" / "c", modality="CT", study=Study("p"), number=3)
    assert main(argv) == 1
    assert "2 series in" in (error := capsys.readouterr().err)
    assert "series 1 '' (CT, 9 images); series 3 '' (CT, 9 images)" in error
    for name in "ac":
        shutil.rmtree(folder / "dicom" / name)
    assert main(argv) == 1
    assert (
        "series 2 '' (CT, 9 images): the mask lies on another grid than the series: 17x13x9 voxels"
        in capsys.readouterr().err
    )
    assert not (folder / "rs.dcm").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
def test_dciodvfy_finds_no_error(tmp_path: Path):
    series = write_ct(tmp_path / "ct", PatientName="Zhang^San", **PERSON)
    write_rtstruct(grid(array=label_array()), series, tmp_path / "rs", labels=LABELS)
    said = subprocess.run(["dciodvfy", str(tmp_path / "rs")], capture_output=True, text=True)
    assert (said.stdout + said.stderr).split() == ["RTStructureSet"]  # the kind of object, no error and no warning


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="needs dcmdump of dcmtk")
def test_dcmdump_reads_the_same_names(tmp_path: Path):
    ct = with_iso_2022(tmp_path / "ct")
    for labels in (LABELS, {"左晶体": 1, "B": 2, "C": 3}):
        write_rtstruct(grid(array=label_array()), ct, tmp_path / "rs", labels=labels)
        said = subprocess.run(["dcmdump", "+L", "+U8", str(tmp_path / "rs")], capture_output=True, check=False)
        text = said.stdout.decode("utf-8", errors="replace")
        assert said.returncode == 0, said.stderr
        assert said.stderr == b""
        assert "[Zhang^San=张^三]" in text
        assert all(f"[{name}]" in text for name in labels if name != "background")


@pytest.mark.skipif(shutil.which("plastimatch") is None, reason="needs plastimatch")
def test_plastimatch_finds_the_same_voxels(ct: Series, written: Path, tmp_path: Path):
    command = ["plastimatch", "convert", "--input", written, "--referenced-ct", ct.paths[0].parent,
               "--prefix-format", "nii", "--output-prefix", tmp_path]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    for name, value in LABELS.items():
        if value in (1, 2, 3):  # holes too, though plastimatch unites contours within contours
            mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.nii")))
            np.testing.assert_array_equal(mask > 0, label_array() == value)


def test_an_organ_without_contours_reads_as_an_empty_one(written: Path):
    empty = read_rtstruct(written).rois[-1]
    assert (empty.name, empty.contours) == ("Brainstem", ())
