"""The volumes that one DICOM series holds: echoes, acquisitions, phases, parts of complex and Dixon images.

Scanners and archives store several volumes under one SeriesInstanceUID. Two volumes show as images that share their
places, or that lie between each other's although they are too thick for that. Their headers tell them apart. Interleaved
passes of one acquisition, slabs one after the other, and images that are numbered one by one remain one volume.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nnunet_ext.dicom.traits import TRAIT_WORDS, Traits, equal_within_rounding

#: Positions that differ by less are one place. Archives round positions to 0.1 mm.
PLACE_TOLERANCE_MM = 0.1
#: Slices that fill the gaps of another volume lie at least this share of their thickness away from its slices.
LARGEST_OVERLAP = 0.8
#: Fewer images are no volume of their own.
FEWEST_SLICES = 3
#: Images of one volume may differ in these traits. They alone tell volumes apart whose slices lie between each other.
_RUNS = ("acquisition", "temporal", "stack", "time")


@dataclass(frozen=True)
class Part:
    """One volume.

    Attributes:
        images: Which of the images, as indices.
        name: How it is chosen, such as `("echo 1",)`. Empty for a series that is one volume.
        note: Meaning of the name, such as `TE 1.69 ms`.
        rest: Parts that only the order of the images tells apart. The images are one volume if these are copies.
    """

    images: tuple[int, ...]
    name: tuple[str, ...] = ()
    note: str = ""
    rest: tuple[Part, ...] = ()


def split_volumes(
    along_mm: Sequence[float],
    traits: Sequence[Traits],
    *,
    thickness_mm: float | None,
    spacing_mm: float | None,
    modality: str,
) -> list[Part]:
    """The volumes among the images of one series, direction and matrix.

    Args:
        along_mm: Position of each image along the slices' normal.
        traits: Of each image.
        thickness_mm: Usual slice thickness, None if the headers do not say it.
        spacing_mm: Usual SpacingBetweenSlices, None if the headers do not say it.
        modality: `CT` or `MR`. Only an MR is measured in passes that lie between each other.
    """
    images = _Images(np.asarray(along_mm, dtype=float), traits, thickness_mm, spacing_mm, modality)
    return images.split(tuple(range(len(traits))), (), "")


class _Images:
    def __init__(
        self,
        along: np.ndarray,
        traits: Sequence[Traits],
        thickness_mm: float | None,
        spacing_mm: float | None,
        modality: str,
    ) -> None:
        self.along, self.traits, self.modality = along, traits, modality
        self.thickness_mm, self.spacing_mm = thickness_mm, spacing_mm
        order = np.argsort(along, kind="stable")
        new = np.diff(along[order], prepend=-np.inf) > PLACE_TOLERANCE_MM
        self.place = np.empty(len(along), dtype=int)
        self.place[order] = np.cumsum(new) - 1

    def split(self, images: tuple[int, ...], name: tuple[str, ...], note: str) -> list[Part]:
        repeated = len(self._places(images)) < len(images)
        groups = self._repeated(images) if repeated else self._between(images)
        if groups:
            return [
                part
                for members, word, more in groups
                for part in self.split(members, (*name, word), ", ".join(filter(None, (note, more))))
            ]
        rest = self._by_order(images, name, note) if repeated else ()
        return [Part(images, name, note, rest)]

    def _places(self, images: Sequence[int]) -> set[int]:
        return {int(self.place[i]) for i in images}

    # ------------------------------------------------------------------------ images that share their places

    def _repeated(self, images: tuple[int, ...]) -> list[tuple[tuple[int, ...], str, str]]:
        for trait in TRAIT_WORDS:
            if groups := self._by_rank(images, trait):
                return self._named(trait, groups)
            groups = self._by_value(images, trait)
            if len(groups) > 1 and self._overlap(images, groups):
                return self._named(trait, groups)
        return []

    def _overlap(self, images: tuple[int, ...], groups: list[tuple[int, ...]]) -> bool:
        """Whether groups are volumes that share places, and share fewer of them within themselves than before."""
        own = [self._places(group) for group in groups]
        if min(map(len, own)) < FEWEST_SLICES:
            return False
        spare = sum(len(group) - len(places) for group, places in zip(groups, own, strict=True))
        if spare >= len(images) - len(self._places(images)):
            return False
        at = min(range(len(own)), key=lambda k: len(own[k]))
        others = set().union(*(places for k, places in enumerate(own) if k != at))
        return 2 * len(own[at] & others) >= len(own[at])

    def _by_value(self, images: tuple[int, ...], trait: str) -> list[tuple[int, ...]]:
        """Images of equal value, in the order of the values. Numbers that differ by rounding are equal."""
        values = [getattr(self.traits[i], trait) for i in images]
        _, _, least, share = TRAIT_WORDS[trait]
        groups: list[list[int]] = []
        last: object = object()
        for value, i in sorted(zip(values, images, strict=True), key=lambda pair: (pair[0] is not None, pair[0] or 0)
                               if not isinstance(pair[0], str) else (True, pair[0])):  # fmt: skip
            if isinstance(value, float) and isinstance(last, float):
                equal = equal_within_rounding(value, last, least, share)
            else:
                equal = value == last
            if not groups or not equal:
                groups.append([])
            groups[-1].append(i)
            last = value
        return [tuple(sorted(group)) for group in groups]

    def _by_rank(self, images: tuple[int, ...], trait: str) -> list[tuple[int, ...]]:
        """Images that are first, second, ... at their places by a number that each place rounds or times by itself."""
        if trait not in ("echo", "inversion", "trigger", "time"):
            return []
        _, _, least, share = TRAIT_WORDS[trait]
        places: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for i in images:
            value = getattr(self.traits[i], trait)
            if value is None:
                return []
            places[int(self.place[i])].append((value, i))
        ranks = [sorted(place) for place in places.values()]
        if len(ranks) < FEWEST_SLICES or len({len(place) for place in ranks}) != 1:
            return []
        for place in ranks:
            for (value, _), (following, _) in pairwise(place):
                if equal_within_rounding(value, following, least, share):
                    return []
        return [tuple(sorted(i for _, i in group)) for group in zip(*ranks, strict=True)]

    def _by_order(self, images: tuple[int, ...], name: tuple[str, ...], note: str) -> tuple[Part, ...]:
        """First, second, ... image at each place by its number, for choosing. They may be copies."""
        places: dict[int, list[tuple[tuple[float, float], int]]] = defaultdict(list)
        for i in images:
            one = self.traits[i]
            places[int(self.place[i])].append(((one.instance or 0.0, one.content_time or 0.0), i))
        ranks = [sorted(place) for place in places.values()]
        distinct = all(len({key for key, _ in place}) == len(place) for place in ranks)
        if len(ranks) < FEWEST_SLICES or len({len(place) for place in ranks}) != 1 or not distinct:
            return ()
        parts = []
        for number, group in enumerate(zip(*ranks, strict=True), start=1):
            instances = sorted(key[0] for key, _ in group)
            more = f"images {instances[0]:g} to {instances[-1]:g}" if instances[0] < instances[-1] else ""
            parts.append(Part(tuple(sorted(i for _, i in group)), (*name, f"part {number}"),
                              ", ".join(filter(None, (note, more)))))  # fmt: skip
        return tuple(parts)

    # ------------------------------------------------------------ images that lie between those of other volumes

    def _between(self, images: tuple[int, ...]) -> list[tuple[tuple[int, ...], str, str]]:
        for trait in _RUNS:
            groups = self._by_value(images, trait)
            if trait == "time" and min(map(len, groups)) < FEWEST_SLICES:
                groups = self._by_pauses(images)
            if self._are_apart(groups):
                return self._named(trait, groups)
        groups = self._by_instance(images)
        if self._are_apart(groups):
            numbers = [sorted(int(self.traits[i].instance or 0) for i in group) for group in groups]
            return [
                (group, f"part {at}", f"images {of[0]} to {of[-1]}")
                for at, (group, of) in enumerate(zip(groups, numbers, strict=True), start=1)
            ]
        return []

    def _are_apart(self, groups: list[tuple[int, ...]]) -> bool:
        """Whether groups are volumes that overlap, and not passes that fill each other's gaps."""
        if len(groups) < 2 or min(map(len, groups)) < FEWEST_SLICES:
            return False
        group_of = {i: number for number, group in enumerate(groups) for i in group}
        order = sorted(group_of, key=lambda i: self.along[i])
        between, nearest = [], []
        smallest = min(range(len(groups)), key=lambda number: len(groups[number]))
        for at, i in enumerate(order):
            if group_of[i] == smallest:
                beside = order[max(at - 1, 0) : at] + order[at + 1 : at + 2]
                between.append(all(group_of[j] != smallest for j in beside))
                nearest.append(min(abs(self.along[i] - self.along[j]) for j in beside))
        if 2 * sum(between) < len(between):
            return False  # slabs, one after the other
        own = np.diff(np.sort(self.along[list(groups[smallest])]))
        apart_mm, alone_mm = float(np.median(nearest)), float(np.median(own))
        if self.spacing_mm and self.spacing_mm > apart_mm / 2:
            return abs(alone_mm - self.spacing_mm) < abs(apart_mm - self.spacing_mm)
        if self.thickness_mm:
            return apart_mm < LARGEST_OVERLAP * self.thickness_mm
        return self.modality == "CT"

    def _by_pauses(self, images: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Images before and after pauses that are far longer than the time from image to image."""
        times = [(self.traits[i].time, i) for i in images]
        if any(time is None for time, _ in times):
            return [images]
        times.sort()
        steps = np.diff([time for time, _ in times])
        usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
        groups: list[list[int]] = [[]]
        for (_, i), step in zip(times, [0.0, *steps], strict=True):
            if step > max(4 * usual, 1.0):
                groups.append([])
            groups[-1].append(i)
        return [tuple(sorted(group)) for group in groups]

    def _by_instance(self, images: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Images whose numbers go once along the normal."""
        numbers = [self.traits[i].instance for i in images]
        if None in numbers or len(set(numbers)) < len(numbers):
            return [images]
        ordered = [i for _, i in sorted(zip(numbers, images, strict=True))]
        groups = [[ordered[0]]]
        way = np.sign(self.along[ordered[1]] - self.along[ordered[0]]) if len(ordered) > 1 else 1
        for before, i in pairwise(ordered):
            if np.sign(self.along[i] - self.along[before]) != way:
                groups.append([])
            groups[-1].append(i)
        return [tuple(sorted(group)) for group in groups]

    # ------------------------------------------------------------------------------------------------- names

    def _named(self, trait: str, groups: list[tuple[int, ...]]) -> list[tuple[tuple[int, ...], str, str]]:
        word, unit, *_ = TRAIT_WORDS[trait]
        values = [Counter(getattr(self.traits[i], trait) for i in group).most_common(1)[0][0] for group in groups]
        if trait == "kind":
            texts = _differences([value or "" for value in values])
        elif trait in ("b", "kvp", "flip", "acquisition", "kernel", "stack") and len(set(values)) == len(values):
            texts = [
                "none" if value is None else f"{value:g}" if isinstance(value, float) else value for value in values
            ]
        else:
            texts = [str(number) for number in range(1, len(groups) + 1)]
        notes = [unit.format(value) if unit and value is not None else "" for value in values]
        return [(group, f"{word} {text}", note) for group, text, note in zip(groups, texts, notes, strict=True)]


def _differences(kinds: Sequence[str]) -> list[str]:
    """The values of ImageType that are not those of all, such as `W` and `F`. Numbers if these do not differ."""
    values = [kind.split("\\") for kind in kinds]
    common = set(values[0]).intersection(*values[1:])
    texts = [" ".join(dict.fromkeys(value for value in own if value not in common)) for own in values]
    texts = [text or "plain" for text in texts]
    return texts if len(set(texts)) == len(texts) else [str(number) for number in range(1, len(texts) + 1)]
