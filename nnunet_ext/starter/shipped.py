"""Finds the starter and checks that its files are whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.files import read_json

#: Holds `starter.json` and `model/` in a build that brings a starter along.
FOLDER = Path(__file__).parent
SEGMENTER = "CascadeOARTrainer__CascadeOARPlansStarter__3d_cascade_fullres"
LOCALIZER = "CascadeOARTrainer__CascadeOARPlansStarter__3d_lowres"
#: It was trained on all of its cases.
FOLD = "all"
CHECKPOINT = "checkpoint_final.pth"
#: Files without which it is no model, below `model/`.
FILES = tuple(
    f"{stage}/{file}"
    for stage in (LOCALIZER, SEGMENTER)
    for file in ("dataset.json", "plans.json", f"fold_{FOLD}/{CHECKPOINT}")
)
#: What a user of the command can do about a damaged one.
REMEDY = "install nnunet_ext again (pip install --force-reinstall --no-deps), or name another model with -d or -m"


@dataclass(frozen=True)
class Starter:
    """A starter whose files are whole.

    Attributes:
        version: Of its weights, from `starter.json`.
        segmenter: Folder of the trained segmenter. Its localizer lies beside it.
    """

    version: str
    segmenter: Path

    def named(self, model_sha256: str) -> str:
        """Its name beside a result. The hash is that of plans and weights, as `predictions.json` has it."""
        return f"starter {self.version}, sha256 {model_sha256}"


def find_starter(folder: Path = FOLDER) -> Starter:
    """The starter of this build, or the one in another folder.

    Args:
        folder: Holds `starter.json` and `model/`.

    Raises:
        FileNotFoundError: If there is none, or one of its files is not there.
        ValueError: If a file is not the one that `starter.json` names.
    """
    folder = Path(folder)
    record, model = folder / "starter.json", folder / "model"
    if not record.is_file() and not model.is_dir():
        where = "this build of nnunet_ext" if folder == FOLDER else str(folder)
        raise FileNotFoundError(
            f"no model is named, and {where} holds no starter, the small model that would be used then: name a model with "
            "-d or -m, or install a release of nnunet_ext that holds one"
        )
    content = read_json(record, {"version": str, "sha256": {str: str}}, remedy=REMEDY)
    hashes = content["sha256"]
    if unnamed := [file for file in FILES if file not in hashes]:
        raise ValueError(f"{record} has no sha256 of {unnamed[0]}; {REMEDY}")
    for name in FILES:
        file = model / name
        if not file.is_file():
            raise FileNotFoundError(f"the starter is not whole: {file} is not there; {REMEDY}")
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != hashes[name]:
            raise ValueError(
                f"the starter is damaged: {file} ({file.stat().st_size} bytes) has the sha256 {found[:12]}..., not "
                f"{hashes[name][:12]}... as starter.json says; {REMEDY}"
            )
    return Starter(content["version"], model / SEGMENTER)
