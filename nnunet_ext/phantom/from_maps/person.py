"""One label map of a head, checked, cleaned and put into the frame of its head.

The frame of the head is LPS in mm: x to the patient's left, y to the back, z up. Its origin is the middle of the chiasm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_erosion, binary_fill_holes, distance_transform_edt, gaussian_filter, zoom
from scipy.ndimage import label as label_pieces

from nnunet_ext.images.geometry import index_to_world
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.phantom.from_maps.cleaning import (
    extend_downwards,
    fill_from_neighbours,
    without_islands,
    without_specks,
)
from nnunet_ext.phantom.from_maps.head_frame import HeadFrame, find_frame
from nnunet_ext.phantom.from_maps.map_labels import MapLabels
from nnunet_ext.phantom.from_maps.nerve_course import nerve_course
from nnunet_ext.phantom.from_maps.tissues import AIR, CODE
from nnunet_ext.phantom.head_parameters import LEFT, SIDES

#: A map with larger voxels shows neither nerves nor chiasm.
COARSEST_MM = 2.0
#: Smaller pieces of eyes and chiasm are specks. A globe far smaller than the other one is torn.
SMALLEST_GLOBE_ML, SMALLEST_CHIASM_ML, TORN_SHARE = 2.0, 0.05, 0.7
#: Reach of orbital fat around the line from the globe to the apex of the orbit, at both ends, and in front of the globe.
ORBIT_RADIUS_MM, IN_FRONT_MM = (18.0, 6.0), 3.0
SKIN_MM = 2.0
#: The volume of the smoothed chiasm is measured on so many times finer a grid.
FINER = 3


@dataclass(frozen=True)
class Globe:
    """An eyeball of the map, as the ball of its volume."""

    centre_mm: np.ndarray
    radius_mm: float


@dataclass(frozen=True)
class ChiasmField:
    """The chiasm of the map as a smooth function, which is above `level` inside.

    Attributes:
        values: In a box around it, axes as the map's.
        start_voxels: First voxel of that box.
        level: Value at its surface.
        volume_ml: Volume it encloses, that of the labelled voxels.
    """

    values: np.ndarray
    start_voxels: np.ndarray
    level: float
    volume_ml: float


@dataclass(frozen=True)
class Person:
    """The head of a label map.

    Attributes:
        name: Of the file, without its ending.
        tissues: Tissue codes, uint8. Eyes, nerves and chiasm are replaced by what lies around them.
        frame: From the frame of the head to indices of `tissues`.
        globes: `left`, `right` -> the globe.
        nerves_mm: `left`, `right` -> course of the nerve from the centre of the globe to the chiasm, `(N, 3)`.
        chiasm: The chiasm.
        mixed: Flat indices of voxels that hold fat or muscle, outside of the orbits.
        depth_mm: How deep each of these lies under the skin, float32.
        outline_mm: Points of the head all over it, `(N, 3)`.
        cut_mm: Height of the lowest slice of the map.
    """

    name: str
    tissues: np.ndarray
    frame: HeadFrame
    globes: dict[str, Globe]
    nerves_mm: dict[str, np.ndarray]
    chiasm: ChiasmField
    mixed: np.ndarray
    depth_mm: np.ndarray
    outline_mm: np.ndarray
    cut_mm: float


def read_person(path: Path, labels: MapLabels) -> Person:
    """The head of a label map of any orientation.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no label map, a number has no meaning, its voxels are too large, or eyes or chiasm are missing.
    """
    image = read_label_map(path)
    if max(image.GetSpacing()) > COARSEST_MM:
        raise ValueError(
            f"its voxels measure {' x '.join(f'{mm:.3g}' for mm in image.GetSpacing())} mm; nerves and chiasm need "
            f"{COARSEST_MM:g} mm or less"
        )
    return make_person(Path(path).name.split(".")[0], image, labels)


def make_person(name: str, image: sitk.Image, labels: MapLabels) -> Person:
    """The head of a label map in memory. Errors as `read_person`."""
    numbers = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    to_world = index_to_world(image)
    codes = labels.codes(numbers)
    _check_organs(codes, float(np.prod(image.GetSpacing())) / 1000)
    frame = find_frame(numbers, codes == CODE["optic_chiasm"], to_world, labels)
    low, high = _box(codes != AIR, margin=6)
    codes = np.ascontiguousarray(codes[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
    codes = without_islands(without_specks(np.pad(codes, 1)))  # air all around: points outside take the nearest voxel
    frame = frame.cropped(low - 1)
    globes = _find_globes(codes, frame)
    chiasm = _chiasm_field(codes == CODE["optic_chiasm"], frame)
    nerves = _find_nerves(codes, frame, globes)
    small = np.isin(codes, [CODE[tissue] for tissue in ("eyes", "optic_nerve", "optic_chiasm")])
    codes = fill_from_neighbours(codes, small)
    mixed, depth = _divide_soft_tissue(codes, frame, globes, nerves)
    outline = frame.to_head_mm(np.argwhere(codes[::6, ::6, ::6] != AIR) * 6.0)
    codes, cut_mm = extend_downwards(codes, frame)
    return Person(name, codes, frame, globes, nerves, chiasm, mixed, depth, outline, cut_mm)


def _check_organs(codes: np.ndarray, voxel_ml: float) -> None:
    for tissue, least_ml, needed in (
        ("eyes", SMALLEST_GLOBE_ML, "an eyeball of"),
        ("optic_chiasm", SMALLEST_CHIASM_ML, "a chiasm of"),
    ):
        found_ml = float((codes == CODE[tissue]).sum()) * voxel_ml
        if found_ml < least_ml:
            amount = f"only {found_ml:.2g} mL" if found_ml else "nothing"
            raise ValueError(f"{amount} of it is {tissue}; {needed} {least_ml:g} mL is the least")


def _box(mask: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 voxel of a mask along each axis, with a margin inside the array."""
    spans = [np.flatnonzero(mask.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    low = np.array([max(int(span[0]) - margin, 0) for span in spans])
    high = np.array([min(int(span[-1]) + 1 + margin, n) for span, n in zip(spans, mask.shape, strict=True)])
    return low, high


def _find_globes(codes: np.ndarray, frame: HeadFrame) -> dict[str, Globe]:
    """The largest piece of each side. A missing or torn globe is the mirror image of the other."""
    pieces, n_pieces = label_pieces(codes == CODE["eyes"], np.ones((3, 3, 3), bool))
    sizes = np.bincount(pieces.ravel(), minlength=n_pieces + 1)
    sizes[0] = 0
    found: dict[str, Globe] = {}
    for piece in np.argsort(-sizes, kind="stable")[:4]:
        if sizes[piece] * frame.voxel_ml < SMALLEST_GLOBE_ML:
            continue
        low, high = _box(pieces == piece, margin=1)
        inside = binary_fill_holes(pieces[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == piece)
        voxels = frame.to_head_mm(np.argwhere(inside) + low)
        centre = voxels.mean(axis=0)
        side = next(side for side, sign in SIDES.items() if sign * centre[0] > 0 or side != LEFT)
        radius = (len(voxels) * frame.voxel_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
        found.setdefault(side, Globe(centre, float(radius)))
    if not found:
        raise ValueError(f"no piece of eyes has {SMALLEST_GLOBE_ML:g} mL, so there is no eyeball")
    best = max(found.values(), key=lambda globe: globe.radius_mm)
    mirrored = Globe(best.centre_mm * [-1, 1, 1], best.radius_mm)
    whole = {side: g for side, g in found.items() if g.radius_mm**3 >= TORN_SHARE * best.radius_mm**3}
    return {side: whole.get(side, mirrored) for side in SIDES}


def _chiasm_field(mask: np.ndarray, frame: HeadFrame) -> ChiasmField:
    """The largest piece, smoothed. Its surface encloses as much as the voxels do."""
    pieces, _ = label_pieces(mask, np.ones((3, 3, 3), bool))
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    low, high = _box(largest, margin=6)
    part = largest[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    smooth = gaussian_filter(part.astype(np.float32), 0.9 / frame.spacing_mm)
    volume_ml = float(part.sum()) * frame.voxel_ml
    fine = zoom(smooth, FINER, order=1, grid_mode=True, mode="nearest").ravel()
    level = float(np.partition(fine, -int(part.sum()) * FINER**3)[-int(part.sum()) * FINER**3])
    return ChiasmField(smooth, low, level, volume_ml)


def chiasm_corner(voxels_mm: np.ndarray, sign: int) -> np.ndarray:
    """Where a nerve joins the chiasm: the front of its outer part.

    Args:
        voxels_mm: Of the chiasm, `(N, 3)`, in the frame of the head.
        sign: 1 for the left side, -1 for the right one.
    """
    outward = sign * (voxels_mm[:, 0] - np.median(voxels_mm[:, 0]))
    outer = voxels_mm[outward >= np.quantile(outward, 0.7)]
    front = outer[outer[:, 1] <= np.quantile(outer[:, 1], 0.4)]
    return front.mean(axis=0)


def _find_nerves(codes: np.ndarray, frame: HeadFrame, globes: dict[str, Globe]) -> dict[str, np.ndarray]:
    chiasm = frame.to_head_mm(np.argwhere(codes == CODE["optic_chiasm"]))
    pieces = frame.to_head_mm(np.argwhere(codes == CODE["optic_nerve"]))
    middle = chiasm[:, 0].mean()
    return {
        side: nerve_course(
            pieces[sign * (pieces[:, 0] - middle) > 0],
            globes[side].centre_mm,
            chiasm_corner(chiasm, sign),
            lateral=np.array([sign, 0.0, 0.0]),
        )
        for side, sign in SIDES.items()
    }


def _divide_soft_tissue(
    codes: np.ndarray, frame: HeadFrame, globes: dict[str, Globe], nerves: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Turn mixed tissue of the orbits and the deep skin into fat, in place, and list the rest with its depth."""
    mixed = codes == CODE["fat_and_muscle"]
    for side, globe in globes.items():
        course = nerves[side]
        to_apex = course[: int(0.6 * len(course))]
        radii = np.linspace(*ORBIT_RADIUS_MM, len(to_apex))
        low, high = frame.box(np.stack([to_apex.min(axis=0) - 18, to_apex.max(axis=0) + 18]), codes.shape)
        part = codes[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        at = np.argwhere(part == CODE["fat_and_muscle"])
        points = frame.to_head_mm(at + low)
        near = np.zeros(len(points), bool)
        for centre, radius in zip(to_apex, radii, strict=True):
            from_centre = points - centre
            distance = np.linalg.norm(from_centre, axis=1)
            forward = np.clip(-from_centre[:, 1] / np.maximum(distance, 1e-6), 0, 1)
            narrowed = radius - forward * max(radius - globe.radius_mm - IN_FRONT_MM, 0)  # lids lie further in front
            near |= distance < narrowed
        part[tuple(at[near].T)] = CODE["fat"]
    skin = codes == CODE["skin"]
    if skin.any():
        deep = skin & binary_erosion(codes != AIR, iterations=max(1, round(SKIN_MM / frame.spacing_mm)), border_value=1)
        eyelids = min(globe.centre_mm[1] for globe in globes.values())
        at = np.argwhere(deep)
        head = frame.to_head_mm(at)
        front = head[:, 1] < eyelids
        near_eye = np.zeros(len(at), bool)
        for globe in globes.values():
            near_eye |= ((head - globe.centre_mm) ** 2).sum(axis=1) < 20.0**2
        codes[tuple(at[~(front & near_eye)].T)] = CODE["fat"]
        step = max(1, round(2 / frame.spacing_mm))
        to_skin = distance_transform_edt(~skin[::step, ::step, ::step]).astype(np.float32) * step * frame.spacing_mm
    mixed = np.flatnonzero(codes == CODE["fat_and_muscle"])
    if not skin.any():
        return mixed, np.full(len(mixed), 10.0, np.float32)
    i, j, k = np.unravel_index(mixed, codes.shape)
    return mixed, to_skin[i // step, j // step, k // step]
