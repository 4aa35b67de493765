"""Models made elsewhere. Loading one runs no code of its maker, installing one writes nothing beside it.

nnU-Net unpickles checkpoints and imports and calls whatever a plans file names. Here a checkpoint may hold tensors and
plain values only, and a plans file may name networks and their layers only.
"""

from __future__ import annotations

import lzma
import os
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from nnunetv2.paths import nnUNet_results

from nnunet_ext.files import check_output_folder, first_line, read_json, refuse_pipe, write_json

#: The postprocessing of a model. Its `dataset.json` holds a copy under this name without its ending.
POSTPROCESSING = "organ_postprocessing.json"
#: What zipfile and its decompressors raise for a damaged archive, or one packed in a way they do not know.
_DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error, zlib.error, lzma.LZMAError)


def install_model(archive: Path, results: Path | None = None) -> list[Path]:
    """Unpack a zip file of `nnUNetv2_export_model_to_zip`, whole or not at all.

    `nnUNetv2_install_pretrained_model_from_zip` does the same without checks. It renames files that would climb out,
    and overwrites models that are there.

    Args:
        archive: The zip file.
        results: Folder of all models. None for nnU-Net's, `nnUNet_results`.

    Returns:
        The models' folders.

    Raises:
        ValueError: If there is no model in the archive, or a file in it would lie outside its model's folder, is a
            link, or is damaged.
        FileExistsError: If a model is there already.
    """
    if results is None and not os.environ.get("nnUNet_results"):  # noqa: SIM112 nnU-Net's own spelling
        raise ValueError("the environment variable nnUNet_results is not set; it names the folder of the models.")
    archive, results = Path(archive), check_output_folder(Path(results or str(nnUNet_results)))
    if archive.is_dir():
        raise IsADirectoryError(f"{archive} is a folder; name the zip file that nnUNetv2_export_model_to_zip wrote")
    refuse_pipe(archive)
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
            for model in models:
                found = {
                    name: read_json(
                        file,
                        dict,
                        called=f"{archive}: {file.relative_to(scratch).as_posix()}",
                        remedy="nothing was installed; export the model again",
                    )
                    for name in ("plans.json", "dataset.json", POSTPROCESSING)
                    if (file := Path(scratch, model, name)).exists()
                }
                # nnU-Net packs no files of ours. `predict` checks what this one says.
                copy = found.get("dataset.json", {}).get(Path(POSTPROCESSING).stem)
                if copy is not None and POSTPROCESSING not in found:
                    write_json(copy, Path(scratch, model, POSTPROCESSING))
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
