"""Whether volumes, sides and distances of predicted organs are like those of the training cases.

The planner measures the training labels and puts ranges into the plans file, so a model that is handed on carries them.
Prediction measures each case and warns if something lies outside. Only quantities that do not depend on the head's
position in the image are compared. Organs that a case lacks are not.

A range is a prediction interval, mean +- k SD of the training cases. k is from Student's t distribution, so that few
training cases give wide ranges. It is shared out (Bonferroni) so that at most `FLAGGED_SHARE` of cases like the
training cases are flagged for no reason. The measures depend on each other, so fewer are. A simulation with the means
and covariances of 19 tiny phantoms gave 3 to 4 %, for 15, 60 and 1,000 training cases alike. It was made before
`VOLUME_SD_OF_ONE_VOXEL` was added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from scipy import special

from nnunet_ext.cascade.roi import OrganExtent
from nnunet_ext.labels.pairs import pair_names
from nnunet_ext.messages import Message

#: Key of the plans file.
PLANS_KEY = "plausibility"
#: At most this share of cases like the training cases is flagged.
FLAGGED_SHARE = 0.1
#: With fewer cases that hold the organ there is no range.
FEWEST_CASES = 5
#: Least SDs believed, for contours are drawn, and predicted, to about a voxel: of the logarithm of a volume (10 %), and of
#: a distance.
LEAST_VOLUME_SD, LEAST_DISTANCE_SD_MM = 0.1, 1.0
#: The volume of an organ of N voxels is predicted to `VOLUME_SD_OF_ONE_VOXEL / sqrt(N)` at best, 14 % for a lens of 13. On
#: phantoms, a network of ten minutes' training was off by twice that. Chosen on the demo's four test cases: two are flagged.
VOLUME_SD_OF_ONE_VOXEL = 0.5
#: A training case this many spreads (1.48 x the median absolute deviation) from the median is taken for a mistake in the
#: labels and left out of the range.
MISTAKE_SPREADS = 5.0

Range = tuple[float, float]


@dataclass(frozen=True)
class PlausibleRanges:
    """Usual values of the training cases, by organ names, in plain JSON types.

    Attributes:
        volume_ml: Organ -> range.
        left_to_right_volume: Left organ -> range of its volume over that of its right partner.
        left_to_right_mm: Left organ -> median of its centroid's position minus its partner's, along X of the arrays as
            nnU-Net reads them. Only its sign is used.
        distance_mm: Organ -> other organ -> range of the distance of their centroids.
    """

    volume_ml: Mapping[str, Range]
    left_to_right_volume: Mapping[str, Range]
    left_to_right_mm: Mapping[str, float]
    distance_mm: Mapping[str, Mapping[str, Range]]

    def to_plan(self) -> dict:
        return asdict(self)

    @classmethod
    def from_plan(cls, plan: Mapping) -> PlausibleRanges:
        """The ranges that `to_plan` wrote.

        Raises:
            ValueError: If they are not in that form, because the plans were made by another version or edited.
        """
        try:
            return cls(**plan)
        except TypeError as error:
            raise ValueError(
                f"the plan's '{PLANS_KEY}' is not as expected: {error}. Plan the dataset again with -pl CascadeOARPlanner."
            ) from error


def fit_ranges(
    cases: Sequence[Mapping[int, OrganExtent]],
    labels: Mapping[str, int],
    *,
    voxel_ml: float,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> PlausibleRanges:
    """The ranges for a training set.

    Args:
        cases: Organs of each training case by label value, axes `(Z, Y, X)` as nnU-Net reads them.
        labels: `labels` of the `dataset.json`.
        voxel_ml: Volume of a typical case's voxel.
        pairs: Left and right organs. None to pair them by name.
    """
    named = [_by_name(organs, labels) for organs in cases]
    pairs = pair_names(labels).pairs if pairs is None else pairs
    volumes: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    apart: dict[str, list[float]] = {}
    distances: dict[tuple[str, str], list[float]] = {}
    for organs in named:
        for organ, extent in organs.items():
            volumes.setdefault(organ, []).append(np.log(extent.volume_ml))
        for left, right in pairs:
            if left in organs and right in organs:
                ratios.setdefault(left, []).append(np.log(organs[left].volume_ml / organs[right].volume_ml))
                apart.setdefault(left, []).append(organs[left].centroid_mm[2] - organs[right].centroid_mm[2])
        for one, other in combinations(organs, 2):
            distances.setdefault((one, other), []).append(_distance_mm(organs[one], organs[other]))
    n_ranges = len(volumes) + len(ratios) + len(distances)

    def least_volume_sd(organ: str) -> float:
        return _least_volume_sd(volumes[organ], voxel_ml)

    def volume_range(values: Sequence[float], least_sd: float) -> Range:
        return tuple(np.exp(_range(values, least_sd, n_ranges)).tolist())

    by_organ: dict[str, dict[str, Range]] = {}
    for (one, other), values in distances.items():
        if len(values) >= FEWEST_CASES:
            by_organ.setdefault(one, {})[other] = _range(values, LEAST_DISTANCE_SD_MM, n_ranges)
    return PlausibleRanges(
        volume_ml={k: volume_range(v, least_volume_sd(k)) for k, v in volumes.items() if len(v) >= FEWEST_CASES},
        left_to_right_volume={  # of two volumes, each as uncertain
            k: volume_range(v, np.sqrt(2) * least_volume_sd(k)) for k, v in ratios.items() if len(v) >= FEWEST_CASES
        },
        left_to_right_mm={k: float(np.median(v)) for k, v in apart.items()},
        distance_mm=by_organ,
    )


def unlike_the_others(
    cases: Mapping[str, Mapping[int, OrganExtent]], labels: Mapping[str, int], *, voxel_ml: float
) -> dict[str, list[Message]]:
    """Training cases whose organs have a volume that `fit_ranges` takes for a mistake, each with a message per organ.

    Arguments as for `fit_ranges`, with the names of the cases.
    """
    messages: dict[str, list[Message]] = {}
    for organ, value in labels.items():
        names = [case for case, organs in cases.items() if value in organs]
        if len(names) < FEWEST_CASES:
            continue
        volumes_ml = np.array([cases[case][value].volume_ml for case in names])
        kept = _no_mistakes(np.log(volumes_ml), _least_volume_sd(np.log(volumes_ml), voxel_ml))
        low, high = volumes_ml[kept].min(), volumes_ml[kept].max()
        for case, ml in zip(names, volumes_ml, strict=True):
            if not low <= ml <= high:
                found = Message("volume_unlike_the_others", {"organ": organ, "ml": ml, "low": low, "high": high})
                messages.setdefault(case, []).append(found)
    return messages


def implausible(
    organs: Mapping[int, OrganExtent],
    ranges: PlausibleRanges,
    labels: Mapping[str, int],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[Message]:
    """One message per organ that is unlike the training cases.

    Args:
        organs: Organs of one case by label value, axes `(Z, Y, X)` as nnU-Net reads them.
        ranges: Of the training set.
        labels: `labels` of the `dataset.json`.
        pairs: Left and right organs. None to pair them by name.
    """
    found = _by_name(organs, labels)
    messages = []
    odd_volumes = set()
    for organ, extent in found.items():
        if organ in ranges.volume_ml and (limits := _outside(extent.volume_ml, ranges.volume_ml[organ])):
            low, high = limits
            odd_volumes.add(organ)
            messages.append(
                Message("volume_unusual", {"organ": organ, "ml": extent.volume_ml, "low": low, "high": high})
            )
    for left, right in pair_names(labels).pairs if pairs is None else pairs:
        if left not in found or right not in found:
            continue
        ratio = found[left].volume_ml / found[right].volume_ml
        limits = _outside(ratio, ranges.left_to_right_volume.get(left, (-np.inf, np.inf)))
        if limits and odd_volumes.isdisjoint((left, right)):
            low, high = limits
            odd_volumes.add(left)  # of several partners of an organ, one is enough
            messages.append(
                Message(
                    "volume_ratio_unusual", {"organ": left, "ratio": ratio, "other": right, "low": low, "high": high}
                )
            )
        apart_mm = found[left].centroid_mm[2] - found[right].centroid_mm[2]
        if apart_mm * ranges.left_to_right_mm.get(left, 0.0) < 0:
            messages.append(Message("sides_swapped", {"organ": left, "other": right}))
    return messages + _misplaced(found, ranges)


def _misplaced(found: Mapping[str, OrganExtent], ranges: PlausibleRanges) -> list[Message]:
    """The fewest organs that explain all unusual distances. A moved organ is far from, or near to, all others."""
    unusual: dict[tuple[str, str], tuple[float, Range]] = {}
    for one, other in combinations(found, 2):
        usual = ranges.distance_mm.get(one, {}).get(other)
        distance = _distance_mm(found[one], found[other])
        if usual is not None and (limits := _outside(distance, usual)):
            unusual[one, other] = distance, limits
    messages = []
    while unusual:
        counts = Counter(organ for pair in unusual for organ in pair)
        organ = max(counts, key=lambda name: counts[name])
        mine = {pair: found for pair, found in unusual.items() if organ in pair}
        (pair, (mm, (low, high))), *others = mine.items()
        other = pair[pair[0] == organ]
        if others:
            messages.append(
                Message(
                    "distances_unusual",
                    {"organ": organ, "mm": mm, "other": other, "low": low, "high": high, "n": len(others)},
                )
            )
        else:
            messages.append(
                Message("distance_unusual", {"organ": organ, "mm": mm, "other": other, "low": low, "high": high})
            )
        unusual = {pair: found for pair, found in unusual.items() if pair not in mine}
    return messages


def _by_name(organs: Mapping[int, OrganExtent], labels: Mapping[str, int]) -> dict[str, OrganExtent]:
    """In the order of the labels, so that every pair of organs comes one way round."""
    return {name: organs[value] for name, value in labels.items() if value in organs}


def _distance_mm(one: OrganExtent, other: OrganExtent) -> float:
    return float(np.linalg.norm(np.subtract(one.centroid_mm, other.centroid_mm)))


def _range(values: Sequence[float], least_sd: float, n_ranges: int) -> Range:
    """Range that holds the next value with a probability of `1 - FLAGGED_SHARE / n_ranges`, were values normal."""
    every = np.asarray(values)
    kept = every[_no_mistakes(every, least_sd)]
    n = len(kept)
    sd = max(kept.std(ddof=1), least_sd)
    # The quantile of Student's t. `scipy.stats` has it too, and takes a second to import.
    half = special.stdtrit(n - 1, 1 - FLAGGED_SHARE / n_ranges / 2) * np.sqrt(1 + 1 / n) * sd
    return float(kept.mean() - half), float(kept.mean() + half)


def _no_mistakes(values: np.ndarray, least_sd: float) -> np.ndarray:
    """A bool per value, true if it lies within `MISTAKE_SPREADS` of the median."""
    off = np.abs(values - np.median(values))
    return off <= MISTAKE_SPREADS * max(1.4826 * np.median(off), least_sd)


def _least_volume_sd(log_volumes: Sequence[float], voxel_ml: float) -> float:
    n_voxels = np.exp(np.median(log_volumes)) / voxel_ml
    return max(LEAST_VOLUME_SD, VOLUME_SD_OF_ONE_VOXEL / np.sqrt(n_voxels))


def _outside(value: float, limits: Range) -> Range | None:
    """The limits, from 0 on, if the value lies outside, else None."""
    lower, upper = limits
    return None if lower <= value <= upper else (max(lower, 0), upper)
