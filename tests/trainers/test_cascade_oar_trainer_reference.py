"""The reference study's recipe, on a data set of four tiny cases."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from tiny_cases import PATCH, STAGES, inner, log_epochs

from nnunet_ext.files import read_json
from nnunet_ext.installation.models import install_model
from nnunet_ext.nnunet_folders import read_dataset_json
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer
from nnunet_ext.trainers.cascade_oar_trainer_reference import CascadeOARTrainerReference
from nnunet_ext.training.mirroring import LeftRightMirrorTransform
from nnunet_ext.training.recipe import TrainingRecipe


def test_the_reference_recipe_flips_all_axes_and_adds_noise_only(make):
    trainer = make(CascadeOARTrainerReference)
    transforms = trainer.get_training_transforms(PATCH, (0, 0), [[1, 1, 1], [0.5, 0.5, 0.5]], (), False).transforms
    kinds = [LeftRightMirrorTransform, GaussianNoiseTransform, RemoveLabelTansform, DownsampleSegForDSTransform]
    assert [type(t) for t in transforms] == kinds
    assert transforms[0].allowed_axes == (0, 1, 2)


@pytest.mark.parametrize(("scheme", "most"), [("ZScoreNormalization", 0.1), ("RescaleTo01Normalization", 0.01)])
def test_the_variance_of_the_noise_is_a_variance(make, scheme, most):
    trainer = make(CascadeOARTrainerReference)
    trainer.configuration_manager.configuration["normalization_schemes"] = [scheme] * 3
    noise = trainer.get_training_transforms(PATCH, (0, 0), [[1, 1, 1]], (), False).transforms[1]
    torch.manual_seed(0)
    np.random.seed(0)
    variances = [float(noise(image=torch.zeros(3, *PATCH))["image"].var()) for _ in range(100)]
    assert max(variances) < 1.05 * most
    assert np.mean(variances) == pytest.approx(most / 2, rel=0.2)  # a variance taken for an SD would give most ** 2 / 3


def test_the_plans_own_schedule_of_the_study_is_this_trainers_alone(make):
    trainer = make(CascadeOARTrainerReference, num_epochs=7)
    assert trainer.num_epochs == 7
    plans = trainer.plans_manager.plans
    entry = {"num_epochs": 150, "iterations_per_epoch": 36, "val_iterations_per_epoch": 9, "patience_epochs": 30}
    plans["configurations"]["3d_fullres"]["reference_training"] = entry
    for cls, expected in ((CascadeOARTrainerReference, (150, 36, 9, 30)), (CascadeOARTrainer, (7, 4, 1, None))):
        one = cls(
            {**plans, "continue_training": False}, "3d_cascade_fullres", 0, trainer.dataset_json, torch.device("cpu")
        )
        numbers = one.num_epochs, one.num_iterations_per_epoch, one.num_val_iterations_per_epoch
        assert (*numbers, one.schedule.patience_epochs) == expected


def test_the_loader_gives_the_reference_recipe_the_final_patch_size(make):
    trainer = make(CascadeOARTrainerReference)
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    data_loader = loader.data_loader
    assert isinstance(data_loader, nnUNetDataLoader)
    assert tuple(data_loader.patch_size) == PATCH


def test_the_reference_recipe_is_soft_dice_with_adam_at_a_constant_2e_4_and_batch_size_1(make):
    trainer = make(CascadeOARTrainerReference, initial_lr=0.006)
    trainer.initialize()
    assert trainer.batch_size == 1
    assert type(trainer.optimizer) is torch.optim.Adam
    loss = inner(trainer.loss)
    assert (loss.weight_ce, loss.weight_dice) == (0, 1)
    log_epochs(trainer, [0.5] * 5)
    trainer.lr_scheduler.step()
    assert trainer.optimizer.param_groups[0]["lr"] == 2e-4


@pytest.mark.parametrize("configuration", STAGES)
def test_the_reference_recipes_loss_is_the_soft_dice_of_the_organs_and_nothing_else(make, configuration):
    trainer = make(CascadeOARTrainerReference, configuration)
    loss = inner(trainer._build_loss())
    target = torch.zeros(1, 1, 4, 4, 4)
    target[0, 0, 0] = 1  # 16 voxels; labels 2 and 3 are absent
    logits = torch.zeros(1, 4, 4, 4, 4)
    logits[:, 0] = 50.0  # all background ...
    logits[0, 0, 0, :2], logits[0, 1, 0, :2] = 0.0, 50.0  # ... but half of label 1: Dice 2 * 8 / (8 + 16)
    assert loss(logits, target).item() == pytest.approx(-(2 / 3 + 1 + 1) / 3, abs=1e-4)


def test_the_reference_recipe_centres_the_plans_share_of_its_single_patches_on_organs(make):
    trainer = make(CascadeOARTrainerReference, "3d_fullres", patch=(8, 8, 8), recipe={"organ_patches": 0.5})
    trainer.initialize()
    np.random.seed(0)
    loader = trainer.get_dataloaders()[0].data_loader
    assert 0.3 < np.mean([loader.get_do_oversample(0) for _ in range(200)]) < 0.7


def test_the_reference_recipes_localizer_has_no_deep_supervision_and_its_segmenters_have(make):
    for configuration in STAGES:
        trainer = make(CascadeOARTrainerReference, configuration)
        assert trainer.enable_deep_supervision is (configuration != "3d_lowres")
        assert make(configuration=configuration).enable_deep_supervision


def test_the_reference_recipe_ends_when_patience_runs_out(make):
    trainer = make(CascadeOARTrainerReference, num_epochs=100, patience_epochs=3)
    log_epochs(trainer, [0.5] * 3)
    assert trainer.reason_to_stop() is None
    log_epochs(trainer, [0.5] * 4)
    assert trainer.reason_to_stop() == "no better epoch for 3 epochs"


def test_the_reference_recipe_is_not_the_plans(make):
    trainer = make(CascadeOARTrainerReference, recipe={"loss": "dice_ce", "optimizer": "sgd", "modality_dropout": 0.5})
    assert (trainer.recipe.loss, trainer.recipe.optimizer) == ("dice", "adam")
    assert trainer.recipe.modality_dropout == 0.5


def test_the_reference_recipe_flips_the_other_axes_only_where_the_plan_does_not_mirror_left_and_right(make):
    trainer = make(CascadeOARTrainerReference, recipe={"mirror_left_right": False})
    assert trainer.mirror_transform().allowed_axes == (0, 1)
    assert make(CascadeOARTrainerReference).mirror_transform().allowed_axes == (0, 1, 2)


@pytest.mark.parametrize("configuration", ["3d_lowres", "3d_cascade_fullres"])
def test_the_models_dataset_json_says_what_it_was_trained_with_and_the_plans_stay(make, configuration):
    trainer = make(CascadeOARTrainerReference, configuration, initial_lr=0.006, recipe={"modality_dropout": 0.25})
    plans = deepcopy(trainer.plans_manager.plans)
    trainer.on_train_start()
    model = Path(trainer.output_folder_base)
    with_it = read_dataset_json(model / "dataset.json")["trained_with"]
    plan = TrainingRecipe.from_plan(trainer.configuration_manager.configuration.get("recipe"))
    assert with_it == {
        "trainer": "CascadeOARTrainerReference",
        "recipe": {**asdict(plan), "loss": "dice", "optimizer": "adam", "low_resolution": "off"},
        "initial_lr": 2e-4,
        "weight_decay": 0.0,
        "batch_size": 1,
        "deep_supervision": configuration != "3d_lowres",
        "mirrored_axes": [0, 1, 2],
    }
    assert plan.loss == "dice_ce"
    assert read_json(model / "plans.json") == json.loads(json.dumps(plans))


def test_the_usual_trainer_records_its_plans_recipe(make):
    trainer = make(CascadeOARTrainer, "3d_lowres", initial_lr=0.006, recipe={"mirror_left_right": False})
    trainer.on_train_start()
    with_it = read_dataset_json(Path(trainer.output_folder_base, "dataset.json"))["trained_with"]
    assert with_it["recipe"] == asdict(TrainingRecipe(mirror_left_right=False))
    assert (with_it["initial_lr"], with_it["batch_size"], with_it["mirrored_axes"]) == (0.006, 2, [])


def test_the_export_of_nnunet_carries_what_a_model_was_trained_with(make, tmp_path):
    """nnU-Net packs a list of files, of which the model's `dataset.json` is one."""
    trainer = make(CascadeOARTrainerReference, "3d_lowres")
    trainer.on_train_start()
    base, fold = Path(trainer.output_folder_base), Path(trainer.output_folder)
    (fold / "validation").mkdir()
    for name in ("checkpoint_final.pth", "progress.png", "validation/summary.json"):
        (fold / name).write_text("{}")
    script = (
        "from nnunetv2.model_sharing.model_export import export_pretrained_model as export\n"
        f"export(501, 'model.zip', ('3d_lowres',), '{base.name.split('__')[0]}', '{base.name.split('__')[1]}', (0,))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    (installed,) = install_model(tmp_path / "model.zip", tmp_path / "elsewhere")
    assert read_dataset_json(installed / "dataset.json")["trained_with"] == trainer.trained_with()
