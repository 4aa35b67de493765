"""Labels of several atlases fused into one label map, by STAPLE and by weighted voting.

An atlas that lacks an organ has no say on it. Nobody knows whether it was not there or not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

#: STAPLE looks at voxels so near to where an atlas sees the organ. What it finds depends on how much background it sees.
NEAR_MM = 5.0

#: Of one atlas: organ -> share in each voxel, `(Z, Y, X)`.
Shares = Mapping[str, np.ndarray]


def vote(
    seen: Sequence[Shares], weights: Sequence[float], organs: Mapping[str, int], shape: Sequence[int]
) -> np.ndarray:
    """Label map `(Z, Y, X)` by the weighted mean of what the atlases see.

    The largest mean wins, background's being what is left. At a tie an organ goes before background, the first one before
    the others.

    Args:
        seen: One per atlas.
        weights: One per atlas.
        organs: Organ -> label value.
        shape: Of the result.
    """
    means: dict[str, np.ndarray] = {}
    for organ in organs:
        voters = [(weight, shares[organ]) for weight, shares in zip(weights, seen, strict=True) if organ in shares]
        if voters:
            total = sum(weight for weight, _ in voters)
            means[organ] = np.sum([np.float32(weight / total) * share for weight, share in voters], axis=0)
    background = np.float32(1.0) - np.sum([np.zeros(shape, np.float32), *means.values()], axis=0)
    return _largest(means, organs, np.maximum(background, 1e-6), shape)


def staple(
    seen: Sequence[Shares], organs: Mapping[str, int], shape: Sequence[int], *, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Label map `(Z, Y, X)` by STAPLE, organ by organ.

    An atlas sees an organ in a voxel of which it fills half. STAPLE weighs the atlases by how well they agree with all of
    them. A voxel is an organ's if its probability is one half or more. If several organs' are, the largest wins.

    Args:
        seen, organs, shape: As for `vote`.
        spacing_mm: Voxel size along `(Z, Y, X)`.

    Source:
        Warfield et al. 2004, doi:10.1109/TMI.2004.828354, as SimpleITK has it.
    """
    probabilities = {}
    margin = np.ceil(NEAR_MM / np.asarray(spacing_mm)).astype(int)
    for organ in organs:
        masks = [shares[organ] >= 0.5 for shares in seen if organ in shares]
        drawn = np.logical_or.reduce(masks) if masks else np.zeros(shape, bool)
        if not drawn.any():
            continue
        box = tuple(
            slice(max(0, part.start - m), min(n, part.stop + m))
            for part, m, n in zip(ndimage.find_objects(drawn.view(np.uint8))[0], margin, shape, strict=True)
        )
        images = [sitk.GetImageFromArray(mask[box].astype(np.uint8)) for mask in masks]
        found = np.zeros(shape, np.float32)
        # One atlas is believed. STAPLE has nothing to compare it with, nor has it where all agree.
        same = all(np.array_equal(mask, masks[0]) for mask in masks)
        found[box] = masks[0][box] if same else np.nan_to_num(sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)))
        probabilities[organ] = found
    return _largest(probabilities, organs, np.full(shape, 0.5, np.float32), shape)


def _largest(values: Shares, organs: Mapping[str, int], background: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Label of the organ of the largest value in each voxel, 0 if that of the background is larger."""
    result = np.zeros(shape, np.int32)
    best = np.nextafter(background, np.float32(-1), dtype=np.float32)
    for organ, value in values.items():
        wins = value > best
        result[wins] = organs[organ]
        best = np.where(wins, value, best)
    return result
