"""The private file that says which case is which patient, and keeps the numbers when patients are added."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nnunet_ext.dicom.model import Series
from nnunet_ext.files import read_text, written_whole
from nnunet_ext.images.channels import reference_of_case

_KEY_FIELDS = ("case", "patient_key", "patient_id", "patient_name", "patient_birth_date", "study_instance_uid",
               "frame_of_reference_uid")  # fmt: skip
CASE_NAME = re.compile(r"case_\d{3,}")


def check_key(key_file: Path, folder: Path, *, numbered: bool) -> None:
    """Refuse a key that would be handed on with the cases, or that is gone, so that numbers would mean other patients.

    Args:
        key_file: May not exist yet.
        folder: Folder of the numbered cases.
        numbered: Whether numbered cases are there already.

    Raises:
        ValueError: With the remedy.
    """
    for parent in key_file.resolve().parents:
        if parent == folder.resolve() or re.fullmatch(r"Dataset\d{3}_.+", parent.name):
            raise ValueError(f"the key file would lie inside {parent.name}, which is handed on; choose another place")
    if numbered and not key_file.exists():
        raise ValueError(
            f"the key file {key_file.name} is gone, so the cases in {folder.name} cannot be told apart; put it back, name "
            "it with --key, or write to a new place"
        )


def numbered(
    groups: Sequence[Sequence[Series]],
    modalities: Sequence[str],
    rows: list[dict[str, str]],
    *,
    optional: Sequence[str] = (),
) -> list[str]:
    """Case name per group. `optional` are channels that a case may lack.

    A patient that the key knows keeps the number, others get the next. New rows are appended.
    """
    per_patient: dict[str, int] = {}
    for group in groups:
        key = group[0].patient.key
        per_patient[key] = per_patient.get(key, 0) + 1
    taken: set[str] = set()
    names: list[str | None] = []
    for group in groups:
        patient, (study, frame) = group[0].patient, anchor_of(group, modalities, optional)
        mine = [row for row in rows if row["patient_key"] == patient.key]
        match = next((row for row in mine if (row["study_instance_uid"], row["frame_of_reference_uid"]) == (study, frame)
                      and row["case"] not in taken), None)  # fmt: skip
        if match is None and len(mine) == 1 and (per_patient[patient.key] == 1 or not mine[0]["study_instance_uid"]):
            match = None if mine[0]["case"] in taken else mine[0]
        if match is not None:
            taken.add(match["case"])
            if study and not match["study_instance_uid"]:
                match["study_instance_uid"], match["frame_of_reference_uid"] = study, frame
        names.append(match["case"] if match else None)
    number = max((int(row["case"].split("_")[1]) for row in rows), default=0)
    for at, group in enumerate(groups):
        if names[at] is None:
            number += 1
            name = names[at] = f"case_{number:03d}"
            patient, (study, frame) = group[0].patient, anchor_of(group, modalities, optional)
            values = (name, patient.key, patient.patient_id, patient.name, patient.birth_date, study, frame)
            rows.append(dict(zip(_KEY_FIELDS, values, strict=True)))
    return [str(name) for name in names]


def same_patient(names: Sequence[str], groups: Sequence[Sequence[Series]]) -> dict[str, list[str]]:
    """Case name -> names of the other cases of its patient."""
    by_patient: dict[str, list[str]] = {}
    for name, group in zip(names, groups, strict=True):
        by_patient.setdefault(group[0].patient.key, []).append(name)
    return {name: [o for o in cases if o != name] for cases in by_patient.values() if len(cases) > 1 for name in cases}


def read_key(path: Path | None) -> list[dict[str, str]]:
    """Rows of a key file, none if it does not exist yet."""
    if path is None or not Path(path).exists():
        return []
    called = f"the key file {Path(path).name}"
    text = read_text(path, called=called, remedy="put the original back, or name another place with --key")
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
    except csv.Error:
        rows = [{}]
    names = [row.get("case") or "" for row in rows]
    if any(set(row) != set(_KEY_FIELDS) for row in rows) or not all(map(CASE_NAME.fullmatch, names)):
        raise ValueError(
            f"{called} is damaged: it needs the columns {', '.join(_KEY_FIELDS)}, between commas; put the original back"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"{called} names a case twice; put the original back")
    return rows


def write_key(rows: Iterable[Mapping[str, str]], path: Path) -> None:
    """Write the key so that only its owner can read it, whole or not at all.

    Raises:
        OSError: In one line that names the file.
        ValueError: If another run has numbered patients in it since it was read, so that a number would mean two
            patients.
    """
    path, rows = Path(path), list(rows)
    mine = {row["case"]: row["patient_key"] for row in rows}
    if any(mine.get(row["case"]) != row["patient_key"] for row in read_key(path)):
        raise ValueError(
            f"another run has changed the key file {path.name} meanwhile; run the same command again, which reads it again"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, _KEY_FIELDS)
                writer.writeheader()
                writer.writerows(rows)
        for left_behind in path.parent.glob(f".{path.name}.[0-9]*"):  # names of patients, by a run that was killed
            left_behind.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write the key file {path}: {error.strerror or error}") from error


def anchor_of(group: Sequence[Series], modalities: Sequence[str], optional: Sequence[str] = ()) -> tuple[str, str]:
    """Study and frame of reference of the reference channel. Empty if it is not clear."""
    reference = reference_of_case(modalities, {series.channel for series in group}, optional)
    places = {(s.study_uid, s.frame_of_reference_uid) for s in group if s.channel == reference}
    return places.pop() if len(places) == 1 else ("", "")
