"""What is known of each case of a prediction: a file per case, and `predictions.json`, which holds them all in the end.

Several processes may write into one folder, on machines that see each other's files late, where locks keep nobody out. No
process ever writes what another one writes, but for `predictions.json`, whose readers take the files of the cases first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_ext.files import write_json
from nnunet_ext.nnunet_folders import RECORDS, read_predictions_json, with_records

MANIFEST = "predictions.json"


def write_record(out: Path, case: str, record: Mapping | None) -> None:
    """Keep the record of a case, or take the case out."""
    file = out / RECORDS / f"{case}.json"
    file.parent.mkdir(exist_ok=True)
    write_json(record, file, ensure_ascii=False)


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of earlier runs into a folder, with the records of all cases, or a new one."""
    file = out / MANIFEST
    with suppress(FileNotFoundError):  # also if another machine writes it in between, which is not seen yet
        if file.is_file():
            return read_predictions_json(file)
    return {"cases": with_records({}, out)}


def merge_records(
    out: Path, header: Mapping[str, Any], more: Callable[[Mapping[str, Mapping]], Mapping[str, Any]]
) -> None:
    """Put the records of all cases into the manifest.

    The records stay, because another process may merge at the same time, and may not see all of them yet.

    Args:
        out: Folder of the predictions.
        header: What this run said of the model at its beginning. The manifest may not be seen, if another machine has just
            written it.
        more: Case -> record of all cases to further entries of the manifest.
    """
    merged = None
    while (manifest := read_manifest(out))["cases"].keys() != merged:  # until none came meanwhile
        merged = manifest["cases"].keys()
        write_json({**manifest, **header, **more(manifest["cases"])}, out / MANIFEST, ensure_ascii=False)
