"""One case of DICOM series: its images, its labels, and what is said of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_patients import (
    NAME,
    SPACING_MM,
    assert_nothing_personal,
    ct_files,
    ct_series,
    edit,
    oblique,
    rtstruct,
    run,
    to_image,
    volumes,
    write_patient,
)

from nnunet_ext.cases import preparing as channels
from nnunet_ext.dicom.rtstruct_writer import write_contours
from nnunet_ext.dicom.tracing import trace_mask
from nnunet_ext.images.geometry import index_to_world, to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.messages import in_english
from nnunet_ext.registration.options import RegistrationOptions


@pytest.mark.parametrize("code", ["LPS", "PIR", "RSA"])
def test_a_tree_becomes_a_case_voxel_by_voxel(tmp_path: Path, code: str, caplog):
    write_patient(tmp_path / "src", code=code)
    summary = run(tmp_path / "src")
    assert (summary.written, summary.failed) == (["case_001"], {})
    given = volumes(1)
    for number, channel in enumerate(("CT", "T1", "T2")):
        image = read_image(summary.dataset_folder / "imagesTr" / f"case_001_{number:04d}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), given[channel])
        np.testing.assert_allclose(index_to_world(image), index_to_world(to_canonical(oblique())), atol=1e-3)
    label = read_image(summary.dataset_folder / "labelsTr" / "case_001.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), given["label"])
    record = json.loads((summary.dataset_folder / "provenance" / "case_001.json").read_text())
    assert record["label_voxels"]["before"] == record["label_voxels"]["after"] == dict.fromkeys(ORGANS, 8)
    assert record["ignored_files"] == ["region BODY"]
    assert_nothing_personal(summary.dataset_folder, texts=[r.getMessage() for r in caplog.records])


def test_other_frames_of_reference_are_said(tmp_path: Path):
    write_patient(tmp_path / "src", frames="122")
    lines = in_english(run(tmp_path / "src").warnings["case_001"])
    assert sum("has another frame of reference than the CT" in line for line in lines) == 2


def test_anterior_and_posterior_parts_are_united_and_empty_regions_said(tmp_path: Path):
    root = write_patient(tmp_path / "src", drawn=())
    image = to_image(volumes(1)["label"])
    label = sitk.GetArrayFromImage(image)
    front = label == 1
    front[:, 7:] = False
    organs = {"Eye_AL": front, "Eye_PL": (label == 1) & ~front, "Lens_R": label == 4, "Chiasm": label > 9}
    write_contours({name: trace_mask(mask, image) for name, mask in organs.items()}, ct_series(root), root / "RS")
    summary = run(tmp_path / "src")
    result = sitk.GetArrayFromImage(read_image(summary.dataset_folder / "labelsTr" / "case_001.nii.gz"))
    np.testing.assert_array_equal(result, np.where(np.isin(label, (1, 4)), label, 0))
    assert "OpticChiasm: its region in the RTSTRUCT is empty, no contour is drawn" in in_english(
        summary.warnings["case_001"]
    )


def test_pictures_localizers_copies_and_odd_dates_do_not_stop_a_case(tmp_path: Path, caplog):
    root = write_patient(tmp_path / "src")
    capture = root / "capture"
    shutil.copy(ct_files(root)[0], capture)

    def change(dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        dataset.SOPInstanceUID = "1.2.9"

    edit(capture, change)
    shutil.copy(ct_files(root)[0], root / "scout")

    def scout(dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dataset.SOPInstanceUID = "1.2.8"

    edit(root / "scout", scout)
    shutil.copy(ct_files(root)[4], root / "copy")
    shutil.copy(rtstruct(root), root / "copy of the plan")
    (root / "DICOMDIR").write_bytes(b"x")
    for path in ct_files(root):
        raw = path.read_bytes().replace(b"DA\x08\x0020230115", b"DA\x08\x00f81d4fae")  # the start of a UUID
        assert b"f81d4fae" in raw
        path.write_bytes(raw)
    caplog.set_level("INFO")
    summary = run(tmp_path / "src")
    assert summary.written == ["case_001"]
    assert (
        "1 DICOMDIR files, 1 copies of the same RTSTRUCT, 1 copies of the same image, 1 screen and secondary captures, "
        "1 single images" in str(summary.files)
    )
    result = read_image(summary.dataset_folder / "imagesTr" / "case_001_0000.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), volumes(1)["CT"])


def test_contours_on_an_enhanced_ct_give_the_same_labels(tmp_path: Path, to_enhanced):
    root = write_patient(tmp_path / "src")
    whole = pydicom.dcmread(to_enhanced(ct_files(root)), stop_before_pixels=True).SOPInstanceUID

    def refer(dataset) -> None:  # to frames of the one object, last slice first
        items = [
            dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        ]
        items += [contour for roi in dataset.ROIContourSequence for contour in roi.get("ContourSequence", ())]
        for item in items:
            item.ContourImageSequence = item.ContourImageSequence[:1]
            item.ContourImageSequence[0].ReferencedSOPInstanceUID = whole

    edit(rtstruct(root), refer)
    summary = run(tmp_path / "src")
    assert (summary.written, summary.failed) == (["case_001"], {})
    for folder, name, channel in (("imagesTr", "case_001_0000", "CT"), ("labelsTr", "case_001", "label")):
        result = read_image(summary.dataset_folder / folder / f"{name}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(result), volumes(1)[channel])


def test_contours_of_a_tilted_gantry_land_where_they_were_drawn(tmp_path: Path):
    root = write_patient(tmp_path / "src", drawn=(), frames="111")
    tilt = index_to_world(oblique())[:3, 1] / SPACING_MM[1]
    for k, path in enumerate(ct_files(root)):
        edit(path, lambda d, k=k: setattr(d, "ImagePositionPatient", [
            float(v) + 2.2 * k * t for v, t in zip(d.ImagePositionPatient, tilt, strict=True)]))  # fmt: skip
    corner = np.array(pydicom.dcmread(ct_files(root)[12]).ImagePositionPatient, dtype=float)
    axes = np.reshape(np.asarray(oblique().GetDirection()), (3, 3))
    i, j = np.array([8.5, 12.5, 12.5, 8.5]), np.array([9.5, 9.5, 14.5, 14.5])  # of slice 13 as it was measured
    square = corner + np.outer(i * SPACING_MM[2], axes[:, 0]) + np.outer(j * SPACING_MM[1], axes[:, 1])
    write_contours({"Eye_L": [square]}, ct_series(root), root / "RS")
    summary = run(tmp_path / "src")
    assert any("tilted gantry" in line for line in in_english(summary.warnings["case_001"]))
    label = read_image(summary.dataset_folder / "labelsTr" / "case_001.nii.gz")
    drawn = np.argwhere(sitk.GetArrayFromImage(label) == 1)
    assert len(drawn) == 4 * 5
    centre = label.TransformContinuousIndexToPhysicalPoint(drawn.mean(axis=0)[::-1].tolist())
    assert np.linalg.norm(np.array(centre) - square.mean(axis=0)) < 0.5 * SPACING_MM[1]


@pytest.fixture
def rigid_only(monkeypatch) -> None:
    """Registration without its elastic part, which takes seconds and has no say in what is registered together."""
    register, rigid = channels.register, RegistrationOptions(elastic=False)
    monkeypatch.setattr(channels, "register", lambda *images, **more: register(*images, **{**more, "options": rigid}))


@pytest.mark.parametrize(("frames", "together"), [("122", ["T1", "T2"]), ("123", ["T2"]), ("111", ["T1", "T2"])])
def test_only_series_of_one_frame_of_reference_share_a_registration(tmp_path, frames, together, rigid_only):
    summary = run(write_patient(tmp_path / "src", frames=frames), register=True)
    record = json.loads((summary.dataset_folder / "provenance" / "case_001.json").read_text())
    assert record["channels"]["T2"]["registration"]["together"] == together


def test_one_series_without_a_frame_of_reference_leaves_it_to_the_images(tmp_path):
    root = write_patient(tmp_path / "src", frames="123", drawn=())
    for path in (root / f"{NAME}_2" / "DICOM").iterdir():
        edit(path, lambda dataset: setattr(dataset, "FrameOfReferenceUID", ""))
    summary = run(root, register=True)
    record = json.loads((summary.dataset_folder / "provenance" / "case_001.json").read_text())
    assert record["channels"]["T2"]["registration"]["together"] == ["T1", "T2"]
