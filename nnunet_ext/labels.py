"""Organ names, left/right pairs and the table that maps the names users draw with to TG-263."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.files import read_toml

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

#: What paired organs are called, without the side. Several files may name one organ: `Eye_AL` + `Eye_PL` -> `Eye_L`.
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

    Raises:
        ValueError: If there is no organ, a name is empty or `background`, or one alias stands for two organs.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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

    def as_dict(self) -> dict[str, list[str]]:
        """The table as plain JSON: organ -> aliases, in label order, without those that come with the package."""
        built_in = built_in_aliases(self.names)
        return {
            name: [alias for alias in self.aliases.get(name, ()) if alias not in built_in.get(name, ())]
            for name in self.names
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
    organ without other names is `Brain = []`. Organs the package knows keep their built-in aliases, except those
    that the file gives to another organ.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not TOML, has no `[labels]`, or a line is not a list of names.
    """
    path = Path(path)
    lines = read_toml(path, called=f"label table {path.name}").get("labels")
    if not isinstance(lines, dict):
        raise ValueError(f'label table {path.name} has no [labels] section; write [labels], then Eye_L = ["eye_left"]')
    given: dict[str, tuple[str, ...]] = {}
    for name, aliases in lines.items():
        aliases = [aliases] if isinstance(aliases, str) else aliases
        if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
            raise ValueError(
                f'label table {path.name}: {name} = {aliases!r} is not a list of names, such as ["Chiasm"]'
            )
        given[name] = tuple(aliases)
    claimed = {normalise_name(alias): name for name, aliases in given.items() for alias in (name, *aliases)}
    for name, aliases in built_in_aliases(given).items():
        free = [alias for alias in aliases if claimed.get(normalise_name(alias), name) == name]
        given[name] = tuple(dict.fromkeys((*given[name], *free)))
    return LabelTable(tuple(given), given)


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
