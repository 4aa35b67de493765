"""A GPU of given memory without a GPU. What is sent to it goes to the CPU and is counted, and it can be too small."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.overrides import TorchFunctionMode

from nnunet_ext.prediction.stage_predictor import StagePredictor

#: What `choose_device` and nnU-Net would call it. There is none in the machines that run the tests.
GPU = torch.device("cuda")


class FakeGpu(TorchFunctionMode):
    """Within the context, `cuda` and `mps` are places of the CPU's memory that this object knows.

    Like torch, a copy is made only of what is not there yet. Values computed from what is there are not counted.

    Attributes:
        limit_bytes: Its memory.
        weights_copied: Bytes of each of a network's values that was copied from the CPU, in order.
        forwards: Configuration -> number of forward passes of its network on it.
        fail: Configuration and number of a forward pass -> the error that it raises, or None.
    """

    def __init__(self, limit_bytes: int = 1 << 40) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self.forwards: Counter[str] = Counter()
        self.weights_copied: list[int] = []
        self.fail: Callable[[str, int], Exception | None] = lambda configuration, number: None
        self._held: weakref.WeakSet = weakref.WeakSet()
        self._weights: weakref.WeakSet = weakref.WeakSet()

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage() in self._held

    @property
    def held_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._held)

    def free_bytes(self, device: torch.device) -> int:
        return self.limit_bytes - self.held_bytes

    def watch(self, stage: StagePredictor, configuration: str) -> None:
        """Count the copies of this stage's weights and the forward passes of its network."""
        weights = [*stage.network.parameters(), *(v for fold in stage.list_of_parameters for v in fold.values())]
        self._weights.update(value.untyped_storage() for value in weights)

        def run_out(network: nn.Module, inputs: tuple) -> None:
            if not self.holds(inputs[0]):
                return
            assert all(self.holds(value) for value in network.parameters()), "network and patch on two devices"
            self.forwards[configuration] += 1
            self._fail(configuration)

        stage.network.register_forward_pre_hook(run_out)

    def _fail(self, configuration: str) -> None:
        error = self.fail(configuration, self.forwards[configuration])
        try:
            if error is not None:
                raise error
        finally:
            del error  # with its traceback, it would hold this frame and all above it for longer than torch's does

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if function is torch.Tensor.to:
            return self._moved(function, args, kwargs)
        if is_gpu(kwargs.get("device")):
            return self._take(function(*args, **{**kwargs, "device": "cpu"}))
        if name == "copy_" and self.holds(args[0]) and not self.holds(args[1]):
            self.weights_copied.append(args[1].nbytes)
        return function(*args, **kwargs)

    def _moved(self, function: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        source, *rest = args
        to_gpu = any(map(is_gpu, [*rest, *kwargs.values()]))
        to_cpu = any(map(is_cpu, [*rest, *kwargs.values()]))
        as_cpu = ["cpu" if is_gpu(value) else value for value in rest]
        there = function(source, *as_cpu, **{k: "cpu" if is_gpu(v) else v for k, v in kwargs.items()})
        is_weight = source.untyped_storage() in self._weights
        if not (to_gpu or to_cpu) or to_gpu == self.holds(source):
            return there
        if there is source or there.untyped_storage() is source.untyped_storage():
            there = there.clone()
        if is_weight:
            self._weights.add(there.untyped_storage())
        if to_cpu:
            return there
        if is_weight:
            self.weights_copied.append(source.nbytes)
        return self._take(there)

    def _take(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().nbytes() > self.free_bytes(GPU):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        self._held.add(tensor.untyped_storage())
        return tensor


def is_gpu(value: object) -> bool:
    return isinstance(value, (str, torch.device)) and str(value).partition(":")[0] in ("cuda", "mps")


def is_cpu(value: object) -> bool:
    return isinstance(value, (str, torch.device)) and str(value) == "cpu"


class OrganNetwork(nn.Module):
    """Reads the organs off the CT, whose label `v` has `hu_per_label v` HU. Its weights change the logits' size only."""

    def __init__(self, n_labels: int, hu_per_label: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.ballast = nn.Parameter(torch.zeros(1000))
        self.n_labels, self.hu_per_label = n_labels, hu_per_label

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        labels = (images[:, :1] * 40 + 20) / self.hu_per_label  # the plan's CT normalisation
        values = torch.arange(float(self.n_labels)).reshape(1, -1, 1, 1, 1)
        return -self.scale * (labels - values).abs()


def organ_stage(
    gpu: FakeGpu, plans: Mapping, configuration: str, dataset_json: Mapping, *, scales: Sequence[float] = (1.0,),
    hu_per_label: float, device: torch.device = GPU,
) -> StagePredictor:  # fmt: skip
    """A stage of one fold for each of `scales`, which computes on the fake GPU within its context."""
    manager = PlansManager(plans)
    network = OrganNetwork(len(dataset_json["labels"]), hu_per_label)
    folds = [{"scale": torch.tensor([scale]), "ballast": torch.zeros(1000)} for scale in scales]
    stage = StagePredictor(device, free_bytes=gpu.free_bytes)
    stage.manual_initialization(
        network, manager, manager.get_configuration(configuration), folds, dataset_json, "CascadeOARTrainer", None
    )
    gpu.watch(stage, configuration)
    return stage
