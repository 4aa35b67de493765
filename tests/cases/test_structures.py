"""The RTSTRUCT of a case: refused, accepted, and one of two."""

from __future__ import annotations

import re
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_patients import (
    BIRTH,
    ID,
    NAME,
    assert_nothing_personal,
    ct_files,
    edit,
    oblique,
    rtstruct,
    run,
    to_image,
    volumes,
    write_patient,
)
from fault_inputs import set_raw

from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dicom.rtstruct_writer import write_contours
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.tracing import trace_mask
from nnunet_ext.images.geometry import index_to_world
from nnunet_ext.messages import in_english


def each(files, change) -> None:
    for path in files:
        edit(path, change)


def other_patient(dataset) -> None:
    dataset.PatientID = "Somebody"


def other_frame(dataset) -> None:
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = "1.2.3"


def other_images(dataset) -> None:
    dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def no_contours(dataset) -> None:
    for roi in dataset.ROIContourSequence:
        roi.ContourSequence = []


def stray_rtstruct(root: Path) -> None:
    def change(dataset) -> None:
        other_patient(dataset)
        other_frame(dataset)
        dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence = []
        for roi in dataset.ROIContourSequence:
            for contour in roi.get("ContourSequence") or ():
                contour.ContourImageSequence = []

    edit(rtstruct(root), change)


def twice(dataset) -> None:
    dataset.StructureSetROISequence[1].ROIName = "eye al"


def one_in_another_frame(dataset) -> None:
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"


def malformed(dataset) -> None:
    set_raw(dataset.ROIContourSequence[0].ContourSequence[1], "ContourData", b"1\\2,5\\3")


def cut_off(root: Path) -> None:
    rtstruct(root).write_bytes(rtstruct(root).read_bytes()[:-2500])


def cut_off_within_a_sequence(root: Path) -> None:
    def change(dataset) -> None:
        dataset["ROIContourSequence"].is_undefined_length = True
        del dataset.RTROIObservationsSequence

    edit(rtstruct(root), change)
    rtstruct(root).write_bytes(rtstruct(root).read_bytes()[:-1500])


def without_images(dataset) -> None:
    """Contours that do not say which images they were drawn on."""
    for roi in dataset.ROIContourSequence:
        for contour in roi.get("ContourSequence", ()):
            del contour.ContourImageSequence


def listing(dataset, series_uids, *, keep: int = 0) -> None:
    """The series that the file refers to, with the first images of the CT; `CT` is the CT's own."""
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (ct,) = study.RTReferencedSeriesSequence
    ct.ContourImageSequence = ct.ContourImageSequence[:keep]
    study.RTReferencedSeriesSequence = [deepcopy(ct) for _ in series_uids]
    for series, uid in zip(study.RTReferencedSeriesSequence, series_uids, strict=True):
        series.SeriesInstanceUID = ct.SeriesInstanceUID if uid == "CT" else uid


def no_frames(dataset) -> None:
    del dataset.ReferencedFrameOfReferenceSequence
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = None


def enhanced(dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.NumberOfFrames = 1


BAD = {
    "missing slice": (lambda r: ct_files(r)[9].unlink(), r"CT, series 2 .*: slices are missing: 15 mm between images"),
    "enhanced": (lambda r: [p.unlink() for p in ct_files(r)[1:]] + [edit(ct_files(r)[0], enhanced)],
                 "enhanced CT multi-frame object whose frames do not say where they lie"),
    "MR as CT": (lambda r: each(ct_files(r), lambda d: setattr(d, "EchoTime", 12)),
                 "modality says CT but it has an MR's header"),
    "metres": (lambda r: each(ct_files(r), lambda d: setattr(d, "PixelSpacing", [0.0052, 0.0066])), "it is in metres"),
    "two images at one position": (
        lambda r: edit(ct_files(r)[5], lambda d: setattr(d, "ImagePositionPatient",
                                                       pydicom.dcmread(ct_files(r)[6]).ImagePositionPatient)),
        "2 different images at one position"),
    "no T2": (lambda r: shutil.rmtree(r / f"{NAME}_2"), "channel T2 is missing: no series is recognised"),
    "T2 that is FLAIR": (
        lambda r: each((r / f"{NAME}_2" / "DICOM").iterdir(), lambda d: setattr(d, "SeriesDescription", "t2 flair")),
        "left over: series 4 't2 flair' .*its name says T2 and a special sequence"),
    "not HU": (lambda r: each(ct_files(r), lambda d: setattr(d, "RescaleIntercept", 0)), "CT is not in HU"),
    "RTSTRUCT of another patient": (lambda r: edit(rtstruct(r), other_patient), "refused: its patient is not the CT's"),
    "stray RTSTRUCT": (stray_rtstruct, "the RTSTRUCT beside its images is of another patient"),
    "RTSTRUCT in another frame": (lambda r: edit(rtstruct(r), other_frame), "refused: its frame of reference"),
    "RTSTRUCT on other images": (lambda r: edit(rtstruct(r), other_images),
                            "Eye_L: 1 of its 2 contours are drawn on images that are not in the CT; export the CT"),
    "empty RTSTRUCT": (lambda r: edit(rtstruct(r), no_contours), "the RTSTRUCT is empty"),
    "damaged RTSTRUCT": (lambda r: edit(rtstruct(r), lambda d: delattr(d, "StructureSetROISequence")), "no list of regions"),
    "unknown regions": (
        lambda r: edit(rtstruct(r), lambda d: [setattr(i, "ROIName", "GTV") for i in d.StructureSetROISequence]),
        "none of the regions GTV, .* is in the label table"),
    "organ drawn twice": (lambda r: edit(rtstruct(r), twice), "Eye_L is drawn twice, as Eye_AL and eye al; delete or"),
    "region in another frame": (
        lambda r: edit(rtstruct(r), one_in_another_frame), "some of its regions are drawn in another frame of reference"),
    "RTSTRUCT without numbers": (
        lambda r: edit(rtstruct(r), lambda d: setattr(d.ROIContourSequence[0], "ReferencedROINumber", None)),
        r"^Eye_L: its region Eye_AL in the RTSTRUCT has no contour, and the RTSTRUCT has a region without a number; export "
        "it again$"),
    "two birth dates": (
        lambda r: each((r / f"{NAME}_2" / "DICOM").iterdir(), lambda d: setattr(d, "PatientBirthDate", "19500101")),
        "one patient ID and different birth dates"),
    "RTSTRUCT that is cut off": (cut_off, "is refused: the RTSTRUCT is cut off; export it again$"),
    "cut off, of undefined length": (cut_off_within_a_sequence, "is refused: the RTSTRUCT cannot be read"),
    "organ with a malformed contour": (
        lambda r: edit(rtstruct(r), malformed),
        r"^Eye_L: its region Eye_AL in the RTSTRUCT cannot be used: contour 2 of 2 has points that are not x, y, z "),
    "organ under two names": (
        lambda r: edit(rtstruct(r), lambda d: setattr(d.StructureSetROISequence[1], "ROIName", "eye ant. left")),
        "^Eye_L is drawn twice, as Eye_AL and eye ant. left; delete or rename one of them"),
    "RTSTRUCT on other series, without images": (
        lambda r: edit(rtstruct(r), lambda d: [without_images(d), listing(d, ["1.2.3"])]),
        "the series it refers to is not the CT"),
    "RTSTRUCT that refers to nothing": (
        lambda r: edit(rtstruct(r), lambda d: [without_images(d), no_frames(d)]), "nothing ties it to the CT; export both"),
    "two RTSTRUCTs": (
        lambda r: [shutil.copy(rtstruct(r), r / "again"), edit(r / "again", lambda d: setattr(d, "SOPInstanceUID", "1.9"))],
        "2 RTSTRUCTs belong to the CT"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_case_is_one_line_without_names_while_the_others_finish(tmp_path: Path, kind: str, caplog):
    damage, message = BAD[kind]
    write_patient(tmp_path / "src" / "good")
    damage(write_patient(tmp_path / "src" / "spoilt", number=2))
    summary = run(tmp_path / "src")
    assert summary.written == ["case_001"]
    assert list(summary.failed) == ["case_002"]
    reason = summary.failed["case_002"]
    assert re.search(message, reason), reason
    assert_nothing_personal(summary.dataset_folder, texts=[reason, *(r.getMessage() for r in caplog.records)])
    assert not list(summary.dataset_folder.rglob("case_002*"))


def no_lists(dataset) -> None:
    dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence = []


def stray_region(dataset, change) -> None:
    """The last region, which is no organ, with contours of the first, changed."""
    dataset.ROIContourSequence[-1].ContourSequence = deepcopy(dataset.ROIContourSequence[0].ContourSequence)
    change(dataset.StructureSetROISequence[-1], dataset.ROIContourSequence[-1].ContourSequence)


def on_other_images(roi, contours) -> None:
    for contour in contours:
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def point_in_the_chiasm(roi, contours) -> None:
    roi.ROIName = "Chiasm"
    for contour in contours:
        contour.ContourGeometricType = "POINT"


def with_the_organs_number(dataset) -> None:
    for item in dataset.StructureSetROISequence[:2]:
        item.ROIName = "Couch"
    dataset.StructureSetROISequence[1].ROINumber = dataset.StructureSetROISequence[0].ROINumber


GOOD = {
    "no images at the contours": without_images,
    "no images, the list has two series": lambda d: [without_images(d), listing(d, ["1.2.3", "CT"])],
    "no images, the list has three images": lambda d: [without_images(d), listing(d, ["1.2.3"], keep=3)],
    "no images, no list, the frame of reference": lambda d: [without_images(d), no_lists(d)],
    "a list of other series": lambda d: listing(d, ["1.2.3"]),
    "no frames of reference": no_frames,
    "another region on other images": lambda d: stray_region(d, on_other_images),
    "another region in another frame": lambda d: stray_region(
        d, lambda roi, contours: setattr(roi, "ReferencedFrameOfReferenceUID", "1.2.3")),
    "another region off every slice": lambda d: stray_region(
        d, lambda roi, contours: [setattr(c, "ContourData", ["900"] * len(c.ContourData)) for c in contours]),
    "two other regions with one number": with_the_organs_number,
    "a point with the name of an organ": lambda d: stray_region(d, point_in_the_chiasm),
}  # fmt: skip


def test_what_is_no_organ_and_lists_beside_the_contours_do_not_matter(tmp_path: Path):
    root = write_patient(tmp_path / "src")
    original = rtstruct(root).read_bytes()
    for kind, change in GOOD.items():
        rtstruct(root).write_bytes(original)
        edit(rtstruct(root), change)
        listing = list_cases(tmp_path / "src", show_progress=False)
        assert listing.failed == {}, kind
        assert "  OpticNrv_L <- optic_nerve_left (2 contours)" in listing.lines, kind


def test_the_listing_refuses_what_the_conversion_refuses_and_tells_its_warnings(tmp_path: Path):
    root = write_patient(tmp_path / "src")
    original, normal = rtstruct(root).read_bytes(), index_to_world(oblique())[:3, 2]

    def move(share: float) -> None:
        def change(dataset) -> None:
            for contour in dataset.ROIContourSequence[0].ContourSequence:
                points = np.array(contour.ContourData, float).reshape(-1, 3) + share * normal
                contour.ContourData = [f"{value:.4f}" for value in points.ravel()]

        rtstruct(root).write_bytes(original)
        edit(rtstruct(root), change)

    move(0.7)
    listing = list_cases(tmp_path / "src", show_progress=False)
    assert listing.failed == run(tmp_path / "src").failed
    assert "Eye_L: 2 of 2 contours lie up to 0.7 slices off the image they belong to" in listing.failed["case_001"]
    assert listing.lines[-1] == "1 cases (dicom): 0 to convert, 1 not"
    move(0.4)
    said = "Eye_L: contours lie up to 0.4 slices off the images: moved to the nearest"
    assert f"  {said}" in list_cases(tmp_path / "src", show_progress=False).lines
    assert said in in_english(run(tmp_path / "src").warnings["case_001"])


def test_each_of_two_cts_of_a_patient_gets_the_rtstruct_drawn_on_it(tmp_path: Path):
    first = write_patient(tmp_path / "src" / "a", frames="111")
    arrays = volumes(7)
    study = Study(f"{ID}1", f"{NAME}1", study="later", frame_of_reference="9")
    for n, (channel, name) in enumerate([("CT", "Head"), ("T1", "t1"), ("T2", "t2")]):
        write_series(to_image(arrays[channel]), tmp_path / "src" / "b" / str(n), modality="CT" if n == 0 else "MR",
                     study=study, number=n + 20, description=name, headers={"PatientBirthDate": BIRTH})  # fmt: skip
    (later,) = find_series(tmp_path / "src" / "b" / "0").images
    write_contours(
        {"Eye_L": trace_mask(arrays["label"] == 1, to_image(arrays["label"]))}, later, tmp_path / "src" / "RS"
    )
    both = pydicom.dcmread(rtstruct(first)).ReferencedFrameOfReferenceSequence[0]
    edit(tmp_path / "src" / "RS", lambda d: d.ReferencedFrameOfReferenceSequence.append(both))
    listing = list_cases(tmp_path / "src", show_progress=False)
    assert listing.failed == {}
    taken = [
        line.split(" <- ")[1].split(" (")[0] for line in listing.lines if line.startswith(("  CT <-", "  Eye_L <-"))
    ]
    pairs = set(zip(taken[::2], taken[1::2], strict=True))
    assert pairs == {("series 2 'Head 2.5 ***'", "Eye_AL"), ("series 20 'Head'", "Eye_L")}
