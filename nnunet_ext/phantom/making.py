"""Synthetic head cases: CT, T1w and T2w of one head with exact labels of the seven organs.

For tests, demos and trials without patient data. A phantom is no substitute for a patient: scores on phantoms say that
a pipeline works, not how well it contours people.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import map_coordinates
from tqdm import tqdm

from nnunet_ext.files import check_output_folder, read_json
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.acquisition import (
    CT,
    T1,
    T2,
    TISSUES,
    Grid,
    Painter,
    add_ct_noise,
    add_streaks,
    add_texture,
    couch_background,
    degrade_mr,
    label_map,
    paint_outlines,
    paint_shares,
)
from nnunet_ext.phantom.anatomy import Anatomy, HeadParameters, build_anatomy, deformation
from nnunet_ext.phantom.shapes import unit
from nnunet_ext.phantom.small_anatomy import SmallAnatomy
from nnunet_ext.processes import KILLED, run_in_processes
from nnunet_ext.steps import step

#: Goes up whenever the same seed starts to give other images, so that old and new cases do not mix in one folder.
GENERATOR_VERSION = 3
FILES = ("CT.nii.gz", "T1.nii.gz", "T2.nii.gz", "label.nii.gz")
DICOM_FILES = ("CT", "T1", "T2", "RTSTRUCT.dcm")
TRANSFORM_FILE = "mr_to_ct.tfm"
#: Topmost to lowest point a head needs around it, as points of the head frame: nose, back, ears, crown.
_EXTREMES_MM = np.array([[0, -113, -35], [0, 104, 37], [82, 8, 0], [-82, 8, 0], [0, 8, 117]], np.float64)


@dataclass(frozen=True)
class SizeRange:
    """What the grids of one `size` are drawn from; `(low, high)` ranges or lists of choices."""

    pixel_mm: tuple[float, float] | list[float]
    slice_mm: tuple[float, float] | list[float]
    field_of_view_mm: tuple[float, float] | None  # None: 512 x 512 pixels
    height_mm: tuple[float, float]
    mr_pixel_mm: tuple[float, float]
    mr_slice_mm: tuple[float, float]


SIZES = {
    "tiny": SizeRange((2.3, 2.7), (2.3, 2.7), (250, 275), (190, 215), (2.0, 2.6), (2.4, 3.2)),
    "small": SizeRange((1.0, 1.2), (2.7, 3.3), (250, 275), (195, 225), (0.95, 1.15), (3.0, 4.5)),
    "full": SizeRange([0.488, 0.586, 0.684, 0.781, 0.977], [2.5, 3.0, 5.0], None, (205, 280), (0.65, 0.75), (4.5, 5.0)),
}


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

    Labels are 1..7 in the order of `nnunet_ext.labels.organs.ORGANS`, uint8; CT is in HU, MR in arbitrary units, all int16.
    `phantom.json` holds what was drawn. A case depends on `seed`, its index, `size` and `unregistered` only, not on
    `n_cases` or `n_processes`. Cases that exist are kept, a case is moved into place when it is complete.

    Args:
        out: Folder for the cases; made if needed.
        n_cases: Number of cases.
        seed: Any non-negative integer.
        size: "tiny" (about 2.5 mm), "small" (1.1 x 1.1 x 3 mm) or "full" (512 x 512, 2.5 to 5 mm slices).
        unregistered: Put T1 and T2 on grids of their own, shifted, turned and bent against the CT. The transform is
            written as `mr_to_ct.tfm`: it maps CT points to MR points, which is what
            `sitk.Resample(mr, ct, transform)` takes to bring the MR onto the CT. Otherwise T1 and T2 come on the grid
            of the CT with the error of a good registration, up to about 1 mm.
        dicom: Write DICOM series and an RTSTRUCT instead: folders `CT`, `T1`, `T2` and `RTSTRUCT.dcm`.
        n_processes: Cases made at the same time. More than one starts new Python processes, so a script that calls
            this needs `if __name__ == "__main__":`.
        first_case: Index of the first case.
        show_progress: Show a progress bar.

    Returns:
        The case folders, in order.

    Raises:
        ValueError: If `size` is unknown, a number is negative, or a case folder holds something else than this
            case (other seed, size, options or version); nothing is made then.
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
    """Whether the case is there; raises ValueError if the folder holds anything else."""
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
    from nnunet_ext.dicom.rtstruct_reader import trace_mask
    from nnunet_ext.dicom.rtstruct_writer import write_contours
    from nnunet_ext.dicom.series import find_series
    from nnunet_ext.dicom.series_writer import Study, write_series

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


# ------------------------------------------------------------------------------------------------ one case


@dataclass(frozen=True)
class PhantomTruth:
    """What only the generator knows, to measure cleaning with; all `(Z, Y, X)` float32.

    Attributes:
        inside: Share of every CT voxel inside the skin, air cavities included.
        immobilisation_hu: What couch and fixation mask add to the HU of air in the CT.
        bias: `T1`, `T2` -> the factor each voxel of that image was multiplied with.
        shares: `T1`, `T2` -> `white`, `grey`, `muscle` -> share of every voxel of that image this tissue fills.
    """

    inside: np.ndarray
    immobilisation_hu: np.ndarray
    bias: dict[str, np.ndarray]
    shares: dict[str, dict[str, np.ndarray]]

    @property
    def body(self) -> np.ndarray:
        """Voxels at least half inside the skin."""
        return self.inside >= 0.5


@dataclass(frozen=True)
class Phantom:
    """One case in memory; `mr_to_ct` maps CT points to MR points and is None where MR is on the grid of the CT."""

    ct: sitk.Image
    t1: sitk.Image
    t2: sitk.Image
    label: sitk.Image
    record: dict
    mr_to_ct: sitk.Transform | None
    truth: PhantomTruth | None = None


def make_phantom(
    seed: int,
    case: int,
    *,
    size: str = "small",
    unregistered: bool = False,
    parameters: HeadParameters | None = None,
    with_truth: bool = False,
    small_anatomy: bool = False,
) -> Phantom:
    """One case; see `make_phantoms`. `parameters` replaces the random head, to ask for a tumour or a missing eye.

    `with_truth` adds the outline of the body, couch and mask, the bias fields and tissues; the images stay the same.
    `small_anatomy` cuts a gap behind each ear and nostrils into the skin; all that is drawn else stays the same.
    """
    rng = {
        name: np.random.default_rng([seed, case, k])
        for k, name in enumerate(("head", "grid", "texture", "ct", "mr", "shift", "small anatomy"))
    }
    drawn = HeadParameters.draw(rng["head"])
    parameters = drawn if parameters is None else parameters
    small = SmallAnatomy.draw(rng["small anatomy"]) if small_anatomy else None
    anatomy = build_anatomy(parameters, rng["texture"], small)
    pose = _Pose.of(parameters, rng["head"])
    grid = _draw_grid(SIZES[size], pose, parameters, rng["grid"])
    background = _draw_background(pose, grid, rng["ct"])
    ct, label, organs_ml = _acquire_ct(anatomy, pose, grid, background, rng["ct"])
    record = {
        "spacing_mm": list(grid.spacing_mm),
        "size_voxels": list(grid.size_voxels),
        "head": asdict(parameters),
        "organs_ml": organs_ml,
        "nerve_lengths_mm": [round(v, 2) for v in anatomy.nerve_lengths_mm],
    }
    if unregistered:
        shift = _Shift.draw(rng["shift"], grid)
        images, mr_grids, bias = {}, {}, {}

        def seen_by_mr(m: np.ndarray) -> np.ndarray:
            return pose.to_head_mm(shift.to_ct_mm(m))

        for channel, name in ((T1, "T1"), (T2, "T2")):
            mr_grids[name] = _draw_mr_grid(SIZES[size], pose, parameters, shift, rng["grid"])
            (images[name],), (bias[name],) = _acquire_mr(anatomy, seen_by_mr, mr_grids[name], (channel,), rng["mr"])
        record["mr_to_ct"] = shift.record()
        transform = shift.to_sitk()
    else:
        residual, record["misregistration"] = _residual(rng["shift"])

        def seen_by_mr(m: np.ndarray) -> np.ndarray:
            return pose.to_head_mm(residual(m))

        both, fields = _acquire_mr(anatomy, seen_by_mr, grid, (T1, T2), rng["mr"])
        images, mr_grids, transform = {"T1": both[0], "T2": both[1]}, {"T1": grid, "T2": grid}, None
        bias = dict(zip(("T1", "T2"), fields, strict=True))
    mr = {name: _to_sitk(np.clip(np.rint(a), 0, 32767).astype(np.int16), mr_grids[name]) for name, a in images.items()}
    ct_image = _to_sitk(np.clip(np.rint(ct), -1024, 3071).astype(np.int16), grid)
    truth = None
    if with_truth:
        depth = {name: mr_grids[name].size_voxels[2] for name in bias}
        shares = {g: paint_shares(anatomy, g, seen_by_mr, ("white", "grey", "muscle")) for g in mr_grids.values()}
        truth = PhantomTruth(
            *paint_outlines(anatomy, grid, pose.to_head_mm, background),
            {name: np.stack([plane(k) for k in range(depth[name])]) for name, plane in bias.items()},
            {name: shares[g] for name, g in mr_grids.items()},
        )
    return Phantom(ct_image, mr["T1"], mr["T2"], _to_sitk(label, grid), record, transform, truth)


def _to_sitk(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    return image


def _rotation(euler_deg: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(euler_deg)):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class _Pose:
    """Where a head lies in the CT: world = R q + t with q + u(q) the head frame, u a smooth displacement."""

    rotation: np.ndarray
    translation_mm: np.ndarray
    displacement_mm: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, parameters: HeadParameters, rng: np.random.Generator) -> _Pose:
        # Scanners put the origin anywhere; a constant far from zero makes a forgotten origin visible.
        offset = np.array([12.0, -150.0, 40.0]) + rng.uniform(-40, 40, 3)
        rotation = _rotation(parameters.rotation_deg)
        return cls(rotation, offset + np.asarray(parameters.translation_mm), deformation(rng, 1.6))

    def to_head_mm(self, world_mm: np.ndarray) -> np.ndarray:
        q = (world_mm.astype(np.float64) - self.translation_mm) @ self.rotation
        q = q.astype(np.float32)
        return q + self.displacement_mm(q)

    def to_world_mm(self, head_mm: np.ndarray) -> np.ndarray:
        q = head_mm
        for _ in range(12):  # the displacement's slope is below 0.2, so the error shrinks at least fivefold a step
            q = head_mm - self.displacement_mm(q)
        return q @ self.rotation.T + self.translation_mm


def _draw(rng: np.random.Generator, choices: tuple[float, float] | list[float]) -> float:
    value = rng.choice(choices) if isinstance(choices, list) else rng.uniform(*choices)
    return round(float(value), 3)


def _draw_grid(sizes: SizeRange, pose: _Pose, parameters: HeadParameters, rng: np.random.Generator) -> Grid:
    """A CT grid that holds the whole head down to mouth or neck."""
    pixel, across = _draw(rng, sizes.pixel_mm), _draw(rng, sizes.slice_mm)
    nx, ny = (
        (512, 512)
        if sizes.field_of_view_mm is None
        else (round(rng.uniform(*sizes.field_of_view_mm) / pixel) for _ in "xy")
    )
    nz = round(rng.uniform(*sizes.height_mm) / across)
    extremes = pose.to_world_mm(_EXTREMES_MM * parameters.scale)
    low, high = extremes.min(axis=0), extremes.max(axis=0)
    origin = np.empty(3)
    for axis, n in ((0, nx), (1, ny)):
        extent = (n - 1) * pixel
        # The couch is part of the picture, so the middle of the field of view lies behind that of the head.
        middle = (low[axis] + high[axis]) / 2 + rng.uniform(-4, 4) + (8 if axis == 1 else 0)
        origin[axis] = np.clip(
            middle - extent / 2, high[axis] + 4 - extent, max(low[axis] - 4, high[axis] + 4 - extent)
        )
    origin[2] = high[2] + rng.uniform(8, 22) - (nz - 1) * across
    return Grid((nx, ny, nz), (pixel, pixel, across), tuple(np.round(origin, 3).tolist()))


def _draw_background(pose: _Pose, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Air with a couch a little behind the head, HU `(1, Y, X)`."""
    top_mm = float(pose.to_world_mm(_EXTREMES_MM)[:, 1].max() + 2 + rng.uniform(6, 16))
    return couch_background(grid, top_mm=top_mm, middle_mm=float(pose.translation_mm[0] + rng.uniform(-8, 8)), rng=rng)


def _acquire_ct(
    anatomy: Anatomy, pose: _Pose, grid: Grid, background: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """CT in HU `(Z, Y, X)` float32, labels uint8, and the volume of each organ in mL before it is cut into voxels."""
    painter = Painter(anatomy, grid, pose.to_head_mm, channels=(CT,), accessories=True)
    image, organs = painter.paint(background, with_organs=True)
    assert organs is not None  # asked for
    ct = image[0]
    ct -= np.float32(AIR_HU)
    add_texture(ct, grid, rng, amplitude=0.003)
    ct += np.float32(AIR_HU)
    if len(anatomy.metal_mm):
        add_streaks(ct, grid, pose.to_world_mm(anatomy.metal_mm), rng)
    add_ct_noise(ct, rng, sigma_hu=float(rng.uniform(8, 15)))
    centrelines = {label: pose.to_world_mm(points) for label, points in anatomy.centrelines_mm.items()}
    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000
    volumes = organs.coverage.sum(axis=(1, 2, 3), dtype=np.float64) * voxel_ml
    return (
        ct,
        label_map(organs, grid, centrelines),
        {n: round(float(v), 4) for n, v in zip(ORGANS, volumes, strict=True)},
    )


def _acquire_mr(
    anatomy: Anatomy,
    to_head_mm: Callable[[np.ndarray], np.ndarray],
    grid: Grid,
    channels: tuple[int, ...],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Callable[[int], np.ndarray]]]:
    """MR images `(C, Z, Y, X)` float32 in arbitrary units, and the bias field of each."""
    tissues = {}
    for name, values in TISSUES.items():  # contrast differs a little from scanner to scanner
        jitter = np.exp(rng.normal(0, 0.05, len(values)))
        tissues[name] = tuple(v * j for v, j in zip(values, jitter, strict=True))
    air = np.array([tissues["air"][c] for c in channels], np.float32)[:, None, None]
    image, _ = Painter(anatomy, grid, to_head_mm, channels=channels, tissues=tissues).paint(air)
    fields = []
    for channel in image:
        add_texture(channel, grid, rng, amplitude=0.03)
        fields.append(degrade_mr(channel, grid, rng))
    return image, fields


def _residual(rng: np.random.Generator) -> tuple[Callable[[np.ndarray], np.ndarray], dict]:
    """The error a registration leaves: MR voxel position -> CT point it shows; about 0.5 mm, at most about 1.5 mm."""
    shift_mm = rng.normal(0, 0.25, 3).clip(-0.6, 0.6)
    bend = deformation(rng, 0.6)
    record = {"shift_mm": [round(float(v), 3) for v in shift_mm], "bend_at_most_mm": 0.6}
    return lambda m: m + (shift_mm.astype(np.float32) + bend(m)), record


# ---------------------------------------------------------------------------------------- MR on its own grid


@dataclass(frozen=True)
class _Shift:
    """CT point w -> MR point R (w + d(w) - c) + c + t, with d a cubic B-spline.

    Attributes:
        rotation: R, `(3, 3)`.
        center_mm: c, LPS.
        translation_mm: t.
        coefficients_mm: Of the B-spline, `(3, nz, ny, nx)`, component x first.
        knots_origin_mm: Position of coefficient (0, 0, 0), `(x, y, z)`.
        knots_step_mm: Distance of the coefficients, `(x, y, z)`.
    """

    rotation: np.ndarray
    center_mm: np.ndarray
    translation_mm: np.ndarray
    coefficients_mm: np.ndarray
    knots_origin_mm: np.ndarray
    knots_step_mm: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, grid: Grid) -> _Shift:
        """Up to 10 degrees, 15 mm and 2 mm of bending over the field of view of the CT."""
        axis, angle = unit(rng.normal(size=3)).astype(np.float64), np.deg2rad(rng.uniform(3, 10))
        cross = np.cross(np.eye(3), axis)
        rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        low = np.asarray(grid.origin_mm) - 40  # the spline stops at its edge; keep the edge out of the picture
        extent = np.asarray(grid.end_mm) + 40 - low
        mesh = 6
        # A B-spline stays within its coefficients, so the displacement is at most sqrt(3) * 1.15 = 2 mm.
        coefficients = rng.uniform(-1.15, 1.15, (3, mesh + 3, mesh + 3, mesh + 3))
        step = extent / mesh
        center = (np.asarray(grid.origin_mm) + grid.end_mm) / 2
        translation = unit(rng.normal(size=3)).astype(np.float64) * rng.uniform(4, 15)
        return cls(rotation, center, translation, coefficients, low - step, step)

    def bend_mm(self, ct_mm: np.ndarray) -> np.ndarray:
        """d at points `(..., 3)`."""
        at = ((ct_mm - self.knots_origin_mm) / self.knots_step_mm)[..., ::-1]
        at = np.moveaxis(at, -1, 0)
        return np.stack(
            [map_coordinates(c, at, order=3, prefilter=False, mode="nearest") for c in self.coefficients_mm], axis=-1
        )

    def to_mr_mm(self, ct_mm: np.ndarray) -> np.ndarray:
        """CT points `(..., 3)` -> MR points."""
        moved = ct_mm + self.bend_mm(ct_mm)
        return (moved - self.center_mm) @ self.rotation.T + self.center_mm + self.translation_mm

    def to_ct_mm(self, mr_mm: np.ndarray) -> np.ndarray:
        """MR points `(..., 3)` -> CT points."""
        rigid = (mr_mm - self.center_mm - self.translation_mm) @ self.rotation + self.center_mm
        ct = rigid
        for _ in range(3):  # d changes by less than 5 % of a distance, so three steps leave under 0.001 mm
            ct = rigid - self.bend_mm(ct)
        return ct

    def to_sitk(self) -> sitk.Transform:
        """The same as a composite of a B-spline and a rigid transform."""
        rigid = sitk.Euler3DTransform()
        rigid.SetCenter(self.center_mm.tolist())
        rigid.SetMatrix(self.rotation.ravel().tolist())
        rigid.SetTranslation(self.translation_mm.tolist())
        mesh = [n - 3 for n in self.coefficients_mm.shape[:0:-1]]
        spline = sitk.BSplineTransform(3, 3)
        spline.SetTransformDomainOrigin((self.knots_origin_mm + self.knots_step_mm).tolist())
        spline.SetTransformDomainPhysicalDimensions((self.knots_step_mm * mesh).tolist())
        spline.SetTransformDomainMeshSize(mesh)
        spline.SetParameters(self.coefficients_mm.ravel().tolist())
        return sitk.CompositeTransform([rigid, spline])  # the last one is applied first

    def record(self) -> dict:
        return {
            "rotation_deg": round(float(np.rad2deg(np.arccos((np.trace(self.rotation) - 1) / 2))), 3),
            "translation_mm": [round(float(v), 3) for v in self.translation_mm],
            "bend_at_most_mm": round(float(np.abs(self.coefficients_mm).max() * np.sqrt(3)), 3),
            "file": TRANSFORM_FILE,
        }


def _draw_mr_grid(
    sizes: SizeRange, pose: _Pose, parameters: HeadParameters, shift: _Shift, rng: np.random.Generator
) -> Grid:
    """An MR grid from the crown to the mouth, around the head as it lies in the MR scanner."""
    pixel, across = _draw(rng, sizes.mr_pixel_mm), _draw(rng, sizes.mr_slice_mm)
    extremes = shift.to_mr_mm(pose.to_world_mm(_EXTREMES_MM * parameters.scale))
    low, high = extremes.min(axis=0), extremes.max(axis=0)
    extent = np.array([*(high - low)[:2] + rng.uniform(8, 24, 2), rng.uniform(175, 200)])
    size = np.rint(extent / [pixel, pixel, across]).astype(int)
    origin = (low + high - size * [pixel, pixel, across]) / 2
    origin[2] = high[2] + rng.uniform(2, 10) - size[2] * across
    return Grid(tuple(size.tolist()), (pixel, pixel, across), tuple(np.round(origin, 3).tolist()))
