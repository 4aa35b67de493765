"""What trainings and predictions took, from the files that they leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_summaries import summary

from nnunet_ext.reporting.content import Experiment
from nnunet_ext.reporting.costs import (
    NetworkSize,
    costs_table,
    models_of,
    network_size,
    prediction_cost,
    training_cost,
)

EPOCH = """
2026-01-01 10:00:00.000000: Epoch {epoch}
2026-01-01 10:00:00.000000: train_loss -0.5
2026-01-01 10:00:00.000000: val_loss -0.4
2026-01-01 10:00:00.000000: Pseudo dice [0.5]
2026-01-01 10:00:00.000000: Epoch time: {seconds} s
"""


def write_model(folder: Path, seconds: dict[str, list[float]], device: dict | None = None) -> Path:
    """A trained model: fold -> seconds of its epochs."""
    for fold, epochs in seconds.items():
        (folder / fold).mkdir(parents=True)
        log = "".join(EPOCH.format(epoch=n, seconds=s) for n, s in enumerate(epochs))
        (folder / fold / "training_log_2026_1_1_10_00_00.txt").write_text(log)
        if device is not None:
            (folder / fold / "training_device.json").write_text(json.dumps(device))
    (folder / "plans.json").write_text(json.dumps({"configurations": {}}))
    return folder


def predicted(folder: Path, cases: dict[str, dict], name: str = "Head") -> Experiment:
    """An experiment on predictions with a `predictions.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    models = ["T__P__3d_lowres", "T__P__3d_cascade_32x96x96"]
    (folder / "predictions.json").write_text(json.dumps({"models": models, "cases": cases}))
    (folder / "dataset.json").write_text(json.dumps({"name": name, "labels": {"background": 0, "Lens_L": 1}}))
    scores = summary({"Lens_L": [80.0, 90.0]})
    files = {case: (folder / f"{case}.nii.gz", Path("labels") / f"{case}.nii.gz") for case in scores.cases}
    return Experiment("crops", folder, replace(scores, files=files))


SECONDS = {"prepare_s": 1.0, "segment_s": 2.0, "write_s": 0.5}
GPU = {"device": "Card", "peak_memory_mb": 4096.0, "peak_device_memory_mb": 6144.0}


def test_hours_are_those_of_the_epochs_per_fold_and_memory_is_the_gpus(tmp_path):
    model = write_model(tmp_path / "T__P__3d_lowres", {"fold_0": [1800.0, 1800.0], "fold_1": [7200.0]}, GPU)
    cost = training_cost(model)
    assert cost.hours == pytest.approx((1.0, 2.0))
    assert cost.devices == ("Card",)
    assert cost.memory_mb == 6144.0


def test_a_training_of_an_earlier_version_has_the_device_that_nnunet_notes_and_no_memory(tmp_path):
    model = write_model(tmp_path / "T__P__3d_lowres", {"fold_0": [36.0]})
    (model / "fold_0" / "debug.json").write_text(json.dumps({"device": "cuda:0", "gpu_name": "Old card"}))
    cost = training_cost(model)
    assert cost.devices == ("Old card",)
    assert cost.memory_mb != cost.memory_mb  # NaN
    assert training_cost(tmp_path) is None


def test_seconds_of_a_case_are_all_its_steps_and_cases_that_failed_have_none(tmp_path):
    cases = {"case_0": {**SECONDS, **GPU}, "case_1": {"failed": "no CT"}, "case_9": {**SECONDS, "segment_s": 99.0}}
    cost = prediction_cost(predicted(tmp_path, cases))
    assert cost.seconds == {"case_0": 3.5}  # case_9 was not scored
    assert (cost.devices, cost.memory_mb) == (("Card",), 6144.0)


def test_models_of_predictions_are_those_of_their_own_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    names = ("Dataset521_Head", "Dataset522_HeadCT")
    folders = {n: write_model(tmp_path / "results" / n / "T__P__3d_lowres", {"fold_0": [36.0]}) for n in names}
    assert models_of(predicted(tmp_path / "a", {})) == [folders["Dataset521_Head"]]
    assert models_of(predicted(tmp_path / "b", {}, name="HeadCT")) == [folders["Dataset522_HeadCT"]]
    monkeypatch.delenv("nnUNet_results")
    assert models_of(predicted(tmp_path / "a", {})) == []
    assert models_of(predicted(tmp_path / "a", {}), list(folders.values())) == [folders["Dataset521_Head"]]


def test_the_table_has_a_row_per_experiment_and_those_of_the_study(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    folder = tmp_path / "results" / "Dataset521_Head"
    write_model(folder / "T__P__3d_lowres", {"fold_0": [7200.0], "fold_1": [14400.0]}, GPU)
    write_model(folder / "T__P__3d_cascade_32x96x96", {"fold_0": [1800.0]}, GPU | {"peak_device_memory_mb": 2048.0})
    known = predicted(tmp_path / "a", {"case_0": {**SECONDS, **GPU}, "case_1": {**SECONDS, "write_s": 2.5, **GPU}})
    unknown = Experiment("other", tmp_path, summary({"Lens_L": [80.0]}))
    table, remarks = costs_table([known, unknown], with_study=True)
    rows = [[str(cell.text) for cell in row] for row in table.rows]
    assert rows[0] == [
        "crops",
        "-",
        "3.0 (folds: 2)",
        "0.50 (folds: 1)",
        "Card",
        "6.0 GB",
        "4.5 +- 1.4",
        "Card",
        "6.0 GB",
    ]
    assert rows[1] == ["other", *["-"] * 8]
    assert rows[2] == ["study: localizer", "-", "20", "-", "GTX 1070 Ti", "8 GB", "2.0", "GTX 1070 Ti", "8 GB"]
    assert remarks == []
    assert len(costs_table([known], with_study=False)[0].rows) == 1


def test_a_damaged_file_costs_no_report_and_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    model = write_model(tmp_path / "results" / "Dataset521_Head" / "T__P__3d_lowres", {"fold_0": [7200.0]})
    (model / "fold_0" / "training_device.json").write_text('{"device": 7}')
    table, (remark,) = costs_table([predicted(tmp_path / "a", {})], with_study=False)
    assert table.rows[0][2].text == "-"
    assert "training_device.json" in str(remark)


def write_weights(model: Path, configuration: dict) -> None:
    """A checkpoint of 30 weights and a bias under two names each, as nnU-Net's networks have them, and a BatchNorm."""
    layer, norm = torch.nn.Linear(10, 3), torch.nn.BatchNorm1d(3)
    weights = {"encoder.weight": layer.weight.data, "encoder.bias": layer.bias.data}
    weights |= {f"decoder.{name}": value for name, value in weights.items()}
    weights |= {f"norm.{name}": value for name, value in norm.state_dict().items()}
    checkpoint = {"network_weights": weights, "trainer_name": "T", "init_args": {}}
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    plans = {"configurations": {model.name.rpartition("__")[2]: configuration}}
    (model / "plans.json").write_text(json.dumps(plans))


@pytest.mark.parametrize(
    ("options", "narrowed"),
    [({}, ""), ({"width": 1.0}, ""), ({"width": 0.25}, "x 0.25"), ({"encoder": "resnet18"}, "resnet18")],
)
def test_weights_are_those_that_training_changes_each_once(tmp_path, options, narrowed):
    model = write_model(tmp_path / "T__P__3d_anatomynet", {"fold_0": [36.0]})
    assert network_size(model) is None
    write_weights(model, {"architecture": {"arch_kwargs": options}})
    assert network_size(model) == NetworkSize(30 + 3 + 3 + 3, narrowed)


def test_predictions_of_another_program_have_the_model_that_is_named_theirs(tmp_path):
    models = {}
    for trainer in ("nnUNetTrainer", "nnUNetTrainerNoMirroring"):
        models[trainer] = write_model(tmp_path / f"{trainer}__nnUNetPlans__3d_fullres", {"fold_0": [3600.0]})
        write_weights(models[trainer], {})
    runs = [Experiment(name, tmp_path / name, summary({"Lens_L": [80.0]})) for name in ("mirrored", "not", "atlas")]
    named = [("mirrored", models["nnUNetTrainer"]), ("not", models["nnUNetTrainerNoMirroring"])]
    assert [models_of(run, named) for run in runs] == [[folder] for folder in models.values()] + [[]]
    table, remarks = costs_table(runs, named, with_study=False)
    assert [[str(cell.text) for cell in row[:4]] for row in table.rows] == [
        ["mirrored", "39", "-", "1.0 (folds: 1)"],
        ["not", "39", "-", "1.0 (folds: 1)"],
        ["atlas", "-", "-", "-"],
    ]
    assert remarks == []


def test_contours_by_atlases_have_no_weights_and_say_of_how_many_cases_they_are(tmp_path):
    experiment = predicted(tmp_path / "staple", {"case_1": SECONDS})
    file = tmp_path / "staple" / "predictions.json"
    file.write_text(
        json.dumps({"models": [], "atlases": ["a", "b", "c"], "n_atlases": 5, "cases": {"case_1": SECONDS}})
    )
    table, remarks = costs_table([experiment], with_study=False)
    assert remarks == []
    assert str(table.rows[0][1].text) == "none: 3 of 3 atlases"
