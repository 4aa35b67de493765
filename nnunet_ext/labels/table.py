"""Organ names, left/right pairs and the table that maps the names users draw with to TG-263."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from nnunet_ext.files import read_toml
from nnunet_ext.labels.organs import ORGANS, PART_WORDS, built_in_aliases, normalise_name
from nnunet_ext.labels.pairs import MIRROR_KEY, PAIRS_KEY, check_mirroring, check_pairs, pair_names

#: Key of `dataset.json`, beside a model and beside its predictions, with the names of organs that the model leaves out
#: because they do not fit its crop.
LEFT_OUT_KEY = "left_out_organs"

_PLACE_OF_WORD = {word.casefold(): place for place, words in PART_WORDS.items() for word in words}
#: A part and a side in one word, as in HaN-Seg: `Eye_AL`.
_PLACE_AND_SIDE = re.compile("([ap])([lr])")


@dataclass(frozen=True)
class LabelTable:
    """Organs in label order and the names under which they are found.

    Args:
        names: Organ names. The label value is the position + 1, 0 is background.
        aliases: Per organ, the other names users draw with. Case, blanks and punctuation do not matter.
            The organ's own name is always among them.
        stated_pairs: All pairs of left and right organs, the left one first. None if they are read from the names.
        mirror_left_right: Whether training may mirror along the left-right axis.
        parts: Per organ, those of its names that are parts of it and not the whole organ. `PART_WORDS` or a number tell
            others (`Eye_AL`, `GTV 2`).

    Raises:
        ValueError: If there is no organ, a name is empty or `background`, one alias stands for two organs, or a stated
            pair is none.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stated_pairs: tuple[tuple[str, str], ...] | None = None
    mirror_left_right: bool = True
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("the label table names no organ: add one line per organ below `[labels]`")
        owner: dict[str, str] = {}
        for name in self.names:
            if normalise_name(name) in ("", "background"):
                raise ValueError(f"label table: {name!r} cannot be an organ; background is 0 and needs no line")
            for alias in (name, *self.aliases.get(name, ())):
                key = normalise_name(alias)
                if not key:
                    raise ValueError(
                        f"label table: organ {name!r} has the alias {alias!r}, which has no letter or digit"
                    )
                if owner.setdefault(key, name) != name:
                    raise ValueError(
                        f"label table: {alias!r} stands for both {owner[key]!r} and {name!r}; keep it once"
                    )
        object.__setattr__(self, "_owner", owner)
        check_pairs(self.stated_pairs, self.names, where="label table")

    @property
    def values(self) -> dict[str, int]:
        """Label value per organ, 1..N, without background."""
        return {name: value for value, name in enumerate(self.names, start=1)}

    @property
    def dataset_labels(self) -> dict[str, int]:
        """`labels` of nnU-Net's `dataset.json`, background first."""
        return {"background": 0, **self.values}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Left and right organs, as stated, else by name."""
        return pair_names(self.names).pairs if self.stated_pairs is None else list(self.stated_pairs)

    @property
    def side_entries(self) -> dict:
        """Entries about sides that the table states, for nnU-Net's `dataset.json`."""
        pairs = {} if self.stated_pairs is None else {PAIRS_KEY: [list(pair) for pair in self.stated_pairs]}
        return pairs if self.mirror_left_right else {**pairs, MIRROR_KEY: False}

    def organ(self, drawn_name: str) -> str | None:
        """Organ that a drawn name stands for, or None if the table does not know it."""
        return self._owner.get(normalise_name(drawn_name))  # type: ignore[attr-defined]

    def is_part(self, drawn_name: str) -> bool:
        """Whether a drawn name is that of a part of an organ. Parts are united, two whole organs are not."""
        return bool(self._place(normalise_name(drawn_name)))

    def _place(self, key: str) -> frozenset[str]:
        """Which part of its organ a normalised name means. Nothing if it means the whole organ, or no organ."""
        organ = self._owner.get(key)  # type: ignore[attr-defined]
        if organ is None:
            return frozenset()
        spelt = [alias for alias in (organ, *self.aliases.get(organ, ())) if normalise_name(alias) == key]
        if any(alias in self.parts.get(organ, ()) for alias in spelt):
            return frozenset({key})
        return next((frozenset(place) for alias in spelt if (place := _places(alias) - _places(organ))), frozenset())

    def check_drawn_once(self, drawn: Iterable[tuple[str, str]]) -> None:
        """Refuse two versions of one organ, of which nobody can say which is meant.

        Args:
            drawn: Names of regions, mask files or segments that hold something, and the name of each in messages. Names
                of no organ are passed over.

        Raises:
            ValueError: If two names are equal, or both are the whole of one organ, or the same part of it.
        """
        seen: dict[tuple, tuple[str, str]] = {}
        for name, shown in drawn:
            organ, key = self.organ(name), normalise_name(name)
            if organ is None:
                continue
            meant = organ, self._place(key)
            if meant not in seen:
                seen[meant] = name, shown
                continue
            other, other_shown = seen[meant]
            message = f"{organ} is drawn twice, as {other_shown} and {shown}; delete or rename one of them"
            if normalise_name(other) != key:
                line = f"{organ} = [[{_quoted(other)}, {_quoted(name)}]]"
                message += f". If they are two parts of it, say so in a label table: {line}"
            raise ValueError(message)

    def as_dict(self) -> dict[str, list]:
        """The aliases of each organ as plain JSON, in label order, without those that come with the package.

        Names that are declared as parts form a list of their own, as in the file.
        """
        known = built_in_aliases(self.names)
        table: dict[str, list] = {}
        for name in self.names:
            elsewhere = {*known.get(name, ()), *self.parts.get(name, ())}
            parts = [list(self.parts[name])] if self.parts.get(name) else []
            table[name] = [*(alias for alias in self.aliases.get(name, ()) if alias not in elsewhere), *parts]
        return table


def _quoted(name: str) -> str:
    """A name as a string of a TOML file."""
    return json.dumps(name, ensure_ascii=False)


def _places(name: str) -> set[str]:
    """Side, place (`PART_WORDS`) and number of the part that a name means."""
    words = re.findall(r"[A-Z]?[a-zà-ÿ]+|[A-Z]+(?![a-z])|\d+|[\u3400-\u9fff]", unicodedata.normalize("NFKC", name))
    words = [word.casefold() for word in words]
    words += [letter for word in words if (match := _PLACE_AND_SIDE.fullmatch(word)) for letter in match.groups()]
    return {_PLACE_OF_WORD[word] for word in words if word in _PLACE_OF_WORD} | {
        str(int(word)) for word in words if word.isdecimal()
    }


@cache
def default_label_table() -> LabelTable:
    """The seven organs in TG-263 order with the built-in aliases."""
    return LabelTable(ORGANS, built_in_aliases(ORGANS))


def load_label_table(path: Path) -> LabelTable:
    """Label table of a TOML file, which has `[labels]` and then one line per organ in label order.

    `OpticChiasm = ["Chiasm", "optic_chiasm"]` makes the organ `OpticChiasm` and finds files of those names. An organ
    without other names is `Brain = []`. Names in a list of their own are parts that are united, as in `Brain =
    [["Cerebrum", "Cerebellum"], "whole brain"]`. Organs the package knows keep their built-in aliases, except those
    that the file gives to another organ.

    Two lines about sides may stand beside them. `left_right_pairs = [["eye1", "eye2"]]` lists all pairs, and
    `mirror_left_right = false` trains without mirroring. TOML wants them above `[labels]`. Below it they are read, too.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not TOML, has no `[labels]`, a line is not a list of names, or a line about sides is wrong.
    """
    path = Path(path)
    content = read_toml(path, called=f"label table {path.name}")
    lines = content.get("labels")
    if not isinstance(lines, dict):
        raise ValueError(f'label table {path.name} has no [labels] section; write [labels], then Eye_L = ["eye_left"]')
    sides = _side_lines(content, where=f"label table {path.name}")
    given: dict[str, tuple[str, ...]] = {}
    parts: dict[str, tuple[str, ...]] = {}
    for name, aliases in lines.items():
        if name in sides:
            continue
        aliases = [aliases] if isinstance(aliases, str) else aliases
        lists = [alias for alias in aliases if isinstance(alias, list)] if isinstance(aliases, list) else []
        flat = [alias for one in aliases for alias in (one if one in lists else [one])] if lists else aliases
        if not isinstance(flat, list) or not all(isinstance(alias, str) for alias in flat):
            raise ValueError(
                f'label table {path.name}: {name} = {aliases!r} is not a list of names, such as ["Chiasm"]'
            )
        given[name] = tuple(flat)
        parts[name] = tuple(part for one in lists for part in one)
    claimed = {normalise_name(alias): name for name, aliases in given.items() for alias in (name, *aliases)}
    for name, aliases in built_in_aliases(given).items():
        free = [alias for alias in aliases if claimed.get(normalise_name(alias), name) == name]
        given[name] = tuple(dict.fromkeys((*given[name], *free)))
    where = f"label table {path.name}"
    return LabelTable(
        tuple(given),
        given,
        stated_pairs=check_pairs(sides.get(PAIRS_KEY), given, where=where),
        mirror_left_right=check_mirroring(sides, where=where),
        parts={name: names for name, names in parts.items() if names},
    )


def _side_lines(content: Mapping, *, where: str) -> dict:
    """The lines about sides of a label table, above or below `[labels]` or any other heading."""
    found = {}
    below = ((f"below [{name}]", table) for name, table in content.items() if isinstance(table, dict))
    for place, table in (("above [labels]", content), *below):
        for key, value in table.items():
            for known in difflib.get_close_matches(key, (PAIRS_KEY, MIRROR_KEY), n=1, cutoff=0.85):
                if key != known or known in found:
                    problem = "is written twice" if key == known else f"is not known: write {known}"
                    raise ValueError(f"{where}: {key}, {place}, {problem}")
                found[known] = value
    return found
