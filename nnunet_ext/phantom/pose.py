"""Position of the head in the CT, and of the MR relative to the CT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.head_parameters import HeadParameters
from nnunet_ext.phantom.shapes import unit
from nnunet_ext.phantom.waves import deformation

TRANSFORM_FILE = "mr_to_ct.tfm"
#: Topmost to lowest point a head needs around it, as points of the head frame: nose, back, ears, crown.
EXTREMES_MM = np.array([[0, -113, -35], [0, 104, 37], [82, 8, 0], [-82, 8, 0], [0, 8, 117]], np.float64)


def rotation_matrix(euler_deg: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(euler_deg)):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class Pose:
    """Position of a head in the CT.

    A point q lies at R q + t in the world and at q + u(q) in the head frame. u is a smooth displacement.

    Attributes:
        rotation: R, `(3, 3)`.
        translation_mm: t.
        displacement_mm: u, which maps points `(..., 3)` to mm.
    """

    rotation: np.ndarray
    translation_mm: np.ndarray
    displacement_mm: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, parameters: HeadParameters, rng: np.random.Generator) -> Pose:
        """Position drawn for a head, with its own rotation and translation."""
        # Scanners put the origin anywhere. A constant far from zero makes a forgotten origin visible.
        offset = np.array([12.0, -150.0, 40.0]) + rng.uniform(-40, 40, 3)
        rotation = rotation_matrix(parameters.rotation_deg)
        return cls(rotation, offset + np.asarray(parameters.translation_mm), deformation(rng, 1.6))

    def to_head_mm(self, world_mm: np.ndarray) -> np.ndarray:
        """Points `(..., 3)` of the world in the head frame."""
        q = (world_mm.astype(np.float64) - self.translation_mm) @ self.rotation
        q = q.astype(np.float32)
        return q + self.displacement_mm(q)

    def to_world_mm(self, head_mm: np.ndarray) -> np.ndarray:
        """Points `(..., 3)` of the head frame in the world."""
        q = head_mm
        for _ in range(12):  # the displacement's slope is below 0.2, so the error shrinks at least fivefold a step
            q = head_mm - self.displacement_mm(q)
        return q @ self.rotation.T + self.translation_mm


@dataclass(frozen=True)
class Shift:
    """Position of the MR relative to the CT.

    CT point w shows at the MR point R (w + d(w) - c) + c + t. d is a cubic B-spline.

    Attributes:
        rotation: R, `(3, 3)`.
        center_mm: c, LPS.
        translation_mm: t.
        coefficients_mm: Of the B-spline, `(3, nz, ny, nx)`, component x first.
        knots_origin_mm: Position of coefficient (0, 0, 0), `(x, y, z)`.
        knots_step_mm: Distance of the coefficients, `(x, y, z)`.
    """

    rotation: np.ndarray
    center_mm: np.ndarray
    translation_mm: np.ndarray
    coefficients_mm: np.ndarray
    knots_origin_mm: np.ndarray
    knots_step_mm: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, grid: Grid) -> Shift:
        """Up to 10 degrees, 15 mm and 2 mm of bending over the field of view of the CT."""
        axis, angle = unit(rng.normal(size=3)).astype(np.float64), np.deg2rad(rng.uniform(3, 10))
        cross = np.cross(np.eye(3), axis)
        rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        low = np.asarray(grid.origin_mm) - 40  # the spline stops at its edge; keep the edge out of the picture
        extent = np.asarray(grid.end_mm) + 40 - low
        mesh = 6
        # A B-spline stays within its coefficients, so the displacement is at most sqrt(3) * 1.15 = 2 mm.
        coefficients = rng.uniform(-1.15, 1.15, (3, mesh + 3, mesh + 3, mesh + 3))
        step = extent / mesh
        center = (np.asarray(grid.origin_mm) + grid.end_mm) / 2
        translation = unit(rng.normal(size=3)).astype(np.float64) * rng.uniform(4, 15)
        return cls(rotation, center, translation, coefficients, low - step, step)

    def bend_mm(self, ct_mm: np.ndarray) -> np.ndarray:
        """Displacement d at CT points `(..., 3)`."""
        at = ((ct_mm - self.knots_origin_mm) / self.knots_step_mm)[..., ::-1]
        at = np.moveaxis(at, -1, 0)
        return np.stack(
            [map_coordinates(c, at, order=3, prefilter=False, mode="nearest") for c in self.coefficients_mm], axis=-1
        )

    def to_mr_mm(self, ct_mm: np.ndarray) -> np.ndarray:
        """CT points `(..., 3)` -> MR points."""
        moved = ct_mm + self.bend_mm(ct_mm)
        return (moved - self.center_mm) @ self.rotation.T + self.center_mm + self.translation_mm

    def to_ct_mm(self, mr_mm: np.ndarray) -> np.ndarray:
        """MR points `(..., 3)` -> CT points."""
        rigid = (mr_mm - self.center_mm - self.translation_mm) @ self.rotation + self.center_mm
        ct = rigid
        for _ in range(3):  # d changes by less than 5 % of a distance, so three steps leave under 0.001 mm
            ct = rigid - self.bend_mm(ct)
        return ct

    def to_sitk(self) -> sitk.Transform:
        """The same, as a composite of a B-spline and a rigid transform."""
        rigid = sitk.Euler3DTransform()
        rigid.SetCenter(self.center_mm.tolist())
        rigid.SetMatrix(self.rotation.ravel().tolist())
        rigid.SetTranslation(self.translation_mm.tolist())
        mesh = [n - 3 for n in self.coefficients_mm.shape[:0:-1]]
        spline = sitk.BSplineTransform(3, 3)
        spline.SetTransformDomainOrigin((self.knots_origin_mm + self.knots_step_mm).tolist())
        spline.SetTransformDomainPhysicalDimensions((self.knots_step_mm * mesh).tolist())
        spline.SetTransformDomainMeshSize(mesh)
        spline.SetParameters(self.coefficients_mm.ravel().tolist())
        return sitk.CompositeTransform([rigid, spline])  # the last one is applied first

    def record(self) -> dict:
        """Rotation, translation and largest bending, for `phantom.json`."""
        return {
            "rotation_deg": round(float(np.rad2deg(np.arccos((np.trace(self.rotation) - 1) / 2))), 3),
            "translation_mm": [round(float(v), 3) for v in self.translation_mm],
            "bend_at_most_mm": round(float(np.abs(self.coefficients_mm).max() * np.sqrt(3)), 3),
            "file": TRANSFORM_FILE,
        }


def registration_error(rng: np.random.Generator) -> tuple[Callable[[np.ndarray], np.ndarray], dict]:
    """The error that a registration leaves, about 0.5 mm and at most about 1.5 mm, and a record of it.

    It maps the position of an MR voxel to the CT point that shows there.
    """
    shift_mm = rng.normal(0, 0.25, 3).clip(-0.6, 0.6)
    bend = deformation(rng, 0.6)
    record = {"shift_mm": [round(float(v), 3) for v in shift_mm], "bend_at_most_mm": 0.6}
    return lambda m: m + (shift_mm.astype(np.float32) + bend(m)), record
