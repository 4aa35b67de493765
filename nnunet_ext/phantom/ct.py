"""The CT of a phantom, with couch, metal and its streaks, and noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve1d

from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.anatomy import Anatomy
from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.organ_labels import label_map
from nnunet_ext.phantom.painting import Painter, paint
from nnunet_ext.phantom.pose import EXTREMES_MM, Pose
from nnunet_ext.phantom.tissues import CT
from nnunet_ext.phantom.waves import add_texture

METAL_RADIUS_MM = 2.5


def couch_background(grid: Grid, *, top_mm: float, middle_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Air with a couch and a head rest, the same on every slice.

    Args:
        grid: The CT grid.
        top_mm: World y of the top of the couch.
        middle_mm: World x of the middle of the couch.
        rng: Draws the kind of couch.

    Returns:
        HU `(1, Y, X)`.
    """
    y, x = grid.coordinates_mm(1)[:, None], grid.coordinates_mm(0)[None] - np.float32(middle_mm)
    curved = y - x**2 / np.float32(rng.choice([900.0, 1800.0, 1e6])) * 0.5
    thickness_mm, half_width_mm = float(rng.uniform(25, 50)), float(rng.uniform(190, 240))
    pixel = grid.spacing_mm[0]
    canvas = np.full((1, y.size, x.size), AIR_HU, np.float32)
    rest = np.maximum(np.abs(x) - 75 - 0.5 * (y - top_mm + 60), np.abs(y - top_mm + 27) - 27)
    paint(canvas, rest, np.array([-930], np.float32), pixel)
    slab = np.maximum(np.abs(curved - top_mm - thickness_mm / 2) - thickness_mm / 2, np.abs(x) - half_width_mm)
    paint(canvas, slab, np.array([-60], np.float32), pixel)
    paint(canvas, slab + 2.0, np.array([-940], np.float32), pixel)
    return canvas


def add_streaks(ct_hu: np.ndarray, grid: Grid, metal_mm: np.ndarray, rng: np.random.Generator) -> None:
    """Add metal with bright and dark rays around it, in place.

    The rays show on the slices that the metal crosses and, weaker, next to them.

    Args:
        ct_hu: `(Z, Y, X)`.
        grid: Its grid.
        metal_mm: World centres of the metal parts, `(N, 3)`.
        rng: Draws the rays.
    """
    y, x = grid.coordinates_mm(1)[:, None], grid.coordinates_mm(0)[None]
    strength = [np.exp(-(((grid.coordinates_mm(2) - m[2]) / 4.0) ** 2)) for m in metal_mm]
    for center, weight in zip(metal_mm, strength, strict=True):
        radius, angle = np.hypot(y - center[1], x - center[0]), np.arctan2(y - center[1], x - center[0])
        rays = np.zeros_like(radius)
        for n, amplitude in ((2, 0.6), (5, 0.6), (9, 0.5), (17, 0.5), (31, 0.4)):
            rays += amplitude * np.sin(n * angle + rng.uniform(0, 2 * np.pi))
        rays *= float(rng.uniform(250, 500)) * 12 / (radius + 12) * np.exp(-radius / 90)
        for k in np.flatnonzero(weight > 0.02):
            ct_hu[k] += np.float32(weight[k]) * rays * (ct_hu[k] > -700)
            to_metal = np.hypot(radius, grid.coordinates_mm(2)[k] - np.float32(center[2])) - METAL_RADIUS_MM
            paint(ct_hu[None, k], to_metal, np.array([3071], np.float32), grid.spacing_mm[0])


def add_ct_noise(ct_hu: np.ndarray, rng: np.random.Generator, *, sigma_hu: float) -> None:
    """Add noise of a given standard deviation, correlated between neighbouring pixels, in place."""
    kernel = np.array([0.25, 0.5, 0.25], np.float32)
    for plane in ct_hu:
        noise = rng.standard_normal(plane.shape, dtype=np.float32)
        for axis in (0, 1):
            noise = convolve1d(noise, kernel, axis=axis, mode="wrap")
        plane += noise * np.float32(sigma_hu / 0.375)  # the kernel leaves 0.375 of white noise's deviation


def draw_background(pose: Pose, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Air with a couch a little behind the head, HU `(1, Y, X)`."""
    top_mm = float(pose.to_world_mm(EXTREMES_MM)[:, 1].max() + 2 + rng.uniform(6, 16))
    return couch_background(grid, top_mm=top_mm, middle_mm=float(pose.translation_mm[0] + rng.uniform(-8, 8)), rng=rng)


def acquire_ct(
    anatomy: Anatomy, pose: Pose, grid: Grid, background: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """CT in HU `(Z, Y, X)` float32, labels uint8, and the volume of each organ in mL before voxels divide it."""
    painter = Painter(anatomy, grid, pose.to_head_mm, channels=(CT,), accessories=True)
    image, organs = painter.paint(background, with_organs=True)
    assert organs is not None  # asked for
    ct = image[0]
    ct -= np.float32(AIR_HU)
    add_texture(ct, grid, rng, amplitude=0.003)
    ct += np.float32(AIR_HU)
    if len(anatomy.metal_mm):
        add_streaks(ct, grid, pose.to_world_mm(anatomy.metal_mm), rng)
    add_ct_noise(ct, rng, sigma_hu=float(rng.uniform(8, 15)))
    centrelines = {label: pose.to_world_mm(points) for label, points in anatomy.centrelines_mm.items()}
    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000
    volumes = organs.coverage.sum(axis=(1, 2, 3), dtype=np.float64) * voxel_ml
    return (
        ct,
        label_map(organs, grid, centrelines),
        {n: round(float(v), 4) for n, v in zip(ORGANS, volumes, strict=True)},
    )
