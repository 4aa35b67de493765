"""Messages about images that are read."""

from __future__ import annotations

import logging

from nnunet_ext.images.notes import collected_notes, note
from nnunet_ext.messages import Message


def test_notes_go_to_the_list_of_the_innermost_reader_once_and_else_to_the_log(caplog):
    first, second = Message("more_after_the_image", {"file": "a"}), Message("more_after_the_image", {"file": "b"})
    outer: list[Message] = []
    inner: list[Message] = []
    with caplog.at_level(logging.WARNING), collected_notes(outer):
        note(first)
        with collected_notes(inner):
            note(second)
            note(second)
        note(first)
    assert (outer, inner) == ([first], [second])
    assert not caplog.records
    note(first)
    assert caplog.messages == [str(first)]


def test_an_error_while_reading_leaves_no_list_behind(caplog):
    notes: list[Message] = []
    try:
        with collected_notes(notes):
            raise ValueError("cut off")
    except ValueError:
        note(Message("more_after_the_image", {"file": "a"}))
    assert notes == []
    assert len(caplog.records) == 1
