"""Where the organs of one case lie: eyes with their gaze, nerves from there through the map, and the chiasm."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from nnunet_ext.phantom.from_maps.draws import HeadDraw
from nnunet_ext.phantom.from_maps.organs import Chiasm, Eye, Nerve, OrganShapes
from nnunet_ext.phantom.from_maps.person import Person
from nnunet_ext.phantom.from_maps.warp import Warp
from nnunet_ext.phantom.head_parameters import SIDES
from nnunet_ext.phantom.shapes import unit

#: Volumes of globe and chiasm stay in these ranges.
GLOBE_RADIUS_MM, CHIASM_ML = (10.6, 12.5), (0.190, 0.330)
#: Distance of the points of a nerve's centreline.
STEP_MM = 0.4


def place_organs(person: Person, warp: Warp, draw: HeadDraw) -> OrganShapes:
    """The organs of a person in the image of one case."""
    volume_change = float(warp.jacobian(np.asarray(warp.to_world_mm(np.zeros(3)))))
    volume = float(np.clip(person.chiasm.volume_ml / volume_change * draw.chiasm_scale, *CHIASM_ML))
    scale = (volume * volume_change / person.chiasm.volume_ml) ** (1 / 3)
    eyes = {side: _place_eye(person, warp, draw, side) for side in SIDES}
    nerves = {side: _place_nerve(person, warp, draw, side, eyes[side], scale) for side in SIDES}
    shape = np.array(person.chiasm.values.shape)
    corners = np.stack(np.meshgrid(*zip(np.zeros(3), shape - 1, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
    corners_mm = person.frame.to_head_mm(corners + person.chiasm.start_voxels) * scale
    world = warp.to_world_mm(corners_mm)
    return OrganShapes(
        eyes, nerves, Chiasm(person, warp, scale, person.chiasm.level, volume, world.min(axis=0), world.max(axis=0))
    )


def _turned(warp: Warp) -> np.ndarray:
    """The turn in a warp, without scale and shear, from head to image."""
    u, _, v = np.linalg.svd(np.linalg.inv(warp.matrix))
    return u @ v


def _place_eye(person: Person, warp: Warp, draw: HeadDraw, side: str) -> Eye:
    index = list(SIDES).index(side)
    globe = person.globes[side]
    centre = warp.to_world_mm(globe.centre_mm)
    local = float(warp.jacobian(centre)) ** (-1 / 3)
    mean_radius = float(np.mean([g.radius_mm for g in person.globes.values()]))
    radius = float(np.clip(mean_radius * local * draw.globe_scale[index], *GLOBE_RADIUS_MM))
    # A larger globe reaches further back, not further out of the face.
    backwards = unit(_turned(warp) @ unit(person.nerves_mm[side][len(person.nerves_mm[side]) // 2] - globe.centre_mm))
    centre = centre + (radius - globe.radius_mm * local) * backwards.astype(np.float64)
    yaw, pitch = np.deg2rad([draw.gaze_deg[0] + draw.squint_deg[index], draw.gaze_deg[1]])
    forward = unit(_turned(warp) @ [np.sin(yaw) * np.cos(pitch), -np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    lens_radius, half_thickness = draw.lens_mm
    ahead = radius - draw.lens_depth_mm - half_thickness
    finding = "missing" if draw.missing_eye == side else "prosthesis" if draw.prosthesis == side else None
    lens = centre + ahead * forward
    return Eye(centre, radius, forward.astype(np.float64), lens, (lens_radius, half_thickness), finding)


def _place_nerve(person: Person, warp: Warp, draw: HeadDraw, side: str, eye: Eye, chiasm_scale: float) -> Nerve:
    """The course in the map, moved to where the eye of this case has its back, and bent a little in the orbit."""
    sign, index = SIDES[side], list(SIDES).index(side)
    course = person.nerves_mm[side]
    share = np.linspace(0, 1, len(course))
    ending = np.clip((share - 0.75) / 0.25, 0, 1)[:, None]
    course = course * (1 + ending * (chiasm_scale - 1))  # the chiasm's middle is the origin
    world = warp.to_world_mm(course)
    turned = _turned(warp)
    nasal = turned @ [-float(sign), 0, 0]
    backward = unit(-eye.forward + 0.22 * nasal).astype(np.float64)
    back = eye.centre_mm + eye.radius_mm * backward
    first = int(np.searchsorted(share, 0.42))
    wave = np.asarray(draw.nerve_wave_mm[index])
    bulge = np.sin(np.pi * np.clip((share - 0.2) / 0.4, 0, 1))[:, None] * (
        wave[0] * turned[:, 0] + wave[1] * turned[:, 2]
    )
    points = np.concatenate(
        [[eye.centre_mm + 0.75 * (back - eye.centre_mm), back + 2.0 * backward], (world + bulge)[first::4]]
    )
    if (len(course) - 1 - first) % 4:
        points = np.concatenate([points, world[-1:]])
    centreline = _smooth_curve(points)
    steps = np.linalg.norm(np.diff(centreline, axis=0), axis=1)
    length = float(steps[eye.distance_mm(centreline[1:]) > 0].sum())
    if eye.finding is not None:
        centreline = centreline[eye.distance_mm(centreline) > 0]
    return Nerve(centreline, draw.nerve_radius_mm[index], draw.sheath_mm, length)


def _smooth_curve(points_mm: np.ndarray) -> np.ndarray:
    """Points at equal distances of `STEP_MM` on a smooth curve through some points."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points_mm, axis=0), axis=1))])
    spline = CubicSpline(along, points_mm)
    fine = spline(np.linspace(0, along[-1], int(along[-1] / 0.1)))
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    even = np.linspace(0, travelled[-1], int(np.ceil(travelled[-1] / STEP_MM)) + 1)
    return np.stack([np.interp(even, travelled, fine[:, axis]) for axis in range(3)], axis=1)
