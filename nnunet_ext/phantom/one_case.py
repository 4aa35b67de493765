"""One phantom in memory, with CT, T1w and T2w of a head and exact labels of the seven organs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.anatomy import Anatomy, build_anatomy
from nnunet_ext.phantom.ct import acquire_ct, draw_background
from nnunet_ext.phantom.grids import SIZES, Grid, draw_ct_grid, draw_mr_grid
from nnunet_ext.phantom.head_parameters import HeadParameters
from nnunet_ext.phantom.mr import acquire_mr
from nnunet_ext.phantom.painting import Painter
from nnunet_ext.phantom.pose import EXTREMES_MM, Pose, Shift, registration_error
from nnunet_ext.phantom.small_anatomy import SmallAnatomy, grow_hair
from nnunet_ext.phantom.tissues import CT, T1, T2, TISSUES, Layer


@dataclass(frozen=True)
class PhantomTruth:
    """Images that only the generator knows, to measure cleaning with. All are `(Z, Y, X)` float32.

    Attributes:
        inside: Share of every CT voxel inside the skin, air cavities included.
        immobilisation_hu: HU that couch and fixation mask add to air in the CT.
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
    """One case in memory.

    Attributes:
        ct, t1, t2: Images, int16.
        label: Label map, uint8, values in the order of `nnunet_ext.labels.organs.ORGANS`.
        record: The numbers drawn, as `phantom.json` holds it.
        mr_to_ct: Maps CT points to MR points. None if the MR is on the grid of the CT.
        truth: None if it was not asked for.
    """

    ct: sitk.Image
    t1: sitk.Image
    t2: sitk.Image
    label: sitk.Image
    record: dict
    mr_to_ct: sitk.Transform | None
    truth: PhantomTruth | None = None

    @property
    def images(self) -> dict[str, sitk.Image]:
        """Channel -> image."""
        return {"CT": self.ct, "T1": self.t1, "T2": self.t2}

    @property
    def organs(self) -> tuple[str, ...]:
        """Names in the order of the label values."""
        return tuple(ORGANS)


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
    """One case in memory, as `make_phantoms` writes it.

    Args:
        seed: Any non-negative integer.
        case: Index of the case.
        size: A key of `SIZES`.
        unregistered: Put T1 and T2 on grids of their own.
        parameters: Replaces the random head, to ask for a tumour or a missing eye.
        with_truth: Add the outline of the body, couch and mask, bias fields and tissues. The images stay the same.
        small_anatomy: Cut a gap behind each ear and nostrils into the skin, and let hair grow in the CT. All that is
            drawn else stays the same.
    """
    rng = {
        name: np.random.default_rng([seed, case, k])
        for k, name in enumerate(("head", "grid", "texture", "ct", "mr", "shift", "small anatomy"))
    }
    drawn = HeadParameters.draw(rng["head"])
    parameters = drawn if parameters is None else parameters
    small = SmallAnatomy.draw(rng["small anatomy"]) if small_anatomy else None
    anatomy = build_anatomy(parameters, rng["texture"], small)
    pose = Pose.of(parameters, rng["head"])
    extremes_mm = pose.to_world_mm(EXTREMES_MM * parameters.scale)
    grid = draw_ct_grid(SIZES[size], extremes_mm, rng["grid"])
    background = draw_background(pose, grid, rng["ct"])
    ct, label, organs_ml = acquire_ct(anatomy, pose, grid, background, rng["ct"])
    if small is not None:
        inside, _ = paint_outlines(anatomy, grid, pose.to_head_mm, background)
        z, y, x = (grid.coordinates_mm(axis) for axis in (2, 1, 0))
        voxels_mm = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], axis=-1)
        head_mm = pose.to_head_mm(voxels_mm)
        grow_hair(ct, inside >= 0.5, head_mm, spacing_mm=grid.spacing_mm[::-1], rng=rng["small anatomy"])
    record = {
        "spacing_mm": list(grid.spacing_mm),
        "size_voxels": list(grid.size_voxels),
        "head": asdict(parameters),
        "organs_ml": organs_ml,
        "nerve_lengths_mm": [round(v, 2) for v in anatomy.nerve_lengths_mm],
    }
    if unregistered:
        shift = Shift.draw(rng["shift"], grid)
        images, mr_grids, bias = {}, {}, {}

        def seen_by_mr(m: np.ndarray) -> np.ndarray:
            return pose.to_head_mm(shift.to_ct_mm(m))

        for channel, name in ((T1, "T1"), (T2, "T2")):
            mr_grids[name] = draw_mr_grid(SIZES[size], shift.to_mr_mm(extremes_mm), rng["grid"])
            (images[name],), (bias[name],) = acquire_mr(anatomy, seen_by_mr, mr_grids[name], (channel,), rng["mr"])
        record["mr_to_ct"] = shift.record()
        transform = shift.to_sitk()
    else:
        residual, record["misregistration"] = registration_error(rng["shift"])

        def seen_by_mr(m: np.ndarray) -> np.ndarray:
            return pose.to_head_mm(residual(m))

        both, fields = acquire_mr(anatomy, seen_by_mr, grid, (T1, T2), rng["mr"])
        images, mr_grids, transform = {"T1": both[0], "T2": both[1]}, {"T1": grid, "T2": grid}, None
        bias = dict(zip(("T1", "T2"), fields, strict=True))
    mr = {name: to_sitk(np.clip(np.rint(a), 0, 32767).astype(np.int16), mr_grids[name]) for name, a in images.items()}
    ct_image = to_sitk(np.clip(np.rint(ct), -1024, 3071).astype(np.int16), grid)
    truth = None
    if with_truth:
        depth = {name: mr_grids[name].size_voxels[2] for name in bias}
        shares = {g: paint_shares(anatomy, g, seen_by_mr, ("white", "grey", "muscle")) for g in mr_grids.values()}
        truth = PhantomTruth(
            *paint_outlines(anatomy, grid, pose.to_head_mm, background),
            {name: np.stack([plane(k) for k in range(depth[name])]) for name, plane in bias.items()},
            {name: shares[g] for name, g in mr_grids.items()},
        )
    return Phantom(ct_image, mr["T1"], mr["T2"], to_sitk(label, grid), record, transform, truth)


def to_sitk(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    return image


def paint_outlines(
    anatomy: Anatomy, grid: Grid, to_head_mm: Callable[[np.ndarray], np.ndarray], background_hu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Body, couch and fixation mask as a perfect cleaning of the CT would find them.

    Args:
        anatomy: The head.
        grid: The CT grid.
        to_head_mm: Maps world points to the head frame.
        background_hu: Air with the couch, as `draw_background` gives it.

    Returns:
        Share of every voxel inside the skin, and the HU that couch and fixation mask add to air. Both are
        `(Z, Y, X)` float32 and painted as the CT is.
    """
    solid = replace(anatomy, coarse=(Layer("skin", (anatomy.skin,)),))
    tissues = dict.fromkeys(TISSUES, (1.0, 0.0)) | {"mask": (0.0, TISSUES["mask"][CT] - AIR_HU)}
    background = np.concatenate([np.zeros_like(background_hu), background_hu - np.float32(AIR_HU)])
    painter = Painter(solid, grid, to_head_mm, channels=(0, 1), tissues=tissues, accessories=True)
    (inside, excess_hu), _ = painter.paint(background)
    return inside, excess_hu


def paint_shares(
    anatomy: Anatomy, grid: Grid, to_head_mm: Callable[[np.ndarray], np.ndarray], tissues: Sequence[str]
) -> dict[str, np.ndarray]:
    """Tissue -> share of every voxel it fills, `(Z, Y, X)` float32, painted as the MR is."""
    columns = dict.fromkeys(TISSUES, (0.0,) * len(tissues))
    columns |= {t: tuple(float(t == other) for other in tissues) for t in tissues}
    painter = Painter(anatomy, grid, to_head_mm, channels=range(len(tissues)), tissues=columns)
    return dict(zip(tissues, painter.paint(np.zeros((len(tissues), 1, 1)))[0], strict=True))
