"""The case list of a prediction in parts, which one process writes for those that contour the cases."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nnunet_ext.cases.case_list import check_options, read_cases, read_list, write_list
from nnunet_ext.cases.case_records import from_json, to_json
from nnunet_ext.cases.prediction_cases import FoundCases
from nnunet_ext.images.source_files import FileCount

log = logging.getLogger(__name__)

_LIST = {
    "at": str,
    "kind": str,
    "cases": [str],
    "failed": {str: str},
    "others": {str: str},
    "counts": dict,
    "beside": dict,
}


def options_of(
    images: Path, *, channels: Sequence[str], optional: Sequence[str], layout: str, series_file: Path | None
) -> dict[str, Any]:
    """Option of the command -> value, as plain JSON, of all that decides which cases there are."""
    rules = None if series_file is None else hashlib.sha256(Path(series_file).read_bytes()).hexdigest()
    return {
        "-i": str(images.resolve()),
        "channels of the model": list(channels),
        "channels that may be missing": list(optional),
        "--layout": layout,
        "--series": rules,
    }


def write_found(folder: Path, found: FoundCases, options: dict[str, Any]) -> None:
    """Write the cases of a folder to a list in place of an earlier one. Errors as `write_list`."""
    content = {
        "at": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        "options": options,
        "kind": found.kind,
        "cases": sorted(found.cases),
        "failed": found.failed,
        "others": found.others,
        "counts": {case: to_json(count) for case, count in found.counts.items()},
        "beside": to_json(found.beside),
    }
    write_list(folder, content, found.cases.items())


def read_part(folder: Path, options: dict[str, Any], num_parts: int, part_id: int) -> tuple[FoundCases, list[str]]:
    """The cases of a list, those alone of one part, and the names that belong to the part, also of cases that failed.

    Raises:
        ValueError: If the list is damaged, of another version or of other options. With the remedy.
    """
    content = read_list(folder, _LIST)
    check_options(content, options)
    names = sorted({*content["cases"], *content["failed"]})[part_id::num_parts]
    there = set(content["cases"])
    mine = [name for name in names if name in there]
    log.info(
        "%d of the %d cases that were scanned at %s", len(names), len(there | set(content["failed"])), content["at"]
    )
    found = FoundCases(
        content["kind"],
        dict(zip(mine, read_cases(folder, mine), strict=True)),
        content["failed"],
        content["others"],
        counts={case: from_json(FileCount, count) for case, count in content["counts"].items()},
        beside=from_json(FileCount, content["beside"]),
    )
    return found, names
