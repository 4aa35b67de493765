"""The cases of a source as one process found them, for others that share them.

A list is a hidden folder beside the key file, for its owner alone, because it holds paths and, of DICOM, names of patients.
`list.json` holds what concerns all cases and is written last. Each case has a file of its own, so that a part reads its
cases only.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext._version import __version__
from nnunet_ext.cases.case_records import case_from_json, case_to_json
from nnunet_ext.files import Shape, read_json, write_text

LIST, CASES = "list.json", "cases"
REMEDY = "write it again: the same command with --scan instead of the options of a part"
#: How long what another machine has just written may not be seen. A part may begin at once after the scan.
UNSEEN_S = 4.0
_OF_ALL = {"version": str, "options": dict}


def list_folder(of: Path, key_file: Path) -> Path:
    """Folder of the case list of an output folder. nnU-Net takes no hidden folder for a dataset."""
    return key_file.with_name(f".{of.name}.parts")


def write_list(
    folder: Path, content: Mapping[str, Any], cases: Iterable[tuple[str, Any]], *, folders: Sequence[str] = ()
) -> None:
    """Write a list in place of an earlier one.

    Args:
        folder: `list_folder`.
        content: Of all cases. Its `options` decide which cases there are, and parts must have the same.
        cases: Names of files, and the cases.
        folders: More folders, which stay empty.

    Raises:
        OSError: If it cannot be written, in one line.
    """
    try:
        remove_list(folder)
        folder.mkdir(mode=0o700, parents=True)
        for name in (CASES, *folders):
            (folder / name).mkdir()
        for name, case in cases:
            write_plain(case_to_json(case), folder / CASES / f"{name}.json")
        write_plain({"version": __version__, **content}, folder / LIST)
    except OSError as error:
        raise type(error)(f"cannot write the case list {folder}: {error.strerror or error}") from error


def unfinished(missing: Sequence[str], n_cases: int, done: str) -> ValueError:
    """The error of `--finish` while cases of a list are missing. `done` is what they are not yet, such as `converted`."""
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return ValueError(
        f"{len(missing)} of {n_cases} cases are not {done} yet: {', '.join(missing[:3])}{more}; run the parts that have not "
        "ended (-num_parts N -part_id K), then --finish again"
    )


def remove_list(folder: Path) -> None:
    """Remove a list, its first file first, so that nobody takes the rest for a list."""
    (folder / LIST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def read_list(folder: Path, shape: Mapping[str, Shape]) -> dict[str, Any]:
    """What concerns all cases of a list.

    Args:
        folder: `list_folder`.
        shape: Of the content, besides version and options.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of another version. With the remedy.
    """
    file = folder / LIST
    until_s = time.monotonic() + UNSEEN_S
    while not file.is_file() and time.monotonic() < until_s:
        time.sleep(0.25)
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no case list in {folder}; first, in one process: the same command with --scan instead of the options "
            "of a part"
        )
    content = read_json(file, {**_OF_ALL, **shape}, called="the case list", remedy=REMEDY)
    if content["version"] != __version__:
        raise ValueError(f"nnunet_ext {content['version']} wrote the case list, and this is {__version__}; {REMEDY}")
    return content


def check_options(content: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """ValueError with the names of options that are not those of the list."""
    asked = json.loads(json.dumps(asked))  # as JSON has it, lists for tuples
    if other := [name for name, value in asked.items() if content["options"].get(name) != value]:
        raise ValueError(
            f"{', '.join(other)}: not as when the case list was written; give the options of --scan, or scan again with "
            "these"
        )


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
            raise ValueError(f"the case list holds no readable case '{name}'; {REMEDY}") from error
    return cases


def write_plain(content: Mapping[str, Any], file: Path) -> None:
    """Write JSON whole or not at all, without the spaces of JSON for people."""
    write_text(json.dumps(content) + "\n", file)
