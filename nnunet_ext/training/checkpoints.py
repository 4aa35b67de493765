"""Names of the checkpoints of nnU-Net's trainer, their reading, and messages that say how to go on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from nnunet_ext.files import check_whole, first_line

#: Names of checkpoints, in the order in which nnU-Net's `--c` looks for them.
NAMES = ("final", "latest", "best")
#: Keys that nnU-Net's trainer reads from a checkpoint.
KEYS = {"network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args"}
BYTES_PER_MB = 1e6


def checkpoint_file(folder: Path, name: str) -> Path:
    """File of a checkpoint in the folder of a fold, by its name in `NAMES`."""
    return folder / f"checkpoint_{name}.pth"


def checkpoints_in(folder: Path) -> list[Path]:
    """Files of the checkpoints in the folder of a fold, in the order of `NAMES`."""
    return [file for name in NAMES if (file := checkpoint_file(folder, name)).is_file()]


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished checkpoints of a killed run."""
    for leftover in (*folder.glob(".checkpoint_*.tmp"), *folder.glob("checkpoint_*.tmp")):
        leftover.unlink()


def set_aside(folder: Path) -> list[str]:
    """Rename the checkpoints of an earlier training to `*.old`, and return their new names."""
    files = checkpoints_in(folder)
    for file in files:
        os.replace(file, f"{file}.old")
    return [f"{file.name}.old" for file in files]


def read_checkpoint(file: Path, map_location: torch.device | str = "cpu") -> dict:
    """A checkpoint of nnU-Net's trainer.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or no checkpoint.
    """
    try:
        check_whole(file)
        checkpoint = torch.load(file, map_location=map_location, weights_only=False)
    except (OSError, MemoryError):  # not there, no permission: what is in it is not to blame
        raise
    except Exception as error:  # torch, zipfile and pickle each have their own
        raise ValueError(f"{file} is damaged ({file.stat().st_size} bytes; {first_line(error)}).") from error
    missing = KEYS - set(checkpoint) if isinstance(checkpoint, Mapping) else KEYS
    if missing:
        raise ValueError(f"{file} is not a checkpoint of nnU-Net: it holds no {', '.join(sorted(missing))}.")
    return checkpoint


def different_weights(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> str | None:
    """An example of the weights in which two state dicts differ in name or shape, in words, or None if they fit."""
    for name in (*ours, *theirs):
        shapes = [str(tuple(state[name].shape)) if name in state else "not there" for state in (ours, theirs)]
        if shapes[0] != shapes[1]:
            return f"'{name}' is {shapes[0]} in the network and {shapes[1]} in the file"
    return None


def size_mb(state: object) -> float:
    """Size of all tensors in nested dicts and lists, in MB. A checkpoint is hardly larger."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size() / BYTES_PER_MB
    if isinstance(state, Mapping):
        state = state.values()
    elif not isinstance(state, (list, tuple)):
        return 0.0
    return sum(size_mb(part) for part in state)


def not_written(file: Path, error: Exception, *, needed_mb: float, command: str) -> str:
    """Message that a checkpoint could not be written.

    Args:
        file: The checkpoint.
        error: That was raised.
        needed_mb: Size of the checkpoint.
        command: That trains, without `--c`.
    """
    free_mb = shutil.disk_usage(file.parent).free / 1e6
    earlier = bool(checkpoints_in(file.parent))
    state = "The checkpoints there are whole" if earlier else "There is no earlier one"
    return (
        f"{file} could not be written ({first_line(error)}). It needs {needed_mb:.1f} MB and {free_mb:.1f} MB "
        f"are free. {state}. Make room, then go on: {command}{' --c' if earlier else ''}"
    )


def explain(
    file: Path,
    error: Exception,
    weights: Mapping[str, torch.Tensor],
    *,
    folder: Path,
    configuration: str,
    plans: str,
    command: str,
) -> None:
    """Raise a ValueError if a checkpoint could not be loaded because of its content.

    Args:
        file: The checkpoint.
        error: That loading raised.
        weights: State dict of the network that the checkpoint was loaded into.
        folder: Of the fold.
        configuration, plans: Names of those of the network.
        command: That trains, without `--c`.

    Raises:
        ValueError: If the file is damaged, not a checkpoint, or of another network.
    """
    try:
        checkpoint = read_checkpoint(file)
    except ValueError as damage:
        raise ValueError(f"{damage} {go_on_without(file, folder=folder, command=command)}") from error
    if difference := different_weights(weights, checkpoint["network_weights"]):
        made_by = checkpoint["init_args"]
        raise ValueError(
            f"{file} does not fit the network of configuration '{configuration}' in {plans}: {difference}. It was made "
            f"with plans '{made_by['plans']['plans_name']}', configuration '{made_by['configuration']}'. Put back the "
            "plans it was trained with, or train anew, without --c."
        ) from error


def go_on_without(file: Path, *, folder: Path, command: str) -> str:
    """How to go on without a checkpoint that can't be used.

    Args:
        file: The checkpoint.
        folder: Of the fold.
        command: That trains, without `--c`.
    """
    move = f"Move it away, mv '{file}' '{file}.damaged', then {command}"
    for other in checkpoints_in(folder):
        if other == file:
            continue
        try:
            epoch = read_checkpoint(other)["current_epoch"]
        except ValueError:
            continue
        return f"{move} --c goes on from {other.name}, {epoch} epochs done."
    return f"{move} trains anew: no other checkpoint here can be read."
