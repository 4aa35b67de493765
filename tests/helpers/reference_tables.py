"""What the pages of `docs/reference` list in tables, to compare with what the code has and writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
#: A part of a key that stands for data, such as `CASE` or `ORGAN`.
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")


def rows(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, its head first, without the quotes of code."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    section = re.search(rf"^##+ {re.escape(heading)}$(.*?)(?=^##+ |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert section, f"{page} has no section {heading}"
    table = re.search(r"(?:^\|.*\n)+", section[1], flags=re.MULTILINE)
    assert table, f"{page}: section {heading} has no table"
    lines = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table[0].splitlines()]
    return [[cell.strip("` ") for cell in line] for line in lines if not set("".join(line)) <= set("|- ")]


def check_file(content: object, file: str) -> None:
    """Compare the keys of a JSON file with its table in `files.md`.

    Every key written must be listed, and every key listed as `always` must be written.
    """
    if not REFERENCE.is_dir():  # the tests lie outside of a checkout
        return
    listed = {tuple(line[0].split(".")): line[1] for line in rows("files.md", f"`{file}`")[1:]}
    written = list(_leaves(content))
    unlisted = {".".join(leaf) for leaf in written if not any(_matches(leaf, key) for key in listed)}
    assert not unlisted, f"{file}: not in docs/reference/files.md: {sorted(unlisted)}"
    missing = [key for key, when in listed.items() if when == "always" and not any(_matches(w, key) for w in written)]
    assert not missing, f"{file}: docs/reference/files.md lists as always there: {['.'.join(key) for key in missing]}"


def _leaves(content: object, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of keys to whatever is no mapping; an empty mapping ends with an empty word."""
    if not isinstance(content, dict):
        yield above
        return
    if not content:
        yield (*above, "")
    for key, value in content.items():
        yield from _leaves(value, (*above, key))


def _matches(leaf: tuple[str, ...], key: tuple[str, ...]) -> bool:
    if leaf and leaf[-1] == "":  # an empty mapping may lack what data would name
        leaf = leaf[:-1]
        key = key[: len(leaf)]
    return len(leaf) == len(key) and all(
        PLACEHOLDER.fullmatch(part) or part == name for name, part in zip(leaf, key, strict=True)
    )
