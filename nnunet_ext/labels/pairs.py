"""Which organs are the left and the right one of a pair."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from nnunet_ext.labels.sides import ADJECTIVES, OTHER_SIDE, glued_side, is_series, organ_word, read_name, side_of
from nnunet_ext.labels.values import pair_values

#: Keys of `dataset.json` and of the label table, for all pairs of left and right labels and for whether training mirrors.
#: The plan holds the pairs under the same key.
PAIRS_KEY, MIRROR_KEY = "left_right_pairs", "mirror_left_right"


class NamedPairs(NamedTuple):
    """Sides of organs, as far as names say them.

    Attributes:
        pairs: Left and right names.
        unclear: Sentences on names with a side but without a partner, or with several, which a person must decide.
        proposed: Pairs to propose to that person.
    """

    pairs: list[tuple[str, str]]
    unclear: list[str]
    proposed: list[tuple[str, str]]


def pair_names(names: Iterable[str]) -> NamedPairs:
    """Pairs of names that differ in their side only, in the order of the left ones.

    Names written the same way are matched first, then names that mean the same (`left_eye` and `Eye_R`).
    """
    names = list(names)
    readings = {name: reading for name in names if (reading := read_name(name)) is not None}
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
                if isinstance(key, tuple) and is_series(key[0], names):
                    series |= {left, right}
                else:
                    partners |= {left: right, right: left}
    unclear: list[str] = []
    proposed: list[tuple[str, str]] = []
    for name, reading in readings.items():
        if name in partners or not reading.sure:
            continue
        side, other = ADJECTIVES[reading.side], OTHER_SIDE[reading.side]
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
            unclear.append(f"{name!r} looks like a {side} organ and has no {ADJECTIVES[other]} partner")
        if reading.side == "L":
            taken = {*partners, *(right for _, right in proposed)}
            others = [n for n, r in readings.items() if r.sure and r.side == "R" and n not in taken]
            same = [n for n in others if n in free or organ_word(n) == organ_word(name)]
            proposed += [(name, right) for right in same[:1]]
    glued = glued_side(
        [name for name in names if name not in readings or not (readings[name].sure or name in partners)]
    )
    unclear += [f"{left!r} and {right!r} may be left and right" for left, right in glued]
    pairs = [(name, partners[name]) for name in names if name in partners and readings[name].side == "L"]
    return NamedPairs(pairs, unclear, [*pairs, *proposed, *glued])


def left_right_pairs(labels: Mapping[str, int]) -> list[tuple[int, int]]:
    """Label values of organs that come in a left and a right by their names, sorted.

    Args:
        labels: nnU-Net's `labels` of a `dataset.json`, which map a name to its label value. Region tuples are not
            supported.
    """
    return pair_values(pair_names(labels).pairs, labels)


def dataset_pairs(dataset_json: Mapping, *, where: str = "dataset.json") -> list[tuple[str, str]]:
    """Left and right names of a `dataset.json`, as its `left_right_pairs` states, else by name.

    Raises:
        ValueError: If the stated pairs are wrong (`check_pairs`).
    """
    names = [name for name in dataset_json["labels"] if name not in ("background", "ignore")]
    stated = check_pairs(dataset_json.get(PAIRS_KEY), names, where=where)
    return pair_names(names).pairs if stated is None else list(stated)


def plan_pairs(plans: Mapping, labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """Left and right names of a plan. Plans made before they held pairs paired names ending in `_L` and `_R`.

    Raises:
        ValueError: If the plan's pairs are not of these labels.
    """
    where = f"plans {plans.get('plans_name', '')}"
    stated = check_pairs(plans.get(PAIRS_KEY), labels, where=where, remedy="Plan the dataset again.")
    if stated is not None:
        return list(stated)
    return [(n, n[:-2] + "_R") for n in labels if n.endswith("_L") and n[:-2] + "_R" in labels]


def old_plan_warning(plans: Mapping, labels: Mapping[str, int]) -> str | None:
    """Faults of mirroring by a plan made before plans held pairs. None if its rule was right."""
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
    """Left and right that names leave open, and the lines that settle it. None if they leave nothing open."""
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
    """Stated pairs of left and right names, as tuples. None if nothing is stated.

    Args:
        stated: Value of `left_right_pairs`, the complete list. Names beside it have no side.
        names: Of the organs.
        where: File, for messages.
        remedy: Remedy, for messages. The form of the line, if it is not given.

    Raises:
        ValueError: If it is no list of pairs, or one names an unknown organ, an organ twice, or the right one first.
    """
    if stated is None:
        return None
    remedy = remedy or f'Write {PAIRS_KEY} = [["left name", "right name"], ...] with names of the labels.'
    if not isinstance(stated, (list, tuple)) or not all(map(_is_pair_of_names, stated)):
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


def _is_pair_of_names(stated: object) -> bool:
    return isinstance(stated, (list, tuple)) and len(stated) == 2 and all(isinstance(name, str) for name in stated)


def check_mirroring(content: Mapping, *, where: str) -> bool:
    """The switch `mirror_left_right` of a label table or `dataset.json`. True if it is not there.

    Raises:
        ValueError: If it is neither true nor false.
    """
    value = content.get(MIRROR_KEY, True)
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {MIRROR_KEY} is {value!r}; write true or false, without quotes.")
    return value
