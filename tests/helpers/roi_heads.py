"""A small head of four organs for the tests of the ROI rule."""

from __future__ import annotations

import numpy as np

from nnunet_ext.cascade.roi import OrganExtent, RoiRule, organ_extents
from nnunet_ext.cascade.roi_fitting import fit_roi

SHAPE = (14, 40, 60)
SPACING_MM = (3.0, 0.8, 0.7)  # the volume is 42 x 32 x 42 mm
EYE_L, EYE_R, LENS_L, CHIASM = 1, 2, 3, 7
HEAD = {
    EYE_L: np.s_[4:8, 6:16, 38:50],
    EYE_R: np.s_[4:8, 6:16, 10:22],
    LENS_L: np.s_[5:7, 3:6, 42:46],
    CHIASM: np.s_[8:9, 26:30, 26:34],
}


def head(organs=HEAD, *, shape=SHAPE, dtype=np.uint8) -> np.ndarray:
    label_map = np.zeros(shape, dtype)
    for value, where in organs.items():
        label_map[where] = value
    return label_map


def fitted(**options) -> RoiRule:
    extents = organ_extents(head(), spacing_mm=SPACING_MM)
    return fit_roi({"head_1": extents}, **({"margin_mm": 2.0, "jitter_mm": 0.0} | options)).rule


def at(*centroid_mm: float, half_mm: float = 2.0) -> OrganExtent:
    c = np.asarray(centroid_mm, dtype=float)
    return OrganExtent(tuple(c), tuple(c - half_mm), tuple(c + half_mm), (2 * half_mm) ** 3 / 1000)


def rule(spread_mm: dict[int, float], offset_mm: dict[int, tuple] | None = None) -> RoiRule:
    return RoiRule((40.0,) * 3, offset_mm or dict.fromkeys(spread_mm, (0.0, 0.0, 0.0)), spread_mm)
