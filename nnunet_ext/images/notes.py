"""Messages about images that are read, collected per case."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

from nnunet_ext.messages import Message

log = logging.getLogger(__name__)
_messages: ContextVar[list[Message] | None] = ContextVar("messages", default=None)


@contextlib.contextmanager
def collected_notes(messages: list[Message]) -> Iterator[None]:
    """Messages about files read meanwhile go to a list and not to the log. The caller knows of which case they are."""
    before = _messages.set(messages)
    try:
        yield
    finally:
        _messages.reset(before)


def note(message: Message) -> None:
    """Hand a message to the list of `collected_notes`, or to the log if there is none."""
    if (messages := _messages.get()) is None:
        log.warning("%s", message)
    elif message not in messages:
        messages.append(message)
