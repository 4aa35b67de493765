"""Means over cases, and the organs that are in none of them."""

from __future__ import annotations

import json
import math
from dataclasses import astuple

import pytest
from scored_label_maps import CHIASM, DIAGONAL_MM, HALF_LENS, LABELS, LENS, REFERENCE, label_map, score, write

from nnunet_ext.evaluation.statistics import Score
from nnunet_ext.labels.table import LEFT_OUT_KEY


def row_of(summary, case: str, organ: str) -> Score:
    return next(row for row in summary.rows if (row.case, row.organ) == (case, organ))


def test_scores_and_means_are_what_paper_says(folders):
    predictions, references, out = folders
    write(predictions, "case_1", REFERENCE)
    write(predictions, "case_2", HALF_LENS)
    write(references, "case_1", REFERENCE)
    write(references, "case_2", REFERENCE)
    summary = score(folders)
    assert summary.ok
    assert summary.cases == ("case_1", "case_2")
    assert summary.scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}
    assert summary.scores("case_2") == pytest.approx({"Lens_L": 200 / 3, "OpticChiasm": 100.0})
    # The lost half reaches from x = 4 to 6; its outer face is 2 voxels of 0.7 mm from the prediction.
    assert summary.scores("case_2", "hd95_mm") == pytest.approx({"Lens_L": 1.4, "OpticChiasm": 0.0})
    lens = summary.per_organ["Lens_L"]["dsc_percent"]
    assert astuple(lens) == pytest.approx((250 / 3, (100 - 200 / 3) / math.sqrt(2), 250 / 3, 2))
    # All organs: case means 100 and 83.33, then mean and SD of these two.
    assert summary.all_organs["dsc_percent"].value == pytest.approx((100 + 250 / 3) / 2)
    assert summary.all_organs["dsc_percent"].sd == pytest.approx((100 - 250 / 3) / math.sqrt(2))
    row = row_of(summary, "case_2", "Lens_L")
    assert row.volume_difference_ml == pytest.approx(-4 * 1.68 / 1000)
    assert row.reference_ml == pytest.approx(8 * 1.68 / 1000)
    assert sorted(p.name for p in out.iterdir()) == ["evaluation.csv", "evaluation.json", "evaluation.md"]


def test_missed_invented_and_left_out_organs_are_flagged_and_listed(folders):
    predictions, references, _ = folders
    only_lens, only_chiasm, nothing = label_map((LENS, 1)), label_map((CHIASM, 2)), label_map()
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", only_chiasm)  # lens missed
    write(references, "case_2", only_chiasm)
    write(predictions, "case_2", REFERENCE)  # lens invented
    write(references, "case_3", only_chiasm)
    write(predictions, "case_3", only_chiasm)  # lens left out
    write(references, "case_4", REFERENCE)
    write(predictions, "case_4", REFERENCE)
    summary = score(folders)
    assert summary.missed == [("case_1", "Lens_L")]
    assert summary.invented == [("case_2", "Lens_L")]
    assert summary.left_out == [("case_3", "Lens_L")]
    for case in ("case_1", "case_2"):
        assert row_of(summary, case, "Lens_L").dsc_percent == 0.0
        assert row_of(summary, case, "Lens_L").surface_dice == 0.0
        assert row_of(summary, case, "Lens_L").hd95_mm == pytest.approx(DIAGONAL_MM, rel=1e-6)
    lens = summary.per_organ["Lens_L"]
    assert lens["dsc_percent"].n == 3  # the left-out one is in no mean
    assert lens["dsc_percent"].value == pytest.approx(100 / 3)
    assert lens["hd95_mm"].value == pytest.approx(2 * DIAGONAL_MM / 3, rel=1e-6)
    # All organs of case_3 is its chiasm alone, not NaN.
    assert summary.all_organs["dsc_percent"].value == pytest.approx((50 + 50 + 100 + 100) / 4)

    write(references, "case_1", only_lens)
    write(predictions, "case_1", nothing)
    summary = score(folders)
    assert summary.missed == [("case_1", "Lens_L")]
    assert summary.left_out == [("case_1", "OpticChiasm"), ("case_3", "Lens_L")]


def test_an_organ_that_the_model_leaves_out_has_no_score_in_any_case(folders):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", label_map((LENS, 1)))
    write(references, "case_2", REFERENCE)  # failed: no prediction
    note = {"labels": LABELS, LEFT_OUT_KEY: ["OpticChiasm"]}
    (predictions / "dataset.json").write_text(json.dumps(note))
    summary = score(folders, labels=None)
    assert summary.not_segmented == ("OpticChiasm",)
    assert summary.missed == []
    assert {row_of(summary, case, "OpticChiasm").flag for case in ("case_1", "case_2")} == {"not_segmented"}
    assert summary.per_organ["OpticChiasm"]["dsc_percent"].n == 0
    assert summary.all_organs["dsc_percent"].value == pytest.approx((100 + 0) / 2)  # the lens alone
    table = (out / "evaluation.md").read_text()
    assert "| OpticChiasm | - | - | - | - | - | - | 1 | 0 |" in table
    assert "Not segmented by this model (no score, not counted): OpticChiasm" in table
    content = json.loads((out / "evaluation.json").read_text())
    assert content["not_segmented"] == ["OpticChiasm"]
    assert content["per_case"]["case_1"]["OpticChiasm"]["dsc_percent"] is None


def test_case_without_prediction_fails_and_counts_as_worst(folders):
    predictions, references, _ = folders
    write(predictions, "case_1", REFERENCE)
    write(references, "case_1", REFERENCE)
    write(references, "case_2", label_map((LENS, 1)))
    summary = score(folders)
    assert not summary.ok
    assert summary.failed == {"case_2": "no prediction"}
    assert summary.missed == []
    assert summary.left_out == []
    lens, chiasm = summary.per_organ["Lens_L"], summary.per_organ["OpticChiasm"]
    assert lens["dsc_percent"].value == pytest.approx(50.0)
    assert lens["surface_dice"].value == pytest.approx(0.5)
    assert lens["hd95_mm"].value == pytest.approx(DIAGONAL_MM / 2, rel=1e-6)
    assert astuple(chiasm["dsc_percent"]) == pytest.approx((100.0, math.nan, 100.0, 1), nan_ok=True)
    assert [row.flag for row in summary.rows if row.case == "case_2"] == ["failed", "failed"]
    assert math.isnan(row_of(summary, "case_2", "Lens_L").prediction_ml)
