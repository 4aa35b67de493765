"""One stage: logits are nnU-Net's, weights stay on the device while they fit, and less memory does if it must."""

from __future__ import annotations

import threading

import pytest
import torch
from fake_gpu import FakeGpu, organ_stage
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.prediction.stage_predictor import (
    SHARE_FOR_WEIGHTS,
    Place,
    StagePredictor,
    free_device_bytes,
    is_out_of_memory,
    n_bytes,
)
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "Eye_L": 1}, "file_ending": ".nii.gz"}
ROI = {"size_mm": [16.0] * 3, "offset_mm": {"1": [0.0] * 3}, "spread_mm": {"1": 1.0}, "jitter_mm": 0.0}
#: One fold of `OrganNetwork`: scale and ballast.
FOLD_BYTES = 4 * 1001


@pytest.fixture
def plans(cascade_plans) -> dict:
    return cascade_plans(roi=ROI, channels=("CT",))


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


def images() -> torch.Tensor:
    return torch.randn(1, 17, 24, 30, generator=torch.Generator().manual_seed(2))


def on(gpu: FakeGpu, stage: StagePredictor) -> torch.Tensor:
    with gpu:
        return stage.predict_logits_from_preprocessed_data(images())


@pytest.mark.parametrize("configuration", ["3d_lowres", "3d_fullres"])
@pytest.mark.parametrize(("n_folds", "precision"), [(1, "float32"), (2, "float32"), (2, "bfloat16"), (1, "float16")])
def test_the_logits_are_those_of_nnunets_predictor_bit_by_bit(plans, configuration, n_folds, precision):
    manager = PlansManager(plans)
    made = [manager, manager.get_configuration(configuration)]
    networks = [CascadeOARTrainer.build_network_architecture(*made, 1, 2, False) for _ in range(n_folds)]
    folds = [network.state_dict() for network in networks]
    logits = []
    for kind in (StagePredictor(torch.device("cpu")), nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"))):
        network = CascadeOARTrainer.build_network_architecture(*made, 1, 2, False)
        kind.manual_initialization(network, *made, folds, DATASET, "CascadeOARTrainer", None)
        with torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32"):
            logits.append([kind.predict_logits_from_preprocessed_data(images()) for _ in range(2)])
    ours, stock = logits
    assert ours[0].dtype == torch.half
    assert torch.equal(ours[0], stock[0])
    assert torch.equal(ours[1], stock[1])


class CountingNetwork(torch.nn.Module):
    """Logits are the image, and the sizes of the windows are kept."""

    sees_whole_volumes = True

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.windows.append(tuple(x.shape[2:]))
        return torch.cat([x, -x], dim=1)


@pytest.mark.parametrize(("size", "whole"), [((16, 24, 30), True), ((20, 20, 24), True), ((24, 40, 40), False)])
def test_a_network_of_whole_volumes_sees_a_somewhat_larger_body_at_once(plans, size, whole):
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_lowres")
    assert list(configuration.patch_size) == [16, 16, 16]
    stage, network = StagePredictor(torch.device("cpu")), CountingNetwork()
    stage.manual_initialization(network, manager, configuration, [{}], DATASET, "CascadeOARTrainer", None)
    body = torch.randn(1, *size)
    logits = stage.predict_logits_from_preprocessed_data(body)
    assert (network.windows == [size]) == whole
    assert set(network.windows) == ({size} if whole else {(16, 16, 16)})
    if whole:  # at the corners nnU-Net's weights of windows have few bits
        torch.testing.assert_close(logits.float(), torch.cat([body, -body]), atol=0.002, rtol=0.001)
    network.windows.clear()
    stage.place = Place.PATCHES  # as after running out of memory; for a CPU the next is the CPU
    network.sees_whole_volumes = False
    stage.predict_logits_from_preprocessed_data(body)
    assert set(network.windows) == {(16, 16, 16)}


@pytest.mark.parametrize(("scales", "copies"), [([1.0], 1), ([1.0, 2.0, 4.0], 4)])
def test_weights_that_fit_are_copied_to_the_device_once(gpu, plans, scales, copies):
    """One fold lies in the network. Of several, each lies beside the network."""
    stage = organ_stage(gpu, plans, "3d_lowres", DATASET, scales=scales, hu_per_label=50.0)
    first = on(gpu, stage)
    assert sum(gpu.weights_copied) == copies * FOLD_BYTES
    gpu.weights_copied.clear()
    assert torch.equal(on(gpu, stage), first)
    assert gpu.weights_copied == []
    assert gpu.held_bytes >= copies * FOLD_BYTES


def test_weights_that_do_not_fit_are_copied_for_each_fold_of_each_case(gpu, plans):
    stage = organ_stage(gpu, plans, "3d_lowres", DATASET, scales=(1.0, 2.0, 4.0), hu_per_label=50.0)
    assert sum(map(n_bytes, stage.list_of_parameters)) == 3 * FOLD_BYTES
    stage._free_bytes = lambda device: int(3 * FOLD_BYTES / SHARE_FOR_WEIGHTS) - 4
    on(gpu, stage)
    gpu.weights_copied.clear()
    on(gpu, stage)
    assert sum(gpu.weights_copied) == 3 * FOLD_BYTES


def test_weights_whose_copy_runs_out_of_memory_stay_on_the_cpu(gpu, plans):
    expected = on(gpu, organ_stage(gpu, plans, "3d_lowres", DATASET, scales=(1.0, 2.0), hu_per_label=50.0))
    stage = organ_stage(gpu, plans, "3d_lowres", DATASET, scales=(1.0, 2.0), hu_per_label=50.0)
    stage._free_bytes = lambda device: 1 << 40  # another program takes it a moment later
    gpu.limit_bytes = gpu.held_bytes + FOLD_BYTES + 1000
    with gpu:
        assert stage._copied_to_device() is None
    gpu.limit_bytes, stage._may_keep = 1 << 40, False
    assert torch.equal(on(gpu, stage), expected)


def test_the_memory_that_a_place_takes(gpu, plans):
    """All images and logits, one patch and its logits, nothing."""
    stage = organ_stage(gpu, plans, "3d_lowres", DATASET, hu_per_label=50.0)
    seen, results = [], []
    stage.network.register_forward_pre_hook(lambda network, inputs: seen.append(gpu.held_bytes))
    for place in Place:
        stage.place = place
        results.append(on(gpu, stage))
        assert stage.device.type == ("cpu" if place is Place.CPU else "cuda")
    n_windows = len(seen) // 3
    patch, voxels = 4 * 16**3, 17 * 24 * 30
    most = [max(seen[i * n_windows : (i + 1) * n_windows]) for i in range(3)]
    assert most[0] >= FOLD_BYTES + patch + voxels * (4 + 2 * 2 + 2)  # images, logits of two labels, weights
    assert FOLD_BYTES + patch <= most[1] <= FOLD_BYTES + 2 * patch  # the one before is freed when the next is there
    assert gpu.held_bytes == 0
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_an_error_in_the_network_leaves_no_thread_and_nothing_on_the_device(gpu, plans):
    stage = organ_stage(gpu, plans, "3d_lowres", DATASET, hu_per_label=50.0)
    before = threading.active_count()
    gpu.fail = lambda _, number: torch.cuda.OutOfMemoryError("CUDA out of memory.") if number == 2 else None
    raised = 0
    try:
        on(gpu, stage)
    except torch.cuda.OutOfMemoryError:  # not `pytest.raises`, which keeps the error and all it holds
        raised += 1
    assert raised == 1
    assert threading.active_count() == before
    size = tuple(stage.configuration_manager.patch_size)
    gaussian = 2 * size[0] * size[1] * size[2]  # which nnU-Net caches
    assert gpu.held_bytes <= FOLD_BYTES + gaussian


def test_the_number_of_threads_is_put_back_also_after_an_error(gpu, plans):
    stage = organ_stage(gpu, plans, "3d_lowres", DATASET, hu_per_label=50.0)
    before = torch.get_num_threads()
    torch.set_num_threads(13)
    try:
        gpu.fail = lambda _, number: RuntimeError("broken")
        with pytest.raises(RuntimeError, match="broken"):
            on(gpu, stage)
        assert torch.get_num_threads() == 13
    finally:
        torch.set_num_threads(before)


def test_infinite_logits_are_refused(plans):
    stage = organ_stage(
        FakeGpu(), plans, "3d_lowres", DATASET, scales=(1e9,), hu_per_label=50.0, device=torch.device("cpu")
    )
    with pytest.raises(ValueError, match="too large for 16 bits"):
        stage.predict_logits_from_preprocessed_data(images())


def test_a_device_that_does_not_hold_results_begins_with_patches():
    """nnU-Net does so for MPS."""
    stage = StagePredictor(torch.device("mps"))
    assert stage.place is Place.PATCHES
    stage.place = Place.DEVICE
    assert (stage.place, stage.device.type) == (Place.PATCHES, "mps")
    cpu = StagePredictor(torch.device("cpu", 0))
    cpu.place = Place.DEVICE
    assert (cpu.place, free_device_bytes(torch.device("cpu"))) == (Place.CPU, 0)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.cuda.OutOfMemoryError("x"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB)."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_a_full_memory_are_told_from_others(error, is_one):
    assert is_out_of_memory(error) is is_one
