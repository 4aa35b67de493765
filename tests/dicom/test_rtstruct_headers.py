"""Headers of an RTSTRUCT: references, organs, patient and study."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pydicom
import pytest
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

from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.rtstruct_writer import write_contours, write_rtstruct
from nnunet_ext.labels.colours import colours
from nnunet_ext.messages import in_english


def test_it_refers_to_every_image_and_each_contour_to_its_own(written: Path, ct: Series):
    dataset = pydicom.dcmread(written)
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert study.ReferencedSOPInstanceUID == dataset.StudyInstanceUID == ct.study_uid
    assert series.SeriesInstanceUID == ct.uid != dataset.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence} == {s.sop_uid for s in ct.slices}
    assert {item.ReferencedSOPClassUID for item in series.ContourImageSequence} == {pydicom.uid.CTImageStorage}
    frames = {frame.FrameOfReferenceUID, *(r.ReferencedFrameOfReferenceUID for r in dataset.StructureSetROISequence)}
    assert frames == {ct.frame_of_reference_uid}
    assert_contours_lie_on_their_images(written, ct)


def test_organs_have_names_colours_and_where_they_come_from(written: Path):
    dataset = pydicom.dcmread(written)
    assert [roi.ROIName for roi in dataset.StructureSetROISequence] == ["Lens_L", "Cavity", "Border", "Brainstem"]
    for roi, drawn, seen in zip(
        dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence, strict=True
    ):
        assert roi.ROINumber == drawn.ReferencedROINumber == seen.ReferencedROINumber
        assert (roi.ROIGenerationAlgorithm, seen.RTROIInterpretedType) == ("AUTOMATIC", "ORGAN")
        assert roi.ROIGenerationDescription.startswith("nnunet_ext ")
        assert roi.ROIGenerationDescription.endswith(": a model")
        assert "#" + bytes(drawn.ROIDisplayColor).hex() == colours(LABELS)[roi.ROIName]
    assert dataset.ApprovalStatus == "UNAPPROVED"
    assert len(dataset.StructureSetLabel) <= 16


def test_an_empty_organ_is_returned_listed_without_contours_and_named(written: Path):
    dataset = pydicom.dcmread(written)
    assert ["ContourSequence" in roi for roi in dataset.ROIContourSequence] == [True, True, True, False]
    assert dataset.StructureSetDescription.endswith("Not found: Brainstem.")


def test_writing_twice_makes_two_structure_sets(ct: Series, tmp_path: Path):
    for name in "ab":
        write_rtstruct(grid(array=label_array()), ct, tmp_path / name, labels=LABELS)
    a, b = (pydicom.dcmread(tmp_path / name) for name in "ab")
    assert len({one.SOPInstanceUID for one in (a, b)} | {one.SeriesInstanceUID for one in (a, b)}) == 4
    assert a.file_meta.MediaStorageSOPInstanceUID == a.SOPInstanceUID


def test_a_long_model_name_is_cut_for_the_organs_and_whole_for_the_structure_set(ct: Series, tmp_path: Path):
    model = "Dataset501_HeadOAR/CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres folds 0 1 2 3 4"
    write_rtstruct(grid(array=label_array()), ct, tmp_path / "rs", labels=LABELS, model=model)
    dataset = pydicom.dcmread(tmp_path / "rs")
    assert len(dataset.StructureSetROISequence[0].ROIGenerationDescription) == 64
    assert model in dataset.StructureSetDescription


def test_points_are_decimal_strings_of_at_most_16_characters(ct: Series, tmp_path: Path):
    square = np.array([[-123456.123456789, 1e-9, -1e-9], [-1.0, 0.00005, 0.5], [2 / 3, 7e5, 455.5]])
    write_contours({"Square": [square]}, ct, tmp_path / "rs")
    (contour,) = pydicom.dcmread(tmp_path / "rs").ROIContourSequence[0].ContourSequence
    assert all(len(str(value)) <= 16 for value in contour.ContourData)
    np.testing.assert_allclose(np.reshape(np.array(contour.ContourData, float), (-1, 3)), square, atol=5.1e-5)
    assert str(contour.ContourData[1]) == str(contour.ContourData[2]) == "0"


def test_contours_on_an_enhanced_ct_name_their_frames(tmp_path: Path, to_enhanced):
    to_enhanced(write_ct(tmp_path / "ct").paths)
    series = only(tmp_path / "ct")
    write_rtstruct(grid(array=label_array()), series, tmp_path / "rs", labels=LABELS)
    np.testing.assert_array_equal(read_back(tmp_path / "rs", series), label_array())
    dataset = pydicom.dcmread(tmp_path / "rs")
    of_series = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    (whole,) = of_series.ContourImageSequence
    assert whole.ReferencedSOPClassUID == pydicom.uid.EnhancedCTImageStorage
    assert "ReferencedFrameNumber" not in whole
    drawn = dataset.ROIContourSequence[0].ContourSequence
    frames = [contour.ContourImageSequence[0].ReferencedFrameNumber for contour in drawn]
    slices = np.flatnonzero((label_array() == 1).any(axis=(1, 2)))
    assert frames == [SHAPE[0] - k for k in slices]  # the enhanced object holds the last slice first


@pytest.mark.parametrize(
    ("charset", "encoding", "name"),
    [
        ("GB18030", "gb18030", "张^三丰"),
        ("ISO_IR 192", "utf-8", "张^三丰"),
        ("ISO_IR 100", "latin-1", "Müller^Jörg"),
        ("ISO_IR 100", "gb2312", "张^三丰"),  # a wrong character set: the bytes must stay, the CT's are the same
        ("GB18030", "utf-8", "张^三丰"),
        ("", "gb18030", "张^三丰"),
    ],
)
def test_patient_and_study_are_those_of_the_ct_byte_by_byte(tmp_path: Path, charset: str, encoding: str, name: str):
    raw = name.encode(encoding)
    holder, charset_holder = b"Q" * len(raw), b"ISO_IR 192"
    for path in write_ct(tmp_path / "ct", PatientName=holder.decode(), **PERSON).paths:
        content = path.read_bytes().replace(holder, raw)
        path.write_bytes(content.replace(charset_holder, charset.encode().ljust(10)))
    series = only(tmp_path / "ct")
    write_rtstruct(grid(array=label_array()), series, tmp_path / "rs", labels=LABELS)
    image, dataset = (pydicom.dcmread(path, stop_before_pixels=True) for path in (series.paths[0], tmp_path / "rs"))
    for keyword in ("PatientName", "PatientID", "SpecificCharacterSet"):
        assert dataset.get_item(keyword).value == image.get_item(keyword).value
    assert {keyword: dataset.get(keyword) for keyword in PERSON} == PERSON


def test_organs_in_letters_that_the_ct_does_not_have_are_written_in_utf_8(tmp_path: Path):
    headers = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg", "OtherPatientIDs": ["a", "ö"]}
    series = write_ct(tmp_path / "ct", **headers)
    write_rtstruct(grid(array=label_array()), series, tmp_path / "rs", labels={"左晶体": 1, "B": 2, "C": 3})
    dataset = pydicom.dcmread(tmp_path / "rs")
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert (dataset.PatientName, list(dataset.OtherPatientIDs)) == ("Müller^Jörg", ["a", "ö"])
    assert dataset.StructureSetROISequence[0].ROIName == "左晶体"


def test_a_ct_without_patient_data_gives_empty_ones(tmp_path: Path):
    for path in write_ct(tmp_path / "ct").paths:
        edit(
            path, lambda d: [delattr(d, k) for k in ("PatientName", "PatientSex", "StudyDate", "SpecificCharacterSet")]
        )
    write_rtstruct(grid(array=label_array()), only(tmp_path / "ct"), tmp_path / "rs", labels=LABELS)
    dataset = pydicom.dcmread(tmp_path / "rs")
    assert (dataset.PatientName, dataset.PatientSex, dataset.StudyDate) == ("", "", "")
    assert "SpecificCharacterSet" not in dataset


def test_iso_2022_stays_byte_by_byte_or_becomes_utf_8_in_sequences_too(tmp_path: Path):
    ct = with_iso_2022(tmp_path / "ct")
    image = pydicom.dcmread(ct.paths[0])
    write_rtstruct(grid(array=label_array()), ct, tmp_path / "bytes", labels=LABELS)
    dataset = pydicom.dcmread(tmp_path / "bytes")
    for keyword in ("PatientName", "OtherPatientIDs"):
        assert dataset.get_item(keyword).value == image.get_item(keyword).value
    write_rtstruct(grid(array=label_array()), ct, tmp_path / "utf-8", labels={"左晶体": 1, "B": 2, "C": 3})
    dataset = pydicom.dcmread(tmp_path / "utf-8")
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(dataset.PatientName) == "Zhang^San=张^三"
    assert list(dataset.OtherPatientIDs) == ["a", "乙"]
    assert dataset.OtherPatientIDsSequence[0].PatientID == "号7"


UNPARSABLE = {
    "PatientSize": b"1.75 m", "PatientWeight": b"72,5", "PatientAge": b"53 years", "StudyDate": b"f81d4fae",
    "StudyTime": b"10 o'clock", "PatientSex": b"female",
}  # fmt: skip


@pytest.mark.parametrize("labels", [LABELS, {"左晶体": 1, "B": 2, "C": 3}], ids=["ascii", "utf-8"])
def test_what_breaks_the_standard_in_the_ct_is_left_out_and_said(tmp_path: Path, labels):
    for path in write_ct(tmp_path / "ct", **PERSON).paths:
        edit(path, lambda d: [set_raw(d, keyword, value) for keyword, value in UNPARSABLE.items()])
    notes: list[str] = []
    write_rtstruct(grid(array=label_array()), only(tmp_path / "ct"), tmp_path / "rs", labels=labels, notes=notes)
    dataset = pydicom.dcmread(tmp_path / "rs")
    assert {keyword: dataset.get(keyword) for keyword in UNPARSABLE if dataset.get(keyword)} == {}
    assert (dataset.StudyDate, dataset.PatientSex, "PatientSize" in dataset) == ("", "", False)
    assert (dataset.PatientBirthDate, dataset.StudyID) == ("19700102", "77")
    assert sorted(in_english(notes)) == sorted(
        f"{keyword} of the images breaks the DICOM standard: left out of the RTSTRUCT" for keyword in UNPARSABLE
    )
    assert all("不符合 DICOM 标准" in note.text("zh") for note in notes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
        assert len(list(pydicom.dcmread(tmp_path / "rs").iterall())) > 100  # every value is what its type asks for


def test_a_series_without_frame_of_reference_is_refused(tmp_path: Path):
    for path in write_ct(tmp_path / "ct").paths:
        edit(path, lambda d: delattr(d, "FrameOfReferenceUID"))
    with pytest.raises(ValueError, match="has no FrameOfReferenceUID"):
        write_rtstruct(grid(array=label_array()), only(tmp_path / "ct"), tmp_path / "rs", labels=LABELS)


def test_a_name_that_planning_systems_cut_is_said(ct: Series, tmp_path: Path, caplog):
    with caplog.at_level(logging.WARNING):
        write_rtstruct(
            grid(array=label_array()), ct, tmp_path / "rs", labels={"Glnd_Submandibular_L": 1, "B": 2, "C": 3}
        )
    assert "Glnd_Submandibular_L: planning systems may cut the name after 16" in caplog.text


def test_names_that_are_cut_to_the_same_are_said_and_64_chinese_letters_are_written(ct: Series, tmp_path: Path, caplog):
    long = "左" * 64  # 192 bytes: the standard counts letters
    names = {"Glnd_Submandibular_L": 1, "Glnd_Submandibular_R": 2, long: 3}
    with caplog.at_level(logging.WARNING):
        write_rtstruct(grid(array=label_array()), ct, tmp_path / "rs", labels=names)
    assert "Glnd_Submandibular_L and Glnd_Submandibular_R have the same first 16 characters" in caplog.text
    assert [roi.name for roi in read_rtstruct(tmp_path / "rs").rois] == list(names)


def test_a_backslash_in_the_name_of_the_model_is_no_second_value(ct: Series, tmp_path: Path):
    write_rtstruct(grid(array=label_array()), ct, tmp_path / "rs", labels=LABELS, model="a\\b")
    assert pydicom.dcmread(tmp_path / "rs").StructureSetROISequence[0].ROIGenerationDescription.endswith(": a/b")
