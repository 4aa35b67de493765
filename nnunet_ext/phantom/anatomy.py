"""The head of a phantom: what is drawn for one case, and the tissues it is painted from, in the order of painting.

Frame: head-centred LPS in mm. x to the patient's left, y to the back, z up; z = 0 at the height of the eyes, y = 0 at
the ear canals. Measures of the skull and brain are those of an average adult, stretched per case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.shapes import (
    FAR_MM,
    Shape,
    Waves,
    biconvex,
    biconvex_volume_ml,
    capsule,
    curve,
    ellipsoid,
    flat_tube,
    half_space,
    intersection,
    sphere,
    tube,
    union,
    unit,
    vector,
)
from nnunet_ext.phantom.small_anatomy import SmallAnatomy

LEFT, RIGHT = "left", "right"
SIDES = {LEFT: 1, RIGHT: -1}  # sign of x in LPS
LID_MM = 2.5
SKIN_MM = 2.0
SCALP_MM = 7.0
SKULL_MM = 6.5
#: Chance of each finding in a case.
TUMOUR_CHANCE, STREAK_CHANCE, MISSING_EYE_CHANCE = 0.2, 0.15, 0.05


@dataclass(frozen=True)
class HeadParameters:
    """Everything drawn for one head except its textures; pairs are `(left, right)`.

    `tumour` is None, "brain" or "orbit"; `streaks` is None, "dental" or "clip"; `missing_eye` is None,
    "left" or "right".
    """

    scale: tuple[float, float, float]
    rotation_deg: tuple[float, float, float]
    translation_mm: tuple[float, float, float]
    gaze_deg: tuple[float, float]
    globe_radius_mm: tuple[float, float]
    lens_ml: tuple[float, float]
    nerve_length_mm: tuple[float, float]
    nerve_radius_mm: tuple[float, float]
    nerve_bend_mm: tuple[float, float]
    chiasm_ml: float
    chiasm_tilt_deg: float
    chiasm_center_mm: tuple[float, float, float]
    skull_mm: float
    tumour: str | None
    streaks: str | None
    missing_eye: str | None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> HeadParameters:
        """One random head: pose within 10 degrees and 15 mm, organs within the ranges of adult anatomy."""
        common = rng.uniform(0.95, 1.05)
        scale = common * rng.uniform(0.975, 1.025, 3)
        radius = rng.uniform(11.6, 12.2)
        length = np.clip(47.5 * common + rng.normal(0, 0.4), 46.3, 48.8)

        def pair(value: float, spread: float) -> tuple[float, float]:
            left, right = (value + rng.uniform(-spread, spread, 2)).tolist()
            return left, right

        return cls(
            scale=tuple(scale.tolist()),
            rotation_deg=tuple(np.clip(rng.normal(0, 4, 3), -10, 10).tolist()),
            translation_mm=tuple((unit(rng.normal(size=3)) * rng.uniform(0, 15)).tolist()),
            gaze_deg=tuple(rng.uniform(-14, 14, 2).tolist()),
            globe_radius_mm=pair(radius, 0.15),
            lens_ml=pair(rng.uniform(0.18, 0.225), 0.008),
            nerve_length_mm=pair(length, 0.5),
            nerve_radius_mm=pair(rng.uniform(1.6, 1.9), 0.05),
            nerve_bend_mm=pair(rng.uniform(0.4, 1.6), 0.3),
            chiasm_ml=float(rng.uniform(0.24, 0.36)),
            chiasm_tilt_deg=float(rng.uniform(20, 45)),
            chiasm_center_mm=tuple((np.array([0, -13, 12]) * scale + rng.normal(0, [0.4, 0.8, 0.8])).tolist()),
            skull_mm=float(rng.uniform(0.8, 1.2) * SKULL_MM),
            tumour=str(rng.choice(["brain", "orbit"], p=[0.7, 0.3])) if rng.random() < TUMOUR_CHANCE else None,
            streaks=str(rng.choice(["dental", "clip"])) if rng.random() < STREAK_CHANCE else None,
            missing_eye=str(rng.choice([LEFT, RIGHT])) if rng.random() < MISSING_EYE_CHANCE else None,
        )


@dataclass(frozen=True)
class Layer:
    """One tissue painted over what is there already.

    Attributes:
        tissue: Name in the tissue table of the acquisition.
        shapes: Distances the layer is made of; it is painted in the box of the first.
        combine: Maps their values to one signed distance in mm. It sees values interpolated between coarse points, so
            creases (an absolute value, a maximum) belong here and not into the shapes.
        organ: Label value painted together with the tissue, 0 where the tissue belongs to no organ.
        under_skin_mm: If set, the layer ends this far below the skin.
        beyond_mm: How far beyond its first shape the layer reaches within a slice. Across slices it ends there.
    """

    tissue: str
    shapes: tuple[Shape, ...]
    combine: Callable[..., np.ndarray] = lambda d: d
    organ: int = 0
    under_skin_mm: float | None = None
    beyond_mm: float = 0.0


@dataclass(frozen=True)
class Anatomy:
    """A head ready to be painted.

    Attributes:
        skin: The outer surface.
        accessories: Immobilisation painted before the head, CT only.
        coarse: Large structures, smooth at the scale of 3 mm.
        fine: Small structures around the eyes and the chiasm, painted after `coarse` and at higher resolution.
        centrelines_mm: Label value -> curve `(N, 3)` inside that organ, from end to end; long thin organs only.
        nerve_lengths_mm: Length of each nerve from globe to chiasm, `(left, right)`.
        metal_mm: Centres of metal parts, `(N, 3)`; empty without streaks.
    """

    skin: Shape
    accessories: tuple[Layer, ...]
    coarse: tuple[Layer, ...]
    fine: tuple[Layer, ...]
    centrelines_mm: dict[int, np.ndarray]
    nerve_lengths_mm: tuple[float, float]
    metal_mm: np.ndarray


def build_anatomy(parameters: HeadParameters, rng: np.random.Generator, small: SmallAnatomy | None = None) -> Anatomy:
    """The tissues of one head; `rng` draws only what has no parameter: folds of the brain, shapes of tumours."""
    chiasm, factor = _chiasm(parameters)
    sides = {name: _eye_side(parameters, name, chiasm, factor) for name in SIDES}
    lids = [sphere(s.globe_mm, s.radius_mm + LID_MM) for s in sides.values()]
    lids += [sphere(s.globe_mm + s.forward * 5.6, 7.8 + LID_MM) for s in sides.values()]
    cavity = _cavity(parameters)
    static_skin = _skin(cavity, parameters)
    closed_skin = union(static_skin, union(*lids), blend_mm=5.0)
    skin = closed_skin if small is None else small.cut_into(closed_skin, parameters.scale)
    metal = _metal(parameters, rng)
    return Anatomy(
        skin=skin,
        accessories=(_mask(closed_skin, rng),),
        coarse=(
            *_soft_tissue(skin, parameters),
            *_skull_and_brain(cavity, parameters, rng),
            *_skull_base_and_airways(parameters, rng),
            *(_brain_tumour(parameters, rng) if parameters.tumour == "brain" else ()),
            *(Layer("metal", (sphere(m, 4.0),)) for m in metal),
        ),
        fine=_orbits_and_chiasm(parameters, sides, chiasm, factor, rng),
        centrelines_mm={
            ORGANS.index("OpticNrv_L") + 1: sides[LEFT].nerve_mm,
            ORGANS.index("OpticNrv_R") + 1: sides[RIGHT].nerve_mm,
            # From the end of one nerve to that of the other, so that both keep touching the chiasm on thick slices.
            ORGANS.index("OpticChiasm") + 1: np.concatenate(
                [
                    np.linspace(sides[LEFT].nerve_mm[-1], parameters.chiasm_center_mm, 30),
                    np.linspace(parameters.chiasm_center_mm, sides[RIGHT].nerve_mm[-1], 30),
                ]
            ),
        },
        nerve_lengths_mm=(sides[LEFT].nerve_length_mm, sides[RIGHT].nerve_length_mm),
        metal_mm=metal,
    )


def _both(shape: Shape) -> Shape:
    """A solid on the left side together with its mirror image: what is nearer to a point is on the point's side."""
    right = shape.mirrored()
    low, high = np.minimum(shape.low_mm, right.low_mm), np.maximum(shape.high_mm, right.high_mm)

    def distance(p: np.ndarray) -> np.ndarray:
        folded = p.copy()
        np.abs(p[..., 0], out=folded[..., 0])
        return shape.distance_mm(folded)

    return Shape(distance, low, high)


def _bent(points_mm: list[list[float]], radius_mm: float) -> Shape:
    return tube(curve(points_mm, 9), radius_mm)


def _axis(index: int) -> Shape:
    """Not a solid: the coordinate itself, for layers with a regular pattern."""
    far = np.full(3, FAR_MM)
    return Shape(lambda p: p[..., index], -far, far)


def _field(waves: Waves) -> Shape:
    """Not a solid: a random function of space."""
    far = np.full(3, FAR_MM)
    return Shape(waves, -far, far)


# --------------------------------------------------------------------------------------------------- outside


def _cavity(parameters: HeadParameters) -> Shape:
    """The inside of the skull: three fossae and the spinal canal."""
    cerebrum = intersection(ellipsoid((0, 8, 37), (63, 82, 66)), half_space((0, 0, 7), (0, -0.2, -1)))
    temporal = _both(ellipsoid((38, 2, 6), (23, 38, 22)))
    posterior = ellipsoid((0, 42, -12), (50, 43, 32))
    cistern = ellipsoid((0, -8, 13), (20, 17, 11))
    stem = capsule((0, 14, 5), (0, 26, -50), 17, 10)
    return union(cerebrum, temporal, posterior, cistern, stem, blend_mm=8.0).scaled(parameters.scale)


def _skin(cavity: Shape, parameters: HeadParameters) -> Shape:
    """Scalp, face with nose and ears, neck; the eyelids are added later."""
    crown = ellipsoid((0, 8, 37), np.array([63, 82, 66]) + SKULL_MM + SCALP_MM)
    temples = ellipsoid((0, 0, -5), (70, 70, 60))
    face = ellipsoid((0, -38, -50), (57, 47, 68))
    cheeks = _both(sphere((36, -56, -34), 19))
    brow = _both(capsule((8, -80, 14), (34, -72, 13), 8))
    jaw = union(capsule((0, -72, -98), (0, -60, -96), 17), _both(capsule((16, -62, -95), (46, -12, -72), 15)))
    midface = ellipsoid((0, -56, -4), (54, 25, 34))
    nose = union(
        capsule((0, -79, 6), (0, -100, -32), 7.5, 9.5),
        capsule((0, -76, 0), (0, -88, -36), 10, 12),
        _both(sphere((10, -92, -37), 8)),
        blend_mm=8.0,
    )
    lips = capsule((14, -80, -66), (-14, -80, -66), 10)
    ears = _both(ellipsoid((75, 10, -8), (5, 15, 29)))
    neck = Shape(
        lambda p: np.maximum(
            ellipsoid((0, 26, 0), (56, 52, FAR_MM)).distance_mm(p * vector([1, 1, 0])), p[..., 2] + 35
        ),
        np.array([-56, -26, -FAR_MM]),
        np.array([56, 78, -35]),
    )
    skin = union(crown, temples, blend_mm=20.0)
    for part, blend_mm in (
        (face, 18),
        (midface, 16),
        (cheeks, 10),
        (brow, 8),
        (jaw, 14),
        (neck, 24),
        (lips, 10),
        (nose, 9),
        (ears, 6),
    ):
        skin = union(skin, part, blend_mm=blend_mm)
    return skin.scaled(parameters.scale)


def _mask(skin: Shape, rng: np.random.Generator) -> Layer:
    """A thermoplastic mask: a perforated sheet over the face, 0 to 3 mm above the skin."""
    thickness_mm = float(rng.uniform(2.0, 3.0))
    edge_mm = float(rng.uniform(5, 30))

    def combine(
        skin_mm: np.ndarray, gap: np.ndarray, x_mm: np.ndarray, y_mm: np.ndarray, z_mm: np.ndarray
    ) -> np.ndarray:
        gap_mm = np.clip(1.5 + gap, 0, 3)
        sheet = np.abs(skin_mm - gap_mm - thickness_mm / 2) - thickness_mm / 2
        hole = 1.5 - 4 * np.sin(x_mm * 0.9) * np.sin(z_mm * 0.9)
        return np.maximum(np.maximum(sheet, y_mm - edge_mm), np.minimum(-hole, 1.0))

    return Layer(
        "mask",
        (skin.grown(8), _field(Waves.draw(rng, (60, 120), 5)), _axis(0), _axis(1), _axis(2)),
        lambda d, *rest: combine(d + 8, *rest),
    )


# ------------------------------------------------------------------------------------------- coarse structures


def _soft_tissue(skin: Shape, parameters: HeadParameters) -> list[Layer]:
    """Skin, fat and the muscles and glands of face and neck."""
    muscles = [
        _both(ellipsoid((53, -20, -58), (8, 17, 32))),  # masseter
        _both(ellipsoid((66, -12, 6), (5, 28, 30))),  # temporalis
        _both(ellipsoid((36, -18, -42), (9, 16, 17))),  # pterygoids
        ellipsoid((0, -46, -74), (21, 28, 17)),  # tongue
        ellipsoid((0, -50, -92), (18, 22, 8)),  # floor of the mouth
        _both(capsule((58, 20, -38), (26, -12, -190), 10)),  # sternocleidomastoid
        _both(ellipsoid((19, 56, -95), (17, 17, 70))),  # semispinalis, splenius
        _both(ellipsoid((40, 42, -115), (10, 18, 80))),
        _both(ellipsoid((10, 1, -110), (8, 5, 75))),  # longus colli
        _both(ellipsoid((28, 72, -42), (26, 10, 22))),
        _bent([[14, -84, -64], [0, -88, -66], [-14, -84, -64]], 4.5),  # lips
    ]
    glands = [_both(ellipsoid((57, 0, -52), (8, 14, 22))), _both(ellipsoid((28, -36, -102), (9, 12, 12)))]
    return [
        Layer("skin", (skin,)),
        Layer("fat", (skin,), lambda d: d + SKIN_MM),
        *(Layer("muscle", (m.scaled(parameters.scale), skin), lambda d, s: np.maximum(d, s + 3.5)) for m in muscles),
        *(Layer("gland", (g.scaled(parameters.scale), skin), lambda d, s: np.maximum(d, s + 3.5)) for g in glands),
    ]


def _skull_and_brain(cavity: Shape, parameters: HeadParameters, rng: np.random.Generator) -> list[Layer]:
    """Skull with marrow, CSF, folded grey and white matter, cerebellum, brain stem, ventricles, deep nuclei."""
    thickness = parameters.skull_mm
    skull = cavity.grown(thickness)
    scale = parameters.scale
    cerebrum = union(
        intersection(ellipsoid((0, 8, 37), (61, 80, 64)), half_space((0, 0, 10), (0, -0.2, -1))),
        _both(ellipsoid((38, 2, 6), (21, 35, 20))),
        blend_mm=6.0,
    )
    callosum = ellipsoid((0, 6, 34), (30, 38, 14)).scaled(scale)
    cerebellum = union(_both(ellipsoid((20, 55, -14), (26, 26, 22))), ellipsoid((0, 55, -12), (14, 22, 20)), blend_mm=6)
    stem = union(
        capsule((0, 8, 18), (0, 12, 2), 14, 10),
        ellipsoid((0, 13, -10), (15, 12, 15)),
        capsule((0, 16, -20), (0, 27, -60), 8, 6),
        blend_mm=6.0,
    )
    folds = _field(Waves.draw(rng, (22, 34), 16))
    folia = _field(Waves.draw(rng, (9, 11), 6))
    fissure_mm = float(rng.uniform(0.6, 1.4))
    atrophy_mm = float(rng.uniform(0.0, 1.2))

    def surface(brain_mm: np.ndarray, fold: np.ndarray, x_mm: np.ndarray, callosum_mm: np.ndarray) -> np.ndarray:
        """Brain with sulci down to 16 mm and the fissure between the hemispheres; outside the callosum."""
        # |fold| / slope estimates the distance to the fold's midline; it widens outwards.
        depth = np.clip(1 + brain_mm / 16, 0, 1)
        sulcus = np.abs(fold) * 4.5 - (0.4 + atrophy_mm) - 1.2 * depth + 6 * (depth <= 0)
        fissure = np.maximum(np.abs(x_mm) - fissure_mm, -callosum_mm)
        return np.maximum(np.maximum(brain_mm, -sulcus), -fissure)

    middle_fossa = _both(ellipsoid((38, 2, 6), (26, 41, 25))).scaled(scale)

    def open_below(shell_mm: np.ndarray, y_mm: np.ndarray, z_mm: np.ndarray, middle_fossa_mm: np.ndarray) -> np.ndarray:
        """The roofs of the orbits are thinner than the vault, and the skull ends at the foramen magnum."""
        roof = np.minimum(-22 - y_mm, 4.5 - 0.2 * y_mm - z_mm)
        return np.maximum(np.minimum(np.maximum(shell_mm, roof), middle_fossa_mm), -40 - z_mm)

    fold_fields = (cerebrum.scaled(scale), folds, _axis(0), callosum)
    ventricle_mm = float(rng.uniform(0.75, 1.4))
    lateral = union(
        _both(
            _bent([[5, -24, 36], [9, -6, 46], [14, 20, 48], [24, 40, 36], [32, 26, 16], [34, 6, 6]], 4.2 * ventricle_mm)
        ),
        _both(capsule((24, 40, 36), (20, 62, 32), 4.0 * ventricle_mm, 2.0)),
    )
    deep = [
        ellipsoid((10, 9, 27), (8, 13, 8)),  # thalamus
        ellipsoid((25, -3, 26), (6, 16, 11)),  # putamen
        ellipsoid((13, -18, 32), (4, 8, 8)),  # caudate
    ]
    third = ellipsoid((0, 2, 29), (1.8 * ventricle_mm, 14, 10)).scaled(scale)
    fourth = ellipsoid((0, 33, -10), (7, 6, 10)).scaled(scale)
    return [
        Layer("cortical", (skull, _axis(1), _axis(2), middle_fossa), open_below),
        Layer(
            "marrow",
            (skull, _axis(1), _axis(2), middle_fossa),
            lambda d, *rest: np.maximum(open_below(d, *rest) + 1.7, np.abs(d + thickness / 2) - (thickness / 2 - 1.7)),
        ),
        Layer("csf", (cavity,)),
        Layer("grey", fold_fields, surface),
        Layer("white", fold_fields, lambda *f: surface(*f) + 3.2),
        Layer("grey", (cerebellum.scaled(scale),)),
        Layer("white", (cerebellum.scaled(scale), folia), lambda d, f: np.maximum(d + 3, 0.5 - 1.2 * f)),
        Layer("stem", (stem.scaled(scale),)),
        *(Layer("deep_grey", (_both(d).scaled(scale),)) for d in deep),
        *(Layer("csf", (v,)) for v in (lateral.scaled(scale), third, fourth)),
    ]


def _skull_base_and_airways(parameters: HeadParameters, rng: np.random.Generator) -> list[Layer]:
    """Bones of face, skull base and neck, and the air in sinuses, nose, mouth, mastoids and throat."""
    s = parameters.scale
    cells = _field(Waves.draw(rng, (7, 10), 8))
    sinus_size = rng.uniform(0.8, 1.15, 4)
    maxillary = ellipsoid((28, -52, -32), np.array([14, 16, 16]) * sinus_size[0])
    frontal = ellipsoid((13, -79, 24), np.array([13, 5.5, 9]) * sinus_size[1])
    sphenoid = ellipsoid((float(rng.uniform(-3, 3)), -24, -6), np.array([13, 13, 8]) * sinus_size[2])
    bones = [
        _both(capsule((61, 15, -14), (19, 2, -9), 10, 6)),  # petrous bone
        _both(ellipsoid((56, 20, -24), (11, 13, 17))),  # mastoid
        union(
            capsule((0, -3, -6), (0, 12, -36), 6), ellipsoid((0, -22, -5), (18, 17, 11)), blend_mm=5
        ),  # clivus, sphenoid
        _both(_bent([[6, -80, 17], [24, -77, 18], [40, -68, 14], [46, -58, 2]], 3.4)),  # upper rim of the orbit
        _both(capsule((22, -30, -6), (36, -32, -4), 3)),  # greater wing
        _both(maxillary.grown(1.8)),
        _both(frontal.grown(2.0)),
        ellipsoid((0, -55, -54), (24, 30, 3.5)),  # hard palate
        _both(_bent([[46, -60, -16], [57, -48, -20], [64, -28, -20], [67, -4, -18]], 3.2)),  # zygoma
        _both(_bent([[53, -6, -22], [51, -10, -60], [44, -24, -86]], 4.5)),  # ramus of the mandible
        _both(_bent([[44, -24, -86], [30, -58, -94], [12, -74, -98], [0, -77, -98]], 6.0)),  # its body
        capsule((0, -84, 4), (0, -91, -14), 3.2, 2.5),  # nasal bone
        _both(capsule((24, -22, -40), (25, -16, -52), 2.5)),  # pterygoid plates
        ellipsoid((0, -76, -58), (18, 6, 7)),  # front of the maxilla
    ]
    arch = [[25, -46, 0], [22, -64, 0], [10, -78, 0], [0, -80, 0]]
    teeth = [_both(_bent([[x, y, z] for x, y, _ in arch], r)) for z, r in ((-64.0, 4.2), (-76.0, 4.0))]
    nose = ellipsoid((0, -60, -27), (13, 32, 21))

    def turbinates(d: np.ndarray, x_mm: np.ndarray, cell: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum(d, 1.0 - np.abs(x_mm)), 0.6 - np.abs(cell - 0.3) * 2.2)

    spine = curve([[0, 18, -48], [0, 17, -90], [0, 22, -140], [0, 34, -220]], 12)
    canal = spine + vector([0, 17, 0])
    bodies, ring = tube(spine, 10.5), tube(canal, 12)

    def discs(d: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
        return np.maximum(d, 2.2 - np.abs((z_mm + 58) % 19 - 9.5))

    def arches(d: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
        return np.maximum(d, np.abs((z_mm + 58) % 19 - 0.0 - 9.5) - 7.0)

    processes = ellipsoid((0, 58, 0), (4, 12, FAR_MM))
    process = Shape(
        lambda p: processes.distance_mm(p * vector([1, 1, 0])), np.array([-4, 46, -FAR_MM]), np.array([4, 70, -62])
    )
    throat = union(capsule((0, -16, -34), (0, -12, -80), 8, 7), capsule((0, -12, -80), (0, -8, -220), 7, 9), blend_mm=4)
    mouth = float(rng.uniform(0.5, 3.0))
    return [
        *(Layer("bone", (b.scaled(s),)) for b in bones[:8]),
        Layer("nasal_soft", (nose.grown(1.5).scaled(s),)),
        *(Layer("bone", (b.scaled(s),)) for b in bones[8:]),
        *(
            Layer(
                "tooth",
                (t.scaled(s),),
            )
            for t in teeth
        ),
        Layer("air", (ellipsoid((0, -48, -57 - mouth), (18, 26, mouth)).scaled(s),)),
        *(Layer("air", (_both(v).scaled(s),)) for v in (maxillary, frontal)),
        Layer("air", (sphenoid.scaled(s), _axis(0)), lambda d, x: np.maximum(d, 0.8 - np.abs(x - 2))),
        Layer("air", (nose.scaled(s), _axis(0), cells), turbinates),
        Layer(
            "air",
            (_both(ellipsoid((56, 20, -25), (8, 9, 13))).scaled(s), cells),
            lambda d, c: np.maximum(d, 0.9 - 2 * np.abs(c)),
        ),
        Layer("air", (_both(capsule((76, 6, -12), (54, 6, -11), 3.2)).scaled(s),)),  # ear canal
        Layer("mucosa", (throat.grown(2).scaled(s),)),
        Layer("air", (throat.scaled(s),)),
        Layer("disc", (bodies.scaled(s),)),
        Layer("bone", (bodies.scaled(s), _axis(2)), discs),
        Layer("bone", (ring.scaled(s), _axis(2)), arches),
        Layer("bone", (process.scaled(s), _axis(2)), lambda d, z: np.maximum(d, np.abs((z + 58) % 19 - 9.5) - 4)),
        Layer("csf", (tube(canal, 8).scaled(s),)),
        Layer("stem", (tube(canal, 5).scaled(s),)),
    ]


def _brain_tumour(parameters: HeadParameters, rng: np.random.Generator) -> list[Layer]:
    """A lobulated tumour with a necrotic core and oedema in one hemisphere, at least 20 mm above the chiasm."""
    side = rng.choice([-1, 1])
    center = np.array([side * rng.uniform(22, 40), rng.uniform(-30, 55), rng.uniform(48, 70)]) * parameters.scale
    radius = float(rng.uniform(9, 16))
    lobes = _field(Waves.draw(rng, (15, 30), 8))
    body = sphere(center, radius + 9)
    return [
        Layer("oedema", (body, lobes), lambda d, f: d + 3 + 2.5 * f, beyond_mm=7.0),
        Layer("tumour", (body, lobes), lambda d, f: d + 9 + 1.2 * f),
        Layer("necrosis", (body, lobes), lambda d, f: d + 13 + 1.5 * f),
    ]


def _metal(parameters: HeadParameters, rng: np.random.Generator) -> np.ndarray:
    """Centres of dental fillings, or of one surgical clip at the edge of the skull."""
    if parameters.streaks == "dental":
        choice = [[25, -46, -65], [-25, -46, -65], [23, -60, -75], [-23, -60, -75]]
        return np.asarray(choice)[rng.permutation(4)[: rng.integers(1, 4)]] * parameters.scale
    if parameters.streaks == "clip":
        return np.array([[rng.choice([-1, 1]) * 66.0, -20.0, rng.uniform(0, 30)]]) * parameters.scale
    return np.empty((0, 3))


# --------------------------------------------------------------------------------------------- eyes and chiasm


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
    """Columns: the chiasm's own left, backward-upward and normal directions, as unit vectors of the head frame."""
    t = np.deg2rad(parameters.chiasm_tilt_deg)
    return np.array([[1, 0, 0], [0, np.cos(t), np.sin(t)], [0, -np.sin(t), np.cos(t)]], np.float32).T


def _chiasm(parameters: HeadParameters) -> tuple[Shape, float]:
    """The chiasm, an X of two flat bands, and the factor its nominal size was multiplied with to reach the volume."""

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


def _eye_side(parameters: HeadParameters, name: str, chiasm: Shape, factor: float) -> _EyeSide:
    """Place globe and nerve of one side so that the nerve has its drawn length; chiasm as from `_chiasm`."""
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
    """The four straight eye muscles: ribbons from the apex of the orbit around the globe to its front half."""
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


def _orbits_and_chiasm(
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
    ethmoid = union(_both(ellipsoid((7.5, -53, 4), (6.5, 19, 14))), blend_mm=0).scaled(scale)
    cells = _field(Waves.draw(rng, (8, 12), 8))
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
    """Half space that cuts the lateral rim of the orbit back: it lies about 12 mm behind the medial one."""
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
    """Nerve with its sheath, then lids, globe and lens; or an implant where the eye is missing."""
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


def deformation(rng: np.random.Generator, amplitude_mm: float) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth random displacement: points `(..., 3)` -> mm, each component within the amplitude."""
    waves = [Waves.draw(rng, (100, 170), 3) for _ in range(3)]
    bound = np.float32(amplitude_mm / np.sqrt(6))  # three unit-variance waves reach at most sqrt(2 * 3)
    return lambda p: np.stack([w(p) for w in waves], axis=-1) * bound
