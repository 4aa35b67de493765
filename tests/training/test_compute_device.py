"""Name of the device that computes, and the memory that was used."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.processes import processor_name
from nnunet_ext.training.compute_device import device_name, device_use


def test_a_processor_is_named_with_its_threads_and_has_no_memory_of_its_own():
    n_threads = torch.get_num_threads()
    assert device_name(torch.device("cpu")) == f"{processor_name()}, {n_threads} thread{'s' * (n_threads != 1)}"
    use = device_use(torch.device("cpu"))
    assert use.keys() == {"device", "peak_memory_mb"}
    assert 50 < use["peak_memory_mb"] < 50_000


def test_several_gpus_are_counted():
    assert device_name(torch.device("mps"), n_devices=2) == "2 x mps"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpus_memory_is_the_most_that_torch_took():
    device = torch.device("cuda")
    torch.zeros(64 * 1024**2, dtype=torch.uint8, device=device)
    use = device_use(device)
    assert use["device"] == torch.cuda.get_device_name(device)
    assert 64 <= use["peak_device_memory_mb"] < 200_000
