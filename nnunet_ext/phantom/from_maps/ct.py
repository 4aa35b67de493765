"""The CT of a case: HU of the tissues, blur, metal with its streaks, and noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.phantom.ct import add_ct_noise, add_streaks, couch_background
from nnunet_ext.phantom.from_maps.fixation import lay_mask
from nnunet_ext.phantom.from_maps.intensities import draw_ct_contrast
from nnunet_ext.phantom.from_maps.person import Person
from nnunet_ext.phantom.from_maps.sampling import TissueSampler, render
from nnunet_ext.phantom.from_maps.tissues import CODE
from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.waves import Waves

STREAK_CHANCE = 0.25
#: Noise at slices of 2.5 mm. Thinner slices have more.
NOISE_HU, NOISE_SLICE_MM = (5.0, 25.0), 2.5
#: Where teeth are, below and in front of the eyes: lowest to highest (x, y, z) from the middle between the globes.
TEETH_MM = np.array([[-28.0, -22.0, -85.0], [28.0, 25.0, -45.0]])


def acquire_ct(
    sampler: TissueSampler, body_mm: np.ndarray, metal_mm: np.ndarray, *, immobilised: bool, rng: np.random.Generator
) -> tuple[np.ndarray, dict]:
    """CT in HU `(Z, Y, X)` float32, and a record of it.

    Args:
        sampler: Of the scene on the grid of the CT.
        body_mm: Points of the head in the image, `(N, 3)`.
        metal_mm: Places of metal in the image, `(N, 3)`, may be empty.
        immobilised: Add couch, head rest and a fixation mask.
        rng: Draws values and noise.
    """
    grid = sampler.grid
    contrast = draw_ct_contrast(rng)
    ct, deviation = render(sampler, np.stack([contrast.means, contrast.deviations]))
    _add_grain(ct, deviation, grid, rng)
    if immobilised:
        lay_mask(ct, grid, rng)
        top_mm = float(body_mm[:, 1].max() + rng.uniform(6, 16))
        couch = couch_background(
            grid, top_mm=top_mm, middle_mm=float(body_mm[:, 0].mean() + rng.uniform(-8, 8)), rng=rng
        )
        np.maximum(ct, couch, out=ct)
    blur_mm = float(rng.uniform(0.4, 0.8))
    for axis in (1, 2):
        gaussian_filter1d(ct, blur_mm / grid.spacing_mm[2 - axis], axis=axis, output=ct)
    if len(metal_mm):
        add_streaks(ct, grid, metal_mm, rng)
    sigma = float(rng.uniform(*NOISE_HU) * np.sqrt(NOISE_SLICE_MM / max(grid.spacing_mm[2], 1.0)))
    add_ct_noise(ct, rng, sigma_hu=sigma)
    np.maximum(ct, AIR_HU - 24, out=ct)
    return ct, {"noise_hu": round(sigma, 2), "blur_mm": round(blur_mm, 2), "metal_parts": len(metal_mm)}


def _add_grain(ct_hu: np.ndarray, deviation_hu: np.ndarray, grid: Grid, rng: np.random.Generator) -> None:
    """Vary bone and marrow from place to place, in place."""
    grain = Waves.draw(rng, (5.0, 18.0), 10)
    y, x = grid.coordinates_mm(1), grid.coordinates_mm(0)
    for k, z in enumerate(grid.coordinates_mm(2)):
        ct_hu[k] += deviation_hu[k] * grain.on_grid(np.array([z]), y, x)[0]


def find_metal(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Places of dental metal in the frame of the head, `(N, 3)`.

    Empty in most cases, and if the map ends above the teeth.
    """
    n_parts = int(rng.integers(1, 4)) if rng.uniform() < STREAK_CHANCE else 0
    middle = np.mean([globe.centre_mm for globe in person.globes.values()], axis=0)
    low, high = person.frame.box(TEETH_MM + middle, person.tissues.shape)
    part = person.tissues[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    hard = person.frame.to_head_mm(np.argwhere(part == CODE["bone"]) + low)
    hard = hard[hard[:, 2] > person.cut_mm]
    if not n_parts or len(hard) < 50:
        return np.empty((0, 3))
    return hard[rng.choice(len(hard), n_parts, replace=False)]
