"""Contours and regions of an RTSTRUCT, and the images it refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.messages import Message

#: An open line whose ends are this near to each other, in mm, is closed.
CLOSED_MM = 1e-3
CLOSED, CLOSED_XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
#: Types whose contours enclose an area, PS3.3 C.8.8.6.1. Interpolated ones were computed by the planning system.
_ENCLOSING = (CLOSED, CLOSED_XOR, "INTERPOLATED_PLANAR")
_OPEN = "OPEN_PLANAR"
CONTOUR_KINDS = {re.sub("_", "", kind): kind for kind in (*_ENCLOSING, _OPEN, "OPEN_NONPLANAR", "POINT")}


@dataclass(frozen=True)
class Contour:
    """One polygon.

    Attributes:
        points_mm: `(N, 3)` in mm, LPS.
        kind: ContourGeometricType.
        images: SOP instance UID and frame (from 0, None if not said) of the images it was drawn on, usually one.
    """

    points_mm: np.ndarray
    kind: str = CLOSED
    images: tuple[tuple[str, int | None], ...] = ()

    @property
    def sop_uid(self) -> str:
        """SOP instance UID of the image it was drawn on, empty if not said."""
        return self.images[0][0] if self.images else ""


@dataclass(frozen=True)
class Roi:
    """One region of interest of an RTSTRUCT. Names are as drawn and may be personal.

    `problem` says why its contours cannot be used, as the end of a sentence that begins with its name. Empty if they
    can.
    """

    number: int | None
    name: str
    frame_of_reference_uid: str
    contours: tuple[Contour, ...]
    problem: str = ""

    @property
    def encloses(self) -> bool:
        """Whether a contour encloses an area. Points and lines do not."""
        return bool(closed_contours(self.contours, []))


@dataclass(frozen=True)
class References:
    """Series and images that an RTSTRUCT lists as those it was drawn on."""

    series_uids: frozenset[str] = frozenset()
    sop_uids: frozenset[str] = frozenset()

    def __or__(self, other: References) -> References:
        return References(self.series_uids | other.series_uids, self.sop_uids | other.sop_uids)


@dataclass(frozen=True)
class StructureSet:
    """Regions of an RTSTRUCT, and the images it was drawn on.

    Attributes:
        rois: Its regions, in file order.
        listed: Its references, per frame of reference.
        leftover: Contours that belong to no region, in words.
    """

    rois: tuple[Roi, ...]
    listed: Mapping[str, References]
    leftover: tuple[str, ...] = ()

    @property
    def series_uids(self) -> frozenset[str]:
        return frozenset().union(*(one.series_uids for one in self.listed.values()))

    @property
    def contour_sop_uids(self) -> frozenset[str]:
        """Images that the contours of its regions refer to."""
        return frozenset(uid for roi in self.rois for contour in roi.contours for uid, _ in contour.images)

    @property
    def sop_uids(self) -> frozenset[str]:
        """Images that it lists or that its contours refer to."""
        return self.contour_sop_uids.union(*(one.sop_uids for one in self.listed.values()))

    @property
    def frame_of_reference_uids(self) -> frozenset[str]:
        return frozenset({*self.listed, *(roi.frame_of_reference_uid for roi in self.rois)} - {""})

    def references(self, rois: Iterable[Roi]) -> References:
        """References listed for the frames of reference of some regions.

        All of them if a region's frame is not listed.
        """
        frames = {roi.frame_of_reference_uid for roi in rois}
        frames = frames if frames and frames <= set(self.listed) else set(self.listed)
        result = References()
        for frame in frames:
            result |= self.listed[frame]
        return result


def closed_contours(contours: Sequence[Contour], notes: list[Message]) -> list[Contour]:
    """Contours that enclose an area."""
    closed = [contour for contour in contours if contour.kind in _ENCLOSING and len(contour.points_mm) >= 3]
    by_hand = [
        contour
        for contour in contours
        if contour.kind == _OPEN
        and len(contour.points_mm) >= 4
        and np.abs(contour.points_mm[0] - contour.points_mm[-1]).max() <= CLOSED_MM
    ]
    if by_hand:
        notes.append(Message("open_lines_closed", {"n": len(by_hand)}))
    lines = len(contours) - len(closed) - len(by_hand)
    if lines:
        notes.append(Message("contours_not_closed", {"n": lines, "all": len(contours)}))
    return closed + by_hand
