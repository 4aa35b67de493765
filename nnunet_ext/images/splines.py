"""Cubic splines along one axis of an array, as a multiplication with a matrix."""

from __future__ import annotations

import numpy as np
from skimage.transform import resize


def along(data: np.ndarray, axis: int, matrix: np.ndarray) -> np.ndarray:
    """`matrix` `(new_n, n)` applied along one axis of size `n`. The result is contiguous."""
    before, n, after = int(np.prod(data.shape[:axis])), data.shape[axis], int(np.prod(data.shape[axis + 1 :]))
    result = np.matmul(matrix, np.ascontiguousarray(data).reshape(before, n, after))
    return result.reshape(*data.shape[:axis], len(matrix), *data.shape[axis + 1 :])


def spline_matrix(n: int, new_n: int) -> np.ndarray:
    """Cubic spline interpolation of `n` values at `new_n` positions, edges kept in place, as `(new_n, n)` float32.

    Its columns are unit vectors resampled by skimage, which nnU-Net uses.
    """
    if n == new_n:
        return np.eye(n, dtype=np.float32)
    return resize(np.eye(n), (new_n, n), 3, mode="edge", anti_aliasing=False, clip=False).astype(np.float32)
