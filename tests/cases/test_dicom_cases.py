"""Cases of a DICOM tree: patients, studies, and nothing personal in what is said."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_patients import (
    BIRTH,
    DRAWN,
    ID,
    NAME,
    PERSONAL,
    assert_nothing_personal,
    ct_files,
    edit,
    run,
    to_image,
    volumes,
    write_patient,
)

from nnunet_ext.cli.main import main
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.messages import in_english


def test_a_later_study_in_another_source_replaces_nothing(tmp_path: Path):
    dataset = run(write_patient(tmp_path / "first")).dataset_folder
    before = {file.name: file.read_bytes() for file in dataset.rglob("*.nii.gz")}
    write_patient(tmp_path / "second")
    for path in ct_files(tmp_path / "second"):
        edit(path, lambda d: setattr(d, "PixelData", d.PixelData[::-1]))
    for folder in ("_1", "_2"):
        for path in (tmp_path / "second" / f"{NAME}{folder}" / "DICOM").iterdir():
            edit(path, lambda d: setattr(d, "SeriesNumber", 77))
    summary = run(tmp_path / "second")
    assert "convert both folders in one run" in summary.failed["case_001"]
    shutil.rmtree(tmp_path / "second" / f"{NAME}_1")  # and now a channel is missing, too
    failed = run(tmp_path / "second").failed["case_001"]
    assert "channel T1 is missing" in failed
    assert failed.endswith("its earlier conversion is kept")
    assert {file.name: file.read_bytes() for file in dataset.rglob("*.nii.gz")} == before
    assert_nothing_personal(dataset, texts=[*summary.failed.values(), failed])


def test_a_dry_run_says_what_maps_to_what_and_writes_nothing(tmp_path: Path, capsys, monkeypatch):
    write_patient(tmp_path / "src" / "p1", number=1, drawn=(*DRAWN[:2], "Brainstem"))
    write_patient(tmp_path / "src" / "p2", number=2, skip=("T2",))
    (tmp_path / "src" / "notes.txt").write_text("x")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert main(["convert", str(tmp_path / "src"), "-d", "501", "-n", "Heads", "--list"]) == 1
    out = capsys.readouterr().out
    assert "case_001 -> imagesTr + labelsTr\n  CT <- series 2 'Head 2.5 ***' (CT, 24 images), modality CT\n" in out
    assert "  T1 <- series 3 'ax t1 tse ***' (MR, 24 images), named so, TE 12 ms, TR 550 ms\n" in out
    assert "  Eye_L <- Eye_AL (2 contours)\n  Eye_R <- 右眼球 (2 contours)\n  Lens_L is not in the RTSTRUCT\n" in out
    assert "left over: region Brainstem, region BODY" in out
    assert "case_002 -> nothing: channel T2 is missing" in out
    assert "1 files that are not DICOM" in out
    assert "2 cases (dicom): 1 to convert, 1 not" in out
    assert_nothing_personal(texts=out.splitlines())
    assert not list(tmp_path.rglob("*.csv"))


def test_a_console_without_chinese_letters_shows_the_dry_run(tmp_path: Path, monkeypatch):
    write_patient(tmp_path / "src", drawn=("右眼球",))
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", console)
    assert main(["convert", str(tmp_path / "src"), "-d", "501", "-n", "Heads", "--list"]) == 0
    console.flush()
    assert b"  Eye_R <- \\u53f3\\u773c\\u7403 (2 contours)\n" in console.buffer.getvalue()


def test_the_command_line_shows_and_logs_nothing_personal(tmp_path: Path, capfd, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    write_patient(tmp_path / "src" / "p1")
    write_patient(tmp_path / "src" / "p2", number=2)
    spoilt = ct_files(tmp_path / "src" / "p2")[3]
    spoilt.write_bytes(spoilt.read_bytes()[:-500])
    argv = ["convert", str(tmp_path / "src"), "-d", "501", "-n", "H", "--no-n4", "--no-clean", "-np", "1", "--debug"]
    assert main(argv) == 1
    shown = capfd.readouterr()
    assert "case 'case_002': CT, series 2 'Head 2.5 ***' (CT, 24 images): the pixels of one of its files" in shown.err
    text = (shown.out + shown.err).lower()
    assert not any(word in text.replace(str(tmp_path).lower(), "") for word in PERSONAL)


def test_two_studies_of_one_patient_are_two_cases_that_belong_together(tmp_path: Path):
    write_patient(tmp_path / "src" / "a", frames="111")
    arrays = volumes(7)
    study = Study(f"{ID}1", f"{NAME}1", study="later", frame_of_reference="9")
    for n, (channel, name) in enumerate([("CT", "Head"), ("T1", "t1"), ("T2", "t2")]):
        write_series(to_image(arrays[channel]), tmp_path / "src" / "b" / str(n), modality="CT" if n == 0 else "MR",
                     study=study, number=n + 20, description=name, headers={"PatientBirthDate": BIRTH})  # fmt: skip
    summary = run(tmp_path / "src")
    assert summary.written == ["case_001", "case_002"]
    assert "is the same patient as case_002: keep them in one fold" in in_english(summary.warnings["case_001"])


def test_a_tree_without_series_raises(tmp_path: Path):
    root = write_patient(tmp_path / "src", skip=("T1", "T2"), drawn=())
    for path in ct_files(root)[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="src has no CT or MR series; 1 single images and localizers"):
        run(tmp_path / "src")


def test_a_listing_of_folders_says_the_same(tmp_path: Path):
    folder = tmp_path / "src" / "a"
    folder.mkdir(parents=True)
    for name, array in volumes().items():
        if name != "label":
            sitk.WriteImage(to_image(array), str(folder / f"{name}.nii.gz"))
    sitk.WriteImage(to_image((volumes()["label"] == 1).astype(np.uint8)), str(folder / "LENS-LT.nii.gz"))
    sitk.WriteImage(to_image((volumes()["label"] == 2).astype(np.uint8)), str(folder / "Brainstem.nii.gz"))
    (tmp_path / "src" / "b").mkdir()
    listing = list_cases(tmp_path / "src")
    assert listing.lines[:5] == [
        "a -> imagesTr + labelsTr", "  CT <- CT.nii.gz", "  T1 <- T1.nii.gz", "  T2 <- T2.nii.gz",
        "  Lens_L <- LENS-LT.nii.gz",
    ]  # fmt: skip
    assert "  left over: Brainstem.nii.gz" in listing.lines
    assert "channel CT is missing" in listing.failed["b"]
