"""Trained models from elsewhere: none of their code runs, and the good ones load and predict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.prediction.loading import checkpoint_files, load_stage, without_initial_weights
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

MODEL = "Dataset501_Test/CascadeOARTrainer__CascadeOARPlans__3d_lowres"
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "Eye_L": 1}, "file_ending": ".nii.gz"}
ROI = {"size_mm": [16.0] * 3, "offset_mm": {"1": [0.0] * 3}, "spread_mm": {"1": 1.0}, "jitter_mm": 0.0}


class WritesAFile:
    """Unpickling it runs `os.system`."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.fixture
def model(tmp_path, cascade_plans) -> SimpleNamespace:
    """The folder of an untrained localizer as nnU-Net's trainer leaves it, and its parts for changing."""
    plans = cascade_plans(roi=ROI, channels=("CT",))
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_lowres")
    network = CascadeOARTrainer.build_network_architecture(
        manager, configuration, determine_num_input_channels(manager, configuration, DATASET), 2, False
    )
    content = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "logging": {"ema_fg_dice": [np.float32(0.5), np.float64(0.25)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 3,
        "init_args": {"configuration": "3d_lowres"},
        "trainer_name": "CascadeOARTrainer",
    }
    folder = tmp_path / MODEL
    made = SimpleNamespace(folder=folder, plans=plans, content=content, file=folder / "fold_0" / "checkpoint_final.pth")

    def save() -> None:
        made.file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, made.file)
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(DATASET))

    made.save = save
    save()
    return made


def load(model):
    return load_stage(model.folder, folds=None, checkpoint="checkpoint_final.pth", device=torch.device("cpu"))


# ------------------------------------------------------------------------------------------------ weights


def test_a_model_loads_and_predicts_as_the_network_it_was(model):
    stage = load(model)
    stage.use_gaussian = False  # dividing by its small weights at the corners costs half precision some digits
    data = torch.randn(1, 16, 16, 16)
    network = CascadeOARTrainer.build_network_architecture(
        stage.plans_manager, stage.configuration_manager, 1, 2, enable_deep_supervision=False
    )
    network.load_state_dict(model.content["network_weights"])
    network.eval()
    with torch.no_grad():
        expected = network(data[None])[0]
    torch.testing.assert_close(
        stage.predict_logits_from_preprocessed_data(data).float(), expected, atol=2e-3, rtol=2e-3
    )


def test_loading_imports_nothing_that_only_trainings_need(model):
    script = f"""
import sys
from pathlib import Path
import torch
from nnunet_ext.prediction.loading import load_stage
load_stage(Path({str(model.folder)!r}), folds=None, checkpoint="checkpoint_final.pth", device=torch.device("cpu"))
unneeded = ("matplotlib", "seaborn", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer", "nnunetv2.experiment_planning")
print([name for name in unneeded if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_one_folds_weights_are_in_memory_once_and_stay_as_the_file_has_them(model):
    stage, before = load(model), model.file.read_bytes()
    (weights,) = stage.list_of_parameters
    assert all(value.data_ptr() == weights[name].data_ptr() for name, value in stage.network.state_dict().items())
    first = stage.predict_logits_from_preprocessed_data(torch.ones(1, 16, 16, 16))
    assert torch.equal(stage.predict_logits_from_preprocessed_data(torch.ones(1, 16, 16, 16)), first)
    assert model.file.read_bytes() == before


def test_weights_stored_in_16_bits_make_a_network_in_32_bits(model):
    weights = model.content["network_weights"]
    made: dict[int, torch.Tensor] = {}  # a decoder has the encoder's weights too, which a file holds once
    for value in weights.values():
        made.setdefault(value.data_ptr(), value.half() if value.is_floating_point() else value)
    halves = {name: made[value.data_ptr()] for name, value in weights.items()}
    for name in ("optimizer_state", "logging", "_best_ema", "current_epoch"):
        del model.content[name]
    model.content["network_weights"] = halves
    model.save()
    stage = load(model)
    for name, value in stage.network.state_dict().items():
        assert value.dtype == weights[name].dtype  # 32 bits, or whole numbers
        torch.testing.assert_close(value, halves[name].to(value.dtype), atol=0, rtol=0)
    (loaded,) = stage.list_of_parameters
    assert all(value.data_ptr() == loaded[name].data_ptr() for name, value in stage.network.state_dict().items())
    assert stage.predict_logits_from_preprocessed_data(torch.ones(1, 16, 16, 16)).isfinite().all()


def test_weights_that_are_no_tensors_are_refused(model):
    model.content["network_weights"] = {**model.content["network_weights"], "extra": 1.0}
    model.save()
    with pytest.raises(ValueError, match="the weights hold extra, which is no tensor"):
        load(model)


def test_folds_are_averaged_without_one_taking_the_place_of_another(model):
    data = torch.randn(1, 16, 16, 16)
    expected = load(model).predict_logits_from_preprocessed_data(data)
    second = {name: value * 1.5 for name, value in model.content["network_weights"].items()}
    other = model.folder / "fold_1" / model.file.name
    other.parent.mkdir()
    torch.save({**model.content, "network_weights": second}, other)
    stage = load(model)
    mean = stage.predict_logits_from_preprocessed_data(data).float()
    assert torch.equal(stage.predict_logits_from_preprocessed_data(data).float(), mean)
    assert all(torch.equal(stage.list_of_parameters[1][name], value) for name, value in second.items())
    model.file.unlink()
    both = expected.float() + load(model).predict_logits_from_preprocessed_data(data).float()
    torch.testing.assert_close(mean, both / 2, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("key", ["logging", "optimizer_state", "network_weights"])
def test_code_in_a_checkpoint_does_not_run(model, tmp_path, key):
    trace = tmp_path / "was_here"
    model.content[key] = WritesAFile(trace)
    model.save()
    with pytest.raises(ValueError, match=r"fold_0/checkpoint_final\.pth can't be read as weights.*code or objects"):
        load(model)
    assert not trace.exists()
    torch.load(model.file, weights_only=False)  # as nnU-Net reads it: the trap is real
    assert trace.exists()


def test_a_truncated_checkpoint_is_named(model):
    model.file.write_bytes(model.file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"checkpoint_final\.pth can't be read as weights: it is damaged"):
        load(model)


def test_weights_of_another_network_are_named(model):
    model.content["network_weights"].popitem()
    model.save()
    with pytest.raises(ValueError, match=r"another network than its plans\.json: 'decoder.*not there in the file"):
        load(model)


def test_a_torch_that_is_too_old_is_not_taken_for_a_damaged_model(model, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ImportError, match=r"torch 2\.5\.1\+cpu is installed"):
        load(model)


# ------------------------------------------------------------------------------------------------ plans


def test_a_command_in_a_plan_does_not_run(model, tmp_path):
    """nnU-Net would call `subprocess.check_output(args=..., shell=True)` for every activation function."""
    trace = tmp_path / "was_here"
    options = model.plans["configurations"]["3d_lowres"]["architecture"]["arch_kwargs"]
    options |= {"nonlin": "subprocess.check_output", "nonlin_kwargs": {"args": f"touch {trace}", "shell": True}}
    model.save()
    with pytest.raises(ValueError, match=r"names 'subprocess\.check_output' as nonlin"):
        load(model)
    assert not trace.exists()


# ------------------------------------------------------------------------------------------------ folds


@pytest.mark.parametrize(("folds", "named"), [([0, 3], "folds 3"), (None, None), (["all"], "folds all")])
def test_a_fold_that_is_not_trained_is_named(tmp_path, folds, named):
    if folds is not None:
        (tmp_path / "fold_0").mkdir()
        (tmp_path / "fold_0" / "checkpoint_final.pth").touch()
    with pytest.raises(FileNotFoundError, match=named or "any fold"):
        load_stage(tmp_path, folds=folds, checkpoint="checkpoint_final.pth", device=torch.device("cpu"))


def test_without_named_folds_the_model_of_all_cases_is_not_averaged_with_the_others(tmp_path):
    found = []
    for fold in ("all", "1", "0"):
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / "checkpoint_final.pth").touch()
        found.append([file.parent.name for file in checkpoint_files(tmp_path, None, "checkpoint_final.pth")])
    assert found == [["fold_all"], ["fold_1"], ["fold_0", "fold_1"]]


# ------------------------------------------------------------------------------------------------ initial weights


def test_values_that_no_checkpoint_holds_are_computed_also_without_initial_weights():
    class Rotary(torch.nn.Module):
        def __init__(self, persistent: bool) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)
            self.register_buffer("angles", torch.arange(5.0), persistent=persistent)

    unsaved = without_initial_weights(lambda: Rotary(persistent=False))
    assert unsaved.angles.tolist() == [0, 1, 2, 3, 4]
    state = Rotary(persistent=True).state_dict()
    saved = without_initial_weights(lambda: Rotary(persistent=True))
    saved.load_state_dict(state)
    assert saved.angles.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(saved.layer.weight, state["layer.weight"])
