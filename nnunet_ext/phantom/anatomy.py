"""The head of a phantom, as layers of tissue in the order of painting.

The frame of the head is LPS in mm: x to the patient's left, y to the back, z up. The eyes lie at z = 0, the ear canals at
y = 0. Measures of the skull and brain are those of an average adult, stretched per case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.eyes_and_chiasm import LID_MM, chiasm_shape, eye_side, orbits_and_chiasm
from nnunet_ext.phantom.head_parameters import LEFT, RIGHT, SIDES, HeadParameters
from nnunet_ext.phantom.shapes import Shape, sphere, union
from nnunet_ext.phantom.skin import fixation_mask, skin_surface, soft_tissue
from nnunet_ext.phantom.skull_and_brain import (
    brain_tumour,
    metal_parts,
    skull_and_brain,
    skull_base_and_airways,
    skull_cavity,
)
from nnunet_ext.phantom.small_anatomy import SmallAnatomy
from nnunet_ext.phantom.tissues import Layer


@dataclass(frozen=True)
class Anatomy:
    """A head ready to be painted.

    Attributes:
        skin: The outer surface.
        accessories: Immobilisation painted before the head, CT only.
        coarse: Large structures, smooth at the scale of 3 mm.
        fine: Small structures around the eyes and the chiasm, painted after `coarse` and at higher resolution.
        centrelines_mm: Label value -> curve `(N, 3)` inside that organ, from end to end. Only of long thin organs.
        nerve_lengths_mm: Length of each nerve from globe to chiasm, `(left, right)`.
        metal_mm: Centres of metal parts, `(N, 3)`. Empty without streaks.
    """

    skin: Shape
    accessories: tuple[Layer, ...]
    coarse: tuple[Layer, ...]
    fine: tuple[Layer, ...]
    centrelines_mm: dict[int, np.ndarray]
    nerve_lengths_mm: tuple[float, float]
    metal_mm: np.ndarray


def build_anatomy(parameters: HeadParameters, rng: np.random.Generator, small: SmallAnatomy | None = None) -> Anatomy:
    """The tissues of one head.

    Args:
        parameters: Of the head.
        rng: Draws the rest, such as the folds of the brain.
        small: Gaps behind the ears and nostrils. None for a skin without.
    """
    chiasm, factor = chiasm_shape(parameters)
    sides = {name: eye_side(parameters, name, chiasm, factor) for name in SIDES}
    lids = [sphere(s.globe_mm, s.radius_mm + LID_MM) for s in sides.values()]
    lids += [sphere(s.globe_mm + s.forward * 5.6, 7.8 + LID_MM) for s in sides.values()]
    cavity = skull_cavity(parameters)
    static_skin = skin_surface(parameters)
    closed_skin = union(static_skin, union(*lids), blend_mm=5.0)
    skin = closed_skin if small is None else small.cut_into(closed_skin, parameters.scale)
    metal = metal_parts(parameters, rng)
    return Anatomy(
        skin=skin,
        accessories=(fixation_mask(closed_skin, rng),),
        coarse=(
            *soft_tissue(skin, parameters),
            *skull_and_brain(cavity, parameters, rng),
            *skull_base_and_airways(parameters, rng),
            *(brain_tumour(parameters, rng) if parameters.tumour == "brain" else ()),
            *(Layer("metal", (sphere(m, 4.0),)) for m in metal),
        ),
        fine=orbits_and_chiasm(parameters, sides, chiasm, factor, rng),
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
