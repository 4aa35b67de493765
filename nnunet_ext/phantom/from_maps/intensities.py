"""Brightness of the tissues in CT, T1w and T2w, drawn per case."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nnunet_ext.phantom.from_maps.tissues import TISSUES

#: Lowest and highest value: CT in HU, T1 and T2 relative to white matter. Common textbook knowledge.
REALISTIC: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "air": ((-1000, -1000), (0.0, 0.01), (0.0, 0.01)),
    "skin": ((20, 60), (0.55, 0.8), (0.6, 0.8)),
    "fat": ((-110, -70), (1.6, 2.1), (1.3, 1.6)),
    "muscle": ((50, 65), (0.55, 0.7), (0.6, 0.8)),
    "fat_and_muscle": ((10, 30), (0.8, 1.1), (0.8, 1.0)),  # in maps it is divided
    "mucosa": ((30, 45), (0.6, 0.8), (1.6, 2.6)),
    "bone": ((900, 1500), (0.05, 0.1), (0.05, 0.1)),
    "marrow": ((80, 400), (0.6, 1.2), (0.5, 0.9)),
    "csf": ((0, 12), (0.2, 0.3), (3.0, 4.0)),
    "white_matter": ((25, 32), (1.0, 1.0), (1.0, 1.0)),
    "grey_matter": ((35, 42), (0.65, 0.8), (1.3, 1.5)),
    "deep_grey": ((33, 40), (0.78, 0.9), (1.1, 1.25)),
    "brain_stem": ((26, 34), (0.9, 1.0), (0.95, 1.1)),
    "choroid_plexus": ((35, 45), (0.5, 0.7), (1.8, 2.4)),
    "artery": ((36, 50), (0.1, 0.6), (0.1, 0.3)),
    "vein": ((45, 60), (0.3, 0.7), (0.2, 0.6)),
    "eyes": ((5, 15), (0.2, 0.3), (2.5, 3.5)),  # in maps they are drawn anew
    "optic_nerve": ((30, 40), (0.85, 0.95), (0.9, 1.2)),
    "optic_chiasm": ((32, 38), (0.85, 0.95), (1.1, 1.3)),
    "lid": ((20, 60), (0.55, 0.8), (0.6, 0.8)),
    "sclera": ((40, 50), (0.45, 0.55), (0.45, 0.55)),
    "vitreous": ((5, 15), (0.2, 0.3), (2.5, 3.5)),
    "lens": ((65, 100), (0.6, 0.9), (0.4, 0.5)),
    "sheath": ((8, 20), (0.3, 0.5), (2.0, 3.2)),
    "implant": ((110, 260), (0.05, 0.3), (0.05, 0.3)),
}
#: T1 and T2 vary by this share between scanners and patients, beyond the ranges.
SCANNER_SPREAD = 0.07
#: Value of white matter in a noise-free MR.
MR_WHITE_MATTER = 640.0
FAT_SUPPRESSION_CHANCE = {"T1": 0.3, "T2": 0.45}
CONTRAST_AGENT_CHANCE = 0.4
#: What a contrast agent does to T1.
ENHANCEMENT = {
    "artery": (2.0, 5.0),
    "vein": (2.5, 4.5),
    "mucosa": (1.5, 2.2),
    "choroid_plexus": (1.6, 2.4),
    "muscle": (1.1, 1.4),
    "skin": (1.0, 1.2),
    "lid": (1.0, 1.2),
}
#: Domain randomisation as SynthSeg has it: mean and standard deviation of each tissue.
RANDOM_MEAN, RANDOM_SD, RANDOM_WHITE_MATTER = (25.0, 225.0), (5.0, 25.0), 130.0


@dataclass(frozen=True)
class Contrast:
    """Values of the tissue codes in one image.

    Attributes:
        means: Of each tissue, `(n_tissues,)`.
        deviations: Within each tissue, from voxel to voxel.
        record: What was drawn, in words and numbers.
    """

    means: np.ndarray
    deviations: np.ndarray
    record: dict = field(default_factory=dict)


def draw_ct_contrast(rng: np.random.Generator) -> Contrast:
    """HU of the tissues. Only bone and marrow vary from voxel to voxel, beyond noise."""
    values = np.array([rng.uniform(*REALISTIC[name][0]) for name in TISSUES])
    deviations = np.zeros(len(TISSUES))
    deviations[TISSUES.index("bone")], deviations[TISSUES.index("marrow")] = 180, 90
    return Contrast(values, deviations)


def draw_mr_contrast(rng: np.random.Generator, channel: str, kind: str) -> Contrast:
    """Values of the tissues in T1 or T2.

    Args:
        rng: Draws them.
        channel: "T1" or "T2".
        kind: "realistic", or "random" for tissues that have any brightness.
    """
    if kind == "random":
        scale = MR_WHITE_MATTER / RANDOM_WHITE_MATTER
        values, deviations = rng.uniform(*RANDOM_MEAN, len(TISSUES)), rng.uniform(*RANDOM_SD, len(TISSUES))
        values[0], deviations[0] = 0.0, 0.0
        return Contrast(values * scale, deviations * scale, {"contrast": "random"})
    column = 1 if channel == "T1" else 2
    ranges = [REALISTIC[name][column] for name in TISSUES]
    spread = np.exp(rng.normal(0, SCANNER_SPREAD, len(TISSUES)))
    values = np.array([rng.uniform(*r) for r in ranges]) * spread * MR_WHITE_MATTER
    record: dict = {"contrast": "realistic", "fat_suppression": None, "contrast_agent": False}
    if rng.uniform() < FAT_SUPPRESSION_CHANCE[channel]:
        left = float(rng.uniform(0.06, 0.3))
        for name in ("fat", "marrow"):
            values[TISSUES.index(name)] *= left
        record["fat_suppression"] = round(1 - left, 3)
    if channel == "T1" and rng.uniform() < CONTRAST_AGENT_CHANCE:
        for name, factor in ENHANCEMENT.items():
            values[TISSUES.index(name)] *= rng.uniform(*factor)
        record["contrast_agent"] = True
    return Contrast(values, values * 0.03, record)
