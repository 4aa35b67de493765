"""Multiply-adds of a network's convolutions, counted from their shapes, and how many a machine does in a second."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunet_ext.prediction.bfloat16 import hooked

#: Seconds that the largest layer is computed again and again. Its quickest time counts.
PEAK_S = 2.0


@dataclass
class Operations:
    """What a network computed while it was watched.

    Attributes:
        n_windows: Inputs that it saw, each window of a batch counted.
        multiply_adds: Of all convolutions together. Norms, activations and additions are left out.
        largest: The convolution with most multiply-adds in one call.
        largest_name: Its name in the network.
        largest_shape: Shape of its input then, `(B, C, *plan_axes)`.
        largest_multiply_adds: Of that call.
    """

    n_windows: int = 0
    multiply_adds: int = 0
    largest: nn.Module | None = None
    largest_name: str = ""
    largest_shape: tuple[int, ...] = ()
    largest_multiply_adds: int = 0


def multiply_adds(layer: _ConvNd, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Multiply-adds of one convolution, for shapes `(B, C, *axes)`. A bias is left out.

    Each output value of a convolution sums one product per input channel of its group and per voxel of the kernel. A
    transposed convolution spreads each input value in the same way. Padding counts as if it were computed.
    """
    kernel = math.prod(layer.kernel_size)
    if layer.transposed:
        return math.prod(input_shape) * (layer.out_channels // layer.groups) * kernel
    return math.prod(output_shape) * (layer.in_channels // layer.groups) * kernel


@contextmanager
def counted(network: nn.Module) -> Iterator[Operations]:
    """Count what a network computes within the context."""
    found = Operations()

    def add(name: str, layer: _ConvNd, inputs: tuple, output: torch.Tensor) -> None:
        n = multiply_adds(layer, tuple(inputs[0].shape), tuple(output.shape))
        found.multiply_adds += n
        if n > found.largest_multiply_adds:
            found.largest, found.largest_name, found.largest_multiply_adds = layer, name, n
            found.largest_shape = tuple(inputs[0].shape)

    def count(_network: nn.Module, inputs: tuple) -> None:
        found.n_windows += len(inputs[0])

    handle = network.register_forward_pre_hook(count)
    try:
        with hooked(network, add):
            yield found
    finally:
        handle.remove()


def multiply_adds_per_s(
    layer: nn.Module, shape: tuple[int, ...], n: int, *, precision: str, device: torch.device, seconds: float = PEAK_S
) -> float:
    """Multiply-adds in a second of one layer alone, at its quickest.

    Args:
        layer: It is copied, and its weights have the number format already.
        shape: Of its input.
        n: Its multiply-adds.
        precision: Number format, `float32`, `bfloat16` or `float16`.
        device: That computes.
        seconds: It is computed again until this time is over, at least three times.
    """
    kind: dict[str, Any] = {"dtype": getattr(torch, precision), "device": device}
    alone = copy.deepcopy(layer)
    alone._forward_hooks.clear()
    alone.to(**kind)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(**kind)
    best_s, end = math.inf, perf_counter() + seconds
    with torch.inference_mode():
        for at in range(10**9):
            start = perf_counter()
            alone(values)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best_s = min(best_s, perf_counter() - start)
            if at >= 2 and perf_counter() >= end:
                break
    return n / best_s
