"""The body in a CT or an MR.

It is found by Otsu's threshold and morphology. `body_mask_array` needs arrays only, so the preprocessor uses it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunet_ext.cleaning.ct_body import PART_SHARE, find_ct_body
from nnunet_ext.cleaning.morphology import (
    block_mean,
    close_mask,
    coarse_factors,
    deep_parts,
    enlarge,
    fill_slices,
    grown,
    open_mask,
)
from nnunet_ext.cleaning.thresholds import as_hu, mr_level
from nnunet_ext.images.channels import is_ct
from nnunet_ext.images.checks import SMALLEST_BODY_ML, sampled
from nnunet_ext.messages import Message

#: Found on a grid of about this voxel size first, then refined in the body's box.
COARSE_SEARCH_MM = 2.5

#: One value in more than this share of the body: a mask. Real images: 2 to 4 %, in 8 bits too.
LARGEST_SHARE_OF_ONE_VALUE = 0.9
#: More of the body at the highest value: cut off there. An image limited to its 99.5th percentile has about 2 %.
LARGEST_SHARE_AT_THE_TOP = 0.05
#: What the opening takes off the skin of an MR is given back up to this far.
SKIN_REACH_MM = 6.0


# ------------------------------------------------------------------------------------------------ the body


def body_mask_array(volume: np.ndarray, *, spacing_mm: Sequence[float], is_ct: bool) -> np.ndarray:
    """The patient: skin and everything inside it, air cavities included; without couch and fixation mask.

    Args:
        volume: CT in HU (or in other units, then its own histogram gives the scale) or MR, `(Z, Y, X)`.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        is_ct: Couch and mask are looked for only in CT, see `find_ct_body`. In MR the dark skull is bridged.

    Returns:
        Bool `(Z, Y, X)`; all False where no body is found.
    """
    spacing = _checked(volume, spacing_mm)
    if is_ct:
        return find_ct_body(as_hu(volume), spacing_mm=spacing.tolist()).body
    coarse, factors = _coarse(volume, spacing)
    level = mr_level(coarse)
    mask = _find_mr(coarse, level, spacing * factors)
    if np.all(factors == 1):
        return mask
    if not mask.any():
        return np.zeros(volume.shape, dtype=bool)
    # The body's box on the fine grid, two coarse voxels wider.
    wide = ndimage.binary_dilation(mask, iterations=2)
    box = tuple(
        slice(int(s.start * f), int(min(s.stop * f, n)))
        for s, f, n in zip(ndimage.find_objects(wide.astype(np.uint8))[0], factors, volume.shape, strict=True)
    )
    result = np.zeros(volume.shape, dtype=bool)
    inner = enlarge(ndimage.binary_erosion(mask, iterations=2, border_value=1), factors, volume.shape)[box]
    close = enlarge(ndimage.binary_dilation(mask), factors, volume.shape)[box]
    result[box] = fill_slices(_parts(open_mask((volume[box] > level) & close | inner, 3.0, spacing), spacing))
    return result


def coarse_body_mask(volume: np.ndarray, *, spacing_mm: Sequence[float], is_ct: bool) -> np.ndarray:
    """The patient to `COARSE_SEARCH_MM`: many times faster than `body_mask_array`.

    Args:
        volume, spacing_mm, is_ct: As for `body_mask_array`.

    Returns:
        Bool `(Z, Y, X)`; all False where no body is found.
    """
    spacing = _checked(volume, spacing_mm)
    coarse, factors = _coarse(volume, spacing)
    return enlarge(body_mask_array(coarse, spacing_mm=spacing * factors, is_ct=is_ct), factors, volume.shape)


def _checked(volume: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    spacing = np.asarray(spacing_mm, dtype=float)
    if volume.ndim != 3 or spacing.shape != (3,) or not np.all(spacing > 0):
        raise ValueError(
            f"volume of shape {volume.shape} with spacing {spacing.tolist()} mm: three axes and sizes > 0 needed"
        )
    return spacing


def _coarse(volume: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A volume averaged to about `COARSE_SEARCH_MM`, and the voxels averaged along each axis."""
    factors = coarse_factors(volume.shape, spacing, COARSE_SEARCH_MM)
    return block_mean(volume, factors), factors


def _find_mr(volume: np.ndarray, level: float, spacing: np.ndarray) -> np.ndarray:
    tissue = volume > level
    closed = fill_slices(close_mask(tissue, 8.0, spacing))
    core = _parts(open_mask(closed, 6.0, spacing), spacing)
    return fill_slices(grown(core, tissue, SKIN_REACH_MM, spacing))


def _parts(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    return deep_parts(mask, spacing, least_share=PART_SHARE)


# ------------------------------------------------------------------------------------------- one case's channels


def check_body(name: str, array: np.ndarray, body: np.ndarray, *, voxel_ml: float) -> list[Message]:
    """Refuse an image that shows no body, or one value all over it; a message where its top is cut off.

    Args:
        name: Channel.
        array: Shape `(Z, Y, X)`.
        body: Bool, same shape: the body that was found in this image.
        voxel_ml: Volume of a voxel.

    Raises:
        ValueError: If less than `SMALLEST_BODY_ML` of body was found, or nearly all of it holds one value in an MR.
    """
    if np.count_nonzero(body) * voxel_ml < SMALLEST_BODY_ML:
        raise ValueError(f"{name} shows no body: less than {SMALLEST_BODY_ML:g} mL found; export it again")
    values, counts = np.unique(sampled(array[body]), return_counts=True)
    shares = counts / counts.sum()
    if shares.max() > LARGEST_SHARE_OF_ONE_VALUE and not is_ct(name):  # a CT may be computed from a few materials
        raise ValueError(
            f"{name} holds one value ({values[shares.argmax()]:g}) in {shares.max():.0%} of the body, as a mask does, no "
            "image; export it again"
        )
    piled_up = len(values) > 1 and counts[-1] > 5 * counts[-2]
    if piled_up and values[-1] == array.max() and shares[-1] > LARGEST_SHARE_AT_THE_TOP:
        return [
            Message("cut_off_at_the_highest_value", {"channel": name, "share": shares[-1], "value": values[-1]}),
        ]
    return []
