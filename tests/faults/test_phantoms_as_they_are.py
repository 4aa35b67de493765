"""The untouched inputs that the tests of this folder spoil copies of."""

from pathlib import Path

from fault_inputs import CASES, copy_cases


def test_untouched_files_and_dicom_convert_to_the_same_labels(converter, phantom_files, phantom_dicom, tmp_path: Path):
    done = converter(copy_cases(phantom_files, tmp_path / "files"))
    assert done.code == 0, done.text
    from_files = converter.voxels(CASES[0])
    done = converter(copy_cases(phantom_dicom, tmp_path / "dicom"))
    assert done.code == 0, done.text
    assert converter.voxels("case_001") == from_files
    assert all(from_files.values())
