"""The image grid of one case, which may cut the head but never an organ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_ext.phantom.from_maps.sampling import Scene
from nnunet_ext.phantom.grids import Grid

CUT_CHANCE = 0.2
#: The organs stay this far inside a grid that cuts the head.
MARGIN_MM = 14.0


def draw_grid(
    scene: Scene, body_mm: np.ndarray, spacing_mm: Sequence[float], *, immobilised: bool, rng: np.random.Generator
) -> tuple[Grid, str | None]:
    """A grid around the head, and the side at which it cuts it.

    Args:
        scene: The case.
        body_mm: Points of the head in the image, `(N, 3)`.
        spacing_mm: Voxel size `(x, y, z)`.
        immobilised: Leave room for a couch behind the head.
        rng: Draws the margins.
    """
    low, high = body_mm.min(axis=0), body_mm.max(axis=0)
    organs_low, organs_high = scene.organs.box_mm
    start = low - rng.uniform(6, 14, 3)
    stop = high + rng.uniform(6, 14, 3)
    if immobilised:
        start[1] -= 6
        stop[1] += rng.uniform(25, 45)
    # Below the end of the map the neck is a repetition of its last slice, of which little is to be seen.
    end = np.abs(scene.person.outline_mm[:, 2] - scene.person.cut_mm) < 6
    end_mm = float(body_mm[end, 2].mean()) if end.any() else low[2]
    start[2] = max(stop[2] - rng.uniform(170, 225), end_mm)
    side = None
    if rng.uniform() < CUT_CHANCE:
        side = str(rng.choice(["right", "left", "back", "top", "bottom"]))
        depth_mm = float(rng.uniform(12, 45))
        if side == "right":
            start[0] = low[0] + min(depth_mm, 30)
        elif side == "left":
            stop[0] = high[0] - min(depth_mm, 30)
        elif side == "back":
            stop[1] = high[1] - depth_mm
        elif side == "top":
            stop[2] = high[2] - depth_mm
        else:
            start[2] = organs_low[2] - MARGIN_MM - depth_mm / 2
    start = np.minimum(start, organs_low - MARGIN_MM)
    stop = np.maximum(stop, organs_high + MARGIN_MM)
    spacing = np.asarray(spacing_mm, np.float64)
    size = np.maximum(np.ceil((stop - start) / spacing).astype(int), 2)
    nx, ny, nz = (int(n) for n in size)
    x, y, z = (float(mm) for mm in spacing)
    a, b, c = (float(mm) for mm in np.round(start, 3))
    return Grid((nx, ny, nz), (x, y, z), (a, b, c)), side
