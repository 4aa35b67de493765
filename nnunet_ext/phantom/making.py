"""Synthetic heads as files, each with CT, T1w and T2w and exact labels of the seven organs.

For tests, demos and trials without patient data. A phantom is no substitute for a patient. Scores on phantoms say that
a pipeline works, not how well it contours people.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import SimpleITK as sitk
from tqdm import tqdm

from nnunet_ext.files import check_output_folder, read_json
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.grids import SIZES
from nnunet_ext.phantom.one_case import Phantom, make_phantom
from nnunet_ext.phantom.pose import TRANSFORM_FILE
from nnunet_ext.processes import KILLED, run_in_processes
from nnunet_ext.steps import step

#: Goes up whenever the same seed starts to give other images, so that old and new cases do not mix in one folder.
GENERATOR_VERSION = 3
FILES = ("CT.nii.gz", "T1.nii.gz", "T2.nii.gz", "label.nii.gz")
DICOM_FILES = ("CT", "T1", "T2", "RTSTRUCT.dcm")


@holding(owned_folder, "out")
def make_phantoms(
    out: Path,
    *,
    n_cases: int,
    seed: int = 0,
    size: str = "small",
    unregistered: bool = False,
    dicom: bool = False,
    n_processes: int = 2,
    first_case: int = 0,
    show_progress: bool = True,
) -> list[Path]:
    """Folders `out/phantom_000`, ... with `CT`, `T1`, `T2`, `label` (`.nii.gz`) and `phantom.json`.

    Labels are 1..7 in the order of `nnunet_ext.labels.organs.ORGANS`, uint8. CT is in HU, MR in arbitrary units, all int16.
    `phantom.json` holds the numbers drawn. A case depends on `seed`, its index, `size` and `unregistered` only, not on
    `n_cases` or `n_processes`. Cases that exist are kept. A case is moved into place when it is complete.

    Args:
        out: Folder for the cases, made if needed.
        n_cases: Number of cases.
        seed: Any non-negative integer.
        size: "tiny" (about 2.5 mm), "small" (1.1 x 1.1 x 3 mm), "thin" (0.8 x 0.8 x 1.25 mm) or "full" (512 x 512, 2.5 to
            5 mm slices).
        unregistered: Put T1 and T2 on grids of their own, shifted, turned and bent against the CT. The transform is
            written as `mr_to_ct.tfm` and maps CT points to MR points. `sitk.Resample(mr, ct, transform)` brings the MR
            onto the CT with it. Otherwise T1 and T2 come on the grid of the CT with the error of a good registration,
            up to about 1 mm.
        dicom: Write DICOM series and an RTSTRUCT instead, as folders `CT`, `T1`, `T2` and `RTSTRUCT.dcm`.
        n_processes: Cases made at the same time. More than one starts new Python processes, so a script that calls
            this needs `if __name__ == "__main__":`.
        first_case: Index of the first case.
        show_progress: Show a progress bar.

    Returns:
        The case folders, in order.

    Raises:
        ValueError: If `size` is unknown, a number is negative, or a case folder holds something else, such as a case
            of another seed, size or version. Nothing is made then.
    """
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not known. Use one of: {', '.join(SIZES)}.")
    for name, value, least in (
        ("n_cases", n_cases, 0),
        ("seed", seed, 0),
        ("first_case", first_case, 0),
        ("n_processes", n_processes, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    out = check_output_folder(out)
    folders = {i: out / f"phantom_{i:03d}" for i in range(first_case, first_case + n_cases)}
    options = {i: _options(i, seed, size, unregistered, dicom) for i in folders}
    missing = [i for i, folder in folders.items() if not _is_complete(folder, options[i])]
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(folders[i], options[i]) for i in missing]
    with tqdm(
        total=len(folders), initial=len(folders) - len(jobs), desc="phantoms", unit="case", disable=not show_progress
    ) as bar:
        if n_processes == 1 or len(jobs) < 2:
            for job in jobs:
                _write_case(job)
                bar.update()
        else:
            for (folder, _), result in run_in_processes(_write_case, jobs, n_processes):
                if result is KILLED:
                    raise RuntimeError(f"{folder.name}: its process was killed, probably out of memory; use -np 1")
                bar.update()
    return list(folders.values())


def _options(case: int, seed: int, size: str, unregistered: bool, dicom: bool = False) -> dict:
    options = {"version": GENERATOR_VERSION, "seed": seed, "case": case, "size": size, "unregistered": unregistered}
    return {**options, "dicom": dicom}


def _is_complete(folder: Path, options: dict) -> bool:
    """Whether the case is there. ValueError if the folder holds anything else."""
    if not folder.exists():
        return False
    record = folder / "phantom.json"
    if not record.is_file():
        raise ValueError(
            f"case {folder.name!r}: {folder} has no phantom.json, so it is not a phantom. Use an empty folder."
        )
    remedy = f"use another folder, or delete {folder}"
    found = {"dicom": False, **read_json(record, {"options?": dict}, remedy=remedy).get("options", {})}
    different = [f"{k}={found.get(k)!r} instead of {v!r}" for k, v in options.items() if found.get(k) != v]
    if different:
        raise ValueError(
            f"case {folder.name!r}: made with {', '.join(different)}. Use another folder, or delete {folder}."
        )
    needed: tuple[str, ...] = DICOM_FILES if options["dicom"] else FILES
    needed = (*needed, TRANSFORM_FILE) if options["unregistered"] else needed
    return all((folder / name).exists() for name in needed)


def _write_case(job: tuple[Path, dict]) -> None:
    """Make one case next to its folder and move it there when complete."""
    folder, options = job
    half = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    with step("make", case=folder.name):
        case = make_phantom(
            options["seed"], options["case"], size=options["size"], unregistered=options["unregistered"]
        )
    with step("write phantom", case=folder.name):
        if options["dicom"]:
            _write_dicom(half, case, folder.name)
        else:
            for name, image in zip(FILES, (case.ct, case.t1, case.t2, case.label), strict=True):
                sitk.WriteImage(image, str(half / name), useCompression=True)
    if case.mr_to_ct is not None:
        sitk.WriteTransform(case.mr_to_ct, str(half / TRANSFORM_FILE))
    (half / "phantom.json").write_text(json.dumps({"options": options, **case.record}, indent=2) + "\n")
    if folder.exists():  # complete cases are never remade, so this one lacks files
        shutil.rmtree(folder)
    half.rename(folder)


def _write_dicom(folder: Path, case: Phantom, name: str) -> None:
    """CT, T1 and T2 as series of one patient, and the organs as contours along the edges of the CT's voxels."""
    from nnunet_ext.dicom.rtstruct_writer import write_contours
    from nnunet_ext.dicom.series import find_series
    from nnunet_ext.dicom.series_writer import Study, write_series
    from nnunet_ext.dicom.tracing import trace_mask

    mr_frame = "1" if case.mr_to_ct is None else "2"
    times = {"T1": {"EchoTime": 12, "RepetitionTime": 550}, "T2": {"EchoTime": 95, "RepetitionTime": 4200}}
    study = Study(name, "Phantom", study="CT")
    write_series(case.ct, folder / "CT", modality="CT", study=study, number=1, description="head phantom")
    study = Study(name, "Phantom", study="MR", frame_of_reference=mr_frame)
    for number, (channel, image) in enumerate((("T1", case.t1), ("T2", case.t2)), start=2):
        write_series(image, folder / channel, modality="MR", study=study, number=number, description=f"{channel} phantom",
                     headers=times[channel])  # fmt: skip
    labels = sitk.GetArrayViewFromImage(case.label)
    organs = {organ: trace_mask(labels == value, case.label) for value, organ in enumerate(ORGANS, start=1)}
    (ct,) = find_series(folder / "CT").images
    moments = ("InstanceCreation", "Series", "StructureSet")  # none, so that the same case gives the same file
    headers = {f"{moment}{part}": "" for moment in moments for part in ("Date", "Time")}
    headers |= {f"{what}InstanceUID": study.uid("RTSTRUCT", what) for what in ("SOP", "Series")}
    write_contours(organs, ct, folder / "RTSTRUCT.dcm", headers=headers)
