"""Smooth random functions of space, for the folds of a brain, the texture of tissues and the bending of a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunet_ext.phantom.grids import Grid


@dataclass(frozen=True)
class Waves:
    """A smooth random function of space, the sum of plane waves, with zero mean and unit variance.

    Attributes:
        wave_vectors_per_mm: `(N, 3)`, in radians per mm.
        phases: `(N,)`, in radians.
    """

    wave_vectors_per_mm: np.ndarray
    phases: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength_mm: tuple[float, float], n_waves: int = 12) -> Waves:
        """Waves in random directions with wavelengths uniform in the given range."""
        directions = rng.normal(size=(n_waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        k = 2 * np.pi / rng.uniform(*wavelength_mm, size=(n_waves, 1)) * directions
        return cls(k.astype(np.float32), rng.uniform(0, 2 * np.pi, n_waves).astype(np.float32))

    def __call__(self, points_mm: np.ndarray) -> np.ndarray:
        """Values at points `(..., 3)`, shape `(...)`, within ± sqrt(2 N). On a grid, `on_grid` is faster."""
        total = np.zeros(points_mm.shape[:-1], np.float32)
        for k, phase in zip(self.wave_vectors_per_mm, self.phases, strict=True):
            total += np.sin(points_mm @ k + phase)
        return total * np.float32(np.sqrt(2 / len(self.phases)))

    def on_grid(self, z_mm: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> np.ndarray:
        """The same at the points of an axis-aligned grid, `(Z, Y, X)` float32.

        Each wave is a sum of products of sines and cosines along the axes, so the grid is one matrix product.
        """
        waves = []
        for axis, mm in enumerate((x_mm, y_mm, z_mm)):
            angle = np.outer(self.wave_vectors_per_mm[:, axis].astype(np.float64), mm.astype(np.float64))
            waves.append(np.exp(1j * angle).astype(np.complex64))
        x, y, z = waves
        z = z * np.exp(1j * self.phases)[:, None]
        in_plane = (y[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        # The sine of a sum is the imaginary part of a product.
        along = np.concatenate([z.real, z.imag]).astype(np.float32)
        total = along.T @ np.concatenate([in_plane.imag, in_plane.real])
        return total.reshape(len(z_mm), len(y_mm), len(x_mm)) * np.float32(np.sqrt(2 / len(self.phases)))


def deformation(rng: np.random.Generator, amplitude_mm: float) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth random displacement, which maps points `(..., 3)` to mm, each component within the amplitude."""
    waves = [Waves.draw(rng, (100, 170), 3) for _ in range(3)]
    bound = np.float32(amplitude_mm / np.sqrt(6))  # three unit-variance waves reach at most sqrt(2 * 3)
    return lambda p: np.stack([w(p) for w in waves], axis=-1) * bound


def add_texture(image: np.ndarray, grid: Grid, rng: np.random.Generator, *, amplitude: float) -> None:
    """Add slow multiplicative variation inside tissues, in place. `image` is `(Z, Y, X)`, and air in it is zero."""
    waves = Waves.draw(rng, (12, 45), 6)
    step = [max(1, int(3 // s)) for s in grid.spacing_mm]
    z, y, x = (grid.coordinates_mm(axis)[:: step[axis]] for axis in (2, 1, 0))
    coarse = waves.on_grid(z, y, x)
    nx, ny, nz = grid.size_voxels
    rows, columns = _between(ny, step[1], len(y)), _between(nx, step[0], len(x))
    for k in range(nz):
        image[k] *= 1 + np.float32(amplitude) * (rows @ coarse[min(k // step[2], len(z) - 1)] @ columns.T)


def _between(n: int, step: int, n_nodes: int) -> np.ndarray:
    """Weights of linear interpolation, `(n, n_nodes)` float32, from a node at every `step`-th voxel to all voxels."""
    position = np.minimum(np.arange(n) / step, n_nodes - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(n_nodes)), 0).astype(np.float32)
