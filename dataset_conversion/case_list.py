"""The case list of a conversion in parts: one process writes it, and those that convert the cases read it.

Beside the cases (`cases.case_list`) it has a file for each one that was converted, or failed. No part writes what another
one writes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.cases.case_list import check_options, read_list, write_list, write_plain
from nnunet_ext.cases.case_records import from_json, to_json
from nnunet_ext.dataset_conversion.one_case import Failed
from nnunet_ext.dataset_conversion.request import Request
from nnunet_ext.dataset_conversion.sources import Gathered
from nnunet_ext.files import read_json
from nnunet_ext.images.source_files import FileCount

OUTCOMES = "outcomes"
#: What a case's outcome is called if it was converted, or was there already.
WRITTEN, SKIPPED = "written", "skipped"
_LIST = {
    "mark": str,
    "source": str,
    "cases": [str],
    "persons": {str: str},
    "failed": {str: str},
    "identifiers": {str: str},
    "counts": dict,
    "beside": dict,
}


@dataclass
class CaseList:
    """Cases of a conversion, before any is converted.

    Attributes:
        gathered: The cases, and the files of none. Of a list that was read, `cases` is empty: see `cases.case_list`.
        persons: Case -> person, where that is known.
        source: `hashed_source`.
        names: nnU-Net's names of the cases to convert, in their order.
        mark: Of this list, in the outcomes of its cases.
    """

    gathered: Gathered
    persons: dict[str, str]
    source: str
    names: list[str] = field(default_factory=list)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        self.names = self.names or [case.identifier for case in self.gathered.cases]


def write_case_list(folder: Path, found: CaseList, request: Request) -> None:
    """Write the list in place of an earlier one, whose outcomes mean nothing now. Errors as `write_list`."""
    content = {
        "mark": found.mark,
        "options": request.options(found.source),
        "source": found.source,
        "cases": found.names,
        "persons": found.persons,
        "failed": found.gathered.failed,
        "identifiers": found.gathered.identifiers,
        "counts": {case: to_json(count) for case, count in found.gathered.counts.items()},
        "beside": to_json(found.gathered.beside),
    }
    write_list(folder, content, ((case.identifier, case) for case in found.gathered.cases), folders=(OUTCOMES,))


def layout_of_list(folder: Path) -> str:
    """Layout of the source, as the scan found it. Errors as `read_list`."""
    return str(read_list(folder, _LIST)["options"].get("--layout"))


def read_case_list(folder: Path, request: Request, source: str) -> CaseList:
    """The list that a scan wrote, without the cases themselves.

    Args:
        folder: `cases.case_list.list_folder`.
        request: What is asked for now.
        source: `hashed_source`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of another version or was written for another conversion. With the remedy.
    """
    content = read_list(folder, _LIST)
    check_options(content, request.options(source))
    gathered = Gathered(failed=content["failed"], identifiers=content["identifiers"])
    gathered.counts = {case: from_json(FileCount, count) for case, count in content["counts"].items()}
    gathered.beside = from_json(FileCount, content["beside"])
    return CaseList(gathered, content["persons"], content["source"], content["cases"], content["mark"])


def write_outcome(folder: Path, found: CaseList, name: str, outcome: Failed | str) -> None:
    """Keep what became of a case, `written`, `skipped` or why it failed."""
    content: dict[str, Any] = {"mark": found.mark}
    if isinstance(outcome, Failed):
        content |= {"failed": outcome.reason, "outdated": outcome.outdated}
    else:
        content["done"] = outcome
    write_plain(content, folder / OUTCOMES / f"{name}.json")


def read_outcomes(folder: Path, found: CaseList) -> dict[str, Failed | str]:
    """nnU-Net's name of each case that a part has finished -> what became of it.

    An outcome that is damaged or belongs to another list is none.
    """
    outcomes: dict[str, Failed | str] = {}
    for name in found.names:
        try:
            content = read_json(folder / OUTCOMES / f"{name}.json", {"mark": str, "done?": str, "failed?": str})
        except (OSError, ValueError):
            continue
        if content["mark"] == found.mark:
            failed = content.get("failed")
            outcomes[name] = content["done"] if failed is None else Failed(failed, bool(content.get("outdated")))
    return outcomes
