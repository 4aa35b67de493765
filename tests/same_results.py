"""Hashes of what the commands compute, to prove that a change keeps the results.

    python tests/same_results.py before.json                            # before the change
    python tests/same_results.py after.json --compare before.json       # after it: says what differs, exits 1 if anything

A change that may move images by a grey value is compared with what was made before, not with its hashes:

    python tests/same_results.py before.json --keep before              # before the change: keeps what was made
    python tests/same_results.py after.json --within before             # label maps, plans and scores still have to be equal
    python tests/same_results.py after.json --within before --phantoms before    # only what follows on the same phantoms

Phantoms are made, converted (also with `--register`), planned and scored by the installed commands, on one thread each.
Hashed are decoded arrays and grids of phantoms, images and labels, the plans without class paths and versions, and the
scores of every case. Another machine or version of a library may give other hashes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

#: What `--within` allows: grey values of an image, and how far transforms may put one point apart.
GREY_VALUES, TRANSFORM_MM = 1.0, 1e-3
#: Key of plans with statistics of voxels, each of which may differ by a grey value.
INTENSITIES = "foreground_intensity_properties_per_channel"
DATASET_ID, DATASET = 501, "Dataset501_Same"
REGISTERED_ID, REGISTERED = 502, "Dataset502_Registered"
PLANNER, PLANS = "CascadeOARPlannerSmall", "CascadeOARPlansSmall"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
#: Decimals of sizes in mm and of direction cosines: files hold them in single precision.
DECIMALS = 4
#: Name of a class or function with its modules. The modules may move.
DOTTED = re.compile(r"(?:[A-Za-z_]\w*\.)+([A-Za-z_]\w*)")
#: Keys of plans that hold a path or a version.
LEFT_OUT = re.compile("version|path|folder")


def digest(*parts: bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def of_json(content: object) -> str:
    return digest(json.dumps(content, sort_keys=True).encode())


def of_image(file: Path) -> str:
    """Of the voxels with their type, and the grid."""
    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayViewFromImage(image)
    numbers = (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())
    grid = [round(number, DECIMALS) + 0.0 for number in numbers]  # + 0.0: -0.0 is 0.0
    return digest(repr((array.dtype.str, array.shape, grid)).encode(), np.ascontiguousarray(array).tobytes())


def without_names(plans: object) -> object:
    """Plans without modules of classes, paths and versions."""
    if isinstance(plans, Mapping):
        return {key: without_names(value) for key, value in plans.items() if not LEFT_OUT.search(key)}
    if isinstance(plans, list):
        return [without_names(value) for value in plans]
    if isinstance(plans, str) and (name := DOTTED.fullmatch(plans)):
        return name[1]
    return plans


def of_scores(file: Path) -> dict[str, str]:
    """Case -> hash of its rows; a number counts with all its digits, wherever its column stands."""
    cases: dict[str, list] = {}
    for row in csv.DictReader(file.open(encoding="utf-8")):
        cases.setdefault(row["case"], []).append(sorted(row.items()))
    return {case: of_json(sorted(rows)) for case, rows in cases.items()}


def shift(labels: Path, folder: Path) -> None:
    """Every label map moved by one voxel along each axis, the last one without its highest label, as predictions."""
    folder.mkdir()
    files = sorted(labels.glob("*.nii.gz"))
    for file in files:
        image = sitk.ReadImage(str(file))
        array = np.roll(sitk.GetArrayFromImage(image), (1, 1, 1), axis=(0, 1, 2))
        if file == files[-1]:
            array[array == array.max()] = 0
        moved = sitk.GetImageFromArray(array)
        moved.CopyInformation(image)
        sitk.WriteImage(moved, str(folder / file.name), True)


def results(work: Path, *, n_cases: int, size: str, phantoms: Path | None = None) -> dict[str, str]:
    """Name -> hash, of all that the commands make in a folder, from phantoms that an earlier run kept if given."""
    folders = {f"nnUNet_{kind}": work / kind for kind in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        folder.mkdir()
    environment = {**os.environ, **ONE_THREAD, **{name: str(folder) for name, folder in folders.items()}}

    def run(name: str, *arguments: object) -> None:
        if name == "nnunet_ext":
            command = [sys.executable, "-m", name]
        else:
            beside = Path(sys.executable).parent / name
            command = [str(beside) if beside.exists() else shutil.which(name) or name]
        command += map(str, arguments)
        print("$", name, *arguments, flush=True)
        done = subprocess.run(
            command, env=environment, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}\n{name} {arguments[0]} failed with exit code {done.returncode}")

    alone = ("-np", 1)
    # Another seed gives another field of view. Phantoms that are not registered have a field of view per channel.
    if phantoms is None:
        run("nnunet_ext", "phantom", work / "plain", "--cases", n_cases, "--size", size, *alone)
        run("nnunet_ext", "phantom", work / "other", "--cases", 1, "--seed", 7, "--size", size, *alone)
        run("nnunet_ext", "phantom", work / "moved", "--cases", 1, "--size", size, "--unregistered", *alone)
        (work / "other" / "phantom_000").rename(work / "plain" / "phantom_other")
    else:
        for name in ("plain", "moved"):
            shutil.copytree(phantoms / name, work / name)
    run("nnunet_ext", "convert", work / "plain", "-d", DATASET_ID, "-n", "Same", *alone)
    run("nnunet_ext", "convert", work / "moved", "-d", REGISTERED_ID, "-n", "Registered", "--register", *alone)
    case = next((work / "moved").iterdir())
    images = (case / f"{channel}.nii.gz" for channel in ("CT", "T1", "T2"))
    run("nnunet_ext", "register", *images, "-o", work / "transforms")
    run("nnUNetv2_extract_fingerprint", "-d", DATASET_ID, *alone)
    run("nnUNetv2_plan_experiment", "-d", DATASET_ID, "-pl", PLANNER)
    labels = work / "raw" / DATASET / "labelsTr"
    shift(labels, work / "shifted")
    run("nnunet_ext", "evaluate", work / "shifted", labels, "-o", work / "scores", *alone)

    found = {}
    for folder in (*(work / name for name in ("plain", "moved", "transforms")), *(work / "raw").iterdir()):
        for file in sorted(folder.rglob("*.nii.gz")):
            found[file.relative_to(work).as_posix()] = of_image(file)
        for file in sorted(folder.rglob("*.tfm")):
            found[file.relative_to(work).as_posix()] = digest(file.read_bytes())
    plans = json.loads((work / "preprocessed" / DATASET / f"{PLANS}.json").read_text(encoding="utf-8"))
    found |= {f"plans/{key}": of_json(without_names(value)) for key, value in plans.items() if not LEFT_OUT.search(key)}
    found |= {f"scores/{case}": value for case, value in of_scores(work / "scores" / "evaluation.csv").items()}
    return found


# ------------------------------------------------------------------------------------------------ within tolerances


def difference(name: str, before: Path, after: Path) -> tuple[bool, str]:
    """Whether a file that both folders hold differs by more than is allowed, and by how much it differs."""
    if name.endswith(".tfm"):
        mm = distance_mm(before / name, after / name)
        return mm > TRANSFORM_MM, f"differs by {mm:.2g} mm"
    images = [sitk.ReadImage(str(folder / name)) for folder in (before, after)]
    old, new = (sitk.GetArrayFromImage(image).astype(np.float64) for image in images)
    numbers = [(*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()) for image in images]
    if images[0].GetPixelID() != images[1].GetPixelID() or old.shape != new.shape:
        return True, "differs in type or size"
    if not np.allclose(*numbers, rtol=0, atol=10**-DECIMALS):
        return True, "differs in its grid"
    apart = np.abs(old - new)
    is_label = "label" in name
    text = f"differs by at most {apart.max():.4g}, in {np.count_nonzero(apart):,} of {apart.size:,} voxels"
    if beyond := np.count_nonzero(apart > GREY_VALUES):
        text += f", {beyond:,} by more than {GREY_VALUES:g}"
    return bool(apart.max() > (0 if is_label else GREY_VALUES)), text


def distance_mm(before: Path, after: Path) -> float:
    """Largest distance of the points that two transforms map one point to, in a head's box around their centre."""
    one, other = (sitk.ReadTransform(str(file)) for file in (before, after))
    points = np.random.default_rng(0).uniform((-90, -240, -60), (110, -60, 150), (2000, 3)).tolist()
    return max(float(np.linalg.norm(np.subtract(one.TransformPoint(p), other.TransformPoint(p)))) for p in points)


def intensities_differ(before: object, after: object) -> bool:
    """Whether statistics of the intensities in two plans differ by more than a grey value."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before.keys() != after.keys() or any(intensities_differ(before[key], after[key]) for key in before)
    return abs(before - after) > GREY_VALUES


def compare(before: Path, after: Path, hashes: Mapping[str, str], differing: list[str]) -> int:
    """Say of every result that differs by how much; how many differ by more than is allowed."""
    n_beyond = 0
    kept = json.loads((before / "hashes.json").read_text())
    for name in differing:
        if name not in kept or name not in hashes:
            beyond, text = True, "is missing" if name in kept else "is new"
        elif (before / name).is_file():
            beyond, text = difference(name, before, after)
        elif name.startswith("plans/"):
            file = Path("preprocessed", DATASET, f"{PLANS}.json")
            old, new = (json.loads((folder / file).read_text())[name[6:]] for folder in (before, after))
            beyond, text = name[6:] != INTENSITIES or intensities_differ(old, new), "differs"
        else:
            beyond, text = True, "differs"
        n_beyond += beyond
        print(f"{name} {text}{' (too much)' if beyond else ''}")
    return n_beyond


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT.json", type=Path, help="file to write the hashes to")
    parser.add_argument("--compare", metavar="BEFORE.json", type=Path, help="hashes to compare with")
    parser.add_argument("--cases", metavar="N", type=int, default=2, help="plain phantoms, besides two others (2)")
    parser.add_argument("--size", choices=("tiny", "small", "full"), default="tiny", help="of the phantoms (tiny)")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="new folder that keeps all that is made")
    parser.add_argument("--within", metavar="FOLDER", type=Path, help="compare with what was kept, within tolerances")
    parser.add_argument("--phantoms", metavar="FOLDER", type=Path, help="take the phantoms that were kept")
    options = parser.parse_args()
    before = json.loads(options.compare.read_text()) if options.compare else None
    if options.within:
        before = json.loads((options.within / "hashes.json").read_text())
    if options.keep:
        options.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.keep or temporary).resolve()
        after = results(work, n_cases=options.cases, size=options.size, phantoms=options.phantoms)
        (work / "hashes.json").write_text(json.dumps(after, indent=1) + "\n")
        options.out.write_text(json.dumps(after, indent=1) + "\n")
        print(f"{options.out}: {len(after)} hashes")
        if before is None:
            return 0
        differing = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
        if options.within:
            n_beyond = compare(options.within, work, after, differing)
            print(f"{len(differing)} of {len({*before, *after})} differ, {n_beyond} by more than is allowed")
            return 1 if n_beyond else 0
    for name in differing:
        what = "differs" if name in before and name in after else "is new" if name in after else "is missing"
        print(f"{name} {what}")
    print(f"{len(differing)} of {len({*before, *after})} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
