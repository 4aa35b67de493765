"""DICOM files, recognised by their content."""

from __future__ import annotations

from pathlib import Path

from nnunet_ext.dicom.text import tolerant_dicom
from nnunet_ext.images.source_files import is_system, walk

#: Files with these endings are not opened when a folder is searched for any DICOM file.
_OTHER_ENDINGS = frozenset({
    ".nii", ".gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff",
    ".svg", ".mp4", ".avi", ".txt", ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".css", ".js", ".md", ".rst",
    ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".zip", ".tar", ".tgz", ".bz2", ".7z", ".rar", ".py",
    ".ipynb", ".m", ".mat", ".npy", ".npz", ".h5", ".bval", ".bvec", ".log", ".toml", ".yaml", ".yml", ".ini", ".inf",
    ".exe", ".dll", ".jar", ".db", ".stl", ".obj", ".ctbl", ".tfm",
})  # fmt: skip


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its content, the mark `DICM` or, without preamble, a first tag of group 0002 or 0008."""
    try:
        return holds_dicom(path)
    except OSError:
        return False


def holds_dicom(path: Path) -> bool:
    """As `is_dicom`. OSError if the file cannot be opened."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:132] == b"DICM":
        return True
    if len(start) < 16 or start[:2] not in (b"\x08\x00", b"\x02\x00") or start[3:4] != b"\x00":
        return False
    # `08 00 05 00 43 53` (explicit) or a short length (implicit): a NIfTI or text file has neither.
    return start[4:6] in (b"CS", b"UI", b"UL", b"OB") or (
        start[2] <= 0x18 and int.from_bytes(start[4:8], "little") < 256
    )


def has_dicom(folder: Path, *, images_only: bool = False, below: bool = True) -> bool:
    """Whether there is DICOM in a folder.

    Files are opened until one is found, in every folder those first whose names are likely. Pictures, text and the like are
    known by their endings.

    Args:
        folder: Any nesting.
        images_only: RTSTRUCT, plans, doses and segmentations do not count.
        below: Look into the folders below, too.
    """
    here: Path | None = None
    likely: list[Path] = []
    for path, problem in walk(folder):
        if problem or not _may_be_dicom(path, folder) or not (below or path.parent == folder):
            continue
        if path.parent != here:
            if any(_is_wanted(one, images_only) for one in likely):
                return True
            here, likely = path.parent, []
        likely.append(path)
        if path.suffix.lower() in ("", ".dcm", ".ima") or path.suffix[1:].isdigit():
            if _is_wanted(path, images_only):
                return True
            likely.pop()
    return any(_is_wanted(one, images_only) for one in likely)


def _may_be_dicom(path: Path, folder: Path) -> bool:
    return path.suffix.lower() not in _OTHER_ENDINGS and path.name.upper() != "DICOMDIR" and not is_system(path, folder)


def _is_wanted(path: Path, images_only: bool) -> bool:
    return is_dicom(path) and not (images_only and _modality(path).startswith(("RT", "SEG", "REG", "SR", "PR", "KO")))


def _modality(path: Path) -> str:
    import pydicom

    with tolerant_dicom():
        try:
            return str(pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["Modality"]).Modality)
        except Exception:
            return ""


def label_modality(path: Path) -> str:
    """`RTSTRUCT` or `SEG` if a file is one of these DICOM objects, else empty."""
    if path.suffix.lower() in _OTHER_ENDINGS or not is_dicom(path):
        return ""
    modality = _modality(path)
    return modality if modality in ("RTSTRUCT", "SEG") else ""
