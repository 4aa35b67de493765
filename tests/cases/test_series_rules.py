"""The TOML file that names the series of each channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_patients import found, run, second_t1, volumes, write_patient

from nnunet_ext.images.reading import read_image
from nnunet_ext.messages import in_english


@pytest.mark.parametrize(
    "text",
    ["[case_001]\nT1 = 8\n", '[series]\nT1 = ["t1 tse*c"]\nignore = ["ax t1*"]\n', '[case_001]\nT1 = "T1_TSE C"\n'],
)
def test_the_series_file_overrules(tmp_path: Path, text: str):
    second_t1(write_patient(tmp_path / "src"))
    (tmp_path / "series.toml").write_text(text)
    summary = run(tmp_path / "src", series_file=tmp_path / "series.toml")
    assert summary.failed == {}
    image = read_image(summary.dataset_folder / "imagesTr" / "case_001_0001.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volumes(9)["T1"])
    assert "T1 is contrast-enhanced" in in_english(summary.warnings["case_001"])


def test_a_series_number_that_ct_and_mr_share_names_the_mr(tmp_path: Path):
    second_t1(write_patient(tmp_path / "src"), number=2)  # the CT's number
    (tmp_path / "series.toml").write_text("[case_001]\nT1 = 2\n")
    summary = run(tmp_path / "src", series_file=tmp_path / "series.toml")
    assert (summary.written, summary.failed) == (["case_001"], {})
    image = read_image(summary.dataset_folder / "imagesTr" / "case_001_0001.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volumes(9)["T1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[case_001]\nT9 = 8\n", None),
        ("[case_777]\nT1 = 8\n", "there is no case_777"),
        ("T1 = 8\n", "is not a section"),
        ("[series]\nT1 = 1.5\n", "needs names or numbers"),
        ("[series", "is not TOML"),
    ],
)
def test_a_wrong_series_file_is_named(tmp_path: Path, text: str, message: str | None):
    write_patient(tmp_path / "src")
    (tmp_path / "series.toml").write_text(text)
    if message is None:
        reason = run(tmp_path / "src", series_file=tmp_path / "series.toml").failed["case_001"]
        assert "gives it a channel T9" in reason
        return
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "src", series_file=tmp_path / "series.toml")


def test_a_description_that_ends_like_a_part_is_a_description(tmp_path: Path):
    second_t1(write_patient(tmp_path / "src", drawn=()), "T1 gre, echo 1")
    result = found(tmp_path / "src", '[case_001]\nT1 = "t1 gre, echo 1"\n', tmp_path)
    assert (result.failed, result.cases[0].series["T1"].number) == ({}, 8)
