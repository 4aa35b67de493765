"""The body in a CT or an MR.

It is found by Otsu's threshold and morphology. `body_mask_array` needs arrays only, so the preprocessor uses it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunet_ext.cleaning.fixation_mask import without_sheet
from nnunet_ext.cleaning.morphology import block_mean, close_mask, deepest, enlarge, fill_slices, grown, open_mask
from nnunet_ext.cleaning.thresholds import BONE_HU, CORE_THRESHOLD_HU, body_thresholds
from nnunet_ext.images.channels import is_ct
from nnunet_ext.images.checks import SMALLEST_BODY_ML, sampled
from nnunet_ext.messages import Message

#: Found on a grid of about this voxel size first, then refined in the head's box.
COARSE_SEARCH_MM = 2.5

#: One value in more than this share of the body: a mask of the head. Real images: 2 to 4 %, in 8 bits too.
LARGEST_SHARE_OF_ONE_VALUE = 0.9
#: More of the body at the highest value: cut off there. An image limited to its 99.5th percentile has about 2 %.
LARGEST_SHARE_AT_THE_TOP = 0.05
#: Couch shells and perforated masks: an opening of this width cuts them off. Wider ones cut noses and lids.
SHEET_MM = 3.0
#: What the opening takes off skin and thin walls is given back up to this far.
EDGE_MM = 1.5
#: Up to this far, what is thicker than a mask (2 to 3 mm) is given back too: ears, sinuses behind a thin wall.
SKIN_REACH_MM = 6.0
THICK_MM = 4.5


# ------------------------------------------------------------------------------------------------ the body


def body_mask_array(volume: np.ndarray, *, spacing_mm: Sequence[float], is_ct: bool) -> np.ndarray:
    """The patient: skin and everything inside it, air cavities included; without couch and fixation mask.

    Args:
        volume: CT in HU (or in other units, then the threshold comes from its own histogram) or MR, `(Z, Y, X)`.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        is_ct: Couch and mask are looked for only in CT. In MR the dark skull is bridged.

    Returns:
        Bool `(Z, Y, X)`; all False where no body is found.

    Method: threshold (Otsu), opening by a cube wider than a mask is thick, the component with the deepest inside (a
    couch is wider than a head, never deeper), what the opening took from skin and thick parts given back, holes
    filled slice by slice along each of the three axes. Large volumes are searched on a coarse grid and refined inside
    the head's box. A mask that lies on the skin comes off by its mass, see `without_sheet`; that needs HU.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    coarse, factors, (core_level, level) = _coarse(volume, spacing, is_ct)
    find = _find_ct if is_ct else _find_mr
    mask = find(coarse, core_level, level, spacing * factors)
    in_hu = is_ct and float(coarse.min()) <= -500.0
    if np.all(factors == 1):
        return without_sheet(mask, volume, spacing) if in_hu else mask
    if not mask.any():
        return np.zeros(volume.shape, dtype=bool)

    # The head's box on the fine grid, two coarse voxels wider.
    wide = ndimage.binary_dilation(mask, iterations=2)
    box = tuple(
        slice(int(s.start * f), int(min(s.stop * f, n)))
        for s, f, n in zip(ndimage.find_objects(wide.astype(np.uint8))[0], factors, volume.shape, strict=True)
    )
    near = enlarge(wide, factors, volume.shape)[box]
    result = np.zeros(volume.shape, dtype=bool)
    if is_ct:
        fine = np.where(near, volume[box], np.asarray(volume[box].min(), dtype=volume.dtype))
        result[box] = find(fine, core_level, level, spacing)
        if in_hu:
            result = without_sheet(result, volume, spacing)
    else:
        inner = enlarge(ndimage.binary_erosion(mask, iterations=2, border_value=1), factors, volume.shape)[box]
        close = enlarge(ndimage.binary_dilation(mask), factors, volume.shape)[box]
        result[box] = fill_slices(deepest(open_mask((volume[box] > level) & close | inner, 3.0, spacing), spacing))
    return result


def coarse_body_mask(volume: np.ndarray, *, spacing_mm: Sequence[float], is_ct: bool) -> np.ndarray:
    """The patient to `COARSE_SEARCH_MM`: many times faster than `body_mask_array`.

    Args:
        volume, spacing_mm, is_ct: As for `body_mask_array`.

    Returns:
        Bool `(Z, Y, X)`; all False where no body is found.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    coarse, factors, levels = _coarse(volume, spacing, is_ct)
    return enlarge((_find_ct if is_ct else _find_mr)(coarse, *levels, spacing * factors), factors, volume.shape)


def _coarse(volume: np.ndarray, spacing: np.ndarray, is_ct: bool) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """A volume averaged to about `COARSE_SEARCH_MM`, the voxels averaged along each axis, and its `body_thresholds`."""
    if volume.ndim != 3 or spacing.shape != (3,) or not np.all(spacing > 0):
        raise ValueError(
            f"volume of shape {volume.shape} with spacing {spacing.tolist()} mm: three axes and sizes > 0 needed"
        )
    factors = np.maximum(1, (COARSE_SEARCH_MM / spacing + 0.01).astype(int))
    factors = np.minimum(factors, np.maximum(1, np.asarray(volume.shape) // 8))
    coarse = block_mean(volume, factors)
    return coarse, factors, body_thresholds(coarse, is_ct=is_ct)


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


def _find_ct(volume: np.ndarray, core_level: float, level: float, spacing: np.ndarray) -> np.ndarray:
    tissue = volume > level
    head = deepest(open_mask(volume > core_level, SHEET_MM, spacing), spacing)
    if not head.any():
        head = deepest(tissue, spacing)
    body = fill_slices(grown(head, tissue, EDGE_MM, spacing))
    if core_level == CORE_THRESHOLD_HU:
        # No mask is as dense as bone, and the front wall of a frontal sinus may be thinner than the opening: bone that hangs
        # together with the head's belongs to it, with the skin over it.
        pieces, _ = ndimage.label(volume > BONE_HU, structure=np.ones((3, 3, 3)))
        linked = np.isin(pieces, np.setdiff1d(np.unique(pieces[body]), [0]))
        wall = grown(linked & ~body, tissue, SKIN_REACH_MM, spacing)
        head, body = head | wall, fill_slices(body | wall)
    rest = fill_slices(grown(head, tissue, SKIN_REACH_MM, spacing)) & ~body
    thick = grown(open_mask(rest, THICK_MM, spacing), rest, THICK_MM, spacing)
    return fill_slices(body | thick) if thick.any() else body


def _find_mr(volume: np.ndarray, core_level: float, level: float, spacing: np.ndarray) -> np.ndarray:
    tissue = open_mask(volume > level, 0.0, spacing)
    closed = fill_slices(close_mask(tissue, 8.0, spacing))
    head = deepest(open_mask(closed, 6.0, spacing), spacing)
    return fill_slices(grown(head, tissue, SKIN_REACH_MM, spacing))
