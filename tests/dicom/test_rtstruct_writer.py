"""Label map -> RTSTRUCT -> label map, what the file says about patient and images, and two programs of others reading it."""

import json
import logging
import shutil
import subprocess
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from fault_inputs import set_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from nnunet_ext.cli.main import main
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rasterising import fill_polygon, rasterise
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.rtstruct_writer import write_contours, write_rtstruct
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.stack import series_grid
from nnunet_ext.dicom.tracing import trace_mask
from nnunet_ext.labels.colours import colours
from nnunet_ext.messages import in_english

SHAPE, SPACING_MM = (9, 13, 17), (3.0, 0.8, 0.7)
LABELS = {"background": 0, "Lens_L": 1, "Cavity": 2, "Border": 3, "Brainstem": 4}


def grid(
    *, flips: Sequence[int] = (1, 1, 1), angles=(0.11, -0.17, 0.23), array: np.ndarray | None = None
) -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros(SHAPE, dtype=np.int16) if array is None else array)
    image.SetSpacing(SPACING_MM[::-1])
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*angles)
    image.SetDirection((np.reshape(transform.GetMatrix(), (3, 3)) * np.asarray(flips, dtype=float)).ravel().tolist())
    image.SetOrigin((-31.7, 12.3, 455.5))
    return image


def label_array() -> np.ndarray:
    """A lens of 73 voxels; a shell with an island in its hole beside voxels at random; a box at three borders."""
    z, y, x = np.indices(SHAPE)
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[6:, 1:12, 2:13] = 2
    array[6:, 3:9, 4:11] = 0
    array[6:, 5:7, 6:9] = 2
    array[8] = 2 * (np.random.default_rng(0).random(SHAPE[1:]) < 0.6)
    array[:2, 9:, 13:] = 3
    array[((z - 3) * 3.0 / 4.4) ** 2 + ((y - 6) * 0.8 / 2.4) ** 2 + ((x - 8) * 0.7 / 2.4) ** 2 < 1] = 1
    assert np.count_nonzero(array == 1) == 73
    return array


def write_ct(folder: Path, image: sitk.Image | None = None, **headers) -> Series:
    write_series(grid() if image is None else image, folder, modality="CT", study=Study("p"), number=1, headers=headers)
    return only(folder)


def only(folder: Path) -> Series:
    (series,) = find_series(folder).images
    return series


def read_back(path: Path, series: Series) -> np.ndarray:
    """The label map of a file, by the path of `convert`: voxels of the CT as `read_series` gives it."""
    image = read_series(series)
    array = np.zeros(image.GetSize()[::-1], dtype=np.uint8)
    for roi in read_rtstruct(path).rois:
        notes: list[str] = []
        mask = rasterise(roi.contours, image, notes)
        assert notes == []
        assert not array[mask].any()
        array[mask] = LABELS[roi.name]
    return array


def edit(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Series:
    return write_ct(tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def written(ct: Series, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("written") / "contours.dcm"
    assert write_rtstruct(grid(array=label_array()), ct, path, labels=LABELS, model="a model") == ["Brainstem"]
    return path


# ------------------------------------------------------------------------------------------------ the identity


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


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.booleans()))
def test_each_piece_is_one_polygon_that_holds_its_pixels_and_no_others(mask: np.ndarray):
    image = sitk.Image([*mask.shape[::-1], 1], sitk.sitkUInt8)
    polygons = [points[:, :2] for points in trace_mask(mask[None], image)]
    filled = [fill_polygon(points, mask.shape) for points in polygons]
    np.testing.assert_array_equal(np.sum(filled, axis=0) if filled else np.zeros(mask.shape), mask)
    assert len(polygons) == ndimage.label(mask)[1]  # pieces joined by edges; their holes need no polygon
    for points in polygons:
        step = np.roll(points, -1, axis=0) - points
        assert np.all((step == 0).sum(axis=1) == 1)  # along the edges, and never straight on
        assert np.all(np.any(np.sign(step) != np.sign(np.roll(step, 1, axis=0)), axis=1))


# ------------------------------------------------------------------------------------------------ what the file says


def assert_contours_lie_on_their_images(path: Path, series: Series) -> None:
    normal = np.cross(series.direction[:3], series.direction[3:])
    along = {one.sop_uid: np.dot(one.position_mm, normal) for one in series.slices}
    contours = [contour for roi in read_rtstruct(path).rois for contour in roi.contours]
    assert len(contours) > 10
    for contour in contours:
        np.testing.assert_allclose(contour.points_mm @ normal, along[contour.sop_uid], atol=2e-4)


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


def test_axial_contours_have_the_very_z_of_their_images(tmp_path: Path):
    series = write_ct(tmp_path / "ct", grid(angles=(0, 0, 0)))
    write_rtstruct(grid(angles=(0, 0, 0), array=label_array()), series, tmp_path / "rs", labels=LABELS)
    z = {one.sop_uid: str(round(one.position_mm[2], 4)).removesuffix(".0") for one in series.slices}
    for roi in pydicom.dcmread(tmp_path / "rs").ROIContourSequence[:3]:
        for contour in roi.ContourSequence:
            expected = z[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert {str(value) for value in contour.ContourData[2::3]} == {expected}


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


def test_a_contour_beyond_64_kilobytes_survives(tmp_path: Path):
    array = np.zeros((3, 150, 150), dtype=np.uint8)
    array[1] = np.indices((150, 150)).sum(axis=0) % 4 > 0  # 150 x 150 / 4 teeth and holes
    array[1, ::2] = 1
    series = write_ct(tmp_path / "ct", grid(array=array.astype(np.int16)))
    write_rtstruct(grid(array=array), series, tmp_path / "rs", labels=LABELS)
    assert max(contour.NumberOfContourPoints for contour in
               pydicom.dcmread(tmp_path / "rs").ROIContourSequence[0].ContourSequence) > 10_000  # fmt: skip
    np.testing.assert_array_equal(read_back(tmp_path / "rs", series), array)


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


# ------------------------------------------------------------------------------------------------ patient and study


PERSON = {
    "PatientBirthDate": "19700102", "PatientSex": "F", "StudyDate": "20230115", "StudyTime": "101112", "StudyID": "77",
    "AccessionNumber": "A9", "StudyDescription": "Planning", "PatientAge": "053Y", "PatientIdentityRemoved": "NO",
}  # fmt: skip


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


def with_iso_2022(folder: Path) -> Series:
    """A CT whose patient is written in ISO 2022 IR 58, with an ideographic group."""
    mark = b"\x1b$)A"
    name = b"Zhang^San=" + mark + "张".encode("gb2312") + b"^" + mark + "三".encode("gb2312")
    for path in write_ct(folder, **PERSON).paths:
        edit(path, lambda d: setattr(d, "SpecificCharacterSet", ["", "ISO 2022 IR 58"]))

        def change(d) -> None:
            person, number = pydicom.Dataset(), mark + "号".encode("gb2312") + b"7"
            set_raw(person, "PatientID", number)
            d.OtherPatientIDsSequence = [person]
            set_raw(d, "PatientName", name)
            set_raw(d, "OtherPatientIDs", b"a\\" + mark + "乙".encode("gb2312"))

        edit(path, change)
    return only(folder)


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
        f"{keyword} of the CT breaks the DICOM standard: left out of the RTSTRUCT" for keyword in UNPARSABLE
    )
    assert all("不符合 DICOM 标准" in note.text("zh") for note in notes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
        assert len(list(pydicom.dcmread(tmp_path / "rs").iterall())) > 100  # every value is what its type asks for


def test_the_verb_says_what_it_left_out(folder: Path, capsys):
    for path in (folder / "dicom" / "a").iterdir():
        edit(path, lambda d: set_raw(d, "PatientSize", b"1.75 m"))
    argv = ["rtstruct", str(folder / "masks" / "case.nii.gz"), str(folder / "dicom"), "-o", str(folder / "rs.dcm")]
    assert main(argv) == 0
    assert (
        capsys.readouterr().err
        == "warning: PatientSize of the CT breaks the DICOM standard: left out of the RTSTRUCT\n"
    )


# ------------------------------------------------------------------------------------------------ refusals


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


# ------------------------------------------------------------------------------------------------ the verb


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


# ------------------------------------------------------------------------------------------------ read by others


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
