"""What the trainer adds to nnU-Net's, on a data set of four tiny cases."""

from __future__ import annotations

import copy
import dataclasses
import errno
import importlib
import json
import multiprocessing.forkserver
import os
import shutil
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from learned_files import write_sharpening
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from reference_tables import check_file
from small_disks import fill, mounted
from tiny_cases import CASES, DATASET, PATCH, SHAPE, SPACING_MM, STAGES, inner, label_map, log_epochs, rule

from nnunet_ext.cascade.organ_crops import MOST_LOG_ODDS
from nnunet_ext.cascade.roi_dataset import InMemoryDataset, RoiDatasets
from nnunet_ext.labels.table import LEFT_OUT_KEY
from nnunet_ext.nnunet_folders import read_training_device
from nnunet_ext.superresolution.network import SliceNetwork
from nnunet_ext.superresolution.weights import write_learned_resampling
from nnunet_ext.trainers import cascade_oar_trainer
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer
from nnunet_ext.trainers.cascade_oar_trainer_reference import CascadeOARTrainerReference
from nnunet_ext.training.compute_device import device_name
from nnunet_ext.training.losses import FocalCrossEntropyLoss
from nnunet_ext.training.mirroring import LeftRightMirrorTransform
from nnunet_ext.training.skeleton_recall import SkeletonRecallLoss

# ------------------------------------------------------------------------------------------------ set-up


@pytest.mark.parametrize("name", ["CascadeOARTrainer", "CascadeOARTrainerReference"])
def test_nnunet_finds_the_trainer_by_its_name(name):
    assert recursive_find_trainer_class_by_name(name).__name__ == name


def test_the_schedule_of_the_plan_is_used(make):
    trainer = make(num_epochs=7, iterations_per_epoch=3, val_iterations_per_epoch=2, initial_lr=0.02)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (7, 3, 2)
    assert trainer.initial_lr == 0.02
    assert make().initial_lr == 1e-3


def test_a_misspelt_limit_names_the_configuration(make):
    with pytest.raises(ValueError, match=r"configuration '3d_cascade_fullres'.*\['patience'\]"):
        make(patience=3)


@pytest.mark.parametrize("forward", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_left_right_axis_follows_the_transposition(make, forward):
    trainer = make(forward=forward)
    transform = trainer.mirror_transform()
    assert transform.left_right_axis == forward.index(2)
    assert transform.allowed_axes == (forward.index(2),)
    assert transform.pairs == ((1, 2),)


# ------------------------------------------------------------------------------------------------ network


@pytest.mark.parametrize("configuration", STAGES)
def test_the_network_takes_images_with_and_without_the_previous_stages_channels(make, configuration):
    trainer = make(configuration=configuration)
    trainer.initialize()
    trainer.network.eval()
    images = torch.randn(1, 3, *PATCH)
    with torch.no_grad():
        outputs = trainer.network(images)
        assert [o.shape[1] for o in outputs] == [4, 4]
        if configuration == "3d_cascade_fullres":
            assert trainer.num_input_channels == 6  # nnU-Net counts a channel per organ
            for extra in (torch.zeros(1, 3, *PATCH), torch.randn(1, 3, *PATCH)):
                assert torch.equal(trainer.network(torch.cat([images, extra], 1))[0], outputs[0])


def test_the_segmenters_weights_fit_a_network_of_the_image_channels(make):
    trainer = make()
    plans, c = trainer.plans_manager, trainer.configuration_manager
    n = determine_num_input_channels(plans, c, DATASET)
    cascaded = CascadeOARTrainer.build_network_architecture(plans, c, n, 4, False)
    plain = nnUNetTrainer.build_network_architecture(plans, c, 3, 4, False)
    plain.load_state_dict(cascaded.state_dict())


# ------------------------------------------------------------------------------------------------ organs left out


@pytest.mark.parametrize("cls", [CascadeOARTrainer, CascadeOARTrainerReference])
def test_organs_left_out_are_background_in_every_batch_and_never_predicted(make, cls):
    trainer = make(cls, left_out=(1, 2))
    trainer.initialize()
    loaders = trainer.get_dataloaders()
    for batch in (next(loader) for _ in range(4) for loader in loaders):  # mirrored or not
        assert set(batch["target"][0].unique().tolist()) <= {0, 3}
    with torch.no_grad():
        assert set(trainer.network(torch.randn(2, 3, *PATCH))[0].argmax(1).unique().tolist()) <= {0, 3}


def test_the_models_dataset_json_names_the_organs_left_out(make):
    assert make(left_out=(1, 2)).dataset_json == {**DATASET, LEFT_OUT_KEY: ["Eye_L", "Eye_R"]}
    assert make().dataset_json == DATASET
    assert make(configuration="3d_fullres", left_out=(1, 2)).dataset_json == DATASET


def test_nnunets_summary_loses_the_organs_left_out_and_means_the_others(make):
    trainer = make(left_out=(1, 2))
    folder = Path(trainer.output_folder, "validation")
    folder.mkdir()
    metrics = {str(k): {"Dice": d, "FN": n} for k, d, n in ((1, 0.0, 50), (2, 0.0, 60), (3, 0.8, 4))}
    summary = {
        "metric_per_case": [{"metrics": metrics, "prediction_file": "a.nii.gz", "reference_file": "b.nii.gz"}],
        "mean": metrics,
        "foreground_mean": {"Dice": 0.8 / 3, "FN": 38.0},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    trainer._report_left_out()
    written = json.loads((folder / "summary.json").read_text())
    assert written["mean"] == written["metric_per_case"][0]["metrics"] == {"3": {"Dice": 0.8, "FN": 4}}
    assert written["foreground_mean"] == {"Dice": 0.8, "FN": 4.0}
    assert json.loads((folder / "dataset.json").read_text())[LEFT_OUT_KEY] == ["Eye_L", "Eye_R"]
    assert "not scored: Eye_L, Eye_R" in Path(trainer.log_file).read_text()


# ------------------------------------------------------------------------------------------------ loss


@pytest.mark.parametrize("configuration", STAGES)
def test_the_cross_entropy_weighs_every_organ_five_times_the_background(make, configuration):
    trainer = make(configuration=configuration)
    loss = inner(trainer._build_loss())
    assert loss.ce.weight.tolist() == [1.0, 5.0, 5.0, 5.0]
    assert loss.weight_ce == loss.weight_dice == 1
    assert loss.dc.batch_dice is True


def test_missing_a_small_organ_costs_more_than_in_nnunets_loss(make):
    """Background and two eyes are right, the chiasm of 24 of 4096 voxels is missed."""
    trainer = make()
    target = torch.zeros(1, 1, *PATCH)
    target[0, 0, 2:6, 2:6, 2:6] = 1
    target[0, 0, 2:6, 2:6, 10:14] = 2
    missed = target.clone()
    target[0, 0, 10:12, 4:7, 6:10] = 3

    def cost(loss, predicted):
        logits = 4 * torch.nn.functional.one_hot(predicted[:, 0].long(), 4).permute(0, 4, 1, 2, 3).float()
        return inner(loss)(logits, target).item()

    ours = cost(trainer._build_loss(), missed) - cost(trainer._build_loss(), target)
    stock = nnUNetTrainer._build_loss(trainer)
    assert ours > 1.05 * (cost(stock, missed) - cost(stock, target))
    ce = [inner(loss).ce for loss in (trainer._build_loss(), stock)]
    logits = 4 * torch.nn.functional.one_hot(missed[:, 0].long(), 4).permute(0, 4, 1, 2, 3).float()
    # log(e^4 + 3) is 4.0535: 0.0535 a voxel where right, 4.0535 where wrong; weights 1 and 5, mean over the weights.
    n_bg, n_eyes, n_missed = 4096 - 128 - 24, 128, 24
    by_hand = (0.05346 * (n_bg + 5 * n_eyes) + 4.05346 * 5 * n_missed) / (n_bg + 5 * (n_eyes + n_missed))
    assert ce[0](logits, target[:, 0].long()).item() == pytest.approx(by_hand, rel=1e-3)
    assert ce[1](logits, target[:, 0].long()).item() == pytest.approx(0.05346 + 4 * 24 / 4096, rel=1e-3)


# ------------------------------------------------------------------------------------------------ data


def test_the_segmenter_trains_on_crops_and_the_other_stages_on_whole_cases(make):
    segmenter = make()
    segmenter.initialize()
    assert isinstance(segmenter.dataset_class, RoiDatasets)
    assert not segmenter.dataset_class.from_localizer
    assert segmenter.oversample_foreground_percent == 0.0
    dataset, _ = segmenter.get_tr_and_val_datasets()
    assert dataset.identifiers == CASES[:3]
    assert dataset[CASES[0]][0].shape == (3, *PATCH)
    for configuration in STAGES[:2]:
        other = make(configuration=configuration)
        other.initialize()
        assert other.dataset_class is (InMemoryDataset if configuration == "3d_lowres" else nnUNetDatasetBlosc2)


@pytest.mark.parametrize("configuration", ["3d_lowres", "3d_cascade_fullres"])
def test_both_stages_hold_their_cases_in_memory_as_far_as_the_recipe_allows(make, configuration):
    for cache_mb, held in ((4000, (3, 1)), (0, (0, 0))):
        trainer = make(configuration=configuration, recipe={"cache_mb": cache_mb})
        trainer.initialize()
        assert tuple(len(dataset.held) for dataset in trainer.get_tr_and_val_datasets()) == held


@pytest.mark.parametrize("cls", [CascadeOARTrainer, CascadeOARTrainerReference])
@pytest.mark.parametrize("configuration", STAGES)
def test_augmentation_on_the_device_gives_the_network_the_batches_the_workers_would(make, cls, configuration):
    seen = []
    for where in ("workers", "device"):
        trainer = make(cls, configuration, recipe={"augmentation": where})
        trainer.initialize()
        train, validation = trainer.get_dataloaders()
        assert (trainer.device_transforms is not None) == (where == "device")
        assert validation.data_loader.transforms is not None
        trainer.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        targets = []
        loss = trainer.loss
        trainer.loss = lambda output, target, loss=loss, targets=targets: targets.append(target) or loss(output, target)
        trainer.on_train_epoch_start()
        for seed in range(4):
            np.random.seed(seed)
            torch.manual_seed(seed)
            assert np.isfinite(trainer.train_step(next(train))["loss"])
        seen.append(targets)
    *workers, targets_workers = seen[:5]
    *device, targets_device = seen[5:]
    # Both draw from the same generators, but in another order: the samples differ, what they look like does not.
    everything = [
        [*images, *chain.from_iterable(t)] for images, t in ((workers, targets_workers), (device, targets_device))
    ]
    for a, b in zip(*everything, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
    assert {v for t in targets_device for v in t[0].unique().tolist()} == {0, 1, 2, 3}
    means = [torch.stack(images).mean().item() for images in (workers, device)]
    assert means[0] == pytest.approx(means[1], abs=0.15)


@pytest.mark.parametrize("configuration", STAGES)
@pytest.mark.parametrize("where", ["workers", "device"])
def test_a_batch_that_travels_to_the_device_is_hardly_larger_than_what_the_network_sees(make, configuration, where):
    trainer = make(configuration=configuration, recipe={"augmentation": where})
    trainer.initialize()
    train, _ = trainer.get_dataloaders()
    assert any(n > p for n, p in zip(train.data_loader.patch_size, PATCH, strict=True)) == (configuration != STAGES[-1])
    batch = next(train)
    targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
    seen = 2 * 3 * np.prod(PATCH) * 4
    assert tuple(batch["data"].shape) == (2, 3, *PATCH)
    assert seen <= sum(t.nbytes for t in (batch["data"], *targets)) <= 1.5 * seen


def test_augmentation_runs_on_a_gpu_and_in_the_workers_of_a_cpu_unless_told(make):
    for recipe, device, expected in (
        ({}, "cpu", False),
        ({}, "cuda", True),
        ({"guidance": True}, "cuda", False),
        ({"augmentation": "workers"}, "cuda", False),
        ({"augmentation": "device"}, "cpu", True),
    ):
        trainer = make(configuration="3d_lowres", recipe=recipe)
        trainer.device = torch.device(device)
        assert trainer.augments_on_device is expected


def test_the_loader_reads_no_more_than_the_roi_where_that_is_one_patch(make):
    for patch, one_patch in ((PATCH, True), ((8, 8, 8), False)):
        _, _, initial, _ = make(patch=patch).configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        assert (list(initial) == list(patch)) is one_patch


def test_nnunets_predictor_is_told_not_to_mirror(make):
    for cls in (CascadeOARTrainer, CascadeOARTrainerReference):
        trainer = make(cls)
        rotation, _, _, mirror = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        assert trainer.inference_allowed_mirroring_axes is None
        assert mirror == ()
        assert max(rotation) <= np.deg2rad(15) + 1e-9


@pytest.mark.parametrize("configuration", STAGES)
@pytest.mark.parametrize("cls", [CascadeOARTrainer, CascadeOARTrainerReference])
def test_a_training_batch_has_the_planned_size_and_a_target_per_output(make, cls, configuration):
    trainer = make(cls, configuration)
    trainer.initialize()
    train, validation = trainer.get_dataloaders()
    for loader in (train, validation):
        batch = next(loader)
        n = 1 if cls is CascadeOARTrainerReference else 2
        assert batch["data"].shape == (n, 3, *PATCH)
        plain = cls is CascadeOARTrainerReference and configuration == "3d_lowres"  # no deep supervision there
        targets = [batch["target"]] if plain else batch["target"]
        assert [tuple(t.shape) for t in targets] == [(n, 1, 16, 16, 16), (n, 1, 8, 8, 8)][: len(targets)]
        assert set(targets[0].unique().tolist()) <= {0, 1, 2, 3}


def test_the_sample_is_mirrored_before_anything_else_with_its_labels_exchanged(make):
    trainer = make()
    transforms = trainer.get_training_transforms(PATCH, (0, 0), None, (), False)
    first, *rest = transforms.transforms
    assert isinstance(first, LeftRightMirrorTransform)
    assert not [t for t in rest if "Mirror" in type(t).__name__]


# ------------------------------------------------------------------------------------------------ optimizer


def test_the_learning_rate_is_the_schedules_at_every_iteration(make):
    trainer = make(num_epochs=10, iterations_per_epoch=4, initial_lr=0.01)
    trainer.initialize()
    log_epochs(trainer, [0.5] * 8)
    trainer.iterations_this_epoch = 2  # iteration 34: after the warm-up
    trainer.lr_scheduler.step()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (1 - 8.5 / 10) ** 0.9)
    log_epochs(trainer, [])
    trainer.iterations_this_epoch = 2
    trainer.lr_scheduler.step(0)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (1 - 0.05) ** 0.9 * 3 / 30)


def test_every_iteration_has_its_own_learning_rate(make):
    trainer = make(num_epochs=10**6, iterations_per_epoch=4, initial_lr=0.03)
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    trainer.on_train_epoch_start()
    rates = []
    for _ in range(3):
        trainer.train_step(next(loader))
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.001, 0.002, 0.003], rel=1e-4)  # warm-up over 30 iterations


def test_a_resumed_training_goes_on_with_the_same_learning_rate_and_time(make, tmp_path):
    options = {"num_epochs": 20, "patience_epochs": 4, "time_budget_h": 1.0, "iterations_per_epoch": 40}
    first = make(**options)
    first.initialize()
    log_epochs(first, [0.5, 0.6] + [0.55] * 5, seconds=90.0)  # the wind-down began with epoch 6
    first.current_epoch -= 1  # nnU-Net saves before it counts the epoch
    first.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    first.current_epoch += 1
    second = make(**options)
    second.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert second.current_epoch == first.current_epoch == 7
    assert second.elapsed_h() == first.elapsed_h() == pytest.approx(7 * 90 / 3600)
    rates = []
    for trainer in (first, second):
        trainer.iterations_this_epoch = 3
        trainer.lr_scheduler.step()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        assert trainer.reason_to_stop() is None
    assert rates[0] == rates[1]
    by_hand = 1e-3 * (1 - 6 / 20) ** 0.9 * (1 - (7 + 3 / 40 - 6) / 2)
    assert rates[0] == pytest.approx(by_hand)


def test_a_branch_of_a_constant_trunk_keeps_its_rate_up_to_the_branch_point_and_ends_annealed(make, tmp_path):
    options = {"iterations_per_epoch": 40, "initial_lr": 0.01}
    trunk = make(num_epochs=8, constant_share=1.0, **options)
    trunk.initialize()
    log_epochs(trunk, [0.5] * 8)
    trunk.current_epoch -= 1  # nnU-Net saves before it counts the epoch
    trunk.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    branch = make(num_epochs=10, constant_share=0.8, **options)
    branch.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    rates = []
    for epoch in (8, 9, 10):
        log_epochs(branch, [0.5] * epoch)
        branch.lr_scheduler.step()
        rates.append(branch.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.9, 0.0])
    assert branch.reason_to_stop() == "all 10 epochs are done"


def test_the_time_of_an_epoch_that_was_killed_is_not_counted_after_resuming(make, tmp_path):
    trainer = make(time_budget_h=1.0)
    log_epochs(trainer, [0.5, 0.6], seconds=90.0)
    checkpointed = copy.deepcopy(trainer.logger.get_checkpoint())
    trainer.on_epoch_start()
    assert trainer.elapsed_h() >= 180 / 3600
    resumed = make(time_budget_h=1.0)
    resumed.logger.load_checkpoint(checkpointed)
    assert resumed.elapsed_h() == 180 / 3600


# ------------------------------------------------------------------------------------------------ recipe


def test_a_misspelt_recipe_names_the_configuration(make):
    with pytest.raises(ValueError, match=r"configuration '3d_cascade_fullres': 'recipe' has unknown keys \['lr'\]"):
        make(recipe={"lr": 1})


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_loss_and_optimizer_are_the_recipes(make, name, kind):
    trainer = make(recipe={"loss": "dice", "optimizer": name, "foreground_weight": 3.0})
    trainer.initialize()
    assert type(trainer.optimizer) is kind
    assert (inner(trainer.loss).weight_ce, inner(trainer.loss).weight_dice) == (0, 1)
    assert inner(make(recipe={"foreground_weight": 3.0})._build_loss()).ce.weight.tolist() == [1.0, 3.0, 3.0, 3.0]


def test_the_average_of_the_weights_is_validated_and_kept_and_training_goes_on_with_the_own_ones(make):
    trainer = make(recipe={"weights_average": 0.99}, iterations_per_epoch=3, val_iterations_per_epoch=1)
    trainer.recipe = dataclasses.replace(trainer.recipe, weights_average=0.99)
    trainer.initialize()
    train, validation = trainer.get_dataloaders()
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(next(train)) for _ in range(3)]
    trainer.on_train_epoch_end(outputs)
    own = {k: v.detach().clone() for k, v in trainer.network.named_parameters()}
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.validation_step(next(validation))
    averages = dict(trainer.network.named_parameters())
    assert not all(torch.equal(averages[k], own[k]) for k in own)
    assert all(torch.equal(averages[k], trainer.average.average[k]) for k in own)
    log_epochs(trainer, [0.5])
    (file,) = saved(trainer, "best")
    written = torch.load(file, weights_only=False)["network_weights"]
    assert all(torch.equal(written[k], averages[k]) for k in own)
    trainer.on_train_epoch_start()
    assert all(torch.equal(p, own[k]) for k, p in trainer.network.named_parameters())
    again = make()
    again.recipe = trainer.recipe
    again.load_checkpoint(str(file))
    assert all(torch.equal(again.average.average[k], written[k]) for k in own)


def test_the_recall_of_skeletons_is_added_for_thin_organs_only(make):
    labels = {"background": 0, "Eye_L": 1, "Eye_R": 2, "OpticChiasm": 3}
    trainer = make(labels=labels, left_out=())
    trainer.recipe = dataclasses.replace(trainer.recipe, skeleton_recall=1.0, loss="dice_focal")
    loss = trainer._build_loss()
    assert inner(loss).labels == [3]
    assert isinstance(inner(inner(loss)).ce, FocalCrossEntropyLoss)
    trainer.left_out = (3,)
    assert not isinstance(inner(trainer._build_loss()), SkeletonRecallLoss)


def test_without_left_right_mirroring_no_axis_is_mirrored(make):
    assert make(recipe={"mirror_left_right": False}).mirror_transform().allowed_axes == ()


def test_plans_made_before_they_held_pairs_train_as_before_and_say_what_they_do_not_exchange(make):
    odd = {"background": 0, "Eye_L": 3, "Eye_R": 1, "left_lens": 2, "right_lens": 4}
    trainer = make(labels=odd)
    assert trainer.mirror_transform().pairs == ((3, 1),)
    assert (
        "'left_lens' and 'right_lens' are not exchanged. Plan the dataset again" in Path(trainer.log_file).read_text()
    )
    assert "'Eye_L'" not in Path(trainer.log_file).read_text()


def test_pairs_of_other_labels_in_the_plan_are_refused(make, cascade_plans):
    plans = {**cascade_plans(spacing_mm=SPACING_MM, roi=rule().to_plan(), patch_size=PATCH), "continue_training": False}
    plans["left_right_pairs"] = [["Auge_L", "Auge_R"]]
    with pytest.raises(ValueError, match=r"left_right_pairs names 'Auge_L', which is no label.*Plan the dataset again"):
        CascadeOARTrainer(plans, "3d_lowres", 0, DATASET, torch.device("cpu"))


@pytest.mark.parametrize("cls", [CascadeOARTrainer, CascadeOARTrainerReference])
def test_modality_dropout_blanks_mr_channels_of_training_batches_only(make, cls):
    trainer = make(cls, recipe={"modality_dropout": 1.0})
    trainer.initialize()
    train, validation = trainer.get_dataloaders()
    assert next(train)["data"].abs().amax((0, 2, 3, 4)).gt(0).tolist() == [True, False, False]
    assert next(validation)["data"].abs().amax((0, 2, 3, 4)).gt(0).all()


def test_where_the_dropout_spares_none_one_channel_at_random_is_left(make):
    trainer = make(recipe={"modality_dropout": 1.0, "dropout_spares": "any"})
    trainer.initialize()
    train, _ = trainer.get_dataloaders()
    left = np.array([next(train)["data"].abs().amax((0, 2, 3, 4)).gt(0).tolist() for _ in range(12)])
    assert left.any(axis=0).sum() > 1


def low_resolutions(trainer) -> list[str]:
    """Names of the transforms of a trainer that simulate a low resolution."""
    transforms = [
        getattr(one, "transform", one) for one in trainer.augmentation(PATCH, (0, 0), None, (), False).transforms
    ]
    names = "SimulateLowResolutionTransform", "OtherThicknessTransform"
    return [type(one).__name__ for one in transforms if type(one).__name__ in names]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("nnunet", ["SimulateLowResolutionTransform"]),
        ("off", []),
        ("learned", ["OtherThicknessTransform"]),
        ("both", ["SimulateLowResolutionTransform", "OtherThicknessTransform"]),
    ],
)
@pytest.mark.parametrize("configuration", ["3d_lowres", "3d_cascade_fullres"])
def test_low_resolution_is_simulated_as_the_recipe_says(make, folders, configuration, setting, expected):
    write_learned_resampling(
        SliceNetwork(3),
        ("T2", "T1", "CT"),
        folders / "preprocessed/Dataset501_Test/learned_resampling.npz",
        {"errors": []},
    )
    trainer = make(CascadeOARTrainer, configuration, recipe={"low_resolution": setting})
    assert low_resolutions(trainer) == expected
    if setting == "learned":
        trainer.initialize()
        trainer.check_before_training()
        ours = trainer.other_thickness().transform
        assert (ours.channels, ours.axis, ours.spacing_mm) == ((2, 1, 0), 0, (2.0, 2.0, 2.0))
        trainer.dataloader_train, _ = trainer.get_dataloaders()
        assert next(trainer.dataloader_train)["data"].shape[1] == 3


def test_a_learned_resampling_that_is_missing_is_said_with_the_command_before_the_training(make):
    trainer = make(CascadeOARTrainer, "3d_lowres", recipe={"low_resolution": "both"})
    with pytest.raises(
        FileNotFoundError,
        match=r"3d_lowres' with recipe.low_resolution 'both': there is no learned_resampl"
        r"ing.npz in .*Dataset501_Test. Make it with nnunet_ext learn-resampling -d 501, or set",
    ):
        trainer.check_before_training()


def test_what_brought_the_training_images_onto_one_grid_is_copied_beside_the_model(make, folders):
    raw = folders / "raw" / "Dataset501_Test"
    learned = write_sharpening(raw)
    trainer = make(CascadeOARTrainer, "3d_lowres")
    trainer.dataset_json = {**trainer.dataset_json, "nnunet_ext": {"learned_resampling": learned.sha256}}
    trainer.on_train_start()
    model = Path(trainer.output_folder_base)
    for name in ("learned_resampling.npz", "learned_resampling.json"):
        assert (model / name).read_bytes() == (raw / name).read_bytes()
        (model / name).unlink()
    write_sharpening(raw, seed=5)
    trainer._copy_learned_resampling()
    said = Path(trainer.log_file).read_text()
    assert f"WARNING: the learned resampling of the training images (SHA-256 {learned.sha256[:12]}" in said
    assert not (model / "learned_resampling.npz").exists()


def test_patches_smaller_than_the_roi_are_centred_on_organs_each_as_often(make):
    small = make(patch=(8, 8, 8), recipe={"organ_patches": 1.0})
    assert small.oversample_foreground_percent == 1.0
    small.initialize()
    train, _ = small.get_tr_and_val_datasets()
    loader = nnUNetDataLoader(train, 1, (8, 8, 8), (8, 8, 8), small.label_manager, oversample_foreground_percent=1.0)
    np.random.seed(0)
    at_centre = [int(next(loader)["target"][0, 0, 4, 4, 4]) for _ in range(150)]
    counts = np.bincount(at_centre, minlength=4)
    assert counts[0] < 30  # where the box's border keeps the patch from being centred
    assert counts[1:].min() > 25  # 64, 64 and 24 voxels
    assert make().oversample_foreground_percent == 0.0


# ------------------------------------------------------------------------------------------------ guidance


def write_localizer_maps(trainer, cases=CASES, *, fold_all: bool = False, seen=(1, 2)) -> Path:
    """What the localizer's validation leaves behind: maps with some of the organs."""
    base = trainer._localizer_folder() / ("fold_all" if fold_all else "")
    folder = base / "predicted_next_stage" / "3d_cascade_fullres"
    folder.mkdir(parents=True)
    seg = label_map()
    seg[~np.isin(seg, seen)] = 0
    for case in cases:
        nnUNetDatasetBlosc2.save_seg(seg[0].astype(np.uint8), str(folder / case))
    return folder


def test_a_guided_segmenter_sees_the_localizers_organs(make):
    trainer = make(recipe={"guidance": True})
    write_localizer_maps(trainer)
    trainer.initialize()
    train, validation = trainer.get_dataloaders()
    assert next(train)["data"].shape == (2, 6, *PATCH)
    batch = next(validation)
    guide, target = batch["data"][:, 3:], batch["target"][0][:, 0]
    for channel, value in enumerate((1, 2)):
        assert torch.equal(guide[:, channel] > 0, target == value)
    assert guide[:, 2].abs().max() == 0
    trainer.network.eval()
    images = batch["data"][:, :3]
    with torch.no_grad():
        outputs = [trainer.network(torch.cat([images, g], 1))[0] for g in (guide, torch.zeros_like(guide))]
    assert not torch.equal(*outputs)


def test_guidance_without_maps_names_a_case_before_the_training(make):
    with pytest.raises(
        FileNotFoundError, match=r"maps of 4 cases.*The recipe asks for guidance. First: nnUNetv2_train"
    ):
        make(recipe={"guidance": True}).initialize()


# ------------------------------------------------------------------------------------------------ one crop per organ


CROP, WINDOW = (8, 8, 12), (20, 24, 28)


@pytest.mark.parametrize("cls", [CascadeOARTrainer, CascadeOARTrainerReference])
def test_with_one_crop_per_organ_a_batch_holds_crops_of_their_size_each_with_an_organ(make, cls):
    trainer = make(cls, patch=WINDOW, crop_size=CROP, left_out=(3,), recipe={"box_jitter": "off"})
    trainer.initialize()
    batches, _ = trainer.get_dataloaders()
    for _ in range(4):
        batch = next(batches)
        assert tuple(batch["data"].shape) == (trainer.batch_size, 3, *CROP)
        target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
        assert set(torch.unique(target).tolist()) <= {0, 1, 2}
        assert all((one > 0).any() for one in target)
    assert not trainer._do_i_compile()


def test_crops_are_moved_by_the_localizers_out_of_fold_errors_of_each_organ(make):
    trainer = make(patch=WINDOW, crop_size=CROP)
    write_boxes(trainer, 0, [[9.0, 9.0, 9.0]] * 2, organ_error_mm={"1": [1.0, 2.0, 2.0], "3": [0.0, 0.0, -2.0]})
    write_boxes(trainer, "all", [[9.0, 9.0, 9.0]], organ_error_mm={"1": [7.0, 7.0, 7.0]})
    trainer.initialize()
    assert trainer.dataset_class.organ_errors_mm == {1: [[1.0, 2.0, 2.0]] * 2, 3: [[0.0, 0.0, -2.0]] * 2}
    trainer.settle_jitter()
    assert trainer.dataset_class.organ_errors_mm == {1: [[1.0, 2.0, 2.0]] * 2, 3: [[0.0, 0.0, -2.0]] * 2}
    check_file(json.loads(Path(trainer.output_folder, "box_jitter.json").read_text()), "box_jitter.json")
    assert "4 out-of-fold organs (RMS 0.7, 1.4, 2.0 mm)" in Path(trainer.log_file).read_text()


def test_the_final_validation_has_the_plans_window_and_the_label_map_that_places_the_crops(make, monkeypatch):
    trainer = make(patch=WINDOW, crop_size=CROP)
    write_localizer_maps(trainer, seen=(1, 3))
    trainer.initialize()
    trainer.print_to_log_file("so that the file is there")
    trainer.network.eval()
    seen = {}

    def validate(self, _save: bool) -> None:
        """What nnU-Net does with a case."""
        dataset = self.dataset_class(
            self.preprocessed_dataset_folder, ["head_3"], self.folder_with_segs_from_previous_stage
        )
        images, _, guide, _ = dataset.load_case("head_3")
        one_hot = np.stack([guide == value for value in self.label_manager.foreground_labels]).astype(np.float32)
        with torch.no_grad():
            logits = self.network(torch.from_numpy(np.vstack([images, one_hot]))[None])
        logits = logits[0] if isinstance(logits, list) else logits
        seen.update(window=self.configuration_manager.patch_size, cascaded=self.is_cascaded, logits=logits[0])

    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", validate)
    Path(trainer.output_folder, "validation").mkdir()
    trainer.perform_actual_validation()
    assert seen["cascaded"]
    assert not trainer.is_cascaded
    assert tuple(seen["window"]) == WINDOW
    assert tuple(trainer.configuration_manager.patch_size) == CROP
    assert seen["logits"][2].max() == -MOST_LOG_ODDS  # the localizer has not seen it
    assert seen["logits"][[1, 3]].amax((1, 2, 3)).min() > -MOST_LOG_ODDS
    log = Path(trainer.log_file).read_text()
    assert "WARNING: head_3: the localizer did not find Eye_R, so there is no crop." in log
    assert "Label crop pass rate of Eye_L in 8x8x12: 100.00 % (mean over 1 cases)" in log
    assert "Label crop pass rate of Eye_R in 8x8x12: 0.00 % (mean over 1 cases)" in log
    report = json.loads((Path(trainer.output_folder) / "validation" / "label_crop_pass_rate.json").read_text())
    check_file(report, "label_crop_pass_rate.json")
    assert report["organs"] == {"Eye_L": 1.0, "Eye_R": 0.0, "OpticChiasm": 1.0}


def test_guidance_and_one_crop_per_organ_exclude_each_other(make):
    with pytest.raises(ValueError, match=r"'3d_cascade_fullres'.*set guidance to false in CascadeOARPlans\.json"):
        make(patch=WINDOW, crop_size=CROP, recipe={"guidance": True})


# ------------------------------------------------------------------------------------------------ jitter


def write_boxes(trainer, fold, errors_mm, **record) -> None:
    folder = trainer._localizer_folder() / f"fold_{fold}" / "validation"
    folder.mkdir(parents=True)
    record = {"fallback_whole_volume": False, "label_crop_pass_rate": 1.0, **record}
    cases = {f"fold{fold}_{i}": {**record, "error_mm": e} for i, e in enumerate(errors_mm)}
    (folder / "label_crop_pass_rate.json").write_text(json.dumps({"cases": cases}))


def test_the_jitter_is_drawn_from_the_out_of_fold_errors_of_the_localizer(make):
    trainer = make()
    write_boxes(trainer, 0, [[1.0, 2.0, -3.0], [0.0, 0.5, 0.0]])
    write_boxes(trainer, 1, [[-4.0, 0.0, 0.0]])
    write_boxes(trainer, 2, [[90.0, 90.0, 90.0]], label_crop_pass_rate=0.2)  # missed: nothing to learn from
    write_boxes(trainer, "all", [[7.0, 7.0, 7.0]])  # not out-of-fold
    trainer.initialize()
    wanted = [[1.0, 2.0, -3.0], [0.0, 0.5, 0.0], [-4.0, 0.0, 0.0]]
    assert sorted(trainer.dataset_class.errors_mm) == sorted(wanted)
    dataset, _ = trainer.get_tr_and_val_datasets()
    drawn = np.array([dataset._moved_mm(dataset.errors_mm) for _ in range(300)])
    nearest = np.linalg.norm(drawn[:, None] - np.array(wanted)[None], axis=2, ord=np.inf).min(1)
    assert nearest.max() <= 2.0  # within a voxel
    assert drawn[:, 0].min() < -4.0


@pytest.mark.parametrize(("jitter", "limit_mm"), [("measured", 2.0), ("planned", 2.0), ("off", 0.0)])
def test_with_too_few_measured_boxes_or_if_asked_the_jitter_is_the_planned_one(make, jitter, limit_mm):
    trainer = make(recipe={"box_jitter": jitter})
    write_boxes(trainer, 0, [[30.0, 30.0, 30.0]] * (2 if jitter == "measured" else 9))
    trainer.initialize()
    dataset, _ = trainer.get_tr_and_val_datasets()
    drawn = np.abs([dataset._moved_mm(dataset.errors_mm) for _ in range(200)])
    assert drawn.max() <= limit_mm
    assert drawn.max() >= 0.9 * limit_mm


# ------------------------------------------------------------------------------------------------ when it ends


def test_training_ends_after_the_last_epoch(make):
    trainer = make(num_epochs=3)
    log_epochs(trainer, [0.1, 0.2])
    assert trainer.reason_to_stop() is None
    log_epochs(trainer, [0.1, 0.2, 0.3])
    assert trainer.reason_to_stop() == "all 3 epochs are done"


def test_training_ends_when_the_time_budget_is_used(make):
    trainer = make(num_epochs=100, time_budget_h=0.1)
    log_epochs(trainer, [0.1] * 3, seconds=119)
    assert trainer.reason_to_stop() is None
    log_epochs(trainer, [0.1] * 3, seconds=120)
    assert trainer.reason_to_stop() == "the time budget of 0.1 h is used"


def test_the_epoch_that_runs_counts_for_the_time_budget(make, monkeypatch):
    trainer = make(num_epochs=100, time_budget_h=0.1)
    log_epochs(trainer, [0.1] * 2, seconds=120)
    log = trainer.logger.local_logger.my_fantastic_logging
    log["epoch_start_timestamps"].append(5e9)
    monkeypatch.setattr(cascade_oar_trainer, "time", lambda: 5e9 + 119)
    assert not trainer.over_budget()
    monkeypatch.setattr(cascade_oar_trainer, "time", lambda: 5e9 + 120)
    assert trainer.over_budget()


def test_a_runs_first_steps_which_compile_the_network_do_not_count_for_the_time_budget(make, monkeypatch):
    """The first training step takes 100 s, the first validation step 50 s, all others 3 s."""
    clock = [1e9]
    monkeypatch.setattr(cascade_oar_trainer, "time", lambda: clock[0])
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.time", lambda: clock[0])
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", lambda *_: None)

    def taking(first_s, function):
        times = [first_s]

        def slow(*args):
            clock[0] += times.pop() if times else 3
            return function(*args)

        return slow

    monkeypatch.setattr(nnUNetTrainer, "train_step", taking(100, nnUNetTrainer.train_step))
    monkeypatch.setattr(nnUNetTrainer, "validation_step", taking(50, nnUNetTrainer.validation_step))
    options = {"num_epochs": 50, "iterations_per_epoch": 4, "val_iterations_per_epoch": 2, "time_budget_h": 20 / 3600}
    trainer = make(**options)
    trainer.run_training()
    # First epoch: three steps of 3 s that count, and one validation step, 12 s. Second: 21 s after three, then 6 s.
    assert trainer.current_epoch == 2
    assert trainer.elapsed_h() * 3600 == pytest.approx(27)
    assert clock[0] - 1e9 == pytest.approx(100 + 50 + 27)
    assert "The first train step took 100 s." in Path(trainer.log_file).read_text()


def test_training_ends_when_patience_and_the_wind_down_are_over(make):
    trainer = make(num_epochs=30, patience_epochs=2)  # winds down over 3 epochs
    log_epochs(trainer, [0.5] * 3)  # patience is out: the wind-down is epochs 3, 4, 5
    assert trainer.reason_to_stop() is None
    log_epochs(trainer, [0.5] * 5)
    assert trainer.reason_to_stop() is None
    log_epochs(trainer, [0.5] * 6)
    assert trainer.reason_to_stop() == "no better epoch for 2 epochs, and the wind-down is over"


def test_a_stop_file_ends_the_training_after_an_epoch_until_the_validation_is_done(make, monkeypatch):
    trainer = make(configuration="3d_fullres")
    stop = Path(trainer.output_folder, "STOP")
    stop.touch()
    assert trainer.reason_to_stop() is None  # nothing is trained yet
    log_epochs(trainer, [0.1])
    for _ in range(2):
        assert trainer.reason_to_stop() == f"the file {stop} asks for it"
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    trainer.perform_actual_validation()
    assert not stop.exists()
    assert trainer.reason_to_stop() is None


# ------------------------------------------------------------------------------------------------ checkpoints


def checkpoint(trainer, name: str) -> Path:
    return Path(trainer.output_folder, f"checkpoint_{name}.pth")


def saved(trainer, *names: str) -> list[Path]:
    """Save checkpoints after the epochs in the log, as nnU-Net does before it counts the epoch."""
    files = [checkpoint(trainer, name) for name in names]
    trainer.current_epoch -= 1
    for file in files:
        trainer.save_checkpoint(str(file))
    trainer.current_epoch += 1
    return files


def trained(make, scores=(0.1,), **options) -> CascadeOARTrainer:
    trainer = make(**options)
    trainer.initialize()
    log_epochs(trainer, list(scores))
    return trainer


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk", megabytes=2) as folder:
        yield folder


def test_a_full_disk_leaves_the_previous_checkpoint_and_says_how_much_is_needed(make, small_disk):
    trainer = trained(make)
    trainer.output_folder = str(small_disk)
    (file,) = saved(trainer, "latest")
    before = file.read_bytes()
    fill(small_disk, leave=len(before) // 2)
    with pytest.raises(
        OSError,
        match=r"checkpoint_latest.pth could not be written \(.*\). It needs 0.\d MB and 0.\d MB are free. "
        r"The checkpoints there are whole. Make room, then go on: nnUNetv2_train Dataset501_Test 3d_cascade_fullres 0 "
        r"-tr CascadeOARTrainer -p CascadeOARPlans -device cpu --c",
    ):
        saved(trainer, "latest")
    assert file.read_bytes() == before
    assert sorted(f.name for f in small_disk.iterdir()) == ["checkpoint_latest.pth", "other"]
    (small_disk / "other").unlink()
    saved(trainer, "latest")
    make().load_checkpoint(str(file))


def test_a_disk_that_fills_up_while_flushing_leaves_the_previous_checkpoint(make, monkeypatch):
    trainer = trained(make)
    (file,) = saved(trainer, "latest")
    before = file.read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*The checkpoints there are whole"):
        saved(trainer, "latest")
    assert file.read_bytes() == before
    file.unlink()
    with pytest.raises(OSError, match=r"There is no earlier one. Make room, then go on: .* -device cpu$"):
        saved(trainer, "latest")
    assert not list(file.parent.glob("checkpoint*"))


def test_a_damaged_checkpoint_is_named_with_the_commands_to_go_on_from_another(make):
    latest, _ = saved(trained(make, [0.1, 0.2]), "latest", "best")
    latest.write_bytes(latest.read_bytes()[:-5000])
    command = "nnUNetv2_train Dataset501_Test 3d_cascade_fullres 0 -tr CascadeOARTrainer -p CascadeOARPlans -device cpu"
    with pytest.raises(ValueError, match=r"checkpoint_latest.pth is damaged \(\d+ bytes; .+\)") as error:
        make().load_checkpoint(str(latest))
    move = f"Move it away, mv '{latest}' '{latest}.damaged', then"
    assert str(error.value).endswith(f"{move} {command} --c goes on from checkpoint_best.pth, 2 epochs done.")


def test_a_file_that_is_not_a_checkpoint_or_not_of_this_network_is_named(make):
    trainer = trained(make)
    (file,) = saved(trainer, "latest")
    with pytest.raises(
        ValueError,
        match=r"checkpoint_latest.pth does not fit the network of configuration '3d_lowres' in CascadeOARPlans: 'encoder.*'"
        r" is .* in the network and .* in the file. It was made with plans 'CascadeOARPlans', configuration "
        "'3d_cascade_fullres'",
    ):
        make(configuration="3d_lowres").load_checkpoint(str(file))
    torch.save({"weights": 1}, file)
    with pytest.raises(ValueError, match=r"is not a checkpoint of nnU-Net: it holds no .*network_weights"):
        make().load_checkpoint(str(file))


def test_a_damaged_best_checkpoint_is_not_taken_for_the_final_one(make):
    trainer = trained(make)
    latest, best = saved(trainer, "latest", "best")
    best.write_bytes(best.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint_best.pth is damaged.*--c goes on from checkpoint_latest.pth"):
        trainer.on_train_end()
    assert latest.is_file()
    assert not checkpoint(trainer, "final").exists()


def test_checkpoints_are_read_onto_the_cpu_and_only_what_is_needed_goes_to_the_gpu(make, monkeypatch):
    trainer = trained(make)
    trainer.dataloader_train = trainer.dataloader_val = None
    _, best = saved(trainer, "latest", "best")
    places = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kw: places.append(str(kw["map_location"])) or load(*args, **kw))
    trainer.device = torch.device("meta")  # which is no CPU, and empty_cache knows nothing to do for it
    trainer.on_train_end()
    trainer.load_checkpoint(str(best))
    assert places == ["cpu", "cpu"]
    assert trainer.device == torch.device("meta")


def test_the_best_checkpoint_has_no_state_of_the_optimizer_and_a_training_may_go_on_from_it(make):
    trainer = trained(make, [0.3, 0.5])
    for parameter in trainer.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    trainer.optimizer.step()
    latest, best = saved(trainer, "latest", "best")
    states = [torch.load(file, weights_only=False)["optimizer_state"] for file in (latest, best)]
    assert len(states[0]["state"]) > 0
    assert len(states[1]["state"]) == 0
    assert best.stat().st_size < 0.45 * latest.stat().st_size
    assert trainer.optimizer.state  # untouched
    resumed = make()
    resumed.load_checkpoint(str(best))
    assert resumed.current_epoch == 2
    assert "checkpoint_best holds no state of the optimizer" in Path(resumed.log_file).read_text()


def test_the_latest_checkpoint_is_written_after_the_first_epoch_and_then_every_five_minutes(make, monkeypatch):
    """Epochs of 100 s: `latest` after the first, fourth and seventh, `best` after those that are better."""
    clock = [1e9]
    monkeypatch.setattr(cascade_oar_trainer, "time", lambda: clock[0])
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", lambda *_: None)
    trainer = trained(make, [])
    assert trainer.latest_every_s == 300
    written = []
    save = trainer.save_checkpoint
    trainer.save_checkpoint = lambda name: written.append((trainer.current_epoch, Path(name).stem[11:])) or save(name)
    scores = [0.5, 0.4, 0.3, 0.2, 0.6, 0.1, 0.1, 0.1]
    for epoch in range(len(scores)):
        log_epochs(trainer, scores[: epoch + 1])
        log = trainer.logger.local_logger.my_fantastic_logging
        log["train_losses"] = log["val_losses"] = [0.0] * (epoch + 1)
        log["dice_per_class_or_region"] = [[0.0]] * (epoch + 1)
        log["epoch_end_timestamps"].pop()
        trainer.current_epoch -= 1
        trainer.on_epoch_end()
        clock[0] += 100
    assert written == [(0, "latest"), (0, "best"), (3, "latest"), (4, "best"), (6, "latest")]


def test_the_best_score_after_resuming_is_the_best_in_the_log(make):
    """nnU-Net saves `latest` before it compares, so the score in it is an epoch old."""
    trainer = trained(make, [0.3, 0.5])
    trainer._best_ema = 0.3
    (file,) = saved(trainer, "latest")
    resumed = make()
    resumed.load_checkpoint(str(file))
    assert resumed._best_ema == 0.5


@pytest.mark.parametrize(("scores", "rewritten"), [([0.3, 0.5], True), ([0.5, 0.3], False)])
def test_the_best_checkpoint_is_written_after_resuming_if_the_last_epoch_was_the_best(make, scores, rewritten):
    trainer = trained(make, scores)
    latest, best = saved(trainer, "latest", "best")
    best.write_bytes(b"of an epoch before")
    resumed = make()
    resumed.load_checkpoint(str(latest))
    resumed._take_over_checkpoints()
    assert (best.read_bytes() != b"of an epoch before") == rewritten
    assert resumed.current_epoch == 2
    if rewritten:
        assert torch.load(best, weights_only=False)["current_epoch"] == 2


def test_a_training_that_goes_on_leaves_no_checkpoint_that_looks_final(make):
    trainer = trained(make, [0.5, 0.3])
    (final,) = saved(trainer, "final")
    debris = final.with_name("checkpoint_best.pth.77.tmp")
    debris.touch()
    resumed = make()
    resumed.load_checkpoint(str(final))
    resumed._take_over_checkpoints()
    assert [f.name for f in final.parent.glob("checkpoint*")] == ["checkpoint_latest.pth"]


def test_training_anew_keeps_the_checkpoints_of_an_earlier_training_under_another_name(make):
    saved(trained(make, [0.5, 0.3]), "final", "best")
    trainer = make()
    trainer.disable_checkpointing = True
    trainer._take_over_checkpoints()
    names = {"checkpoint_final.pth", "checkpoint_best.pth"}
    assert {f.name for f in Path(trainer.output_folder).glob("checkpoint*")} == names
    trainer.disable_checkpointing = False
    trainer._take_over_checkpoints()
    assert {f.name for f in Path(trainer.output_folder).glob("checkpoint*")} == {f"{name}.old" for name in names}
    assert "now checkpoint_final.pth.old, checkpoint_best.pth.old" in Path(trainer.log_file).read_text()


def test_the_split_is_nnunets_and_a_damaged_file_is_named(make, folders):
    file = folders / "preprocessed" / "Dataset501_Test" / "splits_final.json"
    source = file.with_name("CascadeOARPlans_3d_fullres")
    for case in range(4, 7):
        for part in source.glob("head_0*"):
            shutil.copy(part, source / part.name.replace("head_0", f"head_{case}"))
    splits = []
    for do_split in (nnUNetTrainer.do_split, CascadeOARTrainer.do_split):
        file.unlink()
        do_split(make(fold=1))
        splits.append(json.loads(file.read_text()))
    assert splits[0] == splits[1]
    assert make(fold=1).do_split() == tuple(splits[1][1].values())
    for text in (file.read_text()[:-20], '[{"train": []}]', "", "[3]"):
        file.write_text(text)
        with pytest.raises(
            ValueError, match=r"splits_final.json is not a list of splits.*delete it: the next training"
        ):
            make().do_split()
    file.write_text("")
    assert len(make(fold="all").do_split()[0]) == 7


def test_a_split_that_cannot_be_trained_and_validated_is_refused(make, folders):
    file = folders / "preprocessed" / "Dataset501_Test" / "splits_final.json"
    file.write_text(json.dumps([{"train": ["a", "b", "c"], "val": CASES[3:]}]))
    for configuration in STAGES:
        with pytest.raises(
            ValueError, match=r"splits_final\.json: fold 0 names 'a' and 'b' and 1 more in 'train', not among the 4"
        ):
            make(configuration=configuration).run_training()
    train, val = make(fold="all").do_split()
    assert sorted(train) == sorted(val) == CASES


def test_a_fold_that_is_no_split_is_refused_below_0_and_said_above(make):
    with pytest.raises(ValueError, match=r"fold -1 is not there: it holds 1 splits, counted from 0"):
        make(fold=-1).do_split()
    trainer = make(fold=3)
    trainer.check_before_training()
    log = Path(trainer.log_file).read_text()
    assert "WARNING: splits_final.json has the folds 0 to 0. Fold 3 is none of them: nnU-Net draws 80 %" in log


def test_cases_in_no_list_and_references_that_are_missing_are_said_before_the_training(make, folders):
    base = folders / "preprocessed" / "Dataset501_Test"
    (base / "splits_final.json").write_text(json.dumps([{"train": CASES[:2], "val": CASES[3:]}]))
    trainer = make()
    trainer.check_before_training()
    log = Path(trainer.log_file).read_text()
    assert "WARNING: 'head_2' of 4 cases are in no list of fold 0" in log
    assert "the validation at the end will fail" in log
    (base / "gt_segmentations").mkdir()
    (base / "gt_segmentations" / "head_3.nii.gz").touch()
    trainer = make(fold="all")
    trainer.check_before_training()
    assert "gt_segmentations lacks 'head_0' and 'head_1' and 1 more (.nii.gz)" in Path(trainer.log_file).read_text()
    (base / "splits_final.json").write_text(json.dumps([{"train": CASES[:3], "val": CASES[3:]}]))
    trainer = make()
    trainer.check_before_training()
    assert "WARNING" not in Path(trainer.log_file).read_text().splitlines()[-1]


def test_a_localizer_is_not_validated_without_the_data_of_the_next_stage(make, folders):
    trainer = make(configuration="3d_lowres")
    shutil.rmtree(folders / "preprocessed" / "Dataset501_Test" / "CascadeOARPlans_3d_fullres")
    for start in (trainer.run_training, trainer.perform_actual_validation):
        with pytest.raises(FileNotFoundError, match=r"preprocessed for 3d_cascade_fullres in .*-c 3d_fullres"):
            start()


def test_a_batch_of_one_patch_is_centred_on_an_organ_as_often_as_the_recipe_says(make, cascade_plans):
    plans = cascade_plans(spacing_mm=SPACING_MM, roi=rule().to_plan())
    plans["continue_training"] = False
    plans["configurations"]["3d_fullres"] |= {"batch_size": 1, "recipe": {"organ_patches": 0.5}}
    trainer = CascadeOARTrainer(plans, "3d_fullres", 0, DATASET, torch.device("cpu"))
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    np.random.seed(0)
    drawn = [loader.data_loader.get_do_oversample(0) for _ in range(200)]
    assert 0.35 < np.mean(drawn) < 0.65
    trainer.on_train_epoch_start()
    assert np.isfinite(trainer.train_step(next(loader))["loss"])
    assert not make(configuration="3d_fullres").probabilistic_oversampling


def test_without_a_gpu_the_option_for_the_cpu_is_named(make, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"there is no GPU that torch can use; add -device cpu: nnUNetv2_train .* -device cpu"
    ):
        make(device="cuda").initialize()


def test_the_last_checkpoint_holds_the_weights_of_the_best_epoch(make, monkeypatch):
    trainer = make()
    trainer.initialize()
    trainer.dataloader_train = trainer.dataloader_val = None
    best = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_best.pth")))
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter.add_(1.0)
    trainer.current_epoch = 3
    trainer.on_train_end()
    final = torch.load(Path(trainer.output_folder, "checkpoint_final.pth"), weights_only=False)
    assert all(torch.equal(final["network_weights"][k], v) for k, v in best.items())
    assert final["current_epoch"] == 3
    assert final["inference_allowed_mirroring_axes"] is None


# ------------------------------------------------------------------------------------------------ a whole run


@pytest.mark.parametrize("cls", [CascadeOARTrainer, CascadeOARTrainerReference])
def test_a_run_of_two_epochs_and_its_resumption_end_with_a_final_checkpoint(make, cls, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", lambda *_: None)
    options = {"num_epochs": 2, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1}
    trainer = make(cls, **options)
    folder = Path(trainer.output_folder)
    epoch_end = trainer.on_epoch_end

    def stop_after_the_first():
        epoch_end()
        (folder / "STOP").touch()

    trainer.on_epoch_end = stop_after_the_first
    trainer.run_training()
    assert trainer.current_epoch == 1
    resumed = make(cls, **options)
    resumed.load_checkpoint(str(folder / "checkpoint_final.pth"))
    assert resumed.current_epoch == 1
    (folder / "STOP").unlink()
    resumed.run_training()
    final = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert final["current_epoch"] == 2
    assert len(final["logging"]["lrs"]) == 2
    assert not list(folder.glob("*.tmp"))
    use = json.loads((folder / "training_device.json").read_text())
    check_file(use, "training_device.json")
    assert use == {**read_training_device(folder), "device": device_name(trainer.device)}


def test_a_time_budget_ends_within_an_iteration_and_its_validation_with_a_usable_checkpoint(make, monkeypatch):
    """An iteration takes 3 s, a validation 5 s, the pictures of an epoch 7 s: epochs of 4 iterations take 24 s."""
    clock = [1e9]
    monkeypatch.setattr(cascade_oar_trainer, "time", lambda: clock[0])
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.time", lambda: clock[0])
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)

    def taking(seconds, function=lambda *_: None):
        def slow(*args):
            clock[0] += seconds
            return function(*args)

        return slow

    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", taking(7))
    options = {"num_epochs": 50, "iterations_per_epoch": 4, "val_iterations_per_epoch": 1, "time_budget_h": 30 / 3600}
    trainer = make(**options)
    trainer.train_step, trainer.validation_step = taking(3, trainer.train_step), taking(5, trainer.validation_step)
    trainer.run_training()
    # First epoch to 24 s, iterations to 27 and 30 s, validation to 35 s.
    assert trainer.current_epoch == 2
    assert trainer.elapsed_h() * 3600 == pytest.approx(35)
    assert clock[0] - 1e9 == pytest.approx(35 + 7)
    again = make(**options)
    clock[0] += 1e6  # the time between two runs does not count
    again.load_checkpoint(str(checkpoint(again, "final")))
    assert again.elapsed_h() * 3600 == pytest.approx(35)
    before = checkpoint(again, "final").read_bytes()
    again.on_train_start = None  # must not be needed
    again.run_training()
    assert checkpoint(again, "final").read_bytes() == before
    assert "This training has ended before: the time budget of 0.00833333 h is used" in Path(again.log_file).read_text()


# ------------------------------------------------------------------------------------------------ killed


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """`processes.py`, and a context whose processes have nnU-Net imported already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        module = importlib.import_module("processes")
        module.context = multiprocessing.get_context("forkserver")
        module.context.set_forkserver_preload([CascadeOARTrainer.__module__])
        with pytest.MonkeyPatch.context() as elsewhere:  # it imports from where it starts, which is the source tree
            elsewhere.chdir(tmp_path_factory.mktemp("elsewhere"))
            multiprocessing.forkserver.ensure_running()
        yield module


@pytest.fixture
def job(folders, cascade_plans) -> Callable[..., dict]:
    def job(**training) -> dict:
        plans = cascade_plans(spacing_mm=SPACING_MM, roi=rule().to_plan(), patch_size=PATCH)
        for c in plans["configurations"].values():
            if "training" in c:
                c["training"] = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, **training}
        return {"folder": str(folders), "plans": plans, "dataset": DATASET, "configuration": "3d_cascade_fullres"}

    return job


MOMENTS = {
    "in the first epoch": 0,
    "half way through writing the first checkpoint": 0,
    "before the second checkpoint gets its name": 1,
    "after the latest, before the best checkpoint": 2,
    "in the third epoch": 2,
    "before the final checkpoint": 2,
    "after the final checkpoint, before the latest is removed": 3,
    "in the validation": 3,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_the_training_goes_on_with_the_learning_rates_of_an_uninterrupted_one(
    job, processes, moment, monkeypatch
):
    job = job(num_epochs=3)
    killed = processes.context.Process(target=processes.train_until_killed, args=(job, moment))
    killed.start()
    killed.join(600)  # the first waits for imports, which on a busy machine take minutes
    assert killed.exitcode == -signal.SIGKILL
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", lambda *_: None)
    trainer, rates, done = processes.go_on(job)
    assert done == MOMENTS[moment]
    by_hand = [
        (epoch, i, pytest.approx(1e-3 * (1 - (epoch + i / 2) / 3) ** 0.9 * (2 * epoch + i + 1) / 30))
        for epoch in range(done, 3)
        for i in range(2)
    ]
    assert rates == by_hand
    names = sorted(f.name for f in Path(trainer.output_folder).glob("checkpoint*"))
    assert names == ["checkpoint_best.pth", "checkpoint_final.pth"]
    final = torch.load(checkpoint(trainer, "final"), weights_only=False)
    best = torch.load(checkpoint(trainer, "best"), weights_only=False)
    log = final["logging"]
    assert final["current_epoch"] == 3
    assert {len(values) for values in log.values()} == {3}
    assert log["lrs"] == pytest.approx([1e-3 * (1 - e / 3) ** 0.9 * (2 * e + 1) / 30 for e in range(3)])
    if moment == "before the final checkpoint" and best["_best_ema"] > max(log["ema_fg_dice"]):
        # The killed run had finished the last epoch, with a better score than the one that trained it again.
        assert best["current_epoch"] == 3
        return
    assert best["_best_ema"] == max(log["ema_fg_dice"]) == log["ema_fg_dice"][best["current_epoch"] - 1]
    weights = best["network_weights"]
    assert all(torch.equal(v, weights[k]) for k, v in final["network_weights"].items())


def test_killed_between_two_latest_checkpoints_the_training_goes_on_from_the_earlier_one(job, processes, monkeypatch):
    job = {**job(num_epochs=3), "latest_every_s": 300.0}
    killed = processes.context.Process(target=processes.train_until_killed, args=(job, "in the third epoch"))
    killed.start()
    killed.join(600)
    assert killed.exitcode == -signal.SIGKILL
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", lambda *_: None)
    trainer, rates, done = processes.go_on(job)
    assert done == 1
    assert [(epoch, i) for epoch, i, _ in rates] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    final, best = (torch.load(checkpoint(trainer, name), weights_only=False) for name in ("final", "best"))
    assert {len(values) for values in final["logging"].values()} == {3}
    assert best["_best_ema"] >= max(final["logging"]["ema_fg_dice"])
    assert all(torch.equal(v, best["network_weights"][k]) for k, v in final["network_weights"].items())


# ------------------------------------------------------------------------------------------------ Python 3.14


def test_a_training_whose_loaders_are_not_forked_reads_from_disk_and_says_so(job, processes):
    job = job(num_epochs=1)
    child = processes.context.Process(target=processes.train_with_a_forkserver, args=(job,))
    child.start()
    child.join(600)
    assert child.exitcode == 0
    done = json.loads(Path(job["folder"], "forkserver.json").read_text())
    assert done["held"] == [0, 0]
    assert done["methods"] == ["forkserver"] * 2
    assert len(done["losses"]) == 1
    assert np.isfinite(done["losses"][0])
    (log,) = Path(job["folder"]).rglob("training_log*.txt")
    assert "started by forkserver and share no memory: cases are read from disk" in log.read_text()


# ------------------------------------------------------------------------------------------------ two processes


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")


def on_ranks(processes, job: dict, task) -> list[dict]:
    n = job.get("world_size", 2)
    ranks = [processes.context.Process(target=processes.as_rank, args=(rank, job, task)) for rank in range(n)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(600)
    assert [rank.exitcode for rank in ranks] == [0] * n
    files = [Path(job["folder"], f"rank_{rank}.pt") for rank in range(n)]
    return [torch.load(file, weights_only=False, map_location="cpu") for file in files]


@pytest.mark.parametrize(
    ("configuration", "options"),
    [
        pytest.param("3d_cascade_fullres", {}, id="CPU"),
        pytest.param("3d_cascade_fullres", {"device": "cuda"}, marks=GPU, id="one GPU, segmenter"),
        pytest.param("3d_cascade_fullres", {"device": "cuda", "compile": "t"}, marks=GPU, id="one GPU, compiled"),
        pytest.param("3d_lowres", {"device": "cuda"}, marks=GPU, id="one GPU, localizer"),
        pytest.param("3d_lowres", {"device": "cuda", "backend": "nccl", "world_size": 1}, marks=GPU, id="NCCL alone"),
        pytest.param("3d_cascade_fullres", {"device": "cuda", "backend": "nccl"}, marks=TWO_GPUS, id="NCCL"),
        pytest.param("3d_lowres", {"device": "cuda", "backend": "nccl"}, marks=TWO_GPUS, id="NCCL, localizer"),
    ],
)
def test_processes_have_the_loss_and_the_gradients_of_one_on_the_same_batch(
    make, job, processes, configuration, options, monkeypatch
):
    """The first sample holds three organs, the second a corner of one."""
    monkeypatch.setenv("nnUNet_compile", "f")
    trainer = make(configuration=configuration, device=options.get("device", "cpu"))
    trainer.grad_scaler = None
    trainer.initialize()
    target = torch.zeros(2, 1, *PATCH)
    target[0, 0, 2:8, 2:8, 2:8], target[0, 0, 9:15, 2:9, 3:9], target[0, 0, 2:5, 10:14, 10:14] = 1, 2, 3
    target[1, 0, :2, :2, :2] = 1
    data = torch.randn(2, 3, *PATCH) + target
    batch = {"data": data, "target": [target, target[:, :, ::2, ::2, ::2]]}
    job = {**job(), "configuration": configuration, **options}
    torch.save(batch, Path(job["folder"], "batch.pt"))
    torch.save(trainer.network.state_dict(), Path(job["folder"], "weights.pt"))
    ranks = on_ranks(processes, job, processes.step_on_a_part)
    one = processes.one_step(trainer, {k: processes.copied(v) for k, v in batch.items()})
    half_precision = trainer.device.type == "cuda"
    for name in ("loss", "validation"):
        expected = pytest.approx(one[name], rel=3e-3 if half_precision else 1e-5)
        assert np.mean([rank[name] for rank in ranks]) == expected
    gradients = {k: g.cpu() for k, g in one["gradients"].items()}
    norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
    for rank in ranks:
        off = torch.cat([(rank["gradients"][k] - g).flatten() for k, g in gradients.items()]).norm()
        assert off < (3e-2 if half_precision else 1e-4) * norm
    # The test can fail: nnU-Net's mean over processes of means over voxels is something else.
    with torch.no_grad():  # not before: it changes what batch normalization has seen
        output = trainer.network(data.to(trainer.device))[0].cpu()
    ce = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5, 5, 5]))
    whole, parts = ce(output, target[:, 0].long()), [ce(output[[i]], target[[i], 0].long()) for i in range(2)]
    assert abs(float(whole - sum(parts) / 2)) > 1e-2


@GPU
@pytest.mark.parametrize("configuration", ["3d_lowres", "3d_cascade_fullres"])
def test_a_training_on_a_gpu_augments_there_and_its_checkpoint_serves_a_cpu(make, configuration, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "f")
    trainer = make(configuration=configuration, device="cuda", num_epochs=3, iterations_per_epoch=20)
    trainer.run_training()
    assert trainer.device_transforms is not None
    assert trainer.grad_scaler is not None
    losses = trainer.logger.get_value("train_losses", step=None)
    assert losses[-1] < losses[0]
    on_cpu = make(configuration=configuration, num_epochs=3)
    on_cpu.load_checkpoint(str(checkpoint(trainer, "final")))
    image = torch.randn(1, 3, *PATCH)
    with torch.no_grad():
        expected, output = trainer.network.eval()(image.to("cuda"))[0].cpu(), on_cpu.network.eval()(image)[0]
    assert (output - expected).abs().max() < 0.02 * output.std()


def test_two_processes_agree_when_to_end_whatever_their_clocks_say(make, job, processes):
    job = job(num_epochs=5)
    splits = Path(job["folder"], "preprocessed", "Dataset501_Test", "splits_final.json")
    splits.write_text(json.dumps([{"train": CASES[:2], "val": CASES[2:]}]))
    write_localizer_maps(make())
    first, second = on_ranks(processes, job, processes.train_together)
    assert first["stop"]["epochs"] == second["stop"]["epochs"] == 2
    assert first["budget"]["rates"] == second["budget"]["rates"]
    assert first["budget"]["epochs"] == second["budget"]["epochs"] >= 1
    assert len(first["budget"]["rates"]) >= 2  # rank 1's clock would have ended it after the first iteration
    assert first["again"] == second["again"] == 2
    folder = Path(make().output_folder)
    final = torch.load(folder / "checkpoint_final.pth", weights_only=False)["network_weights"]
    for rank in (first, second):
        assert all(torch.equal(final[k], v) for k, v in rank["stop"]["weights"].items())
    report = json.loads((folder / "validation" / "label_crop_pass_rate.json").read_text())
    assert set(report["cases"]) == set(CASES[2:])
    assert not (folder / "STOP").exists()


@pytest.mark.parametrize("cases", [[2, 1], [0, 1]])
def test_processes_with_unequal_numbers_of_cases_do_not_wait_for_each_other_in_the_validation(job, processes, cases):
    """DDP would send BatchNorm's buffers round from rank 0 before the first, which under gloo waits for rank 0."""
    job = {**job(), "configuration": "3d_lowres", "timeout_s": 30, "cases": cases}
    ranks = on_ranks(processes, job, processes.predict_own_cases)
    assert [rank["predicted"] for rank in ranks] == cases
    assert min(rank["buffers"] for rank in ranks) > 0


def test_processes_end_with_the_weights_of_the_best_epoch_even_if_it_is_still_being_written(job, processes):
    first, second = on_ranks(processes, job(), processes.agree_on_the_best)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(v.min() >= 0.9 for v in first.values())  # the later one


def test_two_processes_hold_the_cases_once(processes, tmp_path):
    """46 MB of image and label map, in 20 cases, each of which is copied for a moment."""
    cases = tmp_path / "cases"
    cases.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        data, seg = rng.random((3, 56, 56, 56), dtype=np.float32), np.zeros((1, 56, 56, 56), np.int8)
        properties = {"spacing": [1.0] * 3, "class_locations": {}}
        nnUNetDatasetBlosc2.save_case(data, seg, properties, str(cases / f"head_{i}"))
    first, second = on_ranks(processes, {"folder": str(tmp_path), "cases": str(cases)}, processes.hold_cases)
    one = first["alone"]["mb"]
    assert one > 0.9 * first["alone"]["bytes"] / 1e6 > 40
    assert first["alone"]["mb"] + second["alone"]["mb"] > 1.8 * one  # the test can fail
    assert first["together"]["mb"] + second["together"]["mb"] < 1.4 * one
    for rank in (first, second):
        assert rank["together"]["sums"] == rank["alone"]["sums"]
        assert len(rank["together"]["sums"]) == 20
        assert rank["together"]["bytes"] == rank["alone"]["bytes"]
        assert rank["problem"][0] == 0
        assert "the cases are read from disk: " in rank["problem"][1]
        assert rank["left"] == []


def test_batch_norm_on_several_gpus_is_not_compiled(make, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "t")
    for configuration, several, compiled in (
        ("3d_lowres", False, True),
        ("3d_lowres", True, False),
        ("3d_cascade_fullres", True, True),
    ):
        trainer = make(configuration=configuration)
        trainer.initialize()
        trainer.device, trainer.is_ddp = torch.device("cuda"), several
        assert trainer._do_i_compile() is compiled


@pytest.mark.parametrize("configuration", ["3d_lowres", "3d_cascade_fullres", "factorised sides"])
def test_a_compiled_network_has_no_graph_break_in_training_validation_and_prediction(make, configuration, monkeypatch):
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    dynamo.utils.counters.clear()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile_(network, backend="eager"))
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    if configuration == "factorised sides":
        trainer = make(configuration="3d_cascade_fullres")
        trainer.configuration_manager.network_arch_init_kwargs["left_right_pairs"] = [[1, 2]]
    else:
        trainer = make(configuration=configuration, left_out=() if configuration == "3d_lowres" else (3,))
    trainer.initialize()
    assert isinstance(trainer.network, dynamo.OptimizedModule)
    assert (trainer.network._orig_mod.sides is not None) == (configuration == "factorised sides")
    train, validation = trainer.get_dataloaders()
    trainer.on_train_epoch_start()
    losses = [float(trainer.train_step(next(train))["loss"]) for _ in range(2)]
    assert np.isfinite(losses).all()
    missing = [name for name, p in trainer.network.named_parameters() if p.grad is None]
    assert all("seg_layers" in name for name in missing), "nnU-Net gives the coarsest output no weight"
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.validation_step(next(validation))
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json, "", None
    )
    image = torch.zeros(trainer.num_input_channels, *(n + 4 for n in PATCH))
    assert predictor.predict_sliding_window_return_logits(image).shape[1:] == image.shape[1:]
    assert not dynamo.utils.counters["graph_break"], dict(dynamo.utils.counters["graph_break"])
    assert dynamo.utils.counters["frames"]["ok"] >= 2


def test_gpus_that_can_not_share_a_batch_evenly_are_refused(make, monkeypatch):
    trainer = make()
    trainer.is_ddp = True
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"3 GPUs can't share a batch of 2 evenly. Change -num_gpus, or batch_size in"):
        trainer._set_batch_size_and_oversample()
    reference = make(CascadeOARTrainerReference)
    reference.is_ddp = True
    with pytest.raises(ValueError, match="batch size of 1: train on one GPU"):
        reference._set_batch_size_and_oversample()


# ------------------------------------------------------------------------------------------------ validation


def test_without_the_localizers_maps_the_validation_names_a_case_and_the_commands(make):
    trainer = make()
    trainer.initialize()
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)'head_3'.*nnUNetv2_train Dataset501_Test 3d_lowres 0 -tr CascadeOARTrainer -p CascadeOARPlans"
        r".*nnUNetv2_train Dataset501_Test 3d_cascade_fullres 0 .*--val",
    ):
        trainer.perform_actual_validation()


def test_the_localizers_maps_are_looked_for_where_the_localizer_writes_them(make):
    localizer, segmenter = make(configuration="3d_lowres"), make()
    written = Path(localizer.output_folder_base, "predicted_next_stage", "3d_cascade_fullres")
    assert Path(segmenter.folder_with_segs_from_previous_stage) == written


def test_one_entry_of_the_plan_makes_any_whole_volume_configuration_the_localizer(make):
    localizer, segmenter = (
        make(configuration=name, previous_stage="3d_fullres") for name in ("3d_fullres", "3d_cascade_fullres")
    )
    assert localizer.configuration_manager.next_stage_names == ["3d_cascade_fullres"]
    assert not localizer.is_segmenter
    written = Path(localizer.output_folder_base, "predicted_next_stage", "3d_cascade_fullres")
    assert Path(segmenter.folder_with_segs_from_previous_stage) == written
    assert make(configuration="3d_fullres").configuration_manager.next_stage_names is None


@pytest.mark.parametrize("cls", [CascadeOARTrainer, CascadeOARTrainerReference])
def test_a_whole_volume_configuration_that_locates_keeps_its_network(make, cls):
    trainer = make(cls, "3d_fullres", previous_stage="3d_fullres")
    assert trainer.enable_deep_supervision
    assert trainer.configuration_manager.next_stage_names is not None


def test_a_localizer_that_is_none_is_named_with_those_there_are(make):
    with pytest.raises(
        ValueError,
        match=r"'3d_cascade_fullres' of CascadeOARPlans.json: previous_stage is \"3d_lowers\", which is not in the plan. "
        r"Any configuration that sees the whole volume may locate: 3d_lowres, 3d_fullres\.",
    ):
        make(previous_stage="3d_lowers")


def test_fold_all_takes_out_of_fold_maps_first_and_those_of_its_own_localizer_else(make):
    trainer = make(fold="all")
    fitted = write_localizer_maps(trainer, fold_all=True)
    assert trainer._localizer_maps(CASES) == fitted
    assert "trained on these cases" in Path(trainer.log_file).read_text()
    assert make(fold="all")._localizer_maps(CASES[:1]) == fitted
    with pytest.raises(FileNotFoundError, match="4 cases"):
        make(fold=0)._localizer_maps(CASES)
    out_of_fold = write_localizer_maps(trainer)
    assert make(fold="all")._localizer_maps(CASES) == out_of_fold


def test_the_localizers_boxes_are_measured_against_the_references(make):
    localizer, segmenter = make(configuration="3d_lowres"), make()
    maps = write_localizer_maps(segmenter)
    shifted = np.roll(label_map(), 1, axis=2)  # one voxel, 2 mm, along the second axis
    shifted[shifted == 3] = 0
    nnUNetDatasetBlosc2.save_seg(shifted[0].astype(np.uint8), str(maps / "head_3"))
    records = localizer._measure_boxes("3d_cascade_fullres", maps)
    assert list(records) == ["head_3"]
    assert records["head_3"]["error_mm"] == pytest.approx([0.0, 2.0, 0.0], abs=1e-6)
    assert records["head_3"]["localizer_found"] == [1, 2]
    assert records["head_3"]["organ_error_mm"] == {"1": [0.0, 2.0, 0.0], "2": [0.0, 2.0, 0.0]}
    assert records["head_3"]["label_crop_pass_rate"] == 1.0
    nnUNetDatasetBlosc2.save_seg(np.zeros(SHAPE, np.uint8), str(maps / "head_3"))
    record = localizer._measure_boxes("3d_cascade_fullres", maps)["head_3"]
    assert record["fallback_whole_volume"]
    assert record["error_mm"] is None


def test_the_report_of_the_boxes_is_written_and_logged(make):
    trainer = make()
    folder = Path(trainer.output_folder, "validation")
    folder.mkdir()
    record = {"localizer_found": [1], "voters": [1], "outliers": [], "fallback_whole_volume": False}
    records = {"a": {**record, "label_crop_pass_rate": 1.0}, "b": {**record, "label_crop_pass_rate": 0.9}}
    trainer._report_boxes(records)
    report = json.loads((folder / "label_crop_pass_rate.json").read_text())
    assert report == {"mean": pytest.approx(0.95), "missed": [], "cases": records}
    log = Path(trainer.log_file).read_text()
    check_file(report, "label_crop_pass_rate.json")
    assert "b: the ROI holds only 90.00 %" in log
    assert "Label crop pass rate: 95.00 % (mean over 2 cases)" in log
    assert "The localizer missed 0 of 2 cases." in log
