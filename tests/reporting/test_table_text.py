"""A table as Markdown and as LaTeX."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from nnunet_ext.reporting.content import Cell, Table
from nnunet_ext.reporting.table_text import file_stem, to_latex, to_latex_text, to_markdown


def test_latex_has_booktabs_rules_and_no_stray_commands():
    table = Table(
        "t", "DSC, %", ("organ", "A_1 & B"), ((Cell("Eye_L"), Cell("78.46 +- 6.23 †", best=True)),), ("p < 0.05 #1",)
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
    table = Table("wide", "DSC, %", ("organ", *(f"experiment_{i} & more" for i in range(12))), (row,), ("p < 0.05 #1",))
    text = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}" + to_latex(table)
    (tmp_path / "paper.tex").write_text(text + "\\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_markdown_marks_the_best_and_escapes_bars():
    table = Table("t", "DSC", ("organ", "a|b"), ((Cell("Eye_L"), Cell("78.46 +- 6.23", best=True)),), ("One.", "Two."))
    assert (
        to_markdown(table) == "### DSC\n\n| organ | a\\|b |\n| --- | --- |\n| Eye_L | **78.46 ± 6.23** |\n\nOne. Two.\n"
    )


def test_names_become_parts_of_file_names():
    assert file_stem("CT+T1/T2 32x96") == "CT_T1_T2_32x96"
