"""Prediction with the starter through the command that a user types. Its networks are untrained here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from case_folders import to_image, volumes, write_case
from dicom_patients import write_patient
from tiny_starter import VERSION, write_starter

from nnunet_ext.cli.main import main
from nnunet_ext.images.geometry import same_grid
from nnunet_ext.images.reading import read_image
from nnunet_ext.prediction.cascade_predictor import CascadePredictor
from nnunet_ext.starter.shipped import SEGMENTER


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


# ------------------------------------------------------------------------------------------------ a CT not in HU


def test_a_ct_that_is_not_in_hu_is_refused_also_in_plain_files(predict, tmp_path, capsys):
    raw = volumes()["CT"] + 1024
    write_case(tmp_path / "in" / "folder", CT=raw)
    for case, ct in (("raw", raw), ("hu", volumes()["CT"])):
        sitk.WriteImage(to_image(ct.astype(np.int16)), str(tmp_path / "in" / f"{case}_0000.nii.gz"))
    assert predict() == 1
    said = capsys.readouterr().err
    for case in ("folder", "raw"):
        assert f"case '{case}': CT is not in HU: values" in said
    assert "apply the rescale slope and intercept, or export the CT again, or leave its file out" in said
    assert "--allow-non-hu" not in said  # no option of this verb
    assert sorted(file.name for file in (tmp_path / "out").glob("*.nii.gz")) == ["hu.nii.gz"]


@pytest.mark.parametrize("recorded", [{"window_hu": [-160.0, 240.0]}, {"allow_non_hu": True}])
def test_a_ct_that_was_not_in_hu_at_training_either_passes_in_plain_files(tmp_path, cascade_plans, recorded):
    starter = write_starter(tmp_path / "starter", cascade_plans, nnunet_ext=recorded)
    (tmp_path / "in").mkdir()
    sitk.WriteImage(to_image(np.clip(volumes()["CT"], -160, 240)), str(tmp_path / "in" / "a_0000.nii.gz"))
    folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--starter", str(starter), "-device", "cpu"]
    assert main(["predict", *folders]) == 0


@pytest.mark.parametrize(
    ("recorded", "refused"), [(None, False), ({"n4": False}, True), ({"allow_non_hu": True}, False)]
)
def test_a_model_refuses_plain_files_that_are_not_in_hu_if_its_training_images_were(
    starter, tmp_path, cascade_plans, recorded, refused
):
    """Without a record of a conversion nothing is known of the training images."""
    dataset = {} if recorded is None else {"nnunet_ext": recorded}
    folder = write_starter(tmp_path / "model", cascade_plans, **dataset)
    predictor = CascadePredictor(folder / "model" / SEGMENTER, device=torch.device("cpu"), folds=["all"])
    images = {"CT": to_image((volumes()["CT"] + 1024).astype(np.int16))}
    if refused:
        with pytest.raises(ValueError, match="CT is not in HU"):
            predictor.prepare(images)
    else:
        assert predictor.prepare(images).channels == ["CT"]


# ------------------------------------------------------------------------------------------------ no whole head


def test_half_a_head_is_contoured_with_a_warning_that_names_the_side_and_strict_refuses_it(predict, tmp_path, capsys):
    case = write_case(tmp_path / "in" / "half", skip=("CT",))  # this CT has no bone
    for file in case.iterdir():
        image = read_image(file)
        sitk.WriteImage(image[image.GetWidth() // 2 :], str(file))  # axes are L, P and S: what is on the right is lost
    write_case(tmp_path / "in" / "whole", skip=("CT",))
    assert predict() == 0
    cases = manifest(tmp_path)["cases"]
    kinds = {name: [message["kind"] for message in record["messages"]] for name, record in cases.items()}
    assert "head_cut" in kinds["half"]
    assert "head_cut" not in kinds["whole"]
    assert "case 'half': T1: the field of view cuts off a part of the head on the right" in capsys.readouterr().err
    assert predict("--strict") == 1
    assert "case 'half': strict: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "half.nii.gz").exists()


def test_a_plain_file_of_a_brain_alone_is_told_too_and_other_models_do_not_look(predict, starter, tmp_path):
    arrays = volumes()
    z, y, x = np.indices(arrays["T1"].shape)
    centre = (np.array(arrays["T1"].shape).reshape(3, 1, 1, 1) - 1) / 2
    brain = ((np.stack([z, y, x]) - centre) ** 2 / np.array([11, 13, 12]).reshape(3, 1, 1, 1) ** 2).sum(0) < 1
    brain |= (z > 0) & (z < 15) & (abs(y - centre[1]) < 3) & (abs(x - centre[2]) < 3)  # its stem
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a_0001.nii.gz"
    sitk.WriteImage(to_image(np.where(brain, 2 * arrays["T1"] + x % 3 + y % 5, 0).astype(np.int16), "PIR"), str(file))
    assert predict() == 0
    assert "skull_stripped" in {message["kind"] for message in manifest(tmp_path)["cases"]["a"]["messages"]}
    other = CascadePredictor(starter / "model" / SEGMENTER, device=torch.device("cpu"), folds=["all"])
    assert [message.kind for message in other.prepare({"T1": file}).warnings] == ["channels_lacking"]
