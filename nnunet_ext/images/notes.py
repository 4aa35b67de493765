"""Lines about an image that reading finds worth knowing, collected per case."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

log = logging.getLogger(__name__)
_lines: ContextVar[list[str] | None] = ContextVar("lines", default=None)


@contextlib.contextmanager
def collected_notes(lines: list[str]) -> Iterator[None]:
    """Lines about files read meanwhile go to a list and not to the log: the caller knows of which case they are."""
    before = _lines.set(lines)
    try:
        yield
    finally:
        _lines.reset(before)


def note(line: str) -> None:
    if (lines := _lines.get()) is None:
        log.warning(line)
    elif line not in lines:
        lines.append(line)
