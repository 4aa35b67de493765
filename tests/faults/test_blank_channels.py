"""A channel that holds nothing is refused by name, wherever images enter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fault_inputs import CASES, copy_cases, edit, slices, write_like

from nnunet_ext.cli.main import main


@pytest.mark.parametrize(("channel", "value"), [("T1", 100), ("T2", 0), ("CT", -1000)])
def test_convert_refuses_a_channel_of_one_value(converter, phantom_files, tmp_path: Path, channel: str, value: int):
    source = copy_cases(phantom_files, tmp_path / "src", CASES)
    file = source / CASES[0] / f"{channel}.nii.gz"
    image = sitk.ReadImage(str(file))
    write_like(np.full(image.GetSize()[::-1], value, np.float32), image, file)
    done = converter(source)
    assert done.code == 1
    assert f"{channel} holds one value ({value})" in done.text
    assert CASES[0] in done.text
    assert converter.files("labelsTr") == [f"{CASES[1]}.nii.gz"]


def test_convert_refuses_a_dicom_series_of_one_value(converter, phantom_dicom, tmp_path: Path):
    source = copy_cases(phantom_dicom, tmp_path / "src")
    for path in slices(source / CASES[0] / "T2"):
        edit(path, lambda d: setattr(d, "PixelData", bytes(len(d.PixelData))))
    done = converter(source)
    assert done.code == 1
    assert "T2 holds one value (0)" in done.text


def test_convert_refuses_one_image_under_two_names(converter, phantom_files, tmp_path: Path):
    source = copy_cases(phantom_files, tmp_path / "src")
    (source / CASES[0] / "T2.nii.gz").write_bytes((source / CASES[0] / "T1.nii.gz").read_bytes())
    done = converter(source)
    assert done.code == 1
    assert "T1 and T2 are the same image" in done.text


@pytest.mark.parametrize("blank", ["CT", "T1"])
def test_register_refuses_an_image_of_one_value(phantom_files, tmp_path: Path, capsys, blank: str):
    source = copy_cases(phantom_files, tmp_path) / CASES[0]
    image = sitk.ReadImage(str(source / f"{blank}.nii.gz"))
    write_like(np.full(image.GetSize()[::-1], 7, np.float32), image, source / f"{blank}.nii.gz")
    command = ["register", source / "CT.nii.gz", source / "T1.nii.gz", "-o", tmp_path / "out"]
    assert main([str(word) for word in command]) == 1
    assert ("the fixed image" if blank == "CT" else "T1") + " holds one value (7)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
