"""Checkpoints of nnU-Net's trainer, read with the checks that say what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nnunet_ext.files import check_whole, first_line

#: What nnU-Net's trainer reads from a checkpoint.
KEYS = {"network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args"}
BYTES_PER_MB = 1e6


def read_checkpoint(file: Path, map_location: torch.device | str = "cpu") -> dict:
    """A checkpoint of nnU-Net's trainer.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or something else.
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
    """An example of the weights in which two state dicts differ in name or shape, in words; None if they fit."""
    for name in (*ours, *theirs):
        shapes = [str(tuple(state[name].shape)) if name in state else "not there" for state in (ours, theirs)]
        if shapes[0] != shapes[1]:
            return f"'{name}' is {shapes[0]} in the network and {shapes[1]} in the file"
    return None


def size_mb(state: object) -> float:
    """Size of all tensors in nested dicts and lists, in MB; a checkpoint is hardly larger."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size() / BYTES_PER_MB
    if isinstance(state, Mapping):
        state = state.values()
    elif not isinstance(state, (list, tuple)):
        return 0.0
    return sum(size_mb(part) for part in state)
