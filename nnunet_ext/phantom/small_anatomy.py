"""Small anatomy at the skin that other phantoms lack: a gap behind each ear, nostrils, and hair.

It draws from a random stream of its own, so that everything else of a phantom stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.phantom.shapes import Shape, capsule, ellipsoid, union

#: In the head frame: hair grows where height + 0.8 x the way to the back exceeds this, but not below the neck's height.
HAIRLINE_MM, NECK_MM = 55.0, -60.0
#: HU above air of hair at the skin.
DENSEST_HAIR_HU = 600.0


@dataclass(frozen=True)
class SmallAnatomy:
    """What is drawn at the skin. Lengths are in mm, before the head is stretched.

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


def grow_hair(
    ct_hu: np.ndarray,
    inside: np.ndarray,
    head_mm: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
) -> None:
    """Hair on the scalp of a CT, in place: strands and air, denser near the skin. An MR does not show it.

    Args:
        ct_hu: CT, `(Z, Y, X)`.
        inside: Bool, same shape, the head.
        head_mm: Where each voxel lies in the head frame, `(Z, Y, X, 3)`.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        rng: Draws length and strands.
    """
    length_mm = rng.uniform(3.0, 9.0)
    height, back = head_mm[..., 2], head_mm[..., 1]
    scalp = (height + 0.8 * back > HAIRLINE_MM) & (height > NECK_MM)
    away_mm = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    hair = scalp & ~inside & (away_mm <= length_mm)
    strands = ndimage.gaussian_filter(rng.normal(size=ct_hu.shape), 0.7)
    density = np.clip(1 - away_mm / length_mm, 0, 1) * np.clip(0.5 + strands / strands.std(), 0, 1)
    hair_hu = AIR_HU + DENSEST_HAIR_HU * density
    ct_hu[hair] = np.maximum(ct_hu[hair], hair_hu[hair].astype(ct_hu.dtype))
