"""Trains one stage of one model for one leg. A leg ends with annealed weights, and the next one warms up anew."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import torch
from nnunetv2.paths import nnUNet_preprocessed
from torch import nn

from nnunet_ext.end_to_end.learning import trainers
from nnunet_ext.end_to_end.learning.trainers import PlainLogger, epoch_seconds, go_on
from nnunet_ext.end_to_end.starter.plan import PLANS
from nnunet_ext.files import read_json
from nnunet_ext.nnunet_folders import read_dataset_json
from nnunet_ext.prediction.bfloat16 import has_bfloat16
from nnunet_ext.training.foreign_models import read_weights


class CascadeOARTrainer(trainers.CascadeOARTrainer):
    """Computes the networks in bfloat16 where the processor has it, in half to two thirds of the time. Losses have 32 bits.

    It has the name of its base, by which predictions look up the network.
    """

    def initialize(self) -> None:
        super().initialize()
        self.network.register_forward_hook(_in_32_bits)

    def train_step(self, batch: dict) -> dict:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            return super().validation_step(batch)


def _in_32_bits(
    _network: nn.Module, _images: object, logits: torch.Tensor | list[torch.Tensor]
) -> torch.Tensor | list[torch.Tensor]:
    return logits.float() if isinstance(logits, torch.Tensor) else [part.float() for part in logits]


def train_leg(
    dataset: str, *, configuration: str, fold: int | str, n_epochs: int, start: Path | None, seed: int
) -> dict[str, float]:
    """Train up to the end of a leg. A killed leg goes on from its checkpoint.

    Args:
        dataset: Folder name of the data set.
        configuration: Localizer or segmenter.
        fold: Of the splits, or `all`.
        n_epochs: Of this leg.
        start: Weights of the leg before. None begins with random ones.
        seed: Of weights and augmentation.

    Returns:
        Iterations and CPU seconds of this leg.
    """
    folder = Path(str(nnUNet_preprocessed), dataset)
    plans = read_json(folder / f"{PLANS}.json")
    training = plans["configurations"][configuration]["training"]
    training["num_epochs"] = n_epochs
    _seed(seed)
    trainer = CascadeOARTrainer(
        plans | {"continue_training": False},
        configuration,
        fold,  # type: ignore[arg-type]  # nnU-Net takes "all", too
        read_dataset_json(folder / "dataset.json"),
        torch.device("cpu"),
    )
    trainer.logger = PlainLogger(trainer.output_folder, False)
    output = Path(trainer.output_folder)
    go_on(trainer)
    if start is not None and trainer.current_epoch == 0:
        trainer.initialize()
        trainer.network.load_state_dict({k: v.float() for k, v in read_weights(start)["network_weights"].items()})
    _seed(seed + trainer.current_epoch)  # what goes on must not draw the samples of its beginning again
    if not (output / "checkpoint_final.pth").is_file():
        trainer.run_training()
    return {
        "iterations": n_epochs * training["iterations_per_epoch"],
        "cpu_s": round(sum(epoch_seconds(output)), 1),
    }


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


if __name__ == "__main__":
    import json
    import sys

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    options = json.loads(sys.argv[1])
    print(json.dumps(train_leg(**{**options, "start": options["start"] and Path(options["start"])})))
