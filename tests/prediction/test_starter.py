"""Prediction with the starter through the command that a user types. Its networks are untrained here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pydicom
import pytest
from case_folders import write_case
from dicom_patients import write_patient
from tiny_starter import VERSION, write_starter

from nnunet_ext.cli.main import main
from nnunet_ext.images.geometry import same_grid
from nnunet_ext.images.reading import read_image


@pytest.fixture(scope="module")
def starter(tmp_path_factory, cascade_plans) -> Path:
    return write_starter(tmp_path_factory.mktemp("starter"), cascade_plans)


@pytest.fixture
def predict(starter, tmp_path, monkeypatch):
    """Runs the verb without nnU-Net's folders and returns its exit code."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)

    def run(*options: str) -> int:
        folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--starter", str(starter)]
        return main(["predict", *folders, "-device", "cpu", *options])

    return run


def manifest(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "predictions.json").read_text())


def test_the_starter_predicts_without_a_model_being_named_and_says_what_it_is(predict, tmp_path, caplog):
    write_case(tmp_path / "in" / "case_a")
    assert predict() == 0
    banners = [r.getMessage() for r in caplog.records if "starter" in r.getMessage()]
    assert len(banners) == 1
    assert f"the starter {VERSION}" in banners[0]
    assert "not for patients" in banners[0]
    content = manifest(tmp_path)
    assert content["model"] == f"starter {VERSION}, sha256 {content['model_sha256']}"
    assert content["cases"]["case_a"]["channels"] == ["CT", "T1", "T2"]
    mask, ct = read_image(tmp_path / "out" / "case_a.nii.gz"), read_image(tmp_path / "in" / "case_a" / "CT.nii.gz")
    assert same_grid(mask, ct)


def test_the_page_of_view_and_a_later_rtstruct_name_the_starter(predict, tmp_path):
    write_patient(tmp_path / "in", drawn=())
    assert predict() == 0
    model = manifest(tmp_path)["model"]
    page, (mask,) = tmp_path / "page.html", (tmp_path / "out").glob("*.nii.gz")
    assert main(["view", str(tmp_path / "out"), "-i", str(tmp_path / "in"), "-o", str(page)]) == 0
    assert model in page.read_text(encoding="utf-8")
    assert main(["rtstruct", str(mask), str(tmp_path / "in"), "-o", str(tmp_path / "later.dcm")]) == 0
    assert model in pydicom.dcmread(tmp_path / "later.dcm").StructureSetDescription


def test_the_rtstruct_of_a_prediction_names_the_starter(predict, tmp_path):
    write_patient(tmp_path / "in", drawn=())
    assert predict("--rtstruct") == 0
    (file,) = (tmp_path / "out").glob("*.dcm")
    dataset = pydicom.dcmread(file)
    assert manifest(tmp_path)["model"] in dataset.StructureSetDescription
    descriptions = {roi.ROIGenerationDescription for roi in dataset.StructureSetROISequence}
    assert all(re.search(rf"starter {re.escape(VERSION)}, sha256 [0-9a-f]+$", text) for text in descriptions)


def test_the_starter_can_be_refused_and_a_damaged_one_is(predict, starter, tmp_path, cascade_plans, capsys):
    write_case(tmp_path / "in" / "case_a")
    assert main(["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--no-starter"]) == 1
    assert "--no-starter refuses the starter: name a model with -d or -m" in capsys.readouterr().err
    damaged = write_starter(tmp_path / "damaged", cascade_plans)
    file = next(damaged.rglob("checkpoint_final.pth"))
    file.write_bytes(file.read_bytes()[:-10])
    assert main(["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--starter", str(damaged)]) == 1
    assert "the starter is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_starter_in_the_same_folder_is_refused(predict, tmp_path, cascade_plans, capsys):
    write_case(tmp_path / "in" / "case_a")
    assert predict() == 0
    other = write_starter(tmp_path / "other", cascade_plans, seed=1)
    folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--starter", str(other)]
    assert main(["predict", *folders, "-device", "cpu"]) == 1
    assert "predicted with another model_sha256" in capsys.readouterr().err
