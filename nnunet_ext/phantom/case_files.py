"""Folders of synthetic cases: whether they are there and complete, how they are made at a time, and how they are written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import SimpleITK as sitk

from nnunet_ext.files import read_json
from nnunet_ext.phantom.pose import TRANSFORM_FILE
from nnunet_ext.processes import KILLED, run_in_processes
from nnunet_ext.steps import step

Job = TypeVar("Job", bound=tuple[Any, ...])
Result = TypeVar("Result")

#: Site of the phantoms that need not name theirs.
HEAD = "head"
#: Channels of a head.
CHANNELS = ("CT", "T1", "T2")
FILES = (*(f"{channel}.nii.gz" for channel in CHANNELS), "label.nii.gz")


class Case(Protocol):
    """One case in memory, of any site: its images by channel, and the label map on the CT's grid."""

    @property
    def images(self) -> Mapping[str, sitk.Image]: ...

    @property
    def label(self) -> sitk.Image: ...

    @property
    def organs(self) -> tuple[str, ...]: ...

    @property
    def record(self) -> dict: ...

    @property
    def mr_to_ct(self) -> sitk.Transform | None: ...


def check_numbers(*, n_processes: int, **others: int) -> None:
    """Raise a ValueError that names a number below its least value, which is 1 for `n_processes` and 0 for all others."""
    for name, value, least in (*((name, value, 0) for name, value in others.items()), ("n_processes", n_processes, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")


def make_cases(make: Callable[[Job], Result], jobs: Sequence[Job], n_processes: int) -> Iterator[tuple[Job, Result]]:
    """Each job with what `make` returns, as they are done, in this process or in several.

    Args:
        make: A function that processes can be sent.
        jobs: The first entry of each is the case's folder.
        n_processes: At a time.

    Raises:
        RuntimeError: If a process was killed.
    """
    if n_processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, make(job)
        return
    for job, result in run_in_processes(make, jobs, n_processes):
        if result is KILLED:
            raise RuntimeError(f"{job[0].name}: its process was killed, probably out of memory; use -np 1")
        yield job, result


def is_complete(folder: Path, options: dict, *, channels: Sequence[str] = CHANNELS) -> bool:
    """Whether a case is there, with all its files.

    Args:
        folder: Of the case.
        options: What it is to be made with, as `phantom.json` holds it.
        channels: Of the site.

    Raises:
        ValueError: If the folder holds anything else, such as a case made with other options.
    """
    if not folder.exists():
        return False
    record = folder / "phantom.json"
    if not record.is_file():
        raise ValueError(
            f"case {folder.name!r}: {folder} has no phantom.json, so it is not a phantom. Use an empty folder."
        )
    remedy = f"use another folder, or delete {folder}"
    found = {"dicom": False, "site": HEAD, **read_json(record, {"options?": dict}, remedy=remedy).get("options", {})}
    wanted = {"site": HEAD, **options}
    different = [f"{k}={found.get(k)!r} instead of {v!r}" for k, v in wanted.items() if found.get(k) != v]
    if different:
        raise ValueError(
            f"case {folder.name!r}: made with {', '.join(different)}. Use another folder, or delete {folder}."
        )
    files = (
        (*channels, "RTSTRUCT.dcm") if options.get("dicom") else (*(f"{c}.nii.gz" for c in channels), "label.nii.gz")
    )
    needed = (*files, TRANSFORM_FILE) if options.get("unregistered") else files
    return all((folder / name).exists() for name in needed)


def write_case(folder: Path, case: Case, options: dict) -> None:
    """Write a case next to its folder and move it there when it is complete."""
    half = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    with step("write phantom", case=folder.name):
        if options.get("dicom"):
            _write_dicom(half, case, folder.name, options.get("site", HEAD))
        else:
            for name, image in {**case.images, "label": case.label}.items():
                sitk.WriteImage(image, str(half / f"{name}.nii.gz"), useCompression=True)
    if case.mr_to_ct is not None:
        sitk.WriteTransform(case.mr_to_ct, str(half / TRANSFORM_FILE))
    (half / "phantom.json").write_text(json.dumps({"options": options, **case.record}, indent=2) + "\n")
    if folder.exists():  # complete cases are never remade, so this one lacks files
        shutil.rmtree(folder)
    half.rename(folder)


def _write_dicom(folder: Path, case: Case, name: str, site: str) -> None:
    """CT and MR as series of one patient, and the organs as contours along the edges of the CT's voxels."""
    from nnunet_ext.dicom.rtstruct_writer import write_contours
    from nnunet_ext.dicom.series import find_series
    from nnunet_ext.dicom.series_writer import Study, write_series
    from nnunet_ext.dicom.tracing import trace_mask

    mr_frame = "1" if case.mr_to_ct is None else "2"
    times = {"T1": {"EchoTime": 12, "RepetitionTime": 550}, "T2": {"EchoTime": 95, "RepetitionTime": 4200}}
    study = Study(name, "Phantom", study="CT")
    images = dict(case.images)
    ct_image = images.pop("CT")
    write_series(ct_image, folder / "CT", modality="CT", study=study, number=1, description=f"{site} phantom")
    study = Study(name, "Phantom", study="MR", frame_of_reference=mr_frame)
    for number, (channel, image) in enumerate(images.items(), start=2):
        write_series(image, folder / channel, modality="MR", study=study, number=number, description=f"{channel} phantom",
                     headers=times[channel])  # fmt: skip
    labels = sitk.GetArrayViewFromImage(case.label)
    organs = {organ: trace_mask(labels == value, case.label) for value, organ in enumerate(case.organs, start=1)}
    (ct,) = find_series(folder / "CT").images
    moments = ("InstanceCreation", "Series", "StructureSet")  # none, so that the same case gives the same file
    headers = {f"{moment}{part}": "" for moment in moments for part in ("Date", "Time")}
    headers |= {f"{what}InstanceUID": study.uid("RTSTRUCT", what) for what in ("SOP", "Series")}
    write_contours(organs, ct, folder / "RTSTRUCT.dcm", headers=headers)
