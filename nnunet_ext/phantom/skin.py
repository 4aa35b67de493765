"""Skin, fat, muscles and glands of face and neck, and the fixation mask above the skin."""

from __future__ import annotations

import numpy as np

from nnunet_ext.phantom.head_parameters import SKULL_MM, HeadParameters
from nnunet_ext.phantom.shapes import (
    FAR_MM,
    Shape,
    bent_tube,
    both_sides,
    capsule,
    coordinate,
    ellipsoid,
    field,
    sphere,
    union,
    vector,
)
from nnunet_ext.phantom.tissues import Layer
from nnunet_ext.phantom.waves import Waves

#: Thickness of the skin everywhere, and of skin and fat above the skull.
SKIN_MM, SCALP_MM = 2.0, 7.0


def skin_surface(parameters: HeadParameters) -> Shape:
    """Scalp, face with nose and ears, and neck. The eyelids are added later."""
    crown = ellipsoid((0, 8, 37), np.array([63, 82, 66]) + SKULL_MM + SCALP_MM)
    temples = ellipsoid((0, 0, -5), (70, 70, 60))
    face = ellipsoid((0, -38, -50), (57, 47, 68))
    cheeks = both_sides(sphere((36, -56, -34), 19))
    brow = both_sides(capsule((8, -80, 14), (34, -72, 13), 8))
    jaw = union(capsule((0, -72, -98), (0, -60, -96), 17), both_sides(capsule((16, -62, -95), (46, -12, -72), 15)))
    midface = ellipsoid((0, -56, -4), (54, 25, 34))
    nose = union(
        capsule((0, -79, 6), (0, -100, -32), 7.5, 9.5),
        capsule((0, -76, 0), (0, -88, -36), 10, 12),
        both_sides(sphere((10, -92, -37), 8)),
        blend_mm=8.0,
    )
    lips = capsule((14, -80, -66), (-14, -80, -66), 10)
    ears = both_sides(ellipsoid((75, 10, -8), (5, 15, 29)))
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


def fixation_mask(skin: Shape, rng: np.random.Generator) -> Layer:
    """A thermoplastic fixation mask, a perforated sheet over the face, 0 to 3 mm above the skin."""
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
        (skin.grown(8), field(Waves.draw(rng, (60, 120), 5)), coordinate(0), coordinate(1), coordinate(2)),
        lambda d, *rest: combine(d + 8, *rest),
    )


def soft_tissue(skin: Shape, parameters: HeadParameters) -> list[Layer]:
    """Skin, fat and the muscles and glands of face and neck."""
    muscles = [
        both_sides(ellipsoid((53, -20, -58), (8, 17, 32))),  # masseter
        both_sides(ellipsoid((66, -12, 6), (5, 28, 30))),  # temporalis
        both_sides(ellipsoid((36, -18, -42), (9, 16, 17))),  # pterygoids
        ellipsoid((0, -46, -74), (21, 28, 17)),  # tongue
        ellipsoid((0, -50, -92), (18, 22, 8)),  # floor of the mouth
        both_sides(capsule((58, 20, -38), (26, -12, -190), 10)),  # sternocleidomastoid
        both_sides(ellipsoid((19, 56, -95), (17, 17, 70))),  # semispinalis, splenius
        both_sides(ellipsoid((40, 42, -115), (10, 18, 80))),
        both_sides(ellipsoid((10, 1, -110), (8, 5, 75))),  # longus colli
        both_sides(ellipsoid((28, 72, -42), (26, 10, 22))),
        bent_tube([[14, -84, -64], [0, -88, -66], [-14, -84, -64]], 4.5),  # lips
    ]
    glands = [both_sides(ellipsoid((57, 0, -52), (8, 14, 22))), both_sides(ellipsoid((28, -36, -102), (9, 12, 12)))]
    return [
        Layer("skin", (skin,)),
        Layer("fat", (skin,), lambda d: d + SKIN_MM),
        *(Layer("muscle", (m.scaled(parameters.scale), skin), lambda d, s: np.maximum(d, s + 3.5)) for m in muscles),
        *(Layer("gland", (g.scaled(parameters.scale), skin), lambda d, s: np.maximum(d, s + 3.5)) for g in glands),
    ]
