"""Synthetic heads as files, each with CT, T1w and T2w and exact labels of the seven organs. Or torsos, for other sites.

For tests, demos and trials without patient data. A phantom is no substitute for a patient. Scores on phantoms say that
a pipeline works, not how well it contours people.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from nnunet_ext.files import check_output_folder
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.phantom.case_files import CHANNELS, HEAD, Case, check_numbers, is_complete, make_cases, write_case
from nnunet_ext.phantom.grids import SIZES
from nnunet_ext.phantom.one_case import make_phantom
from nnunet_ext.phantom.torso import TORSO_CHANNELS, make_torso
from nnunet_ext.steps import step

#: Goes up whenever the same seed starts to give other images, so that old and new cases do not mix in one folder.
GENERATOR_VERSION = 3
#: The same for torsos.
TORSO_VERSION = 1
TORSO = "torso"
#: Site -> channels of its cases.
SITES = {HEAD: CHANNELS, TORSO: TORSO_CHANNELS}


@holding(owned_folder, "out")
def make_phantoms(
    out: Path,
    *,
    n_cases: int,
    seed: int = 0,
    site: str = HEAD,
    size: str = "small",
    unregistered: bool = False,
    dicom: bool = False,
    n_processes: int = 2,
    first_case: int = 0,
    show_progress: bool = True,
) -> list[Path]:
    """Folders `out/phantom_000`, ... with `CT`, `T1`, `T2`, `label` (`.nii.gz`) and `phantom.json`.

    Labels are 1..7 in the order of `nnunet_ext.labels.organs.ORGANS`, uint8. CT is in HU, MR in arbitrary units, all int16.
    `phantom.json` holds the numbers drawn. A case depends on `seed`, its index, `site`, `size` and `unregistered` only, not
    on `n_cases` or `n_processes`. Cases that exist are kept. A case is moved into place when it is complete.

    Args:
        out: Folder for the cases, made if needed.
        n_cases: Number of cases.
        seed: Any non-negative integer.
        site: "head", or "torso": CT and T2 of a trunk whose images end inside the body above and below. Its labels are
            1..3, `Gland_Large`, `Gland_Small` and the thin `Duct` between them. There is no `T1`.
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
        ValueError: If `site` or `size` is unknown, a number is negative, or a case folder holds something else, such as a
            case of another seed, size or version. Nothing is made then.
    """
    if site not in SITES:
        raise ValueError(f"site {site!r} is not known. Use one of: {', '.join(SITES)}.")
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not known. Use one of: {', '.join(SIZES)}.")
    check_numbers(n_cases=n_cases, seed=seed, first_case=first_case, n_processes=n_processes)
    out = check_output_folder(out)
    folders = {i: out / f"phantom_{i:03d}" for i in range(first_case, first_case + n_cases)}
    options = {i: _options(i, seed, size, unregistered, dicom, site) for i in folders}
    missing = [i for i, folder in folders.items() if not is_complete(folder, options[i], channels=SITES[site])]
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(folders[i], options[i]) for i in missing]
    with tqdm(
        total=len(folders), initial=len(folders) - len(jobs), desc="phantoms", unit="case", disable=not show_progress
    ) as bar:
        for _ in make_cases(_write_case, jobs, n_processes):
            bar.update()
    return list(folders.values())


def _options(case: int, seed: int, size: str, unregistered: bool, dicom: bool = False, site: str = HEAD) -> dict:
    version = GENERATOR_VERSION if site == HEAD else TORSO_VERSION
    options = {"version": version, "seed": seed, "case": case, "size": size, "unregistered": unregistered}
    return {**options, "dicom": dicom, **({} if site == HEAD else {"site": site})}


def _write_case(job: tuple[Path, dict]) -> None:
    folder, options = job
    with step("make", case=folder.name):
        make: Callable[..., Case] = make_phantom if options.get("site", HEAD) == HEAD else make_torso
        case = make(options["seed"], options["case"], size=options["size"], unregistered=options["unregistered"])
    write_case(folder, case, options)
