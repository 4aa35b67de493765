"""GPU memory and time that a training is expected to take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

BYTES_PER_GIB = 2**30
#: Weights and gradients in 32 bits, two moments of AdamW in 32 bits, and autocast's copy of the weights in 16 bits.
BYTES_PER_WEIGHT = 4 + 4 + 8 + 2
#: Per label and voxel: logits in 16 bits, then in 32, softmax for Dice, log-softmax for the cross entropy, and their
#: gradient. Outputs of deep supervision add a seventh.
BYTES_PER_LOGIT = (2 + 4 + 4 + 4 + 4) * 8 / 7
#: Gradients of the largest feature map that exist at one time in the backward pass.
MAPS_IN_BACKWARD = 2
#: CUDA's context, workspaces of the convolutions, and what the allocator can't use.
FIXED_GIB = 1.0
#: nnU-Net's network M: hours of a training on an A100 of 40 GB, its epochs, values of its feature maps, and its batch.
M_HOURS, M_EPOCHS, M_VALUES, M_BATCH = 12.0, 1000, 680e6, 2


def expected_memory_gib(
    architecture: Mapping,
    patch_size: Sequence[int],
    batch_size: int,
    *,
    n_channels: int,
    n_labels: int,
    deep_supervision: bool = True,
) -> float:
    """Expected GPU memory of a training in 16 bits, not compiled, in GiB, as `nvidia-smi` counts it.

    What a forward pass keeps for the backward pass is counted on a device without memory. The rest is by the constants
    above. nnU-Net publishes 9.1 GiB for its network M at its memory target. For 14 labels and SGD this gives 9.6.

    Args:
        architecture: The plan's entry.
        patch_size: In voxels.
        batch_size: Samples on this GPU.
        n_channels, n_labels: Input channels, and labels with the background.
        deep_supervision: Whether the network gives logits at several resolutions.
    """
    return _expected_gib(
        written(architecture), tuple(map(int, patch_size)), batch_size, n_channels, n_labels, deep_supervision
    )


def written(value: Any) -> str:
    """Names, numbers and lists of a plan as JSON, equal for equal ones."""
    return json.dumps(value, sort_keys=True, default=lambda number: number.item())


@cache
def _expected_gib(
    architecture: str, patch_size: tuple[int, ...], batch_size: int, n_channels: int, n_labels: int, deep: bool
) -> float:
    """`expected_memory_gib` of an architecture as JSON. Seconds for a large network, and many plans have the same."""
    network = _network(json.loads(architecture), n_channels, n_labels, deep_supervision=deep)
    image = torch.empty((batch_size, n_channels, *patch_size), dtype=torch.half, device="meta")
    kept, largest = kept_for_backward(network.half(), image)
    n_weights = sum(parameter.numel() for parameter in network.parameters())
    n_logits = n_labels * image[:, 0].numel()
    total = kept + MAPS_IN_BACKWARD * largest + BYTES_PER_WEIGHT * n_weights + BYTES_PER_LOGIT * n_logits
    return FIXED_GIB + total / BYTES_PER_GIB


def kept_for_backward(network: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """Bytes of all tensors but weights that a forward pass keeps for the backward pass, and of the largest of them."""
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    storages: dict[int, int] = {}
    alive = []  # a storage that is freed would give its number to the next

    def count(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = network(image)
    del output
    return sum(storages.values()), max(storages.values(), default=0)


def hours_on_a100(
    architecture: Mapping,
    patch_size: Sequence[int],
    batch_size: int,
    *,
    n_channels: int,
    n_labels: int,
    n_epochs: int,
) -> float:
    """Hours of so many epochs of 250 iterations on one A100, in proportion to nnU-Net's network M, without compilation.

    nnU-Net's documentation (resenc_presets.md) gives 12 hours for 1000 epochs of M, whose feature maps have 680 million
    values at a batch of two.

    Args:
        architecture, patch_size, batch_size, n_channels, n_labels: As of `expected_memory_gib`.
        n_epochs: At most.
    """
    network: Any = _network(architecture, n_channels, n_labels, deep_supervision=True)
    values = network.compute_conv_feature_map_size(patch_size) * batch_size
    return M_HOURS * n_epochs / M_EPOCHS * values / (M_VALUES * M_BATCH)


def _network(architecture: Mapping, n_channels: int, n_labels: int, *, deep_supervision: bool) -> nn.Module:
    """The network on a device without memory."""
    with torch.device("meta"):
        return get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            n_channels,
            n_labels,
            allow_init=False,
            deep_supervision=deep_supervision,
        )
