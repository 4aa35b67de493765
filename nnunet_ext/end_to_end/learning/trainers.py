"""Trainers of the study: checkpoints at branch points, seconds per epoch, no schedule that reads a clock."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from time import perf_counter, process_time, time

import torch
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

# Not by its name: nnU-Net's finder would import all its trainers, some of which need more than nnU-Net does.
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring

from nnunet_ext.end_to_end.learning.study import CPU, branch_file
from nnunet_ext.files import read_json, write_json, written_whole
from nnunet_ext.trainers import cascade_oar_trainer, cascade_oar_trainer_reference
from nnunet_ext.training.schedule import TRAINING_KEY

#: Seconds of each epoch: processor time on a CPU, else by the clock.
CPU_FILE, CLOCK_FILE = "cpu_s.json", "clock_s.json"
#: Shortest time between two `checkpoint_latest` of stock, in s. It decides what a kill costs, and nothing else.
LATEST_EVERY_S = 300.0


class PlainLogger(MetaLogger):
    """nnU-Net's, without the picture of every epoch, which takes longer than a short epoch."""

    def plot_progress_png(self, output_folder: str) -> None:
        """Draws nothing."""


class CountsSeconds:
    """Writes the seconds of each epoch to `cpu_s.json`, checkpoints and pictures aside, over all resumptions.

    These are of processor time. On a GPU they are of the clock, and the file is `clock_s.json`.
    """

    # Of nnU-Net's trainer, which this class is mixed into.
    device: torch.device
    output_folder: str
    current_epoch: int

    @property
    def seconds_file(self) -> Path:
        return Path(self.output_folder, CPU_FILE if self.device.type == CPU else CLOCK_FILE)

    def _now_s(self) -> float:
        return process_time() if self.device.type == CPU else perf_counter()

    def on_epoch_start(self) -> None:
        self.epoch_began_s = self._now_s()
        super().on_epoch_start()  # type: ignore[misc]  # of nnU-Net's trainer, which this class is mixed into

    def on_epoch_end(self) -> None:
        file = self.seconds_file
        before = epoch_seconds(file.parent)[: self.current_epoch]
        write_json([*before, round(self._now_s() - self.epoch_began_s, 3)], file)
        super().on_epoch_end()  # type: ignore[misc]  # of nnU-Net's trainer


def epoch_seconds(folder: Path) -> list[float]:
    """Seconds of each epoch of a training, of processor time or of the clock."""
    found = [file for file in (folder / CPU_FILE, folder / CLOCK_FILE) if file.is_file()]
    return read_json(found[0], [float]) if found else []


class _Branching(CountsSeconds):
    """Keeps full checkpoints at branch points, and ends with the last epoch's weights."""

    #: Epochs after which `branch_file` is written.
    branch_epochs: Collection[int] = ()

    def save_checkpoint(self, filename: str) -> None:
        """As the base, without `checkpoint_best`. The last epoch is annealed, and a short validation is noise."""
        if Path(filename).name != "checkpoint_best.pth":
            super().save_checkpoint(filename)  # type: ignore[misc]  # of nnU-Net's trainer

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.current_epoch in self.branch_epochs:
            self.current_epoch -= 1  # nnU-Net counts the epoch after saving
            self.save_checkpoint(str(branch_file(Path(self.output_folder), self.current_epoch + 1)))
            self.current_epoch += 1


class CascadeOARTrainer(_Branching, cascade_oar_trainer.CascadeOARTrainer):
    """Has the name of its base, by which predictions look up the network."""


class CascadeOARTrainerReference(_Branching, cascade_oar_trainer_reference.CascadeOARTrainerReference):
    """The same for the reference study's trainer. Its rate is constant in the branches too.

    All systems are compared at equal time, so its schedule is that of the others.
    """

    schedule_keys = (TRAINING_KEY,)


class _Resumable(CountsSeconds):
    """Stock's checkpoints, whole or not at all, as often as ours."""

    saved_latest_s: float | None = None

    def on_epoch_end(self) -> None:
        due = self.saved_latest_s is None or time() - self.saved_latest_s >= LATEST_EVERY_S
        self.save_every = 1 if due else cascade_oar_trainer.NEVER
        super().on_epoch_end()

    def save_checkpoint(self, filename: str) -> None:
        file = Path(filename)
        if file.name == "checkpoint_best.pth":
            return
        with written_whole(file, flush=True) as temporary:
            super().save_checkpoint(str(temporary))  # type: ignore[misc]  # of nnU-Net's trainer
        if file.name == "checkpoint_latest.pth":
            self.saved_latest_s = time()


class StockTrainer(_Resumable, nnUNetTrainerNoMirroring):
    """nnU-Net's trainer without mirroring, which would exchange left and right organs."""


class StockTrainerMirroring(_Resumable, nnUNetTrainer):
    """nnU-Net's trainer as it is."""


TRAINERS = {
    trainer.__name__: trainer
    for trainer in (CascadeOARTrainer, CascadeOARTrainerReference, StockTrainer, StockTrainerMirroring)
}


def go_on(trainer: nnUNetTrainer, start: Path | None = None) -> None:
    """Continue from the training's own checkpoint if there is one, else from `start`, else anew.

    A kill between the checkpoint of an epoch and its copy as a branch point is made good.
    """
    folder = Path(trainer.output_folder)
    files = [folder / "checkpoint_final.pth", folder / "checkpoint_latest.pth", *([] if start is None else [start])]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        return
    trainer.load_checkpoint(str(found))
    branch = branch_file(folder, trainer.current_epoch)
    if trainer.current_epoch in getattr(trainer, "branch_epochs", ()) and not branch.is_file():
        with written_whole(branch, flush=True) as temporary:
            shutil.copyfile(found, temporary)
