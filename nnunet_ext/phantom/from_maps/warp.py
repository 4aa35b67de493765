"""Pose and shape of one case: the head of a person turned, stretched and bent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_ext.phantom.waves import Waves

#: The map from image to head changes volumes by no more than this, at every voxel. 0.2 is the limit at which shapes fold.
JACOBIAN_RANGE = (0.3, 3.0)
#: Largest displacement of the two random bends along each axis, and their wavelengths.
BENDS_MM = ((4.5, (90.0, 180.0)), (1.6, (40.0, 75.0)))
#: Each bend is a sum of so many plane waves.
N_WAVES = 4


@dataclass(frozen=True)
class Bend:
    """A smooth random displacement, one function of space per axis."""

    waves: tuple[Waves, Waves, Waves]
    amplitude_mm: float

    def __call__(self, points_mm: np.ndarray) -> np.ndarray:
        """Displacement at points `(..., 3)`, each component within the amplitude."""
        bound = np.float32(self.amplitude_mm / np.sqrt(2 * N_WAVES))
        return np.stack([wave(points_mm) for wave in self.waves], axis=-1) * bound


@dataclass(frozen=True)
class Warp:
    """Place of a head in the image.

    A point w of the image shows the point A (w - t) + u(A (w - t)) of the head.

    Attributes:
        matrix: A, the inverse of turn, scale and shear.
        translation_mm: t, where the middle of the chiasm lies, but for u.
        bends: Parts of u.
        strength: Factor of u.
    """

    matrix: np.ndarray
    translation_mm: np.ndarray
    bends: tuple[Bend, ...]
    strength: float = 1.0

    def displacement_mm(self, points_mm: np.ndarray) -> np.ndarray:
        """u at points `(..., 3)`."""
        total = np.zeros(points_mm.shape, np.float32)
        for bend in self.bends:
            total += bend(points_mm)
        return total * np.float32(self.strength)

    def to_head_mm(self, world_mm: np.ndarray) -> np.ndarray:
        """Points `(..., 3)` of the image in the frame of the head."""
        q = ((world_mm - self.translation_mm) @ self.matrix.T).astype(np.float32)
        return q + self.displacement_mm(q)

    def to_world_mm(self, head_mm: np.ndarray) -> np.ndarray:
        """Points `(..., 3)` of the head in the image, to 0.001 mm."""
        head = np.asarray(head_mm, np.float32)
        q = head
        for _ in range(60):
            step = head - self.displacement_mm(q) - q
            q = q + step
            if np.abs(step).max(initial=0) < 2e-4:
                break
        return q @ np.linalg.inv(self.matrix).T + self.translation_mm

    def jacobian(self, world_mm: np.ndarray, step_mm: float = 0.5) -> np.ndarray:
        """Determinant of the map from image to head at points `(..., 3)`, shape `(...)`."""
        columns = []
        for axis in range(3):
            shift = np.zeros(3)
            shift[axis] = step_mm
            columns.append((self.to_head_mm(world_mm + shift) - self.to_head_mm(world_mm - shift)) / (2 * step_mm))
        return np.linalg.det(np.stack(columns, axis=-1).astype(np.float64))


def draw_warp(rng: np.random.Generator, rotation: np.ndarray, *, deformed: bool = True) -> Warp:
    """A random warp that turns a head by `rotation` and folds nothing. A head that is not `deformed` is only turned."""
    scale = rng.uniform(0.92, 1.05) * rng.uniform(0.96, 1.04, 3)
    shear = np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3)) * (1 - np.eye(3))
    matrix = np.linalg.inv(rotation @ shear @ np.diag(scale))
    # Scanners put the origin anywhere. A constant far from zero makes a forgotten origin visible.
    translation = np.array([12.0, -150.0, 40.0]) + rng.uniform(-40, 40, 3)
    strength = float(rng.uniform(0.2, 1.0))
    if not deformed:
        matrix, strength = np.linalg.inv(rotation), 0.0
    bends = tuple(
        Bend((*(Waves.draw(rng, wavelengths, N_WAVES) for _ in range(3)),), amplitude)  # type: ignore[arg-type]
        for amplitude, wavelengths in BENDS_MM
    )
    return unfolded(Warp(matrix, translation, bends, strength))


def unfolded(warp: Warp) -> Warp:
    """The same with a weaker bend, if it would change a volume by more than `JACOBIAN_RANGE` allows."""
    axis = np.arange(-160, 161, 8.0)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1) + warp.translation_mm
    while True:
        jacobian = warp.jacobian(points, 2.0)
        if jacobian.min() > JACOBIAN_RANGE[0] and jacobian.max() < JACOBIAN_RANGE[1]:
            return warp
        warp = Warp(warp.matrix, warp.translation_mm, warp.bends, 0.8 * warp.strength)
