"""Files of one series, and the volumes that they make."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import SHAPE, array, edit, image, only, repeat, write

from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study
from nnunet_ext.dicom.stack import check_series
from nnunet_ext.messages import in_english


@pytest.mark.parametrize("rounded", [[0.8, 0.703], [0.8, 0.7]])
def test_pixel_spacings_that_differ_by_rounding_are_one(tmp_path: Path, rounded: list[float]):
    files = write(tmp_path)
    for k, path in enumerate(files):
        edit(path, lambda d, k=k: setattr(d, "PixelSpacing", rounded if k % 2 else [0.8, 0.703125]))
    series = only(tmp_path)
    assert series.spacing_mm == (0.8, 0.703125)
    assert in_english(series.notes) == ["stored with rounded pixel spacings: read with 0.8 x 0.703125 mm"]
    check_series(series)


def diffusion(dataset) -> None:
    value = pydicom.Dataset()
    value.DiffusionBValue = 1000.0
    dataset.SharedFunctionalGroupsSequence[0].MRDiffusionSequence = [value]


def fluid_attenuated(dataset) -> None:
    dataset.AcquisitionContrast = "FLUID_ATTENUATED"


@pytest.mark.parametrize("change", [diffusion, fluid_attenuated])
def test_enhanced_diffusion_and_flair_are_no_t2(to_enhanced, tmp_path: Path, change):
    to_enhanced(write(tmp_path, modality="MR"), change=change)
    assert only(tmp_path).channel == ""


def test_slices_that_turn_within_a_series_are_refused(tmp_path: Path):
    for k, path in enumerate(write(tmp_path)):
        edit(
            path, lambda d, k=k: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, np.cos(0.01 * k), np.sin(0.01 * k)])
        )
    with pytest.raises(ValueError, match=r"images lie in different directions \(cosines differ by 0.04\)"):
        check_series(only(tmp_path))


def test_two_echoes_in_one_series_are_two_series(tmp_path: Path):
    for n, (te, study) in enumerate([(12, Study("p")), (95, Study("p"))]):
        for path in write(tmp_path / str(n), image(array=np.full(SHAPE, te)), modality="MR", study=study,
                          description="pd+t2", headers={"EchoTime": te, "RepetitionTime": 3000}):  # fmt: skip
            edit(path, lambda d, n=n: setattr(d, "SOPInstanceUID", f"{d.SOPInstanceUID[:-2]}.{n}"))
    found = {s.channel: array(s).max() for s in find_series(tmp_path).images}
    assert found == {"T2": 95, "": 12}


def test_echoes_are_named_with_their_times(tmp_path: Path):
    files = write(tmp_path, modality="MR", number=7, description="MEMPRAGE p", headers={"RepetitionTime": 2530})
    repeat(files, 5, lambda d, k: setattr(d, "EchoTime", 1.69 + 1.86 * k))
    labels = [series.label for series in find_series(tmp_path).images]
    assert labels[4] == "series 7 'MEMPRAGE p', echo 5 (MR, TE 9.13 ms, 5 images)"
    assert [series.choice for series in find_series(tmp_path).images] == [f"7, echo {k}" for k in range(1, 6)]


def test_the_echoes_of_a_field_map_stay_one_series_that_is_no_channel(tmp_path: Path):
    headers = {"RepetitionTime": 400, "ScanningSequence": "GR"}
    repeat(write(tmp_path, modality="MR", description="gre_field_mapping", headers=headers), 2,
           lambda d, k: setattr(d, "EchoTime", 4.92 + 2.46 * k))  # fmt: skip
    series = only(tmp_path)
    assert (series.channel, series.reason) == ("", "its name says a special sequence (field map)")
    assert [part.choice for part in series.parts] == ["1, echo 1", "1, echo 2"]
    with pytest.raises(ValueError, match="it holds 2 volumes under one UID"):
        check_series(series)


def test_the_images_of_a_dixon_series_are_classified_by_their_own_types(tmp_path: Path):
    files = write(tmp_path, modality="MR", description="t1_mDIXON")
    kinds = ("W", "F", "IP", "OP")
    repeat(files, 4, lambda d, k: setattr(d, "ImageType", ["DERIVED", "PRIMARY", kinds[k], kinds[k], "DERIVED"]))
    found = {series.part[0]: (series.channel, in_english(series.notes)) for series in find_series(tmp_path).images}
    assert found == {
        "type W": ("T1", ["fat-saturated"]), "type IP": ("T1", []), "type F": ("", []), "type OP": ("", []),
    }  # fmt: skip


def test_frames_of_an_enhanced_object_are_told_apart(to_enhanced, tmp_path: Path):
    def two_time_points(dataset) -> None:
        frames = dataset.PerFrameFunctionalGroupsSequence
        dataset.PerFrameFunctionalGroupsSequence = [*frames, *copy.deepcopy(list(frames))]
        for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            content = pydicom.Dataset()
            content.TemporalPositionIndex = 1 + k // 5
            frame.FrameContentSequence = [content]
        dataset.NumberOfFrames, dataset.PixelData = 10, dataset.PixelData + dataset.PixelData[::-1]

    to_enhanced(write(tmp_path, modality="MR"), change=two_time_points)
    series = find_series(tmp_path).images
    assert [one.part for one in series] == [("time 1",), ("time 2",)]
    np.testing.assert_array_equal(array(series[0]), sitk.GetArrayFromImage(image()))


def test_the_imaginary_part_of_an_enhanced_object_is_no_channel(to_enhanced, tmp_path: Path):
    def imaginary(dataset) -> None:
        kind = pydicom.Dataset()
        kind.ComplexImageComponent = "IMAGINARY"
        dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence = [kind]

    to_enhanced(write(tmp_path, modality="MR"), change=imaginary)
    assert only(tmp_path).reason == "its image type says IMAGINARY"


@pytest.mark.parametrize("value", [1, b"\x01\x00"])
def test_a_phase_image_of_ge_is_no_channel(tmp_path: Path, value: int | bytes):
    for path in write(tmp_path, modality="MR", description="t1"):

        def mark(dataset) -> None:
            dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(
                0x2F, "SS" if isinstance(value, int) else "UN", value)  # fmt: skip

        edit(path, mark)
    assert only(tmp_path).reason == "its image type says PHASE"
