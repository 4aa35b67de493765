"""The trainer trains other groups' networks, in the phases of their papers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_cases import DATASET, PATCH, SHAPE, SPACING_MM, rule

from nnunet_ext.rivals.anatomynet import AnatomyNet
from nnunet_ext.rivals.focusnet import PARTS
from nnunet_ext.training.phases import PhasedOptimizer, TrainingPhase

ENTRIES = {
    "architecture": {
        "network_class_name": "nnunet_ext.rivals.anatomynet.AnatomyNet",
        "arch_kwargs": {"width": 0.25},
        "_kw_requires_import": [],
    },
    "phases": [
        TrainingPhase(3, "rmsprop", 5e-4).to_plan(),
        TrainingPhase(1, "sgd", 1e-4, momentum=0.9).to_plan(),
    ],
    "deep_supervision": False,
}
OPTIONS = {"configuration": "3d_fullres", "entries": ENTRIES, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1}


def test_a_network_of_another_group_trains_in_its_phases_and_is_validated(make):
    trainer = make(num_epochs=4, **OPTIONS)
    trainer.run_training()
    rates = trainer.logger.get_value("lrs", step=None)
    assert rates == pytest.approx([5e-4, 5e-4, 5e-4, 1e-4])
    assert isinstance(trainer.network, AnatomyNet)
    assert isinstance(trainer.optimizer, PhasedOptimizer)
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    assert trainer.dataset_json["trained_with"]["phases"] == ENTRIES["phases"]
    trainer.set_deep_supervision_enabled(False)  # as nnU-Net does before the final validation
    assert not hasattr(trainer.network.decoder, "deep_supervision")


def test_a_resumed_training_goes_on_in_its_phase(make):
    trainer = make(num_epochs=4, **OPTIONS)
    trainer.initialize()
    trainer.current_epoch = 3
    trainer.lr_scheduler.step()
    trainer.on_train_start()
    trainer.train_step(next(trainer.dataloader_train))
    file = Path(trainer.output_folder, "checkpoint_latest.pth")
    trainer.current_epoch = 2  # nnU-Net counts the epoch after saving
    trainer.save_checkpoint(str(file))

    resumed = make(num_epochs=4, **OPTIONS)
    resumed.load_checkpoint(str(file))
    assert resumed.current_epoch == 3
    assert isinstance(resumed.optimizer.optimizer, torch.optim.SGD)
    assert resumed.optimizer.state  # momentum


def test_a_training_shorter_than_its_phases_gives_each_its_share(make):
    trainer = make(num_epochs=1, **{**OPTIONS, "iterations_per_epoch": 4})
    trainer.initialize()
    rates = []
    for trainer.iterations_this_epoch in range(4):
        trainer.lr_scheduler.step()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == [5e-4, 5e-4, 5e-4, 1e-4]


def test_a_wrong_phase_names_the_configuration(make):
    entries = {**ENTRIES, "phases": [{"num_epochs": 1, "optimizer": "lion", "initial_lr": 1.0}]}
    with pytest.raises(ValueError, match=r"configuration '3d_fullres': phases\[0\].optimizer is 'lion'"):
        make(**{**OPTIONS, "entries": entries})


def test_a_gpu_with_too_little_memory_is_named_with_the_ways_out(make):
    trainer = make(num_epochs=1, **OPTIONS)
    trainer.initialize()
    trainer.on_train_start()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    trainer.network.register_forward_pre_hook(full)
    size = "x".join(map(str, PATCH))
    with pytest.raises(
        ValueError, match=f"'3d_fullres': the GPU has too little memory for a batch of 2 with {size}"
    ) as said:
        trainer.train_step(next(trainer.dataloader_train))
    assert "-pl CascadeOARPlannerSmall" in str(said.value)
    assert str(said.value).endswith("-device cpu")


# ------------------------------------------------------------------------------------------------ parts

PARTED = {
    "architecture": {
        "network_class_name": "nnunet_ext.rivals.focusnet.FocusNet",
        "arch_kwargs": {"width": 0.1, "small_labels": [3]},
        "_kw_requires_import": [],
    },
    "phases": [TrainingPhase(1, "adam", 1e-3, part=part).to_plan() for part in PARTS],
    "deep_supervision": False,
}


def test_the_best_epoch_is_one_of_the_last_part_however_good_an_earlier_one_was(make, monkeypatch):
    options = {**OPTIONS, "entries": PARTED, "iterations_per_epoch": 1}
    trainer = make(num_epochs=3, **options)
    end = trainer.on_epoch_end

    def on_epoch_end() -> None:
        end()
        if trainer.current_epoch == 1:
            trainer._best_ema = 2.0  # better than any can be

    monkeypatch.setattr(trainer, "on_epoch_end", on_epoch_end)
    trainer.run_training()
    assert PARTS[int(trainer.network.part)] == PARTS[-1]
    assert trainer.optimizer.first_epoch == 2

    resumed = make(num_epochs=3, **options)
    resumed.load_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    assert resumed._best_ema == resumed.scores()[2]


# ------------------------------------------------------------------------------------------------ slices


def flat(plans_entry: dict) -> dict:
    """The network of a configuration with slices instead of volumes."""
    options = plans_entry["arch_kwargs"]
    return {
        **plans_entry,
        "arch_kwargs": {
            **options,
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "dropout_op": None,
            "kernel_sizes": [kernel[1:] for kernel in options["kernel_sizes"]],
            "strides": [stride[1:] for stride in options["strides"]],
        },
    }


@pytest.fixture
def sliced(make, cascade_plans):
    """A trainer whose network sees slices along the plan's first axis."""

    def trainer(forward=(0, 1, 2), **options):
        plans = cascade_plans(spacing_mm=SPACING_MM, roi=rule(()).to_plan(), patch_size=PATCH)
        architecture = plans["configurations"]["3d_fullres"]["architecture"]
        entries = {"architecture": flat(architecture), "patch_size": list(PATCH[1:]), "deep_supervision": False}
        return make(configuration="3d_fullres", entries=entries, forward=forward, **options)

    return trainer


def test_a_network_of_slices_trains_and_predicts_whole_volumes(sliced):
    trainer = sliced(num_epochs=1, iterations_per_epoch=2, val_iterations_per_epoch=1)
    trainer.run_training()
    predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=trainer.device)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, DATASET, "CascadeOARTrainer", None
    )
    trainer.network.eval()
    image = torch.rand(3, *SHAPE)
    logits = predictor.predict_sliding_window_return_logits(image)
    assert logits.shape == (4, *SHAPE)
    image[:, 0] = 0  # a slice does not see the others
    again = predictor.predict_sliding_window_return_logits(image)
    assert torch.equal(again[:, 1:], logits[:, 1:])
    assert not torch.equal(again[:, 0], logits[:, 0])


@pytest.mark.parametrize(("forward", "axis"), [((0, 1, 2), 1), ((0, 2, 1), 0), ((2, 0, 1), None)])
def test_slices_are_mirrored_along_the_left_right_axis_that_they_have(sliced, forward, axis):
    transform = sliced(forward=forward).mirror_transform()
    assert transform.allowed_axes == (() if axis is None else (axis,))
    if axis is not None:
        sample = torch.zeros(1, 4, 4, dtype=torch.int16)
        sample[0, 1, 2] = 1
        expected = torch.zeros(1, 4, 4, dtype=torch.int16)
        expected[(0, 2, 2) if axis == 0 else (0, 1, 1)] = 2
        assert torch.equal(transform._apply_to_segmentation(sample, axes=transform.allowed_axes), expected)
