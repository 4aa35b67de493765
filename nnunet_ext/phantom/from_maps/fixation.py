"""A thermoplastic fixation mask over the face, drawn on the CT of a case."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, zoom

from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.waves import Waves

MASK_HU = -60.0
#: A CT value half-way between air and soft tissue.
SKIN_HU = -500.0


def lay_mask(ct_hu: np.ndarray, grid: Grid, rng: np.random.Generator) -> None:
    """Add a perforated sheet of 2 to 3 mm over the front of the head, 0 to 3 mm above the skin, in place.

    Args:
        ct_hu: Head in air, `(Z, Y, X)`, without couch.
        grid: Its grid.
        rng: Draws thickness, gaps and where the mask ends.
    """
    thickness_mm, end_share = float(rng.uniform(2.0, 3.0)), float(rng.uniform(0.45, 0.6))
    gap = Waves.draw(rng, (60.0, 120.0), 5)
    spacing = np.asarray(grid.spacing_mm)[::-1]
    step = np.maximum(np.rint(2.0 / spacing).astype(int), 1)
    coarse = ct_hu[:: step[0], :: step[1], :: step[2]] > SKIN_HU
    body = np.stack([binary_fill_holes(plane) for plane in coarse])
    above = distance_transform_edt(~body, sampling=spacing * step) - spacing[1] * step[1] / 2
    rows = np.flatnonzero(body.any(axis=(0, 2)))
    if not len(rows):
        return
    y = grid.coordinates_mm(1)
    end_mm = y[rows[0] * step[1]] + end_share * (y[rows[-1] * step[1]] - y[rows[0] * step[1]])
    front = y < end_mm
    fine = zoom(above.astype(np.float32), np.array(ct_hu.shape) / above.shape, order=1, grid_mode=False)[:, front]
    x_mm, z_mm = grid.coordinates_mm(0), grid.coordinates_mm(2)
    lifted = np.clip(1.5 + gap.on_grid(z_mm, y[front], x_mm), 0.3, 3)
    sheet = np.abs(fine - lifted - thickness_mm / 2) - thickness_mm / 2
    holes = 4 * np.sin(x_mm[None, None] * 0.9) * np.sin(z_mm[:, None, None] * 0.9) - 1.5
    sheet = np.maximum(sheet, np.minimum(holes, 1.0))
    share = np.clip(0.5 - sheet / np.float32(max(spacing[1], 1.0)), 0, 1)
    part = ct_hu[:, front]
    ct_hu[:, front] = np.maximum(part, AIR_HU + share * (MASK_HU - AIR_HU))
