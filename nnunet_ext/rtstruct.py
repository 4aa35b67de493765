"""RTSTRUCT contours to masks, on the continuous coordinates of the contours.

A voxel belongs to an organ if its centre lies inside the organ's contours: vertices are never rounded to voxels, so a
mask traced along its voxels' edges comes back identical, and a smooth contour comes back without bias. Contours are
planar and parallel to the image's slices, in whatever direction these lie in space.

Rules within a plane: a contour inside another one cuts a hole (and one inside the hole is tissue again); contours that
only cross each other are united; exact copies count once. Contours marked `CLOSEDPLANAR_XOR` are combined by XOR.
Rules along the slices: a slice without a contour that lies between contours is filled by shape-based interpolation
(signed distances) where at most two slices in a row are skipped and the organ continues, else it stays empty; both are
said. The outermost contours stand for the slices whose centre is within half a slice.
"""

from __future__ import annotations

import re
import warnings as python_warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.geometry import index_to_world

#: Contours of one plane: within this many slices of each other. A planar contour leaves its plane by less.
PLANE_TOLERANCE_SLICES = 0.1
#: A contour this near to a slice is the slice's own; further away the slice is interpolated.
ON_SLICE_SLICES = 0.25
#: As many slices in a row may be skipped between two contours and be filled.
MOST_SKIPPED_SLICES = 2
#: Coordinates are compared at this precision; decimal strings of a file carry rounding below it.
ROUNDING_VOXELS = 1e-4

CLOSED, CLOSED_XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"


@dataclass(frozen=True)
class Contour:
    """One polygon: points `(N, 3)` in mm, LPS; `sop_uid` of the image it was drawn on, empty if not said."""

    points_mm: np.ndarray
    kind: str = CLOSED
    sop_uid: str = ""


@dataclass(frozen=True)
class Roi:
    """One region of interest of an RTSTRUCT. Names are as drawn and may be personal."""

    number: int
    name: str
    frame_of_reference_uid: str
    contours: tuple[Contour, ...]


@dataclass(frozen=True)
class StructureSet:
    """An RTSTRUCT and what it says it was drawn on."""

    rois: tuple[Roi, ...]
    series_uids: frozenset[str]
    sop_uids: frozenset[str]
    frame_of_reference_uids: frozenset[str]


def read_rtstruct(path: Path) -> StructureSet:
    """Regions of an RTSTRUCT, in file order; regions without contours have none.

    Raises:
        ValueError: If the file is no RTSTRUCT or its contours are not numbers; no message holds a header value.
    """
    import pydicom

    with tolerant_dicom():
        try:
            dataset = pydicom.dcmread(path, force=True)
        except Exception as error:
            raise ValueError(f"the RTSTRUCT cannot be read ({type(error).__name__}); export it again") from None
        if "StructureSetROISequence" not in dataset:
            raise ValueError("the RTSTRUCT has no list of regions (StructureSetROISequence); export it again")
        try:
            return _content(dataset)
        except (
            TypeError,
            AttributeError,
            IndexError,
            OSError,
        ) as error:  # values missing, or no sequence where one is due
            raise ValueError(f"the RTSTRUCT is damaged ({type(error).__name__}); export it again") from None


def _content(dataset) -> StructureSet:
    series, sops, frames = set(), set(), set()
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        frames.add(str(frame.get("FrameOfReferenceUID", "")))
        for study in frame.get("RTReferencedStudySequence") or ():
            for one in study.get("RTReferencedSeriesSequence") or ():
                series.add(str(one.get("SeriesInstanceUID", "")))
                sops |= {
                    str(image.get("ReferencedSOPInstanceUID", "")) for image in one.get("ContourImageSequence") or ()
                }
    contours: dict[int, list[Contour]] = {}
    for item in dataset.get("ROIContourSequence") or ():
        drawn = contours.setdefault(_number(item, "ReferencedROINumber"), [])
        for contour in item.get("ContourSequence") or ():
            images = contour.get("ContourImageSequence") or ()
            sop = str(images[0].get("ReferencedSOPInstanceUID", "")) if images else ""
            kind = str(contour.get("ContourGeometricType") or CLOSED).strip().upper()
            drawn.append(Contour(_points(contour), kind, sop))
            sops.add(sop)
    rois: list[Roi] = []
    for item in dataset.StructureSetROISequence:
        number = _number(item, "ROINumber")
        if any(roi.number == number for roi in rois):
            raise ValueError(f"the RTSTRUCT has two regions with the number {number}; export it again")
        frame = str(item.get("ReferencedFrameOfReferenceUID", ""))
        frames.add(frame)
        name = readable_text(item.get("ROIName", ""), dataset)
        rois.append(Roi(number, name, frame, tuple(contours.get(number, ()))))
    return StructureSet(tuple(rois), frozenset(series - {""}), frozenset(sops - {""}), frozenset(frames - {""}))


def _number(item, keyword: str) -> int:
    try:
        return int(item.get(keyword))
    except (TypeError, ValueError):
        raise ValueError("the RTSTRUCT has a region without a number; export it again") from None


def _points(contour) -> np.ndarray:
    try:
        values = np.asarray([float(value) for value in contour.get("ContourData") or ()])
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if values.size % 3 or not np.all(np.isfinite(values)):
        raise ValueError("the RTSTRUCT has a contour whose points are not x, y, z numbers; export it again")
    return values.reshape(-1, 3)


@contextmanager
def tolerant_dicom():
    """Read DICOM files whose values break the standard (UUIDs in dates), and keep their values out of warnings."""
    import pydicom.config

    before = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            yield
    finally:
        pydicom.config.settings.reading_validation_mode = before


#: GB 2312 text read as Latin-1: pairs whose first byte is that of a common character, which no Western word looks like.
_GB2312_AS_LATIN = re.compile("(?:[\x00-\x7f]|[\xb0-\xd7][\xa1-\xfe])+")


def readable_text(value: object, dataset) -> str:
    """Text of a header; Chinese names in UTF-8 or GB 18030 are decoded also where no or a wrong character set is named."""
    text = str(value or "").strip()
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        return text
    if text.isascii():
        return text
    encodings = ["utf-8"]
    if not dataset.get("SpecificCharacterSet"):
        encodings.append("gb18030")
    elif _GB2312_AS_LATIN.fullmatch(text):
        encodings.append("gb2312")
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return text


# ------------------------------------------------------------------------------------------------ masks


def rasterise(contours: Sequence[Contour], image: sitk.Image, notes: list[str] | None = None) -> np.ndarray:
    """Voxels whose centre lies inside the contours.

    Args:
        contours: Of one organ; points in mm, LPS.
        image: Gives the grid, in any orientation.
        notes: Takes one line for everything that was interpolated, cut off or left out.

    Returns:
        Bool `(Z, Y, X)`.

    Raises:
        ValueError: If contours are not parallel to the slices, or all lie outside the image.
    """
    notes = [] if notes is None else notes
    nx, ny, nz = image.GetSize()
    result = np.zeros((nz, ny, nx), dtype=bool)
    closed = [contour for contour in contours if contour.kind in (CLOSED, CLOSED_XOR) and len(contour.points_mm) >= 3]
    if len(closed) < len(contours):
        notes.append(f"{len(contours) - len(closed)} of {len(contours)} contours are points or open lines: left out")
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
        polygons.append((float(index[:, 2].mean()), points, contour.kind))
    inside = [polygon for polygon in polygons if _meets(polygon, (nx, ny, nz))]
    if not inside:
        raise ValueError("all contours lie outside the image; they belong to another one")
    if len(inside) < len(polygons):
        notes.append(f"{len(polygons) - len(inside)} of {len(polygons)} contours lie outside the image: left out")
    points = np.concatenate([points for _, points, _ in inside])
    if points.min() < -1.0 or np.any(points.max(axis=0) > (nx, ny)):
        notes.append("contours reach beyond the image and are cut at its border")

    low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, (nx - 1, ny - 1))
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 1, (nx, ny))
    size = tuple((high - low)[::-1])  # rows, columns
    planes = _planes(inside, low, size, notes)
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
        notes.append(f"no contour on {_slices(filled)}: interpolated between the neighbours")
    if left:
        notes.append(f"no contour on {_slices(left)} between others: left empty")
    return result


def _slices(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(k + 1) for k in numbers[:6]) + (", ..." if len(numbers) > 6 else "")
    return f"slice {shown}" if len(numbers) == 1 else f"{len(numbers)} slices ({shown})"


def _meets(polygon: tuple[float, np.ndarray, str], size: tuple[int, int, int]) -> bool:
    k, points, _ = polygon
    return bool(
        -0.5 - PLANE_TOLERANCE_SLICES <= k <= size[2] - 0.5 + PLANE_TOLERANCE_SLICES
        and np.all(points.max(axis=0) >= -0.5)
        and np.all(points.min(axis=0) <= np.array(size[:2]) - 0.5)
    )


def _planes(polygons: Sequence[tuple], low: np.ndarray, size: tuple[int, int], notes: list[str]) -> dict:
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
        notes.append(f"{crossing} contours cross another one of the same slice: united")
    if copies:
        notes.append(f"{copies} contours are copies of others: counted once")
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

    def add(rows: np.ndarray, columns: np.ndarray, begin: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            edges.setdefault((x + begin[0], y + begin[1]), []).append((x + end[0], y + end[1]))

    inner = padded[1:-1, 1:-1]
    add(*np.nonzero(inner & ~padded[:-2, 1:-1]), (0, 0), (1, 0))
    add(*np.nonzero(inner & ~padded[1:-1, 2:]), (1, 0), (1, 1))
    add(*np.nonzero(inner & ~padded[2:, 1:-1]), (1, 1), (0, 1))
    add(*np.nonzero(inner & ~padded[1:-1, :-2]), (0, 1), (0, 0))
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
