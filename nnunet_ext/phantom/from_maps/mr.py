"""The MR of a case: contrast, thick slices, ghosts, blur, bias field and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from nnunet_ext.phantom.from_maps.intensities import MR_WHITE_MATTER, draw_mr_contrast
from nnunet_ext.phantom.from_maps.sampling import TissueSampler, render
from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.mr import mr_bias
from nnunet_ext.phantom.pose import rotation_matrix
from nnunet_ext.phantom.waves import add_texture

#: Largest distance of the MR from the CT, and largest turn against it, as a registration may leave them.
MISALIGNMENT_MM, MISALIGNMENT_DEG = 3.0, 1.5
#: Around a metal part the MR shows nothing, up to this distance.
VOID_MM = (7.0, 12.0)


@dataclass(frozen=True)
class Misalignment:
    """Place of an MR against the CT: turned about a point and moved."""

    rotation: np.ndarray
    centre_mm: np.ndarray
    shift_mm: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, centre_mm: np.ndarray, *, most_mm: float = MISALIGNMENT_MM) -> Misalignment:
        """Up to `most_mm` at the centre, turned in proportion. Half of the cases are within a third of it."""
        shift = rng.normal(size=3)
        shift *= rng.uniform() ** 1.6 * most_mm / np.linalg.norm(shift)
        most_deg = MISALIGNMENT_DEG * most_mm / MISALIGNMENT_MM
        turn = rng.uniform(-1, 1, 3) * most_deg * rng.uniform() / np.sqrt(3)
        return cls(rotation_matrix((turn[0], turn[1], turn[2])), centre_mm, shift)

    def to_ct_mm(self, mr_mm: np.ndarray) -> np.ndarray:
        """Points `(..., 3)` of the MR -> the points of the CT that show there."""
        return (mr_mm - self.centre_mm) @ self.rotation + self.centre_mm - self.shift_mm


def acquire_mr(
    sampler: TissueSampler, channel: str, *, contrast: str, metal_mm: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, dict]:
    """T1 or T2 `(Z, Y, X)` float32 in arbitrary units, on the grid of the CT, and a record of it.

    Args:
        sampler: Of the scene, with the misalignment of this MR.
        channel: "T1" or "T2".
        contrast: "realistic" or "random".
        metal_mm: Places of metal, `(N, 3)`.
        rng: Draws everything.
    """
    grid = sampler.grid
    drawn = draw_mr_contrast(rng, channel, contrast)
    image, deviation = render(sampler, np.stack([drawn.means, drawn.deviations]))
    image += deviation * rng.standard_normal(image.shape, dtype=np.float32)
    add_texture(image, grid, rng, amplitude=0.03)
    record = dict(drawn.record)
    for place in metal_mm:
        _erase(image, grid, place, float(rng.uniform(*VOID_MM)))
    record |= _thick_slices(image, grid, rng)
    record |= _ghosts(image, rng)
    blur_mm = float(rng.uniform(0.3, 0.9))
    for axis in (1, 2):
        gaussian_filter1d(image, blur_mm / grid.spacing_mm[2 - axis], axis=axis, output=image)
    non_uniformity = float(rng.uniform(0.1, 0.4))
    noise = float(rng.uniform(0.02, 0.08))
    gain = float(rng.uniform(0.5, 1.8))
    bias = mr_bias(image, grid, rng, non_uniformity=non_uniformity)
    for k, plane in enumerate(image):
        plane *= bias(k)
        both = rng.standard_normal((2, *plane.shape), dtype=np.float32) * np.float32(noise * MR_WHITE_MATTER)
        np.hypot(plane + both[0], both[1], out=plane)
        plane *= gain
    if contrast == "random":
        gamma = float(np.exp(rng.normal(0, 0.4)))
        top = max(float(image.max()), 1.0)
        np.power(image / top, gamma, out=image)
        image *= top
        record["gamma"] = round(gamma, 3)
    record |= _field_of_view(image, sampler, rng)
    return image, record | {
        "blur_mm": round(blur_mm, 2),
        "bias": round(non_uniformity, 3),
        "noise": round(noise, 4),
        "gain": round(gain, 3),
    }


def slice_profile(n: int, spacing_mm: float, thickness_mm: float, start_mm: float) -> np.ndarray:
    """What thick slices do along an axis, as a matrix `(n, n)`: the mean over each slice, then linear interpolation back.

    Args:
        n: Voxels along the axis.
        spacing_mm: Their distance.
        thickness_mm: Of the slices, which have no gaps.
        start_mm: Where the first slice begins before the first voxel.
    """
    edges = np.arange(-start_mm, n * spacing_mm + 2 * thickness_mm, thickness_mm)
    low, high = np.arange(n) * spacing_mm, (np.arange(n) + 1) * spacing_mm
    overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    weights = np.clip(overlap, 0, None)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    middles = (edges[1:] + edges[:-1]) / 2
    known = np.flatnonzero(weights.sum(axis=1) > 0)
    voxels = (low + high) / 2
    back = np.stack([np.interp(voxels, middles[known], row) for row in np.eye(len(known))], axis=1)
    return (back @ weights[known]).astype(np.float32)


def _thick_slices(image: np.ndarray, grid: Grid, rng: np.random.Generator) -> dict:
    """Slices of 1 to 7 mm, most of them axial, in place. Thinner ones than the grid has change nothing."""
    axis = int(rng.choice([0, 0, 0, 1, 2]))
    thickness = float(rng.choice([rng.uniform(1, 3), rng.uniform(3, 5), rng.uniform(5, 7)], p=[0.45, 0.4, 0.15]))
    spacing = grid.spacing_mm[2 - axis]
    record = {"slices_mm": round(thickness, 2), "slice_axis": "zyx"[axis]}
    if thickness <= spacing:
        return record
    matrix = slice_profile(image.shape[axis], spacing, thickness, float(rng.uniform(0, thickness)))
    image[...] = np.moveaxis(np.tensordot(matrix, image, axes=(1, axis)), 0, axis)
    return record


def _ghosts(image: np.ndarray, rng: np.random.Generator) -> dict:
    """Faint copies of the head along the phase direction, in some cases, in place."""
    if rng.uniform() > 0.3:
        return {"ghosts": 0.0}
    axis, share, strength = int(rng.integers(1, 3)), float(rng.uniform(0.15, 0.5)), float(rng.uniform(0.02, 0.08))
    shift = int(image.shape[axis] * share)
    copy = np.roll(image, shift, axis=axis) + np.roll(image, -shift, axis=axis)
    image *= 1 - strength
    image += np.float32(strength / 2) * copy
    return {"ghosts": round(strength, 3)}


def _erase(image: np.ndarray, grid: Grid, place_mm: np.ndarray, radius_mm: float) -> None:
    """Void around a metal part, in place."""
    spans = []
    for axis in range(3):
        mm = grid.coordinates_mm(axis)
        spans.append(slice(*np.searchsorted(mm, (place_mm[axis] - radius_mm, place_mm[axis] + radius_mm)).tolist()))
    x, y, z = ((grid.coordinates_mm(a)[spans[a]] - np.float32(place_mm[a])) / np.float32(radius_mm) for a in range(3))
    distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None] ** 2)
    image[spans[2], spans[1], spans[0]] *= np.clip((distance - 0.7) / 0.3, 0, 1)


def _field_of_view(image: np.ndarray, sampler: TissueSampler, rng: np.random.Generator) -> dict:
    """Nothing above and below the slices of the MR, in some cases, in place. The organs are never cut."""
    box = sampler.organ_box()
    if rng.uniform() > 0.25 or box is None:
        return {"height_mm": None}
    across = sampler.grid.spacing_mm[2]
    first = max(box[0].start - int(rng.uniform(10, 60) / across), 0)
    last = min(box[0].stop + int(rng.uniform(10, 60) / across), len(image))
    image[:first] = 0
    image[last:] = 0
    return {"height_mm": round((last - first) * across, 1)}
