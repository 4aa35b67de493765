"""What would end a training in an error is said before it begins, by nnU-Net's own command; about 5 s."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import run_training

DATASET = "Dataset501_Test"


@pytest.fixture
def train(tmp_path: Path, monkeypatch, cascade_plans) -> Callable[..., None]:
    """`train("3d_lowres", 0)` on a data set of three cases, whose files are empty: no training may get as far as to read."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    base = tmp_path / "preprocessed" / DATASET
    plans = cascade_plans(roi={"size_mm": [32.0] * 3, "offset_mm": {}, "spread_mm": {}, "jitter_mm": 2.0})
    for stage in ("3d_lowres", "3d_fullres"):
        (base / f"CascadeOARPlans_{stage}").mkdir(parents=True)
        for number in range(3):
            for ending in (".b2nd", "_seg.b2nd", ".pkl"):
                (base / f"CascadeOARPlans_{stage}" / f"phantom_{number:03d}{ending}").touch()
    (base / "CascadeOARPlans.json").write_text(json.dumps(plans))
    labels = {"background": 0, "Eye_L": 1, "Eye_R": 2, "OpticChiasm": 3}
    dataset_json = {"channel_names": {"0": "CT", "1": "T1", "2": "T2"}, "labels": labels, "file_ending": ".nii.gz"}
    (base / "dataset.json").write_text(json.dumps(dataset_json))

    def run(configuration: str, fold: int | str) -> None:
        options = {"trainer_class_name": "CascadeOARTrainer", "plans_identifier": "CascadeOARPlans"}
        run_training("501", configuration, fold, device=torch.device("cpu"), **options)

    run.base = base
    return run


def test_three_cases_are_too_few_for_five_folds(train):
    for configuration in ("3d_lowres", "3d_fullres"):
        with pytest.raises(
            ValueError, match="5 folds need at least 5 cases, there are 3: pass fold all, or write splits_fi"
        ):
            train(configuration, 0)
    assert not (train.base / "splits_final.json").exists()


def test_a_split_with_an_unknown_case_names_it(train):
    file = train.base / "splits_final.json"
    file.write_text('[{"train": ["phantom_000", "phantom_001"], "val": ["phantom_009"]}]')
    with pytest.raises(
        ValueError, match=r"fold 0 names 'phantom_009' in 'val', not among the 3 preprocessed cases"
    ) as error:
        train("3d_lowres", 0)
    assert str(error.value).startswith(str(file))
    assert "nnUNetv2_preprocess -d 501 -plans_name CascadeOARPlans -c 3d_lowres" in str(error.value)


@pytest.mark.parametrize("fold", [0, "all"])
def test_a_localizer_without_the_data_of_the_segmenter_is_told_how_to_make_them(train, fold):
    (train.base / "splits_final.json").write_text('[{"train": ["phantom_000", "phantom_001"], "val": ["phantom_002"]}]')
    folder = train.base / "CascadeOARPlans_3d_fullres"
    command = "nnUNetv2_preprocess -d 501 -plans_name CascadeOARPlans -c 3d_fullres"
    for file in folder.glob("phantom_002*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=f"'phantom_002' is not preprocessed for 3d_cascade_fullres.*{command}"):
        train("3d_lowres", fold)
    for file in folder.iterdir():
        file.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=f"no case is preprocessed for 3d_cascade_fullres in .*{command}"):
            train("3d_lowres", fold)
        if folder.is_dir():
            folder.rmdir()


def test_a_segmenter_without_its_data_is_told_how_to_make_them(train):
    for file in (train.base / "CascadeOARPlans_3d_fullres").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no case is preprocessed for 3d_cascade_fullres .* -c 3d_fullres"):
        train("3d_cascade_fullres", 0)


def test_preprocessed_cases_that_lack_a_file_are_named(train):
    (train.base / "CascadeOARPlans_3d_lowres" / "phantom_001_seg.b2nd").unlink()
    with pytest.raises(FileNotFoundError, match=r"not whole: 'phantom_001_seg\.b2nd' is missing .* -c 3d_lowres"):
        train("3d_lowres", "all")
