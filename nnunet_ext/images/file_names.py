"""Names of image files: endings, case names, channels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.images.itk_headers import meta_image_header, nrrd_header

#: File endings that are read. Longer ones come first, so that `.nii.gz` is not taken for `.gz`.
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
#: Other names of a channel. A name that is not listed stands for itself. Case never matters.
MODALITY_ALIASES = {
    "CT": ("CT", "CT_plan", "planCT", "planning_CT", "pCT"),
    "T1": ("T1", "T1w", "MR_T1", "MRI_T1", "T1_MR"),
    "T2": ("T2", "T2w", "MR_T2", "MRI_T2", "T2_MR"),
}


def image_stem(path: Path) -> str | None:
    """File name without its image ending, or None if it is not an image this package reads."""
    lower = path.name.lower()
    if lower.startswith("."):
        return None
    ending = next((ending for ending in ENDINGS if lower.endswith(ending)), None)
    return path.name[: -len(ending)] if ending and len(lower) > len(ending) else None


def image_files(path: Path) -> list[Path]:
    """The files that make up one image, itself and the data file that a `.mhd` or detached `.nrrd` header names."""
    name = None
    refuse_pointer(path)
    if path.name.lower().endswith(".mhd"):
        name = meta_image_header(path)[0].get("elementdatafile")
    elif path.name.lower().endswith(".nrrd"):
        fields = nrrd_header(path)[0]
        name = fields.get("data file", fields.get("datafile"))
    if name is None or name.upper().startswith(("LOCAL", "LIST")) or "%" in name:
        return [path]
    return [path, path.parent / name.strip()]


def refuse_pointer(path: Path) -> None:
    """ValueError for an empty file, a pipe, a device, and the pointer that git leaves for a file it has not fetched."""
    if path.exists():
        refuse_no_file(path)
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError(f"{path.name} is empty (0 bytes); copy it again")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path.name} is a git-LFS pointer, not an image; fetch its content with `git lfs pull`")


def broken_link(path: Path) -> str:
    """The message for a link that leads nowhere."""
    return f"{path.name} is a broken link: what it leads to is not there; copy it, or mend or remove the link"


def refuse_no_file(path: Path) -> None:
    """ValueError if a file that was chosen by its name is a broken link, a pipe or a device.

    Opening a pipe would wait for ever.
    """
    if not path.is_file():
        if path.is_symlink() and not path.exists():
            raise ValueError(broken_link(path))
        raise ValueError(f"{path.name} is no regular file; put the image itself there")


def find_channel_files(folder: Path, modalities: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, Path]:
    """The file of each channel in a case folder. Channels in `optional` may have none.

    A file is the channel `T1` if its name without ending is `T1` or one of its aliases (`T1w`), whatever the case. The
    name may also end in it after `_`, `-` or a blank (`patient7_T1.nii.gz`). A whole name goes before an ending.

    Raises:
        ValueError: If a channel has no file or more than one. The message names the files.
    """
    stems = {path: stem for path in sorted(folder.iterdir()) if not path.is_dir() and (stem := image_stem(path))}
    found = {}
    for modality in modalities:
        names = {name.lower() for name in (modality, *MODALITY_ALIASES.get(modality.upper(), ()))}
        whole = [path for path, stem in stems.items() if stem.lower() in names]
        ends = [path for path, stem in stems.items() if re.split(r"[_\- ]", stem.lower())[-1] in names]
        candidates = whole or ends
        if not candidates and modality in optional:
            continue
        if not candidates:
            there = ", ".join(path.name for path in stems) or "no image"
            raise ValueError(
                f"channel {modality} is missing: no file named {modality}{{{','.join(ENDINGS)}}}; found {there}"
            )
        if len(candidates) > 1:
            several = " and ".join(path.name for path in candidates)
            raise ValueError(f"channel {modality} has {len(candidates)} files, {several}; keep one")
        refuse_no_file(candidates[0])
        found[modality] = candidates[0]
    owners: dict[Path, str] = {}
    for modality, path in found.items():
        if path in owners:
            raise ValueError(f"{path.name} would be both channel {owners[path]} and channel {modality}; rename it")
        owners[path] = modality
    return found
