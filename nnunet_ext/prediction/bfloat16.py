"""Whether a processor computes a network in bfloat16, and whether its values can be trusted.

On processors with AMX, torch gives wrong values for some 3D convolutions in bfloat16 (torch issue 169688). The output's last
axis has length 1 there and the stride along it is above 1. The sliding window has the plan's patch size. So the shapes of
all layers are known before the first case.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunet_ext.cascade.organ_crops import crop_size_of

#: Largest relative error of a convolution in bfloat16. Rounding gives 0.003 to 0.006, the known fault more than 1.
ERROR_LIMIT = 0.1
SEED = 1


def has_bfloat16() -> bool:
    """Whether the processor has instructions to multiply bfloat16 numbers. Others emulate them."""
    if not hasattr(torch.cpu, "get_capabilities"):  # of a torch without it
        return False
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def wrong_in_bfloat16(stage: nnUNetPredictor) -> str | None:
    """Name of a layer whose values in bfloat16 are wrong on this processor, or None.

    The shapes prove most networks right, and nothing is computed. The others are computed once on a random patch.
    """
    network = getattr(stage.network, "_orig_mod", stage.network)  # the one that torch.compile wraps
    n_channels = determine_num_input_channels(stage.plans_manager, stage.configuration_manager, stage.dataset_json)
    shape = (1, n_channels, *stage.configuration_manager.patch_size)
    if (crop_size := crop_size_of(stage.configuration_manager)) is not None:  # what its layers see, without a label map
        shape = (1, len(stage.dataset_json["channel_names"]), *crop_size)
    network.eval()
    try:
        if not in_doubt(network, shape):
            return None
    except RuntimeError:  # a network that looks at values can't be followed by shapes, so it is computed
        pass
    network.load_state_dict(stage.list_of_parameters[0])  # as nnU-Net does for each fold that it predicts with
    errors = bfloat16_errors(network, shape)
    return next((name for name, error in errors.items() if error > ERROR_LIMIT), None)


def in_doubt(network: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Names of the strided convolutions that the fault may touch, for an input `shape` of `(B, C, *plan_axes)`.

    Along some axis their stride is above 1 and their output has length 1. The known fault needs that of the last axis. Any
    axis counts here, because the order of the axes differs between plans. A stride above the kernel's size counts too. It
    is another fault of the same code (oneDNN pull request 5568).
    """
    found: list[str] = []

    def look(name: str, layer: _ConvNd, _inputs: tuple, output: torch.Tensor) -> None:
        axes = zip(layer.stride, layer.kernel_size, output.shape[2:], strict=True)
        if not layer.transposed and any(step > 1 and (n == 1 or step > size) for step, size, n in axes):
            found.append(name)

    shapes_only = without_values(network)
    with hooked(shapes_only, look), torch.no_grad():
        shapes_only(torch.empty(shape, device="meta"))
    return found


def bfloat16_errors(network: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Relative error of every convolution in bfloat16, by the layer's name. The input is normally distributed.

    Each gets the values that it has in 32 bits. So errors don't add up, and none is lost where a skip connection leads past.
    The error is the 2-norm of the difference, divided by that of the output in 32 bits.
    """
    errors: dict[str, float] = {}

    def compare(name: str, layer: _ConvNd, inputs: tuple, output: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = layer.forward(*inputs)
        errors[name] = max(relative_error(rounded, output), errors.get(name, 0.0))

    patch = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    with hooked(network, compare), torch.no_grad(), torch.autocast("cpu", enabled=False):
        network(patch)
    return errors


def relative_error(values: torch.Tensor, exact: torch.Tensor) -> float:
    """2-norm of the difference, divided by that of the exact values. It is infinite if a value is not finite."""
    difference = torch.linalg.vector_norm(values.float() - exact).item()
    if not math.isfinite(difference):
        return math.inf
    return difference / max(torch.linalg.vector_norm(exact).item(), torch.finfo(torch.float32).tiny)


def without_values(network: nn.Module) -> nn.Module:
    """A copy that knows the shapes of its tensors but not their values, and takes no memory for them."""
    tensors = [*network.parameters(), *network.buffers()]
    empty = {id(t): nn.Parameter(t.to("meta"), False) if isinstance(t, nn.Parameter) else t.to("meta") for t in tensors}
    return copy.deepcopy(network, empty)


@contextmanager
def hooked(network: nn.Module, hook: Any) -> Iterator[None]:
    """Within the context, `hook(name, layer, inputs, output)` sees every convolution of the network."""
    handles = []
    for name, layer in network.named_modules():
        if isinstance(layer, _ConvNd):

            def with_name(layer: nn.Module, inputs: tuple, output: Any, *, name: str = name) -> None:
                hook(name, layer, inputs, output)

            handles.append(layer.register_forward_hook(with_name))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
