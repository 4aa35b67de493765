"""Smooth contours from those along the edges of voxels.

A contour moves by less than half a voxel in its plane. The centre of a voxel lies half a voxel or more from every edge, so
no contour passes over one, and `rasterise` gives the same mask back.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

#: Standard deviation of the Gaussian along the contour, in voxels. Steps of one voxel become a line.
SIGMA_VOXELS = 0.75
#: Points per voxel edge, its corner and its middle.
POINTS_PER_EDGE = 2
#: Furthest that a point moves, in voxels.
FURTHEST_VOXELS = 0.49
#: Largest change of a contour's area.
LARGEST_CHANGE = 0.005
#: The area is restored in so many rounds, in each of which the contour moves along its normals.
ROUNDS = 8


def smoothed_loop(loop: np.ndarray) -> np.ndarray:
    """A closed contour with the same area, within `LARGEST_CHANGE`, and without steps.

    A contour with a keyhole stays as it is, because its two ways along one line would part.

    Args:
        loop: Corners `(N, 2)` in voxels, at whole numbers, with runs along one axis between them.

    Returns:
        Points `(M, 2)` in the same units.
    """
    points = _points_on_edges(loop)
    middles = np.rint(2 * points[1::POINTS_PER_EDGE])  # of the edges
    if len(np.unique(middles, axis=0)) < len(middles):  # one is passed twice
        return loop
    area = signed_area(points)
    smooth = ndimage.gaussian_filter1d(points, SIGMA_VOXELS * POINTS_PER_EDGE, axis=0, mode="wrap")
    for _ in range(ROUNDS):
        ahead, behind = np.roll(smooth, -1, axis=0), np.roll(smooth, 1, axis=0)
        length = np.linalg.norm(ahead - smooth, axis=1).sum()
        along = ahead - behind
        normal = np.column_stack([along[:, 1], -along[:, 0]]) / np.maximum(
            np.linalg.norm(along, axis=1, keepdims=True), 1e-9
        )
        moved = smooth + (area - signed_area(smooth)) / length * normal - points
        far = np.linalg.norm(moved, axis=1, keepdims=True)
        smooth = points + moved * np.minimum(1.0, FURTHEST_VOXELS / np.maximum(far, 1e-9))
    return smooth if abs(signed_area(smooth) - area) <= LARGEST_CHANGE * abs(area) else loop


def signed_area(points: np.ndarray) -> float:
    """Area within a closed contour `(N, 2)`, in squared units of its points. Its sign says which way round it runs."""
    x, y = (points - points[0]).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _points_on_edges(loop: np.ndarray) -> np.ndarray:
    """Points at equal distances along a contour, its corners included."""
    pieces = []
    for start, end in zip(loop, np.roll(loop, -1, axis=0), strict=True):
        n_points = POINTS_PER_EDGE * int(np.rint(np.abs(end - start).sum()))
        pieces.append(start + np.arange(n_points)[:, None] / n_points * (end - start))
    return np.concatenate(pieces)
