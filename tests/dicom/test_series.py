"""DICOM series found in folders and told apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import array, edit, image, only, write

from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study
from nnunet_ext.dicom.stack import check_series
from nnunet_ext.messages import in_english


def test_a_copy_whose_position_was_rounded_is_a_copy(tmp_path: Path):
    files = write(tmp_path / "a")
    shutil.copy(files[2], tmp_path / "copy")
    edit(
        tmp_path / "copy",
        lambda d: setattr(d, "ImagePositionPatient", [round(float(v), 1) for v in d.ImagePositionPatient]),
    )
    tree = find_series(tmp_path)
    assert dict(tree.ignored) == {"copies of the same image": 1}
    np.testing.assert_array_equal(array(tree.images[0]), sitk.GetArrayFromImage(image()))


def test_series_are_told_apart_by_patient_study_and_frame(tmp_path: Path):
    for n, study in enumerate([Study("a"), Study("a", study="2"), Study("b"), Study("a", frame_of_reference="2")]):
        write(tmp_path / str(n), study=study, number=n)
    series = find_series(tmp_path).images
    assert sorted((s.patient.key, s.number) for s in series) == [("a", 0), ("a", 1), ("a", 3), ("b", 2)]
    assert len({(s.study_uid, s.frame_of_reference_uid) for s in series}) == 4


def test_copies_count_once_and_other_files_are_counted(tmp_path: Path):
    files = write(tmp_path / "a")
    shutil.copy(files[0], tmp_path / "copy")
    shutil.copy(files[1], tmp_path / "twin")
    edit(tmp_path / "twin", lambda d: setattr(d, "SOPInstanceUID", "1.2.3"))
    (tmp_path / "readme.txt").write_text("hello")
    tree = find_series(tmp_path)
    assert dict(tree.ignored) == {"copies of the same image": 1, "files that are not DICOM": 1}
    notes: list[str] = []
    np.testing.assert_array_equal(array(tree.images[0], notes), sitk.GetArrayFromImage(image()))
    assert in_english(notes) == ["1 images are copies of others: counted once"]


def test_localizers_in_other_directions_under_the_same_uid_are_set_aside(tmp_path: Path):
    write(tmp_path / "a")
    for path in write(tmp_path / "b", image((1, 1, 1), oblique=False))[2:]:
        path.unlink()
    for path in (tmp_path / "b").iterdir():
        edit(path, lambda d: setattr(d, "SOPInstanceUID", d.SOPInstanceUID[:-2] + ".9"))
    tree = find_series(tmp_path)
    assert len(tree.images) == 1
    assert tree.ignored["single images and localizers"] == 2


def test_a_direction_at_the_edge_of_rounding_does_not_split_a_series(tmp_path: Path):
    for k, path in enumerate(write(tmp_path)):
        cosines = [float(value) for value in pydicom.dcmread(path).ImageOrientationPatient]
        cosines[0] = 0.985001 if k % 2 else 0.984999
        edit(path, lambda d, c=cosines: setattr(d, "ImageOrientationPatient", c))
    assert len(only(tmp_path).slices) == 5


@pytest.mark.parametrize("shared", [2, 5])
def test_a_series_under_two_patient_ids_is_refused(tmp_path: Path, shared: int):
    files = write(tmp_path / "a")  # the end of it, or an anonymised copy of it all, under another ID
    for path in files[:shared]:
        if shared == 5:
            path = shutil.copy(path, tmp_path / path.name)
        edit(Path(path), lambda d: setattr(d, "PatientID", "q"))
    for series in find_series(tmp_path).images:
        with pytest.raises(ValueError, match="carry 2 patient IDs"):
            check_series(series)
