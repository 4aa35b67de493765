"""Course of an optic nerve between its globe and the chiasm, through pieces of it that a label map holds."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import BSpline

#: A labelled voxel further than this from the curve belongs to something else.
STRAY_MM = 5.0
N_COEFFICIENTS = 9
#: Weights of the two ends, of smoothness, and of the usual course, against 1 for all labelled voxels together.
END_WEIGHT, BEND_WEIGHT, PRIOR_WEIGHT = 30.0, 0.35, 0.03
#: Between its ends, a nerve runs lateral of the straight line. It turns inwards at the apex of the orbit.
BULGE_MM = 2.5


def nerve_course(
    pieces_mm: np.ndarray, globe_mm: np.ndarray, corner_mm: np.ndarray, *, lateral: np.ndarray, n_points: int = 41
) -> np.ndarray:
    """Smooth curve from the centre of a globe to the front corner of the chiasm.

    A cubic spline of few pieces is fitted to the offsets of the labelled voxels from the straight line. Where no voxel is
    labelled, as in the optic canal, the least bent curve continues from both sides.

    Args:
        pieces_mm: Labelled voxels of this side, `(N, 3)`. They may include strays, and there may be none.
        globe_mm: Centre of the globe.
        corner_mm: Where the nerve joins the chiasm.
        lateral: Unit vector that points away from the midline.
        n_points: Points of the curve.

    Returns:
        `(n_points, 3)`.
    """
    chord = corner_mm - globe_mm
    length = float(np.linalg.norm(chord))
    along = chord / length
    first = lateral - (lateral @ along) * along
    first /= np.linalg.norm(first)
    across = np.stack([first, np.cross(along, first)], axis=1)
    position = (pieces_mm - globe_mm) @ along / length
    offsets = (pieces_mm - globe_mm) @ across
    between = np.linspace(0, 1, n_points)
    usual = np.stack([BULGE_MM * np.sin(np.pi * between), np.zeros(n_points)], axis=1)
    kept = (position > 0.1) & (position < 1) & (np.linalg.norm(offsets, axis=1) < 3 * STRAY_MM)
    fit = usual
    for _ in range(3):
        expected = np.stack([np.interp(position, between, fit[:, k]) for k in range(2)], axis=1)
        near = np.linalg.norm(offsets - expected, axis=1) < (2 * STRAY_MM if fit is usual else STRAY_MM)
        fit = _fit(position[kept & near], offsets[kept & near], between, usual)
    return globe_mm + between[:, None] * chord + fit @ across.T


def _fit(position: np.ndarray, offsets: np.ndarray, between: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Offsets `(n, 2)` at the places `between` of a smoothing spline through those measured."""
    knots = np.concatenate([np.zeros(3), np.linspace(0, 1, N_COEFFICIENTS - 2), np.ones(3)])
    ends = BSpline.design_matrix(np.array([0.0, 1.0]), knots, 3).toarray()
    dense = BSpline.design_matrix(between, knots, 3).toarray()
    rows = [ends * END_WEIGHT, np.diff(np.eye(N_COEFFICIENTS), 2, axis=0) * BEND_WEIGHT, dense * PRIOR_WEIGHT]
    targets = [np.zeros((2, 2)), np.zeros((N_COEFFICIENTS - 2, 2)), usual * PRIOR_WEIGHT]
    if len(position):
        weight = 1 / np.sqrt(len(position))
        rows.append(BSpline.design_matrix(position, knots, 3).toarray() * weight)
        targets.append(offsets * weight)
    coefficients, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)
    return dense @ coefficients
