"""Folders of images told from DICOM trees, by their content."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sources import CHANNELS, write_dicom

from nnunet_ext.cases.prediction_cases import find_cases
from nnunet_ext.cases.source_layout import source_layout
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dicom.files import has_dicom


def test_dicom_is_found_behind_any_number_of_other_files(tmp_path: Path):
    write_dicom(tmp_path / "z")
    for ending in ("jpg", "txt", "xyz", ""):
        folder = tmp_path / f"0_{ending}"
        folder.mkdir()
        for number in range(250):
            (folder / f"{number:03d}.{ending}".rstrip(".")).write_bytes(b"\xff\xd8\xff")
            (tmp_path / "z" / "CT" / f"0{number:03d}.xyz").write_bytes(b"x")
    assert has_dicom(tmp_path)
    assert source_layout(tmp_path, CHANNELS) == "dicom"


@pytest.mark.parametrize("stray", ["p/CT_resampled.nii.gz", "p/CT.nii.gz", "Ref/a.nii", "p/CT/mean.nrrd", "a.nii.gz"])
def test_a_stray_image_does_not_make_a_dicom_tree_case_folders(tmp_path: Path, stray: str):
    write_dicom(tmp_path / "p")
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).write_bytes(b"x")
    assert source_layout(tmp_path, CHANNELS) == "dicom"


def test_folders_with_all_channels_stay_folders_with_the_dicom_they_came_from(tmp_path: Path):
    for case in ("a", "b"):
        write_dicom(tmp_path / case / "dicom", case)
        for channel in CHANNELS:
            (tmp_path / case / f"{channel}.nii.gz").write_bytes(b"x")
    (tmp_path / "b" / "T2.nii.gz").unlink()
    assert source_layout(tmp_path, CHANNELS) == "folders"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "T1.nii.gz").write_bytes(b"x")  # lacks channels, which it is told by name
    assert source_layout(tmp_path, CHANNELS) == "folders"


def test_both_kinds_of_cases_are_refused_until_the_layout_is_named(tmp_path: Path):
    write_dicom(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for name in (*CHANNELS, "label"):
        (tmp_path / "b" / f"{name}.nii.gz").write_bytes(b"x")
    for look in (list_cases, lambda source, **more: find_cases(source, channels=CHANNELS, optional=(), **more)):
        with pytest.raises(ValueError, match="pass --layout folders or --layout dicom"):
            look(tmp_path, show_progress=False)
    assert list_cases(tmp_path, layout="dicom", show_progress=False).files.channels == 9
    assert list_cases(tmp_path, layout="folders", show_progress=False).files.channels == 3
    found = find_cases(tmp_path, channels=CHANNELS, optional=(), layout="folders", show_progress=False)
    assert list(found.cases) == ["b"]
    assert "it holds DICOM" in found.failed["a"]
