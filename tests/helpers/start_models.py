"""Models to start a training from: untrained ones, in folders as nnU-Net's trainer leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

#: The model's organs are those of `tiny_cases` in another order, with another one, and its channels too.
MODEL_DATASET = {
    "channel_names": {"0": "T2", "1": "FLAIR", "2": "CT", "3": "T1"},
    "labels": {"background": 0, "OpticChiasm": 1, "Eye_R": 2, "Lens_L": 3, "Eye_L": 4},
    "file_ending": ".nii.gz",
}
MODEL_PAIRS = [["Eye_L", "Eye_R"]]


def network_of(plans: Mapping, dataset_json: Mapping, configuration: str) -> torch.nn.Module:
    """The network of a stage, as the trainer builds it."""
    manager = PlansManager(plans)
    entry = manager.get_configuration(configuration)
    n_inputs = determine_num_input_channels(manager, entry, dataset_json)
    n_labels = len(dataset_json["labels"])
    return CascadeOARTrainer.build_network_architecture(manager, entry, n_inputs, n_labels, False)


def write_model(folder: Path, plans: Mapping, dataset_json: Mapping = MODEL_DATASET, *, fold: str = "all") -> Path:
    """Both stages of a model in 16 bits, with random weights. Returns the folder of its segmenter."""
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        stage = folder / f"CascadeOARTrainer__{plans['plans_name']}__{configuration}"
        (stage / f"fold_{fold}").mkdir(parents=True)
        torch.manual_seed(7)
        network = network_of(plans, dataset_json, configuration)
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(value)  # else all are zero
        content = {
            "network_weights": {name: value.half() for name, value in network.state_dict().items()},
            "trainer_name": "CascadeOARTrainer",
            "init_args": {"configuration": configuration, "fold": fold},
            "inference_allowed_mirroring_axes": None,
        }
        torch.save(content, stage / f"fold_{fold}" / "checkpoint_final.pth")
        (stage / "plans.json").write_text(json.dumps(plans))
        (stage / "dataset.json").write_text(json.dumps(dataset_json))
    return stage
