"""What `doctor` says of devices that the machine does not have. The probes stand in for torch and the system."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from nnunet_ext.installation.devices import (
    FORMATS,
    GIB,
    Device,
    Probes,
    device_findings,
    devices_of,
    probes_of,
    release,
    train_layers,
)
from nnunet_ext.installation.findings import Finding

CPU = Device("cpu")
RTX = Device("cuda:0", "NVIDIA GeForce RTX 3090", int(23.65 * GIB), int(22.9 * GIB))
MPS = Device("mps", total_bytes=int(21.3 * GIB))
NO_POOLING = "The operator 'aten::max_pool3d_with_indices' is not currently implemented for the MPS device."


def probes(*devices: Device, fails: dict[tuple[str, str], str] | None = None, **changed) -> Probes:
    """A Linux machine in order, whose layers fail with these errors on some devices in some formats."""

    def train(device: str, number_format: str) -> None:
        if error := (fails or {}).get((device, number_format)):
            raise RuntimeError(error)

    in_order = Probes(
        torch_version="2.13.0+cu128",
        built_for="CUDA 12.8",
        devices=lambda: [CPU, *devices],
        train=train,
        importable=lambda module: True,
        program=lambda command: f"/usr/bin/{command}",
        shared_memory_bytes=lambda: 16 * GIB,
        environment={},
        system="Linux",
    )
    return dataclasses.replace(in_order, **changed)


def found(*devices: Device, **options) -> list[Finding]:
    return list(device_findings(probes(*devices, **options)))


def values(findings: list[Finding]) -> list[str]:
    return [finding.value for finding in findings]


def advice(findings: list[Finding]) -> list[str]:
    return [finding.advice for finding in findings if not finding.ok]


def test_a_gpu_is_named_with_memory_formats_and_the_plan_that_suits_it():
    cpu, gpu, compiled, shared = found(RTX)
    assert cpu.value == "cpu; 3D layers train in float32, float16, bfloat16"
    assert gpu.value == (
        "cuda:0 NVIDIA GeForce RTX 3090, 23.6 GiB, 22.9 free; 3D layers train in float32, float16, bfloat16; "
        "plan with -gpu_memory_target 22"
    )
    assert compiled.value.startswith("available")
    assert (shared.topic, shared.value) == ("/dev/shm", "16.0 GiB of shared memory")
    assert all(finding.ok for finding in (cpu, gpu, compiled, shared))


def test_every_gpu_is_looked_at():
    small = Device("cuda:1", "Quadro P400", 2 * GIB, GIB)
    findings = found(RTX, small)
    assert "too small to train the full plan (CascadeOARPlannerSmall plans for less)" in findings[2].value
    assert advice(findings) == []


def test_without_a_gpu_the_build_of_torch_is_said():
    cpu, compiled, _ = found(built_for="the CPU only")
    assert cpu.value.startswith(
        "cpu alone (torch is built for the CPU only; no GPU is visible); 3D layers train in float32"
    )
    assert cpu.ok
    assert compiled.value == "not used: nnU-Net compiles for CUDA only"


def test_a_gpu_without_bfloat16_is_in_order_and_one_without_float16_is_not():
    findings = found(RTX, fails={("cuda:0", "bfloat16"): "not supported"})
    assert "3D layers train in float32, float16; plan" in findings[1].value
    assert advice(findings) == []
    findings = found(RTX, fails={("cuda:0", "float16"): "no kernel image is available for execution on the device"})
    assert "3D layers fail in float16: RuntimeError: no kernel image is available" in findings[1].value
    assert advice(findings) == ["install a torch that fits this GPU and its driver"]


def test_a_gpu_whose_driver_tells_nothing_is_said_to_fail():
    findings = found(Device("cuda:0"), fails={("cuda:0", f): "CUDA driver version is insufficient" for f in FORMATS})
    assert findings[1].value.startswith("cuda:0: 3D layers fail in float32: RuntimeError: CUDA driver version")
    assert advice(findings) == ["install a torch that fits this GPU and its driver"]


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (
            "2.8.0",
            "MaxPool3d on MPS needs torch 2.10, and 2.8.0 is installed: pip install 'torch>=2.10', or compute on the CPU",
        ),
        ("2.10.0", "compute on the CPU (-device cpu)"),
    ],
)
def test_mps_that_cannot_pool_is_told_which_torch_can(version, remedy):
    findings = found(MPS, fails={("mps", f): NO_POOLING for f in FORMATS}, torch_version=version)
    assert "aten::max_pool3d_with_indices" in findings[1].value
    assert len(advice(findings)) == 1
    assert advice(findings)[0].startswith(remedy)


def test_mps_that_can_is_in_order_without_a_target_and_does_not_compile():
    findings = found(MPS, system="Darwin", shared_memory_bytes=lambda: None)
    assert values(findings)[1:] == [
        "mps, 21.3 GiB; 3D layers train in float32, float16, bfloat16",
        "not used: nnU-Net compiles for CUDA only",
    ]


def test_a_cpu_whose_layers_fail_needs_another_torch():
    findings = found(fails={("cpu", "float32"): "illegal instruction"})
    assert advice(findings) == ["reinstall torch for this machine"]


def nothing(_name: str) -> None:
    return None


@pytest.mark.parametrize(
    ("changed", "value", "remedy"),
    [
        ({"importable": nothing}, "lacks triton, which comes with torch for CUDA", "export nnUNet_compile=f"),
        ({"program": nothing}, "lacks a C compiler, such as gcc", "export nnUNet_compile=f"),
        (
            {"importable": nothing, "program": nothing},
            "lacks triton, which comes with torch for CUDA and a C",
            "install it",
        ),
        ({"program": {"clang": "/usr/bin/clang"}.get}, "available", ""),
        ({"importable": nothing, "environment": {"nnUNet_compile": "f"}}, "switched off (nnUNet_compile=f)", ""),
        ({"importable": nothing, "environment": {"nnUNet_compile": "1"}}, "lacks triton", "export nnUNet_compile=f"),
        ({"importable": nothing, "system": "Windows"}, "not used: nnU-Net does not compile on Windows", ""),
    ],
)
def test_compilation_is_available_or_says_what_it_lacks(changed, value, remedy):
    (finding,) = (one for one in found(RTX, **changed) if one.topic == "compilation")
    assert finding.value.startswith(value)
    assert remedy in finding.advice
    assert finding.ok is (not remedy)


@pytest.mark.parametrize(
    ("n_bytes", "value", "ok"),
    [(64 << 20, "64 MiB", False), (GIB, "1.0 GiB", False), (2 * GIB, "2.0 GiB", True)],
)
def test_the_shared_memory_of_a_container_is_warned_of_where_there_is_a_gpu(n_bytes, value, ok):
    *_, finding = found(RTX, shared_memory_bytes=lambda: n_bytes)
    assert finding.value == f"{value} of shared memory"
    assert finding.ok is ok
    assert ok or "--shm-size=8g or --ipc=host" in finding.advice
    assert advice(found(shared_memory_bytes=lambda: n_bytes)) == []


@pytest.mark.parametrize("number_format", FORMATS)
def test_the_layers_of_a_unet_train_on_this_cpu(number_format):
    train_layers(torch, "cpu", number_format)


def test_layers_that_give_no_finite_gradient_fail():
    """`MaxPool3d` of a torch that forgets values."""

    class Forgets(torch.nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.max_pool3d(x, self.size) * float("nan")

    layers = ("Sequential", "Conv3d", "InstanceNorm3d", "LeakyReLU", "ConvTranspose3d")
    broken = SimpleNamespace(
        nn=SimpleNamespace(**{name: getattr(torch.nn, name) for name in layers}, MaxPool3d=Forgets),
        linspace=torch.linspace, autocast=torch.autocast, isfinite=torch.isfinite,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="gradients are missing or not finite"):
        train_layers(broken, "cpu", "float32")


def fake_torch(*, n_gpus: int = 0, mps: bool = False, broken: bool = False) -> SimpleNamespace:
    def mem_get_info(name: str) -> tuple[int, int]:
        if broken:
            raise RuntimeError("CUDA error")
        return 7 * GIB, 8 * GIB

    return SimpleNamespace(
        __version__="2.10.0",
        version=SimpleNamespace(cuda=None),
        cuda=SimpleNamespace(
            is_available=lambda: n_gpus > 0,
            device_count=lambda: n_gpus,
            mem_get_info=mem_get_info,
            get_device_name=lambda name: f"card {name[-1]}",
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        mps=SimpleNamespace(recommended_max_memory=lambda: 20 * GIB),
    )


def test_devices_are_those_that_torch_sees():
    assert devices_of(fake_torch()) == [CPU]
    cards = [Device(f"cuda:{i}", f"card {i}", 8 * GIB, 7 * GIB) for i in range(2)]
    assert devices_of(fake_torch(n_gpus=2)) == [CPU, *cards]
    assert devices_of(fake_torch(n_gpus=1, broken=True)) == [CPU, Device("cuda:0")]
    assert devices_of(fake_torch(mps=True)) == [CPU, Device("mps", total_bytes=20 * GIB)]


def test_the_probes_of_this_machine_answer():
    made = probes_of(torch)
    assert made.devices()[0] == CPU
    assert made.importable("torch")
    assert not made.importable("no_such_module")
    assert made.built_for in ("the CPU only", f"CUDA {torch.version.cuda}")
    assert {finding.topic for finding in device_findings(made)} <= {"device", "compilation", "/dev/shm"}


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.13.0+cpu", (2, 13)), ("2.10.0a0+git", (2, 10)), ("2.9.1", (2, 9))]
)
def test_the_release_of_a_version(version, numbers):
    assert release(version) == numbers
