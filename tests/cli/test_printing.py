"""Lines that several verbs print."""

from __future__ import annotations

from types import SimpleNamespace

from nnunet_ext.cli.printing import complain, counts, report_failed


def test_an_error_is_one_line_on_standard_error(capsys):
    assert complain("convert", "no case\n  in  src", exit_code=3) == 3
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "nnunet_ext convert: error: no case in src\n")


def test_each_failed_case_is_a_line_and_makes_the_exit_code_1(capsys):
    assert report_failed("predict", {}) == 0
    assert report_failed("predict", {"p1": "cut off", "p2": "no CT"}) == 1
    assert [line.partition("error: ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "case 'p1': cut off",
        "case 'p2': no CT",
    ]


def test_cases_are_counted_whether_they_are_numbers_or_names():
    summary = SimpleNamespace(written=2, skipped=["a"], failed={"b": "x", "c": "y"})
    assert counts(summary) == "2 written, 1 skipped (already there), 2 failed"
