"""Organ names, left/right pairs and the table that maps the names users draw with to TG-263."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from nnunet_ext.files import read_toml
from nnunet_ext.labels.values import pair_values

#: Default labels in label order (value = position + 1), TG-263 names; the eye excludes its lens.
ORGANS = ("Eye_L", "Eye_R", "Lens_L", "Lens_R", "OpticNrv_L", "OpticNrv_R", "OpticChiasm")

#: Key of `dataset.json`, beside a model and beside its predictions, with the names of organs that the model leaves out
#: because they do not fit its crop.
LEFT_OUT_KEY = "left_out_organs"

#: Keys of `dataset.json` and of the label table: all pairs of left and right labels, and whether training mirrors.
#: The plan holds the pairs under the same key.
PAIRS_KEY, MIRROR_KEY = "left_right_pairs", "mirror_left_right"


@dataclass(frozen=True)
class SideWords:
    """Words for left and right that belong together.

    Attributes:
        left, right: The words. Case does not matter.
        sure: A whole word of this kind gives a name a side `anywhere` in it, or only as the `last` word, or `never`.
            Elsewhere it does so only if the partner is there: `Os frontale` has no side, `OS_lens` and `OD_lens` have.
        before: Whether it also stands before an organ. The French letters do not: `gon` is no nerve.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    sure: str = "anywhere"
    before: bool = True


#: How sides are written beside an organ's name: `Lens_L`, `left_lens`, `LENS-LT`, `Linse rechts`, `左眼`.
SIDE_WORDS = (
    SideWords(("L",), ("R",)),
    SideWords(("LT", "Lft"), ("RT", "Rgt")),
    SideWords(("Left",), ("Right",)),
    SideWords(("LH",), ("RH",)),  # hemispheres, as FreeSurfer names them
    SideWords(("左", "左侧", "左側", "左边", "左邊"), ("右", "右侧", "右側", "右边", "右邊")),
    SideWords(("Links", "Linkes", "Linke", "Linker"), ("Rechts", "Rechtes", "Rechte", "Rechter")),
    SideWords(("Gauche",), ("Droit", "Droite")),
    SideWords(("Izquierdo", "Izquierda"), ("Derecho", "Derecha")),
    SideWords(("Sinistro", "Sinistra", "Sinister", "Sinistrum"), ("Destro", "Destra", "Dexter", "Dextra", "Dextrum")),
    SideWords(("Li",), ("Re",), sure="last"),  # re-irradiation is no side
    SideWords(("OS",), ("OD",), sure="last"),  # oculus sinister, oculus dexter; Os frontale is a bone
    SideWords(("G",), ("D",), sure="never", before=False),
    SideWords(("Sin", "Sx"), ("Dex", "Dx"), sure="never", before=False),
    SideWords(("Izq",), ("Der",), sure="never", before=False),
)
#: All words of a side.
SIDES = {
    "L": tuple(word for words in SIDE_WORDS for word in words.left),
    "R": tuple(word for words in SIDE_WORDS for word in words.right),
}
_BEHIND_ONLY = {word for words in SIDE_WORDS if not words.before for word in (*words.left, *words.right)}

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
    "left": tuple(word for words in SIDE_WORDS if words.sure == "anywhere" for word in words.left),
    "right": tuple(word for words in SIDE_WORDS if words.sure == "anywhere" for word in words.right),
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


@lru_cache(maxsize=1 << 15)  # the names of a table, over and over
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
        stated_pairs: All pairs of left and right organs, the left one first. None: they are read from the names.
        mirror_left_right: Whether training may mirror along the left-right axis.
        parts: Per organ, those of its names that are parts of it and not the whole organ, beside those that
            `PART_WORDS` or a number tell (`Eye_AL`, `GTV 2`).

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
        """`labels` of nnU-Net's `dataset.json`: background first."""
        return {"background": 0, **self.values}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Left and right organs: as stated, else by name."""
        return pair_names(self.names).pairs if self.stated_pairs is None else list(self.stated_pairs)

    @property
    def side_entries(self) -> dict:
        """Entries about sides for nnU-Net's `dataset.json`: those that the table states."""
        pairs = {} if self.stated_pairs is None else {PAIRS_KEY: [list(pair) for pair in self.stated_pairs]}
        return pairs if self.mirror_left_right else {**pairs, MIRROR_KEY: False}

    def organ(self, drawn_name: str) -> str | None:
        """Organ that a drawn name stands for, or None where the table does not know it."""
        return self._owner.get(normalise_name(drawn_name))  # type: ignore[attr-defined]

    def is_part(self, drawn_name: str) -> bool:
        """Whether a drawn name is that of a part of an organ; parts are united, two whole organs are not."""
        return bool(self._place(normalise_name(drawn_name)))

    def _place(self, key: str) -> frozenset[str]:
        """Which part of its organ a normalised name means; nothing where it means the whole organ, or no organ."""
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
        """The table as plain JSON: organ -> aliases, in label order, without those that come with the package.

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
            written += [f"{mark}_{word}" for word in words for mark in marks if mark not in _BEHIND_ONLY]
            # The side as last letter of an anterior or posterior half, `Eye_AL`, is covered: `Eye_A` + `L`.
            table[f"{organ}_{side}"] = tuple(written)
    table.update(SINGLE_ALIASES)
    return {name: table[name] for name in names if name in table}


@cache
def default_label_table() -> LabelTable:
    """The seven organs in TG-263 order with the built-in aliases."""
    return LabelTable(ORGANS, built_in_aliases(ORGANS))


def load_label_table(path: Path) -> LabelTable:
    """Label table of a TOML file: `[labels]`, then one line per organ in label order.

    `OpticChiasm = ["Chiasm", "optic_chiasm"]` makes the organ `OpticChiasm` and finds files of those names; an
    organ without other names is `Brain = []`. Names in a list of their own are parts that are united:
    `Brain = [["Cerebrum", "Cerebellum"], "whole brain"]`. Organs the package knows keep their built-in aliases, except
    those that the file gives to another organ.

    Two lines about sides may stand beside them: `left_right_pairs = [["eye1", "eye2"]]` lists all pairs, and
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


# ------------------------------------------------------------------------------------------------ left and right


class NamedSide(NamedTuple):
    """The side of a name, and the name without it: `L` and `Cochlea_PRV03` of `Cochlea_L_PRV03`."""

    side: str
    stem: str


class NamedPairs(NamedTuple):
    """What names say about sides.

    Attributes:
        pairs: Left and right names.
        unclear: What a person must decide, in words: names with a side but without a partner, or with several.
        proposed: Pairs to propose to that person.
    """

    pairs: list[tuple[str, str]]
    unclear: list[str]
    proposed: list[tuple[str, str]]


class _Mark(NamedTuple):
    """A word for a side in a name: where it stands, its side, its row in `SIDE_WORDS`, and whether it needs no partner."""

    start: int
    end: int
    side: str
    row: int
    sure: bool


@dataclass(frozen=True)
class _Reading:
    """How a name was read. `spelling` and `organ` are equal for partners: written the same way, or meaning the same."""

    side: str
    stem: str
    sure: bool
    spelling: tuple | None
    organ: str


_OTHER_SIDE = {"L": "R", "R": "L"}
_ADJECTIVES = {"L": "left", "R": "right"}
_ROW_OF = {
    word.casefold(): (side, row)
    for row, words in enumerate(SIDE_WORDS)
    for side, group in (("L", words.left), ("R", words.right))
    for word in group
}
#: Words in scripts without capitals stand within others: 左眼球.
_CASELESS = re.compile("|".join(sorted((w for w in _ROW_OF if w == w.upper()), key=len, reverse=True)))
#: Anterior and posterior halves: `Eye_AL`.
_HALVES = ("AL", "AR", "PL", "PR")
#: In a row of so many letters, `Level_A`, `Level_B`, ..., L and R are letters like the others.
LETTERS_OF_A_SERIES = 3


def side_of(name: str) -> NamedSide | None:
    """Side and remainder of a name that has a side of its own; None for `Lens`, `Larynx` or `L5`."""
    reading = _read(name)
    return NamedSide(reading.side, reading.stem) if reading is not None and reading.sure else None


def organ_word(name: str) -> str:
    """TG-263 name without its side, where the package knows the organ: `Eye` for `left_eye` and `OD_Globe`.

    Other names come as they are written, without their side.
    """
    reading = _read(name)
    if reading is None or not reading.sure:
        return _organs_by_word(SINGLE_ALIASES).get(normalise_name(name), name)
    return _organs_by_word(PAIRED_ALIASES).get(reading.organ, reading.stem)


def _organs_by_word(aliases: Mapping[str, Iterable[str]]) -> dict[str, str]:
    return {normalise_name(word): organ for organ, words in aliases.items() for word in words}


def pair_names(names: Iterable[str]) -> NamedPairs:
    """Pairs of names that differ in their side only, in the order of the left ones.

    Names written the same way are matched first, then names that mean the same (`left_eye` and `Eye_R`).
    """
    names = list(names)
    readings = {name: reading for name in names if (reading := _read(name)) is not None}
    partners: dict[str, str] = {}
    series: set[str] = set()
    for of in (lambda r: r.spelling, lambda r: r.organ if r.sure else None):
        groups: dict[object, dict[str, list[str]]] = {}
        for name, reading in readings.items():
            if name not in partners and name not in series and of(reading) is not None:
                groups.setdefault(of(reading), {"L": [], "R": []})[reading.side].append(name)
        for key, group in groups.items():
            if [len(group["L"]), len(group["R"])] == [1, 1]:
                (left,), (right,) = group.values()
                if isinstance(key, tuple) and _is_series(key[0], names):
                    series |= {left, right}
                else:
                    partners |= {left: right, right: left}
    unclear, proposed = [], []
    for name, reading in readings.items():
        if name in partners or not reading.sure:
            continue
        side, other = _ADJECTIVES[reading.side], _OTHER_SIDE[reading.side]
        candidates = [n for n, r in readings.items() if r.sure and (r.side, r.organ) == (other, reading.organ)]
        free = [n for n in candidates if n not in partners]
        if name in series:
            unclear.append(f"{name!r} may mean {side}, or be a letter of a series")
        elif len(free) > 1:
            unclear.append(
                f"{name!r} looks like a {side} organ with {len(free)} partners, {' and '.join(map(repr, free))}"
            )
        elif free:
            unclear.append(f"{name!r} looks like a {side} organ, but is not the only one with the partner {free[0]!r}")
        else:
            unclear.append(f"{name!r} looks like a {side} organ and has no {_ADJECTIVES[other]} partner")
        if reading.side == "L":
            taken = {*partners, *(right for _, right in proposed)}
            others = [n for n, r in readings.items() if r.sure and r.side == "R" and n not in taken]
            same = [n for n in others if n in free or organ_word(n) == organ_word(name)]
            proposed += [(name, right) for right in same[:1]]
    glued = _glued([name for name in names if name not in readings or not (readings[name].sure or name in partners)])
    unclear += [f"{left!r} and {right!r} may be left and right" for left, right in glued]
    pairs = [(name, partners[name]) for name in names if name in partners and readings[name].side == "L"]
    return NamedPairs(pairs, unclear, [*pairs, *proposed, *glued])


def left_right_pairs(labels: Mapping[str, int]) -> list[tuple[int, int]]:
    """Label values of organs that come in a left and a right by their names, sorted.

    Args:
        labels: nnU-Net's `labels` of a `dataset.json`: name -> label value. Region tuples are not supported.
    """
    return pair_values(pair_names(labels).pairs, labels)


def dataset_pairs(dataset_json: Mapping, *, where: str = "dataset.json") -> list[tuple[str, str]]:
    """Left and right names of a `dataset.json`: as its `left_right_pairs` states, else by name.

    Raises:
        ValueError: If what is stated is wrong (`check_pairs`).
    """
    names = [name for name in dataset_json["labels"] if name not in ("background", "ignore")]
    stated = check_pairs(dataset_json.get(PAIRS_KEY), names, where=where)
    return pair_names(names).pairs if stated is None else list(stated)


def plan_pairs(plans: Mapping, labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """Left and right names of a plan. Plans made before they held pairs paired names ending in `_L` and `_R`.

    Raises:
        ValueError: If the plan's pairs are not of these labels.
    """
    if plans.get(PAIRS_KEY) is not None:
        where = f"plans {plans.get('plans_name', '')}"
        return list(check_pairs(plans[PAIRS_KEY], labels, where=where, remedy="Plan the dataset again."))
    return [(n, n[:-2] + "_R") for n in labels if n.endswith("_L") and n[:-2] + "_R" in labels]


def old_plan_warning(plans: Mapping, labels: Mapping[str, int]) -> str | None:
    """What is wrong with mirroring by a plan made before plans held pairs; None where its rule was right."""
    if plans.get(PAIRS_KEY) is not None:
        return None
    named, exchanged = pair_names(labels), plan_pairs(plans, labels)
    wrong = [
        *named.unclear,
        *(f"{left!r} and {right!r} are not exchanged" for left, right in named.pairs if (left, right) not in exchanged),
    ]
    if not wrong:
        return None
    return f"these plans were made before they held left and right pairs: {'; '.join(wrong)}. Plan the dataset again."


def unclear_sides(names: Iterable[str]) -> str | None:
    """What names leave open about left and right, and the lines that settle it; None where they leave nothing open."""
    named = pair_names(names)
    if not named.unclear:
        return None
    shown = "; ".join(named.unclear[:4]) + (f"; and {len(named.unclear) - 4} more" if len(named.unclear) > 4 else "")
    pairs = json.dumps([list(pair) for pair in named.proposed], ensure_ascii=False)
    return (
        f"{shown}. Mirrored without its partner, a left organ would be taught as a right one. Either list all pairs, "
        f"names beside them have no side: {PAIRS_KEY} = {pairs}. Or train without mirroring: {MIRROR_KEY} = false. "
        f"Write one of these lines above [labels] in the table of nnunet_ext convert --labels and convert again. Or write "
        f'into dataset.json: "{PAIRS_KEY}": {pairs} or "{MIRROR_KEY}": false'
    )


def check_pairs(
    stated: object, names: Collection[str], *, where: str, remedy: str = ""
) -> tuple[tuple[str, str], ...] | None:
    """Stated pairs of left and right names, as tuples; None where nothing is stated.

    Args:
        stated: Value of `left_right_pairs`: the complete list, names beside it have no side.
        names: Of the organs.
        where: File, for messages.
        remedy: What to do, for messages. Default: the form of the line.

    Raises:
        ValueError: If it is no list of pairs, or one names an unknown organ, an organ twice, or the right one first.
    """
    if stated is None:
        return None
    remedy = remedy or f'Write {PAIRS_KEY} = [["left name", "right name"], ...] with names of the labels.'
    is_list = isinstance(stated, (list, tuple)) and all(isinstance(pair, (list, tuple)) for pair in stated)
    if not is_list or not all(len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in stated):
        raise ValueError(f"{where}: {PAIRS_KEY} is {stated!r}, not a list of pairs of names. {remedy}")
    seen: set[str] = set()
    for pair in stated:
        for name in pair:
            if name not in names or name == "background":
                known = ", ".join(n for n in names if n != "background")
                raise ValueError(f"{where}: {PAIRS_KEY} names {name!r}, which is no label ({known}). {remedy}")
            if name in seen:
                raise ValueError(f"{where}: {PAIRS_KEY} names {name!r} twice; an organ has one partner. {remedy}")
            seen.add(name)
        sides = [side and side.side for side in map(side_of, pair)]
        if sides == ["R", "L"]:
            raise ValueError(
                f"{where}: {PAIRS_KEY} names {list(pair)} with the right one first; write {list(pair)[::-1]}."
            )
    return tuple((left, right) for left, right in stated)


def check_mirroring(content: Mapping, *, where: str) -> bool:
    """The switch `mirror_left_right` of a label table or `dataset.json`; true where it is not there.

    Raises:
        ValueError: If it is neither true nor false.
    """
    value = content.get(MIRROR_KEY, True)
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {MIRROR_KEY} is {value!r}; write true or false, without quotes.")
    return value


def chinese_name(organ: str) -> str | None:
    """An organ's Chinese name, e.g. 左眼球 for `Eye_L` or `left_eye`; None for organs the package does not know."""
    if organ in CHINESE_NAMES:
        return CHINESE_NAMES[organ]
    side = side_of(organ)
    is_chinese = _CASELESS.search(organ) is not None
    chinese = None if side is None or is_chinese else CHINESE_NAMES.get(organ_word(organ))
    return chinese and CHINESE_SIDES[side.side] + chinese


# -------------------------------------------------------------------------------------------- how a name is read


def _tokens(name: str) -> list[tuple[int, int]]:
    """Where the words of a name begin and end: between separators, at camel case, digits and changes of script."""

    def kind(c: str) -> str:
        return "U" if c.isupper() else "l" if c.islower() else "d" if c.isdigit() else "c" if c.isalpha() else "-"

    return [match.span() for match in re.finditer(r"U+(?!l)|U?l+|d+|c+", "".join(map(kind, name)))]


def _read(name: str) -> _Reading | None:
    """The side that a name may have; None where it has none, or both (`Eyes_L+R`)."""
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
    """What of a name lies before, between and after its marks."""
    starts, ends = [*(mark.start for mark in marks), None], [0, *(mark.end for mark in marks)]
    return [name[end:start] for end, start in zip(ends, starts, strict=True)]


def _joined(pieces: Iterable[str]) -> str:
    """A name without its side: one separator is kept where two met."""
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
    known = {}
    for words in PAIRED_ALIASES.values():
        for side, marks in SIDES.items():
            for word in words:
                known |= {normalise_name(f"{word}{mark}"): (side, word) for mark in marks}
                known |= {normalise_name(f"{mark}{word}"): (side, word) for mark in marks if mark not in _BEHIND_ONLY}
    return known


def _is_series(spelling: str, names: Iterable[str]) -> bool:
    """Whether several names differ from a pair's in one letter only."""
    before, _, after = spelling.partition("\0")
    written = (unicodedata.normalize("NFKC", name).casefold() for name in names)
    alike = (name for name in written if name.startswith(before) and name.endswith(after))
    letters = {name[len(before) : len(name) - len(after)] for name in alike} - {"l", "r", "g", "d"}
    return sum(len(letter) == 1 and letter.isalpha() for letter in letters) >= LETTERS_OF_A_SERIES


def _glued(names: Iterable[str]) -> list[tuple[str, str]]:
    """Names that differ in a word for a side within a longer word: `parotidl` and `parotidr`, `Rib_L1` and `Rib_R1`."""
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
