"""The cases that the starter is trained and judged on, all from label maps of real heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.phantom.from_maps.making import make_phantoms_from_maps
from nnunet_ext.phantom.from_maps.mr import MISALIGNMENT_MM


@dataclass(frozen=True)
class Rendering:
    """Views of every person that differ in what is drawn for the head only.

    Attributes:
        views: Of each person.
        spacing_mm: Voxel size `(x, y, z)`.
        contrast: Of T1 and T2, `realistic` or `random`.
        immobilised: Couch, head rest and fixation mask in the CT, which conversion takes off.
        deformed: Turned, stretched and bent.
        misalignment_mm: Distance by which T1 and T2 may each be off the CT.
    """

    views: int
    spacing_mm: tuple[float, float, float]
    contrast: str = "realistic"
    immobilised: bool = False
    deformed: bool = True
    misalignment_mm: float = MISALIGNMENT_MM


#: Of the networks' grid, `(z, y, x)`. Finer than a lens is thick, coarse enough to train on a processor.
GRID_MM = (2.0, 1.5, 1.5)
#: Slices from 1 to 7 mm. MR slots have slices of 1 to 7 mm on each of these grids too.
TRAINING = (
    Rendering(4, (1.5, 1.5, 2.0), misalignment_mm=0.0),
    Rendering(3, (1.5, 1.5, 2.0), immobilised=True),
    Rendering(4, (1.5, 1.5, 2.0), contrast="random"),
    Rendering(4, (1.5, 1.5, 2.0), contrast="random", misalignment_mm=0.0),
    Rendering(1, (1.0, 1.0, 1.0)),
    Rendering(1, (1.0, 1.0, 1.0), contrast="random"),
    Rendering(2, (0.9, 0.9, 5.0)),
    Rendering(1, (1.0, 1.0, 3.5), contrast="random"),
    Rendering(1, (1.0, 1.0, 7.0)),
    Rendering(1, (1.0, 1.0, 7.0), contrast="random"),
)
#: The people themselves, on the grids that the card has scores for. Where there is no CT, the labels are those of the MR.
JUDGED_MM = ((0.5, 0.5, 1.0), (1.0, 1.0, 2.5), (0.9, 0.9, 5.0), (1.0, 1.0, 7.0))
JUDGED = tuple(Rendering(1, spacing, deformed=False) for spacing in JUDGED_MM)
JUDGED_WITHOUT_CT = tuple(Rendering(1, spacing, deformed=False, misalignment_mm=0.0) for spacing in JUDGED_MM)
#: Turned and bent, for the sides.
TURNED = (Rendering(2, (1.0, 1.0, 2.5)),)
TRAINING_SEED, JUDGED_SEED = 31, 32


def make_renderings(
    out: Path, maps: Path, renderings: Sequence[Rendering], *, n_people: int, seed: int, n_processes: int
) -> None:
    """Make the cases of some renderings, numbered through, in one folder. Cases that exist are kept.

    Args:
        out: Folder of the cases.
        maps: Folder of label maps.
        renderings: In order.
        n_people: Number of label maps.
        seed: Of what is drawn.
        n_processes: Cases made at the same time.

    Raises:
        RuntimeError: If a label map cannot be used.
    """
    first = 0
    for rendering in renderings:
        made = make_phantoms_from_maps(
            out,
            maps,
            n_cases=rendering.views * n_people,
            first_case=first,
            seed=seed,
            spacing_mm=rendering.spacing_mm,
            contrast=rendering.contrast,
            immobilised=rendering.immobilised,
            deformed=rendering.deformed,
            misalignment_mm=rendering.misalignment_mm,
            n_processes=n_processes,
        )
        if made.failed:
            raise RuntimeError(f"label maps that cannot be used: {made.failed}")
        first += rendering.views * n_people
