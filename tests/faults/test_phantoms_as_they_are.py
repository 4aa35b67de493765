"""The untouched inputs that the tests of this folder spoil copies of."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fault_inputs import CASES, copy_cases

from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.phantom.making import make_phantoms


def test_phantoms_as_dicom_and_as_files_convert_to_their_labels(
    converter, phantom_files: Path, phantom_dicom: Path, tmp_path: Path
):
    expected = to_canonical(sitk.ReadImage(str(phantom_files / CASES[0] / "label.nii.gz")))
    for source, case in ((phantom_files, CASES[0]), (phantom_dicom, "case_001")):
        done = converter(copy_cases(source, tmp_path / case))
        assert done.code == 0, done.text
        np.testing.assert_array_equal(converter.labels(case), sitk.GetArrayFromImage(expected))


def test_phantoms_as_files_are_not_made_over_those_as_dicom(phantom_dicom: Path):
    with pytest.raises(ValueError, match="made with dicom=True instead of False"):
        make_phantoms(phantom_dicom, n_cases=1, size="tiny", n_processes=1)
