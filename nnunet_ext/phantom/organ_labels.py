"""Label map of the organs, from the share of every voxel that each of them covers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.ndimage import label as label_pieces

from nnunet_ext.phantom.grids import Grid


@dataclass(frozen=True)
class Organs:
    """Shares of voxels covered by each organ, in a box of the grid.

    Attributes:
        coverage: `(7, Z, Y, X)`, label order, in [0, 1].
        start_voxels: First voxel of the box, `(z, y, x)`.
    """

    coverage: np.ndarray
    start_voxels: tuple[int, int, int]


def label_map(organs: Organs, grid: Grid, centrelines_mm: dict[int, np.ndarray]) -> np.ndarray:
    """Labels that keep each organ's volume. An organ of V voxels gets the V voxels it covers most.

    On thin slices this is the majority rule. On thick ones the majority rule would drop a nerve that runs between two
    slices, and this rule keeps it. Voxels crossed by a centreline come first. Stray voxels are exchanged for ones that
    touch the rest, so that every organ is one piece.

    Args:
        organs: Coverage of the voxels.
        grid: The grid the coverage belongs to.
        centrelines_mm: Label value -> world points `(N, 3)` as `(x, y, z)` in LPS.

    Returns:
        Label map uint8 `(Z, Y, X)`. Small organs are placed first and keep their voxels.
    """
    score = organs.coverage.copy()
    start = np.asarray(organs.start_voxels)
    for label, points in centrelines_mm.items():
        index = (
            np.rint((points - np.asarray(grid.origin_mm)) / np.asarray(grid.spacing_mm)).astype(int)[:, ::-1] - start
        )
        index = index[((index >= 0) & (index < score.shape[1:])).all(axis=1)]
        crossed = np.zeros(score.shape[1:], bool)
        crossed[tuple(index.T)] = True
        score[label - 1] += crossed & (score[label - 1] > 0)
    volumes_voxels = organs.coverage.sum(axis=(1, 2, 3))
    box: np.ndarray = np.zeros(score.shape[1:], np.uint8)
    for organ in np.argsort(volumes_voxels, kind="stable"):
        free = (score[organ] > 0) & (box == 0)
        box[_one_piece(score[organ], free, round(float(volumes_voxels[organ])))] = organ + 1
    labels = np.zeros(grid.size_voxels[::-1], np.uint8)
    labels[tuple(slice(a, a + n) for a, n in zip(start, box.shape, strict=True))] = box
    return labels


def _best(score: np.ndarray, allowed: np.ndarray, n: int) -> np.ndarray:
    """Mask of the `n` allowed voxels with the highest scores."""
    candidates = np.flatnonzero(allowed)
    chosen = np.zeros(score.shape, bool)
    chosen.ravel()[candidates[np.argsort(-score.ravel()[candidates], kind="stable")[:n]]] = True
    return chosen


def _one_piece(score: np.ndarray, allowed: np.ndarray, n: int) -> np.ndarray:
    """As `_best`, with stray voxels exchanged for the best ones that touch the largest piece (26 neighbours)."""
    neighbours = np.ones((3, 3, 3), bool)
    chosen = _best(score, allowed, n)
    for _ in range(20):
        pieces, n_pieces = label_pieces(chosen, neighbours)
        if n_pieces <= 1:
            return chosen
        largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        touching = binary_dilation(largest, neighbours) & allowed & ~largest
        if not touching.any():
            return largest
        chosen = largest | _best(score, touching, n - int(largest.sum()))
    return chosen
