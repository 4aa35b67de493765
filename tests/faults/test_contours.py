"""RTSTRUCTs as planning systems write them: types of contours, two versions, Chinese names, references, damage."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from fault_inputs import CASES, LABELS, copy_cases, edit, set_raw, slices, write_like
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from nnunet_ext.cases import dicom_cases
from nnunet_ext.cli.main import main
from nnunet_ext.dicom.stack import series_grid
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.labels.table import default_label_table
from nnunet_ext.messages import in_english

CHINESE = dict(zip(ORGANS, ("左眼球", "右眼球", "左晶体", "右晶体", "左视神经", "右视神经", "视交叉"), strict=True))
GB_2312 = b"\x1b$)A"  # the escape sequence of ISO 2022 IR 58


@pytest.fixture
def patient(phantom_dicom: Path, tmp_path: Path) -> Path:
    """`CT`, `T1`, `T2` and `RTSTRUCT.dcm` of one patient, to spoil."""
    return copy_cases(phantom_dicom, tmp_path / "src") / CASES[0]


@pytest.fixture(scope="module")
def untouched(phantom_dicom: Path) -> SimpleNamespace:
    return read(phantom_dicom / CASES[0])


def read(patient: Path) -> SimpleNamespace:
    """What `convert` makes of the contours, on the grid of the CT, without its pixels."""
    table = default_label_table()
    found = dicom_cases.find_cases(patient, modalities=("CT", "T1", "T2"), table=table, show_progress=False)
    if found.failed:
        return SimpleNamespace(failed=found.failed["case_001"], case=None)
    (case,) = found.cases
    try:
        drawn = case.read_labels({"CT": series_grid(case.series["CT"])[0]}, table)
    except ValueError as error:
        return SimpleNamespace(failed=case.public(str(error)), case=case)
    array = sitk.GetArrayFromImage(drawn.label_map)
    voxels = {organ: int((array == value).sum()) for organ, value in LABELS.items() if value}
    return SimpleNamespace(failed="", case=case, labels=array, voxels=voxels, warnings=in_english(drawn.warnings))


def contours(data: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [contour for region in data.ROIContourSequence for contour in region.get("ContourSequence", [])]


def shift(contour: pydicom.Dataset, by_mm: np.ndarray) -> None:
    points = np.array(contour.ContourData, float).reshape(-1, 3) + by_mm
    contour.ContourData = [f"{value:.4f}" for value in points.ravel()]


def gap_mm(patient: Path) -> np.ndarray:
    positions = [
        pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient for file in slices(patient / "CT")[:2]
    ]
    return np.subtract(positions[1], positions[0]).astype(float)


def add_region(data: pydicom.Dataset, name: str, number: int = 99) -> pydicom.Dataset:
    """A region with one contour, not yet its points; returns the contour."""
    region, drawn, contour = Dataset(), Dataset(), Dataset()
    region.ROINumber = drawn.ReferencedROINumber = number
    region.ROIName, region.ROIGenerationAlgorithm = name, ""
    region.ReferencedFrameOfReferenceUID = data.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 3
    drawn.ContourSequence = [contour]
    data.StructureSetROISequence.append(region)
    data.ROIContourSequence.append(drawn)
    return contour


# ------------------------------------------------------------------------------------------- types of contours


@pytest.mark.parametrize("every", [2, 1])
def test_interpolated_planar_contours_give_the_same_label_map(patient: Path, untouched, every: int):
    def change(data):
        for number, contour in enumerate(contours(data)):
            if number % every == every - 1:
                set_raw(contour, "ContourGeometricType", b"INTERPOLATED_PLANAR")

    edit(patient / "RTSTRUCT.dcm", change)
    result = read(patient)
    np.testing.assert_array_equal(result.labels, untouched.labels)
    assert result.warnings == []


# ------------------------------------------------------------------------------------------- two versions


def second_nerve(data) -> None:
    region, drawn = deepcopy(data.StructureSetROISequence[4]), deepcopy(data.ROIContourSequence[4])
    region.ROINumber = drawn.ReferencedROINumber = 50
    region.ROIName = "Optic Nerve Left"
    for contour in drawn.ContourSequence:
        shift(contour, np.array([6.0, 0, 0]))
    data.StructureSetROISequence.append(region)
    data.ROIContourSequence.append(drawn)


def test_two_regions_of_one_whole_organ_are_refused_by_convert_and_list_alike(converter, patient: Path):
    edit(patient / "RTSTRUCT.dcm", second_nerve)
    for more in ([], ["--list"]):
        done = converter(patient.parent, *more)
        assert done.code == 1
        assert (
            "OpticNrv_L is drawn twice, as OpticNrv_L and Optic Nerve Left; delete or rename one of them" in done.text
        )
    assert not converter.dataset.exists()


def test_two_masks_of_one_whole_organ_are_refused_by_convert_and_list_alike(converter, phantom_files, tmp_path: Path):
    folder = copy_cases(phantom_files, tmp_path / "src") / CASES[0]
    image = sitk.ReadImage(str(folder / "label.nii.gz"))
    values = sitk.GetArrayFromImage(image)
    (folder / "label.nii.gz").unlink()
    (folder / "masks").mkdir()
    for organ, value in LABELS.items():
        if value:
            write_like((values == value).astype(np.uint8), image, folder / "masks" / f"{organ}.nii.gz")
    moved = np.roll(values == LABELS["OpticNrv_L"], 3, axis=2).astype(np.uint8)
    write_like(moved, image, folder / "masks" / "optic nerve left.nii.gz")
    for more in ([], ["--list"]):
        done = converter(tmp_path / "src", *more)
        assert done.code == 1
        assert "OpticNrv_L is drawn twice, as masks/OpticNrv_L.nii.gz and masks/optic nerve left.nii.gz" in done.text
    write_like(0 * moved, image, folder / "masks" / "optic nerve left.nii.gz")
    assert converter(tmp_path / "src", "--list").code == 0  # an empty mask is no version


# ------------------------------------------------------------------------------------------- Chinese names


def test_chinese_region_names_in_iso_2022_are_read(patient: Path, untouched):
    def change(data):
        data.SpecificCharacterSet = ["", "ISO 2022 IR 58"]
        for region in data.StructureSetROISequence:
            set_raw(region, "ROIName", GB_2312 + CHINESE[str(region.ROIName)].encode("gb2312"))

    edit(patient / "RTSTRUCT.dcm", change)
    np.testing.assert_array_equal(read(patient).labels, untouched.labels)


def chinese_ct(patient: Path) -> Path:
    name = b"Zhang^San=" + GB_2312 + "张".encode("gb2312") + b"^" + GB_2312 + "三".encode("gb2312")
    for file in slices(patient / "CT"):
        edit(file, lambda data: setattr(data, "SpecificCharacterSet", ["", "ISO 2022 IR 58"]))
        edit(file, lambda data: set_raw(data, "PatientName", name))  # not before, else pydicom encodes it again
    return patient / "CT"


def test_the_rtstruct_of_a_chinese_model_is_read_with_the_same_names(
    patient: Path, phantom_files: Path, tmp_path: Path
):
    ct, out = chinese_ct(patient), tmp_path / "out.dcm"
    names = tmp_path / "dataset.json"
    content = {"labels": dict(zip(["background", *CHINESE.values()], range(8), strict=True))}
    names.write_text(json.dumps(content), encoding="utf-8")
    mask = phantom_files / CASES[0] / "label.nii.gz"
    assert main(["rtstruct", str(mask), str(ct), "-o", str(out), "--dataset-json", str(names)]) == 0
    written = pydicom.dcmread(out)
    assert str(written.PatientName) == "Zhang^San=张^三"
    assert [str(roi.ROIName) for roi in written.StructureSetROISequence] == list(CHINESE.values())
    if shutil.which("dcmdump"):
        command = ["dcmdump", "+P", "PatientName", "+P", "ROIName", "+P", "SpecificCharacterSet", str(out)]
        dump = subprocess.run(command, check=True, capture_output=True).stdout.decode("utf-8")
        assert "[Zhang^San=张^三]" in dump
        assert all(f"[{name}]" in dump for name in CHINESE.values())


# ------------------------------------------------------------------------------------------- references


def test_references_to_the_fused_mr_and_to_another_ct_do_not_matter(patient: Path, untouched):
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in slices(patient / "T1")]

    def change(data):
        series = Dataset()
        series.SeriesInstanceUID, series.ContourImageSequence = headers[0].SeriesInstanceUID, []
        for header in headers:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
            series.ContourImageSequence.append(item)
        frame = data.ReferencedFrameOfReferenceSequence[0]
        frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence.append(series)
        frame = deepcopy(frame)  # of a second CT
        frame.FrameOfReferenceUID = generate_uid()
        for series in frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence:
            series.SeriesInstanceUID = generate_uid()
            for item in series.ContourImageSequence:
                item.ReferencedSOPInstanceUID = generate_uid()
        data.ReferencedFrameOfReferenceSequence.append(frame)

    edit(patient / "RTSTRUCT.dcm", change)
    np.testing.assert_array_equal(read(patient).labels, untouched.labels)


def test_an_organ_drawn_on_the_mr_is_refused_by_name(patient: Path):
    header = pydicom.dcmread(slices(patient / "T1")[10], stop_before_pixels=True)

    def change(data):
        for contour in data.ROIContourSequence[2].ContourSequence:
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID = header.SOPInstanceUID

    edit(patient / "RTSTRUCT.dcm", change)
    assert (
        "Lens_L: 3 of its 3 contours are drawn on images that are not in the CT but in series" in read(patient).failed
    )


# ------------------------------------------------------------------------------------------- between the images


@pytest.mark.parametrize("referring", [True, False], ids=["to their images", "to no image"])
@pytest.mark.parametrize("share", [-0.5, 0.2, 0.3, 0.5])
def test_contours_up_to_half_a_slice_off_the_images_keep_their_volume(patient: Path, untouched, share, referring):
    by_mm = share * gap_mm(patient)

    def change(data):
        for contour in contours(data):
            shift(contour, by_mm)
            if not referring:
                del contour.ContourImageSequence

    edit(patient / "RTSTRUCT.dcm", change)
    result = read(patient)
    assert result.voxels == pytest.approx(untouched.voxels, rel=0.05)
    said = f"contours lie up to {abs(share):g} slices off the images: moved to the nearest"
    assert [line for line in result.warnings if said in line] == [f"{', '.join(ORGANS)}: {said}"]


def test_contours_further_off_than_half_a_slice_are_refused(patient: Path):
    by_mm = 0.6 * gap_mm(patient)
    edit(patient / "RTSTRUCT.dcm", lambda data: [shift(contour, by_mm) for contour in contours(data)])
    assert "Eye_L: 9 of 9 contours lie up to 0.6 slices off the image they belong to" in read(patient).failed


# ------------------------------------------------------------------------------------------- damage

GOOD = [b"0", b"0", b"0", b"10", b"0", b"0", b"10", b"10", b"0"]
MALFORMED = {
    "odd count": GOOD[:-1],
    "empty value": [*GOOD[:-1], b""],
    "comma": [*GOOD[:-1], b"1,5"],
    "not a number": [*GOOD[:-1], b"NaN"],
    "cut off": GOOD[:-3],
}


def malformed(name: str, points: list[bytes]) -> Callable:
    return lambda data: set_raw(add_region(data, name), "ContourData", b"\\".join(points))


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_contour_of_the_couch_is_left_out_by_name(patient: Path, untouched, kind: str):
    edit(patient / "RTSTRUCT.dcm", malformed("CouchSurface", MALFORMED[kind]))
    result = read(patient)
    np.testing.assert_array_equal(result.labels, untouched.labels)
    (left_out,) = (line for line in result.case.ignored if "CouchSurface" in line)
    assert left_out.startswith("region CouchSurface, which cannot be used: contour 1 of 1 has ")


def test_a_contour_item_without_a_number_and_without_contours_is_no_loss(patient: Path, untouched):
    edit(patient / "RTSTRUCT.dcm", lambda data: data.ROIContourSequence.append(Dataset()))
    np.testing.assert_array_equal(read(patient).labels, untouched.labels)


def test_convert_writes_the_organs_beside_a_malformed_couch(converter, patient: Path, untouched):
    edit(patient / "RTSTRUCT.dcm", malformed("CouchSurface", MALFORMED["comma"]))
    done = converter(patient.parent)
    assert done.code == 0, done.text
    assert converter.voxels("case_001") == untouched.voxels
    assert any("region CouchSurface" in line for line in converter.record("case_001")["ignored_files"])


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_contour_of_an_organ_refuses_the_case_and_names_it(patient: Path, kind: str):
    def change(data):
        set_raw(data.ROIContourSequence[2].ContourSequence[1], "ContourData", b"\\".join(MALFORMED[kind]))

    edit(patient / "RTSTRUCT.dcm", change)
    failed = read(patient).failed
    assert failed.startswith("Lens_L: its region Lens_L in the RTSTRUCT cannot be used: contour 2 of 3 has ")
    assert failed.endswith("export it again")


@pytest.mark.parametrize(
    ("share", "undefined_length"), [(0.3, True), (0.6, False), (0.6, True), (0.9, False), (0.99, False), (0.99, True)]
)
def test_a_file_that_is_cut_off_never_becomes_a_case_without_labels(
    patient: Path, share: float, undefined_length: bool
):
    def change(data):
        if undefined_length:
            for sequence in (data["ROIContourSequence"], data["StructureSetROISequence"]):
                sequence.is_undefined_length = True

    path = patient / "RTSTRUCT.dcm"
    edit(path, change)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    failed = read(patient).failed
    assert "export it again" in failed, failed
