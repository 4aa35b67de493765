"""Scores made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_ext.evaluation.metrics import METRICS
from nnunet_ext.evaluation.statistics import Score
from nnunet_ext.evaluation.summary import EvaluationSummary


def summary(values: dict[str, Sequence[float]], not_segmented: tuple[str, ...] = ()) -> EvaluationSummary:
    """Every metric of organ and case is the value given."""
    rows = []
    for organ, by_case in values.items():
        for number, value in enumerate(by_case):
            flag = "not_segmented" if organ in not_segmented else ""
            scores = dict.fromkeys(METRICS, value)
            rows.append(Score(f"case_{number}", organ, **scores, tolerance_mm=1.0, flag=flag))
    labels = {organ: number + 1 for number, organ in enumerate(values)}
    return EvaluationSummary(labels, dict.fromkeys(values, 1.0), rows, not_segmented=not_segmented)
