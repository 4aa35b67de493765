"""Each method learns the organs of one phantom by heart, with the losses, optimizers and network of the small plan.

A voxel costs the same everywhere, so they are shown the part of the head that has organs. The whole head would take a
quarter of an hour.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

pytestmark = pytest.mark.long
DATASET, PLANS = "Dataset605_Overfit", "CascadeOARPlansSmall"
#: Around the organs.
MARGIN_VOXELS = 6


@pytest.fixture(scope="module")
def planned(tmp_path_factory, shared_phantom, forked) -> Path:
    """A phantom, converted, planned and preprocessed by the commands."""
    folder = tmp_path_factory.mktemp("overfit")
    paths = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    shared_phantom.write(folder / "phantoms", n_cases=1, size="tiny")
    convert = ["nnunet_ext", "convert", str(folder / "phantoms"), "-d", "605", "-n", "Overfit", "-np", "1"]
    plan = ["nnUNetv2_plan_and_preprocess", "-d", "605", "-pl", "CascadeOARPlannerSmall", "-c", "3d_anatomynet"]
    environment = {**os.environ, **paths}
    for command in (convert, [*plan, "-npfp", "1", "-np", "1"]):
        done = subprocess.run([*forked, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def trainer(planned, monkeypatch):
    """The trainer of a configuration, ready to train."""

    def make(configuration: str) -> CascadeOARTrainer:
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", str(planned / name))
        folder = planned / "preprocessed" / DATASET
        plans = json.loads((folder / f"{PLANS}.json").read_text()) | {"continue_training": False}
        dataset_json = json.loads((folder / "dataset.json").read_text())
        torch.manual_seed(0)
        made = CascadeOARTrainer(plans, configuration, "all", dataset_json, torch.device("cpu"))
        made.initialize()
        made.network.train()
        return made

    return make


@pytest.fixture
def batch(planned) -> dict[str, torch.Tensor]:
    """Images and organs `(1, C, Z, Y, X)`, of the part of the head that has organs."""
    cases = nnUNetDatasetBlosc2(str(planned / "preprocessed" / DATASET / f"{PLANS}_3d_fullres"))
    data, labels, *_ = cases.load_case(cases.identifiers[0])
    data, labels = np.asarray(data[:]), np.maximum(np.asarray(labels[:]), 0)
    where = np.argwhere(labels[0] > 0)
    box = []
    for lowest, highest, n in zip(where.min(0), where.max(0) + 1, labels.shape[1:], strict=True):
        size = min(n, -(-(highest - lowest + 2 * MARGIN_VOXELS) // 8) * 8)
        start = int(np.clip(lowest - MARGIN_VOXELS, 0, n - size))
        box.append(slice(start, start + size))
    images, target = data[(slice(None), *box)], labels[(slice(None), *box)]
    return {"data": torch.tensor(images, dtype=torch.float32)[None], "target": torch.tensor(target).short()[None]}


def dsc_percent(trainer: CascadeOARTrainer, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Organ -> DSC of what the network makes of its own training images."""
    trainer.network.eval()
    with torch.no_grad():
        found, wanted = trainer.network(batch["data"]).argmax(1), batch["target"][:, 0]
    trainer.network.train()
    labels = trainer.dataset_json["labels"]
    return {
        organ: float(
            200 * ((found == value) & (wanted == value)).sum() / ((found == value).sum() + (wanted == value).sum())
        )
        for organ, value in labels.items()
        if organ != "background" and bool((wanted == value).any())
    }


def test_anatomynet_learns_every_organ_of_a_phantom(trainer, batch):
    anatomynet = trainer("3d_anatomynet")
    for _ in range(350):
        anatomynet.train_step(batch)
    found = dsc_percent(anatomynet, batch)
    assert len(found) == 7
    assert min(found.values()) > 60, found
