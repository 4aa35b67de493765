"""Each method learns the organs of one phantom by heart, with the losses, optimizers and network of the small plan.

A voxel costs the same everywhere, so they are shown the part of the head that has organs. The whole head would take a
quarter of an hour. Volumes are shown twice in a batch, because torch computes small ones of one sample several times slower.
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

from nnunet_ext.rivals import deeplab
from nnunet_ext.rivals.focusnet import CROPS, LOCALISATION, SEGMENTATION
from nnunet_ext.rivals.small_organs import peaks
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

pytestmark = pytest.mark.long
DATASET, PLANS = "Dataset605_Overfit", "CascadeOARPlansSmall"
#: Of the phantom, with axial slices a little thicker than their pixels, so that these are what DeepLabv3+ sees.
SPACING_MM = ("2.5", "2.4", "2.4")
#: Around the organs.
MARGIN_VOXELS = 2
#: Slices of a batch of DeepLabv3+.
N_SLICES = 8


@pytest.fixture(scope="module")
def planned(tmp_path_factory, shared_phantom, forked) -> Path:
    """A phantom, converted, planned and preprocessed by the commands."""
    folder = tmp_path_factory.mktemp("overfit")
    paths = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    shared_phantom.write(folder / "phantoms", n_cases=1, size="tiny")
    convert = ["nnunet_ext", "convert", str(folder / "phantoms"), "-d", "605", "-n", "Overfit", "-np", "1"]
    plan = ["nnUNetv2_plan_and_preprocess", "-d", "605", "-pl", "CascadeOARPlannerSmall", "-c", "3d_anatomynet"]
    environment = {**os.environ, **paths}
    plan += ["-overwrite_target_spacing", *SPACING_MM, "-npfp", "1", "-np", "1"]
    for command in (convert, plan):
        done = subprocess.run([*forked, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def trainer(planned, monkeypatch):
    """The trainer of a configuration, ready to train."""

    def make(configuration: str, n_iterations: int, of_parts: dict[str, int] | None = None) -> CascadeOARTrainer:
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", str(planned / name))
        folder = planned / "preprocessed" / DATASET
        plans = json.loads((folder / f"{PLANS}.json").read_text()) | {"continue_training": False}
        length = {"num_epochs": 1, "iterations_per_epoch": n_iterations}  # each phase has its share
        plans["configurations"][configuration]["training"].update(length)
        for phase in plans["configurations"][configuration]["phases"] if of_parts else ():
            shorter = of_parts[phase["part"]] / phase["num_epochs"]
            phase["milestones"] = [round(epoch * shorter) for epoch in phase["milestones"]]
            phase["num_epochs"] = of_parts[phase["part"]]
        dataset_json = json.loads((folder / "dataset.json").read_text())
        torch.manual_seed(0)
        made = CascadeOARTrainer(plans, configuration, "all", dataset_json, torch.device("cpu"))
        made.initialize()
        made.network.train()
        return made

    return make


@pytest.fixture
def batch(planned) -> dict[str, torch.Tensor]:
    """Images `(2, C, Z, Y, X)` and organs `(2, 1, Z, Y, X)`, twice the same, of the part of the head that has organs."""
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
    volumes = torch.tensor(images, dtype=torch.float32), torch.tensor(target).short()
    return {name: volume[None].repeat(2, 1, 1, 1, 1) for name, volume in zip(("data", "target"), volumes, strict=True)}


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


def learned(found: dict[str, float]) -> None:
    assert len(found) == 7
    assert min(found.values()) > 60, found


def test_anatomynet_learns_every_organ_of_a_phantom(trainer, batch):
    n_iterations = 700  # three minutes
    anatomynet = trainer("3d_anatomynet", n_iterations)
    for _ in range(n_iterations):
        anatomynet.train_step(batch)
    learned(dsc_percent(anatomynet, batch))


def test_focusnet_learns_every_organ_of_a_phantom_and_the_centres_of_the_small_ones(trainer, batch):
    """Half of the centres within 5 mm, two voxels. After 400 iterations one of five was 6.2 mm off, a nerve's."""
    of_parts = {SEGMENTATION: 300, LOCALISATION: 400, CROPS: 400}
    n_iterations = sum(of_parts.values())
    focusnet = trainer("3d_focusnet", n_iterations, of_parts)
    for _ in range(n_iterations):
        focusnet.train_step(batch)
    learned(dsc_percent(focusnet, batch))
    network = focusnet.network.eval()
    assert len(network.small_labels) >= 3  # lenses and chiasm
    with torch.no_grad():
        _, last, first = network.snet(batch["data"])
        highest = peaks(network.centres(torch.cat([last, first], 1)), (1, 1, 1))[0].numpy()
    off_mm = {}
    for label, at in zip(network.small_labels, highest, strict=True):
        centre = np.argwhere(batch["target"][0, 0].numpy() == label).mean(0)
        off_mm[label] = np.linalg.norm((at - centre) * focusnet.configuration_manager.spacing)
    assert np.median(list(off_mm.values())) < 5, off_mm
    assert max(off_mm.values()) < 8, off_mm


@pytest.mark.skipif(deeplab.library_problem() is not None, reason="no segmentation-models-pytorch")
def test_deeplab_learns_every_organ_of_a_phantom(trainer, batch):
    """On slices of twice as fine pixels, as patients have them. Its logits lie on every fourth pixel of a slice."""
    n_iterations = 700
    slices = {name: volume[0].transpose(0, 1) for name, volume in batch.items()}
    with_organs = slices["target"].flatten(1).any(1)
    slices = {
        name: torch.nn.functional.interpolate(volume[with_organs].float(), scale_factor=2, mode=mode).to(volume.dtype)
        for (name, volume), mode in zip(slices.items(), ("bilinear", "nearest"), strict=True)
    }
    network = trainer("2d_deeplab", n_iterations)
    order = torch.Generator().manual_seed(0)
    for _ in range(n_iterations):
        seen = torch.randperm(len(slices["data"]), generator=order)[:N_SLICES]
        network.train_step({name: volume[seen] for name, volume in slices.items()})
    learned(dsc_percent(network, slices))
