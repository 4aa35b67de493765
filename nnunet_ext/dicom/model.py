"""A DICOM series with its patient, slices and channel, and the reason if it cannot be read.

The images of a series share SeriesInstanceUID, frame of reference, slice direction and matrix. A series that holds several
volumes (echoes, acquisitions) is split into them (`parts`). Header values that may be personal stay inside `Series`.
`Series.label` is the only text made for messages.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.dicom.traits import Traits
from nnunet_ext.messages import Message


@dataclass(frozen=True)
class Patient:
    """The patient of a file. It is personal and never printed.

    `key` tells patients apart. It is the ID, else the name, else the study.
    """

    key: str
    patient_id: str = ""
    name: str = ""
    birth_date: str = ""


@dataclass(frozen=True)
class Slice:
    """One image, with the centre of its first pixel in mm (LPS), and values that show whether it fits its neighbours.

    `frame` counts from 0 if the file holds several images.
    """

    path: Path
    sop_uid: str
    position_mm: tuple[float, float, float]
    thickness_mm: float | None
    frame: int | None = None
    traits: Traits = field(default_factory=Traits)
    spacing_between_mm: float | None = None


@dataclass(frozen=True)
class Series:
    """Images of one acquisition, or one RTSTRUCT (`modality` RTSTRUCT, without slices' geometry).

    Attributes:
        patient: Whose it is.
        uid, study_uid, frame_of_reference_uid: As in the headers.
        modality: As in the header.
        number: SeriesNumber, None if it is missing.
        description: SeriesDescription as in the header, which may be personal.
        label: Number and description for messages, without anything personal.
        channel: `CT`, `T1`, `T2`, or empty if it is none of them.
        by_rule: Whether the series file says which channel it is.
        reason: Why it is that channel, or none.
        notes: Messages for the user of the series.
        problem: Why it cannot be read, from the headers. Empty if it can.
        derived: Whether it was computed from other images (ImageType).
        combined: Whether it unites several echoes.
        part: Which volume of the series it is, such as `("echo 1",)`. Empty if the series is one volume.
        part_note: Meaning of `part`, such as `TE 1.69 ms`.
        choice: How the series file names it, such as `7, echo 1`, without anything personal.
        parts: Volumes it can be split into, if it is none as a whole, or if only the order tells them apart.
        slices: In file order.
        direction: Row and column cosines, 6 numbers.
        spacing_mm: Between rows, between columns (DICOM's order).
        size: Rows, columns.
    """

    patient: Patient
    uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    number: int | None
    description: str
    label: str
    names: tuple[str, ...] = ()
    channel: str = ""
    reason: str = ""
    by_rule: bool = False
    notes: tuple[Message, ...] = ()
    problem: str = ""
    derived: bool = False
    combined: bool = False
    part: tuple[str, ...] = ()
    part_note: str = ""
    choice: str = ""
    parts: tuple[Series, ...] = ()
    slices: tuple[Slice, ...] = ()
    direction: tuple[float, ...] = ()
    spacing_mm: tuple[float, float] = (0.0, 0.0)
    size: tuple[int, int] = (0, 0)

    @property
    def paths(self) -> list[Path]:
        return list(dict.fromkeys(one.path for one in self.slices))


@dataclass
class Tree:
    """DICOM files of a folder.

    Attributes:
        images, structures: Image series and RTSTRUCTs.
        ignored: Kind of images or files that were set aside -> number of them.
        personal: Patient key -> words that are personal.
        files: All files below the folder, those too that are set aside.
        left_over: File -> why it is in no series.
        segmentations: Keys of patients with DICOM SEG objects, which are not read.
        volumes: Images in other formats than DICOM.
    """

    images: list[Series] = field(default_factory=list)
    structures: list[Series] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)
    personal: dict[str, frozenset[str]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    left_over: dict[Path, str] = field(default_factory=dict)
    segmentations: set[str] = field(default_factory=set)
    volumes: list[Path] = field(default_factory=list)

    def set_aside(self, path: Path, reason: str) -> None:
        """Count an image or file that is in no series."""
        self.ignored[reason] += 1
        self.left_over.setdefault(path, reason)
