"""The series that becomes a channel, if there are several."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_patients import (
    BIRTH,
    ID,
    NAME,
    assert_nothing_personal,
    ct_files,
    edit,
    found,
    rtstruct,
    run,
    second_t1,
    to_image,
    volumes,
    write_patient,
)

from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.messages import in_english


def test_two_candidates_fail_and_name_both_and_the_series_file(tmp_path: Path):
    second_t1(write_patient(tmp_path / "src"))
    reason = run(tmp_path / "src").failed["case_001"]
    assert reason == (
        "channel T1 has 2 series, series 3 'ax t1 tse ***' (MR, 24 images) and series 8 't1 tse +C' (MR, 24 images), "
        "contrast-enhanced; say which in a file for --series: [case_001] T1 = NUMBER, or its SeriesInstanceUID"
    )


@pytest.mark.parametrize(
    ("patient_id", "name"), [("T1", "Series^Case"), ("001", "The^No"), ("2019", "CT^Number"), ("case_001", "File^Li")]
)
def test_a_remedy_stays_whole_whatever_the_patient_is_called(tmp_path: Path, patient_id: str, name: str):
    second_t1(write_patient(tmp_path / "src"))
    for path in (tmp_path / "src").rglob("*"):
        if path.is_file():
            edit(
                path, lambda dataset: (setattr(dataset, "PatientID", patient_id), setattr(dataset, "PatientName", name))
            )
    reason = run(tmp_path / "src").failed["case_001"]
    assert reason.startswith("channel T1 has 2 series, series 3 '")
    assert "; say which in a file for --series: [case_001] T1 = NUMBER, or its SeriesInstanceUID" in reason


def test_an_original_goes_before_what_was_computed_from_it(tmp_path: Path):
    second_t1(write_patient(tmp_path / "src"), "t1 MPR", ImageType=["DERIVED", "SECONDARY", "MPR"])
    (line,) = (line for line in in_english(run(tmp_path / "src").warnings["case_001"]) if "plausible" not in line)
    assert line.startswith(
        "T1 is series 3 'ax t1 tse ***' (MR, 24 images), because the other was computed from images; not "
    )


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient whose T1 is an MEMPRAGE of four echoes, 1.69 to 7.27 ms, in one series; read only."""
    root = write_patient(tmp_path_factory.mktemp("echoes") / "src", skip=("T1",), drawn=())
    mean, study = volumes(1)["T1"], Study(f"{ID}1", f"{NAME}1", study="mr", frame_of_reference="1")
    for k in range(4):
        headers = {"EchoTime": 1.69 + 1.86 * k, "RepetitionTime": 2530, "InversionTime": 1100, "EchoNumbers": k + 1,
                   "ScanningSequence": ["GR", "IR"], "PatientBirthDate": BIRTH}  # fmt: skip
        for path in write_series(to_image(mean + k), root / f"echo {k}", modality="MR", study=study, number=7,
                                 description=f"MEMPRAGE T1 {NAME.split('^')[0]}", headers=headers):  # fmt: skip
            edit(path, lambda d, k=k: setattr(d, "SOPInstanceUID", f"{d.SOPInstanceUID[:-3]}.{k}"))
    return root


def test_echoes_that_nothing_chooses_are_named_with_what_chooses_one(echoes: Path):
    reason = found(echoes).failed["case_001"]
    assert reason.startswith(
        "channel T1 has 4 series, series 7 'MEMPRAGE T1 ***', echo 1 (MR, TE 1.69 ms, 24 images) and "
    )
    assert reason.endswith('say which in a file for --series: [case_001] T1 = "7, echo 1"')
    assert_nothing_personal(texts=[reason])


@pytest.mark.parametrize("section", ["series", "case_001"])
@pytest.mark.parametrize(
    "choice",
    [
        "7, echo 2",
        "7 echo 2",
        "7:echo 2",
        "7; Echo=2",
        "series 7, echo #02",
        "MEMPRAGE*, echo 2",
        "UID, echo 2",
        "*T1*,echo2",
    ],
)
def test_the_series_file_chooses_an_echo(echoes: Path, tmp_path: Path, section: str, choice: str):
    uid = next(one.uid for one in find_series(echoes).images if one.number == 7)
    result = found(echoes, f'[{section}]\nT1 = "{choice.replace("UID", uid)}"\n', tmp_path)
    assert result.failed == {}
    (case,) = result.cases
    assert case.series["T1"].part == ("echo 2",)
    values = sitk.GetArrayFromImage(case.read_images().images["T1"])
    np.testing.assert_array_equal(values, volumes(1)["T1"] + 1)
    assert "echo 1 (MR, TE 1.69 ms, 24 images): the series file chooses another part of it" in " ".join(case.ignored)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'T1 = "7, echo 9"',
            r'series file says T1 = "7, echo 9", which is none of its series: .*echo 4 \(MR, TE 7.27 ms',
        ),
        ("T1 = 8", "series file says T1 = 8, which is none of its series"),
        ("T1 = 2", "series file says T1 = 2, which is none of its series"),  # the CT
        ("T1 = 7", "channel T1 has 4 series"),
        ('T1 = "MEMPRAGE*"', "channel T1 has 4 series"),
        ('T1 = ["7, echo 1", "7, echo 2"]', "channel T1 has 2 series"),
    ],
)
def test_a_choice_of_no_echo_or_of_several_is_said(echoes: Path, tmp_path: Path, line: str, message: str):
    assert re.search(message, found(echoes, f"[case_001]\n{line}\n", tmp_path).failed["case_001"])


def test_the_mean_of_the_echoes_goes_before_each_of_them(tmp_path: Path, echoes: Path):
    root = Path(shutil.copytree(echoes, tmp_path / "src"))
    second_t1(root, "MEMPRAGE T1 RMS", ImageType=["DERIVED", "PRIMARY", "OTHER", "MEAN"])
    (case,) = found(root).cases
    assert case.series["T1"].number == 8
    assert any("because the other is one of the echoes it combines" in note for note in in_english(case.notes))


def test_a_part_of_a_series_that_is_no_channel_can_be_chosen(echoes: Path, tmp_path: Path):
    root = Path(shutil.copytree(echoes, tmp_path / "src"))
    for path in root.glob("echo*/*"):
        edit(path, lambda d: setattr(d, "SeriesDescription", "R2* source"))
    reason = found(root).failed["case_001"]
    assert "series 7 'R2* source' (MR, 96 images): its name says a special sequence (computed map)" in reason
    reason = found(root, "[case_001]\nT1 = 7\n", tmp_path).failed["case_001"]
    assert 'it holds 4 volumes under one UID; it can be "7, echo 1" (TE 1.69 ms, 24 images) and ' in reason
    assert reason.endswith('[case_001] T1 = "7, echo 1"')
    (case,) = found(root, '[case_001]\nT1 = "7, echo 3"\n', tmp_path).cases
    assert case.series["T1"].part_note == "TE 5.41 ms"


@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_an_rtstruct_chooses_the_acquisition_that_it_was_drawn_on(tmp_path: Path, apart: float):
    root = write_patient(tmp_path / "src")
    step = np.subtract(
        *(np.array(pydicom.dcmread(ct_files(root)[k]).ImagePositionPatient, dtype=float) for k in (1, 0))
    )
    for path in ct_files(root):
        again = pydicom.dcmread(path)
        edit(path, lambda d: setattr(d, "AcquisitionNumber", 1))
        again.AcquisitionNumber, again.SOPInstanceUID = 2, f"{again.SOPInstanceUID[:-3]}.2"
        again.ImagePositionPatient = [
            float(v) for v in np.array(again.ImagePositionPatient, dtype=float) + apart * step
        ]
        again.save_as(path.with_name(f"{path.name}b"))
    (line,) = (line for line in list_cases(root).lines if line.startswith("  CT <- "))
    assert line == "  CT <- series 2 'Head 2.5 ***', acquisition 1 (CT, 24 images), modality CT"
    rtstruct(root).unlink()
    reason = found(root).failed["case_001"]
    assert "channel CT has 2 series, series 2 'Head 2.5 ***', acquisition 1 (CT, 24 images) and series 2" in reason
    assert reason.endswith('[case_001] CT = "2, acquisition 1"')
    (case,) = found(root, '[case_001]\nCT = "2, acquisition 2"\n', tmp_path).cases
    assert case.series["CT"].part == ("acquisition 2",)


def test_images_that_only_their_numbers_tell_apart_can_be_chosen(tmp_path: Path):
    root = write_patient(tmp_path / "src", drawn=())
    for path in ct_files(root):
        again = pydicom.dcmread(path)
        again.InstanceNumber, again.SOPInstanceUID = again.InstanceNumber + 24, f"{again.SOPInstanceUID[:-3]}.2"
        again.RescaleIntercept = -1025
        again.save_as(path.with_name(f"{path.name}b"))
    reason = found(root).failed["case_001"]
    assert "2 different images at one position" in reason
    assert 'it can be "2, part 1" (images 1 to 24, 24 images) and "2, part 2" (images 25 to 48, 24 images)' in reason
    (case,) = found(root, '[case_001]\nCT = "2, part 2"\n', tmp_path).cases
    np.testing.assert_array_equal(sitk.GetArrayFromImage(case.read_images().images["CT"]), volumes(1)["CT"] - 1)
