"""The two files of a learned resampling whose network sharpens at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from nnunet_ext.superresolution.network import SliceNetwork
from nnunet_ext.superresolution.weights import (
    WEIGHTS_FILE,
    LearnedResampling,
    read_learned_resampling,
    write_learned_resampling,
)


def write_sharpening(folder: Path, channels: Sequence[str] = ("CT", "T1", "T2"), seed: int = 0) -> LearnedResampling:
    """Write the files below `folder` and read them."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SliceNetwork(len(channels), features=4, hidden_layers=2)
        torch.nn.init.normal_(network.last.weight)
    write_learned_resampling(network, channels, folder / WEIGHTS_FILE, {"errors": []})
    return read_learned_resampling(folder / WEIGHTS_FILE)
