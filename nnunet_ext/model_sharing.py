"""Models made elsewhere: loading one runs no code of its maker, installing one writes nothing beside it.

nnU-Net unpickles checkpoints and imports and calls whatever a plans file names. Here a checkpoint may hold tensors and
plain values only, and a plans file may name networks and their layers only.
"""

from __future__ import annotations

import lzma
import os
import pydoc
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunet_ext.checkpoints import check_whole
from nnunet_ext.files import check_output_folder, first_line, read_json

#: Packages whose networks a plans file may name, and whose layers it may build them from.
NETWORK_PACKAGES = ("dynamic_network_architectures", "nnunet_ext")
LAYER_PACKAGES = ("torch.nn", *NETWORK_PACKAGES)
#: What nnU-Net's trainer leaves in a checkpoint beside tensors and plain values: scores, as NumPy scalars.
NUMPY_SCALARS = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
    # NumPy 2 moved the function; checkpoints name it as it was called where they were written.
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
#: What zipfile and its decompressors raise for a damaged archive, or one packed in a way they do not know.
_DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error, zlib.error, lzma.LZMAError)
#: What of a checkpoint predicting needs.
WEIGHT_KEYS = {"network_weights", "trainer_name", "init_args"}


def read_weights(file: Path) -> dict:
    """A checkpoint of nnU-Net's trainer, read so that no code in it can run.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, holds objects instead of values, or is something else.
    """
    try:
        check_whole(file)
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            # Mapped, not read: the optimizer's state, two thirds of the file, stays on the disk.
            checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, MemoryError):  # not there, no permission: what is in it is not to blame
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

    nnU-Net imports these names and calls what it finds with arguments from the plan.

    Raises:
        ValueError: Naming it.
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


def install_model(archive: Path, results: Path | None = None) -> list[Path]:
    """Unpack a zip file of `nnUNetv2_export_model_to_zip`, whole or not at all; the models' folders.

    `nnUNetv2_install_pretrained_model_from_zip` does the same without looking: it renames what would climb out, and
    overwrites models that are there.

    Args:
        archive: The zip file.
        results: Folder of all models; None for nnU-Net's, `nnUNet_results`.

    Raises:
        ValueError: If a file in the archive would lie outside its model's folder, is a link, or is damaged; if there is no
            model in it.
        FileExistsError: If a model is there already.
    """
    if results is None and not os.environ.get("nnUNet_results"):  # noqa: SIM112 nnU-Net's own spelling
        raise ValueError("the environment variable nnUNet_results is not set; it names the folder of the models.")
    archive, results = Path(archive), check_output_folder(Path(results or str(nnUNet_results)))
    if archive.is_dir():
        raise IsADirectoryError(f"{archive} is a folder; name the zip file that nnUNetv2_export_model_to_zip wrote")
    try:
        content = zipfile.ZipFile(archive)
    except _DAMAGED as error:
        raise ValueError(f"{archive} is not a zip file, or cut off ({error}); download it again") from error
    with content:
        members = [m for m in content.infolist() if not m.is_dir()]
        for member in members:
            _check_member(member, archive)
        plans = [PurePosixPath(m.filename) for m in members if m.filename.endswith("/plans.json")]
        models = sorted({file.parent for file in plans if len(file.parts) == 3})
        if not models:
            raise ValueError(f"{archive} holds no model: no plans.json in DATASET/TRAINER__PLANS__CONFIGURATION.")
        for model in models:
            if (results / model).exists():
                raise FileExistsError(f"{results / model} is there already; move it away first.")
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=results, prefix=".install-") as scratch:
            try:
                content.extractall(scratch)
            except (
                *_DAMAGED,
                NotADirectoryError,
                IsADirectoryError,
                FileExistsError,
            ) as error:  # one name for two things
                raise ValueError(f"{archive} is damaged ({first_line(error)}); download it again") from error
            except RuntimeError as error:  # the only word that zipfile has for a password
                raise ValueError(
                    f"{archive} can't be unpacked ({first_line(error)}); pack it without a password"
                ) from error
            for file in (Path(scratch, model, name) for model in models for name in ("plans.json", "dataset.json")):
                if file.exists():
                    called = f"{archive}: {file.relative_to(scratch).as_posix()}"
                    read_json(file, dict, called=called, remedy="nothing was installed; export the model again")
            for model in models:
                (results / model).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(scratch, model), results / model)
    return [results / model for model in models]


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    climbs = not path.parts or path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1])
    link = stat.S_ISLNK(member.external_attr >> 16)
    if climbs or link:
        what = "is a link" if link else "would be written outside the folder of models"
        raise ValueError(f"{archive} is not safe: {member.filename!r} in it {what}. Nothing was installed.")
