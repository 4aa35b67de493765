"""The organs we know, with their TG-263 names, the names that users give them, and Chinese names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

#: Default labels in label order (value = position + 1), TG-263 names. The eye excludes its lens.
ORGANS = ("Eye_L", "Eye_R", "Lens_L", "Lens_R", "OpticNrv_L", "OpticNrv_R", "OpticChiasm")

#: Names of paired organs without the side. Parts are united: `Eye_AL` + `Eye_PL` -> `Eye_L` (`PART_WORDS`).
PAIRED_ALIASES = {
    "Eye": ("Eye", "Eyes", "Eyeball", "Globe", "Eye_A", "Eye_P", "Eye_Ant", "Eye_Post", "Bulbus", "OrbitalGlobe",
            "眼", "眼球", "眼睛", "Auge", "Augapfel", "Oeil", "Œil"),
    "Lens": ("Lens", "Lenses", "EyeLens", "Eye_Lens", "CrystallineLens", "Lense",
             "晶体", "晶體", "晶状体", "晶狀體", "水晶体", "水晶體", "眼晶体", "眼晶體", "眼晶状体", "眼晶狀體",
             "Linse", "Augenlinse", "Cristallin"),
    "OpticNrv": ("OpticNrv", "OpticNerve", "OpticN", "OptNrv", "OptNerve", "ON", "N_opticus", "NervusOpticus",
                 "Optic_Nerves", "Nerve_Optic", "视神经", "視神經", "Sehnerv", "Nerf_Optique"),
}  # fmt: skip
#: Names of single organs.
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
#: Chinese names for display. The side stands before the name: 左眼球.
CHINESE_NAMES = {"Eye": "眼球", "Lens": "晶状体", "OpticNrv": "视神经", "OpticChiasm": "视交叉"}
CHINESE_SIDES = {"L": "左", "R": "右"}


@dataclass(frozen=True)
class SideWords:
    """Words for left and right that belong together.

    Attributes:
        left, right: The words. Case does not matter.
        sure: A whole word of this kind gives a name a side `anywhere` in it, or only as the `last` word, or `never`.
            Elsewhere it does so only if the partner is there. `Os frontale` has no side, `OS_lens` and `OD_lens` have.
        before: Whether it also stands before an organ. The French letters do not, as `gon` is no nerve.
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
BEHIND_ONLY = {word for words in SIDE_WORDS if not words.before for word in (*words.left, *words.right)}
#: A name with one of these words means a part of an organ, if the organ's own name does not have the word.
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


@lru_cache(maxsize=1 << 15)  # the names of a table, over and over
def normalise_name(name: str) -> str:
    """Name as the alias table compares it, letters and digits in lower case (`LENS-LT`, full-width too -> `lenslt`)."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name)).lower()


def built_in_aliases(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Aliases that come with the package for those of the given organs it knows."""
    table: dict[str, tuple[str, ...]] = {}
    for organ, words in PAIRED_ALIASES.items():
        for side, marks in SIDES.items():
            written = [f"{word}_{mark}" for word in words for mark in marks]
            written += [f"{mark}_{word}" for word in words for mark in marks if mark not in BEHIND_ONLY]
            # The side as last letter of an anterior or posterior half, `Eye_AL`, is covered: `Eye_A` + `L`.
            table[f"{organ}_{side}"] = tuple(written)
    table.update(SINGLE_ALIASES)
    return {name: table[name] for name in names if name in table}
