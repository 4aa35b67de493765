"""Voxel grids in space: one canonical orientation and back, comparing two grids, resampling onto a grid.

Images are SimpleITK images. World points are in the LPS frame, in mm. Canonical means that the array axes run `LPS` (x to
the patient's left, y to posterior, z to superior) as nearly as the axes allow. Axes are permuted and flipped, never
interpolated, so an oblique image stays oblique and every voxel value survives.
"""

from __future__ import annotations

import itertools

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.displacements import looked_up, slabs_that_see

#: Direction in which the three array axes of a canonical image run.
CANONICAL = "LPS"
#: Two grids are one if their corners lie within this distance, in voxels of the shortest edge. See `grid_tolerance_mm`.
GRID_TOLERANCE_VOXELS = 0.25
#: The distance is never larger than this.
GRID_TOLERANCE_MM = 0.25

_INTERPOLATORS = {"bspline": sitk.sitkBSpline, "linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}


def orientation_code(image: sitk.Image) -> str:
    """Directions that the x, y, z axes of the array run to, e.g.

    `LPS` or `RAS`. The nearest letters for an oblique image.
    """
    return sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines(image.GetDirection())


def to_canonical(image: sitk.Image) -> sitk.Image:
    """The same voxels at the same places in space, with the array axes in canonical (`LPS`) order."""
    return sitk.DICOMOrient(image, CANONICAL)


def back_to_grid(mask_canonical: sitk.Image, original: sitk.Image) -> sitk.Image:
    """A canonical image brought back onto the grid of the image it came from, voxel by voxel.

    Args:
        mask_canonical: Image on the grid of `to_canonical(original)`.
        original: Image whose axis order, size and place in space the result takes, to the last digit.

    Raises:
        ValueError: If the two grids are not the same after reordering the axes.
    """
    # As it is first: of an axis halfway between two letters, rounding decides which one it gets.
    candidates = (mask_canonical, sitk.DICOMOrient(mask_canonical, orientation_code(original)))
    mask = next((sitk.Image(image) for image in candidates if same_grid(image, original)), None)
    if mask is None:
        raise ValueError(f"cannot go back to the input's grid: {grid_difference(candidates[1], original)}")
    mask.CopyInformation(original)  # flips leave rounding in the origin
    return mask


def index_to_world(image: sitk.Image) -> np.ndarray:
    """4x4 matrix from voxel index `(x, y, z)` to world point in mm, LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def corners_mm(image: sitk.Image) -> np.ndarray:
    """World points (LPS, mm) of the eight corner voxels' centres, shape `(8, 3)`."""
    last = np.asarray(image.GetSize()) - 1
    index = np.array(list(itertools.product((0, 1), repeat=3))) * last
    return index @ index_to_world(image)[:3, :3].T + image.GetOrigin()


def corner_distance_mm(a: sitk.Image, b: sitk.Image) -> float:
    """Largest distance between corresponding corners of two grids. Infinite if their sizes differ."""
    if a.GetSize() != b.GetSize():
        return float("inf")
    return float(np.linalg.norm(corners_mm(a) - corners_mm(b), axis=1).max())


def grid_tolerance_mm(a: sitk.Image, b: sitk.Image) -> float:
    """Largest distance of two grids' corners at which they are one grid, in mm.

    The package's only rule is a quarter of the shortest voxel edge, at most 0.25 mm. It is in voxels, because mistakes
    are. A grid whose origin is meant at a corner of the voxel lies half a voxel off.

    Rounding in headers of one grid makes less. Positions have 0.01 mm. Spacings have four decimals, which is 0.03 mm at
    the far corner of a 512 x 512 CT. Quaternions have 32 bit. A shear that reading takes out and another tool keeps
    makes 0.2 mm over a head (`SHEAR_TOLERANCE`). The rule ends at 0.25 mm, so that thick voxels hide no shift that
    shows in a surface distance.

    Of the two rules before, 0.05 voxels refused the rounded CT at 0.5 mm, and 0.1 mm was half a voxel at 0.2 mm. Both
    refused the shear.
    """
    return min(GRID_TOLERANCE_MM, GRID_TOLERANCE_VOXELS * min(*a.GetSpacing(), *b.GetSpacing()))


def same_grid(a: sitk.Image, b: sitk.Image, tolerance_mm: float | None = None) -> bool:
    """Whether two images have the same size and no corner of their grids lies further apart than the tolerance.

    Args:
        a, b: The images.
        tolerance_mm: Largest distance. `grid_tolerance_mm` if None.
    """
    return corner_distance_mm(a, b) <= (grid_tolerance_mm(a, b) if tolerance_mm is None else tolerance_mm)


def place_in(part: sitk.Image, whole: sitk.Image, tolerance_mm: float = GRID_TOLERANCE_MM) -> sitk.Image | None:
    """An image that covers a part of a grid, on the whole grid with 0 around it. None if it is no part of that grid.

    Args:
        part: Its voxels must be voxels of `whole`, with the same axis order.
        whole: The grid.
        tolerance_mm: A corner of `part` may lie so far from its voxel.
    """
    start = np.rint(whole.TransformPhysicalPointToContinuousIndex(part.GetOrigin())).astype(int)
    if (start < 0).any() or (start + part.GetSize() > whole.GetSize()).any():
        return None
    grid = sitk.Image(part.GetSize(), sitk.sitkUInt8)
    grid.SetSpacing(whole.GetSpacing())
    grid.SetDirection(whole.GetDirection())
    grid.SetOrigin(whole.TransformIndexToPhysicalPoint(start.tolist()))
    if not same_grid(part, grid, tolerance_mm):
        return None
    placed = sitk.Image(whole.GetSize(), part.GetPixelID())
    placed.CopyInformation(whole)
    return sitk.Paste(placed, part, part.GetSize(), [0, 0, 0], start.tolist())


def describe_grid(image: sitk.Image) -> str:
    """One line for messages: `64x79x67 voxels of 2.385x2.39x2.366 mm, LPS, first voxel at (-74.5, -75.6, -71.8) mm`."""
    size = "x".join(str(n) for n in image.GetSize())
    spacing = "x".join(f"{mm:.4g}" for mm in image.GetSpacing())
    origin = ", ".join(f"{mm:.1f}" for mm in image.GetOrigin())
    return f"{size} voxels of {spacing} mm, {orientation_code(image)}, first voxel at ({origin}) mm"


def grid_difference(a: sitk.Image, b: sitk.Image) -> str:
    """One line that names both grids, the largest difference between them and how far apart they lie."""
    distance = corner_distance_mm(a, b)
    if distance == float("inf"):
        return f"{describe_grid(a)} against {describe_grid(b)} (sizes differ)"
    last = np.subtract(b.GetSize(), 1)
    origin, spacing = np.subtract(a.GetOrigin(), b.GetOrigin()), np.subtract(a.GetSpacing(), b.GetSpacing())
    turns = [np.reshape(image.GetDirection(), (3, 3)) for image in (a, b)]
    shifts_mm = {  # at the far corner
        f"origin differs by {_millimetres(origin)}": np.linalg.norm(origin),
        f"spacing differs by {_millimetres(spacing)}": np.linalg.norm(spacing * last),
        "direction differs": np.linalg.norm(np.abs(turns[0] - turns[1]) @ (last * b.GetSpacing())),
    }
    most = max(shifts_mm, key=lambda what: shifts_mm[what])
    return f"{describe_grid(a)} against {describe_grid(b)} ({most}, corners up to {distance:.3g} mm apart)"


def _millimetres(vector: np.ndarray) -> str:
    return f"({', '.join(f'{mm:.2g}' for mm in vector + 0.0)}) mm"


def resample_to(
    image: sitk.Image,
    reference: sitk.Image,
    *,
    interpolation: str = "bspline",
    outside_value: float | None = None,
    transform: sitk.Transform | None = None,
) -> sitk.Image:
    """Image on the reference's grid, same type unless interpolated (then 32-bit float).

    Args:
        image: Image anywhere in space. Both share the world frame.
        reference: Gives size, spacing, origin and direction.
        interpolation: `bspline` (cubic), `linear` or `nearest`. A cubic B-spline overshoots beside sharp edges. The
            result is clipped to the image's own range, so no value lies outside the measured ones.
        outside_value: Value beyond the image's field of view. The image's minimum if None.
        transform: Points of the reference -> points of the image, LPS. None if both share the world frame.

    Raises:
        ValueError: If the interpolation is not one of the three.
    """
    if interpolation not in _INTERPOLATORS:
        raise ValueError(f"interpolation {interpolation!r} is not one of {', '.join(_INTERPOLATORS)}")
    if outside_value is None or interpolation == "bspline":
        limits = sitk.MinimumMaximumImageFilter()
        limits.Execute(image)
        low, high = limits.GetMinimum(), limits.GetMaximum()
        outside_value = low if outside_value is None else outside_value
    transform = sitk.Transform() if transform is None else transform
    if interpolation == "nearest":
        return _resample(image, reference, transform, sitk.sitkNearestNeighbor, outside_value)
    smooth = sitk.Cast(image, sitk.sitkFloat32)
    resampled = _resample(smooth, reference, transform, _INTERPOLATORS[interpolation], outside_value)
    if interpolation == "bspline":
        resampled = sitk.Clamp(resampled, sitk.sitkFloat32, min(low, outside_value), max(high, outside_value))
    return resampled


def _resample(
    image: sitk.Image, reference: sitk.Image, transform: sitk.Transform, interpolator: int, outside_value: float
) -> sitk.Image:
    """`sitk.Resample`, but a transform that is not linear is computed only where the image can be seen."""
    if transform.IsLinear():
        return sitk.Resample(image, reference, transform, interpolator, outside_value)
    result = np.full(reference.GetSize()[::-1], outside_value, dtype=sitk.GetArrayViewFromImage(image).dtype)
    for slab, start in slabs_that_see(image, reference, transform):
        part = sitk.Resample(image, slab, looked_up(transform, slab), interpolator, outside_value)
        where = tuple(slice(first, first + n) for first, n in zip(start[::-1], slab.GetSize()[::-1], strict=True))
        result[where] = sitk.GetArrayViewFromImage(part)
    resampled = sitk.GetImageFromArray(result)
    resampled.CopyInformation(reference)
    return resampled


def field_of_view(image: sitk.Image, reference: sitk.Image, *, transform: sitk.Transform | None = None) -> np.ndarray:
    """Which voxels of the reference have their centre inside the image, bool `(Z, Y, X)`.

    `transform` maps points of the reference to points of the image. None if both share the world frame.
    """
    if transform is not None:
        ones = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
        ones.CopyInformation(image)
        return sitk.GetArrayFromImage(sitk.Resample(ones, reference, transform, sitk.sitkNearestNeighbor, 0)) > 0
    world_to_index = np.linalg.inv(index_to_world(image)) @ index_to_world(reference)
    nx, ny, nz = reference.GetSize()
    inside = np.ones((nz, ny, nx), dtype=bool)
    for axis, n in enumerate(image.GetSize()):
        cx, cy, cz, offset = world_to_index[axis]
        position = (
            (np.arange(nz) * cz + offset)[:, None, None]
            + (np.arange(ny) * cy)[None, :, None]
            + (np.arange(nx) * cx)[None, None, :]
        )
        inside &= (position >= -0.5 - 1e-6) & (position <= n - 0.5 + 1e-6)
    return inside


def resample_labels(labels: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """Label map on the reference's grid, by linear interpolation of each label and the largest share winning.

    Only values of the input occur. Voxels beyond the input's field of view are background (0). If the reference is
    finer, this is smoother than nearest neighbour. At a tie a label goes before background, the smaller value before
    the larger.
    """
    if same_grid(labels, reference):
        same = sitk.Image(labels)
        same.CopyInformation(reference)
        return same
    values = [int(value) for value in np.unique(sitk.GetArrayViewFromImage(labels)) if value != 0]
    shape = reference.GetSize()[::-1]
    result = np.zeros(shape, dtype=np.int64)
    best = np.zeros(shape, dtype=np.float32)
    foreground = np.zeros(shape, dtype=np.float32)
    for value in values:
        mask = sitk.Cast(labels == value, sitk.sitkFloat32)
        share = sitk.GetArrayFromImage(sitk.Resample(mask, reference, sitk.Transform(), sitk.sitkLinear, 0.0))
        wins = share > best
        result[wins] = value
        best[wins] = share[wins]
        foreground += share
    result[best < np.maximum(1.0 - foreground, 0.0)] = 0
    image = sitk.Cast(sitk.GetImageFromArray(result), labels.GetPixelID())
    image.CopyInformation(reference)
    return image
