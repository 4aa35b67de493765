"""The layout of the public HaN-Seg 2023 set (Podobnik et al. 2023, doi:10.1002/mp.16197): head and neck CT with T1w MR.

    case_01/case_01_IMG_CT.nrrd
    case_01/case_01_IMG_MR_T1.nrrd            not registered to the CT
    case_01/case_01_OAR_OpticChiasm.seg.nrrd  one mask per organ, up to 30, on the CT's grid

Case folders lie in the given folder or one below it (`set_1/`). Of our organs the set holds both optic nerves, the
chiasm, and each eye as an anterior and a posterior part (`Eye_AL`, `Eye_PL`). It has no lenses: they are part of the
eyes there, unlike in data sets where the eye excludes its lens, so the two kinds should not be mixed in training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.labels import ORGANS, LabelTable, built_in_aliases
from nnunet_ext.organ_masks import check_files_drawn_once

MODALITIES = ("CT", "T1")
IMAGE_NAMES = {"CT": "IMG_CT", "T1": "IMG_MR_T1"}
NOTE = "HaN-Seg's T1 is not registered to its CT: what it shows may lie beside the organs drawn on the CT"
_MASK = re.compile(r"_OAR_(.+)\.seg\.nrrd$", re.IGNORECASE)


def label_table() -> LabelTable:
    """Our organs that the set has, in our order: all but the lenses."""
    names = tuple(organ for organ in ORGANS if not organ.startswith("Lens"))
    return LabelTable(names, built_in_aliases(names))


def is_hanseg(source: Path) -> bool:
    """Whether a folder holds cases in this layout."""
    return source.is_dir() and any(_is_case(folder) for folder in _folders(source))


def case_folders(source: Path) -> list[Path]:
    """Case folders, sorted by name.

    Raises:
        FileNotFoundError: If `source` is no folder.
        ValueError: If it holds no case.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder; give the folder that holds case_01, case_02, ...")
    folders = sorted((folder for folder in _folders(source) if _is_case(folder)), key=lambda folder: folder.name)
    if not folders:
        raise ValueError(f"{source} has no cases: there is no case_XX/case_XX_IMG_CT.nrrd")
    return folders


def _folders(source: Path) -> list[Path]:
    below = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [*below, *(deeper for path in below for deeper in sorted(path.iterdir()) if deeper.is_dir())]


def _is_case(folder: Path) -> bool:
    return any((folder / f"{folder.name}_{name}.nrrd").is_file() for name in IMAGE_NAMES.values())


def find_images(folder: Path, modalities: Sequence[str]) -> dict[str, Path]:
    """The file of each channel.

    Raises:
        ValueError: If a channel is not part of the set or its file is missing.
    """
    images = {}
    for modality in modalities:
        if modality not in IMAGE_NAMES:
            raise ValueError(f"HaN-Seg has no channel {modality}, only CT and T1: pass --modalities CT T1")
        path = folder / f"{folder.name}_{IMAGE_NAMES[modality]}.nrrd"
        if not path.is_file():
            raise ValueError(f"channel {modality} is missing: there is no {path.name}")
        images[modality] = path
    return images


def find_masks(folder: Path, table: LabelTable) -> tuple[dict[str | None, list[Path]], list[str]]:
    """Mask files per organ, and the names of those that the table does not know.

    Raises:
        ValueError: If two files are versions of one organ.
    """
    organs: dict[str | None, list[Path]] = {}
    drawn = []
    ignored = []
    for path in sorted(folder.iterdir()):
        match = _MASK.search(path.name)
        if match is None or path.name.startswith("."):
            continue
        organ = table.organ(match[1])
        if organ is None:
            ignored.append(path.name)
        else:
            organs.setdefault(organ, []).append(path)
            drawn.append((match[1], path))
    check_files_drawn_once(drawn, table)
    return organs, ignored
