"""Folds of a cross-validation in which all cases of a person are in one fold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

#: As nnU-Net has it.
N_FOLDS, SEED = 5, 12345


def person_splits(cases: Collection[str], same_person: Sequence[Collection[str]]) -> list[dict[str, list[str]]]:
    """Training and validation cases of each fold, as nnU-Net's `splits_final.json` holds them.

    Persons are drawn in random order, the same each time, and each goes to the fold with the fewest cases so far. There
    are five folds, or as many as there are persons.

    Args:
        cases: All training cases.
        same_person: Lists of cases of one person. Other cases are persons of their own.

    Raises:
        ValueError: If all cases are of one person.
    """
    persons = persons_among(cases, same_person)
    if len(persons) < 2:
        raise ValueError("all training cases are of one person; a validation needs at least two persons")
    n_folds = min(N_FOLDS, len(persons))
    order = np.random.default_rng(SEED).permutation(len(persons))
    drawn = sorted((persons[at] for at in order), key=len, reverse=True)  # large groups first, so that folds are equal
    folds: list[list[str]] = [[] for _ in range(n_folds)]
    for person in drawn:
        min(folds, key=len).extend(person)
    return [
        {"train": sorted(case for other in folds if other is not fold for case in other), "val": sorted(fold)}
        for fold in folds
    ]


def persons_among(cases: Collection[str], same_person: Sequence[Collection[str]]) -> list[list[str]]:
    """The cases of each person, sorted. A case in two lists unites them."""
    owner = {case: case for case in cases}

    def first(case: str) -> str:
        while owner[case] != case:
            case = owner[case]
        return case

    for group in same_person:
        known = sorted(case for case in group if case in owner)
        for case in known[1:]:
            one, other = sorted((first(known[0]), first(case)))
            owner[other] = one
    persons: dict[str, list[str]] = {}
    for case in sorted(cases):
        persons.setdefault(first(case), []).append(case)
    return list(persons.values())


def divided_persons(
    splits: Sequence[Mapping[str, Sequence[str]]], same_person: Sequence[Collection[str]]
) -> list[tuple[int, str, str]]:
    """Each fold that trains on a person it validates on, with a case of either list."""
    found = []
    for fold, split in enumerate(splits):
        train, val = set(split["train"]), set(split["val"])
        for group in same_person:
            both = sorted(train & set(group)), sorted(val & set(group))
            if all(both):
                found.append((fold, both[0][0], both[1][0]))
    return found
