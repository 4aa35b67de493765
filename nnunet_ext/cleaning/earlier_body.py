"""The body as plans without a `head_crop` were made with: to some millimetres, for the crop of their images.

A model trained with such a plan must see the same crop, voxel by voxel. Nothing else uses this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunet_ext.cleaning.morphology import block_mean, close_mask, deepest, enlarge, fill_slices, grown, open_mask
from nnunet_ext.cleaning.thresholds import otsu_threshold

_VOXEL_MM = 2.5
_CORE_HU, _OUTLINE_HU, _LOWEST_HU, _BONE_HU = -250.0, (-500.0, -350.0), -1024.0, 200.0
_SHEET_MM, _EDGE_MM, _SKIN_REACH_MM, _THICK_MM = 3.0, 1.5, 6.0, 4.5


def earlier_body_mask(volume: np.ndarray, *, spacing_mm: Sequence[float], is_ct: bool) -> np.ndarray:
    """The patient as version 0.1 found it on a coarse grid.

    Args:
        volume: CT or MR, `(Z, Y, X)`.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        is_ct: Whether it is a CT.

    Returns:
        Bool `(Z, Y, X)`. All False if no body is found.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    factors = np.maximum(1, (_VOXEL_MM / spacing + 0.01).astype(int))
    factors = np.minimum(factors, np.maximum(1, np.asarray(volume.shape) // 8))
    coarse = block_mean(volume, factors)
    core_level, level = _thresholds(coarse, is_ct)
    found = _in_ct(coarse, core_level, level, spacing * factors) if is_ct else _in_mr(coarse, level, spacing * factors)
    return enlarge(found, factors, volume.shape)


def _thresholds(volume: np.ndarray, is_ct: bool) -> tuple[float, float]:
    """Values above which a voxel is solid tissue, and above which it is tissue at all."""
    if is_ct and float(volume.min()) <= -500.0:
        return _CORE_HU, float(np.clip(otsu_threshold(np.clip(volume, _LOWEST_HU, 300.0)), *_OUTLINE_HU))
    first = otsu_threshold(volume)
    usual = float(np.median(volume[volume > first])) if (volume > first).any() else first
    level = otsu_threshold(np.minimum(volume, usual))
    if not is_ct:
        air = volume[volume <= level]
        noise = float(air.mean() + 3 * air.std())
        level = min(level, max(noise, float(air.mean()) + 0.6 * (level - float(air.mean()))))
    return level, level


def _in_ct(volume: np.ndarray, core_level: float, level: float, spacing: np.ndarray) -> np.ndarray:
    tissue = volume > level
    head = deepest(open_mask(volume > core_level, _SHEET_MM, spacing), spacing)
    if not head.any():
        head = deepest(tissue, spacing)
    body = fill_slices(grown(head, tissue, _EDGE_MM, spacing))
    if core_level == _CORE_HU:
        pieces, _ = ndimage.label(volume > _BONE_HU, structure=np.ones((3, 3, 3)))
        linked = np.isin(pieces, np.setdiff1d(np.unique(pieces[body]), [0]))
        wall = grown(linked & ~body, tissue, _SKIN_REACH_MM, spacing)
        head, body = head | wall, fill_slices(body | wall)
    rest = fill_slices(grown(head, tissue, _SKIN_REACH_MM, spacing)) & ~body
    thick = grown(open_mask(rest, _THICK_MM, spacing), rest, _THICK_MM, spacing)
    return fill_slices(body | thick) if thick.any() else body


def _in_mr(volume: np.ndarray, level: float, spacing: np.ndarray) -> np.ndarray:
    tissue = open_mask(volume > level, 0.0, spacing)
    closed = fill_slices(close_mask(tissue, 8.0, spacing))
    head = deepest(open_mask(closed, 6.0, spacing), spacing)
    return fill_slices(grown(head, tissue, _SKIN_REACH_MM, spacing))
