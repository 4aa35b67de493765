"""Contours to masks, on the continuous coordinates of the contours.

A voxel belongs to an organ if its centre lies inside the organ's contours. Vertices are never rounded to voxels, so a
mask traced along its voxels' edges comes back identical, and a smooth contour comes back without bias. Contours are
planar and parallel to the image's slices, in whatever direction these lie in space.

Within a plane, a contour inside another one cuts a hole, and one inside the hole is tissue again. Contours that only
cross each other are united. Exact copies count once. Contours marked `CLOSEDPLANAR_XOR` are combined by XOR.
An open line that ends at its beginning is an outline that its writer closed by hand, and counts as closed.

`contour_planes` gives the image that a contour belongs to. A slice without a contour may lie between contours. If at
most two slices in a row are skipped and the organ continues, shape-based interpolation (signed distances) fills it.
Otherwise it stays empty. Messages say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.dicom.contour_planes import PLANE_TOLERANCE_SLICES, ImagePlanes, on_images
from nnunet_ext.dicom.model import Slice
from nnunet_ext.dicom.structure_set import CLOSED_XOR, Contour, closed_contours
from nnunet_ext.images.geometry import index_to_world
from nnunet_ext.messages import Message

#: If uneven gaps were interpolated, a plane of the image so near to contours takes them as they are.
ON_SLICE_SLICES = 0.25
#: Up to so many slices in a row are filled if they have no contour and lie between two contours.
MOST_SKIPPED_SLICES = 2
#: Coordinates are compared at this precision. The decimal strings of a file are rounded more finely.
ROUNDING_VOXELS = 1e-4


def rasterise(
    contours: Sequence[Contour],
    image: sitk.Image,
    notes: list[Message] | None = None,
    *,
    slices: Sequence[Slice] | None = None,
) -> np.ndarray:
    """Voxels whose centre lies inside the contours.

    Args:
        contours: Of one organ, with points in mm, LPS.
        image: Gives the grid, in any orientation.
        notes: Takes one message for everything that was moved, interpolated, cut off or left out.
        slices: The images of the series that `image` was read from, which contours lie on and refer to. None if they
            are the planes of `image`.

    Returns:
        Bool `(Z, Y, X)`.

    Raises:
        ValueError: If contours are not parallel to the slices, lie more than half a slice off their image, or all lie
            outside the image.
    """
    notes = [] if notes is None else notes
    nx, ny, nz = image.GetSize()
    result = np.zeros((nz, ny, nx), dtype=bool)
    closed = closed_contours(contours, notes)
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
    images = ImagePlanes.of(image, slices)
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
    planes = _planes(on_images(inside, images, notes), low, size, notes)
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
        points: `(N, 2)` as `(x, y)` in pixels, pixel centres at whole numbers. It is closed by itself.
        size: Rows and columns.

    Returns:
        Bool `size`. A centre exactly on the border belongs to the side of larger x or y. Of two polygons that share an
        edge exactly one owns it.
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
    """Whether two masks overlap, so that they belong to one piece of an organ."""
    return bool((a & b).any())


def _between(a: np.ndarray, b: np.ndarray, share: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Mask between two masks at `share` of the way from a to b, by the weighted signed distance."""

    def signed(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inside, outside = (ndimage.distance_transform_edt(m, sampling=spacing_mm) for m in (padded, ~padded))
        return (inside - outside)[1:-1, 1:-1]

    return (1 - share) * signed(a) + share * signed(b) > 0
