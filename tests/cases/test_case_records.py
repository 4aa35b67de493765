"""Cases as plain JSON, there and back."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from dicom_patients import write_patient

from nnunet_ext.cases.case_records import case_from_json, case_to_json, from_json, to_json
from nnunet_ext.cases.dicom_case import DicomCase
from nnunet_ext.cases.dicom_cases import find_cases
from nnunet_ext.cases.folder_case import FolderCase
from nnunet_ext.cases.prediction_cases import FilesCase
from nnunet_ext.images.source_files import FileCount
from nnunet_ext.labels.table import default_label_table
from nnunet_ext.messages import Message


def through_json(case):
    return case_from_json(json.loads(json.dumps(case_to_json(case))))


def test_a_dicom_case_comes_back_as_it_was(tmp_path: Path):
    write_patient(tmp_path / "src")
    found = find_cases(
        tmp_path / "src", modalities=("CT", "T1", "T2"), table=default_label_table(), show_progress=False
    )
    (case,) = found.cases
    assert case.has_labels
    assert case.personal
    again = through_json(case)
    assert isinstance(again, DicomCase)
    for field in fields(DicomCase):
        assert getattr(again, field.name) == getattr(case, field.name), field.name
    assert again.inputs() == case.inputs()
    assert hash(again.series["CT"].patient) == hash(case.series["CT"].patient)  # tuples and sets, not lists


def test_a_folder_case_comes_back_as_it_was():
    folder = Path("/heads") / "Köpfe \udcff"  # a name that is no UTF-8 on the disk
    case = FolderCase(
        folder,
        "k",
        True,
        {"CT": folder / "CT.nii.gz"},
        {None: [folder / "label.nii.gz"]},
        ["note.txt"],
        (Message("same_patient", {"cases": ["a", "b"]}),),
        FileCount(1, 1, FileCount().left_over, {"empty": ["note.txt"]}),
    )
    case.files.leave("empty files", "note.txt")
    assert through_json(case) == case
    assert through_json(case).label_files[None][0].parent == folder


def test_a_case_of_numbered_files_comes_back_as_it_was():
    case = FilesCase("head", (Path("/in/head_0000.nrrd"), Path("/in/head_0001.nrrd")), ("CT", "T1"), ("T1",))
    assert through_json(case) == case


def test_values_that_are_the_fields_default_are_left_out():
    assert to_json(FileCount()) == {}
    assert from_json(FileCount, {}) == FileCount()
    assert to_json(FileCount(2)) == {"channels": 2}
