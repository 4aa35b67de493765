"""Which side an organ's name says, in any spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from nnunet_ext.labels.organs import (
    BEHIND_ONLY,
    CHINESE_NAMES,
    CHINESE_SIDES,
    PAIRED_ALIASES,
    SIDE_WORDS,
    SIDES,
    SINGLE_ALIASES,
    normalise_name,
)

OTHER_SIDE = {"L": "R", "R": "L"}
ADJECTIVES = {"L": "left", "R": "right"}
_ROW_OF = {
    word.casefold(): (side, row)
    for row, words in enumerate(SIDE_WORDS)
    for side, group in (("L", words.left), ("R", words.right))
    for word in group
}
#: In scripts without capitals a word may stand within another one: 左眼球.
_CASELESS = re.compile("|".join(sorted((w for w in _ROW_OF if w == w.upper()), key=len, reverse=True)))
#: Anterior and posterior halves: `Eye_AL`.
_HALVES = ("AL", "AR", "PL", "PR")
#: If so many names differ in one letter only (`Level_A`, `Level_B`, ...), L and R are letters like the others.
LETTERS_OF_A_SERIES = 3


class _Mark(NamedTuple):
    """A word for a side in a name, with its place, its side, its row in `SIDE_WORDS`, and whether it needs no partner."""

    start: int
    end: int
    side: str
    row: int
    sure: bool


@dataclass(frozen=True)
class _Reading:
    """How a name was read.

    `spelling` and `organ` are equal for partners, which are written the same way, or mean the same.
    """

    side: str
    stem: str
    sure: bool
    spelling: tuple | None
    organ: str


def side_of(name: str) -> NamedSide | None:
    """Side and remainder of a name that has a side of its own. None for `Lens`, `Larynx` or `L5`."""
    reading = read_name(name)
    return NamedSide(reading.side, reading.stem) if reading is not None and reading.sure else None


def organ_word(name: str) -> str:
    """TG-263 name without its side, such as `Eye` for `left_eye` and `OD_Globe`, if the package knows the organ.

    Other names come as they are written, without their side.
    """
    reading = read_name(name)
    if reading is None or not reading.sure:
        return _organs_by_word(SINGLE_ALIASES).get(normalise_name(name), name)
    return _organs_by_word(PAIRED_ALIASES).get(reading.organ, reading.stem)


def _organs_by_word(aliases: Mapping[str, Iterable[str]]) -> dict[str, str]:
    return {normalise_name(word): organ for organ, words in aliases.items() for word in words}


def _tokens(name: str) -> list[tuple[int, int]]:
    """Begin and end of the words of a name, at separators, camel case, digits and changes of script."""

    def kind(c: str) -> str:
        return "U" if c.isupper() else "l" if c.islower() else "d" if c.isdigit() else "c" if c.isalpha() else "-"

    return [match.span() for match in re.finditer(r"U+(?!l)|U?l+|d+|c+", "".join(map(kind, name)))]


def read_name(name: str) -> _Reading | None:
    """The side that a name may have. None if it has none, or both (`Eyes_L+R`)."""
    name = unicodedata.normalize("NFKC", name)
    marks = _marks(name)
    sure = [mark for mark in marks if mark.sure]
    if len({mark.side for mark in sure}) > 1:
        return None
    known = None if sure else _known_words().get(normalise_name(name))
    if known is not None:  # run together, `lefteye`: as the label table reads it
        marks = [mark for mark in marks if mark.side == known[0]]
        if not marks:
            return _Reading(*known, sure=True, spelling=None, organ=normalise_name(known[1]))
    agreeing = [mark for mark in marks if not sure or mark.side == sure[0].side]  # `OD lens right`
    marks = sure or marks
    if len({mark.side for mark in marks}) != 1:
        return None
    pieces, organ = _without(name, marks), normalise_name(_joined(_without(name, agreeing)))
    spelling = "\0".join(pieces).casefold(), *(mark.row for mark in marks)
    return _Reading(marks[0].side, _joined(pieces), sure=bool(sure or known), spelling=spelling, organ=organ)


def _without(name: str, marks: Sequence[_Mark]) -> list[str]:
    """Parts of a name before, between and after its marks."""
    starts, ends = [*(mark.start for mark in marks), None], [0, *(mark.end for mark in marks)]
    return [name[end:start] for end, start in zip(ends, starts, strict=True)]


def _joined(pieces: Iterable[str]) -> str:
    """A name without its side. Of two separators that meet, one is kept."""
    stem = re.sub(r"[\W_]*\0[\W_]*", lambda gap: gap[0].replace("\0", "")[:1], "\0".join(pieces))
    return re.sub(r"^[\W_]+|[\W_]+$", "", stem)


def _marks(name: str) -> list[_Mark]:
    """Words for a side in a name that is normalised (NFKC), as whole words."""
    marks, tokens = [], _tokens(name)
    for at, (start, end) in enumerate(tokens):
        word, last = name[start:end].casefold(), at == len(tokens) - 1
        if name[end : end + 1].isdigit():
            continue  # L5 is a vertebra
        if word == word.upper():
            for match in _CASELESS.finditer(word):
                marks.append(_Mark(start + match.start(), start + match.end(), *_ROW_OF[match[0]], True))
        elif word in _ROW_OF:
            side, row = _ROW_OF[word]
            words = SIDE_WORDS[row]
            if words.before or at:
                sure = words.sure == "anywhere" or (words.sure == "last" and last and at > 0)
                marks.append(_Mark(start, end, side, row, sure))
        elif word.startswith(("left", "right")):
            length = 4 if word.startswith("left") else 5
            marks.append(_Mark(start, start + length, *_ROW_OF[word[:length]], True))
        elif name[start:end] in _HALVES and last and at:
            marks.append(_Mark(end - 1, end, *_ROW_OF[word[-1]], True))
    return marks


@cache
def _known_words() -> dict[str, tuple[str, str]]:
    """Normalised name -> side and word, for the paired organs that the package knows, as the label table reads them."""
    known: dict[str, tuple[str, str]] = {}
    for words in PAIRED_ALIASES.values():
        for side, marks in SIDES.items():
            for word in words:
                known |= {normalise_name(f"{word}{mark}"): (side, word) for mark in marks}
                known |= {normalise_name(f"{mark}{word}"): (side, word) for mark in marks if mark not in BEHIND_ONLY}
    return known


def is_series(spelling: str, names: Iterable[str]) -> bool:
    """Whether several names differ from a pair's in one letter only."""
    before, _, after = spelling.partition("\0")
    written = (unicodedata.normalize("NFKC", name).casefold() for name in names)
    alike = (name for name in written if name.startswith(before) and name.endswith(after))
    letters = {name[len(before) : len(name) - len(after)] for name in alike} - {"l", "r", "g", "d"}
    return sum(len(letter) == 1 and letter.isalpha() for letter in letters) >= LETTERS_OF_A_SERIES


def glued_side(names: Iterable[str]) -> list[tuple[str, str]]:
    """Names that differ in a word for a side within a longer one, such as `Rib_L1` and `Rib_R1`."""
    found: dict[tuple, dict[str, str]] = {}
    for name in names:
        text = unicodedata.normalize("NFKC", name)
        for start, end in _tokens(text):
            token = text[start:end].casefold()
            for word, (side, row) in _ROW_OF.items():
                if SIDE_WORDS[row].sure == "anywhere":
                    places = [start] * token.startswith(word) + [end - len(word)] * token.endswith(word)
                    for place in places:
                        key = text[:place].casefold(), text[place + len(word) :].casefold(), row
                        found.setdefault(key, {})[side] = name
    return list(dict.fromkeys((pair["L"], pair["R"]) for pair in found.values() if len(pair) == 2))


def chinese_name(organ: str) -> str | None:
    """An organ's Chinese name, e.g. 左眼球 for `Eye_L` or `left_eye`. None for organs the package does not know."""
    if organ in CHINESE_NAMES:
        return CHINESE_NAMES[organ]
    side = side_of(organ)
    if side is None or _CASELESS.search(organ) is not None:  # in Chinese letters already
        return None
    chinese = CHINESE_NAMES.get(organ_word(organ))
    return chinese and CHINESE_SIDES[side.side] + chinese


class NamedSide(NamedTuple):
    """The side of a name, and the name without it, such as `L` and `Cochlea_PRV03` of `Cochlea_L_PRV03`."""

    side: str
    stem: str
