"""The image that each contour belongs to.

Along the slices, a contour belongs to the image it refers to, else to the nearest one, and is moved there. More than half
a slice off, it is refused. Of several planes of contours at one image the nearest counts. Messages say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from nnunet_ext.dicom.model import Slice
from nnunet_ext.dicom.structure_set import Contour
from nnunet_ext.messages import Message

#: Contours within so many slices of each other lie in one plane. A planar contour leaves its plane by less.
PLANE_TOLERANCE_SLICES = 0.1
#: A contour this far off an image still belongs to it. This is half a slice, and a little for the rounding of positions.
FURTHEST_SLICES, HALF_TOLERANCE_SLICES = 0.5, 0.02


@dataclass(frozen=True)
class ImagePlanes:
    """Positions of the images of a series along the slices of a grid, sorted, one per plane."""

    positions: np.ndarray
    planes: Mapping[str, Sequence[tuple[int | None, int]]]  # SOP instance UID -> frame, number of the plane

    @classmethod
    def of(cls, image: sitk.Image, slices: Sequence[Slice] | None) -> ImagePlanes:
        """Of the images of a series, or of the planes of an image if `slices` is None."""
        if slices is None:
            return cls(np.arange(image.GetSize()[2], dtype=float), {})
        k = np.array([image.TransformPhysicalPointToContinuousIndex(one.position_mm)[2] for one in slices])
        order = np.argsort(k, kind="stable")
        starts = np.concatenate([[True], np.diff(k[order]) > PLANE_TOLERANCE_SLICES])  # copies share a plane
        planes: dict[str, list[tuple[int | None, int]]] = {}
        for at, number in zip(order, np.cumsum(starts) - 1, strict=True):
            planes.setdefault(slices[at].sop_uid, []).append((slices[at].frame, int(number)))
        return cls(k[order][starts], planes)

    def number(self, k: np.ndarray) -> np.ndarray:
        """Positions as fractional numbers of planes, with the first and last gap continued."""
        if len(self.positions) == 1:
            return k - self.positions[0]
        below = np.clip(np.searchsorted(self.positions, k, side="right") - 1, 0, len(self.positions) - 2)
        return below + (k - self.positions[below]) / np.diff(self.positions)[below]

    def reach(self, k: float) -> bool:
        """Whether a position lies at an image, or at most half a slice beyond the first or last."""
        number, most = self.number(np.array([k]))[0], FURTHEST_SLICES + HALF_TOLERANCE_SLICES
        return bool(-most <= number <= len(self.positions) - 1 + most)

    def own(self, contour: Contour, number: float) -> int | None:
        """The plane of the image that a contour refers to, the nearest of several.

        None if it refers to none of these.
        """
        planes = [
            plane
            for uid, frame in contour.images
            for its_frame, plane in self.planes.get(uid, ())
            if frame is None or its_frame in (None, frame)
        ]
        return min(planes, key=lambda plane: abs(plane - number)) if planes else None


def on_images(
    polygons: Sequence[tuple[float, np.ndarray, Contour]], images: ImagePlanes, notes: list[Message]
) -> list[tuple[float, np.ndarray, str]]:
    """Polygons in the planes of the images: position along the slices, points, type. See the module's docstring."""
    numbers = images.number(np.array([k for k, _, _ in polygons]))
    own = [images.own(contour, number) for (_, _, contour), number in zip(polygons, numbers, strict=True)]
    free = np.array([plane is None for plane in own])
    targets = np.array([0 if plane is None else plane for plane in own])
    targets[free] = _nearest(numbers[free], len(images.positions))
    off = np.abs(numbers - targets)
    if off.max() > FURTHEST_SLICES + HALF_TOLERANCE_SLICES:
        far = int(np.count_nonzero(off > FURTHEST_SLICES + HALF_TOLERANCE_SLICES))
        raise ValueError(
            f"{far} of {len(polygons)} contours lie up to {off.max():.2g} slices off the image they belong to, and at most "
            "half a slice is accepted; export contours and images again from one place"
        )
    if off.max() > PLANE_TOLERANCE_SLICES:
        # As rounded as it is shown, so that what is the same for several organs is said once.
        notes.append(Message("contours_off_the_images", {"slices": float(f"{off.max():.2g}")}))
    kept: list[tuple[float, np.ndarray, str]] = []
    for target in np.unique(targets):
        here = np.flatnonzero(targets == target)
        best = here[np.argmin(off[here])]  # of planes finer than the images, one
        kept += [
            (float(images.positions[target]), polygons[at][1], polygons[at][2].kind)
            for at in here.tolist()
            if abs(numbers[at] - numbers[best]) <= PLANE_TOLERANCE_SLICES
        ]
    if len(kept) < len(polygons):
        notes.append(Message("contours_between_the_images", {"n": len(polygons) - len(kept)}))
    return kept


def _nearest(numbers: np.ndarray, n_images: int) -> np.ndarray:
    """The nearest image of each contour that names none.

    Contours that are all off by the same share of a slice move by the same share. Exactly half-way all move to the image
    with the lower number, so that no slice takes two contours and the next none.
    """
    if not numbers.size:
        return np.zeros(0, dtype=int)
    share = float(np.angle(np.mean(np.exp(2j * np.pi * numbers))) / (2 * np.pi))  # within half a slice
    moved = numbers - share
    targets = np.rint(moved)
    if np.abs(moved - targets).max() > PLANE_TOLERANCE_SLICES:  # no common share: each by itself
        targets = np.ceil(numbers - FURTHEST_SLICES - HALF_TOLERANCE_SLICES)
    elif share <= HALF_TOLERANCE_SLICES - FURTHEST_SLICES and targets.min() > 0:
        targets -= 1
    return np.clip(targets, 0, n_images - 1).astype(int)
