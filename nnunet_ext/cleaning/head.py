"""Where the head lies in a body, and which part of an MR holds an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

#: First voxel and the one behind the last, along each axis.
Box = tuple[tuple[int, int], ...]

#: Below the crown: a head without shoulders. Its front and its sides say how wide the head is.
HEAD_MM = 150.0
#: A slice shows the crown if it holds so much of the body. A few voxels above it may be noise, or rests of a mask.
CROWN_MM2 = 200.0
#: A body has no crown if the uppermost slices of its image hold more than this share of its largest section near its top.
#: Where an image cuts off a trunk, they hold nearly all of it.
CUT_SHARE = 0.7
#: The uppermost slices, for the outline is known to a few millimetres, and how far down the largest section is looked for.
TOP_MM, SIZE_REACH_MM = 5.0, 120.0


@dataclass(frozen=True)
class HeadPlace:
    """Where a head lies in a volume whose slices run upwards, in voxels.

    Attributes:
        shape: Of the volume, `(Z, Y, X)`.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        body: The body's box.
        top: Slice behind that of the crown.
        head: Rows and columns of the body's uppermost `HEAD_MM`.
        has_crown: Whether the image shows the body's upper end. If it cuts the body there, as it cuts a trunk, the top says
            nothing about where organs lie.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    body: Box
    top: int
    head: Box
    has_crown: bool = True

    @classmethod
    def of(cls, body: np.ndarray, spacing_mm: Sequence[float]) -> HeadPlace | None:
        """The place of the head in a body.

        Args:
            body: Bool `(Z, Y, X)`.
            spacing_mm: Voxel size along `(Z, Y, X)`.

        Returns:
            None if the body is empty.
        """
        if not body.any():
            return None
        spacing_mm = tuple(float(mm) for mm in spacing_mm)
        area_mm2 = np.count_nonzero(body, axis=(1, 2)) * spacing_mm[1] * spacing_mm[2]
        slices = np.flatnonzero(area_mm2 >= min(CROWN_MM2, area_mm2.max()))
        top = int(slices[-1]) + 1
        upper = body[max(0, top - round(HEAD_MM / spacing_mm[0])) : top]
        crown = has_crown(area_mm2, spacing_mm[0])
        return cls(tuple(body.shape), spacing_mm, _box(body), top, _box(upper)[1:], crown)

    def box(self, *, below_crown_mm: float, beyond_head_mm: Sequence[Sequence[float]], margin_mm: float = 0.0) -> Box:
        """The part of the body near the head.

        Args:
            below_crown_mm: How far the part reaches down from the crown.
            beyond_head_mm: How far it reaches beyond the head's first and last row, and its first and last column.
            margin_mm: Room above the crown, and where the body ends.

        Returns:
            Box along `(Z, Y, X)`, inside the volume.
        """
        lowest = self.top - round(below_crown_mm / self.spacing_mm[0])
        wanted = [(lowest, self.shape[0])]
        for (first, end), (low_mm, high_mm), mm in zip(self.head, beyond_head_mm, self.spacing_mm[1:], strict=True):
            wanted.append((first - int(np.ceil(low_mm / mm)), end + int(np.ceil(high_mm / mm))))
        margins = [int(np.ceil(margin_mm / mm)) for mm in self.spacing_mm]
        return tuple(
            (max(0, low, first - margin), min(n, high, end + margin))
            for (low, high), (first, end), margin, n in zip(wanted, self.body, margins, self.shape, strict=True)
        )

    def whole_box(self, margin_mm: float) -> Box:
        """The body with a margin."""
        return tuple(
            (max(0, first - int(np.ceil(margin_mm / mm))), min(n, end + int(np.ceil(margin_mm / mm))))
            for (first, end), mm, n in zip(self.body, self.spacing_mm, self.shape, strict=True)
        )


def has_crown(area_mm2: np.ndarray, slice_mm: float) -> bool:
    """Whether an image shows the upper end of a body.

    Args:
        area_mm2: Section of the body in each slice of the image, upwards.
        slice_mm: Distance of the slices.
    """
    uppermost, near = (area_mm2[-max(1, round(mm / slice_mm)) :] for mm in (TOP_MM, SIZE_REACH_MM))
    return bool(uppermost.min() <= CUT_SHARE * near.max())


def image_region(image: np.ndarray) -> np.ndarray:
    """Which voxels of a channel hold an image. The others lie outside its field of view.

    No file records the field of view of an image on a nnU-Net grid. Conversion fills what an MR did not see with its lowest
    value, as other resampling tools do. So voxels of the lowest value count as outside if they hang together with the
    border of the volume. Dark voxels inside the body do not.

    Args:
        image: Shape `(Z, Y, X)`.

    Returns:
        Bool, same shape.
    """
    lowest = image == image.min()
    if not _touches_border(lowest):
        return np.ones(image.shape, dtype=bool)
    pieces, _ = ndimage.label(lowest)
    at_border = np.unique(np.concatenate([pieces[_side(axis, end)].ravel() for axis in range(3) for end in (0, -1)]))
    return ~np.isin(pieces, at_border[at_border > 0])


def _touches_border(mask: np.ndarray) -> bool:
    return any(mask[_side(axis, end)].any() for axis in range(mask.ndim) for end in (0, -1))


def _side(axis: int, end: int) -> tuple:
    return (slice(None),) * axis + (end,)


def _box(mask: np.ndarray) -> Box:
    return tuple((int(s.start), int(s.stop)) for s in ndimage.find_objects(mask.view(np.uint8))[0])
