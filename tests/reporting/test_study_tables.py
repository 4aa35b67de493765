"""The study's tables with ours beside: order, stars, changes, footnotes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_summaries import summary

from nnunet_ext.reporting.content import Cell, Experiment, Table
from nnunet_ext.reporting.study_tables import study_tables


def tables_of(**experiments: tuple[str, str, dict[str, list[float]]]) -> dict[str, Table]:
    """Name -> (configuration, channels, scores)."""
    runs = []
    for name, (configuration, channels, values) in experiments.items():
        scores = replace(summary(values), model=Path(f"T__P__{configuration}"), channels=tuple(channels.split("+")))
        runs.append(Experiment(name, Path(name), scores))
    return {table.name: table for table in study_tables(runs, {run.name: run.scores for run in runs})}


def row_of(table: Table, organ: str) -> dict[str, Cell]:
    """Head -> cell of an organ."""
    row = next(row for row in table.rows if str(row[0].text) == organ)
    return {str(head): cell for head, cell in zip(table.header, row, strict=True)}


MIDDLE = ("3d_cascade_32x96x96", "CT+T1+T2", {"Lens_L": [80.0, 90.0], "OpticChiasm": [70.0, 72.0]})
LARGE = ("3d_cascade_32x128x128", "CT+T1+T2", {"Lens_L": [70.0, 72.0], "OpticChiasm": [75.0, 77.0]})


def test_ours_stand_behind_the_system_that_sees_as_much_and_the_rest_at_the_end():
    whole_roi = ("3d_cascade_fullres", "CT+T1+T2", {"Lens_L": [60.0, 62.0]})
    table = tables_of(roi=whole_roi, middle=MIDDLE)["study_3_2"]
    assert [str(head) for head in table.header] == [
        "organ",
        "study: 80x256x256",
        "study: 32x128x128",
        "study: 32x96x96",
        "middle",
        "study: 16x64x64",
        "roi",
    ]
    lens = row_of(table, "Lens_L")
    assert lens["middle"] == Cell("85.00 +- 7.07", best=True)
    assert lens["roi"] == Cell("61.00 +- 1.41")
    assert row_of(table, "Eye_L")["middle"] == Cell("-")
    assert row_of(table, "Eye_L")["study: 16x64x64"] == Cell("-")


def test_a_star_marks_the_best_published_mean_of_a_row_and_bold_is_for_ours_only():
    tables = tables_of(middle=MIDDLE)
    chiasm, nerve = (row_of(tables["study_3_2"], organ) for organ in ("OpticChiasm", "OpticNrv_L"))
    assert chiasm["study: 32x96x96"] == Cell("70.47 +- 8.34 *")
    assert nerve["study: 16x64x64"] == Cell("81.16 +- 6.86 *")
    eye = row_of(tables["study_3_3"], "Eye_L")
    assert eye["study: 80x256x256"] == Cell("1.36 +- 0.14 *")  # the smallest distance
    assert row_of(tables["study_3_5"], "Eye_L")["cited: nnU-Net (He 2020)"] == Cell("89.5 *")
    assert row_of(tables["study_3_6"], "OpticNrv_R")["cited: FocusNet (Gao 2019)"] == Cell("2.65 +- 1.5 *")
    assert "*" not in str(row_of(tables["study_3_1"], "Eye_L")["study: localizer"].text)  # alone in its row
    for table in tables.values():
        assert not [
            c for row in table.rows for h, c in zip(table.header, row, strict=True) if c.best and "study" in str(h)
        ]
        stars = [sum(" *" in str(cell.text) for cell in row) for row in table.rows]
        assert set(stars) == ({0} if table.name == "study_3_1" else {1})


def test_hd95_of_the_study_stands_beside_the_plain_one():
    values = summary({"Lens_L": [5.0, 7.0]})
    scores = replace(values, rows=[replace(row, plain_hd95_mm=2.0) for row in values.rows])
    run = Experiment("32x96x96", Path("a"), scores)
    table = next(t for t in study_tables([run], {"32x96x96": scores}) if t.name == "study_3_3")
    assert row_of(table, "Lens_L")["32x96x96"].text == "2.00 +- 0.00"
    assert "The study does not say of which points its HD95 is" in table.note


def test_best_of_our_crops_is_chosen_per_organ():
    tables = tables_of(large=LARGE, middle=MIDDLE)
    assert row_of(tables["study_3_5"], "Lens_L")["ours: best of crops"].text == "85.00 +- 7.07"
    assert row_of(tables["study_3_5"], "OpticChiasm")["ours: best of crops"].text == "76.00 +- 1.41"
    assert "chosen on the very cases that it is scored on" in tables["study_3_5"].note
    assert "ours: best of crops" not in map(str, tables_of(middle=MIDDLE)["study_3_5"].header)


def test_the_best_of_our_crops_is_one_of_those_with_all_images():
    ct = ("3d_cascade_16x64x64", "CT", {"Lens_L": [99.0, 99.0], "OpticChiasm": [99.0, 99.0]})
    tables = tables_of(large=LARGE, middle=MIDDLE, ct=ct)
    assert row_of(tables["study_3_5"], "Lens_L")["ours: best of crops"].text == "85.00 +- 7.07"
    assert "ours: best of crops" not in map(str, tables_of(middle=MIDDLE, ct=ct)["study_3_5"].header)


def test_what_mr_adds_has_both_changes_and_a_paired_p():
    ct = ("3d_cascade_32x96x96", "CT", {"OpticChiasm": [50.0, 51.0, 52.0, 53.0, 54.0, 55.0, 56.0]})
    mr = ("3d_cascade_32x96x96", "T1+T2", {"OpticChiasm": [60.0] * 7})
    both = ("3d_cascade_32x96x96", "CT+T1+T2", {"OpticChiasm": [61.0, 62.0, 63.0, 64.0, 65.0, 66.0, 67.5]})
    table = tables_of(ct=ct, mr=mr, both=both)["study_3_7"]
    chiasm = row_of(table, "OpticChiasm")
    assert chiasm["study: CT"].text == "61.93 +- 12.41"
    assert chiasm["study: change"].text == "+8.54"
    assert chiasm["study: change, %"].text == "+13.8 %"  # of 61.93, as the study says
    assert [chiasm[f"ours: {c} ({n})"].text.split()[0] for c, n in (("CT", "ct"), ("T1+T2", "mr"))] == [
        "53.00",
        "60.00",
    ]
    assert chiasm["ours: CT+T1+T2 (both)"].best
    assert chiasm["ours: change"].text == "+11.07"
    assert chiasm["ours: change, %"].text == "+20.9 %"
    assert float(chiasm["ours: p"].text) == pytest.approx(2 / 2**7, abs=5e-4)  # seven differences of one sign
    lens = row_of(table, "Lens_L")
    assert (lens["ours: change"].text, lens["ours: p"].text) == ("-", "-")


def test_a_system_that_was_not_trained_is_a_dash():
    table = tables_of(middle=MIDDLE)["study_3_7"]
    chiasm = row_of(table, "OpticChiasm")
    assert [chiasm[head].text for head in ("ours: CT", "ours: T1+T2", "ours: change", "ours: p")] == ["-"] * 4
    assert chiasm["ours: CT+T1+T2 (middle)"].text == "71.00 +- 1.41"


def test_the_two_values_of_the_left_lens_are_printed_with_a_footnote():
    tables = tables_of(middle=MIDDLE)
    assert row_of(tables["study_3_2"], "Lens_L")["study: 32x96x96"].text == "78.39 +- 5.21 ‡"
    assert row_of(tables["study_3_7"], "Lens_L")["study: CT+T1+T2"].text == "74.60 +- 7.90 ‡"
    for name, table in tables.items():
        assert ("‡: of one system" in table.note) == (name in ("study_3_2", "study_3_7"))
