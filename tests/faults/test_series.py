"""Which images of a DICOM tree make a volume, and which channel it is."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fault_inputs import CASES, copy_cases, edit, slices
from pydicom.uid import generate_uid

from nnunet_ext.dicom.contrast import classify
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.stack import series_grid
from nnunet_ext.messages import in_english


@pytest.fixture
def case(phantom_dicom: Path, tmp_path: Path) -> Path:
    """A copy of one phantom, without its contours."""
    folder = copy_cases(phantom_dicom, tmp_path / "src") / CASES[0]
    (folder / "RTSTRUCT.dcm").unlink()
    return folder


def write_echoes(files: list[Path], times_ms, **headers) -> str:
    """One series of several echoes with the images of another series; its UID."""
    series = generate_uid()
    for echo, time_ms in enumerate(times_ms, start=1):
        for number, file in enumerate(files):
            data = pydicom.dcmread(file)
            data.SeriesInstanceUID, data.EchoTime, data.EchoNumbers = series, time_ms, echo
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            for keyword, value in headers.items():
                setattr(data, keyword, value)
            data.save_as(file.with_name(f"echo{echo}_{number:03d}.dcm"))
    return series


FIELD_MAP = {
    "SeriesDescription": "gre_field_mapping", "ProtocolName": "gre_field_mapping", "SeriesNumber": 9,
    "RepetitionTime": 400, "ScanningSequence": "GR",
}  # fmt: skip


def test_a_two_echo_field_map_is_left_over_and_never_the_t1(converter, case: Path):
    files = slices(case / "T1")
    write_echoes(files, (4.92, 7.38), **FIELD_MAP)
    beside = converter(case.parent, "--list")
    assert beside.code == 0
    assert "  T1 <- series 2 'T1 ***'" in beside.out
    assert (
        "left over: series 9 'gre_field_mapping' (MR, 86 images): its name says a special sequence (field map)"
        in beside.out
    )
    for file in files:
        file.unlink()
    alone = converter(case.parent, "--list")
    assert alone.code == 1
    assert "channel T1 is missing" in alone.out
    for file in (case / "T1").glob("echo2_*"):
        edit(file, lambda data: setattr(data, "EchoTime", 12.3))
    long_echo = converter(case.parent, "--list")
    assert long_echo.code == 1
    assert "channel T1 is missing" in long_echo.out


@pytest.mark.parametrize(
    ("name", "echo", "repetition", "inversion", "sequence", "kind", "expected"),
    [
        ("R2*", 3, 30, None, "GR", "DERIVED", ""),
        ("qT1", 3, 5, None, "GR", "DERIVED", ""),
        ("t1_tse_dixon_tra_F", 11, 600, None, "SE", "ORIGINAL\\PRIMARY\\DIXON\\FAT", ""),
        ("t1_vibe_dixon_opp", 2.4, 7, None, "GR", "ORIGINAL\\PRIMARY\\DIXON\\OPP_PHASE", ""),
        ("T2_me2d GRE", 40, 700, None, "GR", "ORIGINAL\\PRIMARY\\M", ""),
        ("mp2rage_INV2", 3, 5000, 2700, "GR", "ORIGINAL", ""),
        ("T1 inv", 15, 2200, None, "IR", "ORIGINAL\\PRIMARY\\R\\IR", ""),
        ("AX T1 FLAIR+C", 24, 2500, 900, "SE", "ORIGINAL\\PRIMARY\\M", "T1"),
        ("mocoMEMPRAGE", 1.69, 2530, None, "GR", "ORIGINAL\\PRIMARY\\M", "T1"),
    ],
)
def test_names_of_other_contrasts_are_read_and_those_of_t1_too(
    name, echo, repetition, inversion, sequence, kind, expected
):
    words = {"Modality": "MR", "SeriesDescription": name, "ProtocolName": name, "ImageType": kind}
    words["ScanningSequence"] = sequence
    numbers = {"EchoTime": echo, "RepetitionTime": repetition, "InversionTime": inversion}
    channel, reason, notes = classify(lambda tag: words.get(tag, ""), numbers.get)
    assert channel == expected
    assert reason
    assert in_english(notes) == (["contrast-enhanced"] if "+C" in name else [])


def test_two_acquisitions_half_a_slice_apart_are_refused_with_what_chooses_one(converter, case: Path, tmp_path: Path):
    files = slices(case / "CT")
    first, second = (np.array(pydicom.dcmread(file).ImagePositionPatient, float) for file in files[:2])
    for number, file in enumerate(files):
        image = pydicom.dcmread(file)
        image.AcquisitionNumber, image.AcquisitionTime = 1, "100000"
        image.SliceThickness = np.linalg.norm(second - first)
        image.save_as(file)
        image.AcquisitionNumber, image.AcquisitionTime, image.InstanceNumber = 2, "100500", 1000 + number
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        moved = np.array(image.ImagePositionPatient, float) + (second - first) / 2
        image.ImagePositionPatient = [f"{value:.6f}" for value in moved]
        image.PixelData = np.roll(image.pixel_array, 8, axis=1).tobytes()
        image.save_as(file.with_name(f"b{number:04d}.dcm"))
    done = converter(case.parent)
    assert done.code == 1
    assert "channel CT has 2 series, series 1 'head ***', acquisition 1 (CT, 43 images)" in done.err
    assert 'say which in a file for --series: [case_001] CT = "1, acquisition 1"' in done.err
    choice = tmp_path / "series.toml"
    choice.write_text('[case_001]\nCT = "1, acquisition 2"\n')
    listed = converter(case.parent, "--list", "--series", choice)
    assert listed.code == 0
    assert "  CT <- series 1 'head ***', acquisition 2 (CT, 43 images), by the series file" in listed.out


def write_at(case: Path, at_mm: list[float], use: list[int], thickness_mm: list[float]) -> None:
    """The CT's images `use` at other places along its normal."""
    images = [pydicom.dcmread(file) for file in slices(case / "CT")]
    first, second = (np.array(image.ImagePositionPatient, float) for image in images[:2])
    along = (second - first) / np.linalg.norm(second - first)
    for file in slices(case / "CT"):
        file.unlink()
    for number, (mm, source, thickness) in enumerate(zip(at_mm, use, thickness_mm, strict=True)):
        image = deepcopy(images[source])
        image.InstanceNumber, image.SliceThickness = number + 1, f"{thickness:.4f}"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.ImagePositionPatient = [f"{value:.5f}" for value in first + mm * along]
        pixels = image.pixel_array.copy()
        pixels[0, 0] += number % 2
        image.PixelData = pixels.tobytes()
        image.save_as(case / "CT" / f"{number:04d}.dcm")


def gap_mm(case: Path) -> float:
    first, second = (np.array(pydicom.dcmread(file).ImagePositionPatient, float) for file in slices(case / "CT")[:2])
    return float(np.linalg.norm(second - first))


def test_thick_slices_after_thin_ones_keep_the_gap_of_the_thin_ones(converter, case: Path):
    gap = gap_mm(case)
    at = [gap * k for k in range(30)]
    at += [at[-1] + 0.1 * gap + 3 * gap * k for k in range(4)]
    write_at(case, at, [*range(30), *(30 + 3 * k for k in range(4))], [gap] * 30 + [3 * gap] * 4)
    done = converter(case.parent)
    assert done.code == 0, done.text
    short = f"CT: images 30 and 31 of 34 are only .* mm apart, the others {gap:.3g} mm: check the series"
    assert any(re.fullmatch(short, line) for line in converter.record("case_001")["warnings"])
    (series,) = (one for one in find_series(case).images if one.modality == "CT")
    grid, _ = series_grid(series)
    assert (grid.GetSize()[2], round(grid.GetSpacing()[2], 3)) == (39, round(gap, 3))


def test_two_slices_that_nearly_coincide_do_not_set_the_gap(case: Path):
    gap = gap_mm(case)
    at = [gap * k for k in range(43)]
    at.insert(20, at[20] - 0.03)
    write_at(case, at, [*range(20), 20, *range(20, 43)], [gap] * 44)
    (series,) = (one for one in find_series(case).images if one.modality == "CT")
    grid, planes = series_grid(series)
    assert (grid.GetSize()[2], round(grid.GetSpacing()[2], 3)) == (43, round(gap, 3))
    assert None not in planes


def test_one_echo_of_a_t1_can_be_chosen(converter, case: Path, tmp_path: Path):
    files = slices(case / "T1")
    names = {"SeriesDescription": "MEMPRAGE T1", "ProtocolName": "MEMPRAGE T1", "SeriesNumber": 7}
    uid = write_echoes(files, (1.69, 3.55, 5.41, 7.27), RepetitionTime=2530, InversionTime=1100,
                       ScanningSequence=["GR", "IR"], **names)  # fmt: skip
    for file in files:
        file.unlink()
    choice = tmp_path / "series.toml"
    asked = converter(case.parent, "--list")
    assert asked.code == 1
    assert "series 7 'MEMPRAGE T1', echo 4 (MR, TE 7.27 ms, 43 images)" in asked.out
    assert 'say which in a file for --series: [case_001] T1 = "7, echo 1"' in asked.out
    for line in ('"7, echo 2"', f'"{uid}, echo 2"', '"MEMPRAGE T1, echo 2"'):
        choice.write_text(f"[case_001]\nT1 = {line}\n")
        done = converter(case.parent, "--list", "--series", choice)
        assert done.code == 0, done.out
        assert "  T1 <- series 7 'MEMPRAGE T1', echo 2 (MR, TE 3.55 ms, 43 images), by the series file" in done.out
