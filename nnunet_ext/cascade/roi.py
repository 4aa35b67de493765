"""The region of interest (ROI) of the segmenter, a box that follows from the localizer's label map.

Every organ found votes for the centre of the box. The plan stores how far each organ lies from the centre in the
training labels. So two eyes suffice to place a box that also holds the chiasm. The preprocessor uses this rule at
prediction, and the dataset uses it in training and validation. Nothing else places a box.

Positions are in mm from the outer edge of the array's first voxel, along the array's own axes. Voxel `i` spans
`[i * spacing, (i + 1) * spacing]`. Edges are used because nnU-Net's resampling keeps the edges of a volume in place. A
position in mm is then the same on the original and on the resampled grid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

Box = tuple[tuple[int, int], ...]

#: Components smaller than this share of an organ's largest one are taken for false positives of the localizer.
MIN_COMPONENT_SHARE = 0.25
#: Least spread of an organ's votes, also given to an organ seen in one case. Labels are drawn to about a voxel.
MIN_SPREAD_MM = 1.0
#: Room of a grown box beyond what the organs of all training cases need, as a share of that, for a larger head than theirs.
ROOM_SHARE = 0.25
#: A vote further from the others than this many spreads (but never nearer than `MIN_OUTLIER_MM`) is dropped.
OUTLIER_SPREADS = 4.0
MIN_OUTLIER_MM = 15.0


@dataclass(frozen=True)
class OrganExtent:
    """Centroid and bounding box of one organ, each `(3,)` in mm along the array's axes, and its volume."""

    centroid_mm: tuple[float, ...]
    lower_mm: tuple[float, ...]
    upper_mm: tuple[float, ...]
    volume_ml: float


def middle_of(extent: OrganExtent) -> tuple[float, ...]:
    """Middle of an organ's bounding box, `(3,)` in mm, around which its crop lies."""
    return tuple((lower + upper) / 2 for lower, upper in zip(extent.lower_mm, extent.upper_mm, strict=True))


def extents_to_numbers(extents: Mapping[int, OrganExtent]) -> dict[int, dict[str, list[float] | float]]:
    """Extents as plain numbers for files: label value -> field of `OrganExtent` -> mm or mL."""
    return {
        value: {
            "centroid_mm": [float(x) for x in extent.centroid_mm],
            "lower_mm": [float(x) for x in extent.lower_mm],
            "upper_mm": [float(x) for x in extent.upper_mm],
            "volume_ml": float(extent.volume_ml),
        }
        for value, extent in extents.items()
    }


def extents_from_numbers(stored: Mapping[int, Mapping | OrganExtent]) -> dict[int, OrganExtent]:
    """The reverse of `extents_to_numbers`. Until version 0.1.0 files held the objects themselves, which are taken too."""
    return {
        value: extent
        if isinstance(extent, OrganExtent)
        else OrganExtent(
            tuple(extent["centroid_mm"]), tuple(extent["lower_mm"]), tuple(extent["upper_mm"]), extent["volume_ml"]
        )
        for value, extent in stored.items()
    }


@dataclass(frozen=True)
class RoiRule:
    """The plan's `roi` entry. Its axes are the plan's, after `transpose_forward`.

    Attributes:
        size_mm: Edge lengths of the box.
        offset_mm: Label value -> organ centroid minus box centre, median over the training cases.
        spread_mm: Label value -> typical distance of an organ's vote from the box centre. A small one is reliable.
        jitter_mm: Largest uniform shift of the box along each axis in training, which is the localizer's expected
            error.
        left_out: Label values of organs too large for the patch. They vote, but are background to the segmenter.
    """

    size_mm: tuple[float, ...]
    offset_mm: Mapping[int, tuple[float, ...]]
    spread_mm: Mapping[int, float]
    jitter_mm: float = 0.0
    left_out: tuple[int, ...] = ()

    def to_plan(self) -> dict:
        """The rule as plain JSON types."""
        plan = asdict(self)
        plan["offset_mm"] = {str(k): [float(x) for x in v] for k, v in self.offset_mm.items()}
        plan["spread_mm"] = {str(k): float(v) for k, v in self.spread_mm.items()}
        plan["size_mm"] = [float(x) for x in self.size_mm]
        plan["left_out"] = [int(k) for k in self.left_out]
        return plan

    @classmethod
    def from_plan(cls, plan: Mapping) -> RoiRule:
        """The rule that `to_plan` wrote.

        Raises:
            ValueError: If a key is missing because the plans were edited or made by another version.
        """
        try:
            return cls(
                size_mm=tuple(float(x) for x in plan["size_mm"]),
                offset_mm={int(k): tuple(float(x) for x in v) for k, v in plan["offset_mm"].items()},
                spread_mm={int(k): float(v) for k, v in plan["spread_mm"].items()},
                jitter_mm=float(plan["jitter_mm"]),
                left_out=tuple(int(k) for k in plan.get("left_out", ())),
            )
        except KeyError as e:
            raise ValueError(f"the plan's 'roi' has no {e}. Plan the dataset again with -pl CascadeOARPlanner.") from e


@dataclass(frozen=True)
class RoiDecision:
    """Position of the box, and the reasons for it.

    Attributes:
        centre_mm: Centre of the box, or None if no organ was found. The box is then the whole volume.
        box: `((lower, upper), ...)` in voxels, upper excluded.
        voters: Label values whose votes were used.
        outliers: Label values found but overruled by the others.
    """

    centre_mm: tuple[float, ...] | None
    box: Box
    voters: tuple[int, ...] = ()
    outliers: tuple[int, ...] = ()

    @property
    def found(self) -> bool:
        """False if the localizer found no organ. The box is then the whole volume."""
        return self.centre_mm is not None


def organ_extents(label_map: np.ndarray, *, spacing_mm: Sequence[float], clean: bool = False) -> dict[int, OrganExtent]:
    """Centroid and bounding box of every label present.

    Args:
        label_map: Integer array, shape `(Z, Y, X)` or plan axes. 0 and negative values are background.
        spacing_mm: Voxel size along the same axes.
        clean: Leave out components smaller than `MIN_COMPONENT_SHARE` of the label's largest one.

    Returns:
        Label value -> extent. Absent labels have no entry.
    """
    label_map = np.asarray(label_map)
    if label_map.dtype.kind != "i":
        label_map = label_map.astype(np.int32)
    spacing = np.asarray(spacing_mm, dtype=float)
    extents = {}
    for value, where in enumerate(ndimage.find_objects(np.maximum(label_map, 0)), start=1):
        if where is None:
            continue
        mask = label_map[where] == value
        if clean:
            components, n = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
            if n > 1:
                sizes = np.bincount(components.ravel())
                sizes[0] = 0
                mask = (sizes >= MIN_COMPONENT_SHARE * sizes.max())[components]
        index = np.argwhere(mask) + [s.start for s in where]
        extents[value] = OrganExtent(
            centroid_mm=tuple((index.mean(0) + 0.5) * spacing),
            lower_mm=tuple(index.min(0) * spacing),
            upper_mm=tuple((index.max(0) + 1) * spacing),
            volume_ml=float(len(index) * spacing.prod() / 1000),
        )
    return extents


def vote_centre(
    extents: Mapping[int, OrganExtent], rule: RoiRule
) -> tuple[tuple[float, ...] | None, tuple[int, ...], tuple[int, ...]]:
    """Robust mean of the organs' votes for the box centre.

    Each organ votes `centroid - offset`, weighted by 1 / spread^2. A vote is an outlier if it lies further from the
    weighted mean of the others than `OUTLIER_SPREADS` spreads of that distance. The worst outlier is dropped until there
    is none. Of two votes that disagree, the less reliable one is dropped.

    Returns:
        Centre `(3,)` in mm (None without a vote), labels used, labels dropped.
    """
    votes = {k: np.subtract(extents[k].centroid_mm, rule.offset_mm[k]) for k in sorted(extents) if k in rule.offset_mm}
    if not votes:
        return None, (), ()
    weight = {k: 1.0 / max(rule.spread_mm[k], MIN_SPREAD_MM) ** 2 for k in votes}
    used, dropped = list(votes), []

    def mean(keys: Sequence[int]) -> np.ndarray:
        return np.average([votes[k] for k in keys], axis=0, weights=[weight[k] for k in keys])

    while len(used) > 1:
        excess = {}
        for k in used:
            others = [o for o in used if o != k]
            # Of the difference: of two votes that disagree, both are as far off, and the less reliable one goes.
            spread = np.sqrt(1 / weight[k] + 1 / sum(weight[o] for o in others))
            limit = max(MIN_OUTLIER_MM, OUTLIER_SPREADS * spread)
            excess[k] = np.linalg.norm(votes[k] - mean(others)) / limit
        worst = max(used, key=lambda k: (round(excess[k], 6), rule.spread_mm[k]))
        if excess[worst] <= 1.0:
            break
        used.remove(worst)
        dropped.append(worst)
    return tuple(float(x) for x in mean(used)), tuple(used), tuple(dropped)


def box_around(
    centre_mm: Sequence[float] | np.ndarray,
    size_mm: Sequence[float] | np.ndarray,
    *,
    spacing_mm: Sequence[float],
    shape: Sequence[int],
) -> Box:
    """Box of whole voxels inside the volume, nearest to a box in mm and never larger than it.

    A box that leaves the volume is moved inside. If the volume is smaller than the box, the box is the volume.

    Args:
        centre_mm, size_mm: Centre and edge lengths of the wanted box.
        spacing_mm, shape: Voxel size and size in voxels of the volume, same axes.
    """
    box = []
    for centre, size, spacing, n in zip(centre_mm, size_mm, spacing_mm, shape, strict=True):
        # The tolerance keeps 40 voxels of 0.8 mm from becoming 39 by rounding. A box is at least one voxel.
        length = min(int(n), max(1, int(np.floor(size / spacing + 1e-4))))
        lower = round(float(centre / spacing - length / 2))
        lower = min(max(lower, 0), int(n) - length)
        box.append((lower, lower + length))
    return tuple(box)


def whole(shape: Sequence[int]) -> Box:
    """The box that is the whole volume."""
    return tuple((0, int(n)) for n in shape)


def find_roi(label_map: np.ndarray, rule: RoiRule, *, spacing_mm: Sequence[float]) -> RoiDecision:
    """The box for a label map of the localizer, or the whole volume if the localizer found no organ.

    Args:
        label_map: Integer array in plan axes.
        spacing_mm: Voxel size along the same axes.
    """
    extents = organ_extents(label_map, spacing_mm=spacing_mm, clean=True)
    centre, voters, outliers = vote_centre(extents, rule)
    if centre is None:
        return RoiDecision(None, whole(label_map.shape))
    box = box_around(centre, rule.size_mm, spacing_mm=spacing_mm, shape=label_map.shape)
    return RoiDecision(centre, box, voters, outliers)


def slices(box: Box) -> tuple[slice, ...]:
    """The box as an index."""
    return tuple(slice(lower, upper) for lower, upper in box)


def label_crop_pass_rate(label_map: np.ndarray, box: Box) -> float:
    """Share of organ voxels inside the box, in [0, 1], or NaN if the label map holds no organ.

    Source:
        The reference study's "label crop pass rate", which counts all organs of a case together.
    """
    total = int(np.count_nonzero(label_map > 0))
    return float(np.count_nonzero(label_map[slices(box)] > 0) / total) if total else float("nan")


def touches_border(label_map: np.ndarray, box: Box) -> list[int]:
    """Sides on which an organ reaches the border of the box.

    Sides on the border of the volume do not count, because the image ends there.

    Args:
        label_map: Of the whole volume.
        box: In voxels of `label_map`.

    Returns:
        `2 * axis` for the lower and `2 * axis + 1` for the upper side.
    """
    inside = np.asarray(label_map)[slices(box)] > 0
    sides = []
    for axis, (lower, upper) in enumerate(box):
        plane = np.moveaxis(inside, axis, 0)
        if lower > 0 and plane[0].any():
            sides.append(2 * axis)
        if upper < label_map.shape[axis] and plane[-1].any():
            sides.append(2 * axis + 1)
    return sides


def largest_size_mm(plan: Mapping) -> tuple[float, ...] | None:
    """Edge lengths that no box may exceed by growing: those that the training labels make believable.

    Args:
        plan: The plan's `roi` entry.

    Returns:
        What the organs of all training cases need and a quarter, with the margin on both sides. Never less than the box
        has anyway. None if the plan does not say what they need.
    """
    if "needed_mm" not in plan:
        return None
    wanted = (need * (1 + ROOM_SHARE) + 2 * plan.get("margin_mm", 0.0) for need in plan["needed_mm"])
    return tuple(max(float(size), float(mm)) for size, mm in zip(plan["size_mm"], wanted, strict=True))


def grown(
    box: Box,
    touched: Collection[int],
    organs: Box,
    *,
    step: Sequence[int],
    outer: Box,
    most: Sequence[int] | None = None,
) -> Box:
    """The box with the sides that an organ touches moved outwards, as long as it stays believable.

    Where it would become too long, the opposite side gives way as far as it is a step away from every organ. If the organs
    need more than that, this axis stays as it is.

    Args:
        box: In voxels.
        touched: Sides, see `touches_border`.
        organs: Box of all organs found in `box`.
        step: Voxels along each axis.
        outer: Box that is never left.
        most: Largest number of voxels along each axis. None is no limit.
    """
    result = []
    for axis, (lower, upper) in enumerate(box):
        first, end = outer[axis]
        at_lower, at_upper = 2 * axis in touched, 2 * axis + 1 in touched
        new_lower = max(first, lower - step[axis]) if at_lower else lower
        new_upper = min(end, upper + step[axis]) if at_upper else upper
        if most is not None and new_upper - new_lower > most[axis]:
            if at_lower and not at_upper:
                new_upper = min(upper, max(new_lower + most[axis], organs[axis][1] + step[axis]))
            elif at_upper and not at_lower:
                new_lower = max(lower, min(new_upper - most[axis], organs[axis][0] - step[axis]))
            if new_upper - new_lower > most[axis]:
                new_lower, new_upper = lower, upper
        result.append((new_lower, new_upper))
    return tuple(result)


def occupied(label_map: np.ndarray, box: Box) -> Box:
    """Box of all voxels of organs inside a box, or the box itself if there are none."""
    found = ndimage.find_objects((np.asarray(label_map)[slices(box)] > 0).astype(np.int8))
    if not found:
        return box
    return tuple((lower + s.start, lower + s.stop) for (lower, _), s in zip(box, found[0], strict=True))


def left_out_labels(configuration: Mapping) -> tuple[int, ...]:
    """Label values that a configuration of the plan leaves out of its crop. Without a crop there are none."""
    return tuple(int(k) for k in (configuration.get("roi") or {}).get("left_out", ()))


def without(label_map: np.ndarray, left_out: Collection[int]) -> np.ndarray:
    """The label map with some labels set to background, or the label map itself if `left_out` is empty."""
    return np.where(np.isin(label_map, list(left_out)), 0, label_map).astype(label_map.dtype) if left_out else label_map
