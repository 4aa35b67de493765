"""Which of our experiments stands beside which system of the reference study."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import LOCALIZER, read_predictions_json
from nnunet_ext.reporting.content import Experiment, Text
from nnunet_ext.reporting.reference_study import CROPS, MODALITIES_CROP

_SIZE = re.compile(r"\d+x\d+x\d+")


@dataclass(frozen=True)
class OurSystem:
    """An experiment, or the mean over the models of its folds, as a column of a table of the study.

    Attributes:
        head: Head of its column.
        scores: On the cases compared.
        size: Voxels that it sees at once, such as `32x96x96`. Empty if neither its model nor its name says so.
        is_localizer: Whether it is the first stage alone.
        channels: Such as `CT+T1+T2`.
    """

    head: Text
    scores: EvaluationSummary
    size: str = ""
    is_localizer: bool = False
    channels: str = ""

    @property
    def is_crop(self) -> bool:
        """Whether it sees one of the study's crops."""
        return not self.is_localizer and self.size in CROPS


def our_systems(experiments: Sequence[Experiment], compared: Mapping[str, EvaluationSummary]) -> list[OurSystem]:
    """The experiments, each followed by the mean over its folds where that was scored.

    A localizer that was scored with its segmenter comes last, if no experiment is a localizer.
    """
    found = []
    for experiment in experiments:
        scores, model = compared[experiment.name], configuration_of(experiment)
        is_localizer = model == LOCALIZER or "localizer" in (model or experiment.name).lower()
        size = _SIZE.search(model) or _SIZE.search(experiment.name)
        known = size[0] if size else "", is_localizer, channels_of(experiment)
        found.append(OurSystem(experiment.name, scores, *known))
        if scores.mean_over_folds is not None:
            head = Message("head_mean_over_folds", {"name": experiment.name})
            found.append(OurSystem(head, scores.mean_over_folds, *known))
    if not any(system.is_localizer for system in found):
        for name, scores in compared.items():
            if scores.localizer is not None:
                head = Message("head_localizer_of", {"name": name})
                found.append(OurSystem(head, scores.localizer, is_localizer=True))
    return found


def configuration_of(experiment: Experiment) -> str:
    """nnU-Net's configuration, of a cross-validation or from the `predictions.json` beside predictions. Else empty."""
    if experiment.scores.model is not None:
        return experiment.scores.model.name.rpartition("__")[2]
    for folder in dict.fromkeys(p.parent for p, _ in experiment.scores.files.values() if p is not None):
        if (file := folder / "predictions.json").is_file():
            models = read_predictions_json(file).get("models") or [""]
            return models[-1].rpartition("__")[2]
    return ""


def channels_of(experiment: Experiment) -> str:
    """Channels as the study writes them, `CT+T1+T2`. They are read off the name if the scores do not say them."""
    names = experiment.scores.channels or experiment.name.split("+")
    return "+".join(sorted(name.strip().upper().removesuffix("W") for name in names))


def of_channels(systems: Iterable[OurSystem], channels: str) -> OurSystem | None:
    """The segmenter with these channels: the one of the crop of Table 3.7, else the first named."""
    found = [system for system in systems if not system.is_localizer and system.channels == channels]
    return next((system for system in found if system.size == MODALITIES_CROP), found[0] if found else None)
