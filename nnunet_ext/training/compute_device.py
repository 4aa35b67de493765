"""The device that computes: its name, and the most memory that was used."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from nnunet_ext.processes import peak_memory_mb, processor_name

#: What torch raises without a driver that answers. A result is worth more than the name of what made it.
_NO_DRIVER = (AssertionError, RuntimeError)


def device_name(device: torch.device, *, n_devices: int = 1) -> str:
    """Name of the GPU, or of the processor with the threads that torch uses. Several GPUs are counted."""
    if device.type == "cpu":
        n_threads = torch.get_num_threads()
        return f"{processor_name()}, {n_threads} thread{'s' * (n_threads != 1)}"
    name = device.type
    if device.type == "cuda":
        with suppress(*_NO_DRIVER):
            name = torch.cuda.get_device_name(device)
    return f"{n_devices} x {name}" if n_devices > 1 else name


def device_use(device: torch.device, *, n_devices: int = 1) -> dict[str, Any]:
    """Name of the device and highest memory since this process began, as plain JSON.

    `peak_memory_mb` is main memory of this process, without loader processes. `peak_device_memory_mb` is what torch took of
    a GPU's memory, of one GPU if there are several. It is there with CUDA only. Both are in MB of 1024 x 1024 bytes.
    """
    use: dict[str, Any] = {"device": device_name(device, n_devices=n_devices), "peak_memory_mb": peak_memory_mb()}
    if device.type == "cuda":
        with suppress(*_NO_DRIVER):
            use["peak_device_memory_mb"] = round(torch.cuda.max_memory_reserved(device) / 1024**2, 1)
    return use
