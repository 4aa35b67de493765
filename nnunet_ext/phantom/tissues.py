"""The tissues of a phantom, with their values in CT and MR, and the layers that are painted of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.phantom.shapes import Shape

#: Tissue -> (CT in HU, T1w, T2w in arbitrary units of a noise-free, bias-free image).
TISSUES = {
    "air": (AIR_HU, 8, 8),
    "mask": (-60, 8, 8),
    "skin": (25, 400, 200),
    "lid": (30, 420, 260),
    "fat": (-95, 900, 560),
    "muscle": (52, 340, 150),
    "gland": (30, 520, 330),
    "mucosa": (35, 380, 620),
    "nasal_soft": (35, 390, 560),
    "cortical": (1150, 60, 30),
    "marrow": (480, 430, 230),
    "bone": (720, 170, 90),
    "thin_bone": (380, 200, 140),
    "tooth": (1700, 40, 20),
    "disc": (85, 260, 160),
    "metal": (60, 0, 0),  # in MR it leaves a void; CT draws it with its streaks
    "csf": (9, 150, 920),
    "cistern": (17, 160, 880),
    "sheath": (14, 240, 780),
    "grey": (38, 470, 430),
    "white": (32, 640, 310),
    "deep_grey": (38, 520, 370),
    "stem": (34, 600, 330),
    "pituitary": (42, 560, 400),
    "vessel": (42, 110, 60),
    "nerve": (36, 560, 320),
    "chiasm": (28, 590, 300),
    "sclera": (45, 310, 220),
    "vitreous": (10, 150, 980),
    "lens": (90, 430, 140),
    "implant": (140, 130, 110),
    "tumour": (55, 560, 560),
    "necrosis": (20, 260, 820),
    "oedema": (24, 420, 660),
}
CT, T1, T2 = 0, 1, 2


@dataclass(frozen=True)
class Layer:
    """One tissue, painted over the layers before it.

    Attributes:
        tissue: Name in the tissue table of the acquisition.
        shapes: Distances the layer is made of. It is painted in the box of the first.
        combine: Maps their values to one signed distance in mm. It sees values interpolated between coarse points.
            So creases, such as those of an absolute value or a maximum, belong here and not into the shapes.
        organ: Label value painted together with the tissue, 0 if the tissue belongs to no organ.
        under_skin_mm: If set, the layer ends this far below the skin.
        beyond_mm: Reach of the layer beyond its first shape within a slice. Across slices it ends there.
    """

    tissue: str
    shapes: tuple[Shape, ...]
    combine: Callable[..., np.ndarray] = lambda d: d
    organ: int = 0
    under_skin_mm: float | None = None
    beyond_mm: float = 0.0
