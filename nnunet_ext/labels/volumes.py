"""Plausible volumes and lengths of the organs that the package knows, to check the names of drawn organs.

Wrong names, swapped label values, inverted masks and contours in centimetres give masks of impossible size. An organ far
outside the plausible range is refused, an organ outside is reported. Disease and surgery change sizes, for example of a
shrunken or very long eye, or of a lens after surgery. So the ranges are wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from scipy import ndimage

from nnunet_ext.labels.organs import normalise_name
from nnunet_ext.labels.table import default_label_table
from nnunet_ext.messages import Message, in_english

#: Plausible volumes in mL by TG-263 name without side. The ranges are wide on purpose. Label maps of ten real heads have
#: globes of 4.6 to 7.5, a chiasm of 0.18 to 0.33 and nerves of at least 0.26 to 0.52. On 35 pairs of clinical contours, eyes
#: reach 8.6, a lens 0.20 and a nerve 0.75. Children and short contours have less, high myopia and margins have more.
PLAUSIBLE_ML = {"Eye": (3.0, 12.0), "Lens": (0.08, 0.5), "OpticNrv": (0.2, 2.0), "OpticChiasm": (0.08, 1.2)}
#: An organ so many times larger or smaller than its range is refused.
FAR = 5.0
#: Longest extent along an axis in mm. In phantoms and on real heads, eyes have 28, lenses 11, nerves 49 and a chiasm 21. A
#: mask is longer if it holds both sides, or a single voxel far away.
LONGEST_MM = {"Eye": 45.0, "Lens": 25.0, "OpticNrv": 60.0, "OpticChiasm": 50.0}
#: No organ fills the first share of an image. The second limit is for a mask that holds the image's corners, which are air.
LARGEST_SHARE, LARGEST_SHARE_WITH_CORNERS = 0.9, 0.5
#: Names that may fill an image cropped to the head.
WHOLE_BODY = {"body", "external", "externe", "skin", "outline", "patient", "head", "体表", "外轮廓"}
#: An organ with a median below this lies in air. One organ may, because gas is put into eyes in surgery.
AIR_BELOW_HU = -500.0


def check_organs(
    label_map: np.ndarray,
    labels: Mapping[str, int],
    *,
    spacing_mm: Sequence[float],
    ct_hu: np.ndarray | None = None,
) -> list[Message]:
    """Refuse a mask that cannot be the organ of its name. At most one message per kind of doubt.

    Args:
        label_map: Whole numbers, `(Z, Y, X)`.
        labels: Organ -> label value. Organs without a voxel are not looked at.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        ct_hu: CT in HU on the same grid. None without.

    Raises:
        ValueError: If an organ fills the image or measures `FAR` times too much or too little, or if several lie in air.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    refuse_whole_image(label_map, labels)
    boxes = ndimage.find_objects(label_map, max_label=max(labels.values(), default=0))
    wrong: list[Message] = []
    odd: list[Message] = []
    cut: list[str] = []
    in_air: list[str] = []
    for organ, value in labels.items():
        box = boxes[value - 1]
        if box is None:
            continue
        mask = label_map[box] == value
        n_voxels = int(np.count_nonzero(mask))
        if (kind := _kind(organ)) is None:
            continue
        at_border = any(s.start == 0 or s.stop == n for s, n in zip(box, label_map.shape, strict=True))
        ml, (low, high) = n_voxels * voxel_ml, PLAUSIBLE_ML[kind]
        longest_mm = max((s.stop - s.start) * mm for s, mm in zip(box, spacing_mm, strict=True))
        if at_border:
            cut.append(organ)
            low = 0.0
        if not low <= ml <= high:
            found = Message(
                "volume_implausible", {"organ": organ, "ml": ml, "low": PLAUSIBLE_ML[kind][0], "high": high}
            )
            (odd if low / FAR <= ml <= high * FAR else wrong).append(found)
        elif longest_mm > LONGEST_MM[kind]:
            odd.append(Message("length_implausible", {"organ": organ, "mm": longest_mm, "high": LONGEST_MM[kind]}))
        if ct_hu is not None and float(np.median(ct_hu[box][mask])) < AIR_BELOW_HU:
            in_air.append(organ)
    if wrong:
        raise ValueError(
            f"{'; '.join(in_english(wrong))}: check names, label values and units, and whether a mask is inverted or of "
            "another case"
        )
    if len(in_air) > 1:
        raise ValueError(
            f"in air on the CT: {', '.join(in_air)}; check whether the labels belong to this case and lie on its grid"
        )
    messages = [Message("implausible_sizes", {"findings": odd})] if odd else []
    messages += [Message("in_air", {"organ": organ}) for organ in in_air]
    return messages + ([Message("at_the_border", {"organs": cut})] if cut else [])


def impossible_volumes(volumes_ml: Mapping[str, float]) -> list[Message]:
    """A message per organ that measures `FAR` times too much or too little. Organs that are not known are skipped."""
    messages = []
    for organ, ml in volumes_ml.items():
        low, high = PLAUSIBLE_ML.get(_kind(organ) or "", (0.0, np.inf))
        if not low / FAR <= ml <= high * FAR:
            messages.append(Message("volume_implausible", {"organ": organ, "ml": ml, "low": low, "high": high}))
    return messages


@cache
def _kind(organ: str) -> str | None:
    """TG-263 name without side of an organ of the table, by any name that the package knows. None for others."""
    name = (default_label_table().organ(organ) or "").removesuffix("_L").removesuffix("_R")
    return name if name in PLAUSIBLE_ML else None


def refuse_whole_image(label_map: np.ndarray, labels: Mapping[str, int]) -> None:
    """Refuse an organ that fills the image, as an inverted mask does.

    Args:
        label_map: Whole numbers, `(Z, Y, X)`.
        labels: Organ -> label value.

    Raises:
        ValueError: If an organ fills more than 90 % of the image, or more than half and the corners, which are air.
    """
    for organ, value in labels.items():
        share = np.count_nonzero(label_map == value) / label_map.size
        if share <= LARGEST_SHARE_WITH_CORNERS or normalise_name(organ) in WHOLE_BODY:
            continue
        corners = label_map[np.ix_(*((0, -1) for _ in range(3)))] == value
        if share > LARGEST_SHARE or np.count_nonzero(corners) >= 6:
            raise ValueError(
                f"{organ} fills {share:.0%} of the image, which no organ does; check whether its mask is inverted"
            )
