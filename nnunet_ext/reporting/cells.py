"""What cells of tables have in common: means over cases, and which of a row is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnunet_ext.evaluation.statistics import Mean, mean_of
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.messages import Message
from nnunet_ext.reporting.content import Cell

#: Metrics of which the larger value is better. Of the others, the value nearest to 0 is.
LARGER_IS_BETTER = ("dsc_percent", "surface_dice")


def organ_cell(organ: str | None) -> Cell:
    """First cell of a row. None stands for the mean over organs."""
    return Cell(Message("cell_all_organs") if organ is None else Message("cell_organ", {"organ": organ}))


def shared_organs(compared: Mapping[str, EvaluationSummary]) -> list[str]:
    """Organs that all experiments segment."""
    first = next(iter(compared.values()))
    return [o for o in first.organs if all(o in s.organs and o not in s.not_segmented for s in compared.values())]


def mean_over_cases(
    summary: EvaluationSummary, organ: str | None, metric: str, compared: Mapping[str, EvaluationSummary]
) -> Mean:
    """Mean over cases of an organ. None stands for the case means over the organs that all experiments segment."""
    if organ is not None:
        return mean_of(summary.values(organ, metric).values())
    shared = shared_organs(compared)
    return replace(summary, rows=[row for row in summary.rows if row.organ in shared]).all_organs[metric]


def best_of(means: Sequence[float], metric: str, decimals: int) -> list[bool]:
    """Which have the best of two or more means. Those that are printed as the same number are equally good."""
    printed = [round(mean, decimals) for mean in means]
    valid = [mean for mean in printed if not np.isnan(mean)]
    if len(valid) < 2:
        return [False] * len(printed)
    if metric in LARGER_IS_BETTER:
        return [mean == max(valid) for mean in printed]
    return [abs(mean) == min(map(abs, valid)) for mean in printed]
