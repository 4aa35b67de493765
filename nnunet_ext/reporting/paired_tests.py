"""Wilcoxon's signed-rank test of experiments against the first one, corrected by Holm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from nnunet_ext.evaluation.summary import EvaluationSummary

#: Fewer pairs get no test. With five, the smallest two-sided p-value is 2 / 2^5 = 0.06, which is never significant.
LEAST_PAIRS = 6
#: A corrected p-value below this is marked.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class PairedTest:
    """One organ, one experiment against the first one, on the same cases.

    Attributes:
        n_pairs: Cases in which both have a value.
        median_difference: Median over these cases of the experiment's value minus the first one's. NaN without pairs.
        p: Two-sided p-value of Wilcoxon's signed-rank test, Holm-corrected. None with fewer than `LEAST_PAIRS` pairs.
    """

    n_pairs: int
    median_difference: float
    p: float | None


def paired_tests(
    compared: Mapping[str, EvaluationSummary], organs: Sequence[str], metric: str
) -> dict[tuple[str, str], PairedTest]:
    """(experiment, organ) -> test of that experiment against the first one, Holm-corrected over all of these.

    A case is a pair for an organ if both experiments have a value. Differences of zero are dropped from the test, as
    Wilcoxon does. If all are zero, p is 1.
    """
    names = list(compared)
    tests: dict[tuple[str, str], PairedTest] = {}
    for name in names[1:]:
        for organ in organs:
            first, other = compared[names[0]].values(organ, metric), compared[name].values(organ, metric)
            differences = np.array([other[case] - first[case] for case in first if case in other])
            differences = differences[~np.isnan(differences)]
            median = float(np.median(differences)) if len(differences) else float("nan")
            p = _wilcoxon(differences) if len(differences) >= LEAST_PAIRS else None
            tests[name, organ] = PairedTest(len(differences), median, p)
    tested = {key: test.p for key, test in tests.items() if test.p is not None}
    corrected = holm(list(tested.values()))
    return tests | {key: replace(tests[key], p=p) for key, p in zip(tested, corrected, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction. The smallest of m p-values is multiplied by m, the next one by m - 1, and so on.

    Corrected values never fall, and are at most 1.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    m = len(p_values)
    order = np.argsort(p_values)
    factors = np.arange(m, 0, -1)
    corrected = np.empty(m)
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, float)[order] * factors), 1.0)
    return [float(p) for p in corrected]


def _wilcoxon(differences: np.ndarray) -> float:
    changed = differences[differences != 0]
    return float(stats.wilcoxon(changed).pvalue) if len(changed) else 1.0
