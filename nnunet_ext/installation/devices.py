"""What each device can do for nnU-Net: 3D layers forward and backward, number formats, memory, and compilation."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnunet_ext.installation.findings import Finding, one_line
from nnunet_ext.installation.gpu_memory import memory_target_gb

GIB = 1024**3
FORMATS = ("float32", "float16", "bfloat16")
#: Formats without which nnU-Net does not train. It uses autocast on CUDA only.
NEEDED = {"cuda": ("float32", "float16")}
#: First torch that computes `MaxPool3d` on MPS. The localizer's network pools.
MPS_TORCH = (2, 10)
#: A container of Docker has 64 MB unless told otherwise. Loader processes hand over batches in it, of which six or more
#: wait: one of four patches of 20 x 192 x 192 voxels takes 41 MB.
LEAST_SHARED_GIB = 2.0
SHARED_MEMORY = Path("/dev/shm")
#: nnU-Net compiles unless this variable says no.
COMPILE = "nnUNet_compile"


@dataclass(frozen=True)
class Device:
    """A device that torch sees. Its memory is None where torch does not tell it."""

    name: str
    model: str = ""
    total_bytes: int | None = None
    free_bytes: int | None = None

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    def __str__(self) -> str:
        sizes = []
        if self.total_bytes is not None:
            sizes.append(f"{self.total_bytes / GIB:.1f} GiB")
        if self.free_bytes is not None:
            sizes.append(f"{self.free_bytes / GIB:.1f} free")
        return ", ".join([" ".join(filter(None, [self.name, self.model])), *sizes])


@dataclass(frozen=True)
class Probes:
    """What is asked of torch and of the system.

    Attributes:
        torch_version: As torch gives it.
        built_for: What this build of torch computes on, in words.
        devices: All that torch sees, the CPU first.
        train: Device name, number format -> None. Raises if the layers of a network fail.
        importable: Module -> whether it can be imported.
        program: Command -> its path, or None.
        shared_memory_bytes: Size of the memory that processes share, None where it has no limit of its own.
        environment: Environment variables.
        system: As `platform.system` gives it.
    """

    torch_version: str
    built_for: str
    devices: Callable[[], list[Device]]
    train: Callable[[str, str], None]
    importable: Callable[[str], bool]
    program: Callable[[str], str | None]
    shared_memory_bytes: Callable[[], int | None]
    environment: Mapping[str, str]
    system: str


def device_findings(probes: Probes) -> Iterator[Finding]:
    """What each device can do, whether nnU-Net compiles here, and the memory that processes share."""
    devices = probes.devices()
    if len(devices) == 1:
        devices = [replace(devices[0], model=f"alone (torch is built for {probes.built_for}; no GPU is visible)")]
    for device in devices:
        yield training_on(device, probes)
    yield compilation(devices, probes)
    yield from shared_memory(devices, probes)


def training_on(device: Device, probes: Probes) -> Finding:
    """Whether the networks' layers compute there, forward and backward, in which formats, and which plan fits."""
    errors: dict[str, Exception] = {}
    for number_format in FORMATS:
        try:
            probes.train(device.name, number_format)
        except Exception as error:  # a driver that does not fit this build of torch shows only on use
            errors[number_format] = error
    failed = [f for f in NEEDED.get(device.kind, FORMATS[:1]) if f in errors]
    if failed:
        value = f"{device}: 3D layers fail in {failed[0]}: {one_line(errors[failed[0]])}"
        return Finding("device", value, _remedy(device, probes))
    value = f"{device}; 3D layers train in {', '.join(f for f in FORMATS if f not in errors)}"
    if device.kind == "cuda" and device.total_bytes is not None:
        target = memory_target_gb(device.total_bytes / GIB)
        value += f"; plan with -gpu_memory_target {target}" if target else (
            "; too small to train the full plan (CascadeOARPlannerSmall plans for less)"
        )  # fmt: skip
    return Finding("device", value)


def _remedy(device: Device, probes: Probes) -> str:
    if device.kind == "cuda":
        return "install a torch that fits this GPU and its driver"
    if device.kind == "mps" and release(probes.torch_version) < MPS_TORCH:
        needed = ".".join(map(str, MPS_TORCH))
        return (
            f"MaxPool3d on MPS needs torch {needed}, and {probes.torch_version} is installed: pip install "
            f"'torch>={needed}', or compute on the CPU (-device cpu)"
        )
    return "compute on the CPU (-device cpu)" if device.kind == "mps" else "reinstall torch for this machine"


def compilation(devices: list[Device], probes: Probes) -> Finding:
    """Whether nnU-Net compiles networks here, and if it would but can't, what to do."""
    topic = "compilation"
    switch = probes.environment.get(COMPILE)
    if not any(device.kind == "cuda" for device in devices):
        return Finding(topic, "not used: nnU-Net compiles for CUDA only")
    if probes.system == "Windows":
        return Finding(topic, "not used: nnU-Net does not compile on Windows")
    if switch is not None and switch.lower() not in ("true", "1", "t"):
        return Finding(topic, f"switched off ({COMPILE}={switch})")
    lacking = [] if probes.importable("triton") else ["triton, which comes with torch for CUDA"]
    if not any(probes.program(compiler) for compiler in ("cc", "gcc", "clang")):
        lacking.append("a C compiler, such as gcc")
    if lacking:
        return Finding(topic, f"lacks {' and '.join(lacking)}", f"install it, or switch it off: export {COMPILE}=f")
    return Finding(topic, f"available (triton, C compiler); {COMPILE}=f switches it off")


def shared_memory(devices: list[Device], probes: Probes) -> Iterator[Finding]:
    """The memory in which loader processes hand over batches, where it has a limit of its own.

    Without a GPU nobody trains the full plan, and the batches of the small one are small.
    """
    n_bytes = probes.shared_memory_bytes()
    if n_bytes is None:
        return
    value = f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB else f"{n_bytes / 1024**2:.0f} MiB"
    too_small = n_bytes < LEAST_SHARED_GIB * GIB and len(devices) > 1
    yield Finding(
        f"{SHARED_MEMORY}",
        f"{value} of shared memory",
        f"loader processes need {LEAST_SHARED_GIB:g} GiB: start the container with --shm-size=8g or --ipc=host"
        if too_small
        else "",
    )


def release(version: str) -> tuple[int, ...]:
    """Major and minor number of a version such as `2.9.1+cu128`."""
    return tuple(int(number) for number in version.split("+")[0].split(".")[:2])


# ------------------------------------------------------------------------------------------ asked of torch and the system


def probes_of(torch: Any) -> Probes:
    """The probes of this machine, with the imported torch."""
    return Probes(
        torch_version=torch.__version__,
        built_for=f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only",
        devices=lambda: devices_of(torch),
        train=lambda device, number_format: train_layers(torch, device, number_format),
        importable=lambda module: find_spec(module) is not None,
        program=shutil.which,
        shared_memory_bytes=lambda: shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else None,
        environment=os.environ,
        system=platform.system(),
    )


def devices_of(torch: Any) -> list[Device]:
    """The CPU, and each GPU that torch sees. A GPU whose driver fails has a name only."""
    found = [Device("cpu")]
    for index in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        name = f"cuda:{index}"
        try:
            free_bytes, total_bytes = torch.cuda.mem_get_info(name)
            found.append(Device(name, torch.cuda.get_device_name(name), total_bytes, free_bytes))
        except Exception:  # what is wrong shows when it computes
            found.append(Device(name))
    if torch.backends.mps.is_available():
        found.append(Device("mps", total_bytes=torch.mps.recommended_max_memory()))
    return found


def train_layers(torch: Any, device: str, number_format: str) -> None:
    """One step of a network of the layers that a U-Net has, 3D, forward and backward, by autocast unless in 32 bits.

    Raises:
        RuntimeError: If a layer is not there, its gradient is not, or a value is not finite.
    """
    nn = torch.nn
    network = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=True),
        nn.LeakyReLU(),
        nn.MaxPool3d(2),
        nn.ConvTranspose3d(4, 2, 2, stride=2),
    ).to(device)
    images = torch.linspace(-1, 1, 2 * 8**3, device=device).reshape(1, 2, 8, 8, 8)
    kind = device.partition(":")[0]
    rounded = number_format != "float32"
    with torch.autocast(kind, getattr(torch, number_format) if rounded else None, enabled=rounded):
        loss = network(images).float().square().mean()
    loss.backward()
    gradients = [value.grad for value in network.parameters()]
    if any(gradient is None or not torch.isfinite(gradient).all().item() for gradient in gradients):
        raise RuntimeError("gradients are missing or not finite")
