"""A trunk, a kill, and a branch, on a data set of four tiny cases."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_ext.end_to_end.learning.study import branch_file
from nnunet_ext.end_to_end.learning.trainers import CascadeOARTrainer, CountsSeconds, epoch_seconds, go_on

OPTIONS = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "initial_lr": 0.01}


@pytest.fixture
def make_one(make):
    """A trainer of a folder of its own, by the name of its folder."""

    def trainer(name: str, branches=(), **training) -> CascadeOARTrainer:
        made = make(CascadeOARTrainer, "3d_fullres", **OPTIONS, **training)
        made.output_folder = str(Path(made.output_folder_base).with_name(name) / "fold_0")
        Path(made.output_folder).mkdir(parents=True, exist_ok=True)
        made.branch_epochs = branches
        return made

    return trainer


def weights(trainer) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in trainer.network.parameters()])


def test_a_branch_goes_on_from_the_trunk_and_ends_annealed(make_one):
    trunk = make_one("trunk", {2, 4}, num_epochs=4, constant_share=1.0)
    trunk.run_training()
    folder = Path(trunk.output_folder)
    assert len(epoch_seconds(folder)) == 4
    assert min(epoch_seconds(folder)) > 0
    assert not (folder / "checkpoint_best.pth").exists()
    branch = make_one("branch", num_epochs=3, constant_share=2 / 3)
    go_on(branch, branch_file(folder, 2))
    assert branch.current_epoch == 2
    branch.run_training()
    assert branch.current_epoch == 3
    assert branch.optimizer.param_groups[0]["lr"] < 0.01
    final = torch.load(Path(branch.output_folder, "checkpoint_final.pth"), weights_only=False)
    assert (final["current_epoch"], final["trainer_name"]) == (3, "CascadeOARTrainer")


def test_a_longer_mark_goes_on_with_the_trunk_that_had_ended(make_one):
    first = make_one("trunk", {2}, num_epochs=2, constant_share=1.0)
    first.run_training()
    second = make_one("trunk", {2, 3}, num_epochs=3, constant_share=1.0)
    go_on(second)
    assert second.current_epoch == 2
    assert np.array_equal(weights(second), weights(first))
    second.run_training()
    folder = Path(second.output_folder)
    assert sorted(f.name for f in folder.glob("branch_*")) == ["branch_2.pth", "branch_3.pth"]
    assert len(epoch_seconds(folder)) == 3


def test_a_kill_before_the_branch_point_was_kept_is_made_good(make_one):
    trunk = make_one("trunk", {2}, num_epochs=2, constant_share=1.0)
    trunk.run_training()
    kept = branch_file(Path(trunk.output_folder), 2)
    kept.unlink()
    go_on(make_one("trunk", {2}, num_epochs=2, constant_share=1.0))
    assert torch.load(kept, weights_only=False)["current_epoch"] == 2


class Epochs:
    """What the seconds of an epoch are counted around."""

    def on_epoch_start(self) -> None: ...

    def on_epoch_end(self) -> None: ...


class Counted(CountsSeconds, Epochs): ...


@pytest.mark.parametrize(
    ("device", "file", "waits_count"), [("cpu", "cpu_s.json", False), ("cuda", "clock_s.json", True)]
)
def test_waiting_counts_on_a_gpu_only(tmp_path, device, file, waits_count):
    counted = Counted()
    counted.device, counted.output_folder, counted.current_epoch = torch.device(device), str(tmp_path), 0
    counted.on_epoch_start()
    time.sleep(0.3)
    counted.on_epoch_end()
    [seconds] = epoch_seconds(tmp_path)
    assert (tmp_path / file).is_file()
    assert (seconds > 0.29) is waits_count


def test_epochs_that_were_lost_in_a_kill_are_not_counted_twice(make_one):
    trunk = make_one("trunk", {1}, num_epochs=3, constant_share=1.0)
    trunk.run_training()
    folder = Path(trunk.output_folder)
    before = epoch_seconds(folder)
    (folder / "checkpoint_final.pth").unlink()
    again = make_one("trunk", num_epochs=3, constant_share=1.0)
    go_on(again, branch_file(folder, 1))
    again.run_training()
    assert len(epoch_seconds(folder)) == 3
    assert epoch_seconds(folder)[0] == before[0]
