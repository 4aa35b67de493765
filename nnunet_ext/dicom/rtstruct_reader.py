"""RTSTRUCT contours to masks, on the continuous coordinates of the contours.

A voxel belongs to an organ if its centre lies inside the organ's contours. Vertices are never rounded to voxels, so a
mask traced along its voxels' edges comes back identical, and a smooth contour comes back without bias. Contours are
planar and parallel to the image's slices, in whatever direction these lie in space.

Within a plane, a contour inside another one cuts a hole, and one inside the hole is tissue again. Contours that only
cross each other are united. Exact copies count once. Contours marked `CLOSEDPLANAR_XOR` are combined by XOR.
An open line that ends where it begins is an outline that its writer closed by hand, and counts as closed.
Along the slices, a contour belongs to the image it refers to, else to the nearest one, and is moved there. More
than half a slice off, it is refused. Of several planes of contours at one image the nearest counts. A slice without a
contour that lies between contours is filled by shape-based interpolation (signed distances) if at most two slices in a
row are skipped and the organ continues. Otherwise it stays empty. Notes say so.

A file is read region by region. A problem of one region is kept with it, and the others are read.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.dicom.text import element_text, readable_text, stated_charsets, tolerant_dicom
from nnunet_ext.images.geometry import index_to_world
from nnunet_ext.messages import Message

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from nnunet_ext.dicom.model import Slice

__all__ = ["Contour", "Roi", "StructureSet", "fill_polygon", "rasterise", "read_rtstruct", "readable_text",
           "tolerant_dicom", "trace_mask"]  # fmt: skip

#: Contours within so many slices of each other lie in one plane. A planar contour leaves its plane by less.
PLANE_TOLERANCE_SLICES = 0.1
#: A contour this far off an image still belongs to it. This is half a slice, and a little for the rounding of positions.
FURTHEST_SLICES, HALF_TOLERANCE_SLICES = 0.5, 0.02
#: If uneven gaps were interpolated, a plane of the image so near to contours takes them as they are.
ON_SLICE_SLICES = 0.25
#: Up to so many slices in a row are filled if they have no contour and lie between two contours.
MOST_SKIPPED_SLICES = 2
#: Coordinates are compared at this precision. The decimal strings of a file are rounded more finely.
ROUNDING_VOXELS = 1e-4
#: An open line whose ends are this near to each other, in mm, is closed.
CLOSED_MM = 1e-3

CLOSED, CLOSED_XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
#: Types whose contours enclose an area, PS3.3 C.8.8.6.1. Interpolated ones were computed by the planning system.
_CLOSED = (CLOSED, CLOSED_XOR, "INTERPOLATED_PLANAR")
_OPEN = "OPEN_PLANAR"
_KINDS = {re.sub("_", "", kind): kind for kind in (*_CLOSED, _OPEN, "OPEN_NONPLANAR", "POINT")}
#: Errors of pydicom for a value that is missing, or that is no sequence although one is due.
DAMAGE = (TypeError, AttributeError, LookupError, OSError, EOFError, NotImplementedError, OverflowError, struct.error)
_UNDEFINED_LENGTH = 0xFFFFFFFF


class _Malformed(ValueError):
    """In words of ours, without a header value."""


@dataclass(frozen=True)
class Contour:
    """One polygon.

    Attributes:
        points_mm: `(N, 3)` in mm, LPS.
        kind: ContourGeometricType.
        images: SOP instance UID and frame (from 0, None if not said) of the images it was drawn on; usually one.
    """

    points_mm: np.ndarray
    kind: str = CLOSED
    images: tuple[tuple[str, int | None], ...] = ()

    @property
    def sop_uid(self) -> str:
        """Of the image it was drawn on, empty if not said."""
        return self.images[0][0] if self.images else ""


@dataclass(frozen=True)
class Roi:
    """One region of interest of an RTSTRUCT. Names are as drawn and may be personal.

    `problem`: why its contours cannot be used, as the end of a sentence that begins with its name. Empty if they can.
    """

    number: int | None
    name: str
    frame_of_reference_uid: str
    contours: tuple[Contour, ...]
    problem: str = ""

    @property
    def encloses(self) -> bool:
        """Whether a contour encloses an area; points and lines do not."""
        return bool(_closed(self.contours, []))


@dataclass(frozen=True)
class References:
    """Series and images that an RTSTRUCT lists as what it was drawn on."""

    series_uids: frozenset[str] = frozenset()
    sop_uids: frozenset[str] = frozenset()

    def __or__(self, other: References) -> References:
        return References(self.series_uids | other.series_uids, self.sop_uids | other.sop_uids)


@dataclass(frozen=True)
class StructureSet:
    """An RTSTRUCT and what it says it was drawn on.

    Attributes:
        rois: Its regions, in file order.
        listed: What it refers to, per frame of reference.
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
        """What is listed for the frames of reference of some regions; all of it where a region's frame is not listed."""
        frames = {roi.frame_of_reference_uid for roi in rois}
        frames = frames if frames and frames <= set(self.listed) else set(self.listed)
        result = References()
        for frame in frames:
            result |= self.listed[frame]
        return result


def read_rtstruct(path: Path) -> StructureSet:
    """Regions of an RTSTRUCT, in file order; regions without contours have none.

    Raises:
        ValueError: If the file is no RTSTRUCT, is cut off, or has no regions. What is wrong with one region is its
            `problem`. No message holds a header value.
    """
    import pydicom

    with tolerant_dicom():
        try:
            dataset = pydicom.dcmread(path, force=True)
        except Exception as error:
            raise ValueError(f"the RTSTRUCT cannot be read ({type(error).__name__}); export it again") from None
        if _is_cut_off(dataset):
            raise ValueError("the RTSTRUCT is cut off; export it again")
        if "StructureSetROISequence" not in dataset:
            raise ValueError("the RTSTRUCT has no list of regions (StructureSetROISequence); export it again")
        try:
            return _content(dataset)
        except _Malformed:
            raise
        except (*DAMAGE, ValueError) as error:
            raise ValueError(f"the RTSTRUCT is damaged ({type(error).__name__}); export it again") from None


def _content(dataset: Dataset) -> StructureSet:
    listed: dict[str, References] = {}
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        uid = _uid(frame, "FrameOfReferenceUID")
        listed[uid] = listed.get(uid, References()) | _references(frame)
    contours: dict[int, list[Contour]] = {}
    problems: dict[int, str] = {}
    without_number = 0
    for item in dataset.get("ROIContourSequence") or ():
        drawn, problem = _contours(item)
        number = _whole(item, "ReferencedROINumber")
        if number is None:
            without_number += bool(drawn or problem)
            continue
        contours.setdefault(number, []).extend(drawn)
        if problem:
            problems.setdefault(number, problem)
    items = list(dataset.get("StructureSetROISequence") or ())
    count = Counter(_whole(item, "ROINumber") for item in items)
    strangers = [number for number in contours if number not in count and (contours[number] or number in problems)]
    charsets = stated_charsets(dataset)
    rois: list[Roi] = []
    for item in items:
        number = _whole(item, "ROINumber")
        drawn = [] if number is None else contours.get(number, [])
        problem = "" if number is None else problems.get(number, "")
        if number is None and (without_number or strangers):
            problem = "is a region without a number, so its contours are not known; export it again"
        elif number not in contours and without_number:
            problem = "has no contour, and the RTSTRUCT has a region without a number; export it again"
        elif count[number] > 1 and (drawn or problem):
            problem = f"is one of two regions with the number {number}; export it again"
        frame, name = _uid(item, "ReferencedFrameOfReferenceUID"), element_text(item, "ROIName", charsets)
        rois.append(Roi(number, name, frame, tuple(drawn), problem))
    leftover = [f"contours of region {number}, which is not in the list of regions" for number in strangers]
    if without_number:
        leftover.append("contours of a region without a number")
    return StructureSet(tuple(rois), listed, tuple(leftover))


def _is_cut_off(dataset: Dataset) -> bool:
    """Whether the file ends within an element, of which pydicom gives what is there."""
    elements = (dataset.get_item(tag) for tag in dataset.keys())  # noqa: SIM118 a dataset iterates over its elements
    return any(
        isinstance(element.value, bytes)
        and getattr(element, "length", _UNDEFINED_LENGTH) not in (_UNDEFINED_LENGTH, len(element.value))
        for element in elements
    )


def _references(frame: Dataset) -> References:
    series, sops = set(), set()
    for study in frame.get("RTReferencedStudySequence") or ():
        for one in study.get("RTReferencedSeriesSequence") or ():
            series.add(_uid(one, "SeriesInstanceUID"))
            sops |= {_uid(image, "ReferencedSOPInstanceUID") for image in one.get("ContourImageSequence") or ()}
    return References(frozenset(series - {""}), frozenset(sops - {""}))


def _contours(item: Dataset) -> tuple[list[Contour], str]:
    """Contours of one region, and what is wrong with the first that cannot be used."""
    drawn: list[Contour] = []
    try:
        contours = list(item.get("ContourSequence") or ())
        for number, contour in enumerate(contours, start=1):
            try:
                one = _contour(contour)
            except _Malformed as error:
                return drawn, f"cannot be used: contour {number} of {len(contours)} {error}; export it again"
            if len(one.points_mm):
                drawn.append(one)
    except (*DAMAGE, ValueError) as error:
        return drawn, f"cannot be used: its contours are damaged ({type(error).__name__}); export it again"
    return drawn, ""


def _contour(contour: Dataset) -> Contour:
    text = re.sub(r"[^A-Z]", "", str(contour.get("ContourGeometricType") or CLOSED).upper())
    if text not in _KINDS:
        raise _Malformed("is of an unknown type (ContourGeometricType)")
    points = _points(contour)
    said = _whole(contour, "NumberOfContourPoints")
    if said is not None and said != len(points):
        raise _Malformed(f"has {len(points)} points and says it has {said} (NumberOfContourPoints)")
    images = []
    for image in contour.get("ContourImageSequence") or ():
        frame = _whole(image, "ReferencedFrameNumber")
        if uid := _uid(image, "ReferencedSOPInstanceUID"):
            images.append((uid, None if frame is None else frame - 1))
    return Contour(points, _KINDS[text], tuple(images))


def _points(contour: Dataset) -> np.ndarray:
    element = contour.get_item("ContourData") if "ContourData" in contour else None
    value = None if element is None else element.value
    if isinstance(value, bytes):  # as it is in the file: much quicker than pydicom's objects for each number
        value = value.strip(b" \x00")
        numbers = value.split(b"\\") if value else ()
    else:
        numbers = () if value is None else np.ravel(value).tolist()
    try:
        values = np.array([float(number) for number in numbers])
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if values.size % 3:
        raise _Malformed(f"has points that are not x, y, z numbers: {values.size} values")
    if not np.all(np.isfinite(values)):
        raise _Malformed("has points that are not x, y, z numbers")
    return values.reshape(-1, 3)


def _whole(item: Dataset, keyword: str) -> int | None:
    """A whole number, the first of several; None where there is none."""
    try:
        return int(np.ravel(item.get(keyword))[0])
    except (TypeError, ValueError, LookupError, OverflowError):
        return None


def _uid(item: Dataset, keyword: str) -> str:
    return str(item.get(keyword) or "").strip(" \x00")


# ------------------------------------------------------------------------------------------------ masks


def rasterise(
    contours: Sequence[Contour],
    image: sitk.Image,
    notes: list[Message] | None = None,
    *,
    slices: Sequence[Slice] | None = None,
) -> np.ndarray:
    """Voxels whose centre lies inside the contours.

    Args:
        contours: Of one organ; points in mm, LPS.
        image: Gives the grid, in any orientation.
        notes: Takes one message for everything that was moved, interpolated, cut off or left out.
        slices: The images of the series that `image` was read from, which contours lie on and refer to. None if they
            are the planes of `image`.

    Returns:
        Bool `(Z, Y, X)`.

    Raises:
        ValueError: If contours are not parallel to the slices, lie more than half a slice off the image they refer to
            or off every image, or all lie outside the image.
    """
    notes = [] if notes is None else notes
    nx, ny, nz = image.GetSize()
    result = np.zeros((nz, ny, nx), dtype=bool)
    closed = _closed(contours, notes)
    if not closed:
        return result
    to_index = np.linalg.inv(index_to_world(image))
    polygons = []
    for contour in closed:
        index = contour.points_mm @ to_index[:3, :3].T + to_index[:3, 3]
        if np.ptp(index[:, 2]) > PLANE_TOLERANCE_SLICES:
            raise ValueError(
                f"a contour is not parallel to the slices (it spans {np.ptp(index[:, 2]):.2g} of them); "
                "draw it on the slices of the image it belongs to"
            )
        points = np.round(index[:, :2] / ROUNDING_VOXELS) * ROUNDING_VOXELS
        polygons.append((float(index[:, 2].mean()), points, contour))
    inside = [polygon for polygon in polygons if _meets(polygon[1], (nx, ny))]
    images = _Images.of(image, slices)
    if not any(images.reach(k) for k, _, _ in inside):
        raise ValueError("all contours lie outside the image; they belong to another one")
    if len(inside) < len(polygons):
        notes.append(Message("contours_outside", {"n": len(polygons) - len(inside), "all": len(polygons)}))
    points = np.concatenate([points for _, points, _ in inside])
    if points.min() < -1.0 or np.any(points.max(axis=0) > (nx, ny)):
        notes.append(Message("contours_cut"))

    low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, (nx - 1, ny - 1))
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 1, (nx, ny))
    size = tuple((high - low)[::-1])  # rows, columns
    planes = _planes(_on_images(inside, images, notes), low, size, notes)
    spacing = image.GetSpacing()[1::-1]
    box = (slice(low[1], high[1]), slice(low[0], high[0]))
    filled, left = [], []
    positions = np.array(sorted(planes))
    first, last = (int(np.ceil(position - 1e-6)) for position in (positions[0] - 0.5, positions[-1] + 0.5))
    for k in range(max(0, first), min(nz, last)):
        nearest = positions[np.argmin(np.abs(positions - k))]
        below, above = positions[positions <= k], positions[positions >= k]
        if abs(nearest - k) <= ON_SLICE_SLICES or not below.size or not above.size:
            result[(k, *box)] = planes[nearest]
            continue
        a, b = below[-1], above[0]
        skipped = int(np.ceil(b - ON_SLICE_SLICES) - np.floor(a + ON_SLICE_SLICES)) - 1
        if skipped <= MOST_SKIPPED_SLICES and _continues(planes[a], planes[b]):
            result[(k, *box)] = _between(planes[a], planes[b], (k - a) / (b - a), spacing)
            filled.append(k)
        else:
            left.append(k)
    if filled:
        notes.append(Message("contours_interpolated", {"slices": _slices(filled)}))
    if left:
        notes.append(Message("contours_missing", {"slices": _slices(left)}))
    return result


def _closed(contours: Sequence[Contour], notes: list[Message]) -> list[Contour]:
    """Contours that enclose an area."""
    closed = [contour for contour in contours if contour.kind in _CLOSED and len(contour.points_mm) >= 3]
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


@dataclass(frozen=True)
class _Images:
    """Where the images of a series lie, as positions along the slices of a grid: sorted, one per plane."""

    positions: np.ndarray
    planes: Mapping[str, Sequence[tuple[int | None, int]]]  # SOP instance UID -> frame, number of the plane

    @classmethod
    def of(cls, image: sitk.Image, slices: Sequence[Slice] | None) -> _Images:
        if slices is None:
            return cls(np.arange(image.GetSize()[2], dtype=float), {})
        k = np.array([image.TransformPhysicalPointToContinuousIndex(one.position_mm)[2] for one in slices])
        order = np.argsort(k, kind="stable")
        starts = np.concatenate([[True], np.diff(k[order]) > PLANE_TOLERANCE_SLICES])  # copies share a plane
        planes: dict[str, list[tuple[int | None, int]]] = {}
        for at, number in zip(order, np.cumsum(starts) - 1, strict=True):
            planes.setdefault(slices[at].sop_uid, []).append((slices[at].frame, int(number)))
        return cls(k[order][starts], planes)

    def number(self, k: np.ndarray) -> np.ndarray:
        """Positions as fractional numbers of planes, with the first and last gap continued."""
        if len(self.positions) == 1:
            return k - self.positions[0]
        below = np.clip(np.searchsorted(self.positions, k, side="right") - 1, 0, len(self.positions) - 2)
        return below + (k - self.positions[below]) / np.diff(self.positions)[below]

    def reach(self, k: float) -> bool:
        number, most = self.number(np.array([k]))[0], FURTHEST_SLICES + HALF_TOLERANCE_SLICES
        return bool(-most <= number <= len(self.positions) - 1 + most)

    def own(self, contour: Contour, number: float) -> int | None:
        """The plane of the image that a contour refers to, the nearest of several; None if it refers to none of these."""
        planes = [
            plane
            for uid, frame in contour.images
            for its_frame, plane in self.planes.get(uid, ())
            if frame is None or its_frame in (None, frame)
        ]
        return min(planes, key=lambda plane: abs(plane - number)) if planes else None


def _on_images(
    polygons: Sequence[tuple[float, np.ndarray, Contour]], images: _Images, notes: list[Message]
) -> list[tuple[float, np.ndarray, str]]:
    """Polygons in the planes of the images: position along the slices, points, type. See the module's docstring."""
    numbers = images.number(np.array([k for k, _, _ in polygons]))
    own = [images.own(contour, number) for (_, _, contour), number in zip(polygons, numbers, strict=True)]
    free = np.array([plane is None for plane in own])
    targets = np.array([0 if plane is None else plane for plane in own])
    targets[free] = _nearest(numbers[free], len(images.positions))
    off = np.abs(numbers - targets)
    if off.max() > FURTHEST_SLICES + HALF_TOLERANCE_SLICES:
        far = int(np.count_nonzero(off > FURTHEST_SLICES + HALF_TOLERANCE_SLICES))
        raise ValueError(
            f"{far} of {len(polygons)} contours lie up to {off.max():.2g} slices off the image they belong to, and at most "
            "half a slice is accepted; export contours and images again from one place"
        )
    if off.max() > PLANE_TOLERANCE_SLICES:
        # As rounded as it is shown, so that what is the same for several organs is said once.
        notes.append(Message("contours_off_the_images", {"slices": float(f"{off.max():.2g}")}))
    kept: list[tuple[float, np.ndarray, str]] = []
    for target in np.unique(targets):
        here = np.flatnonzero(targets == target)
        best = here[np.argmin(off[here])]  # of planes finer than the images, one
        kept += [
            (float(images.positions[target]), polygons[at][1], polygons[at][2].kind)
            for at in here.tolist()
            if abs(numbers[at] - numbers[best]) <= PLANE_TOLERANCE_SLICES
        ]
    if len(kept) < len(polygons):
        notes.append(Message("contours_between_the_images", {"n": len(polygons) - len(kept)}))
    return kept


def _nearest(numbers: np.ndarray, n_images: int) -> np.ndarray:
    """Image of each contour that names none: the nearest.

    Contours that are all off by the same share of a slice move by the same share. Exactly half-way all move to the image
    with the lower number, so that no slice takes two contours and the next none.
    """
    if not numbers.size:
        return np.zeros(0, dtype=int)
    share = float(np.angle(np.mean(np.exp(2j * np.pi * numbers))) / (2 * np.pi))  # within half a slice
    moved = numbers - share
    targets = np.rint(moved)
    if np.abs(moved - targets).max() > PLANE_TOLERANCE_SLICES:  # no common share: each by itself
        targets = np.ceil(numbers - FURTHEST_SLICES - HALF_TOLERANCE_SLICES)
    elif share <= HALF_TOLERANCE_SLICES - FURTHEST_SLICES and targets.min() > 0:
        targets -= 1
    return np.clip(targets, 0, n_images - 1).astype(int)


def _slices(numbers: Sequence[int]) -> Message:
    if len(numbers) == 1:
        return Message("one_slice", {"number": numbers[0] + 1})
    shown = [k + 1 for k in numbers[:6]]
    if len(numbers) == len(shown):
        return Message("some_slices", {"n": len(numbers), "numbers": shown})
    return Message("many_slices", {"n": len(numbers), "numbers": shown})


def _meets(points: np.ndarray, size: tuple[int, int]) -> bool:
    return bool(np.all(points.max(axis=0) >= -0.5) and np.all(points.min(axis=0) <= np.array(size) - 0.5))


def _planes(polygons: Sequence[tuple], low: np.ndarray, size: tuple[int, int], notes: list[Message]) -> dict:
    """Position along the slices -> mask of that plane."""
    groups: list[list[tuple]] = []
    for polygon in sorted(polygons, key=lambda polygon: polygon[0]):
        if groups and polygon[0] - groups[-1][0][0] <= PLANE_TOLERANCE_SLICES:
            groups[-1].append(polygon)
        else:
            groups.append([polygon])
    crossing = copies = 0
    planes = {}
    for group in groups:
        xor = any(kind == CLOSED_XOR for _, _, kind in group)
        unique = {np.ascontiguousarray(points).tobytes(): points for _, points, _ in group}
        copies += 0 if xor else len(group) - len(unique)
        polygons_2d = [points for _, points, _ in group] if xor else list(unique.values())
        mask = np.zeros(size, dtype=bool)
        done: list[np.ndarray] = []
        for points in sorted(polygons_2d, key=lambda points: -abs(_area(points))):
            one = fill_polygon(points - low, size)
            crosses = not xor and any((one & other).any() and (one & ~other).any() for other in done)
            mask = mask | one if crosses else mask ^ one
            crossing += crosses
            done.append(one)
        planes[float(np.mean([k for k, _, _ in group]))] = mask
    if crossing:
        notes.append(Message("contours_cross", {"n": int(crossing)}))
    if copies:
        notes.append(Message("contour_copies", {"n": copies}))
    return planes


def _area(points: np.ndarray) -> float:
    x, y = (points - points[0]).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def fill_polygon(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside a polygon, by the even-odd rule.

    Args:
        points: `(N, 2)` as `(x, y)` in pixels, pixel centres at whole numbers; closed by itself.
        size: Rows and columns.

    Returns:
        Bool `size`. A centre exactly on the border belongs to the side of larger x or y, so of two polygons that share
        an edge exactly one owns it.
    """
    start, end = points, np.roll(points, -1, axis=0)
    crossings: list[list[float]] = [[] for _ in range(size[0])]
    for (x0, y0), (x1, y1) in zip(start, end, strict=True):
        if y0 == y1:
            continue
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        for row in range(max(0, int(np.ceil(y0))), min(size[0], int(np.ceil(y1)))):
            crossings[row].append(x0 + (row - y0) / (y1 - y0) * (x1 - x0))
    mask = np.zeros(size, dtype=bool)
    for row, xs in enumerate(crossings):
        xs.sort()
        for left, right in zip(xs[::2], xs[1::2], strict=True):
            first, last = (int(np.clip(np.ceil(x - 1e-9), 0, size[1])) for x in (left, right))
            mask[row, first:last] = True
    return mask


def _continues(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two masks belong to one piece of an organ: they overlap."""
    return bool((a & b).any())


def _between(a: np.ndarray, b: np.ndarray, share: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Mask between two masks at `share` of the way from a to b: where the weighted signed distance is inside."""

    def signed(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inside, outside = (ndimage.distance_transform_edt(m, sampling=spacing_mm) for m in (padded, ~padded))
        return (inside - outside)[1:-1, 1:-1]

    return (1 - share) * signed(a) + share * signed(b) > 0


# ----------------------------------------------------------------------------------------------- contours


def trace_mask(mask: np.ndarray, image: sitk.Image) -> list[np.ndarray]:
    """Polygons along the edges of a mask's voxels, slice by slice; `rasterise` gives the same mask back.

    Args:
        mask: Bool `(Z, Y, X)`.
        image: Its grid, in any orientation.

    Returns:
        Points `(N, 3)` in mm, LPS, one polygon per piece, straight runs with two points. Holes are cut by keyholes: the
        polygon runs inwards along one line between voxels, around the hole, and back along the same line.
    """
    matrix = index_to_world(image)
    polygons = []
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        for loop in _edge_loops(mask[k]):
            index = np.column_stack([loop - 0.5, np.full(len(loop), k)])
            polygons.append(index @ matrix[:3, :3].T + matrix[:3, 3])
    return polygons


def _edge_loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed loops around the pieces of a 2D mask, `(N, 2)` as `(x, y)` of pixel corners, the mask always to the right."""
    padded = np.pad(mask, 1)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(pixels: np.ndarray, begin: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in np.argwhere(pixels).tolist():
            edges.setdefault((x + begin[0], y + begin[1]), []).append((x + end[0], y + end[1]))

    inner = padded[1:-1, 1:-1]
    add(inner & ~padded[:-2, 1:-1], (0, 0), (1, 0))
    add(inner & ~padded[1:-1, 2:], (1, 0), (1, 1))
    add(inner & ~padded[2:, 1:-1], (1, 1), (0, 1))
    add(inner & ~padded[1:-1, :-2], (0, 1), (0, 0))
    # Keyholes: from the first pixel of a hole leftwards to the next background, along an edge and back. That background
    # is the outside or a hole that begins further up or left, so every hole is cut open and no piece is cut in two.
    background, _ = ndimage.label(~padded, np.ones((3, 3)))
    for hole, (rows, _) in enumerate(ndimage.find_objects(background)[1:], start=2):
        y, x = rows.start, int(np.argmax(background[rows.start] == hole))
        while padded[y - 1, x - 1] and padded[y, x - 1]:
            edges.setdefault((x - 1, y - 1), []).append((x - 2, y - 1))
            edges.setdefault((x - 2, y - 1), []).append((x - 1, y - 1))
            x -= 1
    loops = []
    while edges:
        start = next(iter(edges))
        loop, heading, here = [start], (0, 0), start
        while True:
            ends = edges[here]
            # Where several edges begin, the one furthest to the right, into the same pixel: loops touch and never cross.
            dx, dy = heading
            right_first = [(here[0] + a, here[1] + b) for a, b in ((-dy, dx), (dx, dy), (dy, -dx), (-dx, -dy))]
            end = next((end for end in right_first if end in ends), ends[0])
            ends.remove(end)
            if not ends:
                del edges[here]
            step = (end[0] - here[0], end[1] - here[1])
            if step == heading:
                loop[-1] = end
            else:
                loop.append(end)
            heading, here = step, end
            if here == start:
                break
        loops.append(np.asarray(loop[:-1], dtype=float))
    return loops
