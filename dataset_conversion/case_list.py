"""The case list of a conversion in parts: one process writes it, and those that convert the cases read it.

It is a hidden folder beside the key file, for its owner alone, because it holds paths and, of DICOM, names of patients.
`list.json` holds what concerns all cases and is written last. Each case has a file of its own, so that a part reads its
cases only. Each case that was converted, or failed, has another one. No part writes what another one writes.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext._version import __version__
from nnunet_ext.cases.case_records import case_from_json, case_to_json, from_json, to_json
from nnunet_ext.dataset_conversion.one_case import Failed
from nnunet_ext.dataset_conversion.request import Request
from nnunet_ext.dataset_conversion.sources import Gathered
from nnunet_ext.files import read_json, write_text
from nnunet_ext.images.source_files import FileCount

LIST, CASES, OUTCOMES = "list.json", "cases", "outcomes"
#: What a case's outcome is called if it was converted, or was there already.
WRITTEN, SKIPPED = "written", "skipped"
_LIST = {
    "version": str,
    "mark": str,
    "options": dict,
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
        gathered: The cases, and the files of none. Of a list that was read, `cases` is empty: see `read_cases`.
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


def list_folder(dataset: Path, key_file: Path) -> Path:
    """Folder of the case list of a dataset. nnU-Net takes no hidden folder for a dataset."""
    return key_file.with_name(f".{dataset.name}.parts")


def write_case_list(folder: Path, found: CaseList, request: Request) -> None:
    """Write the list in place of an earlier one, whose outcomes mean nothing now.

    Raises:
        OSError: If it cannot be written, in one line.
    """
    try:
        remove_case_list(folder)
        folder.mkdir(mode=0o700, parents=True)
        for name in (CASES, OUTCOMES):
            (folder / name).mkdir()
        for case in found.gathered.cases:
            _write(case_to_json(case), folder / CASES / f"{case.identifier}.json")
        content = {
            "version": __version__,
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
        _write(content, folder / LIST)
    except OSError as error:
        raise type(error)(f"cannot write the case list {folder}: {error.strerror or error}") from error


def remove_case_list(folder: Path) -> None:
    """Remove a list, its first file first, so that nobody takes the rest for a list."""
    (folder / LIST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def layout_of_list(folder: Path) -> str:
    """Layout of the source, as the scan found it. Errors as `read_case_list`."""
    return str(_read_list(folder)["options"].get("--layout"))


def read_case_list(folder: Path, request: Request, source: str) -> CaseList:
    """The list that a scan wrote, without the cases themselves.

    Args:
        folder: `list_folder`.
        request: What is asked for now.
        source: `hashed_source`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of another version or was written for another conversion. With the remedy.
    """
    content = _read_list(folder)
    # As JSON has it, lists for tuples.
    asked = json.loads(json.dumps(request.options(source)))
    if other := [name for name, value in asked.items() if content["options"].get(name) != value]:
        raise ValueError(
            f"{', '.join(other)}: not as when the case list was written; give the options of nnunet_ext convert --scan, or "
            "scan again with these"
        )
    gathered = Gathered(failed=content["failed"], identifiers=content["identifiers"])
    gathered.counts = {case: from_json(FileCount, count) for case, count in content["counts"].items()}
    gathered.beside = from_json(FileCount, content["beside"])
    return CaseList(gathered, content["persons"], content["source"], content["cases"], content["mark"])


def read_cases(folder: Path, names: Sequence[str]) -> list[Any]:
    """Some cases of a list.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    cases = []
    for name in names:
        try:
            cases.append(case_from_json(read_json(folder / CASES / f"{name}.json", dict)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the case list holds no readable case '{name}'; {_SCAN}") from error
    return cases


def write_outcome(folder: Path, found: CaseList, name: str, outcome: Failed | str) -> None:
    """Keep what became of a case, `written`, `skipped` or why it failed."""
    content: dict[str, Any] = {"mark": found.mark}
    if isinstance(outcome, Failed):
        content |= {"failed": outcome.reason, "outdated": outcome.outdated}
    else:
        content["done"] = outcome
    _write(content, folder / OUTCOMES / f"{name}.json")


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


_SCAN = "write it again: the same command with --scan instead of -num_parts, -part_id and --finish"


def _read_list(folder: Path) -> dict[str, Any]:
    file = folder / LIST
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no case list in {folder}; first, in one process: the same command with --scan instead of -num_parts, "
            "-part_id and --finish"
        )
    content = read_json(file, _LIST, called="the case list", remedy=_SCAN)
    if content["version"] != __version__:
        raise ValueError(f"nnunet_ext {content['version']} wrote the case list, and this is {__version__}; {_SCAN}")
    return content


def _write(content: Mapping[str, Any], file: Path) -> None:
    write_text(json.dumps(content) + "\n", file)
