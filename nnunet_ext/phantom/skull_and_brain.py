"""Skull, brain, skull base, spine and airways, with tumours of the brain and metal."""

from __future__ import annotations

import numpy as np

from nnunet_ext.phantom.head_parameters import HeadParameters
from nnunet_ext.phantom.shapes import (
    FAR_MM,
    Shape,
    bent_tube,
    both_sides,
    capsule,
    coordinate,
    curve,
    ellipsoid,
    field,
    half_space,
    intersection,
    sphere,
    tube,
    union,
    vector,
)
from nnunet_ext.phantom.tissues import Layer
from nnunet_ext.phantom.waves import Waves


def skull_cavity(parameters: HeadParameters) -> Shape:
    """The inside of the skull, with three fossae and the spinal canal."""
    cerebrum = intersection(ellipsoid((0, 8, 37), (63, 82, 66)), half_space((0, 0, 7), (0, -0.2, -1)))
    temporal = both_sides(ellipsoid((38, 2, 6), (23, 38, 22)))
    posterior = ellipsoid((0, 42, -12), (50, 43, 32))
    cistern = ellipsoid((0, -8, 13), (20, 17, 11))
    stem = capsule((0, 14, 5), (0, 26, -50), 17, 10)
    return union(cerebrum, temporal, posterior, cistern, stem, blend_mm=8.0).scaled(parameters.scale)


def skull_and_brain(cavity: Shape, parameters: HeadParameters, rng: np.random.Generator) -> list[Layer]:
    """Skull with marrow, CSF, folded grey and white matter, cerebellum, brain stem, ventricles, deep nuclei."""
    thickness = parameters.skull_mm
    skull = cavity.grown(thickness)
    scale = parameters.scale
    cerebrum = union(
        intersection(ellipsoid((0, 8, 37), (61, 80, 64)), half_space((0, 0, 10), (0, -0.2, -1))),
        both_sides(ellipsoid((38, 2, 6), (21, 35, 20))),
        blend_mm=6.0,
    )
    callosum = ellipsoid((0, 6, 34), (30, 38, 14)).scaled(scale)
    cerebellum = union(
        both_sides(ellipsoid((20, 55, -14), (26, 26, 22))), ellipsoid((0, 55, -12), (14, 22, 20)), blend_mm=6
    )
    stem = union(
        capsule((0, 8, 18), (0, 12, 2), 14, 10),
        ellipsoid((0, 13, -10), (15, 12, 15)),
        capsule((0, 16, -20), (0, 27, -60), 8, 6),
        blend_mm=6.0,
    )
    folds = field(Waves.draw(rng, (22, 34), 16))
    folia = field(Waves.draw(rng, (9, 11), 6))
    fissure_mm = float(rng.uniform(0.6, 1.4))
    atrophy_mm = float(rng.uniform(0.0, 1.2))

    def surface(brain_mm: np.ndarray, fold: np.ndarray, x_mm: np.ndarray, callosum_mm: np.ndarray) -> np.ndarray:
        """Brain with sulci down to 16 mm and the fissure between the hemispheres, which ends at the callosum."""
        # |fold| / slope estimates the distance to the fold's midline; it widens outwards.
        depth = np.clip(1 + brain_mm / 16, 0, 1)
        sulcus = np.abs(fold) * 4.5 - (0.4 + atrophy_mm) - 1.2 * depth + 6 * (depth <= 0)
        fissure = np.maximum(np.abs(x_mm) - fissure_mm, -callosum_mm)
        return np.maximum(np.maximum(brain_mm, -sulcus), -fissure)

    middle_fossa = both_sides(ellipsoid((38, 2, 6), (26, 41, 25))).scaled(scale)

    def open_below(shell_mm: np.ndarray, y_mm: np.ndarray, z_mm: np.ndarray, middle_fossa_mm: np.ndarray) -> np.ndarray:
        """The roofs of the orbits are thinner than the vault, and the skull ends at the foramen magnum."""
        roof = np.minimum(-22 - y_mm, 4.5 - 0.2 * y_mm - z_mm)
        return np.maximum(np.minimum(np.maximum(shell_mm, roof), middle_fossa_mm), -40 - z_mm)

    fold_fields = (cerebrum.scaled(scale), folds, coordinate(0), callosum)
    ventricle_mm = float(rng.uniform(0.75, 1.4))
    lateral = union(
        both_sides(
            bent_tube(
                [[5, -24, 36], [9, -6, 46], [14, 20, 48], [24, 40, 36], [32, 26, 16], [34, 6, 6]], 4.2 * ventricle_mm
            )
        ),
        both_sides(capsule((24, 40, 36), (20, 62, 32), 4.0 * ventricle_mm, 2.0)),
    )
    deep = [
        ellipsoid((10, 9, 27), (8, 13, 8)),  # thalamus
        ellipsoid((25, -3, 26), (6, 16, 11)),  # putamen
        ellipsoid((13, -18, 32), (4, 8, 8)),  # caudate
    ]
    third = ellipsoid((0, 2, 29), (1.8 * ventricle_mm, 14, 10)).scaled(scale)
    fourth = ellipsoid((0, 33, -10), (7, 6, 10)).scaled(scale)
    return [
        Layer("cortical", (skull, coordinate(1), coordinate(2), middle_fossa), open_below),
        Layer(
            "marrow",
            (skull, coordinate(1), coordinate(2), middle_fossa),
            lambda d, *rest: np.maximum(open_below(d, *rest) + 1.7, np.abs(d + thickness / 2) - (thickness / 2 - 1.7)),
        ),
        Layer("csf", (cavity,)),
        Layer("grey", fold_fields, surface),
        Layer("white", fold_fields, lambda *f: surface(*f) + 3.2),
        Layer("grey", (cerebellum.scaled(scale),)),
        Layer("white", (cerebellum.scaled(scale), folia), lambda d, f: np.maximum(d + 3, 0.5 - 1.2 * f)),
        Layer("stem", (stem.scaled(scale),)),
        *(Layer("deep_grey", (both_sides(d).scaled(scale),)) for d in deep),
        *(Layer("csf", (v,)) for v in (lateral.scaled(scale), third, fourth)),
    ]


def skull_base_and_airways(parameters: HeadParameters, rng: np.random.Generator) -> list[Layer]:
    """Bones of face, skull base and neck, and the air in sinuses, nose, mouth, mastoids and throat."""
    s = parameters.scale
    cells = field(Waves.draw(rng, (7, 10), 8))
    sinus_size = rng.uniform(0.8, 1.15, 4)
    maxillary = ellipsoid((28, -52, -32), np.array([14, 16, 16]) * sinus_size[0])
    frontal = ellipsoid((13, -79, 24), np.array([13, 5.5, 9]) * sinus_size[1])
    sphenoid = ellipsoid((float(rng.uniform(-3, 3)), -24, -6), np.array([13, 13, 8]) * sinus_size[2])
    bones = [
        both_sides(capsule((61, 15, -14), (19, 2, -9), 10, 6)),  # petrous bone
        both_sides(ellipsoid((56, 20, -24), (11, 13, 17))),  # mastoid
        union(
            capsule((0, -3, -6), (0, 12, -36), 6), ellipsoid((0, -22, -5), (18, 17, 11)), blend_mm=5
        ),  # clivus, sphenoid
        both_sides(
            bent_tube([[6, -80, 17], [24, -77, 18], [40, -68, 14], [46, -58, 2]], 3.4)
        ),  # upper rim of the orbit
        both_sides(capsule((22, -30, -6), (36, -32, -4), 3)),  # greater wing
        both_sides(maxillary.grown(1.8)),
        both_sides(frontal.grown(2.0)),
        ellipsoid((0, -55, -54), (24, 30, 3.5)),  # hard palate
        both_sides(bent_tube([[46, -60, -16], [57, -48, -20], [64, -28, -20], [67, -4, -18]], 3.2)),  # zygoma
        both_sides(bent_tube([[53, -6, -22], [51, -10, -60], [44, -24, -86]], 4.5)),  # ramus of the mandible
        both_sides(bent_tube([[44, -24, -86], [30, -58, -94], [12, -74, -98], [0, -77, -98]], 6.0)),  # its body
        capsule((0, -84, 4), (0, -91, -14), 3.2, 2.5),  # nasal bone
        both_sides(capsule((24, -22, -40), (25, -16, -52), 2.5)),  # pterygoid plates
        ellipsoid((0, -76, -58), (18, 6, 7)),  # front of the maxilla
    ]
    arch = [[25, -46, 0], [22, -64, 0], [10, -78, 0], [0, -80, 0]]
    teeth = [both_sides(bent_tube([[x, y, z] for x, y, _ in arch], r)) for z, r in ((-64.0, 4.2), (-76.0, 4.0))]
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
        *(Layer("air", (both_sides(v).scaled(s),)) for v in (maxillary, frontal)),
        Layer("air", (sphenoid.scaled(s), coordinate(0)), lambda d, x: np.maximum(d, 0.8 - np.abs(x - 2))),
        Layer("air", (nose.scaled(s), coordinate(0), cells), turbinates),
        Layer(
            "air",
            (both_sides(ellipsoid((56, 20, -25), (8, 9, 13))).scaled(s), cells),
            lambda d, c: np.maximum(d, 0.9 - 2 * np.abs(c)),
        ),
        Layer("air", (both_sides(capsule((76, 6, -12), (54, 6, -11), 3.2)).scaled(s),)),  # ear canal
        Layer("mucosa", (throat.grown(2).scaled(s),)),
        Layer("air", (throat.scaled(s),)),
        Layer("disc", (bodies.scaled(s),)),
        Layer("bone", (bodies.scaled(s), coordinate(2)), discs),
        Layer("bone", (ring.scaled(s), coordinate(2)), arches),
        Layer("bone", (process.scaled(s), coordinate(2)), lambda d, z: np.maximum(d, np.abs((z + 58) % 19 - 9.5) - 4)),
        Layer("csf", (tube(canal, 8).scaled(s),)),
        Layer("stem", (tube(canal, 5).scaled(s),)),
    ]


def brain_tumour(parameters: HeadParameters, rng: np.random.Generator) -> list[Layer]:
    """A lobulated tumour with a necrotic core and oedema in one hemisphere, at least 20 mm above the chiasm."""
    side = rng.choice([-1, 1])
    center = np.array([side * rng.uniform(22, 40), rng.uniform(-30, 55), rng.uniform(48, 70)]) * parameters.scale
    radius = float(rng.uniform(9, 16))
    lobes = field(Waves.draw(rng, (15, 30), 8))
    body = sphere(center, radius + 9)
    return [
        Layer("oedema", (body, lobes), lambda d, f: d + 3 + 2.5 * f, beyond_mm=7.0),
        Layer("tumour", (body, lobes), lambda d, f: d + 9 + 1.2 * f),
        Layer("necrosis", (body, lobes), lambda d, f: d + 13 + 1.5 * f),
    ]


def metal_parts(parameters: HeadParameters, rng: np.random.Generator) -> np.ndarray:
    """Centres of dental fillings, or of one surgical clip at the edge of the skull."""
    if parameters.streaks == "dental":
        choice = [[25, -46, -65], [-25, -46, -65], [23, -60, -75], [-23, -60, -75]]
        return np.asarray(choice)[rng.permutation(4)[: rng.integers(1, 4)]] * parameters.scale
    if parameters.streaks == "clip":
        return np.array([[rng.choice([-1, 1]) * 66.0, -20.0, rng.uniform(0, 30)]]) * parameters.scale
    return np.empty((0, 3))
