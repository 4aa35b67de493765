"""Checks of an image's values before anything is done to it.

A failed export leaves one value, a mask or a copy of another channel, which no later step would notice. Such channels
are refused. Slices that hold nothing, and values cut off at the end of a scale, are found and reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.images.channels import is_ct
from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.messages import Message

#: With fewer values than this an MR is a mask or a label map. Images of 8 bits hold about 250. A CT may be computed from a
#: few materials, but with two values it is a mask too.
FEWEST_VALUES, FEWEST_VALUES_OF_CT = 17, 3
#: If the slice beside blank slices has more than this share of the body's largest area, the body goes on. A crown has less.
TAPERED_SHARE = 0.15
#: Blank slices at an end are reported above this share of all, because registered images often lack a few.
FEW_SLICES_SHARE = 0.1
#: Slices across the axes `(Z, Y, X)` of a canonical image.
PLANES = (Message("axial"), Message("coronal"), Message("sagittal"))
#: Values looked at where all would take seconds.
_SAMPLE = 1_000_000
#: Of these, each so-manyth is looked at first.
_COARSE = 101


def check_images(images: Mapping[str, sitk.Image], *, optional: Sequence[str] = (), copies: bool = False) -> None:
    """Refuse a channel that holds nothing, and two channels that hold the same image.

    Args:
        images: Channel name -> image as read.
        optional: Channels that a case may lack.
        copies: Two channels may hold the same image.

    Raises:
        ValueError: With the channel, its content and the remedy.
    """
    limits: dict[str, tuple] = {}
    for name, image in images.items():
        array = sitk.GetArrayViewFromImage(image)
        voxel_ml = float(np.prod(image.GetSpacing())) / 1000
        _refuse_blank(name, array, voxel_ml, optional)
        limits[name] = sorted(array.shape), float(array.min()), float(array.max())
    for one, other in combinations(images, 2):
        if limits[one] == limits[other] and not copies:
            a, b = (sitk.GetArrayFromImage(to_canonical(images[name])) for name in (one, other))
            _refuse_copy(one, other, a, b)


def check_arrays(
    arrays: Mapping[str, np.ndarray], *, spacing_mm: Sequence[float], optional: Sequence[str] = ()
) -> None:
    """`check_images` for arrays `(Z, Y, X)` on one grid."""
    for name, array in arrays.items():
        _refuse_blank(name, array, float(np.prod(spacing_mm)) / 1000, optional)
    for one, other in combinations(arrays, 2):
        _refuse_copy(one, other, arrays[one], arrays[other])


def _refuse_blank(name: str, array: np.ndarray, voxel_ml: float, optional: Sequence[str]) -> None:
    fewest = FEWEST_VALUES_OF_CT if is_ct(name) else FEWEST_VALUES
    if reason := blank_reason(array, voxel_ml=voxel_ml, fewest_values=fewest):
        left_out = ", or leave its file out" if name in optional else ""
        raise ValueError(f"{name} {reason}; export it again{left_out}")


def _refuse_copy(one: str, other: str, a: np.ndarray, b: np.ndarray) -> None:
    if np.array_equal(a, b):
        raise ValueError(
            f"{one} and {other} are the same image, voxel for voxel: one was exported twice; export the right one"
        )


def blank_reason(array: np.ndarray, *, voxel_ml: float, fewest_values: int = FEWEST_VALUES) -> str | None:
    """Content of an image that shows no head, or None.

    Args:
        array: Shape `(Z, Y, X)`.
        voxel_ml: Volume of a voxel.
        fewest_values: With fewer it is no image.
    """
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return "has values that are NaN or infinite"
    if low == high:
        return f"holds one value ({low + 0:g})"  # not -0
    sample = sampled(array)
    usual = np.partition(sample, len(sample) // 2)[len(sample) // 2]  # a value that most voxels have is the median, too
    if np.count_nonzero(sample == usual) > 0.9 * len(sample):
        others = int(np.count_nonzero(array != usual))
        if others * voxel_ml < SMALLEST_BODY_ML:
            return f"holds one value ({usual:g}) but for {others} voxels"
    # Most images show enough values in few voxels. Only the others have all of theirs sorted, which takes longest.
    for part in (sample[::_COARSE], sample, array):
        if (n_values := len(np.unique(part))) >= fewest_values:
            break
    else:
        return f"holds {n_values} values ({low:g} to {high:g}), as a mask or a label map does, no image"
    if any(blank.all() for blank in blank_slices(array)):
        return "holds one value in each of its slices"
    return None


def sampled(array: np.ndarray) -> np.ndarray:
    """Up to about a million values, evenly spread. An odd step meets all columns."""
    return array.reshape(-1)[:: (array.size // _SAMPLE) | 1]


def blank_slices(array: np.ndarray) -> list[np.ndarray]:
    """Per axis, a bool for each slice across it, true if the slice holds one value."""
    found = []
    for axis in range(array.ndim):
        planes = np.moveaxis(array, axis, 0)
        coarse = planes[:, ::7, ::7]  # tells most slices at a fraction of the time
        blank = coarse.min(axis=(1, 2)) == coarse.max(axis=(1, 2))
        for at in np.flatnonzero(blank):
            blank[at] = planes[at].min() == planes[at].max()
        found.append(blank)
    return found


def lost_slices(array: np.ndarray, body: np.ndarray) -> list[np.ndarray]:
    """Per axis, a bool for each slice across it, true if it holds one value although the body goes on beside it.

    Slices of air beyond the head are not lost. There, cleaning or the scanner set the background to one value.

    Args:
        array: Canonical image, `(Z, Y, X)`.
        body: Bool, same shape.
    """
    found = []
    for axis, blank in enumerate(blank_slices(array)):
        lost = np.zeros_like(blank)
        if blank.any() and not blank.all():
            area = np.count_nonzero(body, axis=tuple(a for a in range(3) if a != axis))
            goes_on = ~blank & (area > TAPERED_SHARE * area[~blank].max(initial=0))
            runs, n = ndimage.label(blank)
            for (run,) in ndimage.find_objects(runs, n):
                lost[run] = goes_on[max(0, run.start - 1) : run.stop + 1].any()
        found.append(lost)
    return found


def report_lost_slices(name: str, lost: Sequence[np.ndarray]) -> list[Message]:
    """One message for the plane with most lost slices, if they are worth it. `lost` is from `lost_slices`."""
    shares = [float(one.mean()) for one in lost]
    axis = int(np.argmax(shares))
    runs, n = ndimage.label(lost[axis])
    inner = any(run.start > 0 and run.stop < len(runs) for (run,) in ndimage.find_objects(runs, n))
    if not inner and shares[axis] <= FEW_SLICES_SHARE:
        return []
    n, n_all = int(lost[axis].sum()), len(lost[axis])
    return [Message("slices_lost", {"channel": name, "n": n, "all": n_all, "plane": PLANES[axis]})]


def shown(lost: Sequence[np.ndarray]) -> np.ndarray:
    """Bool `(Z, Y, X)`, true for voxels that lie in no lost slice."""
    z, y, x = (~one for one in lost)
    return z[:, None, None] & y[None, :, None] & x[None, None, :]


#: A body smaller than this is not believed, and the image is left as it is.
SMALLEST_BODY_ML = 20.0
