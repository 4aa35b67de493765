"""DICOM files recognised by their content."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk
from dicom_files import image

from nnunet_ext.dicom.files import has_dicom, is_dicom


def test_other_files_are_no_dicom(tmp_path: Path):
    sitk.WriteImage(image(), str(tmp_path / "a.nii"))
    sitk.WriteImage(image(), str(tmp_path / "a.nrrd"))
    (tmp_path / "empty").touch()
    assert not any(is_dicom(path) for path in tmp_path.iterdir())
    assert not has_dicom(tmp_path)
