"""Eyes, lenses, nerves and chiasm of one case as smooth shapes in the image's own space.

Balls and tubes are drawn where the warp takes their centres, not warped themselves. So an eye is round in the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.from_maps.person import Person
from nnunet_ext.phantom.from_maps.tissues import AIR, CODE
from nnunet_ext.phantom.from_maps.warp import Warp
from nnunet_ext.phantom.grids import Grid

SCLERA_MM, LID_MM, CANAL_WALL_MM = 1.1, 2.2, 1.0
IMPLANT_SHARE = 0.85
VALUE = {organ: value for value, organ in enumerate(ORGANS, start=1)}


@dataclass(frozen=True)
class Eye:
    """One eye. `finding` is None, "missing" or "prosthesis"."""

    centre_mm: np.ndarray
    radius_mm: float
    forward: np.ndarray
    lens_centre_mm: np.ndarray
    lens_mm: tuple[float, float]
    finding: str | None

    def distance_mm(self, points_mm: np.ndarray) -> np.ndarray:
        """From the surface of the globe, negative inside."""
        return np.linalg.norm(points_mm - self.centre_mm, axis=-1) - self.radius_mm

    def in_lens(self, points_mm: np.ndarray) -> np.ndarray:
        """Whether points lie in the lens, an ellipsoid."""
        from_centre = points_mm - self.lens_centre_mm
        along = from_centre @ self.forward
        across = np.maximum((from_centre**2).sum(axis=-1) - along**2, 0)
        radius, half_thickness = self.lens_mm
        return across / radius**2 + (along / half_thickness) ** 2 <= 1


@dataclass(frozen=True)
class Nerve:
    """One optic nerve, a tube around a centreline `(N, 3)` from inside the globe into the chiasm."""

    centreline_mm: np.ndarray
    radius_mm: float
    sheath_mm: float
    length_mm: float


@dataclass(frozen=True)
class Chiasm:
    """The chiasm of the map, made smaller or larger around its middle."""

    person: Person
    warp: Warp
    scale: float
    level: float
    volume_ml: float
    low_mm: np.ndarray
    high_mm: np.ndarray

    def height(self, points_mm: np.ndarray) -> np.ndarray:
        """A smooth function at points `(N, 3)` of the image, which is above `level` inside."""
        field = self.person.chiasm
        head = self.warp.to_head_mm(points_mm) / self.scale
        index = self.person.frame.to_index(head) - field.start_voxels
        return map_coordinates(field.values, index.T, order=1, mode="constant")

    def inside(self, points_mm: np.ndarray) -> np.ndarray:
        """Whether points `(N, 3)` of the image lie in it."""
        return self.height(points_mm) >= self.level

    def fitted(self, grid: Grid) -> Chiasm:
        """The same with the level at which its voxels on a grid have its volume. It is thin, and voxels are large."""
        spacing, origin = np.asarray(grid.spacing_mm), np.asarray(grid.origin_mm)
        first = np.ceil((self.low_mm - origin) / spacing)
        counts = np.floor((self.high_mm - origin) / spacing) - first + 1
        index = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), axis=-1).reshape(-1, 3)
        heights = np.sort(self.height(origin + (first + index) * spacing))[::-1]
        n_voxels = max(round(self.volume_ml * 1000 / float(np.prod(spacing))), 1)
        level = (heights[n_voxels - 1] + heights[n_voxels]) / 2
        return replace(self, level=float(np.clip(level, 0.6 * self.level, 1.5 * self.level)))


@dataclass(frozen=True)
class OrganShapes:
    """The seven organs of one case."""

    eyes: dict[str, Eye]
    nerves: dict[str, Nerve]
    chiasm: Chiasm

    def fitted(self, grid: Grid) -> OrganShapes:
        """The same with a chiasm whose voxels on a grid have its volume."""
        return replace(self, chiasm=self.chiasm.fitted(grid))

    @property
    def box_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner of a box that holds them with lids and sheaths."""
        low, high = [self.chiasm.low_mm], [self.chiasm.high_mm]
        for eye in self.eyes.values():
            low.append(eye.centre_mm - eye.radius_mm - LID_MM)
            high.append(eye.centre_mm + eye.radius_mm + LID_MM)
        for nerve in self.nerves.values():
            low.append(nerve.centreline_mm.min(axis=0) - 5)
            high.append(nerve.centreline_mm.max(axis=0) + 5)
        return np.min(low, axis=0) - 1, np.max(high, axis=0) + 1

    def paint(self, tissues: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
        """Tissue codes at points with the organs drawn over those of the map.

        Args:
            tissues: Codes of the map at the points, `(N,)`.
            points_mm: `(N, 3)`.
        """
        painted = tissues.copy()
        for nerve in self.nerves.values():
            reach = nerve.radius_mm + nerve.sheath_mm + CANAL_WALL_MM
            at, distance = _near_curve(points_mm, nerve.centreline_mm, reach)
            before = painted[at]
            new = np.where(before == AIR, np.uint8(CODE["bone"]), before)
            new[distance < nerve.radius_mm + nerve.sheath_mm] = CODE["sheath"]
            new[distance < nerve.radius_mm] = CODE["optic_nerve"]
            painted[at] = new
        at = _in_box(points_mm, self.chiasm.low_mm, self.chiasm.high_mm)
        painted[at[self.chiasm.inside(points_mm[at])]] = CODE["optic_chiasm"]
        for eye in self.eyes.values():
            reach = eye.radius_mm + LID_MM
            at = _in_box(points_mm, eye.centre_mm - reach, eye.centre_mm + reach)
            distance = eye.distance_mm(points_mm[at])
            new = painted[at]
            if eye.finding == "missing":
                new[(distance < LID_MM) & (new == AIR)] = CODE["lid"]
            elif eye.finding == "prosthesis":
                new[(distance < LID_MM) & (new == AIR)] = CODE["lid"]
                new[distance < (IMPLANT_SHARE - 1) * eye.radius_mm] = CODE["implant"]
            else:
                new[(distance < LID_MM) & (new == AIR)] = CODE["lid"]
                new[distance <= 0] = CODE["sclera"]
                new[distance < -SCLERA_MM] = CODE["vitreous"]
                new[eye.in_lens(points_mm[at])] = CODE["lens"]
            painted[at] = new
        return painted

    def free_centrelines_mm(self) -> dict[int, np.ndarray]:
        """Label of each nerve -> the points of its centreline outside of the globe, `(N, 3)`."""
        lines = {}
        for side, nerve in self.nerves.items():
            line = nerve.centreline_mm
            lines[VALUE[f"OpticNrv_{_letter(side)}"]] = line[self.eyes[side].distance_mm(line) > 0]
        return lines

    def labels(self, points_mm: np.ndarray) -> np.ndarray:
        """Label values at points `(N, 3)`, uint8. An eye does not hold its lens."""
        found = np.zeros(len(points_mm), np.uint8)
        for side, nerve in self.nerves.items():
            at, distance = _near_curve(points_mm, nerve.centreline_mm, nerve.radius_mm)
            found[at[distance < nerve.radius_mm]] = VALUE[f"OpticNrv_{_letter(side)}"]
        at = _in_box(points_mm, self.chiasm.low_mm, self.chiasm.high_mm)
        found[at[self.chiasm.inside(points_mm[at])]] = VALUE["OpticChiasm"]
        for side, eye in self.eyes.items():
            if eye.finding is None:
                at = _in_box(points_mm, eye.centre_mm - eye.radius_mm, eye.centre_mm + eye.radius_mm)
                found[at[eye.distance_mm(points_mm[at]) <= 0]] = VALUE[f"Eye_{_letter(side)}"]
                found[at[eye.in_lens(points_mm[at])]] = VALUE[f"Lens_{_letter(side)}"]
            else:  # the nerve ends behind the socket
                at = _in_box(points_mm, eye.centre_mm - eye.radius_mm, eye.centre_mm + eye.radius_mm)
                found[at[eye.distance_mm(points_mm[at]) <= 0]] = 0
        return found


def _letter(side: str) -> str:
    return side[0].upper()


def _in_box(points_mm: np.ndarray, low_mm: np.ndarray, high_mm: np.ndarray) -> np.ndarray:
    """Indices of the points in a box."""
    return np.flatnonzero(((points_mm >= low_mm) & (points_mm <= high_mm)).all(axis=1))


def _near_curve(points_mm: np.ndarray, curve_mm: np.ndarray, reach_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the points within reach of a curve, and their distance from it. Points beyond its end are not."""
    at = _in_box(points_mm, curve_mm.min(axis=0) - reach_mm, curve_mm.max(axis=0) + reach_mm)
    distance, nearest = cKDTree(curve_mm).query(points_mm[at], distance_upper_bound=reach_mm)
    near = np.isfinite(distance)
    beyond = near & (nearest == len(curve_mm) - 1)
    beyond[beyond] = (points_mm[at[beyond]] - curve_mm[-1]) @ (curve_mm[-1] - curve_mm[-2]) > 0
    near &= ~beyond
    return at[near], distance[near]
