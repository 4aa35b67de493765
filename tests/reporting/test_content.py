"""The data of a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_summaries import summary

from nnunet_ext.messages import Message
from nnunet_ext.reporting.content import Experiment, Report, Table


def test_failed_cases_are_named_with_their_experiment():
    good, poor = summary({"Eye_L": [1.0, 2.0]}), summary({"Eye_L": [3.0, 4.0]})
    poor = replace(poor, failed={"case_1": "cut off"})
    experiments = Experiment("good", Path("a"), good), Experiment("poor", Path("b"), poor)
    report = Report(Path("out"), experiments, good.organs, good.cases, (), "Eye_L")
    assert report.failed == {"case_1 (poor)": "cut off"}


def test_notes_of_a_table_are_sentences_one_after_the_other():
    table = Table("t", "DSC", ("organ",), (), (Message("note_means", {"n": 3}), "More."))
    assert table.note == "Mean +- SD over 3 cases. More."
    assert Table("t", "DSC", ("organ",), ()).note == ""
