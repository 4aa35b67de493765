"""The MR of a phantom, with contrast of the scanner, bias field, and noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnunet_ext.phantom.anatomy import Anatomy
from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.painting import Painter
from nnunet_ext.phantom.tissues import T1, TISSUES
from nnunet_ext.phantom.waves import add_texture

MR_WHITE_MATTER = 640.0  # noise levels are given as a share of this
#: INU as BrainWeb counts it (Collins et al. 1998, doi:10.1109/42.712135), from its usual level up to what the flexible
#: coil of a radiotherapy MR shows: 71 % uniformity, read as 29 % to either side (Liney et al. 2013,
#: doi:10.1259/bjr.20130150).
MR_NON_UNIFORMITY = (0.2, 0.6)


def mr_bias(
    image: np.ndarray, grid: Grid, rng: np.random.Generator, *, non_uniformity: float
) -> Callable[[int], np.ndarray]:
    """A smooth multiplicative field, which maps the index of a slice to factors `(Y, X)`.

    Its logarithm mixes two fields in random shares. One is a random quadratic, for transmit field and loading. The other
    is the sensitivity of a few coil elements around the head, as root of the sum of squares. The field's range is that
    inside the head, without the corners of the grid.

    Args:
        image: The image it will be applied to, `(Z, Y, X)`. All that is brighter than air is the head.
        grid: Its grid.
        rng: Draws the shape.
        non_uniformity: BrainWeb's INU. At 0.2 the field runs from 0.9 to 1.1 in the head, at 0.4 from 0.8 to 1.2.
            These are the 2nd and 98th percentile.
    """
    axes = [grid.coordinates_mm(axis) for axis in range(3)]
    step = [max(1, int(8 // mm)) for mm in grid.spacing_mm]
    coarse = tuple(slice(None, None, s) for s in step[::-1])
    inside = image[coarse] > 2 * TISSUES["air"][T1]
    middle = np.array(
        [axes[a][:: step[a]][inside.any(axis=tuple(b for b in range(3) if b != 2 - a))].mean() for a in range(3)],
        np.float32,
    )
    c = rng.uniform(-1, 1, 9).astype(np.float32)
    n = int(rng.integers(4, 7))
    angle, height_mm = rng.uniform(0, 2 * np.pi, n), rng.uniform(-60, 60, n)
    coils = np.stack([130 * np.cos(angle), 150 * np.sin(angle), height_mm, rng.uniform(50, 90, n)], axis=1)

    def parts(z_mm: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = ((v - m) for v, m in zip((x_mm, y_mm, z_mm), middle, strict=True))
        u, v, w = x / 80, y / 100, z / 100
        bowl = c[0] * u + c[1] * v + c[2] * w + c[3] * u * u + c[4] * v * v + c[5] * w * w
        bowl = bowl + c[6] * u * v + c[7] * u * w + c[8] * v * w
        power = sum(
            1 / _cube(1 + ((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / radius**2)
            for cx, cy, cz, radius in coils.astype(np.float32)
        )
        return bowl, np.log(power) / 2

    def span(values: np.ndarray) -> tuple[float, float]:
        low, high = np.percentile(values[inside], (2, 98))
        return float(high - low), float(high + low) / 2

    grid_parts = parts(*np.meshgrid(*(axes[2 - a][coarse[a]] for a in range(3)), indexing="ij", sparse=True))
    share = float(rng.uniform(0, 1))
    weights = share / span(grid_parts[0])[0], (1 - share) / span(grid_parts[1])[0]
    extent, centre = span(weights[0] * grid_parts[0] + weights[1] * grid_parts[1])
    scale = 2 * np.arctanh(non_uniformity / 2) / extent

    def plane(k: int) -> np.ndarray:
        bowl, coil = parts(axes[2][k], axes[1][:, None], axes[0][None])
        return np.exp(scale * (weights[0] * bowl + weights[1] * coil - centre)).astype(np.float32)

    return plane


def _cube(values: np.ndarray) -> np.ndarray:
    return values * values * values  # a power would take ten times as long


def degrade_mr(image: np.ndarray, grid: Grid, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Apply bias field, Rician noise and an arbitrary scale to an image `(Z, Y, X)`, in place.

    Returns:
        The bias field, as `mr_bias` gives it.
    """
    sigma = np.float32(rng.uniform(0.012, 0.028) * MR_WHITE_MATTER)
    gain = np.float32(rng.uniform(0.6, 1.6))
    bias = mr_bias(image, grid, rng, non_uniformity=float(rng.uniform(*MR_NON_UNIFORMITY)))
    for k, plane in enumerate(image):
        plane *= bias(k)
        noise = rng.standard_normal((2, *plane.shape), dtype=np.float32) * sigma
        np.hypot(plane + noise[0], noise[1], out=plane)
        plane *= gain
    return bias


def acquire_mr(
    anatomy: Anatomy,
    to_head_mm: Callable[[np.ndarray], np.ndarray],
    grid: Grid,
    channels: tuple[int, ...],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Callable[[int], np.ndarray]]]:
    """MR images `(C, Z, Y, X)` float32 in arbitrary units, and the bias field of each."""
    tissues = {}
    for name, values in TISSUES.items():  # contrast differs a little from scanner to scanner
        jitter = np.exp(rng.normal(0, 0.05, len(values)))
        tissues[name] = tuple(v * j for v, j in zip(values, jitter, strict=True))
    air = np.array([tissues["air"][c] for c in channels], np.float32)[:, None, None]
    image, _ = Painter(anatomy, grid, to_head_mm, channels=channels, tissues=tissues).paint(air)
    fields = []
    for channel in image:
        add_texture(channel, grid, rng, amplitude=0.03)
        fields.append(degrade_mr(channel, grid, rng))
    return image, fields
