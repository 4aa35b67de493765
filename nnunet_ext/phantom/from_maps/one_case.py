"""One case in memory: CT, T1w and T2w of a person, with exact labels of the seven organs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.from_maps.ct import acquire_ct, find_metal
from nnunet_ext.phantom.from_maps.draws import HeadDraw
from nnunet_ext.phantom.from_maps.field_of_view import draw_grid
from nnunet_ext.phantom.from_maps.mr import MISALIGNMENT_MM, Misalignment, acquire_mr
from nnunet_ext.phantom.from_maps.person import Person
from nnunet_ext.phantom.from_maps.placing import place_organs
from nnunet_ext.phantom.from_maps.sampling import Scene, TissueSampler, divided, labels_on
from nnunet_ext.phantom.from_maps.warp import draw_warp
from nnunet_ext.phantom.one_case import Phantom, to_sitk
from nnunet_ext.phantom.pose import rotation_matrix

CONTRASTS = ("realistic", "random")


def draw_scene(
    person: Person, seed: int, case: int, draw: HeadDraw | None = None, *, deformed: bool = True
) -> tuple[Scene, HeadDraw]:
    """The head of one case, ready to be imaged, and the numbers drawn for it."""
    rng = _generators(seed, case)
    drawn = HeadDraw.draw(rng["head"])
    if draw is None:
        draw = drawn if deformed else drawn.of_the_person()
    warp = draw_warp(rng["warp"], rotation_matrix(draw.rotation_deg), deformed=deformed)
    return Scene(person, divided(person, rng["tissues"]), warp, place_organs(person, warp, draw)), draw


def make_head(
    person: Person,
    seed: int,
    case: int,
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 2.5),
    contrast: str = "realistic",
    immobilised: bool = False,
    deformed: bool = True,
    misalignment_mm: float = MISALIGNMENT_MM,
    draw: HeadDraw | None = None,
) -> Phantom:
    """One case in memory. It depends on its arguments only.

    Args:
        person: The head.
        seed: Any non-negative integer.
        case: Index of the case.
        spacing_mm: Voxel size `(x, y, z)` of all images.
        contrast: "realistic" or "random", of T1 and T2. CT is in HU in both.
        immobilised: Show couch, head rest and fixation mask in the CT.
        deformed: Turn, stretch and bend the head. Else it is the person's own, with all organs.
        misalignment_mm: Distance by which T1 and T2 may each be off the CT.
        draw: Replaces the numbers drawn for the head, to ask for a missing eye or a turn.
    """
    rng = _generators(seed, case)
    scene, draw = draw_scene(person, seed, case, draw, deformed=deformed)
    body_mm = scene.warp.to_world_mm(person.outline_mm)
    grid, cut = draw_grid(scene, body_mm, spacing_mm, immobilised=immobilised, rng=rng["grid"])
    scene = replace(scene, organs=scene.organs.fitted(grid))
    label = labels_on(scene, grid)
    metal_head = find_metal(person, rng["metal"])
    metal_mm = scene.warp.to_world_mm(metal_head) if len(metal_head) else metal_head
    ct, ct_record = acquire_ct(TissueSampler(scene, grid), body_mm, metal_mm, immobilised=immobilised, rng=rng["ct"])
    images, records = {}, {}
    centre = np.mean(scene.organs.box_mm, axis=0)
    for channel in ("T1", "T2"):
        apart = Misalignment.draw(rng[channel], centre, most_mm=misalignment_mm)
        sampler = TissueSampler(scene, grid, apart.to_ct_mm)
        images[channel], records[channel] = acquire_mr(
            sampler, channel, contrast=contrast, metal_mm=metal_mm, rng=rng[channel]
        )
        records[channel]["misalignment_mm"] = round(float(np.linalg.norm(apart.shift_mm)), 3)
    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000
    counts = np.bincount(label.ravel(), minlength=len(ORGANS) + 1)[1:]
    record = {
        "person": person.name,
        "spacing_mm": list(grid.spacing_mm),
        "size_voxels": list(grid.size_voxels),
        "head": asdict(draw),
        "bend": round(scene.warp.strength, 3),
        "cut": cut,
        "organs_ml": {n: round(float(c) * voxel_ml, 4) for n, c in zip(ORGANS, counts, strict=True)},
        "nerve_lengths_mm": [round(nerve.length_mm, 2) for nerve in scene.organs.nerves.values()],
        "CT": ct_record,
        **records,
    }
    mr = {name: to_sitk(np.clip(np.rint(image), 0, 32767).astype(np.int16), grid) for name, image in images.items()}
    ct_image = to_sitk(np.clip(np.rint(ct), -1024, 3071).astype(np.int16), grid)
    return Phantom(ct_image, mr["T1"], mr["T2"], to_sitk(label, grid), record, None)


def _generators(seed: int, case: int) -> dict[str, np.random.Generator]:
    """One per subject, so that a change to one leaves the others as they are."""
    subjects = ("head", "warp", "tissues", "grid", "metal", "ct", "T1", "T2")
    return {name: np.random.default_rng([seed, case, 100 + k]) for k, name in enumerate(subjects)}
