"""One synthetic torso in memory, with CT and T2w and exact labels of two glands and the duct between them.

It shows that nothing needs a head. The images end inside the body above and below, and no half mirrors the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy.spatial import cKDTree

from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.phantom.ct import add_ct_noise, couch_background
from nnunet_ext.phantom.grids import SIZES, Grid, SizeRange, draw_spacing
from nnunet_ext.phantom.mr import degrade_mr
from nnunet_ext.phantom.one_case import to_sitk
from nnunet_ext.phantom.pose import rotation_matrix

#: In the order of their label values. No name has a side, since no organ has a partner.
TORSO_ORGANS = ("Gland_Large", "Gland_Small", "Duct")
#: Channels of a case. The CT gives the grid of the labels.
TORSO_CHANNELS = ("CT", "T2")
#: Tissue -> (CT in HU, T2w in arbitrary units).
_TISSUES = {
    "air": (AIR_HU, 8.0),
    "fat": (-95.0, 560.0),
    "muscle": (52.0, 150.0),
    "liver": (62.0, 215.0),
    "gas": (-950.0, 8.0),
    "bone": (420.0, 230.0),
    "cord": (30.0, 640.0),
    "gland": (25.0, 400.0),
    "duct": (8.0, 900.0),
}
#: Half axes of the body from side to side and from front to back, and the fat below its skin.
BODY_MM, FAT_MM = (112.0, 78.0), 9.0
#: Centre and half axes along `(x, y, z)` of what the glands lie among.
_LIVER_MM = np.array([[-48.0, 8.0, 50.0], [48.0, 44.0, 38.0]])
_GAS_MM = np.array([[52.0, -32.0, -34.0], [15.0, 13.0, 30.0]])
_GLANDS_MM = np.array([[[-38.0, -28.0, -24.0], [24.0, 15.0, 20.0]], [[42.0, 4.0, 8.0], [12.0, 10.0, 14.0]]])
_SPINE_MM, _SPINE_RADIUS_MM, _CORD_RADIUS_MM = (0.0, 44.0), 20.0, 7.0
_DUCT_RADIUS_MM = (3.2, 3.8)
#: How far down and up a CT and a T2 of its own show the body.
_CT_HEIGHT_MM, _MR_HEIGHT_MM = (135.0, 150.0), (110.0, 122.0)
#: Samples along each edge of a voxel.
_SAMPLES = 2


@dataclass(frozen=True)
class TorsoCase:
    """One torso in memory.

    Attributes:
        images: `CT` and `T2`, int16.
        label: Label map on the CT's grid, uint8, values in the order of `organs`.
        record: The numbers drawn, as `phantom.json` holds it.
        mr_to_ct: Maps CT points to T2 points. None if the T2 is on the grid of the CT.
        organs: Their names.
    """

    images: dict[str, sitk.Image]
    label: sitk.Image
    record: dict
    mr_to_ct: sitk.Transform | None
    organs: tuple[str, ...] = TORSO_ORGANS


@dataclass(frozen=True)
class _Torso:
    """Shapes in the torso's own frame, mm: x to the left, y to the back, z upwards."""

    body_mm: tuple[float, float]
    glands_mm: np.ndarray
    duct: cKDTree
    duct_mm: np.ndarray
    duct_radius_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Torso:
        body_mm = tuple(float(mm) for mm in np.array(BODY_MM) * rng.uniform(0.94, 1.06, 2))
        glands = _GLANDS_MM.copy()
        glands[:, 0] += rng.uniform(-5, 5, (2, 3))
        glands[:, 1] *= rng.uniform(0.88, 1.12, (2, 3))
        (large, large_axes), (small, small_axes) = glands
        first = large + large_axes * [0.85, 0.0, 0.1]
        last = small - small_axes * [0.2, 0.85, 0.1]
        bend = (first + last) / 2 + [0.0, -22.0, 6.0] + rng.uniform(-4, 4, 3)
        t = np.linspace(0, 1, 200)[:, None]
        duct = (1 - t) ** 2 * first + 2 * t * (1 - t) * bend + t**2 * last
        return cls((body_mm[0], body_mm[1]), glands, cKDTree(duct), duct, float(rng.uniform(*_DUCT_RADIUS_MM)))

    def tissues(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index of the tissue in `_TISSUES`, and label value, at points `(..., 3)`."""
        names = list(_TISSUES)
        x, y, _ = np.moveaxis(points_mm, -1, 0)
        depth_mm = _depth_in_ellipse(x, y, self.body_mm)
        tissue = np.zeros(x.shape, np.uint8)
        organ = np.zeros(x.shape, np.uint8)
        tissue[depth_mm > 0] = names.index("fat")
        inside = depth_mm > FAT_MM
        tissue[inside] = names.index("muscle")
        for name, (centre, axes) in (("liver", _LIVER_MM), ("gas", _GAS_MM)):
            tissue[inside & _in_ellipsoid(points_mm, centre, axes)] = names.index(name)
        radius = np.hypot(x - _SPINE_MM[0], y - _SPINE_MM[1])
        tissue[radius < _SPINE_RADIUS_MM] = names.index("bone")
        tissue[radius < _CORD_RADIUS_MM] = names.index("cord")
        for value, (centre, axes) in enumerate(self.glands_mm, start=1):
            gland = _in_ellipsoid(points_mm, centre, axes)
            tissue[gland], organ[gland] = names.index("gland"), value
        low, high = self.duct_mm.min(axis=0) - self.duct_radius_mm, self.duct_mm.max(axis=0) + self.duct_radius_mm
        near = (points_mm[..., 2] > low[2]) & (points_mm[..., 2] < high[2])
        near[near] = np.all((points_mm[near] > low) & (points_mm[near] < high), axis=-1)
        distance_mm, _ = self.duct.query(points_mm[near], distance_upper_bound=self.duct_radius_mm)
        duct = near.copy()
        duct[near] = distance_mm <= self.duct_radius_mm
        tissue[duct], organ[duct] = names.index("duct"), len(TORSO_ORGANS)
        return tissue, organ


def make_torso(seed: int, case: int, *, size: str = "small", unregistered: bool = False) -> TorsoCase:
    """One torso in memory, as `make_phantoms` writes it with `site="torso"`.

    Args:
        seed: Any non-negative integer.
        case: Index of the case.
        size: A key of `SIZES`, for voxels as large as those of the heads.
        unregistered: Put the T2 on a grid of its own, shifted and turned against the CT.
    """
    rng = {name: np.random.default_rng([seed, case, k, 7]) for k, name in enumerate(("torso", "grid", "ct", "mr"))}
    torso = _Torso.draw(rng["torso"])
    turn_deg = rng["torso"].uniform(-4, 4, 3)
    rotation = rotation_matrix((float(turn_deg[0]), float(turn_deg[1]), float(turn_deg[2])))
    # Scanners put the origin anywhere. A constant far from zero makes a forgotten origin visible.
    middle_mm = np.array([14.0, -120.0, -310.0]) + rng["torso"].uniform(-40, 40, 3)

    def to_torso_mm(world_mm: np.ndarray) -> np.ndarray:
        return (world_mm - middle_mm) @ rotation

    grid = _draw_ct_grid(SIZES[size], torso, middle_mm, rng["grid"])
    top_mm = float(middle_mm[1] + torso.body_mm[1] + rng["ct"].uniform(9, 16))
    background = couch_background(
        grid, top_mm=top_mm, middle_mm=float(middle_mm[0] + rng["ct"].uniform(-8, 8)), rng=rng["ct"]
    )
    background[0, grid.coordinates_mm(1) < top_mm] = AIR_HU  # a head rest is no part of this couch
    ct, shares = _acquire(torso, grid, to_torso_mm, channel=0, background=background[0])
    add_ct_noise(ct, rng["ct"], sigma_hu=float(rng["ct"].uniform(8, 15)))

    transform = sitk.Euler3DTransform()
    transform.SetCenter(middle_mm.tolist())
    largest_mm, largest_rad = (8.0, 0.05) if unregistered else (0.6, 0.0)
    transform.SetTranslation(rng["mr"].uniform(-largest_mm, largest_mm, 3).tolist())
    transform.SetRotation(*(float(angle) for angle in rng["mr"].uniform(-largest_rad, largest_rad, 3)))
    turn, moved_mm = np.reshape(transform.GetMatrix(), (3, 3)), np.asarray(transform.GetTranslation())

    def seen_by_mr(world_mm: np.ndarray) -> np.ndarray:
        return to_torso_mm((world_mm - middle_mm - moved_mm) @ turn + middle_mm)  # the inverse: R is orthonormal

    mr_grid = _draw_mr_grid(SIZES[size], torso, middle_mm + moved_mm, rng["grid"]) if unregistered else grid
    t2, _ = _acquire(torso, mr_grid, seen_by_mr, channel=1)
    degrade_mr(t2, mr_grid, rng["mr"])

    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000
    record = {
        "spacing_mm": list(grid.spacing_mm),
        "size_voxels": list(grid.size_voxels),
        "organs_ml": {
            organ: round(float(share.sum(dtype=np.float64)) * voxel_ml, 4)
            for organ, share in zip(TORSO_ORGANS, shares, strict=True)
        },
    }
    largest = shares.argmax(axis=0).astype(np.uint8) + 1
    label = np.where(shares.max(axis=0) >= 0.5, largest, 0).astype(np.uint8)
    images = {
        "CT": to_sitk(np.clip(np.rint(ct), -1024, 3071).astype(np.int16), grid),
        "T2": to_sitk(np.clip(np.rint(t2), 0, 32767).astype(np.int16), mr_grid),
    }
    return TorsoCase(images, to_sitk(label, grid), record, transform if unregistered else None)


def _draw_ct_grid(sizes: SizeRange, torso: _Torso, middle_mm: np.ndarray, rng: np.random.Generator) -> Grid:
    """A grid with the couch below the body in it."""
    pixel, across = draw_spacing(rng, sizes.pixel_mm), draw_spacing(rng, sizes.slice_mm)
    extent = np.array([2 * torso.body_mm[0] + 34, 2 * torso.body_mm[1] + 70, rng.uniform(*_CT_HEIGHT_MM)])
    off_mm = np.array([0.0, 20.0, rng.uniform(-3, 3)])
    return _grid(extent, middle_mm + off_mm, (pixel, pixel, across))


def _draw_mr_grid(sizes: SizeRange, torso: _Torso, middle_mm: np.ndarray, rng: np.random.Generator) -> Grid:
    pixel, across = draw_spacing(rng, sizes.mr_pixel_mm), draw_spacing(rng, sizes.mr_slice_mm)
    extent = np.array([2 * torso.body_mm[0] + 24, 2 * torso.body_mm[1] + 24, rng.uniform(*_MR_HEIGHT_MM)])
    off_mm = np.array([0.0, 0.0, rng.uniform(-3, 3)])
    return _grid(extent, middle_mm + off_mm, (pixel, pixel, across))


def _grid(extent_mm: np.ndarray, centre_mm: np.ndarray, spacing_mm: tuple[float, float, float]) -> Grid:
    size = np.rint(extent_mm / spacing_mm).astype(int)
    origin = centre_mm - (size - 1) / 2 * spacing_mm
    return Grid((int(size[0]), int(size[1]), int(size[2])), spacing_mm, tuple(np.round(origin, 3).tolist()))


def _acquire(
    torso: _Torso,
    grid: Grid,
    to_torso_mm: Callable[[np.ndarray], np.ndarray],
    *,
    channel: int,
    background: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Noise-free image `(Z, Y, X)` float32, and the share of every voxel that each organ fills `(organs, Z, Y, X)`.

    Args:
        torso: Its shapes.
        grid: Of the image.
        to_torso_mm: Maps world points `(..., 3)` to the torso's frame.
        channel: Column of the tissues.
        background: Values `(Y, X)` where no body is. None is air.
    """
    values = np.array([tissue[channel] for tissue in _TISSUES.values()], np.float32)
    nx, ny, nz = grid.size_voxels
    parts = (np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5
    x, y = (
        (grid.coordinates_mm(axis)[:, None] + parts * grid.spacing_mm[axis]).ravel().astype(np.float64)
        for axis in (0, 1)
    )
    around = np.full((ny, nx), values[0]) if background is None else background
    around = around.repeat(_SAMPLES, axis=0).repeat(_SAMPLES, axis=1)
    image = np.empty((nz, ny, nx), np.float32)
    shares = np.zeros((len(TORSO_ORGANS), nz, ny, nx), np.float32)

    def means(samples: np.ndarray) -> np.ndarray:
        within = itertools.product(range(_SAMPLES), repeat=3)  # some additions are faster than a mean over short axes
        total = sum(samples[a, b::_SAMPLES, c::_SAMPLES].astype(np.float32) for a, b, c in within)
        return np.asarray(total) / np.float32(_SAMPLES**3)

    for k, z_mm in enumerate(grid.coordinates_mm(2)):
        z = float(z_mm) + parts * grid.spacing_mm[2]
        world = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], axis=-1)
        tissue, organ = torso.tissues(to_torso_mm(world).astype(np.float32))
        image[k] = means(np.where(tissue == 0, around, values[tissue]))
        for value in np.unique(organ[organ > 0]):
            shares[value - 1, k] = means(organ == value)
    return image, shares


def _in_ellipsoid(points_mm: np.ndarray, centre_mm: np.ndarray, half_axes_mm: np.ndarray) -> np.ndarray:
    inside = np.abs(points_mm[..., 2] - centre_mm[2]) < half_axes_mm[2]  # few points are that near
    if inside.any():
        inside[inside] = np.sum(((points_mm[inside] - centre_mm) / half_axes_mm) ** 2, axis=-1) < 1
    return inside


def _depth_in_ellipse(x: np.ndarray, y: np.ndarray, half_axes_mm: tuple[float, float]) -> np.ndarray:
    """Depth below an ellipse, to first order: right at its line, and nearly so within a few millimetres of it."""
    a, b = half_axes_mm
    level = np.hypot(x / a, y / b)
    slope = np.hypot(x / a**2, y / b**2) / np.maximum(level, 1e-6)
    return (1 - level) / np.maximum(slope, 1e-6)
