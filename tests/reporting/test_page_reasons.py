"""Why a case deserves a look."""

from __future__ import annotations

import pytest

from nnunet_ext.evaluation.statistics import Score
from nnunet_ext.reporting.page_reasons import PageCase, Reason, case_reasons, low_dsc_percent


def test_low_dsc_is_absolute_for_few_cases_and_relative_for_many():
    assert low_dsc_percent([90.0, 91.0, 60.0]) == 50.0
    assert low_dsc_percent([90.0, 91.0, 92.0, 93.0, 80.0, float("nan")]) == pytest.approx(86.0), (
        "median 91 less the gap of 5"
    )
    assert low_dsc_percent([60.0, 70.0, 80.0, 90.0, 20.0]) == 50.0, "the fence lies at 30"


def test_reasons_without_a_reference_come_from_the_run():
    record = {"missing": ["Lens_L"], "fallback_whole_volume": True, "warnings": ["one", "two"]}
    assert case_reasons({}, record, {}, failed=False) == (
        Reason("missed", ("Lens_L",)),
        Reason("fallback"),
        Reason("warnings", count=2),
    )
    assert case_reasons({}, record, {}, failed=True)[0] == Reason("failed")


def score(organ: str, dsc_percent: float, hd95_mm: float, flag: str = "") -> Score:
    return Score("case_1", organ, dsc_percent, hd95_mm, hd95_mm, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, flag)


def test_reasons_come_most_urgent_first_and_a_missed_organ_is_neither_low_nor_far():
    scores = {
        "Eye_L": score("Eye_L", 49.0, 1.0),
        "Eye_R": score("Eye_R", 90.0, 10.5),
        "Lens_L": score("Lens_L", 0.0, 99.0, "missed"),
        "Lens_R": score("Lens_R", 0.0, 99.0, "invented"),
        "OpticChiasm": score("OpticChiasm", float("nan"), float("nan"), "left_out"),
    }
    record = {"missing": ["Eye_L"], "fallback_whole_volume": True, "warnings": ["one"]}
    low = dict.fromkeys(scores, 50.0)
    assert case_reasons(scores, record, low, failed=False) == (
        Reason("missed", ("Lens_L",)),  # of the scores, not of the run
        Reason("invented", ("Lens_R",)),
        Reason("fallback"),
        Reason("low", ("Eye_L",)),
        Reason("far", ("Eye_R",)),
        Reason("warnings", count=1),
    )


def test_the_case_with_more_urgent_reasons_comes_first_then_the_lower_score():
    def case(name: str, *reasons: Reason, dsc_percent: float = 90.0) -> PageCase:
        return PageCase(name, {"Eye_L": score("Eye_L", dsc_percent, 1.0)}, (), reasons)

    ordered = [
        case("g", Reason("failed")),
        case("f", Reason("missed", ("Eye_L",)), Reason("invented", ("Eye_R",))),
        case("e", Reason("invented", ("Eye_R",)), Reason("fallback")),
        case("d", Reason("missed", ("Eye_L",))),
        case("c", Reason("warnings", count=2)),
        case("b", Reason("warnings", count=1)),
        case("a", dsc_percent=80.0),
        case("0"),
    ]
    backwards = ordered[::-1]
    assert sorted(backwards, key=lambda one: one.severity) == ordered
