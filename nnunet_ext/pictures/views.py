"""Slices that show the organs well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.labels.pairs import pair_names
from nnunet_ext.labels.sides import side_of
from nnunet_ext.labels.values import organ_values

#: Plane -> (array axis it cuts, letters at the left, right, top and bottom edge of the picture).
PLANES = {"axial": (0, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (2, "APSI")}


@dataclass(frozen=True)
class View:
    """One row of pictures. It is a slice of the LPS volume, by its voxel index along the axis that the plane cuts."""

    plane: str
    index: int
    shows: str  # the organ that the slice was chosen for
    organs: tuple[str, ...] = ()  # its left and right, or itself


def slice_picture(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """A slice as it is shown, first row on top, from an LPS volume of shape `(Z, Y, X)`.

    Axial slices have anterior on top and the patient's right on the left. Coronal slices have superior on top and the
    patient's right on the left. Sagittal slices have superior on top and anterior on the left.
    """
    picture = np.take(volume, index, axis=PLANES[plane][0])
    return picture if plane == "axial" else picture[::-1]


def picture_spacing_mm(spacing_mm: Sequence[float], plane: str) -> tuple[float, float]:
    """Row and column spacing of a `slice_picture`, from the volume's spacing along `(Z, Y, X)`."""
    rows, columns = (s for axis, s in enumerate(spacing_mm) if axis != PLANES[plane][0])
    return float(rows), float(columns)


def choose_views(
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    labels: Mapping[str, int],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[View]:
    """Axial slices near the lenses and near the chiasm, and the coronal slice near the chiasm.

    If no organ is called lens or chiasm, the smallest organ not yet shown takes its place. Left and right share a slice if
    one shows at least half the largest area of each. A tilted head gets one slice per side. Areas are those of the
    reference, or of the prediction for an organ that the reference lacks. Without any organ, the slices are the middle ones.

    Args:
        reference: LPS label map, shape `(Z, Y, X)`, or None.
        prediction: The same for the prediction.
        labels: Organ -> label value.
        pairs: Left and right organs. None finds them by name.
    """
    pairs = pair_names(labels).pairs if pairs is None else pairs
    both = {organ: _both_sides(*pair) for pair in pairs for organ in pair}
    given = [m for m in (reference, prediction) if m is not None]
    masks: dict[str, dict[str, np.ndarray]] = {}  # lens -> {Lens_L: mask, Lens_R: mask}
    for organ, values in organ_values(labels).items():
        mask = next((found for found in (np.isin(m, values) for m in given) if found.any()), None)
        if mask is not None:
            masks.setdefault(both.get(organ, organ), {})[organ] = mask
    if not masks:
        return [View(plane, given[0].shape[PLANES[plane][0]] // 2, "no organ") for plane in ("axial", "coronal")]

    by_size = sorted(masks, key=lambda name: sum(int(mask.sum()) for mask in masks[name].values()))
    chosen = [name for word in ("lens", "chiasm") for name in by_size if word in name.lower()][:2]
    chosen += [name for name in by_size if name not in chosen][: 2 - len(chosen)]
    views = [view for name in chosen for view in _slices_through(masks[name], name, "axial")]
    return views + _slices_through(masks[chosen[-1]], chosen[-1], "coronal")


def _both_sides(left: str, right: str) -> str:
    """Name of a pair, which is that of the left one without its side."""
    side = side_of(left)
    return f"{left}, {right}" if side is None else side.stem or f"{left}, {right}"


def _slices_through(masks: Mapping[str, np.ndarray], name: str, plane: str) -> list[View]:
    """One slice that shows all the masks well, or one for each."""
    others = tuple(axis for axis in range(3) if axis != PLANES[plane][0])
    areas = {organ: mask.sum(axis=others) for organ, mask in masks.items()}
    shown = np.min(
        [area / area.max() for area in areas.values()], axis=0
    )  # share of its largest area, the worst organ's
    if shown.max() >= 0.5:
        return [View(plane, int(shown.argmax()), name, tuple(masks))]
    return [View(plane, int(area.argmax()), organ, (organ,)) for organ, area in areas.items()]
