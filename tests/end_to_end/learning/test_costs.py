"""Timing in turns, with trainers that take as long as they say."""

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nnunet_ext.end_to_end.learning.costs import (
    TIMED_GPU,
    TIMED_UNEVEN,
    costs_of,
    in_turns,
    problem_of,
    write_stand_ins,
)
from nnunet_ext.end_to_end.learning.study import Settings, Study
from nnunet_ext.training.recipe import TrainingRecipe
from nnunet_ext.training.schedule import TrainingSchedule


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Timed:
    """A trainer whose first two iterations take a minute longer."""

    def __init__(self, name: str, train_s: float, val_s: float, clock: Clock, log: list[str]) -> None:
        self.name, self.train_s, self.val_s, self.clock, self.log = name, train_s, val_s, clock, log
        self.dataloader_train, self.dataloader_val = count(), count()
        self.network = self

    def on_train_start(self) -> None: ...

    def on_train_epoch_start(self) -> None: ...

    def eval(self) -> None: ...

    def train_step(self, batch: int) -> None:
        self.log.append(self.name)
        self.clock.now_s += self.train_s + 60 * (batch < 2)

    def validation_step(self, batch: int) -> None:
        self.clock.now_s += self.val_s + 60 * (batch < 1)


def test_trainers_take_turns_and_the_warm_up_does_not_count():
    clock, log = Clock(), []
    trainers = [Timed("ours", 1.0, 0.25, clock, log), Timed("stock", 3.0, 0.5, clock, log)]
    (ours, ours_val), (stock, stock_val) = in_turns(trainers, timed=3, warm_up=2, clock=clock)
    assert (ours, ours_val, stock, stock_val) == pytest.approx((1.0, 0.25, 3.0, 0.5))
    assert log == ["ours", "stock"] * 5
    assert all(trainer.disable_checkpointing for trainer in trainers)


@pytest.mark.parametrize(
    ("on_gpu", "order"),
    [(False, ["ours", "stock"] * 5), (True, ["ours"] * 2 * TIMED_GPU + ["stock"] * 2 * TIMED_GPU)],
)
def test_on_a_gpu_each_trainer_has_it_to_itself(on_gpu, order):
    clock, log = Clock(), []
    study = SimpleNamespace(on_gpu=on_gpu, settings=SimpleNamespace(device="cpu"))
    makers = [lambda name=name: Timed(name, 1.0, 0.25, clock, log) for name in ("ours", "stock")]
    assert len(costs_of(study, *makers, timed=3, warm_up=2)) == 2
    assert log == order


def test_where_iterations_differ_in_what_they_cost_more_of_them_are_timed():
    clock, log = Clock(), []
    study = SimpleNamespace(on_gpu=False, settings=SimpleNamespace(device="cpu"))
    costs_of(study, lambda: Timed("ours", 1.0, 0.25, clock, log), timed=3, warm_up=2, uneven=True)
    assert len(log) == 2 + TIMED_UNEVEN


def test_guidance_is_timed_with_references_for_the_localizers_maps(make):
    trainer = make(recipe={"guidance": True})
    write_stand_ins(Path(trainer.preprocessed_dataset_folder), Path(trainer.folder_with_segs_from_previous_stage))
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[1])
    guide, target = batch["data"][:, 3:], batch["target"][0][:, 0]
    assert target.max() == len(guide[0]) == 3
    for channel in range(3):
        assert torch.equal(guide[:, channel] > 0, target == channel + 1)


@pytest.mark.parametrize(
    ("name", "network", "problem"),
    [
        ("default", "nnunet_ext.CascadeUNet", None),
        ("AnatomyNet", "nnunet_ext.rivals.anatomynet.AnatomyNet", None),
        ("FocusNet", "nnunet_ext.rivals.focusnet.FocusNet", None),
        ("FocusNet", "nnunet_ext.rivals.anatomynet.AnatomyNet", "unexpected keyword argument 'small_labels'"),
    ],
)
def test_a_system_can_be_trained_if_its_network_and_its_entries_can_be_made(
    tmp_path, cascade_plans, name, network, problem
):
    """Networks of other groups have no deep supervision, which others have."""
    study = Study(tmp_path / "out", tmp_path / "runs", Settings("heads", "/cases", n_train=2, n_test=1))
    plans = cascade_plans(roi={}, channels=("CT",))
    for entry in plans["configurations"].values():
        if "training" in entry:
            entry |= {"recipe": vars(TrainingRecipe()), "training": vars(TrainingSchedule())}
    for configuration, options in (("3d_anatomynet", {}), ("3d_focusnet", {"small_labels": [1]})):
        architecture = {"network_class_name": network, "arch_kwargs": options, "_kw_requires_import": []}
        plans["configurations"][configuration] = {
            "inherits_from": "3d_fullres",
            "deep_supervision": False,
            "architecture": architecture,
        }
    study.preprocessed().mkdir(parents=True)
    (study.preprocessed() / f"{study.plans_name}.json").write_text(json.dumps(plans))
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "Eye_L": 1, "Eye_R": 2}}
    (study.preprocessed() / "dataset.json").write_text(json.dumps(dataset))
    found = problem_of(study, name, None)
    assert found is None if problem is None else problem in found
