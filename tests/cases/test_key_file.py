"""The private key file, and numbers that stay."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from dicom_patients import BIRTH, ID, NAME, run, write_patient

from nnunet_ext.cases import dicom_cases
from nnunet_ext.cases.key_file import read_key, write_key


def test_the_key_leads_back_to_the_patient_and_only_its_owner_reads_it(tmp_path: Path):
    write_patient(tmp_path / "src")
    summary = run(tmp_path / "src")
    key = tmp_path / "raw" / "Dataset501_Heads.key.csv"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    line = key.read_text(encoding="utf-8").splitlines()[1]
    assert line.startswith(f"case_001,{ID}1,{ID}1,{NAME}1,{BIRTH},")
    assert not list(summary.dataset_folder.rglob("*key*"))
    run(tmp_path / "src", key_file=tmp_path / "safe" / "key.csv", name="Other", dataset_id=502)
    assert (tmp_path / "safe" / "key.csv").exists()
    for folder in (summary.dataset_folder, tmp_path / "raw" / "Dataset777_Else" / "imagesTr"):
        with pytest.raises(ValueError, match="key file would lie inside Dataset"):
            run(tmp_path / "src", key_file=folder / "key.csv")


def test_numbers_stay_when_patients_are_added_and_only_they_are_converted(tmp_path: Path):
    write_patient(tmp_path / "src" / "p5", number=5)
    assert run(tmp_path / "src").written == ["case_001"]
    write_patient(tmp_path / "src" / "p1", number=1, drawn=())
    shutil.move(tmp_path / "src" / "p5", tmp_path / "src" / "elsewhere")
    summary = run(tmp_path / "src")
    assert (summary.written, summary.skipped) == (["case_002"], ["case_001"])
    assert (summary.dataset_folder / "imagesTs" / "case_002_0000.nii.gz").is_file()  # no RTSTRUCT
    (tmp_path / "raw" / "Dataset501_Heads.key.csv").unlink()
    with pytest.raises(ValueError, match=r"key file Dataset501_Heads\.key\.csv is gone"):
        run(tmp_path / "src")


def test_a_key_that_another_run_extends_meanwhile_never_means_two_patients(tmp_path: Path):
    write_patient(tmp_path / "a" / "src", number=1)
    write_patient(tmp_path / "b" / "src", number=2)
    key = tmp_path / "key.csv"
    ours = dicom_cases.find_cases(tmp_path / "a" / "src", modalities=("CT", "T1", "T2"), table=None, key_file=key)
    run(tmp_path / "b" / "src", key_file=key)
    before = key.read_bytes()
    with pytest.raises(
        ValueError, match=r"another run has changed the key file key\.csv meanwhile; run the same command"
    ):
        write_key(ours.key_rows, key)
    assert key.read_bytes() == before
    again = dicom_cases.find_cases(tmp_path / "a" / "src", modalities=("CT", "T1", "T2"), table=None, key_file=key)
    write_key(again.key_rows, key)
    (tmp_path / ".key.csv.4711").touch()  # of a run that was killed
    write_key(again.key_rows, key)  # as parts of one prediction do
    assert not list(tmp_path.glob(".key.csv*"))
    assert [row["case"] for row in read_key(key)] == ["case_001", "case_002"]
