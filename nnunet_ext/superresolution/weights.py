"""The learned resampling of a data set as two files: weights without code, and what they are in JSON."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_ext.files import first_line, read_json, write_json, written_whole
from nnunet_ext.superresolution.network import SliceNetwork

WEIGHTS_FILE, RECORD_FILE = "learned_resampling.npz", "learned_resampling.json"
#: Increased if files of this version can't be read by earlier ones, or the other way round.
FORMAT = 1
REMEDY = "make it again with nnunet_ext learn-resampling"
_SHAPE = {
    "format": int,
    "weights_sha256": str,
    "channels": [str],
    "features": int,
    "hidden_layers": int,
    "errors": [
        {"channel": str, "thickness_mm": float, "cubic_rmse": float, "learned_rmse": float, "n_slices": int},
    ],
}
#: More than these no network of ours has. A damaged record must not take the memory.
MOST_FEATURES, MOST_LAYERS, MOST_CHANNELS = 256, 32, 64


@dataclass(frozen=True)
class LearnedResampling:
    """A network with the names of its channels.

    Attributes:
        network: Ready to use, on the CPU.
        channels: Names in the order of its conditions.
        sha256: Of the file of weights.
        record: Content of the JSON file. Empty if it has none yet.
    """

    network: SliceNetwork
    channels: tuple[str, ...]
    sha256: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    def index(self, channel: str) -> int:
        """Index of a channel.

        Raises:
            ValueError: If it has not learned that channel. The message names those that it has.
        """
        if channel not in self.channels:
            raise ValueError(
                f"the learned resampling knows the channels {', '.join(self.channels)}, and not {channel}; "
                "train it with nnunet_ext learn-resampling on a data set that has it"
            )
        return self.channels.index(channel)


def record_file(weights: Path) -> Path:
    """The JSON file beside a file of weights."""
    return weights.with_suffix(".json")


def write_learned_resampling(
    network: SliceNetwork, channels: Sequence[str], weights: Path, record: Mapping[str, Any]
) -> None:
    """Write weights and record, each whole or not at all.

    The record is written last and holds the hash of the weights. So a run that is killed between them leaves a pair that
    reading refuses.

    Args:
        network: What to write.
        channels: Their names in its order.
        weights: File of the weights. The record lies beside it.
        record: Entries of the record beside those that reading needs.
    """
    content = io.BytesIO()
    np.savez(content, **{name: value.cpu().numpy() for name, value in network.state_dict().items()})
    with written_whole(weights) as temporary:
        temporary.write_bytes(content.getvalue())
    needed = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "channels": list(channels),
        "features": network.first.out_channels,
        "hidden_layers": 1 + len(network.hidden),
    }
    write_json({**needed, **record}, record_file(weights), ensure_ascii=False)


def copy_learned_resampling(sha256: str, source: Path, target: Path) -> bool:
    """Copy the pair of files of a hash from one folder to another. False if it is not there."""
    weights = source / WEIGHTS_FILE
    if not (weights.is_file() and record_file(weights).is_file()):
        return False
    contents = {file.name: file.read_bytes() for file in (weights, record_file(weights))}
    if hashlib.sha256(contents[WEIGHTS_FILE]).hexdigest() != sha256:
        return False
    for name, content in contents.items():
        with written_whole(target / name) as temporary:
            temporary.write_bytes(content)
    return True


def read_learned_resampling(weights: Path) -> LearnedResampling:
    """The pair of files, read so that nothing in them can run.

    Raises:
        OSError: If one is not there.
        ValueError: If one is damaged, they do not belong together, or they are of another version.
    """
    if not weights.is_file():
        raise FileNotFoundError(f"there is no learned resampling {weights}; {REMEDY}")
    record = read_json(record_file(weights), _SHAPE, remedy=REMEDY)
    if record["format"] != FORMAT:
        raise ValueError(f"{record_file(weights)} has format {record['format']}, and {FORMAT} is read; {REMEDY}")
    content = weights.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != record["weights_sha256"]:
        raise ValueError(
            f"{weights} is damaged, or not the file that {record_file(weights).name} beside it was written for; {REMEDY}"
        )
    sizes = record["features"], record["hidden_layers"], len(record["channels"])
    if not all(0 < n <= most for n, most in zip(sizes, (MOST_FEATURES, MOST_LAYERS, MOST_CHANNELS), strict=True)):
        raise ValueError(f"{record_file(weights)}: no network of ours has {sizes[0]} features, {sizes[1]} layers and "
                         f"{sizes[2]} channels; {REMEDY}")  # fmt: skip
    network = SliceNetwork(sizes[2], features=sizes[0], hidden_layers=sizes[1])
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            values = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
        network.load_state_dict(values)
    except Exception as error:  # zipfile, NumPy and torch each have their own
        raise ValueError(f"{weights} does not hold the weights it should ({first_line(error)}); {REMEDY}") from error
    if not all(bool(value.isfinite().all()) for value in values.values()):
        raise ValueError(f"{weights} holds weights that are no numbers; {REMEDY}")
    return LearnedResampling(network.eval(), tuple(record["channels"]), sha256, record)
