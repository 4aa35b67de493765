"""Whether an image shows a whole head, told from the outline of the body in it.

Lengths are compared with the head's own size, so that the same limits hold for a child. They are set so that a normal head
passes. An image that passes need not show every organ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_ext.cleaning.body import coarse_body_mask
from nnunet_ext.cleaning.head import CROWN_MM2
from nnunet_ext.images.checks import SMALLEST_BODY_ML, blank_slices
from nnunet_ext.messages import Message

#: No section of a head is larger: 240 x 190 mm are 360 cm2. Shoulders, chest and belly of an adult have 500 cm2 and more.
LARGEST_HEAD_MM2 = 40_000.0
#: From the crown to shoulders that are drawn up there are at least 180 mm. With less room above them, the eyes are not seen.
LEAST_ABOVE_SHOULDERS_MM = 120.0
#: The largest section of a head is looked for so far below the crown. It lies at 80 to 110 mm in adults.
SIZE_REACH_MM = 120.0
#: A section at the border that is larger than this share of the largest one cuts off a part of the head. In ten heads, a
#: tenth less of their length or breadth passed and three tenths did not. Of the height, 20 mm passed and 60 mm did not.
CUT_SHARE = 0.7
#: Slices within this distance of the border count as the border, for the outline is known to a few millimetres.
BORDER_MM = 5.0
#: The head without neck and shoulders, below the crown, in diameters of its largest section: 150 mm in adults.
HEAD_DIAMETERS = 0.9
#: With less than this below the crown, the eyes are not seen. They lie at 0.65 diameters.
LEAST_HEIGHT_DIAMETERS = 0.5
#: The part of a head that is closed by the skull all around, below the crown, in diameters.
CRANIUM_DIAMETERS = (0.1, 0.45)
#: Where the skull lies below the skin, and what lies far inside it, in diameters. In adults 3 to 14 mm, and 25 mm.
SKULL_DIAMETERS, INSIDE_DIAMETERS = (0.02, 0.08), 0.15
#: Compact bone is dark in every contrast of MR.
DARK_SHARE = 0.5
#: With less than this share of dark voxels where the skull should be, there is none. Sulci are dark too, in T1.
LEAST_DARK = 0.25
#: Masked images hold one value outside. Elsewhere noise varies. The outline is known to a few millimetres: around a brain
#: that fills its image, 2 % of the voxels outside it are of its rim.
MASKED_SHARE = 0.95
#: A brain ends in the brain stem, a section of at most this share of the largest one. A head goes on below: in ten heads,
#: the lowest section had 0.31 and more, wherever they ended.
STEM_SHARE = 0.2
#: The thinnest skulls of infants show more bone than this, of the head's volume.
BONE_HU, LEAST_BONE = 300.0, 0.005
#: Border at the first and at the last slice along `(Z, Y, X)` of a canonical image.
SIDES = (
    (Message("side_bottom"), Message("side_top")),
    (Message("side_front"), Message("side_back")),
    (Message("side_right"), Message("side_left")),
)


@dataclass(frozen=True)
class _Outline:
    """The upper end of a body.

    Attributes:
        image: Shape `(Z, Y, X)`, without blank slices at its ends.
        body: Bool, same shape.
        spacing_mm: Along `(Z, Y, X)`.
        area_mm2: Of the body's section in every slice, from the lowest.
        top: Slice behind that of the crown, or of the highest section.
        diameter_mm: Of a disc as large as the largest section of the head.
    """

    image: np.ndarray
    body: np.ndarray
    spacing_mm: tuple[float, ...]
    area_mm2: np.ndarray
    top: int
    diameter_mm: float

    def below_top(self, first_mm: float, last_mm: float) -> slice:
        """Slices between two distances below the top."""
        low, high = (self.top - round(mm / self.spacing_mm[0]) for mm in (last_mm, first_mm))
        return slice(max(0, low), max(0, high))


def check_head(channel: str, image: np.ndarray, *, spacing_mm: Sequence[float], is_ct: bool) -> list[Message]:
    """A message if an image shows a body without a head, a brain without skull, or a part of a head.

    Args:
        channel: Its name.
        image: Shape `(Z, Y, X)`, canonical. A CT is in HU.
        spacing_mm: Along `(Z, Y, X)`.
        is_ct: Whether it is a CT.

    Returns:
        At most one message, the first that holds.
    """
    outline = _outline(image, spacing_mm, is_ct=is_ct)
    if outline is None:
        return []
    if lacks_head(outline.area_mm2[: outline.top], outline.spacing_mm[0]):
        return [Message("body_without_head", {"channel": channel})]
    if _bare_in_ct(outline) if is_ct else _bare_in_mr(outline):
        return [Message("skull_stripped", {"channel": channel})]
    if sides := _cut_sides(outline):
        return [Message("head_cut", {"channel": channel, "sides": sides})]
    return []


def _outline(image: np.ndarray, spacing_mm: Sequence[float], *, is_ct: bool) -> _Outline | None:
    """The outline of the body in an image, None if there is hardly any."""
    filled = [np.flatnonzero(~blank) for blank in blank_slices(image)]
    if not all(at.size for at in filled):
        return None
    image = image[tuple(slice(at[0], at[-1] + 1) for at in filled)]
    spacing_mm = tuple(float(mm) for mm in spacing_mm)
    body = coarse_body_mask(image, spacing_mm=spacing_mm, is_ct=is_ct)
    area_mm2 = np.count_nonzero(body, axis=(1, 2)) * spacing_mm[1] * spacing_mm[2]
    if area_mm2.sum() * spacing_mm[0] < SMALLEST_BODY_ML * 1000:
        return None
    top = int(np.flatnonzero(area_mm2 >= min(CROWN_MM2, area_mm2.max()))[-1]) + 1
    largest_mm2 = area_mm2[max(0, top - round(SIZE_REACH_MM / spacing_mm[0])) : top].max()
    return _Outline(image, body, spacing_mm, area_mm2, top, float(np.sqrt(4 / np.pi * largest_mm2)))


def lacks_head(area_mm2: np.ndarray, slice_mm: float) -> bool:
    """Whether sections that are larger than any head begin too soon below the top for a head above them.

    Args:
        area_mm2: Sections of the body, upwards, up to its top.
        slice_mm: Distance of the sections.
    """
    shoulders = np.flatnonzero(area_mm2 > LARGEST_HEAD_MM2)
    return bool(shoulders.size) and (len(area_mm2) - 1 - int(shoulders[-1])) * slice_mm < LEAST_ABOVE_SHOULDERS_MM


def _bare_in_ct(outline: _Outline) -> bool:
    """Whether a head in a CT has no bone."""
    head = outline.below_top(0, HEAD_DIAMETERS * outline.diameter_mm)
    values = outline.image[head][outline.body[head]]
    return bool(values.size) and float(np.mean(values > BONE_HU)) < LEAST_BONE


def _bare_in_mr(outline: _Outline) -> bool:
    """Whether a masked MR ends in a brain stem, and has no dark layer where the skull of a head lies."""
    background = _masked_value(outline)
    return background is not None and _ends_in_stem(outline) and _dark_share(outline, background) < LEAST_DARK


def _masked_value(outline: _Outline) -> float | None:
    """The one value outside the body, None if there are several."""
    values, counts = np.unique(outline.image[~outline.body], return_counts=True)
    if not counts.size or counts.max() < MASKED_SHARE * counts.sum():
        return None
    return float(values[counts.argmax()])


def _ends_in_stem(outline: _Outline) -> bool:
    """Whether the lowest section of the body is small."""
    n = max(1, round(BORDER_MM / outline.spacing_mm[0]))
    lowest = int(np.flatnonzero(outline.area_mm2)[0])
    return bool(outline.area_mm2[lowest : lowest + n].min() < STEM_SHARE * outline.area_mm2.max())


def _dark_share(outline: _Outline, background: float) -> float:
    """Share of dark voxels in the layer of a head that holds the skull. Voxels that the mask took out do not count."""
    size_mm = outline.diameter_mm
    cranium = outline.below_top(*(share * size_mm for share in CRANIUM_DIAMETERS))
    depth_mm = np.zeros(outline.body[cranium].shape)
    for at, section in enumerate(outline.body[cranium]):
        # Within a slice: thick slices tell little of the depth across them.
        depth_mm[at] = ndimage.distance_transform_edt(np.pad(section, 1), sampling=outline.spacing_mm[1:])[1:-1, 1:-1]
    image = outline.image[cranium]
    inside = image[(depth_mm > INSIDE_DIAMETERS * size_mm) & (image != background)]
    low, high = (share * size_mm for share in SKULL_DIAMETERS)
    skull = image[(depth_mm > low) & (depth_mm <= high) & (image != background)]
    if not inside.size or not skull.size:
        return 1.0
    return float(np.mean(skull - background < DARK_SHARE * (np.median(inside) - background)))


def _cut_sides(outline: _Outline) -> list[Message]:
    """Sides on which a large section of the head lies at the border of the image."""
    head = outline.body[outline.below_top(0, HEAD_DIAMETERS * outline.diameter_mm)]
    cut = []
    for axis, (first, last) in enumerate(SIDES):
        sections = np.count_nonzero(head, axis=tuple(a for a in range(3) if a != axis))
        n = max(1, round(BORDER_MM / outline.spacing_mm[axis]))
        large = sections > CUT_SHARE * sections.max()
        if axis > 0:
            cut += [side for side, border in ((first, large[:n]), (last, large[-n:])) if border.all()]
        elif outline.top == len(outline.body) and large[-n:].all():
            cut.append(last)
        elif outline.top * outline.spacing_mm[0] < LEAST_HEIGHT_DIAMETERS * outline.diameter_mm:
            cut.append(first)  # every head goes on below, so what counts is how much of it is there
    return cut
