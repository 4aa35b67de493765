"""Tests and marks against numbers worked out on paper."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ext.evaluation.metrics import METRICS
from nnunet_ext.evaluation.statistics import Score
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.reporting.content import Cell, Experiment, Table
from nnunet_ext.reporting.tables import file_stem, holm, make_tables, paired_tests, to_latex, to_latex_text, to_markdown

NAN = float("nan")


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


def tables_of(experiments: dict[str, EvaluationSummary], **options) -> tuple[dict[str, Table], list[str]]:
    cases = next(iter(experiments.values())).cases
    organs = next(iter(experiments.values())).organs
    runs = [Experiment(name, Path(name), scores) for name, scores in experiments.items()]
    tables, remarks = make_tables(runs, cases, organs, **({"box_organ": organs[0], "with_study": False} | options))
    return {table.name: table for table in tables}, remarks


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


def test_fewer_than_six_pairs_get_no_p_value_and_that_is_said():
    five = {"Lens_L": [50.0, 51.0, 52.0, 53.0, 54.0, NAN]}
    six = {"Lens_L": [60.0, 61.0, 62.0, 63.0, 64.0, 65.0]}
    tests = paired_tests({"A": summary(five), "B": summary(six)}, ["Lens_L"], "dsc_percent")
    assert tests["B", "Lens_L"].n_pairs == 5
    assert tests["B", "Lens_L"].p is None
    tables, remarks = tables_of({"A": summary(five), "B": summary(six)})
    assert tables["wilcoxon_dsc_percent"].rows[0][1] == Cell("+10.00; no test; n = 5")
    assert len(remarks) == 1
    assert "fewer than 6 cases that have a value in both experiments (cases compared: 6)" in remarks[0]
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
    rows = {row[0].text: row[1:] for row in tables_of({"whole": whole, "crop": crop})[0]["dsc_percent"].rows}
    assert [cell.text for cell in rows["Eye_L"]] == ["91.00 +- 1.41", "-"]
    assert not rows["Eye_L"][0].best
    assert [cell.text for cell in rows["all organs"]] == ["71.00 +- 1.41", "75.00 +- 1.41"]


def test_published_values_stand_beside_but_are_never_best():
    tables, _ = tables_of(
        {"A": summary({"Eye_L": [10.0], "OpticChiasm": [20.0]})}, with_study=True, box_organ="OpticChiasm"
    )
    header, chiasm = tables["dsc_percent"].header, tables["dsc_percent"].rows[1]
    published = dict(zip(header, chiasm, strict=True))
    assert published["study: 32x96x96"] == Cell("70.47 +- 8.34")
    assert dict(zip(header, tables["dsc_percent"].rows[0], strict=True))["study: 16x64x64"] == Cell("-")
    assert "study: localizer" not in tables["hd95_mm"].header  # the study gives none
    systems = {row[0].text: row[1].text for row in tables["systems_OpticChiasm"].rows}
    assert systems["A"] == "20.00 +- -"
    assert systems["study: 32x96x96, CT only"] == "61.93"
    assert systems["DeepLab (as the study cites it)"] == "55.6"


def test_failed_and_missed_are_counted_in_the_overview():
    found = summary({"Lens_L": [0.0, 80.0]})
    found.rows[0] = replace(found.rows[0], flag="missed")
    (row,) = tables_of({"A": found})[0]["overview"].rows
    by_head = dict(zip(tables_of({"A": found})[0]["overview"].header, (cell.text for cell in row), strict=True))
    assert by_head["missed"] == "1"
    assert by_head["cases compared"] == "2 of 2"
    assert by_head["all organs DSC %"] == "40.00 +- 56.57"


def test_latex_has_booktabs_rules_and_no_stray_commands():
    table = Table(
        "t", "DSC, %", ("organ", "A_1 & B"), ((Cell("Eye_L"), Cell("78.46 +- 6.23 †", best=True)),), "p < 0.05 #1"
    )
    lines = to_latex(table).splitlines()
    assert r"organ & A\_1 \& B \\" in lines
    assert r"Eye\_L & \textbf{78.46 $\pm$ 6.23 $^{\dagger}$} \\" in lines
    assert r"\caption{DSC, \%. p $<$ 0.05 \#1}" in lines
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert r"\begin{tabular}{lc}" in lines
    assert r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%" in lines
    assert to_latex_text(r"a\b{c}~^") == r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_a_table_wider_than_the_page_compiles_and_is_shrunk_to_it(tmp_path):
    row = (Cell("Eye_L"), *(Cell("78.46 +- 6.23 †", best=i == 3) for i in range(12)))
    table = Table("wide", "DSC, %", ("organ", *(f"experiment_{i} & more" for i in range(12))), (row,), "p < 0.05 #1")
    text = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}" + to_latex(table)
    (tmp_path / "paper.tex").write_text(text + "\\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_markdown_marks_the_best_and_escapes_bars():
    table = Table("t", "DSC", ("organ", "a|b"), ((Cell("Eye_L"), Cell("78.46 +- 6.23", best=True)),), "Note.")
    assert to_markdown(table) == "### DSC\n\n| organ | a\\|b |\n| --- | --- |\n| Eye_L | **78.46 ± 6.23** |\n\nNote.\n"


def test_names_become_parts_of_file_names():
    assert file_stem("CT+T1/T2 32x96") == "CT_T1_T2_32x96"
