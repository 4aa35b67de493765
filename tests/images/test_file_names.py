"""Channels found by the names of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ext.images.file_names import find_channel_files


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_channels_are_found_by_name_alias_and_ending(tmp_path: Path):
    touch(tmp_path, "ct.NRRD", "t1W.nii.gz", "p7_T2.mha", "label.nii.gz", "notes.txt", ".T1.nii.gz", "FLAIR.nii")
    found = find_channel_files(tmp_path, ("CT", "T1", "T2", "FLAIR"))
    assert {m: path.name for m, path in found.items()} == {
        "CT": "ct.NRRD", "T1": "t1W.nii.gz", "T2": "p7_T2.mha", "FLAIR": "FLAIR.nii",
    }  # fmt: skip


def test_a_whole_name_goes_before_an_ending(tmp_path: Path):
    found = find_channel_files(touch(tmp_path, "T1.nii.gz", "label_T1.nii.gz"), ("T1",))
    assert found["T1"].name == "T1.nii.gz"


def test_missing_and_double_channels_are_named(tmp_path: Path):
    touch(tmp_path, "CT.nii.gz", "CT.nrrd", "T1.nii")
    with pytest.raises(ValueError, match=r"channel T2 is missing.*found CT\.nii\.gz, CT\.nrrd, T1\.nii"):
        find_channel_files(tmp_path, ("T2",))
    with pytest.raises(ValueError, match=r"channel CT has 2 files, CT\.nii\.gz and CT\.nrrd"):
        find_channel_files(tmp_path, ("CT",))
