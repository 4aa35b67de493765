"""Chinese for the sentences that the report writes in English, and for failures: remarks, titles, notes.

Warnings are messages of a kind, with a Chinese text of their own (`messages.py`).

`assets/sentences.json` lists them with places in braces. Cases and figures in these places are carried over. Names of
organs are put into Chinese. A sentence that is not listed stays English, so no warning is ever lost.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources

from nnunet_ext.labels.sides import chinese_name

#: Names of places in braces. The first may hold more than one word, the second hold names of organs.
_LONG = {"case", "cases", "channels", "first", "lacking", "name", "names", "organs", "sentence"}
_ORGANS = {"organ", "other", "organs"}
_STAGES = {"localizer": "定位网络", "segmenter": "分割网络"}


def in_chinese(text: str) -> str | None:
    """One or several English sentences of the package in Chinese; None where one of them is not known."""
    for pattern, chinese in _patterns():
        if match := pattern.fullmatch(text):
            return chinese.format(**{place: _value(place, value) for place, value in match.groupdict().items()})
    if name := chinese_name(text):
        return name
    first, end, rest = text.partition(". ")
    if not end:
        return None
    beginning, remainder = in_chinese(f"{first}."), in_chinese(rest)
    return None if beginning is None or remainder is None else beginning + remainder


@cache
def _patterns() -> list[tuple[re.Pattern, str]]:
    file = resources.files("nnunet_ext.reporting") / "assets" / "sentences.json"
    sentences = json.loads(file.read_text(encoding="utf-8"))
    return [(re.compile(_pattern(english)), chinese) for english, chinese in sentences.items()]


def _pattern(english: str) -> str:
    """`no voxel of {organs}` as a regular expression with a group `organs`."""
    parts = re.split(r"\{(\w+)\}", english)  # text, place, text, ..., text
    groups = [f"(?P<{place}>{'.+' if place in _LONG else _word(place)})" for place in parts[1::2]]
    return "".join(re.escape(text) + group for text, group in zip(parts[::2], [*groups, ""], strict=True))


def _word(place: str) -> str:
    return "|".join(_STAGES) if place == "stage" else r"\S+"


def _value(place: str, value: str) -> str:
    if place == "sentence":
        return in_chinese(value) or value
    if place == "stage":
        return _STAGES[value]
    if place in _ORGANS:
        value = re.sub(r"\w+", lambda word: chinese_name(word[0]) or word[0], value)
    return re.sub(r", | and ", "、", value) if place in _LONG and place.endswith("s") else value
