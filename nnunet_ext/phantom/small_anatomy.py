"""Small anatomy at the skin that other phantoms lack: a gap behind each ear, and nostrils.

It draws from a random stream of its own, so that everything else of a phantom stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_ext.phantom.shapes import Shape, capsule, ellipsoid, union


@dataclass(frozen=True)
class SmallAnatomy:
    """What is drawn at the skin; lengths in mm, before the head is stretched.

    Attributes:
        ear_gap_mm: Half the width of the gap behind each ear, `(left, right)`.
        nostril_mm: Radius of the nostrils.
    """

    ear_gap_mm: tuple[float, float]
    nostril_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> SmallAnatomy:
        left, right, nostril = rng.uniform([3, 3, 3], [6, 6, 4.5]).tolist()
        return cls((left, right), nostril)

    def cut_into(self, skin: Shape, scale: tuple[float, float, float]) -> Shape:
        """The skin with the gaps and nostrils cut out of it."""
        gaps = [
            ellipsoid((sign * 72, 19, -8), (width, 12, 22))
            for sign, width in zip((1, -1), self.ear_gap_mm, strict=True)
        ]
        nostrils = [capsule((sign * 7, -92, -52), (sign * 5, -84, -36), self.nostril_mm) for sign in (1, -1)]
        openings = union(*gaps, *nostrils).scaled(scale)
        return Shape(lambda p: np.maximum(skin.distance_mm(p), -openings.distance_mm(p)), skin.low_mm, skin.high_mm)
