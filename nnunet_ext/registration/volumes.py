"""Fixed and moving images as the fits see them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cleaning.bias_field import n4
from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.cleaning.head import has_crown
from nnunet_ext.images.channels import AIR_HU, voxel_ml
from nnunet_ext.images.checks import SMALLEST_BODY_ML
from nnunet_ext.images.geometry import field_of_view, to_canonical

#: CT values that tell tissues apart: fat to compact bone. Beyond, MR shows nothing more.
CT_RANGE_HU = (-300.0, 1200.0)
#: The search from afar looks this far beyond the skin, so that the skin itself counts ...
HEAD_MARGIN_MM = 6.0
#: ... and the rest this far below it: skin and fat are pressed and swollen differently in the two scanners. Halves the
#: error on phantoms, and brings the average heads of the tests from 2.4 to 1.1 mm.
DEPTH_MM = 8.0
#: Edge of the blocks hidden from the elastic fit, and which part of them.
BLOCK_MM, HIDDEN_SHARE = 12.0, 0.2

#: Below the crown: head and upper neck. Shoulders, in a CT that goes so far down, lie otherwise in the MR scanner, and
#: they cost 1.4 to 3.8 mm of error on three phantoms, 0.4 to 0.6 mm without. The head's width is that of its upper part.
FIT_REACH_MM, HEAD_MM = 200.0, 150.0
#: Share of the upper end of a trunk that the moving images have to show to be registered by it.
LEAST_SEEN = 0.5
COARSE_LEVEL_MM, MIDDLE_LEVEL_MM, FINE_LEVEL_MM, ELASTIC_MM = 6.0, 4.0, 2.5, 3.0


@dataclass(frozen=True)
class Target:
    """The fixed image as the metric sees it: values limited, couch gone, cropped to the head; and the head."""

    image: sitk.Image
    mask: sitk.Image  # head and a margin: for the search from afar
    core: sitk.Image  # the head below skin and fat: for all that follows
    grid: sitk.Image  # `image` at about 3 mm: where everything is judged
    head: np.ndarray  # head and margin on that grid
    inside: np.ndarray  # the core on that grid
    hidden: np.ndarray  # the blocks of the core that the elastic fit does not see
    fit_masks: tuple[sitk.Image, sitk.Image]  # without these blocks: of the core, of the head and margin
    center_mm: np.ndarray
    top_mm: np.ndarray
    shrunk: dict[float, sitk.Image] = field(default_factory=dict)  # voxel size -> `image`, see `shrunk_image`

    @classmethod
    def of(
        cls,
        image: sitk.Image,
        *,
        is_ct: bool,
        bias_corrected: bool = False,
        body: np.ndarray | None = None,
        moving: Iterable[sitk.Image] = (),
    ) -> Target:
        """The fixed image.

        Args:
            image: Canonical.
            is_ct: Whether it is a CT.
            bias_corrected: It went through N4 already.
            body: Bool `(Z, Y, X)`. Found if None.
            moving: Images whose fields of view say where to look in a trunk.
        """
        array, body = _values(image, "the fixed image", is_ct=is_ct, correct_bias=not bias_corrected, body=body)
        spacing = np.asarray(image.GetSpacing()[::-1])
        seen = np.zeros_like(body)
        for one in moving:
            seen |= field_of_view(one, image)
        part = trunk_part(body, seen, spacing)
        body = _head_only(body, spacing) if part is None else part
        reach = _dilate(body, HEAD_MARGIN_MM, spacing)
        box = ndimage.find_objects(reach.view(np.uint8))[0]
        region = [s.stop - s.start for s in box[::-1]], [s.start for s in box[::-1]]
        cropped = sitk.RegionOfInterest(_like(array, image), *region)
        mask = sitk.RegionOfInterest(_like(reach.astype(np.uint8), image), *region)
        deep = _deeper_than(DEPTH_MM, body, spacing)
        deep = deep if np.count_nonzero(deep) > 0.2 * np.count_nonzero(body) else body
        core = sitk.RegionOfInterest(_like(deep.astype(np.uint8), image), *region)
        grid = shrunk(cropped, ELASTIC_MM)
        head, inside = (
            sitk.GetArrayFromImage(sitk.Resample(m, grid, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
            for m in (mask, core)
        )
        hidden_image = _hidden_blocks(mask)
        hidden = sitk.GetArrayFromImage(sitk.Resample(hidden_image, grid, sitk.Transform(), sitk.sitkNearestNeighbor))
        shown = sitk.Cast(hidden_image == 0, sitk.sitkUInt8)
        fit_masks = sitk.And(core, shown), sitk.And(mask, shown)
        return cls(
            cropped, mask, core, grid, head, inside, (hidden > 0) & inside, fit_masks, *_middle_and_top(body, image)
        )


@dataclass(frozen=True)
class Source:
    """A moving image as the metric sees it."""

    name: str
    image: sitk.Image
    body: np.ndarray
    center_mm: np.ndarray
    top_mm: np.ndarray
    outside: float  # below all values
    shrunk: dict[float, sitk.Image] = field(default_factory=dict)  # voxel size -> `image`, see `shrunk_image`

    @classmethod
    def of(
        cls,
        name: str,
        image: sitk.Image,
        bias_corrected: bool,
        body: np.ndarray | None = None,
        *,
        is_ct: bool = False,
    ) -> Source:
        image = to_canonical(image)
        array, body = _values(image, name, is_ct=is_ct, correct_bias=not bias_corrected, body=body)
        return cls(name, _like(array, image), body, *_middle_and_top(body, image), float(array.min()) - 1.0)


def _values(
    image: sitk.Image, name: str, *, is_ct: bool, correct_bias: bool = True, body: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Values for the metric, 32-bit float, and the body, which is found if None."""
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    if body is None:
        body = body_mask_array(array, spacing_mm=image.GetSpacing()[::-1], is_ct=is_ct)
    if np.count_nonzero(body) * voxel_ml(image) < SMALLEST_BODY_ML:
        raise ValueError(f"{name}: less than {SMALLEST_BODY_ML:g} mL of body found, nothing to register")
    if is_ct:
        in_hu = array.min() <= -500
        low, high = CT_RANGE_HU if in_hu else np.percentile(array[body], (0.5, 99.5))
        array[~body] = AIR_HU if in_hu else array.min()
        return np.clip(array, low, high).astype(np.float32), body
    if correct_bias:
        array = sitk.GetArrayFromImage(n4(image, body=body)).astype(np.float32)
    return np.clip(array, array.min(), np.percentile(array[body], 99.5)).astype(np.float32), body


def _head_only(body: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The body down to `FIT_REACH_MM` below the crown and as wide as the head is, to 10 mm."""
    top = int(np.flatnonzero(body.any(axis=(1, 2)))[-1]) + 1
    lowest, head = (max(0, top - round(mm / spacing[0])) for mm in (FIT_REACH_MM, HEAD_MM))
    _, *box = ndimage.find_objects(body[head:top].view(np.uint8))[0]
    rows, columns = (
        slice(max(0, s.start - round(10 / mm)), s.stop + round(10 / mm)) for s, mm in zip(box, spacing[1:], strict=True)
    )
    result = np.zeros_like(body)
    result[lowest:top, rows, columns] = body[lowest:top, rows, columns]
    return result


def trunk_part(body: np.ndarray, seen: np.ndarray, spacing: np.ndarray) -> np.ndarray | None:
    """The part of a trunk that the moving images show. None if the body's upper end serves.

    In a trunk, the MR may lie anywhere below the upper end of a long CT. So this is the part if the image cuts the body at
    the top, and the moving images show less than half of the part there.

    Args:
        body: Bool `(Z, Y, X)`.
        seen: Bool, same shape: union of the fields of view of the moving images.
        spacing: Voxel size along `(Z, Y, X)`, mm.
    """
    voxel_mm3 = float(np.prod(spacing))
    if has_crown(np.count_nonzero(body, axis=(1, 2)) * spacing[1] * spacing[2], spacing[0]):
        return None
    upper = _head_only(body, spacing)
    shown = body & seen
    if np.count_nonzero(upper & shown) >= LEAST_SEEN * np.count_nonzero(upper):
        return None
    return shown if np.count_nonzero(shown) * voxel_mm3 >= SMALLEST_BODY_ML * 1000 else None


def _middle_and_top(body: np.ndarray, image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """World points: the middle of the body's upper 150 mm, and the same with the height of its top."""
    slices = np.flatnonzero(body.any(axis=(1, 2)))
    depth = max(1, int(150 / image.GetSpacing()[2]))
    upper = np.zeros_like(body)
    upper[max(slices[0], slices[-1] + 1 - depth) : slices[-1] + 1] = True
    z, y, x = (float(c) for c in ndimage.center_of_mass(body & upper))
    middle, top = (image.TransformContinuousIndexToPhysicalPoint(p) for p in ((x, y, z), (x, y, float(slices[-1]))))
    return np.asarray(middle), np.asarray(top)


def _hidden_blocks(mask: sitk.Image) -> sitk.Image:
    """1 in a fixed, evenly spread fifth of the blocks."""
    rng = np.random.default_rng(0)
    blocks = [
        (np.arange(n) * mm / BLOCK_MM).astype(int) for n, mm in zip(mask.GetSize(), mask.GetSpacing(), strict=True)
    ]
    chosen = rng.random([b[-1] + 1 for b in blocks[::-1]]) < HIDDEN_SHARE
    return _like(chosen[np.ix_(*blocks[::-1])].astype(np.uint8), mask)


def _dilate(mask: np.ndarray, distance_mm: float, spacing: np.ndarray) -> np.ndarray:
    radius = np.maximum(1, np.rint(distance_mm / spacing)).astype(int)
    result = mask.view(np.uint8)
    for axis, r in enumerate(radius):
        result = ndimage.maximum_filter1d(result, 2 * r + 1, axis=axis, mode="constant")
    return result.view(bool)


def shrunk(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """Means over blocks of voxels, of about the size asked for."""
    return sitk.BinShrink(image, [max(1, int(voxel_mm / mm + 0.3)) for mm in image.GetSpacing()])


def _like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def _deeper_than(depth_mm: float, body: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Voxels of a body further than so much from its nearest outside voxel, which lies at most one voxel beyond its box."""
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in ndimage.find_objects(body.view(np.uint8))[0])
    deep = np.zeros_like(body)
    deep[box] = ndimage.distance_transform_edt(body[box], sampling=spacing) > depth_mm
    return deep


def shrunk_image(side: Target | Source, voxel_mm: float) -> sitk.Image:
    """`shrunk` of a side's image, computed once."""
    if voxel_mm not in side.shrunk:
        side.shrunk[voxel_mm] = shrunk(side.image, voxel_mm)
    return side.shrunk[voxel_mm]
