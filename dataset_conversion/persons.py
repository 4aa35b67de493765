"""Cases of one person, so that planning keeps them in one fold."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from nnunet_ext.files import read_json, read_text

#: Record of a synthetic case, which may name its person.
PHANTOM_RECORD = "phantom.json"


def read_group_file(path: Path) -> dict[str, str]:
    """Case -> person, from a CSV file with a line `case,person` and then one line per case.

    Columns may be divided by commas, semicolons or tabs. Cases that the file does not name are persons of their own.

    Raises:
        OSError: If there is no such file.
        ValueError: If a line makes no sense, or a case is in it twice.
    """
    called = f"group file {Path(path).name}"
    lines = [line for line in read_text(path, called=called).splitlines() if line.strip()]
    divider = next((sign for sign in ",;\t" if sign in lines[0]), ",") if lines else ","
    head, *rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=divider)]
    if [cell.casefold() for cell in head] != ["case", "person"]:
        raise ValueError(f"{called} begins with {divider.join(head)!r}; its first line must be case,person")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or not all(row):
            raise ValueError(f"{called}, line {number}: {divider.join(row)!r} is not a case and a person")
        case, person = row
        if found.setdefault(case, person) != person:
            raise ValueError(f"{called}: case '{case}' is both {found[case]} and {person}; keep one line")
    return found


def persons_of(source: Path, cases: Collection[str], group_file: Path | None) -> dict[str, str]:
    """Case -> person, of a group file, else as synthetic cases record it.

    Args:
        source: Folder of the cases.
        cases: Names of all cases.
        group_file: See `read_group_file`. Of a case in it, the record is not read.

    Raises:
        OSError, ValueError: As `read_group_file`, and if it names a case that is not there.
    """
    stated = {} if group_file is None else read_group_file(group_file)
    unknown = sorted(set(stated) - set(cases))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ValueError(
            f"group file {Path(group_file or '').name} names {', '.join(unknown[:3])}{more}, no case of {source}; "
            "nnunet_ext convert --list shows the names of the cases"
        )
    persons = {}
    for case in cases:
        record = source / case / PHANTOM_RECORD
        if case in stated:
            persons[case] = stated[case]
        elif record.is_file():
            person = read_json(record, {"person?": str}).get("person")
            if person is not None:
                persons[case] = person
    return persons


def same_person(persons: Mapping[str, str], identifiers: Mapping[str, str], present: Iterable[str]) -> list[list[str]]:
    """Lists of cases of one person, as `dataset.json` holds them. They name no person.

    Args:
        persons: Case -> person.
        identifiers: Case -> nnU-Net's name of it.
        present: Names of the cases that are in the dataset.
    """
    there = set(present)
    groups = defaultdict(list)
    for case, person in persons.items():
        if identifiers.get(case) in there:
            groups[person].append(identifiers[case])
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)
