"""The data of the page."""

from __future__ import annotations

import pytest

from nnunet_ext.messages import Message
from nnunet_ext.reporting.page_content import in_both_languages, warnings_of, without_paths

LOST = "the localizer found no organ: the whole body was segmented instead of the ROI"
MESSAGE = {"kind": "no_organ_located", "values": {}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read /data/Zhang San/T1.nii.gz: cut off", "cannot read …: cut off"),
        ("file C:\\Users\\Li\\ct.nii is flat", "file … is flat"),
        ("Zhang_San_T1.nii.gz has 4 dimensions", "… has 4 dimensions"),
        ("spacing 1/2 mm and/or 3 mm", "spacing 1/2 mm and/or 3 mm"),
    ],
)
def test_messages_lose_paths_and_file_names(text, expected):
    assert without_paths(text) == expected


def test_a_text_stands_in_both_languages_unless_they_are_the_same():
    assert in_both_languages("case_1, ours") == "case_1, ours"
    assert in_both_languages(Message("cell_organ", {"organ": "Cochlea_X"})) == "Cochlea_X"
    assert in_both_languages(Message("cell_organ", {"organ": "Eye_L"})) == {"en": "Eye_L", "zh": "左眼球"}


def test_a_warning_is_the_message_that_was_written_with_it():
    assert warnings_of({"warnings": [LOST], "messages": [MESSAGE]}) == [Message("no_organ_located")]
    assert warnings_of({}) == []


@pytest.mark.parametrize(
    "messages", [[], [{"kind": "of_a_later_version", "values": {}}], [MESSAGE, MESSAGE], [{"text": LOST}]]
)
def test_a_warning_without_a_message_that_is_known_stays_english(messages):
    assert warnings_of({"warnings": [LOST], "messages": messages}) == [LOST]
    assert warnings_of({"warnings": [LOST]}) == [LOST]
