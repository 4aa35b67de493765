"""Heads of label maps as files, in the layout of the other phantoms."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nnunet_ext.files import check_folder, check_output_folder, in_one_line
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.phantom.case_files import check_numbers, is_complete, make_cases, write_case
from nnunet_ext.phantom.from_maps.map_labels import DEFAULT_LABELS, load_map_labels
from nnunet_ext.phantom.from_maps.mr import MISALIGNMENT_MM
from nnunet_ext.phantom.from_maps.one_case import CONTRASTS, make_head
from nnunet_ext.phantom.from_maps.person import Person, read_person
from nnunet_ext.steps import step

#: Goes up whenever the same seed starts to give other images, so that old and new cases do not mix in one folder.
GENERATOR_VERSION = 1
#: Voxels that can be asked for. Larger ones would lose a nerve, smaller ones only cost time.
SPACING_RANGE_MM = (0.4, 7.0)
#: An MR further off the CT is not registered.
MOST_MISALIGNMENT_MM = 10.0


@dataclass(frozen=True)
class MadeHeads:
    """What `make_phantoms_from_maps` did.

    Attributes:
        folders: Case folders that are complete, in order.
        failed: File name of a label map that cannot be used -> the reason in one line.
    """

    folders: tuple[Path, ...]
    failed: dict[str, str]


class _Job(NamedTuple):
    """One case to be made."""

    folder: Path
    file: Path
    labels_file: Path | None
    options: dict


@holding(owned_folder, "out")
def make_phantoms_from_maps(
    out: Path,
    maps: Path,
    *,
    n_cases: int,
    labels_file: Path | None = None,
    seed: int = 0,
    spacing_mm: Sequence[float] = (1.0, 1.0, 2.5),
    contrast: str = "realistic",
    immobilised: bool = False,
    deformed: bool = True,
    misalignment_mm: float = MISALIGNMENT_MM,
    dicom: bool = False,
    n_processes: int = 2,
    first_case: int = 0,
    show_progress: bool = True,
) -> MadeHeads:
    """Folders `out/phantom_000`, ... as `make_phantoms` writes them, with heads of real shape.

    The people take turns: case `i` is drawn from label map `i` modulo their number, in the order of their names. The
    head is turned, stretched and bent. Lenses and whole optic nerves are added to it. `phantom.json` names the `person`.
    Cases that exist are kept. The cases of a label map that cannot be used are left out, and the others are finished.

    Args:
        out: Folder for the cases, made if needed.
        maps: Folder with one label map of a whole head per person. They may have any orientation, and voxels of up to 2 mm.
        n_cases: Number of cases.
        labels_file: TOML file that tells what the numbers in the maps mean. Without it they are those of SynthSeg's maps.
        seed: Any non-negative integer.
        spacing_mm: Voxel size `(x, y, z)` of all images.
        contrast: "realistic", or "random" for T1 and T2 of any brightness. CT is in HU in both.
        immobilised: Show couch, head rest and fixation mask in the CT.
        deformed: Turn, stretch and bend the heads, and now and then take an eye away. Else they are the people's own.
        misalignment_mm: Distance by which T1 and T2 may each be off the CT. With 0, each lies where the labels lie.
        dicom: Write DICOM series and an RTSTRUCT instead of NIfTI files.
        n_processes: Cases made at the same time. More than one starts new Python processes, so a script that calls
            this needs `if __name__ == "__main__":`.
        first_case: Index of the first case.
        show_progress: Show a progress bar.

    Returns:
        The case folders that are complete, and the label maps that cannot be used.

    Raises:
        OSError: If `maps` or `labels_file` is not there.
        ValueError: If an option makes no sense, the labels file cannot be used, there is no label map, or a case folder
            holds something else, such as a case of another seed. Nothing is made then.
    """
    spacing = tuple(float(mm) for mm in spacing_mm)
    if not 0 <= misalignment_mm <= MOST_MISALIGNMENT_MM:
        raise ValueError(f"misalignment_mm is {misalignment_mm}; it must be 0 to {MOST_MISALIGNMENT_MM:g}.")
    _check_options(spacing, contrast, n_cases=n_cases, seed=seed, first_case=first_case, n_processes=n_processes)
    files = _find_maps(Path(maps))
    load_map_labels(labels_file)
    meaning = _digest(DEFAULT_LABELS if labels_file is None else Path(labels_file))
    out = check_output_folder(out)
    jobs: list[_Job] = []
    folders: dict[int, Path] = {}
    complete: dict[int, bool] = {}
    digest = lru_cache(maxsize=None)(_digest)
    for case in range(first_case, first_case + n_cases):
        file = files[case % len(files)]
        options = {
            "version": GENERATOR_VERSION,
            "seed": seed,
            "case": case,
            "person": image_stem(file),
            "map": digest(file),
            "labels": meaning,
            "spacing_mm": list(spacing),
            "contrast": contrast,
            "immobilised": immobilised,
            "deformed": deformed,
            "misalignment_mm": misalignment_mm,
            "dicom": dicom,
        }
        folders[case] = out / f"phantom_{case:03d}"
        complete[case] = is_complete(folders[case], options)
        if not complete[case]:
            jobs.append(_Job(folders[case], file, labels_file, options))
    out.mkdir(parents=True, exist_ok=True)
    jobs.sort(key=lambda job: job.file.name)  # a process reads each person once
    failed: dict[str, str] = {}
    with tqdm(total=n_cases, initial=n_cases - len(jobs), desc="heads", unit="case", disable=not show_progress) as bar:
        for job, problem in make_cases(_write_one, jobs, n_processes):
            if problem is None:
                complete[job.options["case"]] = True
            else:
                failed[job.file.name] = problem
            bar.update()
    done = tuple(folder for case, folder in folders.items() if complete[case])
    return MadeHeads(done, dict(sorted(failed.items())))


def _check_options(spacing_mm: tuple[float, ...], contrast: str, **numbers: int) -> None:
    if contrast not in CONTRASTS:
        raise ValueError(f"contrast {contrast!r} is not known. Use one of: {', '.join(CONTRASTS)}.")
    least, most = SPACING_RANGE_MM
    if len(spacing_mm) != 3 or not all(least <= mm <= most for mm in spacing_mm):
        raise ValueError(f"spacing_mm is {spacing_mm}; it must be three numbers of {least:g} to {most:g}.")
    check_numbers(**numbers)


def _find_maps(folder: Path) -> list[Path]:
    """Image files of a folder, by name."""
    check_folder(folder, "folder of label maps")
    files = sorted(file for file in folder.iterdir() if image_stem(file) is not None)
    if not files:
        raise ValueError(f"{folder} holds no image file, such as head_01.nii.gz")
    stems = [image_stem(file) for file in files]
    twice = sorted({str(stem) for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f"{folder} holds {', '.join(twice)} more than once; a person needs one label map")
    return files


def _digest(file: Path) -> str:
    """Start of a file's SHA-256, which tells one label map from another."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


@lru_cache(maxsize=2)
def _person(file: Path, labels_file: Path | None) -> Person | str:
    """The head of a label map, or why it cannot be used."""
    try:
        return read_person(file, load_map_labels(labels_file))
    except Exception as error:
        return in_one_line(error)


def _write_one(job: _Job) -> str | None:
    """Make one case. Returns the reason if its label map cannot be used."""
    person = _person(job.file, job.labels_file)
    if isinstance(person, str):
        return person
    options = job.options
    # The matrices are small: a second thread of the linear algebra library takes time from other processes for nothing.
    with step("make", case=job.folder.name), threadpool_limits(1):
        case = make_head(
            person,
            options["seed"],
            options["case"],
            spacing_mm=options["spacing_mm"],
            contrast=options["contrast"],
            immobilised=options["immobilised"],
            deformed=options["deformed"],
            misalignment_mm=options["misalignment_mm"],
        )
    write_case(job.folder, case, options)
    return None
