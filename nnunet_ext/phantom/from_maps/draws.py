"""The numbers drawn for the head of one case: its turn, its gaze, the sizes of its organs, and its findings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nnunet_ext.phantom.head_parameters import LEFT, RIGHT

MISSING_EYE_CHANCE, PROSTHESIS_CHANCE = 0.04, 0.04
MOST_TURNED_DEG = 25.0


@dataclass(frozen=True)
class HeadDraw:
    """One head. Pairs are `(left, right)`.

    Attributes:
        rotation_deg: About x, y and z. Together at most `MOST_TURNED_DEG`.
        gaze_deg: To the left and upwards.
        squint_deg: Further turn of each eye to the left.
        globe_scale: Factor of each globe's radius.
        lens_mm: Radius and half thickness of the lenses.
        lens_depth_mm: From the front of the globe to the front of the lens.
        nerve_radius_mm: Of the nerves' own tissue.
        sheath_mm: Thickness of the sheath.
        nerve_wave_mm: How far each nerve bends sideways and upwards in the orbit.
        missing_eye: "left", "right" or None.
        prosthesis: "left", "right" or None. An implant in place of the eye.
        chiasm_scale: Factor of the chiasm's volume.
    """

    rotation_deg: tuple[float, float, float]
    gaze_deg: tuple[float, float]
    squint_deg: tuple[float, float]
    globe_scale: tuple[float, float]
    lens_mm: tuple[float, float]
    lens_depth_mm: float
    nerve_radius_mm: tuple[float, float]
    sheath_mm: float
    nerve_wave_mm: tuple[tuple[float, float], tuple[float, float]]
    missing_eye: str | None
    prosthesis: str | None
    chiasm_scale: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> HeadDraw:
        """One random head."""
        turn = rng.normal(size=3)
        turn *= rng.uniform(0, 1) ** 1.5 * MOST_TURNED_DEG / np.linalg.norm(turn)
        finding = rng.uniform()
        side = str(rng.choice([LEFT, RIGHT]))
        size = rng.uniform(0.97, 1.03)
        thick = rng.uniform(1.92, 2.15)
        return cls(
            rotation_deg=_triple(turn),
            gaze_deg=_pair(rng.uniform(-22, 22, 2)),
            squint_deg=_pair(rng.uniform(-3, 3, 2)),
            globe_scale=_pair(size * rng.uniform(0.985, 1.015, 2)),
            lens_mm=(float(rng.uniform(4.5, 5.0)), float(rng.uniform(1.85, 2.35))),
            lens_depth_mm=float(rng.uniform(3.0, 4.2)),
            nerve_radius_mm=_pair(thick * rng.uniform(1, 1.03, 2)),
            sheath_mm=float(rng.uniform(0.6, 0.9)),
            nerve_wave_mm=(_pair(rng.uniform(-1.5, 1.5, 2)), _pair(rng.uniform(-1.5, 1.5, 2))),
            missing_eye=side if finding < MISSING_EYE_CHANCE else None,
            prosthesis=side if MISSING_EYE_CHANCE <= finding < MISSING_EYE_CHANCE + PROSTHESIS_CHANCE else None,
            chiasm_scale=float(rng.uniform(0.95, 1.1)),
        )

    def of_the_person(self) -> HeadDraw:
        """The same head neither turned nor with a missing eye or a prosthesis."""
        return replace(self, rotation_deg=(0.0, 0.0, 0.0), missing_eye=None, prosthesis=None)


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
