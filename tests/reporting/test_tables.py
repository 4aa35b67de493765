"""What the tables count, mark and leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_summaries import summary

from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.messages import Message
from nnunet_ext.reporting.content import Cell, Experiment, Table
from nnunet_ext.reporting.paired_tests import paired_tests
from nnunet_ext.reporting.tables import make_tables

NAN = float("nan")


def tables_of(experiments: dict[str, EvaluationSummary], **options) -> tuple[dict[str, Table], list[Message]]:
    cases = next(iter(experiments.values())).cases
    organs = next(iter(experiments.values())).organs
    runs = [Experiment(name, Path(name), scores) for name, scores in experiments.items()]
    tables, remarks = make_tables(runs, cases, organs, **({"box_organ": organs[0], "with_study": False} | options))
    return {table.name: table for table in tables}, remarks


def test_fewer_than_six_pairs_get_no_p_value_and_that_is_said():
    five = {"Lens_L": [50.0, 51.0, 52.0, 53.0, 54.0, NAN]}
    six = {"Lens_L": [60.0, 61.0, 62.0, 63.0, 64.0, 65.0]}
    tests = paired_tests({"A": summary(five), "B": summary(six)}, ["Lens_L"], "dsc_percent")
    assert tests["B", "Lens_L"].n_pairs == 5
    assert tests["B", "Lens_L"].p is None
    tables, remarks = tables_of({"A": summary(five), "B": summary(six)})
    assert str(tables["wilcoxon_dsc_percent"].rows[0][1].text) == "+10.00; no test; n = 5"
    assert remarks == [Message("no_p_value", {"least": 6, "n": 6})]
    assert tables_of({"A": summary(six), "B": summary(six)})[1] == []


def test_best_of_a_row_is_marked_by_what_is_better_for_the_metric():
    tables, _ = tables_of({"A": summary({"Lens_L": [-70.0, -90.0]}), "B": summary({"Lens_L": [75.0, 75.004]})})
    assert [cell.best for cell in tables["dsc_percent"].rows[0][1:]] == [False, True]
    assert [cell.best for cell in tables["hd95_mm"].rows[0][1:]] == [False, True]  # 75 is nearer to 0 than -80
    tables, _ = tables_of(
        {"A": summary({"Lens_L": [2.0]}), "B": summary({"Lens_L": [3.0]}), "C": summary({"Lens_L": [2.0]})}
    )
    assert [cell.best for cell in tables["hd95_mm"].rows[0][1:]] == [True, False, True]  # equal is equally good
    tables, _ = tables_of({"A": summary({"Lens_L": [80.0, 90.0]})})
    assert tables["dsc_percent"].rows[0][1] == Cell("85.00 +- 7.07")  # alone: nothing to be better than
    assert "wilcoxon_dsc_percent" not in tables


def test_all_organs_are_those_that_every_experiment_segments():
    whole = summary({"Eye_L": [90.0, 92.0], "Lens_L": [70.0, 72.0]})
    crop = summary({"Eye_L": [NAN, NAN], "Lens_L": [74.0, 76.0]}, not_segmented=("Eye_L",))
    rows = {str(row[0].text): row[1:] for row in tables_of({"whole": whole, "crop": crop})[0]["dsc_percent"].rows}
    assert [cell.text for cell in rows["Eye_L"]] == ["91.00 +- 1.41", "-"]
    assert not rows["Eye_L"][0].best
    assert [cell.text for cell in rows["all organs"]] == ["71.00 +- 1.41", "75.00 +- 1.41"]


def test_scores_of_an_earlier_version_show_a_dash_for_plain_hd95_and_that_is_said():
    new = summary({"Lens_L": [70.0] * 6})
    old = replace(new, rows=[replace(row, plain_hd95_mm=NAN) for row in new.rows])
    tables, remarks = tables_of({"new": new, "old": old})
    assert [str(cell.text) for cell in tables["plain_hd95_mm"].rows[0]] == ["Lens_L", "70.00 +- 0.00", "-"]
    assert Message("no_plain_hd95", {"names": ["old"]}) in remarks
    assert tables_of({"new": new})[1] == []


def test_mean_over_folds_has_a_table_beside_the_ensemble():
    ensemble, folds = summary({"Lens_L": [80.0, 90.0]}), [summary({"Lens_L": [70.0, 90.0]}) for _ in range(2)]
    table = tables_of({"A": replace(ensemble, of_folds=tuple(folds))})[0]["folds_A"]
    assert str(table.title) == "Ensemble beside the models of its 2 folds: A"
    assert [str(head) for head in table.header[:3]] == ["organ", "ensemble DSC %", "mean over folds DSC %"]
    assert [cell.text for cell in table.rows[0][1:3]] == ["85.00 +- 7.07", "80.00 +- 14.14"]


def test_scores_without_and_with_postprocessing_have_a_table():
    without, with_it = summary({"Lens_L": [60.0, 80.0]}), summary({"Lens_L": [70.0, 90.0]})
    predicted = replace(with_it, with_other_postprocessing=without)
    validated = replace(without, with_other_postprocessing=with_it, model=Path("T__P__3d_fullres"))
    tables, _ = tables_of({"test": predicted, "folds": validated})
    for name, chosen_here in {"test": False, "folds": True}.items():
        table = tables[f"postprocessing_{name}"]
        assert [str(head) for head in table.header[:3]] == ["organ", "DSC %, without", "DSC %, with"]
        assert [(cell.text, cell.best) for cell in table.rows[0][1:3]] == [
            ("70.00 +- 14.14", False),
            ("80.00 +- 14.14", True),
        ]
        assert ("upper bound" in " ".join(map(str, table.notes))) == chosen_here


def test_failed_and_missed_are_counted_in_the_overview():
    found = summary({"Lens_L": [0.0, 80.0]})
    found.rows[0] = replace(found.rows[0], flag="missed")
    overview = tables_of({"A": found})[0]["overview"]
    (row,) = overview.rows
    by_head = {str(head): str(cell.text) for head, cell in zip(overview.header, row, strict=True)}
    assert by_head["missed"] == "1"
    assert by_head["cases compared"] == "2 of 2"
    assert by_head["all organs DSC %"] == "40.00 +- 56.57"
