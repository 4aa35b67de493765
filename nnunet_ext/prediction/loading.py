"""Trained models, loaded without running code of their maker, and the device that they run on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.cascade.building import OUR_TRAINERS, build_network
from nnunet_ext.files import first_line, misfit, read_json
from nnunet_ext.nnunet_folders import need, read_dataset_json
from nnunet_ext.prediction.stage_predictor import StagePredictor
from nnunet_ext.training.checkpoints import different_weights
from nnunet_ext.training.foreign_models import CONFIGURATION, PLANS_JSON, check_architecture, read_weights


def load_stage(
    folder: Path, *, folds: Sequence[int | str] | None, checkpoint: str, device: torch.device
) -> StagePredictor:
    """nnU-Net's predictor for one trained configuration, loaded so that no code in the model can run.

    Raises:
        FileNotFoundError: Naming the folder, fold or file that is not there, and how to train it.
        ValueError: If weights and plan don't fit, and see `read_weights` and `check_architecture`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        there = sorted(file.parent.name for file in folder.parent.glob("*__*__*/plans.json"))
        raise FileNotFoundError(
            f"no {checkpoint} of {folder.name}: {folder.parent} has no such model. There is "
            f"{', '.join(there) or 'no trained model'}. Train it with nnUNetv2_train, or name another trainer (-tr), plans "
            "(-p) or configuration (-c)."
        )
    files = checkpoint_files(folder, folds, checkpoint)
    plans_file, dataset_file = folder / "plans.json", folder / "dataset.json"
    plans = PlansManager(
        read_json(
            plans_file,
            PLANS_JSON,
            remedy="only models planned with CascadeOARPlanner are loaded; others predict with nnUNetv2_predict",
        )
    )
    dataset_json = read_dataset_json(dataset_file)
    for key in ("labels", "channel_names", "file_ending"):
        need(dataset_json, key, dataset_file)
    checkpoints = [{**one, "network_weights": in_32_bits(one["network_weights"])} for one in map(read_weights, files)]
    trainer_name = checkpoints[0]["trainer_name"]
    configuration = _configuration(plans, checkpoints[0]["init_args"], plans_file)
    check_architecture(configuration)
    network = _network(folder, trainer_name, plans, configuration, dataset_json, plans_file)
    weights = [c["network_weights"] for c in checkpoints]
    for file, state in zip(files, weights, strict=True):
        if difference := different_weights(network.state_dict(), state):
            raise ValueError(f"{file} holds the weights of another network than its plans.json: {difference}.")
    if len(weights) == 1:  # the network's values are the checkpoint's, not a copy of them
        network.load_state_dict(weights[0], assign=True)
    predictor = StagePredictor(device)
    predictor.manual_initialization(network, plans, configuration, weights, dataset_json, trainer_name, None)
    return predictor


def _network(
    folder: Path,
    trainer_name: str,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: Mapping,
    plans_file: Path,
) -> nn.Module:
    """The network that a trainer builds from a plans file. Its weights are still to be loaded.

    Trainers of other packages are imported by nnU-Net's finder, and with them all that a training needs. Ours are not.

    Raises:
        ValueError: If the trainer is not installed, or the numbers in the plans file make no network.
    """
    ours = trainer_name in OUR_TRAINERS
    try:
        trainer = None if ours else recursive_find_trainer_class_by_name(trainer_name)
    except RuntimeError as error:
        raise ValueError(
            f"{folder} was trained with {trainer_name}, which is not installed here; install the package it is from"
        ) from error

    def build() -> nn.Module:
        n_channels = determine_num_input_channels(plans, configuration, dataset_json)
        n_labels = plans.get_label_manager(dataset_json).num_segmentation_heads
        if trainer is None:
            return build_network(configuration, n_channels, n_labels, deep_supervision=False)
        return trainer.build_network_architecture(
            plans, configuration, n_channels, n_labels, enable_deep_supervision=False
        )

    try:
        return without_initial_weights(build)
    except (TypeError, ValueError, KeyError, IndexError, AssertionError) as error:  # of nnU-Net and torch
        raise ValueError(
            f"{plans_file}: its network can't be built ({type(error).__name__}: {first_line(error)}); put back the "
            "plans.json it was trained with"
        ) from error


def _configuration(plans: PlansManager, trained_with: Mapping, plans_file: Path) -> ConfigurationManager:
    """The configuration that a checkpoint was trained with, as a plans file has it.

    Raises:
        ValueError: If the plans file lacks it or a part of it.
    """
    name = trained_with.get("configuration")
    remedy = "put back the plans.json it was trained with"
    try:
        configuration = plans.get_configuration(name)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{plans_file} has no whole configuration '{name}' ({first_line(error)}); {remedy}") from error
    if wrong := misfit(configuration.configuration, CONFIGURATION):
        raise ValueError(f"{plans_file}, configuration '{name}': {wrong}; {remedy}")
    return configuration


def without_initial_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """A network whose values are still to be loaded. Leaving out the initial ones saves a second.

    A network with values that no checkpoint holds, such as rotary position embeddings, is built as usual.
    """
    with torch.device("meta"):
        network = build()
    if {name for name, _ in network.named_buffers()} <= network.state_dict().keys():
        return network.to_empty(device="cpu")
    return build()


def checkpoint_files(folder: Path, folds: Sequence[int | str] | None, checkpoint: str) -> list[Path]:
    """Checkpoint files of some folds of a trained configuration. None means all folds of the cross-validation.

    Raises:
        FileNotFoundError: If a folder or file is not there. The message names it.
    """
    if folds is None:
        folds = [f.parent.name.removeprefix("fold_") for f in sorted(folder.glob(f"fold_*/{checkpoint}"))]
        # A model trained on all cases is not averaged with those of the cross-validation unless asked for.
        folds = [f for f in folds if f != "all"] or folds
    files = [folder / f"fold_{fold}" / checkpoint for fold in folds]
    missing = [file.parent.name.removeprefix("fold_") for file in files if not file.is_file()]
    if missing or not files:
        what = f"folds {', '.join(missing)}" if missing else "any fold"
        there = sorted(
            f"{f.parent.name.removeprefix('fold_')} ({f.name})" for f in folder.glob("fold_*/checkpoint_*.pth")
        )
        raise FileNotFoundError(
            f"no {checkpoint} for {what} in {folder}. There is {', '.join(there) or 'no trained fold'}. Train it with "
            "nnUNetv2_train, or name other folds (-f), another checkpoint (-chk), plans (-p) or trainer (-tr)."
        )
    return files


def choose_device(name: str | None) -> torch.device:
    """The named device. None means the GPU if there is one, else the CPU.

    Raises:
        ValueError: If it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        name = "cuda" if there["cuda"] else "cpu"
    if not there.get(name.partition(":")[0], False):
        raise ValueError(
            f"device '{name}' is not there: {', '.join(one for one, works in there.items() if works)} can be used. "
            "nnunet_ext doctor says more"
        )
    return torch.device(name)


def in_32_bits(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights with values of 16 bits, as a small model is stored, in 32 bits. All others are those given.

    Weights that a network has under several names stay one in memory.

    Raises:
        ValueError: If one is no tensor.
    """
    if odd := [name for name, value in weights.items() if not isinstance(value, torch.Tensor)]:
        raise ValueError(f"the weights hold {', '.join(map(str, odd[:3]))}, which is no tensor; get the model again")
    made: dict[tuple, torch.Tensor] = {}
    for value in weights.values():
        if value.dtype in (torch.float16, torch.bfloat16):
            made.setdefault(_place(value), value.float())
    return {name: made.get(_place(value), value) for name, value in weights.items()}


def _place(value: torch.Tensor) -> tuple:
    """The same for values that are one in memory."""
    return value.data_ptr(), value.dtype, value.shape, value.stride()
