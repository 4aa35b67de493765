"""A CT without couch, fixation mask and padding.

Values are checked to be HU, padding below air is clipped, couch and mask are replaced by air. A window is optional.
"""

from __future__ import annotations

import logging

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cleaning.ct_body import find_ct_body
from nnunet_ext.cleaning.morphology import fill_slices
from nnunet_ext.cleaning.thresholds import LOWEST_HU, as_hu
from nnunet_ext.images.channels import AIR_HU, image_like, voxel_ml
from nnunet_ext.images.checks import SMALLEST_BODY_ML
from nnunet_ext.messages import Message

log = logging.getLogger(__name__)
#: What lies below this is padding: noise of air does not reach it, streaks of metal hardly.
PADDING_HU = -1200.0
#: No tissue is denser: enamel reaches 2,500 to 3,000. Most scales end at 3071, extended ones at 30,000 or so.
METAL_HU = 3000.0
#: Less metal than this is noise or enamel; a small filling has more.
LEAST_METAL_ML = 0.03


#: What helps against what `hu_problem` finds, at conversion and at prediction.
HU_REMEDY = "apply the rescale slope and intercept, or pass --allow-non-hu"
HU_REMEDY_AT_PREDICTION = "apply the rescale slope and intercept, or export the CT again"


def hu_problem(image: sitk.Image) -> Message | None:
    """Why an image cannot be a CT in HU, or None if it can.

    A CT in HU holds air (measured values down to -500, at least 0.1 % of its voxels near -1000 or padding below). It does
    not fill the 16-bit range, and the median of what is not air lies between -200 and 200 (soft tissue). What lies below
    air is padding, of one value. A few voxels at the end of any range are metal.
    """
    array = sitk.GetArrayViewFromImage(image)
    low, high = float(array.min()), float(array.max())
    measured = array if low >= PADDING_HU else array[array >= PADDING_HU]
    if not measured.size or float(measured.min()) > -500:
        return Message("not_hu_no_air", {"low": low, "high": high})
    if high >= 32767 and np.count_nonzero(array >= 32767) > 5e-3 * array.size:
        return Message("not_hu_end_of_16_bits", {"low": low, "high": high})
    tissue = array[array > -500]
    median = float(np.median(tissue)) if tissue.size else float("nan")
    if not -200 <= median <= 200:
        return Message("not_hu_no_soft_tissue", {"low": low, "high": high, "median": median})
    if np.count_nonzero(array < -850) < 1e-3 * array.size:
        return Message("not_hu_hardly_any_air", {"low": low, "high": high})
    below = array[array < PADDING_HU]
    if below.size > 1e-2 * array.size and np.unique(below, return_counts=True)[1].max() < 0.5 * below.size:
        return Message("not_hu_varies_below_air", {"low": low, "high": high, "share": below.size / array.size})
    return None


def metal(array: np.ndarray, body: np.ndarray, *, voxel_ml: float) -> list[Message]:
    """Messages on metal in a CT: fillings, implants, electrodes.

    Args:
        array: CT in HU, `(Z, Y, X)`, as read: neither padded values clipped nor a window applied.
        body: Bool, same shape. Metal outside, in a couch or frame, does not count.
        voxel_ml: Volume of a voxel.

    Returns:
        One with its volume and where the scale ends. A second one if values inside metal ran over the end of the
        scale and came out as dark as air. Empty without metal.
    """
    found = (array >= METAL_HU) & body
    ml = np.count_nonzero(found) * voxel_ml
    if ml < LEAST_METAL_ML:
        return []
    high = float(array[found].max())
    at_the_end = np.count_nonzero(array[found] == high) > 0.05 * np.count_nonzero(found)
    messages = [
        Message("metal_at_the_end_of_the_scale", {"ml": ml, "hu": high})
        if at_the_end
        else Message("metal_within_the_scale", {"ml": ml, "low": METAL_HU, "hu": high})
    ]
    box = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in ndimage.find_objects(found.view(np.uint8))[0])
    # Partial volume around the overflow is as dense as bone.
    dense = array[box] > 1000
    holes = fill_slices(dense) & (array[box] <= AIR_HU)
    pieces, _ = ndimage.label(holes | found[box])
    overflow = holes & np.isin(pieces, np.setdiff1d(np.unique(pieces[found[box]]), [0]))
    if n := np.count_nonzero(overflow):
        messages.append(Message("metal_over_the_scale", {"n": n}))
    return messages


def clip_padding(image: sitk.Image) -> tuple[sitk.Image, int]:
    """CT with values below -1024 HU set to -1024, and how many voxels that were."""
    array = sitk.GetArrayViewFromImage(image)
    below = int(np.count_nonzero(array < LOWEST_HU))
    if below == 0:
        return image, 0
    return image_like(np.maximum(array, np.asarray(LOWEST_HU, dtype=array.dtype)), image), below


def clean_ct(image: sitk.Image, *, keep: np.ndarray | None = None, in_hu: bool = True) -> tuple[sitk.Image, np.ndarray]:
    """CT with everything outside the body set to air, and the body mask.

    Voxels next to the body that are fainter than tissue stay, so that the skin keeps its soft edge, except near what is
    taken off: there they hold the fixation mask. A sheet that lies loose in a cavity goes too. Nothing becomes exactly 0,
    which nnU-Net would take for 'not measured' and crop.

    Args:
        image: The CT, canonical.
        keep: Bool `(Z, Y, X)`, voxels that are never touched, such as drawn organs.
        in_hu: Whether values are HU: outside becomes -1000. If not, the median of what lies outside.

    Returns:
        The image, and bool `(Z, Y, X)`; the image itself with an all-True mask where less than 20 mL of body is found.
    """
    array = sitk.GetArrayFromImage(image)
    found = find_ct_body(as_hu(array), spacing_mm=image.GetSpacing()[::-1])
    if np.count_nonzero(found.body) * voxel_ml(image) < SMALLEST_BODY_ML:
        log.warning("less than %g mL of body found in a CT: couch and mask are left in it", SMALLEST_BODY_ML)
        return image, np.ones(array.shape, dtype=bool)
    outside, body = ~found.kept, found.body
    if keep is not None:
        outside, body = outside & ~keep, body | keep
    air = AIR_HU if in_hu else float(np.median(array[outside])) if outside.any() else 0.0
    array[outside] = np.asarray(air).astype(array.dtype)
    return image_like(array, image), body


def window(image: sitk.Image, window_hu: tuple[float, float]) -> sitk.Image:
    """CT with values below and above the window set to its ends, in HU (not rescaled)."""
    low, high = window_hu
    if not low < high:
        raise ValueError(f"window {low:g}..{high:g} HU is empty; give the lower end first, e.g. -160 240")
    array = sitk.GetArrayViewFromImage(image)
    return image_like(np.clip(array, np.asarray(low, dtype=array.dtype), np.asarray(high, dtype=array.dtype)), image)
