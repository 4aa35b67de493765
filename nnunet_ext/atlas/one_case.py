"""One new case: atlases brought onto it, the nearest chosen, their labels fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk

from nnunet_ext.atlas.atlases import Atlas, make_target
from nnunet_ext.atlas.cache import TransformCache
from nnunet_ext.atlas.fusing import staple, vote
from nnunet_ext.atlas.placing import Placed, part_of, place, shares_on
from nnunet_ext.files import in_one_line
from nnunet_ext.messages import Message
from nnunet_ext.registration.between_people import fit_between_people, fit_linear
from nnunet_ext.registration.similarity import information_of
from nnunet_ext.registration.volumes import Target

#: Ways to fuse labels, and the folders of their label maps.
STAPLE, VOTING = "staple", "voting"
FUSIONS = (STAPLE, VOTING)
#: Levels of a transform in the cache.
LINEAR, ELASTIC = "linear", "elastic"


@dataclass(frozen=True)
class Fit:
    """An atlas on a new case.

    Attributes:
        atlas: The atlas.
        transform: Points of the case -> points of the atlas, LPS, mm.
        information: Mutual information of the two images inside the head, nats.
        placed: Where the organs come to lie.
    """

    atlas: Atlas
    transform: sitk.Transform
    information: float
    placed: Placed

    def record(self) -> dict:
        """Plain JSON."""
        return {
            "level": LINEAR if self.transform.IsLinear() else ELASTIC,
            "mutual_information": round(self.information, 4),
            "outside": list(self.placed.outside),
        }


@dataclass
class Contoured:
    """Result for one case.

    Attributes:
        label_maps: Way to fuse -> label map `(Z, Y, X)` on the case's canonical grid.
        fits: Of the atlases that were fused, the nearest first.
        warnings: Whatever the way.
    """

    label_maps: dict[str, np.ndarray]
    fits: list[Fit]
    warnings: list[Message] = field(default_factory=list)


def contour_case(
    image: sitk.Image,
    atlases: Sequence[Atlas],
    cache: TransformCache,
    *,
    channel: str,
    organs: Mapping[str, int],
    n_atlases: int,
    n_threads: int,
) -> Contoured:
    """Contours of a new case by the atlases that are most like it.

    All atlases are brought onto the case by an affine transform. Those with the most mutual information go on to an elastic
    one. An atlas of which an organ would leave the field of view comes after all others.

    Args:
        image: The new case's image, canonical, in the form of the training images.
        atlases: To choose from.
        cache: Of the case.
        channel: What the image shows.
        organs: Organ -> label value.
        n_atlases: How many to fuse.
        n_threads: Registrations at a time.

    Raises:
        ValueError: If the image shows no head, or no atlas can be brought onto it.
    """
    target = make_target(image, channel=channel)
    warnings: list[Message] = []

    def linear(atlas: Atlas) -> Fit | str:
        try:
            found = cache.get(atlas.name, atlas.image_sha256, LINEAR, lambda: fit_linear(target, atlas.source))
        except (ValueError, RuntimeError) as error:  # two heads that cannot be brought to overlap, and what ITK refuses
            return in_one_line(error)
        return _fit(target, image, atlas, organs, found)

    def elastic(fit: Fit) -> Fit:
        start = sitk.AffineTransform(fit.transform.Downcast())
        found = cache.get(
            fit.atlas.name,
            fit.atlas.image_sha256,
            ELASTIC,
            lambda: fit_between_people(target, fit.atlas.source, start),
        )
        further = _fit(target, image, fit.atlas, organs, found)
        # The check: a B-spline that takes an organ out of the field of view is not kept.
        return fit if set(further.placed.outside) - set(fit.placed.outside) else further

    fits: list[Fit] = []
    for atlas, found in zip(atlases, _in_threads(linear, atlases, n_threads), strict=True):
        if isinstance(found, str):
            warnings.append(Message("atlas_not_brought_onto", {"atlas": atlas.name, "error": found}))
        else:
            fits.append(found)
    if not fits:
        raise ValueError(f"no atlas can be brought onto it: {'; '.join(map(str, warnings))}")
    nearest = sorted(fits, key=lambda fit: (bool(fit.placed.outside), -fit.information))[:n_atlases]
    chosen = sorted(_in_threads(elastic, nearest, n_threads), key=lambda fit: -fit.information)
    warnings += [
        Message("atlas_organs_outside", {"atlas": fit.atlas.name, "organs": fit.placed.outside})
        for fit in chosen
        if fit.placed.outside
    ]
    return Contoured(_fused(image, chosen, organs), chosen, warnings)


def _fit(
    target: Target,
    image: sitk.Image,
    atlas: Atlas,
    organs: Mapping[str, int],
    transform: sitk.Transform,
) -> Fit:
    """An atlas judged at a transform. Files hold affine transforms and chains."""
    information = information_of(target, atlas.source, transform, target.head)
    placed = place(atlas.labels, {organ: organs[organ] for organ in atlas.organs}, image, transform)
    return Fit(atlas, transform, information, placed)


def _fused(image: sitk.Image, fits: Sequence[Fit], organs: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Label maps `(Z, Y, X)` on the image's grid, for each way to fuse."""
    results = {fusion: np.zeros(image.GetSize()[::-1], np.int32) for fusion in FUSIONS}
    found = part_of(image, [fit.placed for fit in fits])
    if found is None:
        return results
    part, first = found
    seen = [
        shares_on(fit.atlas.labels, {organ: organs[organ] for organ in fit.atlas.organs}, part, fit.transform)
        for fit in fits
    ]
    shape = part.GetSize()[::-1]
    where = tuple(slice(a, a + n) for a, n in zip(first[::-1].tolist(), shape, strict=True))
    results[STAPLE][where] = staple(seen, organs, shape, spacing_mm=image.GetSpacing()[::-1])
    results[VOTING][where] = vote(seen, [fit.information for fit in fits], organs, shape)
    return results


def _in_threads(function: Callable, items: Sequence, n_threads: int) -> list:
    """Results in order. ITK leaves Python's lock, so threads use several cores. An interrupt drops what has not begun."""
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="nnunet_ext")
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)
