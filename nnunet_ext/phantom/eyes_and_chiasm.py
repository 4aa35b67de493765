"""Eyes with their lenses, orbits, optic nerves, and the chiasm in its cistern. They hold the seven organs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.head_parameters import RIGHT, SIDES, HeadParameters
from nnunet_ext.phantom.shapes import (
    Shape,
    biconvex,
    biconvex_volume_ml,
    both_sides,
    capsule,
    curve,
    ellipsoid,
    field,
    flat_tube,
    half_space,
    intersection,
    sphere,
    tube,
    union,
    unit,
    vector,
)
from nnunet_ext.phantom.tissues import Layer
from nnunet_ext.phantom.waves import Waves

#: Thickness of the eyelids.
LID_MM = 2.5


@dataclass(frozen=True)
class _EyeSide:
    """Geometry of one eye and its nerve, in the head frame."""

    sign: int
    globe_mm: np.ndarray
    radius_mm: float
    forward: np.ndarray
    apex_mm: np.ndarray
    canal_mm: np.ndarray
    nerve_mm: np.ndarray
    nerve_length_mm: float


def _chiasm_axes(parameters: HeadParameters) -> np.ndarray:
    """The chiasm's own left, backward-upward and normal directions, in columns, as unit vectors of the head frame."""
    t = np.deg2rad(parameters.chiasm_tilt_deg)
    return np.array([[1, 0, 0], [0, np.cos(t), np.sin(t)], [0, -np.sin(t), np.cos(t)]], np.float32).T


def chiasm_shape(parameters: HeadParameters) -> tuple[Shape, float]:
    """The chiasm, an X of two flat bands, and the factor that brings its nominal size to the volume."""

    def band(sign: int) -> Shape:
        return flat_tube(
            curve([[sign * 6.2, -4.6, 0], [sign * 1.5, -0.6, 0], [-sign * 6.2, 4.6, 0]], 5), 1.55, (0, 1, 0), 1.35
        )

    nominal = union(band(1), band(-1), ellipsoid((0, 0, 0), (4.5, 3.4, 1.7)), blend_mm=1.0)
    step = 0.25
    axes = [np.arange(-r, r, step, dtype=np.float32) for r in (9, 8, 4)]
    inside = nominal.distance_mm(np.stack(np.meshgrid(*axes, indexing="ij"), -1)) < 0
    factor = float((parameters.chiasm_ml * 1000 / (inside.sum() * step**3)) ** (1 / 3))
    center = np.asarray(parameters.chiasm_center_mm, np.float32)
    to_local = _chiasm_axes(parameters) / np.float32(factor)
    reach = 9 * factor
    shape = Shape(
        lambda p: nominal.distance_mm((p - center) @ to_local) * np.float32(factor), center - reach, center + reach
    )
    return shape, factor


def eye_side(parameters: HeadParameters, name: str, chiasm: Shape, factor: float) -> _EyeSide:
    """Place globe and nerve of one side so that the nerve has its drawn length. The chiasm is that of `chiasm_shape`."""
    sign, index, scale = SIDES[name], list(SIDES).index(name), np.asarray(parameters.scale)
    yaw, pitch = np.deg2rad(parameters.gaze_deg)
    forward = unit([np.sin(yaw), -np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    apex = np.array([sign * 15.0, -34, 5.5]) * scale
    canal = np.array([sign * 9.5, -25, 8.5]) * scale
    end = np.asarray(parameters.chiasm_center_mm) + _chiasm_axes(parameters) @ (
        np.array([sign * 5.0, -3.7, 0]) * factor
    )
    radius, target = parameters.globe_radius_mm[index], parameters.nerve_length_mm[index]
    globe = np.array([sign * 31.5, -69, 0]) * scale
    bend = parameters.nerve_bend_mm[index]
    pull = unit(globe - apex)
    for _ in range(6):
        pole = globe - radius * unit(forward + 0.25 * sign * np.array([1.0, 0, 0]))
        sideways = unit(np.cross(pole - apex, [0, 0, 1]))
        a, b = pole + (apex - pole) * 0.36, pole + (apex - pole) * 0.7
        points = [
            globe + 0.75 * (pole - globe),
            pole,
            a + bend * (sideways + np.array([0, 0, 0.5])),
            b - bend * (sideways + np.array([0, 0, 0.7])),
        ]
        nerve = curve([*points, apex, canal, end], 61)
        outside = (np.linalg.norm(nerve - globe, axis=1) > radius) & (chiasm.distance_mm(nerve) > 0)
        steps = np.linalg.norm(np.diff(nerve, axis=0), axis=1)
        length = float(steps[outside[1:]].sum())
        globe = globe + pull * (target - length)
    return _EyeSide(sign, globe.astype(np.float32), radius, forward, apex, canal, nerve, length)


def _recti(side: _EyeSide) -> list[Shape]:
    """The four straight eye muscles, as ribbons from the apex of the orbit around the globe to its front half."""
    axis = unit(side.globe_mm - side.apex_mm)
    lateral = unit(np.cross(axis, [0, 0, 1]))
    upward = unit(np.cross(lateral, axis))
    muscles = []
    for out, wide in ((lateral, upward), (-lateral, upward), (upward, lateral), (-upward, lateral)):
        r = side.radius_mm
        path = [
            side.apex_mm + 3.5 * out,
            side.apex_mm + 0.45 * (side.globe_mm - side.apex_mm) + 11.0 * out,
            side.globe_mm - 0.45 * r * axis + (0.93 * r + 1.0) * out,
            side.globe_mm + 0.35 * r * axis + (0.94 * r + 0.2) * out,
        ]
        muscles.append(flat_tube(curve(path, 9), 1.7, wide, 2.3))
    return muscles


def _lens(side: _EyeSide, volume_ml: float) -> Shape:
    """Biconvex lens of a given volume, its equator 7.1 mm in front of the globe's centre."""
    nominal = {"radius_mm": 4.9, "front_mm": 1.9, "back_mm": 2.6}
    factor = (volume_ml / biconvex_volume_ml(**nominal)) ** (1 / 3)
    center = side.globe_mm + 7.1 * side.forward
    return biconvex(center, side.forward, **{k: v * factor for k, v in nominal.items()})


def orbits_and_chiasm(
    parameters: HeadParameters,
    sides: dict[str, _EyeSide],
    chiasm: Shape,
    factor: float,
    rng: np.random.Generator,
) -> tuple[Layer, ...]:
    """Everything around the seven organs that needs more detail than the rest of the head."""
    scale = parameters.scale
    layers: list[Layer] = []
    orbits = {
        n: union(
            capsule(s.apex_mm, s.globe_mm + 3 * unit(s.globe_mm - s.apex_mm), 4.0, 18.0),
            sphere(s.globe_mm + vector([s.sign * 1.0, 0, 0]), 18.5),
        )
        for n, s in sides.items()
    }
    rim_mm = float(np.mean([s.globe_mm[1] for s in sides.values()])) - 4.0  # bone ends here, the lids begin
    rim = half_space((0, rim_mm, 0), (0, -1, 0))
    for name, side in sides.items():
        wall = intersection(orbits[name].grown(2.2), rim)
        layers.append(Layer("bone", (intersection(wall, _open_laterally(side, rim_mm)),), under_skin_mm=3.0))
        canal = curve([side.apex_mm, side.canal_mm, side.canal_mm + (side.canal_mm - side.apex_mm) * 0.1], 4)
        layers.append(Layer("bone", (tube(canal, 4.8),)))
    ethmoid = union(both_sides(ellipsoid((7.5, -53, 4), (6.5, 19, 14))), blend_mm=0).scaled(scale)
    cells = field(Waves.draw(rng, (8, 12), 8))
    layers.append(Layer("thin_bone", (ethmoid.grown(1.0),)))
    layers.append(Layer("air", (ethmoid, cells), lambda d, c: np.maximum(d + 0.4, 0.7 - 2.2 * np.abs(c))))
    for name, side in sides.items():
        layers += _one_orbit(parameters, name, side, orbits[name], rng)
    layers += _suprasellar(parameters, sides, factor)
    for name, side in sides.items():
        layers += _one_eye(parameters, name, side)
    layers.append(Layer("chiasm", (chiasm,), organ=ORGANS.index("OpticChiasm") + 1))
    return tuple(layers)


def _open_laterally(side: _EyeSide, rim_mm: float) -> Shape:
    """Half space that cuts the lateral rim of the orbit back, so that it lies about 12 mm behind the medial one."""
    return half_space((side.globe_mm[0], rim_mm + 5, 0), (side.sign * 0.45, -1, 0))


def _one_orbit(
    parameters: HeadParameters, name: str, side: _EyeSide, orbit: Shape, rng: np.random.Generator
) -> list[Layer]:
    """Orbital fat, lacrimal gland, muscles and, in some cases, a tumour between muscle and wall."""
    globe = side.globe_mm
    layers = [
        Layer("fat", (orbit,), under_skin_mm=LID_MM),
        Layer("gland", (ellipsoid(globe + vector([side.sign * 12.5, -1, 10.5]), (3.2, 6, 4.5)),), under_skin_mm=LID_MM),
        *(Layer("muscle", (m,), under_skin_mm=LID_MM) for m in _recti(side)),
    ]
    if parameters.tumour == "orbit" and name == RIGHT:
        center = side.apex_mm + 0.45 * (globe - side.apex_mm) + vector([side.sign * 8.0, 0, -2.0])
        layers.append(Layer("tumour", (ellipsoid(center, rng.uniform(4.5, 6.5, 3)),)))
    return layers


def _suprasellar(parameters: HeadParameters, sides: dict[str, _EyeSide], factor: float) -> list[Layer]:
    """Cistern, pituitary with stalk, carotid and cerebral arteries, canal lumen, and the tracts behind the chiasm."""
    center = np.asarray(parameters.chiasm_center_mm, np.float32)
    axes = _chiasm_axes(parameters)
    cistern = union(
        ellipsoid(center + vector([0, 0, -1]), (14, 10, 7)),
        ellipsoid(center + vector([0, 10, -4]), (10, 8, 8)),
        blend_mm=4,
    )
    layers = [
        Layer("cistern", (cistern,)),
        Layer("pituitary", (ellipsoid(center + vector([0, 3, -14]), (6.5, 5, 3.5)),)),
        Layer("pituitary", (capsule(center + vector([0, 2, -1]), center + vector([0, 3, -12]), 1.1),)),
    ]
    for side in sides.values():
        sign = vector([side.sign, 1, 1])
        carotid = center + sign * vector([[8.5, 4, -17], [10.0, -4, -13], [9.5, -5, -8], [12.0, 0, -1], [21.0, 3, 0]])
        layers.append(Layer("vessel", (tube(curve(carotid, 9), [2.3] * 5 + [1.9] * 2 + [1.3] * 2),)))
        layers.append(
            Layer("sheath", (tube(curve([side.apex_mm, side.canal_mm, center + sign * vector([7, -7, -1])], 5), 2.6),))
        )
        start = center + axes @ (vector([side.sign * 5.8, 4.3, 0]) * factor)
        tract = [
            start,
            start + sign * vector([5, 5, 2.5]),
            start + sign * vector([11, 15, 5]),
            start + sign * vector([13, 24, 8]),
        ]
        layers.append(Layer("chiasm", (tube(curve(tract, 8), 1.9),)))
    return layers


def _one_eye(parameters: HeadParameters, name: str, side: _EyeSide) -> list[Layer]:
    """Nerve with its sheath, then lids, globe and lens. A missing eye has an implant instead of these."""
    index = list(SIDES).index(name)
    eye, lens, nerve = (ORGANS.index(f"{organ}_{'LR'[index]}") + 1 for organ in ("Eye", "Lens", "OpticNrv"))
    radius = parameters.nerve_radius_mm[index]
    orbital = side.nerve_mm[: int(0.62 * len(side.nerve_mm))]
    globe = union(sphere(side.globe_mm, side.radius_mm), sphere(side.globe_mm + 5.6 * side.forward, 7.8), blend_mm=1.0)
    layers = [
        Layer("sheath", (tube(orbital[::3], radius + 0.8),)),
        Layer("nerve", (tube(side.nerve_mm[::3], radius),), organ=nerve),
    ]
    if parameters.missing_eye == name:
        return [*layers, Layer("implant", (sphere(side.globe_mm, side.radius_mm - 0.5),))]
    lid_front = half_space(side.globe_mm + 3.0 * side.forward, -side.forward)
    return [
        *layers,
        Layer("lid", (intersection(globe.grown(LID_MM), lid_front),)),
        Layer("sclera", (globe,), organ=eye),
        Layer("vitreous", (globe.grown(-1.0),), organ=eye),
        Layer("lens", (_lens(side, parameters.lens_ml[index]),), organ=lens),
    ]
