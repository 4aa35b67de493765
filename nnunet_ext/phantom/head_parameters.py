"""The numbers drawn for the head of one case: its pose, the sizes of its organs, and its findings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_ext.phantom.shapes import unit

LEFT, RIGHT = "left", "right"
SIDES = {LEFT: 1, RIGHT: -1}  # sign of x in LPS
#: Mean thickness of the skull.
SKULL_MM = 6.5
#: Chance of each finding in a case.
TUMOUR_CHANCE, STREAK_CHANCE, MISSING_EYE_CHANCE = 0.2, 0.15, 0.05


@dataclass(frozen=True)
class HeadParameters:
    """Everything drawn for one head except its textures. Pairs are `(left, right)`.

    Findings that a head does not have are None.

    Attributes:
        tumour: "brain" or "orbit".
        streaks: "dental" or "clip".
        missing_eye: "left" or "right".
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
        """One random head, turned by up to 10 degrees, moved by up to 15 mm, with organs as large as an adult's."""
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
