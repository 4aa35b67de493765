"""Prediction of cases without a CT through the command that a user types: files, folders and DICOM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_patients import write_patient
from tiny_starter import LABELS, write_starter

from nnunet_ext.cli.main import main
from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.images.geometry import same_grid
from nnunet_ext.images.reading import read_image

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
#: Size in voxels and spacing in mm along x, y, z, and the axes of the file.
GRIDS = {"T1": ((38, 33, 29), (4.6, 5.7, 6.1), "PIR"), "T2": ((31, 41, 25), (5.9, 4.8, 7.3), "RSA")}


def head(channel: str) -> sitk.Image:
    """An oblique MR of an ellipsoid of 150 x 170 x 156 mm, on a grid of its channel's own."""
    size, spacing, code = GRIDS[channel]
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.12, -0.18, 0.15)
    image.SetDirection(turn.GetMatrix())
    image.SetOrigin(
        np.subtract((5, -7, 300), turn.TransformPoint([(n - 1) * mm / 2 for n, mm in zip(size, spacing, strict=True)]))
    )
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(size, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij", sparse=True)
    inside = (z / 78) ** 2 + (y / 85) ** 2 + (x / 75) ** 2 < 1
    noise = np.random.default_rng(len(channel) + size[0]).integers(0, 12, inside.shape)
    bright = 150 + 0.8 * x - 0.4 * y if channel == "T1" else 110 - 0.5 * x + 0.3 * z
    made = sitk.GetImageFromArray((np.where(inside, bright, 3) + noise).astype(np.int16))
    made.CopyInformation(image)
    return sitk.DICOMOrient(made, code)


def write(file: Path, image: sitk.Image) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


@pytest.fixture(scope="module")
def starter(tmp_path_factory, cascade_plans) -> Path:
    return write_starter(tmp_path_factory.mktemp("starter"), cascade_plans)


@pytest.fixture
def predict(starter, tmp_path):
    def run(*options: str) -> int:
        folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--starter", str(starter)]
        return main(["predict", *folders, "-device", "cpu", *options])

    return run


def records(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]


def kinds(record: dict) -> set[str]:
    return {message["kind"] for message in record["messages"]}


@pytest.mark.parametrize("channels", [("T1",), ("T2",), ("T1", "T2")])
def test_a_case_folder_without_a_ct_gets_its_mask_on_the_grid_of_its_first_mr(predict, tmp_path, channels):
    for channel in channels:
        write(tmp_path / "in" / "case_a" / f"{channel}.nii.gz", head(channel))
    assert predict() == 0
    record = records(tmp_path)["case_a"]
    assert record["channels"] == list(channels)
    assert "channels_lacking" in kinds(record)
    mask = read_image(tmp_path / "out" / "case_a.nii.gz")
    assert same_grid(mask, read_image(tmp_path / "in" / "case_a" / f"{channels[0]}.nii.gz"))
    assert mask.GetSize() == head(channels[0]).GetSize()


def test_numbered_files_without_a_ct_are_contoured_and_mr_on_two_grids_is_refused_by_name(predict, tmp_path, capsys):
    for case, number, channel in (("a", 1, "T1"), ("b", 2, "T2"), ("c", 1, "T1"), ("c", 2, "T2")):
        write(tmp_path / "in" / f"{case}_{number:04d}.nii.gz", head(channel))
    assert predict() == 1
    found = records(tmp_path)
    assert [found[case]["channels"] for case in "ab"] == [["T1"], ["T2"]]
    for case, channel in (("a", "T1"), ("b", "T2")):
        assert same_grid(read_image(tmp_path / "out" / f"{case}.nii.gz"), head(channel))
    said = capsys.readouterr().err
    assert "case 'c': T2 and T1 lie on different grids" in said
    assert "give it as a folder with one image per channel" in said


def test_one_mr_alone_needs_no_registration(predict, tmp_path):
    write(tmp_path / "in" / "alone" / "T2.nii.gz", head("T2"))
    assert predict("--register") == 0
    assert same_grid(read_image(tmp_path / "out" / "alone.nii.gz"), head("T2"))


# ------------------------------------------------------------------------------------------------ DICOM


def write_mr(folder: Path, channel: str, *, number: int, study: str = "mr", frame: str = "mr") -> None:
    echo = {"T1": {"EchoTime": 12, "RepetitionTime": 550}, "T2": {"EchoTime": 95, "RepetitionTime": 4200}}[channel]
    place = Study("MRN1", "Doe^Jane", study=study, frame_of_reference=frame)
    write_series(
        head(channel), folder, modality="MR", study=place, number=number, description=f"{channel} tse", headers=echo
    )


@pytest.mark.parametrize("channels", [("T1", "T2"), ("T2",)])
def test_the_rtstruct_of_a_patient_without_a_ct_refers_to_the_first_mr(predict, tmp_path, channels):
    for number, channel in enumerate(channels, start=2):
        write_mr(tmp_path / "in" / channel, channel, number=number)
    assert predict("--rtstruct") == 0
    (series,) = find_series(tmp_path / "in" / channels[0]).images
    dataset = pydicom.dcmread(tmp_path / "out" / "case_001.dcm")
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (of_series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert dataset.FrameOfReferenceUID == frame.FrameOfReferenceUID == series.frame_of_reference_uid
    assert dataset.StudyInstanceUID == series.study_uid
    assert of_series.SeriesInstanceUID == series.uid
    images = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in of_series.ContourImageSequence]
    assert sorted(images) == sorted((MR_IMAGE_STORAGE, one.sop_uid) for one in series.slices)
    drawn_on = [
        item
        for roi in dataset.ROIContourSequence
        for contour in roi.get("ContourSequence", ())
        for item in contour.ContourImageSequence
    ]
    assert drawn_on
    assert {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in drawn_on} <= set(images)

    image, mask = read_series(series, []), read_image(tmp_path / "out" / "case_001.nii.gz")
    assert same_grid(mask, image)
    labels = sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS"))
    for roi in read_rtstruct(tmp_path / "out" / "case_001.dcm").rois:
        there = labels == LABELS[roi.name]
        assert there.any() == bool(roi.contours)
        if roi.contours:
            again = sitk.GetImageFromArray(rasterise(roi.contours, image, [], slices=series.slices).astype(np.uint8))
            again.CopyInformation(image)
            np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(again, "LPS")) > 0, there)


def test_patients_with_and_without_a_ct_are_cases_of_one_tree(predict, tmp_path):
    write_patient(tmp_path / "in" / "a", number=1, drawn=())
    write_patient(tmp_path / "in" / "b", number=2, drawn=(), skip=("CT",))
    write_patient(tmp_path / "in" / "c", number=3, drawn=(), skip=("CT", "T1"))
    assert predict() == 0
    assert sorted(record["channels"] for record in records(tmp_path).values()) == [
        ["CT", "T1", "T2"],
        ["T1", "T2"],
        ["T2"],
    ]


def test_two_studies_without_a_ct_are_two_cases_that_keep_their_numbers(predict, tmp_path):
    for study, frame in (("first", "1"), ("second", "2")):
        for number, channel in enumerate(("T1", "T2"), start=2):
            write_mr(tmp_path / "in" / study / channel, channel, number=number, study=study, frame=frame)
    assert predict() == 0
    key = (tmp_path / "out.key.csv").read_text(encoding="utf-8")
    assert len(records(tmp_path)) == 2
    assert predict() == 0
    assert (tmp_path / "out.key.csv").read_text(encoding="utf-8") == key
    assert len({line.split(",")[-2] for line in key.splitlines()[1:]}) == 2


def test_a_patient_without_any_channel_of_the_model_fails_with_what_there_is(predict, tmp_path, capsys):
    place = Study("MRN1", "Doe^Jane")
    write_series(head("T1"), tmp_path / "in", modality="MR", study=place, number=7, description="perfusion map")
    assert predict() == 1
    said = capsys.readouterr().err
    assert "case 'case_001': no series is recognised as CT or T1 or T2; there is series 7" in said
    assert "[case_001] T2 = NUMBER" in said


def test_one_converted_image_beside_the_series_of_a_patient_leaves_a_tree_dicom(predict, tmp_path):
    write_mr(tmp_path / "in" / "patient", "T1", number=2)
    write(tmp_path / "in" / "patient" / "T1.nii.gz", head("T1"))
    assert predict("--rtstruct") == 0
    assert (tmp_path / "out" / "case_001.dcm").is_file()
