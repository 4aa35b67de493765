"""Models from elsewhere: their weights and plans, read and checked so that no code of their maker runs."""

from __future__ import annotations

import pydoc
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from packaging.version import Version
from torch import nn

from nnunet_ext.files import check_whole, first_line

#: Packages whose networks a plans file may name, and whose layers it may build them from.
NETWORK_PACKAGES = ("dynamic_network_architectures", "nnunet_ext")
LAYER_PACKAGES = ("torch.nn", *NETWORK_PACKAGES)
_SCALAR = np.float64(0).__reduce__()
assert isinstance(_SCALAR, tuple)  # the function that makes a scalar, and its arguments
#: Scores in a checkpoint of nnU-Net's trainer are NumPy scalars. The rest are tensors and plain values.
NUMPY_SCALARS: list[Callable | tuple[Callable, str]] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
    # NumPy 2 moved the function. Checkpoints name it as it was called when they were written.
    *((_SCALAR[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
#: First torch that takes a function together with the name that a checkpoint has for it. See `NUMPY_SCALARS`.
MIN_TORCH = (2, 6)
#: Keys of a checkpoint that prediction needs.
WEIGHT_KEYS = {"network_weights", "trainer_name", "init_args"}
#: Keys and types that a model's plans must have.
PLANS_JSON = {
    "plans_name": str,
    "dataset_name": str,
    "image_reader_writer": str,
    "transpose_forward": [int] * 3,
    "transpose_backward": [int] * 3,
    "left_right_axis": int,
    "configurations": {str: dict},
}
#: The same of the configuration in the plans.
CONFIGURATION = {
    "patch_size": ([int] * 3, [int] * 2),
    "spacing": [float] * 3,
    "normalization_schemes": [str],
    "architecture": {"network_class_name": str, "arch_kwargs": dict, "_kw_requires_import": [str]},
    "recipe?": (dict, None),
    "roi?": (dict, None),
    "previous_stage?": (str, None),
}


def check_torch(installed: str) -> None:
    """Refuse a torch that can't read weights without running code in them.

    Raises:
        ImportError: If this version is older than `MIN_TORCH`. The message names both.
    """
    if Version(installed).release < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        raise ImportError(
            f"torch {installed} is installed, and {needed} or newer is needed to read a model without running code in it: "
            f"pip install 'torch>={needed},!=2.9.*'"
        )


def read_weights(file: Path) -> dict:
    """A checkpoint of nnU-Net's trainer, read so that no code in it can run.

    Raises:
        ImportError: If torch is too old. See `check_torch`.
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, holds objects instead of values, or is no checkpoint.
    """
    check_torch(torch.__version__)
    try:
        check_whole(file)
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            # Mapped, not read: the optimizer's state, two thirds of the file, stays on the disk.
            checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, MemoryError):  # not there, or no permission, so its content is not to blame
        raise
    except Exception as error:  # torch, zipfile and pickle each have their own
        raise ValueError(
            f"{file} can't be read as weights: it is damaged, or holds code or objects, which are not loaded "
            f"({file.stat().st_size} bytes; {first_line(error)}). Get the model again from where you trust it."
        ) from error
    missing = WEIGHT_KEYS - set(checkpoint) if isinstance(checkpoint, Mapping) else WEIGHT_KEYS
    if missing:
        raise ValueError(f"{file} is not a checkpoint of nnU-Net: it holds no {', '.join(sorted(missing))}.")
    return checkpoint


def check_architecture(configuration: ConfigurationManager) -> None:
    """Refuse a plan that names anything but a network and layers of the known packages.

    nnU-Net imports these names and calls the objects it finds with arguments from the plan.

    Raises:
        ValueError: If there is any. The message names it.
    """
    options = configuration.network_arch_init_kwargs
    names = {"network_class_name": (configuration.network_arch_class_name, NETWORK_PACKAGES)}
    names |= {key: (options.get(key), LAYER_PACKAGES) for key in configuration.network_arch_init_kwargs_req_import}
    for key, (name, packages) in names.items():
        if name is not None and not _is_module_of(name, packages):
            raise ValueError(
                f"the model's plans.json names {name!r} as {key}; only classes of {', '.join(packages)} are loaded, for a "
                "plans file could name anything. If the model is your own, move the class there."
            )


def _is_module_of(name: object, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is that of a network or layer class defined in one of the packages."""
    inside = tuple(f"{package}." for package in packages)
    if not isinstance(name, str) or not name.startswith(inside):
        return False
    found = pydoc.locate(name)  # may have led out again: `torch.nn.modules.module.warnings...`
    return isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(inside)
