"""DICOM series, found in any folder and told apart by their headers.

Files are recognised by content, not by name. Localizers, screen captures and files that hold no image are set aside and
counted. The frames of an enhanced (multi-frame) CT or MR count as one image each.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.dicom.files import holds_dicom
from nnunet_ext.dicom.headers import (
    GE_COMPLEX,
    MULTI_FRAME,
    RTSTRUCT,
    SECONDARY_CAPTURE,
    TAGS,
    Header,
    frames,
    start_of_rtstruct,
)
from nnunet_ext.dicom.model import Patient, Series, Slice, Tree
from nnunet_ext.dicom.parts import FEWEST_SLICES, PLACE_TOLERANCE_MM
from nnunet_ext.dicom.personal import patient_of, personal_words, without_personal
from nnunet_ext.dicom.series_members import OTHER_DIRECTION, Members, series_of, whole
from nnunet_ext.dicom.text import tolerant_dicom
from nnunet_ext.dicom.traits import equal_within_rounding
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.images.source_files import EMPTY, UNREADABLE, is_system, reason_of, walk

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.tag import BaseTag


def find_series(folder: Path, progress: Callable[[Iterable[Path]], Iterable[Path]] = iter) -> Tree:
    """All series below a folder, whatever its files are called.

    Args:
        folder: Any nesting. Files that are no DICOM are counted and left.
        progress: Wraps the iteration over files, for a progress bar.
    """
    tree = Tree()
    search = _Search(tree)
    with tolerant_dicom():
        for path in progress(list(_files(Path(folder), tree))):
            header = _header(path, tree)
            if header is not None:
                search.take(path, header)
        tree.images = search.series()
    order = {"CT": 0, "T1": 1, "T2": 2, "": 3}
    tree.images.sort(
        key=lambda s: (s.patient.key, s.study_uid, s.frame_of_reference_uid, order[s.channel], s.number or 0)
    )
    tree.images = [_with_label(one, tree) for one in tree.images]
    tree.structures = [_with_label(one, tree) for one in tree.structures]
    return tree


def _header(path: Path, tree: Tree) -> Header | None:
    """Header of a DICOM file. None, and set aside in the tree, if it is none or cannot be read."""
    import pydicom

    try:
        found = holds_dicom(path)
    except OSError:
        tree.set_aside(path, UNREADABLE)
        return None
    if not found:
        tree.set_aside(path, "files that are not DICOM")
        tree.volumes += [path] if image_stem(path) else []
        return None
    try:
        dataset: FileDataset | None = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_tags())
    except Exception:
        dataset = start_of_rtstruct(path)
    if dataset is None:
        tree.set_aside(path, "DICOM files that cannot be read")
        return None
    return Header(dataset)


@functools.cache
def _tags() -> list[BaseTag]:
    """Elements to read."""
    from pydicom.tag import Tag

    return [*map(Tag, TAGS), *map(Tag, GE_COMPLEX)]


class _Search:
    """Files found so far, in groups that may be one series. RTSTRUCTs go to the tree at once."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        #: Patient, series, frame of reference and matrix -> members, one group for each direction of the slices.
        self.groups: dict[tuple, list[Members]] = {}
        #: SOP instance and frame -> position of the first image under it.
        self.positions: dict[tuple, tuple] = {}
        #: SOP instance -> first RTSTRUCT under it.
        self.structures: dict[str, Path] = {}
        #: Series -> patients whose images it has.
        self.owners: dict[str, set[str]] = {}

    def take(self, path: Path, header: Header) -> None:
        """Sort one file in."""
        sop_class = header.text("SOPClassUID")
        patient = patient_of(header)
        words = self.tree.personal.get(patient.key, frozenset()) | personal_words(header, patient)
        self.tree.personal[patient.key] = words
        if sop_class == RTSTRUCT or header.text("Modality") == "RTSTRUCT":
            first = self.structures.setdefault(header.text("SOPInstanceUID"), path)
            if first != path and first.read_bytes() == path.read_bytes():
                self.tree.set_aside(path, "copies of the same RTSTRUCT")
            else:
                self.tree.structures.append(_structure(header, patient, path))
            return
        if header.text("Modality") == "SEG":
            self.tree.segmentations.add(patient.key)
        sop_uid = header.text("SOPInstanceUID")
        for frame, image in frames(header, sop_class):
            self._take_image(path, image, patient, sop_uid, frame)

    def _take_image(self, path: Path, image: Header, patient: Patient, sop_uid: str, frame: int | None) -> None:
        """Sort one image in, which may be a frame of a file."""
        if aside := _set_aside(image, image.text("SOPClassUID")):
            self.tree.set_aside(path, aside)
            return
        place = image.numbers("ImagePositionPatient", 3) or (0.0, 0.0, 0.0)
        first_place = self.positions.setdefault((sop_uid, frame), place)
        if sop_uid and not all(map(equal_within_rounding, place, first_place, [PLACE_TOLERANCE_MM] * 3)):
            self.tree.set_aside(path, "images under the UID of another image")
            return
        uid = image.text("SeriesInstanceUID")
        self.owners.setdefault(uid, set()).add(patient.key)
        key = (patient.key, uid, image.text("FrameOfReferenceUID"), image.text("Rows"), image.text("Columns"))
        direction = np.array(image.numbers("ImageOrientationPatient", 6) or np.zeros(6))
        alike = self.groups.setdefault(key, [])
        members = next((m for m in alike if np.abs(m.direction - direction).max() <= OTHER_DIRECTION), None)
        if members is None:
            members = Members(direction)
            alike.append(members)
        members.add(image, path, sop_uid, frame, direction)

    def series(self) -> list[Series]:
        """Series of all images taken. Single images are set aside."""
        found: list[Series] = []
        for (_, uid, *_), alike in self.groups.items():
            for members in alike:
                if uid and len(self.owners[uid]) > 1:
                    members.problem = (
                        f"its images, or copies of it, carry {len(self.owners[uid])} patient IDs; correct the IDs, or "
                        "remove the copy"
                    )
                for one in series_of(members, self.tree):
                    if len(one.slices) < FEWEST_SLICES and not one.problem:
                        for single in one.slices:
                            self.tree.set_aside(single.path, "single images and localizers")
                    else:
                        found.append(one)
        return found


def _files(folder: Path, tree: Tree) -> Iterable[Path]:
    """Files that may be DICOM. The others are counted in the tree."""
    for path, problem in walk(folder):
        tree.files.append(path)
        reason = reason_of(path, problem, folder)
        if problem or is_system(path, folder) or reason in (EMPTY, UNREADABLE):
            tree.set_aside(path, reason)
        elif path.name.upper() == "DICOMDIR":
            tree.set_aside(path, "DICOMDIR files")
        else:
            yield path


def _set_aside(header: Header, sop_class: str) -> str:
    """Kind of a file that is no slice of a volume. Empty if it may be one."""
    kind = header.text("ImageType").upper()
    if sop_class.startswith(SECONDARY_CAPTURE) or "SCREEN" in kind:
        return "screen and secondary captures"
    if "LOCALIZER" in kind or "SCOUT" in kind:
        return "single images and localizers"
    if sop_class in MULTI_FRAME:
        return ""
    modality = header.text("Modality")
    if not modality:
        return "DICOM files without a modality (cut off?)"
    if modality not in ("CT", "MR"):
        return (
            f"files of modality {modality}" if re.fullmatch(r"[A-Z]{2,12}", modality) else "files of other modalities"
        )
    if (header.number("SamplesPerPixel") or 1) != 1:
        return "colour pictures"
    if header.numbers("ImagePositionPatient", 3) is None or header.numbers("ImageOrientationPatient", 6) is None:
        return "images without a position in space"
    return ""


def _structure(header: Header, patient: Patient, path: Path) -> Series:
    name = header.text("StructureSetLabel") or header.text("SeriesDescription")
    return Series(
        patient, header.text("SOPInstanceUID"), header.text("StudyInstanceUID"), header.text("FrameOfReferenceUID"),
        "RTSTRUCT", whole(header.number("SeriesNumber")), name, "",
        names=tuple(t for t in (name, header.text("SeriesDescription")) if t),
        slices=(Slice(path, header.text("SOPInstanceUID"), (0.0, 0.0, 0.0), None),),
    )  # fmt: skip


def _with_label(series: Series, tree: Tree) -> Series:
    text = without_personal(series.description, tree.personal[series.patient.key], short=True)
    number = "series" if series.number is None else f"series {series.number}"
    if series.modality == "RTSTRUCT":
        return replace(series, label=f"{number} '{text}' ({series.modality})")
    part = without_personal(", ".join(series.part), tree.personal[series.patient.key], short=True)
    choice = ", ".join(filter(None, (str(text if series.number is None else series.number), part)))
    facts = ", ".join(filter(None, (series.modality, series.part_note, f"{len(series.slices)} images")))
    label = ", ".join(filter(None, (f"{number} '{text}'", part)))
    parts = tuple(_with_label(one, tree) for one in series.parts)
    return replace(series, label=f"{label} ({facts})", choice=choice, parts=parts)
