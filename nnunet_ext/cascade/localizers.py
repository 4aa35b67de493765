"""Which configuration of a plan locates the organs for which, by one entry of the plan: `previous_stage`.

Any configuration without a `previous_stage` of its own sees the whole volume and may locate for any segmenter. nnU-Net
also asks a localizer for a `next_stage`, on whose grid its label maps are written. That follows from the plan here.
"""

from __future__ import annotations

from collections.abc import Mapping

from nnunet_ext.files import shown
from nnunet_ext.nnunet_folders import planned


def check_localizer(configurations: Mapping[str, Mapping], previous: object, *, where: str) -> str:
    """The localizer that a `previous_stage` names.

    Args:
        configurations: Of the plan.
        previous: The entry.
        where: File and configuration, for the message.

    Raises:
        ValueError: If it is no whole-volume configuration of the plan. The message lists those.
    """
    known = [name for name in configurations if planned(configurations, name, "previous_stage") is None]
    if previous in known:
        return str(previous)
    problem = "which has a previous stage itself" if previous in configurations else "which is not in the plan"
    raise ValueError(
        f"{where}: previous_stage is {shown(previous)}, {problem}. Any configuration that sees the whole volume may locate: "
        f"{', '.join(known)}."
    )


def stages_located_by(configurations: Mapping[str, Mapping], localizer: str) -> list[str]:
    """Configurations for whose preprocessed data a localizer's validation writes label maps, one for each such data.

    Its own `next_stage` comes first, then those that name it as their `previous_stage`, in the plan's order.
    """
    wanted = planned(configurations, localizer, "next_stage") or []
    stages = [wanted] if isinstance(wanted, str) else list(wanted)
    data = {planned(configurations, stage, "data_identifier") for stage in stages}
    for name in configurations:
        identifier = planned(configurations, name, "data_identifier")
        if planned(configurations, name, "previous_stage") == localizer and identifier not in data:
            stages.append(name)
            data.add(identifier)
    return stages


def stage_of_maps(configurations: Mapping[str, Mapping], segmenter: str, localizer: str) -> str:
    """The stage whose label maps of a localizer lie on a segmenter's preprocessed data."""
    data = planned(configurations, segmenter, "data_identifier")
    stages = stages_located_by(configurations, localizer)
    return next(s for s in stages if planned(configurations, s, "data_identifier") == data)
