"""The ROI rule fitted to the organ extents of a training set, and the organs that do not fit a crop of given size."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunet_ext.cascade.roi import MIN_SPREAD_MM, OrganExtent, RoiRule, vote_centre

#: An organ fits a crop if the crop holds it wholly in this share of the training cases. Rarer, larger ones are not lost,
#: because patches slide over the ROI.
FITTING_SHARE = 0.5


@dataclass
class RoiFit:
    """The ROI rule of a training set.

    Attributes:
        rule: For the plan.
        needed_mm: Edge lengths of the box without the margin.
        incomplete_cases: Names of the cases in which an organ is missing.
    """

    rule: RoiRule
    needed_mm: tuple[float, ...]
    incomplete_cases: list[str] = field(default_factory=list)


def fit_roi(cases: Mapping[str, Mapping[int, OrganExtent]], *, margin_mm: float, jitter_mm: float) -> RoiFit:
    """The smallest box that holds every organ of every training case if its own rule places it, plus a margin.

    Offsets: In a case without a missing organ, the box centre is the middle of the organs' common bounding box. An
    organ's offset is the median over those cases. If no case is complete, those with the most organs are used.
    Size: Twice the largest distance, over all cases, of an organ's border from the voted centre, plus the margin.

    Args:
        cases: Case -> extents of its organs, plan axes.
        margin_mm: Added on every side for the localizer's error and for anatomy unlike that of the training set.
        jitter_mm: Recorded in the rule.

    Raises:
        ValueError: If no case holds an organ.
    """
    cases = {name: organs for name, organs in cases.items() if organs}
    if not cases:
        raise ValueError("no training label map holds an organ: the size of the ROI can't be planned. Check labelsTr.")
    every_label = sorted(set().union(*cases.values()))
    most = max(len(organs) for organs in cases.values())
    middles = {name: _middle_mm(organs.values()) for name, organs in cases.items() if len(organs) == most}
    offsets: dict[int, tuple[float, ...]] = {}
    # Labels that the complete cases lack (only where no case has them all) join once the others place the box.
    while len(offsets) < len(every_label):
        deviations = {
            k: [np.subtract(cases[n][k].centroid_mm, c) for n, c in middles.items() if k in cases[n]]
            for k in every_label
            if k not in offsets
        }
        new = {k: tuple(np.median(d, axis=0)) for k, d in deviations.items() if d}
        if not new:  # two groups of cases without one organ in common: let the next case place itself
            name = next(n for n in cases if n not in middles and any(k not in offsets for k in cases[n]))
            middles[name] = _middle_mm(cases[name].values())
            continue
        offsets.update(new)
        rule = RoiRule((0.0,) * len(next(iter(offsets.values()))), offsets, dict.fromkeys(offsets, MIN_SPREAD_MM))
        for name, organs in cases.items():
            centre, _, _ = vote_centre(organs, rule)
            if centre is not None and name not in middles:
                middles[name] = np.asarray(centre)
    spreads = {}
    for k in every_label:
        off_by = [
            np.linalg.norm(np.subtract(organs[k].centroid_mm, offsets[k]) - middles[name])
            for name, organs in cases.items()
            if k in organs and name in middles
        ]
        spreads[k] = float(max(np.sqrt(np.mean(np.square(off_by))), MIN_SPREAD_MM))
    n_axes = len(offsets[every_label[0]])
    rule = RoiRule((0.0,) * n_axes, offsets, spreads, jitter_mm)
    half = np.zeros(n_axes)
    for organs in cases.values():
        centre, _, _ = vote_centre(organs, rule)
        assert centre is not None  # the rule has an offset for every organ
        for organ in organs.values():
            half = np.maximum(
                half, np.maximum(np.subtract(centre, organ.lower_mm), np.subtract(organ.upper_mm, centre))
            )
    size = tuple(float(x) for x in 2 * (half + margin_mm))
    return RoiFit(
        rule=RoiRule(size, offsets, spreads, jitter_mm),
        needed_mm=tuple(float(x) for x in 2 * half),
        incomplete_cases=sorted(n for n, organs in cases.items() if len(organs) < len(every_label)),
    )


def _middle_mm(organs: Collection[OrganExtent]) -> np.ndarray:
    """Middle of the organs' common bounding box."""
    return (np.min([o.lower_mm for o in organs], axis=0) + np.max([o.upper_mm for o in organs], axis=0)) / 2


def too_large(
    cases: Mapping[str, Mapping[int, OrganExtent]],
    size_mm: Sequence[float] | np.ndarray,
    *,
    voxel_mm: Sequence[float] | np.ndarray,
    pairs: Sequence[tuple[int, int]] = (),
) -> dict[int, tuple[float, ...]]:
    """Organs that do not fit a crop of given size around them, with the edge lengths in mm that they need.

    An organ fits if the crop holds it wholly in `FITTING_SHARE` of the cases that have it. The crop is placed at whole
    voxels, which takes half a voxel on each side.

    Args:
        cases: Case -> extents of its organs, plan axes.
        size_mm: Edge lengths of the crop.
        voxel_mm: Voxel size of the grid it is cut from.
        pairs: Labels of left and right organs. Training mirrors one into the other, so both fit or neither does.
    """
    usable = np.subtract(size_mm, voxel_mm)
    excess, needed = {}, {}
    for k in sorted(set().union(*cases.values())):
        extents = [np.subtract(o[k].upper_mm, o[k].lower_mm) for o in cases.values() if k in o]
        ratios = np.max(np.divide(extents, usable), axis=1)
        # The case at the quantile: so many of the cases need no more.
        case = np.argsort(ratios, kind="stable")[int(np.ceil(FITTING_SHARE * len(ratios))) - 1]
        excess[k], needed[k] = ratios[case], tuple(float(x) for x in extents[case])
    large = {k for k in excess if excess[k] > 1 + 1e-6}
    large |= {k for pair in pairs if large & set(pair) for k in pair if k in needed}
    return {k: needed[k] for k in sorted(large)}
