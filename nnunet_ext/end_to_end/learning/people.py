"""Which cases of a folder are trained on and which are scored, and whose head each of them is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.files import check_folder, read_json

#: The splits have as many folds as there are people, at most so many. Fold 0 is trained, so it holds most of the people.
MAX_FOLDS = 7


def people_of(cases: Path) -> dict[str, str]:
    """Case folder -> person, from `phantom.json`. A case that names none is a person of its own.

    Raises:
        ValueError: If the folder holds no case, or a `phantom.json` is damaged.
    """
    folders = sorted(p for p in check_folder(cases).iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{cases} holds no case folders; make some with nnunet_ext phantom {cases}")
    people = {}
    for folder in folders:
        record = folder / "phantom.json"
        content = read_json(record, {"person?": (str, int)}) if record.is_file() else {}
        people[folder.name] = str(content.get("person", folder.name))
    return people


def named_people(people: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """The cases of some people. `07` is the person `head_07` too, and `01 .. 07` are seven people.

    Raises:
        ValueError: If a person has no case, or a number fits several people.
    """
    found: dict[str, str] = {}
    known = sorted(set(people.values()))
    for name in _listed(wanted):
        fits = [person for person in known if person == name] or [
            person for person in known if name.isdigit() and _number(person) == int(name)
        ]
        if len(fits) != 1:
            problem = f"fits {', '.join(fits)}" if fits else "has no case"
            raise ValueError(f"person {name!r} {problem}; the people are {', '.join(known)}")
        found |= {case: person for case, person in people.items() if person == fits[0]}
    return found


def choose(
    people: Mapping[str, str],
    *,
    train_people: Sequence[str] = (),
    test_people: Sequence[str] = (),
    n_train: int | None = None,
    n_test: int | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Case -> person of the training cases and of the test cases, either by person or by number of cases.

    Raises:
        ValueError: If the options contradict each other, or a person would be on both sides.
    """
    by_person, by_number = bool(train_people and test_people), bool(n_train and n_test)
    if by_person == by_number:
        raise ValueError("give either the people to train on and to test, or the numbers of cases, both of them")
    if by_person:
        train, test = named_people(people, train_people), named_people(people, test_people)
    else:
        assert n_train is not None
        assert n_test is not None
        cases = sorted(people)
        if n_train + n_test > len(cases):
            raise ValueError(f"{n_train} cases to train on and {n_test} to test were asked for, there are {len(cases)}")
        train = {case: people[case] for case in cases[:n_train]}
        test = {case: people[case] for case in cases[n_train : n_train + n_test]}
    if both := sorted(set(train.values()) & set(test.values())):
        raise ValueError(f"{', '.join(both)} would be trained on and tested; a person must be on one side only")
    return train, test


def person_splits(train: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """nnU-Net's splits with all cases of a person in the validation of one fold.

    Args:
        train: Case -> person.

    Raises:
        ValueError: If there is one person only.
    """
    people = sorted(set(train.values()))
    if len(people) < 2:
        raise ValueError(f"all training cases are of {people[0]}; two people are needed, one of them to validate on")
    n_folds = min(MAX_FOLDS, len(people))
    fold_of = {person: (len(people) - 1 - i) % n_folds for i, person in enumerate(people)}
    return [
        {
            "train": sorted(case for case, person in train.items() if fold_of[person] != fold),
            "val": sorted(case for case, person in train.items() if fold_of[person] == fold),
        }
        for fold in range(n_folds)
    ]


def _listed(wanted: Sequence[str]) -> list[str]:
    def expand(match: re.Match) -> str:
        first, last = match.groups()
        return " ".join(f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))

    return list(dict.fromkeys(re.sub(r"(\d+) ?\.\. ?(\d+)", expand, " ".join(wanted)).split()))


def _number(person: str) -> int | None:
    match = re.search(r"(\d+)$", person)
    return int(match[1]) if match else None
