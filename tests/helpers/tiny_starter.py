"""A starter whose networks are untrained: its files are like those of a real one, its organs lie anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.starter.shipped import LOCALIZER, SEGMENTER
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

CHANNELS = ("CT", "T1", "T2")
LABELS = {"background": 0, "Eye_L": 1, "Eye_R": 2, "OpticChiasm": 3}
ROI = {
    "size_mm": [80.0, 90.0, 100.0],
    "offset_mm": {str(value): [0.0] * 3 for value in (1, 2, 3)},
    "spread_mm": {str(value): 20.0 for value in (1, 2, 3)},
    "jitter_mm": 0.0,
}
VERSION = "0.9"


def write_starter(folder: Path, cascade_plans: Callable[..., dict], *, seed: int = 0, **dataset: object) -> Path:
    """`starter.json` and `model/` with both stages, in 16 bits. `dataset` adds to the `dataset.json`."""
    plans = cascade_plans(spacing_mm=(7.0, 6.0, 5.0), roi=ROI, channels=CHANNELS)
    plans["plans_name"] = "CascadeOARPlansStarter"
    for name in ("3d_lowres", "3d_fullres"):
        plans["configurations"][name]["recipe"] = {"modality_dropout": 0.5, "dropout_spares": "any"}
    content = {
        "channel_names": {str(number): name for number, name in enumerate(CHANNELS)},
        "labels": LABELS,
        "file_ending": ".nii.gz",
        **dataset,
    }
    manager = PlansManager(plans)
    torch.manual_seed(seed)
    for stage in (LOCALIZER, SEGMENTER):
        name = stage.rpartition("__")[2]
        configuration = manager.get_configuration(name)
        n_channels = determine_num_input_channels(manager, configuration, content)
        network = CascadeOARTrainer.build_network_architecture(manager, configuration, n_channels, len(LABELS), False)
        weights = {
            key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()
        }
        checkpoint = folder / "model" / stage / "fold_all" / "checkpoint_final.pth"
        checkpoint.parent.mkdir(parents=True)
        init_args = {"configuration": name}
        torch.save(
            {"network_weights": weights, "init_args": init_args, "trainer_name": "CascadeOARTrainer"}, checkpoint
        )
        (folder / "model" / stage / "plans.json").write_text(json.dumps(plans))
        (folder / "model" / stage / "dataset.json").write_text(json.dumps(content))
    return sign(folder)


def sign(folder: Path) -> Path:
    """Write the `starter.json` of the files that are there."""
    files = [file for file in sorted((folder / "model").rglob("*")) if file.is_file()]
    hashes = {
        file.relative_to(folder / "model").as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    (folder / "starter.json").write_text(json.dumps({"version": VERSION, "sha256": hashes}))
    return folder
