"""Which of header, rigid and elastic transform is kept."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk

from nnunet_ext.messages import Message
from nnunet_ext.registration.elastic import elastic_candidates, jacobian_range
from nnunet_ext.registration.options import RegistrationOptions
from nnunet_ext.registration.result import ELASTIC, HEADER, RIGID, ChannelRegistration
from nnunet_ext.registration.similarity import edges_of, information_of, mutual_information, on_judging_grid, overlap_of
from nnunet_ext.registration.transforms import apply, as_euler, chained, mean_euler, points_of, rounded
from nnunet_ext.registration.volumes import Source, Target

#: A registration that moves less than this is noise, and not worth a resampling.
LEAST_MOVE_MM = 0.1
#: Local change of volume that soft tissue and registration error can explain.
JACOBIAN_RANGE = (0.5, 2.0)


def register_group(
    target: Target,
    members: Mapping[str, tuple[Source, sitk.Transform]],
    rigid: Mapping[str, sitk.Euler3DTransform],
    options: RegistrationOptions,
    pool: ThreadPoolExecutor,
) -> dict[str, ChannelRegistration]:
    """One shared transform for images that show the head in one position; `members`: source, and link to it."""

    def score(transform: sitk.Transform, where: np.ndarray) -> float:
        """Mean over the images."""
        return float(
            np.mean([information_of(target, s, chained(link, transform), where) for s, link in members.values()])
        )

    shared = [
        as_euler(chained(link.GetInverse(), rigid[name]), target.center_mm) for name, (_, link) in members.items()
    ]
    if len(shared) > 1:
        shared.append(mean_euler(shared))
    best_rigid = max(shared, key=lambda t: score(t, target.inside))
    splines = elastic_candidates(target, members, best_rigid, options, pool) if options.elastic else []
    best_elastic = None
    reason_against: Message | None = Message("elastic_not_converged")
    if splines:
        elastic = [sitk.CompositeTransform([best_rigid, spline]) for spline in splines]  # the last is applied first
        best_elastic = max(elastic, key=lambda t: score(t, target.hidden))
        jacobian = jacobian_range(best_elastic, target)
        if not (JACOBIAN_RANGE[0] <= jacobian[0] and jacobian[1] <= JACOBIAN_RANGE[1]):
            reason_against = Message("elastic_changes_volumes", {"low": jacobian[0], "high": jacobian[1]})
        elif score(best_elastic, target.hidden) <= score(best_rigid, target.hidden):
            reason_against = Message("elastic_raises_nothing")
        else:
            reason_against = None
    identity = sitk.Transform(3, sitk.sitkIdentity)
    result = {}
    for name, (source, link) in members.items():
        levels = {HEADER: identity, RIGID: chained(link, best_rigid)}
        if best_elastic is not None:
            levels[ELASTIC] = chained(link, best_elastic)
        result[name] = _choose(target, source, levels, reason_against, options)
    return result


def _choose(
    target: Target,
    source: Source,
    levels: Mapping[str, sitk.Transform],
    reason_against_elastic: Message | None,
    options: RegistrationOptions,
) -> ChannelRegistration:
    views = {level: on_judging_grid(target, source, transform) for level, transform in levels.items()}
    # Where header and registration lie so far apart that they hardly see the same voxels, outside counts as dark.
    seen = np.logical_and.reduce([view[1] for view in views.values()]) & target.inside
    registered = views[RIGID][1] & target.inside
    if np.count_nonzero(seen) < 0.5 * np.count_nonzero(registered):
        seen = target.inside
    fixed = sitk.GetArrayViewFromImage(target.grid)
    information = {level: mutual_information(fixed[seen], view[0][seen]) for level, view in views.items()}
    hidden = {
        level: mutual_information(fixed[seen & target.hidden], view[0][seen & target.hidden])
        for level, view in views.items()
    }
    points = points_of(target.grid, target.head)

    def moves_mm(level: str) -> np.ndarray:
        return np.linalg.norm(apply(levels[level], points) - points, axis=1)

    stays = moves_mm(RIGID).max() < LEAST_MOVE_MM
    if (stays or information[RIGID] <= information[HEADER]) and (
        reason_against_elastic or hidden.get(ELASTIC, -1.0) <= hidden[HEADER]
    ):
        kept = HEADER
        if stays:
            reason = Message("registration_moves_nothing", {"mm": LEAST_MOVE_MM})
        else:
            reason = Message(
                "registration_raises_nothing", {"before": information[HEADER], "after": information[RIGID]}
            )
    elif not options.elastic:
        kept, reason = RIGID, Message("elastic_not_asked_for")
    elif reason_against_elastic:
        kept, reason = RIGID, reason_against_elastic
    else:
        kept = ELASTIC
        reason = Message("elastic_raises_information", {"before": hidden[RIGID], "after": hidden[ELASTIC]})
    edges = edges_of(fixed, target.inside)
    moved = moves_mm(kept)
    quality = {
        "mutual_information": rounded(information),
        "hidden_mutual_information": rounded(hidden),
        "edge_overlap": rounded({level: overlap_of(view, edges, target.inside) for level, view in views.items()}),
        "jacobian": [round(v, 4) for v in jacobian_range(levels[kept], target)] if kept == ELASTIC else [1.0, 1.0],
        "moved_mm": {"mean": round(float(moved.mean()), 3), "max": round(float(moved.max()), 3)},
        "overlap": round(float(np.count_nonzero(views[kept][1] & target.head) / np.count_nonzero(target.head)), 4),
    }
    return ChannelRegistration(levels[kept], kept, reason, quality)
