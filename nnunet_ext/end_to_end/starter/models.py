"""A trained pair of networks as the model folders that are shipped: weights in 16 bits, and nothing else."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.files import write_json, written_whole
from nnunet_ext.labels.pairs import dataset_pairs
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, read_dataset_json
from nnunet_ext.postprocessing.choice import KEY
from nnunet_ext.postprocessing.steps import OWN_SIDE, Step
from nnunet_ext.starter import shipped
from nnunet_ext.training.foreign_models import read_weights

STAGES = (LOCALIZER, SEGMENTER)


def folder_name(configuration: str) -> str:
    """nnU-Net's name of the folder of a stage, also in the package."""
    return {LOCALIZER: shipped.LOCALIZER, SEGMENTER: shipped.SEGMENTER}[configuration]


def pack(results: Path, out: Path, *, fold: int | str) -> Path:
    """Write both stages of a model into `out`, as a model of all cases (`fold_all`).

    Args:
        results: nnU-Net's results folder of the data set.
        out: Folder of the model folders.
        fold: That was trained.

    Returns:
        `out`.
    """
    for stage in STAGES:
        source, target = results / folder_name(stage), out / folder_name(stage)
        (target / "fold_all").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "plans.json", target / "plans.json")
        dataset_json = read_dataset_json(source / "dataset.json")
        brought = with_own_sides(dataset_json) if stage == SEGMENTER else dataset_json
        write_json(brought, target / "dataset.json", indent=4)
        checkpoint = read_weights(source / f"fold_{fold}" / "checkpoint_final.pth")
        halved = {
            "network_weights": in_16_bits(checkpoint["network_weights"]),
            "trainer_name": checkpoint["trainer_name"],
            "init_args": {"configuration": checkpoint["init_args"]["configuration"], "fold": "all"},
            "inference_allowed_mirroring_axes": None,
        }
        with written_whole(target / "fold_all" / "checkpoint_final.pth") as temporary:
            torch.save(halved, temporary)
    return out


def with_own_sides(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """A `dataset.json` whose model gives what lies across the midline to the organ of that side.

    It is a rule and no choice of a cross-validation: a left organ is not on the right.
    """
    organs = [organ for pair in dataset_pairs(dataset_json) for organ in pair]
    return {**dataset_json, KEY: {"organs": {organ: [Step(OWN_SIDE).to_json()] for organ in sorted(organs)}}}


def ship(model: Path, folder: Path, *, version: str) -> None:
    """Put a packed model into the package: `folder/model` and `folder/starter.json`, which names each file's hash.

    Args:
        model: What `pack` wrote.
        folder: Of the package, `nnunet_ext/starter`.
        version: Of the weights.
    """
    hashes = {}
    for name in shipped.FILES:
        target = folder / "model" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / name, target)
        hashes[name] = hashlib.sha256(target.read_bytes()).hexdigest()
    write_json({"version": version, "sha256": hashes}, folder / "starter.json", indent=1)


def in_16_bits(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in half the bytes. Those that the network has under several names stay one, so that a file holds them once."""
    made: dict[int, torch.Tensor] = {}
    for values in weights.values():
        made.setdefault(values.data_ptr(), values.half() if values.is_floating_point() else values.clone())
    return {name: made[values.data_ptr()] for name, values in weights.items()}


def n_parameters(model: Path) -> int:
    """Parameters of both stages, each counted once."""
    total = 0
    for stage in STAGES:
        weights = read_weights(model / folder_name(stage) / "fold_all" / "checkpoint_final.pth")["network_weights"]
        distinct = {values.data_ptr(): values.numel() for values in weights.values() if values.is_floating_point()}
        total += sum(distinct.values())
    return total
