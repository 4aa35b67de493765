"""The order of steps, and what their fingerprints depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_ext.end_to_end.workflow.step import Step, fingerprints, producers

CONVERT = Step("convert", "Convert", ("convert", "patients"), ("raw",), ("patients",), how=("-np", "2"))
PLAN = Step("plan", "Plan", ("plan", "1 mm"), ("plans.json",), ("raw",))
REPORT = Step("report", "Report", ("report",), ("tables",), ("plans.json", "raw"))


def test_a_step_comes_after_those_whose_outputs_it_reads():
    assert producers([CONVERT, PLAN, REPORT]) == {"convert": (), "plan": ("convert",), "report": ("plan", "convert")}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([PLAN, CONVERT], "step plan needs raw, which a later step makes"),
        ([CONVERT, replace(PLAN, name="convert")], "two steps have the name convert"),
        ([CONVERT, replace(PLAN, outputs=("raw",))], "raw is made by two steps, convert and plan"),
        ([replace(CONVERT, name="con vert")], "step 'con vert': use letters"),
    ],
)
def test_a_list_without_an_order_is_refused(steps, said):
    with pytest.raises(ValueError, match=said):
        producers(steps)


def test_a_command_is_typed_with_its_quotes_and_the_words_that_change_nothing_come_last():
    assert CONVERT.line == "convert patients -np 2"
    assert PLAN.line == "plan '1 mm'"


def test_a_fingerprint_changes_with_the_command_and_with_those_before_but_not_with_how():
    before = fingerprints([CONVERT, PLAN, REPORT])
    assert len(set(before.values())) == 3
    assert fingerprints([replace(CONVERT, how=("-np", "8")), PLAN, REPORT]) == before
    after = fingerprints([CONVERT, replace(PLAN, command=("plan", "2 mm")), REPORT])
    assert [name for name in before if after[name] != before[name]] == ["plan", "report"]
