"""The image grids of CT and MR, and the sizes they are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """An axis-aligned image grid in LPS. All triples are `(x, y, z)`."""

    size_voxels: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    def coordinates_mm(self, axis: int) -> np.ndarray:
        """World coordinate of every voxel centre along one axis, float32."""
        return (self.origin_mm[axis] + self.spacing_mm[axis] * np.arange(self.size_voxels[axis])).astype(np.float32)

    @property
    def end_mm(self) -> np.ndarray:
        """World position of the last voxel centre."""
        return np.asarray(self.origin_mm) + (np.asarray(self.size_voxels) - 1) * np.asarray(self.spacing_mm)


@dataclass(frozen=True)
class SizeRange:
    """Ranges `(low, high)` or lists of choices that the grids of one `size` are drawn from."""

    pixel_mm: tuple[float, float] | list[float]
    slice_mm: tuple[float, float] | list[float]
    field_of_view_mm: tuple[float, float] | None  # None: 512 x 512 pixels
    height_mm: tuple[float, float]
    mr_pixel_mm: tuple[float, float]
    mr_slice_mm: tuple[float, float]


SIZES = {
    "tiny": SizeRange((2.3, 2.7), (2.3, 2.7), (250, 275), (190, 215), (2.0, 2.6), (2.4, 3.2)),
    "small": SizeRange((1.0, 1.2), (2.7, 3.3), (250, 275), (195, 225), (0.95, 1.15), (3.0, 4.5)),
    "thin": SizeRange((0.75, 0.83), [1.25], (250, 275), (195, 225), (0.75, 0.83), (1.25, 1.5)),
    "full": SizeRange([0.488, 0.586, 0.684, 0.781, 0.977], [2.5, 3.0, 5.0], None, (205, 280), (0.65, 0.75), (4.5, 5.0)),
}


def draw_spacing(rng: np.random.Generator, choices: tuple[float, float] | list[float]) -> float:
    """A voxel size from a range or a list, mm."""
    value = rng.choice(choices) if isinstance(choices, list) else rng.uniform(*choices)
    return round(float(value), 3)


def draw_ct_grid(sizes: SizeRange, extremes_mm: np.ndarray, rng: np.random.Generator) -> Grid:
    """A CT grid that holds the whole head down to mouth or neck.

    Args:
        sizes: Ranges of the grid.
        extremes_mm: Outermost points of the head in the CT, `(N, 3)`.
        rng: Draws from the ranges, and the place of the head in the field of view.
    """
    pixel, across = draw_spacing(rng, sizes.pixel_mm), draw_spacing(rng, sizes.slice_mm)
    nx, ny = (
        (512, 512)
        if sizes.field_of_view_mm is None
        else (round(rng.uniform(*sizes.field_of_view_mm) / pixel) for _ in "xy")
    )
    nz = round(rng.uniform(*sizes.height_mm) / across)
    low, high = extremes_mm.min(axis=0), extremes_mm.max(axis=0)
    origin = np.empty(3)
    for axis, n in ((0, nx), (1, ny)):
        extent = (n - 1) * pixel
        # The couch is part of the picture, so the middle of the field of view lies behind that of the head.
        middle = (low[axis] + high[axis]) / 2 + rng.uniform(-4, 4) + (8 if axis == 1 else 0)
        origin[axis] = np.clip(
            middle - extent / 2, high[axis] + 4 - extent, max(low[axis] - 4, high[axis] + 4 - extent)
        )
    origin[2] = high[2] + rng.uniform(8, 22) - (nz - 1) * across
    return Grid((nx, ny, nz), (pixel, pixel, across), tuple(np.round(origin, 3).tolist()))


def draw_mr_grid(sizes: SizeRange, extremes_mm: np.ndarray, rng: np.random.Generator) -> Grid:
    """An MR grid from the crown to the mouth, around the head as it lies in the MR scanner.

    Args:
        sizes: Ranges of the grid.
        extremes_mm: Outermost points of the head in the MR, `(N, 3)`.
        rng: Draws from the ranges.
    """
    pixel, across = draw_spacing(rng, sizes.mr_pixel_mm), draw_spacing(rng, sizes.mr_slice_mm)
    low, high = extremes_mm.min(axis=0), extremes_mm.max(axis=0)
    extent = np.array([*(high - low)[:2] + rng.uniform(8, 24, 2), rng.uniform(175, 200)])
    size = np.rint(extent / [pixel, pixel, across]).astype(int)
    origin = (low + high - size * [pixel, pixel, across]) / 2
    origin[2] = high[2] + rng.uniform(2, 10) - size[2] * across
    return Grid(tuple(size.tolist()), (pixel, pixel, across), tuple(np.round(origin, 3).tolist()))
