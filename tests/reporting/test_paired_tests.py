"""Paired tests against numbers worked out on paper."""

from __future__ import annotations

import pytest
from made_summaries import summary

from nnunet_ext.reporting.paired_tests import holm, paired_tests


def test_holm_multiplies_step_down_and_never_falls():
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04, and the last may not be below 0.06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_six_cases_all_better_give_the_smallest_p_of_the_signed_rank_test():
    base = [60.0, 62.0, 64.0, 66.0, 68.0, 70.0]
    better = [b + d for b, d in zip(base, (1, 2, 3, 4, 5, 6.5), strict=True)]
    tests = paired_tests({"A": summary({"Lens_L": base}), "B": summary({"Lens_L": better})}, ["Lens_L"], "dsc_percent")
    found = tests["B", "Lens_L"]
    assert (found.n_pairs, found.median_difference) == (6, 3.5)
    assert found.p == pytest.approx(2 / 2**6)


def test_p_values_are_corrected_over_all_organs_and_experiments():
    base = [60.0, 62.0, 64.0, 66.0, 68.0, 70.0]
    better = [b + d for b, d in zip(base, (1, 2, 3, 4, 5, 6.5), strict=True)]
    organs = ["Lens_L", "Lens_R"]
    compared = {name: summary(dict.fromkeys(organs, v)) for name, v in (("A", base), ("B", better), ("C", base))}
    tests = paired_tests(compared, organs, "dsc_percent")
    # Two p of 1/32 and two of 1 (no difference at all): 4 * 1/32 for both, for corrected values never fall.
    assert [tests[n, o].p for n in "BC" for o in organs] == pytest.approx([0.125, 0.125, 1.0, 1.0])
