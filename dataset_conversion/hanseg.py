"""The layout of the public HaN-Seg 2023 set, head and neck CT with T1w MR (Podobnik et al. 2023, doi:10.1002/mp.16197).

    case_01/case_01_IMG_CT.nrrd
    case_01/case_01_IMG_MR_T1.nrrd            not registered to the CT
    case_01/case_01_OAR_OpticChiasm.seg.nrrd  one mask per organ, up to 30, on the CT's grid

Case folders lie in the given folder or one below it (`set_1/`). Of our organs the set holds both optic nerves, the
chiasm, and each eye as an anterior and a posterior part (`Eye_AL`, `Eye_PL`). It has no lenses. They are part of the
eyes there. In other data sets the eye excludes its lens, so the two kinds should not be mixed in training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.cases.organ_masks import check_files_drawn_once
from nnunet_ext.images.file_names import image_stem, refuse_no_file
from nnunet_ext.images.source_files import subfolders
from nnunet_ext.labels.organs import ORGANS, built_in_aliases
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message

MODALITIES = ("CT", "T1")
IMAGE_NAMES = {"CT": "IMG_CT", "T1": "IMG_MR_T1"}
NOTE = Message("hanseg_not_registered")
_MASK = re.compile(r"_OAR_(.+)\.seg\.nrrd$", re.IGNORECASE)


def label_table() -> LabelTable:
    """Our organs that the set has, in our order, all but the lenses."""
    names = tuple(organ for organ in ORGANS if not organ.startswith("Lens"))
    return LabelTable(names, built_in_aliases(names))


def is_hanseg(source: Path) -> bool:
    """Whether a folder holds cases in this layout."""
    return source.is_dir() and any(_is_case(folder) for folder in _folders(source)[0])


def case_folders(source: Path) -> tuple[list[Path], dict[str, str]]:
    """Case folders sorted by name, and names of cases that are broken links -> why they fail.

    A folder called `case_XX`, or with images of other names, counts as a case that lacks its images.

    Raises:
        FileNotFoundError: If `source` is no folder.
        ValueError: If it holds no case.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder; give the folder that holds case_01, case_02, ...")
    folders, broken = _folders(source)
    if not any(_is_case(folder) for folder in folders):
        raise ValueError(f"{source} has no cases: there is no case_XX/case_XX_IMG_CT.nrrd")
    return sorted(filter(_should_be_case, folders), key=lambda folder: folder.name), broken


def _folders(source: Path) -> tuple[list[Path], dict[str, str]]:
    """Folders in the source, and in those of them that hold cases or are none."""
    folders, broken = subfolders(source)
    for folder in list(folders):
        try:
            below, lost = subfolders(folder)
        except OSError:  # it fails by name, or is counted, when its files are
            continue
        if any(map(_is_case, below)) or not _should_be_case(folder):
            folders = [*(path for path in folders if path != folder), *below]
            broken |= lost
    return folders, broken


def _is_case(folder: Path) -> bool:
    return any(_file(folder, name) is not None for name in IMAGE_NAMES.values())


def _should_be_case(folder: Path) -> bool:
    named = re.fullmatch(r"case_\d+", folder.name, re.IGNORECASE)
    return bool(named) or any(image_stem(path) and not path.is_dir() for path in _below(folder))


def _file(folder: Path, name: str) -> Path | None:
    """The image of a name, `IMG_CT`, in any letter case. A broken link, too."""
    wanted = f"{folder.name}_{name}.nrrd".lower()
    return next((path for path in _below(folder) if path.name.lower() == wanted and not path.is_dir()), None)


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def find_images(folder: Path, modalities: Sequence[str]) -> dict[str, Path]:
    """The file of each channel.

    Raises:
        ValueError: If a channel is not part of the set or its file is missing.
    """
    images = {}
    for modality in modalities:
        if modality not in IMAGE_NAMES:
            raise ValueError(f"HaN-Seg has no channel {modality}, only CT and T1: pass --modalities CT T1")
        path = _file(folder, IMAGE_NAMES[modality])
        if path is None:
            there = [path.name for path in sorted(folder.iterdir()) if image_stem(path) and not _MASK.search(path.name)]
            found = f"; found {', '.join(there[:4])}" if there and not _is_case(folder) else ""
            raise ValueError(
                f"channel {modality} is missing: there is no {folder.name}_{IMAGE_NAMES[modality]}.nrrd{found}"
            )
        refuse_no_file(path)
        images[modality] = path
    return images


def find_masks(folder: Path, table: LabelTable) -> tuple[dict[str | None, list[Path]], list[str]]:
    """Mask files per organ, and the names of those that the table does not know.

    Raises:
        ValueError: If two files are versions of one organ, or there are masks and none is an organ.
    """
    organs: dict[str | None, list[Path]] = {}
    drawn = []
    ignored = []
    for path in sorted(folder.iterdir()):
        match = _MASK.search(path.name)
        if match is None or path.name.startswith(".") or path.is_dir():
            continue
        organ = table.organ(match[1])
        if organ is None:
            ignored.append(path.name)
        else:
            refuse_no_file(path)
            organs.setdefault(organ, []).append(path)
            drawn.append((match[1], path))
    check_files_drawn_once(drawn, table)
    if ignored and not organs:
        raise ValueError(
            f"none of the {len(ignored)} masks, such as {ignored[0]}, is in the label table ({', '.join(table.names)}); add "
            "their names as aliases"
        )
    return organs, ignored
