"""What the package has to say about a case, as data: a kind and values. Words are made where a person reads them.

`messages.json` holds the English and the Chinese text of every kind, with places for the values in braces. A value is a
number, a text, several texts or another message.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

Language = Literal["en", "zh"]

#: Places that hold names of organs or channels. These have other names in Chinese.
NAME_PLACES = frozenset({"organ", "other", "organs", "smaller", "channel", "channels"})
#: What stands between several texts, in English and in Chinese. A place such as `{channels:and}` names it.
_JOINTS: dict[str, dict[Language, str]] = {
    "": {"en": ", ", "zh": "、"},
    "and": {"en": " and ", "zh": "、"},
    "or": {"en": " or ", "zh": " 或 "},
    ";": {"en": "; ", "zh": "；"},
}


@dataclass(frozen=True)
class Message:
    """One thing to say.

    Attributes:
        kind: Key of `messages.json`.
        values: Place in the text -> value. Numbers of NumPy become Python's, lists become tuples.
    """

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", {place: _plain(value) for place, value in self.values.items()})

    def __hash__(self) -> int:
        return hash((self.kind, *sorted(self.values)))

    def __str__(self) -> str:
        return self.text()

    def text(self, language: Language = "en", name: Callable[[str], str | None] | None = None) -> str:
        """The message in words.

        Args:
            language: `en` or `zh`.
            name: Organ or channel -> its name in that language, None to keep it.
        """
        shown = {place: _shown(place, value, language, name) for place, value in self.values.items()}
        return _templates()[self.kind][language].format(**shown)

    def changed(self, change: Callable[[str], str]) -> Message:
        """The message with every text among its values changed, those of inner messages too."""
        return Message(self.kind, {place: _changed(value, change) for place, value in self.values.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, which `from_json` reads."""
        return {"kind": self.kind, "values": {place: _to_json(value) for place, value in self.values.items()}}

    @classmethod
    def from_json(cls, content: object) -> Message:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: If it is no message of this version: the kind is not known, or its places are others.
        """
        if not isinstance(content, Mapping) or content.keys() != {"kind", "values"}:
            raise ValueError(f"{content!r} is no message: it needs a kind and values")
        kind, values = content["kind"], content["values"]
        known = isinstance(kind, str) and kind in _templates()
        if not known or not isinstance(values, Mapping) or values.keys() != places(kind):
            raise ValueError(f"{content!r} is no message of this version")
        message = cls(kind, {place: _from_json(value) for place, value in values.items()})
        try:
            str(message)
        except (TypeError, ValueError, KeyError) as error:  # a text where a number belongs
            raise ValueError(f"{content!r} is no message of this version: {error}") from None
        return message


def in_english(messages: Iterable[Message]) -> list[str]:
    return [str(message) for message in messages]


def english_texts() -> list[str]:
    """The English texts of all kinds, with their places."""
    return [texts["en"] for texts in _templates().values()]


def places(kind: str) -> set[str]:
    """Places in the text of a kind."""
    return {place for _, place, _, _ in string.Formatter().parse(_templates()[kind]["en"]) if place is not None}


@cache
def _templates() -> dict[str, dict[Language, str]]:
    return json.loads((resources.files("nnunet_ext") / "messages.json").read_text(encoding="utf-8"))


class _Several(tuple):
    """Texts and the language they are joined in."""

    language: Language

    def __new__(cls, texts: Iterable[str], language: Language) -> _Several:
        several = super().__new__(cls, texts)
        several.language = language
        return several

    def __format__(self, joint: str) -> str:
        return _JOINTS[joint][self.language].join(self)


def _shown(place: str, value: Any, language: Language, name: Callable[[str], str | None] | None) -> Any:
    """A value as it is put into its place."""
    if isinstance(value, Message):
        return value.text(language, name)
    if isinstance(value, tuple):
        return _Several((str(_shown(place, one, language, name)) for one in value), language)
    if isinstance(value, str) and name is not None and place in NAME_PLACES:
        return name(value) or value
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one) for one in value)
    if value is not None and not isinstance(value, (str, int, float, Message)):
        value = value.item()  # NumPy's
    return value


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Message):
        return value.changed(change)
    if isinstance(value, tuple):
        return tuple(_changed(one, change) for one in value)
    return change(value) if isinstance(value, str) else value


def _to_json(value: Any) -> Any:
    if isinstance(value, Message):
        return value.to_json()
    return [_to_json(one) for one in value] if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Message.from_json(value)
    return tuple(_from_json(one) for one in value) if isinstance(value, list) else value
