"""GPU memory that a training is expected to take, from the tensors that a step keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

BYTES_PER_GB = 1e9
#: Weights and gradients in 32 bits, two moments of AdamW in 32 bits, and autocast's copy of the weights in 16 bits.
BYTES_PER_WEIGHT = 4 + 4 + 8 + 2
#: Per label and voxel: logits in 16 bits, then in 32, softmax for Dice, log-softmax for the cross entropy, and their
#: gradient. Outputs of deep supervision add a seventh.
BYTES_PER_LOGIT = (2 + 4 + 4 + 4 + 4) * 8 / 7
#: Gradients of the largest feature map that exist at one time in the backward pass.
MAPS_IN_BACKWARD = 2
#: CUDA's context, workspaces of the convolutions, and what the allocator can't use.
FIXED_GB = 1.0


def training_memory_gb(
    architecture: Mapping, patch_size: Sequence[int], batch_size: int, *, n_channels: int, n_labels: int
) -> float:
    """Expected GPU memory of a training in 16 bits, not compiled, in GB of 10^9 bytes.

    What a forward pass keeps for the backward pass is counted on a device without memory. The rest is by the constants
    above. For nnU-Net's network M at its reference size, 14 labels and SGD, this gives 10.2 GB. nnU-Net says 9 to 11.

    Args:
        architecture: The plan's entry.
        patch_size: In voxels.
        batch_size: Samples on this GPU.
        n_channels, n_labels: Input channels, and labels with the background.
    """
    with torch.device("meta"):
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            n_channels,
            n_labels,
            allow_init=False,
            deep_supervision=True,
        )
        image = torch.empty((batch_size, n_channels, *patch_size), dtype=torch.half)
    kept, largest = kept_for_backward(network.half(), image)
    n_weights = sum(parameter.numel() for parameter in network.parameters())
    n_logits = n_labels * image[:, 0].numel()
    total = kept + MAPS_IN_BACKWARD * largest + BYTES_PER_WEIGHT * n_weights + BYTES_PER_LOGIT * n_logits
    return FIXED_GB + total / BYTES_PER_GB


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
