"""nnU-Net's predictor for one stage, which keeps weights on the device and does with less of its memory if it must."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache

#: Share of the free memory that the weights of all folds may take. The layers' values, and a body's images and logits, need
#: the rest. How much that is shows only later. A wrong guess costs one window, because the weights are dropped first.
SHARE_FOR_WEIGHTS = 0.25
#: How CUDA, its libraries and MPS word it where they don't raise torch's own class.
OUT_OF_MEMORY = (
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
CPU = torch.device("cpu")
#: A network of whole volumes sees a body in one window if it has at most so many times the voxels of the planned patch,
#: which holds the bodies of the training. The memory grows alike.
MOST_TIMES_PATCH = 3.0


class Place(IntEnum):
    """Where a stage computes a case, each with less of the device's memory than the one before."""

    DEVICE = 0  #: All on the device.
    PATCHES = 1  #: Network and one patch on the device, images and logits in main memory.
    CPU = 2  #: Nothing on the device.


class StagePredictor(nnUNetPredictor):
    """nnU-Net's predictor with other care for the device's memory. Its logits are nnU-Net's.

    - nnU-Net copies the weights of every fold onto the device for every case. Here they stay there if they fit.
    - nnU-Net feeds the network from a thread. If the network fails, this thread waits for ever and holds the images.
    - nnU-Net tries again while the error still holds the values of all layers on the device.

    A network that says `sees_whole_volumes` is shown a body that is a little larger than its patch in one window, too, where
    nnU-Net would cut it. A method that looks for an organ in every window would find it in each.

    Args:
        device: Device of the network.
        free_bytes: Device -> its free memory in bytes.
    """

    def __init__(self, device: torch.device, *, free_bytes: Callable[[torch.device], int] | None = None) -> None:
        with contextlib.redirect_stdout(None):  # it prints that a CPU is no GPU
            super().__init__(use_mirroring=False, device=device, allow_tqdm=False, verbose=False)
        # So that nnU-Net calls `_internal_predict_sliding_window_return_logits` once, and outside of an `except`.
        self.perform_everything_on_device = False
        self._home = device
        self._free_bytes = free_bytes or free_device_bytes
        self._place = {"cuda": Place.DEVICE, "cpu": Place.CPU}.get(device.type, Place.PATCHES)
        self._least_sparing = self._place
        #: Weights of all folds on the device. None if they don't fit, or if the network itself holds the only ones.
        self._kept: list[dict[str, torch.Tensor]] | None = None
        self._may_keep = True
        self._fold_in_network: int | None = None
        self._network_on_device = False

    @property
    def place(self) -> Place:
        """Where it computes. What does not exist for its device becomes the next that does."""
        return self._place

    @place.setter
    def place(self, place: Place) -> None:
        self._place = max(place, self._least_sparing)
        self.device = CPU if self._place is Place.CPU else self._home

    def free_memory(self, *, network: bool) -> bool:
        """Take the kept weights off the device, and if asked for the network too. Returns whether there was any.

        From then on each fold's weights are copied for each case, as nnU-Net does.
        """
        there = self._kept is not None or (network and self._network_on_device)
        self._kept, self._may_keep = None, False
        if network:
            self.network.to(CPU)
            self._network_on_device = False
        empty_cache(self._home)
        return there

    @torch.inference_mode()
    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Mean logits of all folds, shape `(labels, *plan_axes)`, float16 on the CPU, for images `(C, *plan_axes)`."""
        n_threads, n_folds = torch.get_num_threads(), len(self.list_of_parameters)
        torch.set_num_threads(min(default_num_processes, n_threads))
        self._network_on_device = self._place is not Place.CPU
        try:
            total = None
            for fold in range(n_folds):
                self._load(fold)
                logits = self.predict_sliding_window_return_logits(data).to(CPU)
                total = logits if total is None else total.add_(logits)
            assert total is not None  # a model has at least one fold
            return total.div_(n_folds) if n_folds > 1 else total
        finally:
            torch.set_num_threads(n_threads)

    def _load(self, fold: int) -> None:
        """Put the weights of a fold into the network, unless they are there."""
        if self._fold_in_network == fold:
            return
        if self._may_keep and self._place is not Place.CPU:
            self._may_keep = False  # whatever comes of it, this is decided once
            self._kept = self._copied_to_device()
        self._fold_in_network = None
        if self._kept is not None:
            self.network.to(self.device)
        network: Any = getattr(self.network, "_orig_mod", self.network)  # the one that torch.compile wraps
        network.load_state_dict((self._kept or self.list_of_parameters)[fold])
        self._fold_in_network = fold

    def _copied_to_device(self) -> list[dict[str, torch.Tensor]] | None:
        """The weights of all folds on the device. None if there is one, which the network holds, or if they don't fit."""
        folds = self.list_of_parameters
        if len(folds) == 1 or sum(map(n_bytes, folds)) > SHARE_FOR_WEIGHTS * self._free_bytes(self.device):
            return None
        try:
            return [{name: value.to(self.device) for name, value in fold.items()} for fold in folds]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _internal_get_sliding_window_slicers(self, image_size: Sequence[int]) -> list:
        network: Any = getattr(self.network, "_orig_mod", self.network)
        patch = self.configuration_manager.patch_size
        at_once = getattr(network, "sees_whole_volumes", False) and self._place is not Place.PATCHES
        if at_once and math.prod(image_size) <= MOST_TIMES_PATCH * math.prod(patch):
            return [(slice(None), *(slice(0, n) for n in image_size))]
        return super()._internal_get_sliding_window_slicers(image_size)

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: list, do_on_device: bool = True
    ) -> torch.Tensor:
        """nnU-Net's sum over the windows, divided by the sum of their weights, without a thread that cuts the windows.

        The thread would gain nothing. Its copies wait on the device's one stream for the network before them.
        """
        results_device = self.device if self._place is Place.DEVICE else CPU
        data = data.to(results_device)
        half: dict[str, Any] = {"dtype": torch.half, "device": results_device}
        logits = torch.zeros((self.label_manager.num_segmentation_heads, *data.shape[1:]), **half)
        weights = torch.zeros(data.shape[1:], **half)
        gaussian: torch.Tensor | int = 1
        if self.use_gaussian and len(slicers) > 1:
            size = tuple(self.configuration_manager.patch_size)
            gaussian = compute_gaussian(size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=results_device)
        for window in slicers:
            patch = torch.clone(data[window][None], memory_format=torch.contiguous_format).to(self.device)
            prediction = self._internal_maybe_mirror_and_predict(patch)[0].to(results_device)
            prediction *= gaussian
            logits[window] += prediction
            weights[window[1:]] += gaussian
        torch.div(logits, weights, out=logits)
        if torch.any(torch.isinf(logits)):
            raise ValueError("the network's logits are too large for 16 bits (infinite); its weights are damaged")
        return logits


def n_bytes(weights: Mapping[str, torch.Tensor]) -> int:
    """Bytes of the values of a network's weights."""
    return sum(value.numel() * value.element_size() for value in weights.values())


def free_device_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes. 0 for a CPU, whose memory is no other than that of the checkpoint."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory was too small. MPS and the libraries of CUDA say so in words only."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(phrase.lower() in words for phrase in OUT_OF_MEMORY)
    )
