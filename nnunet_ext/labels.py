"""Organ names, left/right pairs and the table that maps the names users draw with to TG-263."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Default labels in label order (value = position + 1), TG-263 names; the eye excludes its lens.
ORGANS = ("Eye_L", "Eye_R", "Lens_L", "Lens_R", "OpticNrv_L", "OpticNrv_R", "OpticChiasm")

#: Key of `dataset.json`, beside a model and beside its predictions, with the names of organs that the model leaves out
#: because they do not fit its crop.
LEFT_OUT_KEY = "left_out_organs"

#: How sides are written beside an organ's name, before or after it: `Lens_L`, `left_lens`, `LENS-LT`, `Linse rechts`.
SIDES = {
    "L": ("L", "LT", "Left", "左", "左侧", "左側", "Links", "Linkes", "Linke", "Li", "Gauche", "G"),
    "R": ("R", "RT", "Right", "右", "右侧", "右側", "Rechts", "Rechtes", "Rechte", "Re", "Droit", "Droite", "D"),
}

#: What paired organs are called, without the side. Parts are united: `Eye_AL` + `Eye_PL` -> `Eye_L` (`PART_WORDS`).
PAIRED_ALIASES = {
    "Eye": ("Eye", "Eyes", "Eyeball", "Globe", "Eye_A", "Eye_P", "Eye_Ant", "Eye_Post", "Bulbus", "OrbitalGlobe",
            "眼", "眼球", "眼睛", "Auge", "Augapfel", "Oeil", "Œil"),
    "Lens": ("Lens", "Lenses", "EyeLens", "Eye_Lens", "CrystallineLens", "Lense",
             "晶体", "晶體", "晶状体", "晶狀體", "水晶体", "水晶體", "眼晶体", "眼晶體", "眼晶状体", "眼晶狀體",
             "Linse", "Augenlinse", "Cristallin"),
    "OpticNrv": ("OpticNrv", "OpticNerve", "OpticN", "OptNrv", "OptNerve", "ON", "N_opticus", "NervusOpticus",
                 "Optic_Nerves", "Nerve_Optic", "视神经", "視神經", "Sehnerv", "Nerf_Optique"),
}  # fmt: skip

#: What single organs are called.
SINGLE_ALIASES = {
    "OpticChiasm": (
        "OpticChiasm",
        "Chiasm",
        "Chiasma",
        "OptChiasm",
        "Optic_Chiasma",
        "Opt_Chiasm",
        "ChiasmaOpticum",
        "OpticChiasma",
        "Chiasm_Optic",
        "视交叉",
        "視交叉",
        "视神经交叉",
        "視神經交叉",
        "Sehnervenkreuzung",
        "Chiasme",
        "Chiasme_Optique",
        "Chiasma_Optique",
    ),
}

#: Words that make a name that of a part of an organ, if the organ's own name does not have them.
PART_WORDS = {
    "left": ("L", "LT", "Left", "左", "Links", "Linke", "Linker", "Linkes", "Gauche"),
    "right": ("R", "RT", "Right", "右", "Rechts", "Rechte", "Rechter", "Rechtes", "Droit", "Droite"),
    "anterior": ("A", "Ant", "Anterior", "Front", "Vorn", "Vordere", "Vorderer", "Antérieur", "前"),
    "posterior": ("P", "Post", "Posterior", "Back", "Hinten", "Hintere", "Hinterer", "Postérieur", "后", "後"),
    "superior": ("Sup", "Superior", "Upper", "Cranial", "上"),
    "inferior": ("Inf", "Inferior", "Lower", "Caudal", "下"),
    "medial": ("Med", "Medial"),
    "lateral": ("Lat", "Lateral"),
    "proximal": ("Prox", "Proximal"),
    "distal": ("Dist", "Distal"),
}

#: What a Chinese reader calls them, for display; sides stand before: 左眼球.
CHINESE_NAMES = {"Eye": "眼球", "Lens": "晶状体", "OpticNrv": "视神经", "OpticChiasm": "视交叉"}
CHINESE_SIDES = {"L": "左", "R": "右"}


def normalise_name(name: str) -> str:
    """Name as compared by the alias table: lower case, letters and digits only (`LENS-LT`, full-width too -> `lenslt`)."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name)).lower()


@dataclass(frozen=True)
class LabelTable:
    """Organs in label order and the names under which they are found.

    Args:
        names: Organ names; the label value is the position + 1, 0 is background.
        aliases: Per organ, the other names users draw with. Case, blanks and punctuation do not matter.
            The organ's own name is always among them.
        parts: Per organ, those of its names that are parts of it and not the whole organ, beside those that
            `PART_WORDS` or a number tell (`Eye_AL`, `GTV 2`).

    Raises:
        ValueError: If there is no organ, a name is empty or `background`, or one alias stands for two organs.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
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
        places: dict[str, frozenset[str]] = {}
        for name in self.names:
            for alias in (name, *self.aliases.get(name, ())):
                key = normalise_name(alias)
                declared = {key} if alias in self.parts.get(name, ()) else set()
                places[key] = places.get(key) or frozenset(declared or _places(alias) - _places(name))
        object.__setattr__(self, "_owner", owner)
        object.__setattr__(self, "_places", places)

    @property
    def values(self) -> dict[str, int]:
        """Label value per organ, 1..N, without background."""
        return {name: value for value, name in enumerate(self.names, start=1)}

    @property
    def dataset_labels(self) -> dict[str, int]:
        """`labels` of nnU-Net's `dataset.json`: background first."""
        return {"background": 0, **self.values}

    def organ(self, drawn_name: str) -> str | None:
        """Organ that a drawn name stands for, or None where the table does not know it."""
        return self._owner.get(normalise_name(drawn_name))  # type: ignore[attr-defined]

    def is_part(self, drawn_name: str) -> bool:
        """Whether a drawn name is that of a part of an organ; parts are united, two whole organs are not."""
        return bool(self._places.get(normalise_name(drawn_name)))  # type: ignore[attr-defined]

    def check_drawn_once(self, drawn: Iterable[tuple[str, str]]) -> None:
        """Refuse two versions of one organ, of which nobody can say which is meant.

        Args:
            drawn: Names of regions, mask files or segments that hold something, and what a message calls each of them.
                Names of no organ are passed over.

        Raises:
            ValueError: If two names are equal, or both are the whole of one organ, or the same part of it.
        """
        seen: dict[tuple, tuple[str, str]] = {}
        for name, shown in drawn:
            organ, key = self.organ(name), normalise_name(name)
            if organ is None:
                continue
            meant = organ, self._places[key]  # type: ignore[attr-defined]
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
        """The table as plain JSON: organ -> aliases, in label order, without those that come with the package.

        Names that are declared as parts form a list of their own, as in the file.
        """
        built_in = built_in_aliases(self.names)
        return {
            name: [
                *(
                    a
                    for a in self.aliases.get(name, ())
                    if a not in (*built_in.get(name, ()), *self.parts.get(name, ()))
                ),
                *([list(self.parts[name])] if self.parts.get(name) else []),
            ]
            for name in self.names
        }


def _quoted(name: str) -> str:
    """A name as a string of a TOML file."""
    return json.dumps(name, ensure_ascii=False)


_PLACE_OF_WORD = {word.casefold(): place for place, words in PART_WORDS.items() for word in words}
#: A part and a side in one word, as HaN-Seg writes them: `Eye_AL`.
_PLACE_AND_SIDE = re.compile("([ap])([lr])")


def _places(name: str) -> set[str]:
    """What a name says of the part that it means: its side, place (`PART_WORDS`) and number."""
    words = re.findall(r"[A-Z]?[a-zà-ÿ]+|[A-Z]+(?![a-z])|\d+|[\u3400-\u9fff]", unicodedata.normalize("NFKC", name))
    words = [word.casefold() for word in words]
    words += [letter for word in words if (match := _PLACE_AND_SIDE.fullmatch(word)) for letter in match.groups()]
    return {_PLACE_OF_WORD[word] for word in words if word in _PLACE_OF_WORD} | {
        str(int(word)) for word in words if word.isdecimal()
    }


def built_in_aliases(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Aliases that come with the package for those of the given organs it knows."""
    table: dict[str, tuple[str, ...]] = {}
    for organ, words in PAIRED_ALIASES.items():
        for side, marks in SIDES.items():
            written = [f"{word}_{mark}" for word in words for mark in marks]
            # The French letters stand behind the organ only: `gon` is no nerve.
            written += [f"{mark}_{word}" for word in words for mark in marks if mark not in ("G", "D")]
            # The side as last letter of an anterior or posterior half, `Eye_AL`, is covered: `Eye_A` + `L`.
            table[f"{organ}_{side}"] = tuple(written)
    table.update(SINGLE_ALIASES)
    return {name: table[name] for name in names if name in table}


def default_label_table() -> LabelTable:
    """The seven organs in TG-263 order with the built-in aliases."""
    return LabelTable(ORGANS, built_in_aliases(ORGANS))


def load_label_table(path: Path) -> LabelTable:
    """Label table of a TOML file: `[labels]`, then one line per organ in label order.

    `OpticChiasm = ["Chiasm", "optic_chiasm"]` makes the organ `OpticChiasm` and finds files of those names; an
    organ without other names is `Brain = []`. Names in a list of their own are parts that are united:
    `Brain = [["Cerebrum", "Cerebellum"], "whole brain"]`. Organs the package knows keep their built-in aliases, except
    those that the file gives to another organ.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML, has no `[labels]`, or a line is not a list of names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"label table {path} does not exist")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"label table {path.name} is not TOML: {error}") from error
    lines = content.get("labels")
    if not isinstance(lines, dict):
        raise ValueError(f'label table {path.name} has no [labels] section; write [labels], then Eye_L = ["eye_left"]')
    given: dict[str, tuple[str, ...]] = {}
    parts: dict[str, tuple[str, ...]] = {}
    for name, aliases in lines.items():
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
    return LabelTable(tuple(given), given, {name: names for name, names in parts.items() if names})


def chinese_name(organ: str) -> str | None:
    """An organ's Chinese name, e.g. 左眼球 for `Eye_L`; None for organs the package does not know."""
    if organ in CHINESE_NAMES:
        return CHINESE_NAMES[organ]
    word, _, side = organ.rpartition("_")
    return CHINESE_SIDES[side] + CHINESE_NAMES[word] if side in CHINESE_SIDES and word in CHINESE_NAMES else None


def left_right_pairs(labels: Mapping[str, int]) -> list[tuple[int, int]]:
    """Label values of organs that come in a left and a right, read from the `_L`/`_R` ending of their names.

    Args:
        labels: nnU-Net's `labels` of a `dataset.json`: name -> label value. Region tuples are not supported.

    Returns:
        `(left, right)` label values, sorted; empty where no name has a partner.
    """
    pairs = []
    for name, left in labels.items():
        if name.endswith("_L"):
            right = labels.get(name[:-2] + "_R")
            if right is not None:
                pairs.append((int(left), int(right)))
    return sorted(pairs)
