"""`docs/reference/scores.md` against the metrics it defines."""

from __future__ import annotations

import pytest
from reference_tables import REFERENCE, rows

from nnunet_ext.evaluation.metrics import METRICS, OTHER_TOLERANCE_MM, TOLERANCES_MM
from nnunet_ext.reporting.tables import LEAST_PAIRS, SIGNIFICANT

if not REFERENCE.is_dir():
    pytest.skip("the tests do not lie in a checkout", allow_module_level=True)


def test_every_metric_is_defined_in_the_order_of_the_tables():
    assert [line[0] for line in rows("scores.md", "Metrics of one organ")[1:]] == list(METRICS)


def test_tolerances_are_those_of_the_surface_dice():
    listed = {organ: float(mm) for organ, mm in rows("scores.md", "Tolerances of the surface dice")[1:]}
    assert listed == {**TOLERANCES_MM, "any other": OTHER_TOLERANCE_MM}


def test_least_pairs_and_significance_are_those_of_the_report():
    text = (REFERENCE / "scores.md").read_text(encoding="utf-8")
    assert f"fewer than {LEAST_PAIRS} cases" in text
    assert f"Tables mark p < {SIGNIFICANT:g}" in text
