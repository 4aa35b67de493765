"""nnU-Net's `summary.json` of a validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def without_labels(summary: Mapping, labels: Sequence[int]) -> dict:
    """A summary without some labels. The foreground mean is taken over the others, as nnU-Net takes it."""
    gone = {str(label) for label in labels}

    def kept(metrics: Mapping) -> dict:
        return {label: values for label, values in metrics.items() if str(label) not in gone}

    mean = kept(summary["mean"])
    return {
        **summary,
        "metric_per_case": [{**case, "metrics": kept(case["metrics"])} for case in summary["metric_per_case"]],
        "mean": mean,
        "foreground_mean": {m: float(np.mean([v[m] for v in mean.values()])) for m in summary["foreground_mean"]},
    }
