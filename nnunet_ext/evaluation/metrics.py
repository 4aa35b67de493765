"""The scores in our tables: DSC, HD95, surface dice, mean surface distance, volume difference.

All functions compare two bool masks of one organ, shape `(Z, Y, X)`, with `spacing_mm` in the same axis order. The same
rule holds for all of them when a mask is empty:

| reference | prediction | called | DSC | both HD95, mean surface distance | surface dice | volume difference in % |
|---|---|---|---|---|---|---|
| present | present | `scored` | computed | computed | computed | computed |
| present | empty | `missed` | 0 | the image diagonal | 0 | -100 |
| empty | present | `invented` | 0 | the image diagonal | 0 | NaN: of what? |
| empty | empty | `left_out` | NaN | NaN | NaN | NaN |

A finite worst distance keeps a missed organ in the mean. Leaving it out would reward the network that misses it. An invented
organ costs the same, because no voxel of it is right.

Surface distances come from google-deepmind's `surface-distance` (checked against 0.1 and its source). Its surface
elements sit on voxel CORNERS and carry the area of the surface that passes there. So a voxel has 8 elements. Two single
1 mm voxels whose centres are 2 mm apart have distances of 1 and 2 mm, not 2 mm throughout. Outside the image counts as
outside the organ, so a mask that is cut off by the image border has a surface there.

`plain_hd95_mm` counts border voxels instead, each once. It is the one to hold against published values, as
`docs/reference/scores.md` explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import ndimage
from surface_distance import compute_robust_hausdorff, compute_surface_dice_at_tolerance, compute_surface_distances

from nnunet_ext.labels.organs import normalise_name
from nnunet_ext.labels.sides import organ_word

#: Keys of `score_organ`, in the order of our tables.
METRICS = (
    "dsc_percent",
    "hd95_mm",
    "plain_hd95_mm",
    "surface_dice",
    "mean_surface_distance_mm",
    "reference_ml",
    "prediction_ml",
    "volume_difference_ml",
    "volume_difference_percent",
)

#: Tolerances of the surface dice in mm, by TG-263 name without its side. They say how far experts lie apart on CT, from
#: Nikolov et al. 2021, doi:10.2196/26151. The paper has no chiasm, which gets the tolerance of its nerves.
TOLERANCES_MM = {
    "Eye": 1.65,
    "Lens": 0.98,
    "OpticNrv": 2.50,
    "OpticChiasm": 2.50,
    "Brain": 1.01,
    "Brainstem": 2.50,
    "Cochlea": 1.25,
    "Glnd_Lacrimal": 2.50,
    "Bone_Mandible": 1.01,
    "Parotid": 2.85,
    "SpinalCord": 2.93,
    "Glnd_Submand": 2.02,
}
#: Tolerance of every organ that is not in the table.
OTHER_TOLERANCE_MM = 1.0


def tolerance_mm_of(organ: str) -> float:
    """Tolerance of the surface dice for an organ (`Lens_L`), in mm: `TOLERANCES_MM`, else `OTHER_TOLERANCE_MM`.

    The side, capitals and other spellings that the package knows do not matter: `left_eye` has the tolerance of `Eye`.
    """
    known = {normalise_name(name): mm for name, mm in TOLERANCES_MM.items()}
    return known.get(normalise_name(organ_word(organ)), OTHER_TOLERANCE_MM)


def presence(reference: np.ndarray, prediction: np.ndarray) -> Literal["scored", "missed", "invented", "left_out"]:
    """`scored`, `missed`, `invented` or `left_out`: which of the two masks hold a voxel (table above)."""
    if reference.any():
        return "scored" if prediction.any() else "missed"
    return "invented" if prediction.any() else "left_out"


def dice_percent(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Dice similarity coefficient (DSC): shared volume over the mean of both volumes, in percent.

    Args:
        reference: Bool mask, shape `(Z, Y, X)`.
        prediction: Bool mask, same shape as `reference`.

    Returns:
        Value in [0, 100]. NaN if both masks are empty, 0.0 if only one is.

    Raises:
        ValueError: If a mask is not bool, not 3D, or the shapes differ.
    """
    _check(reference, prediction)
    voxels = np.count_nonzero(reference) + np.count_nonzero(prediction)
    return 200.0 * np.count_nonzero(reference & prediction) / voxels if voxels else float("nan")


def hd95_mm(
    reference: np.ndarray, prediction: np.ndarray, *, spacing_mm: Sequence[float], worst_mm: float | None = None
) -> float:
    """95 % Hausdorff distance: the larger of the two directed 95th percentiles of the surface distances.

    A directed percentile is the distance within which 95 % of the AREA of one surface lies from the other surface.
    Tools that take one percentile over both directions together report other values, and so does `plain_hd95_mm`.

    Args:
        reference: Bool mask, shape `(Z, Y, X)`.
        prediction: Bool mask, same shape as `reference`.
        spacing_mm: Voxel size along `(Z, Y, X)`, in mm.
        worst_mm: Value when one mask is empty. None stands for the diagonal of the arrays given. If the masks are crops,
            pass the diagonal of the whole image.

    Returns:
        Distance in mm. NaN if both masks are empty, `worst_mm` if only one is.

    Raises:
        ValueError: If a mask is not bool, the shapes differ or a spacing is not positive.

    Source:
        surface-distance `compute_robust_hausdorff`, which takes the maximum of the two directions.
    """
    return score_organ(reference, prediction, spacing_mm=spacing_mm, worst_mm=worst_mm)["hd95_mm"]


def plain_hd95_mm(
    reference: np.ndarray, prediction: np.ndarray, *, spacing_mm: Sequence[float], worst_mm: float | None = None
) -> float:
    """95 % Hausdorff distance of border voxels: the larger of the two directed 95th percentiles, without interpolation.

    A border voxel belongs to the mask, and one of its six neighbours does not. Outside the image nothing does. Distances
    lead from the centre of a border voxel to the nearest centre of the other mask's border voxels. Of K sorted distances,
    a directed percentile is number ceil(0.95 K).

    Arguments, empty masks and errors as in `hd95_mm`.

    Source:
        The reference study gives an HD95 without saying of which points. This is the plainest reading of it, and ours.
    """
    return score_organ(reference, prediction, spacing_mm=spacing_mm, worst_mm=worst_mm)["plain_hd95_mm"]


def surface_dice(
    reference: np.ndarray, prediction: np.ndarray, *, spacing_mm: Sequence[float], tolerance_mm: float
) -> float:
    """Fraction of the two surfaces that lie within a tolerance of each other.

    Args:
        reference: Bool mask, shape `(Z, Y, X)`.
        prediction: Bool mask, same shape as `reference`.
        spacing_mm: Voxel size along `(Z, Y, X)`, in mm.
        tolerance_mm: Largest surface distance, in mm, that counts as agreement.

    Returns:
        Value in [0, 1]. NaN if both masks are empty, 0.0 if only one is.

    Raises:
        ValueError: If a mask is not bool, the shapes differ, a spacing is not positive or the tolerance is negative.

    Source:
        Nikolov et al. 2021, doi:10.2196/26151. Surface area is counted per surface
        element, not per border voxel, so values differ from voxel-counting tools.
    """
    return score_organ(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)["surface_dice"]


def mean_surface_distance_mm(
    reference: np.ndarray, prediction: np.ndarray, *, spacing_mm: Sequence[float], worst_mm: float | None = None
) -> float:
    """Mean distance of both surfaces to the other one, weighted by area, both directions in one mean.

    Arguments, empty masks and errors as in `hd95_mm`.
    """
    return score_organ(reference, prediction, spacing_mm=spacing_mm, worst_mm=worst_mm)["mean_surface_distance_mm"]


def volume_difference_ml(reference: np.ndarray, prediction: np.ndarray, *, spacing_mm: Sequence[float]) -> float:
    """Volume of the prediction minus volume of the reference, in mL. Positive if the prediction is larger.

    Args:
        reference: Bool mask, shape `(Z, Y, X)`.
        prediction: Bool mask, same shape as `reference`.
        spacing_mm: Voxel size along `(Z, Y, X)`, in mm.

    Returns:
        Difference in mL. 0.0 if both masks are empty.

    Raises:
        ValueError: If a mask is not bool, the shapes differ or a spacing is not positive.
    """
    _check(reference, prediction, spacing_mm)
    return (np.count_nonzero(prediction) - np.count_nonzero(reference)) * _voxel_ml(spacing_mm)


def volume_difference_percent(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Volume of the prediction minus volume of the reference, in percent of the reference's. NaN without a reference.

    Raises:
        ValueError: If a mask is not bool, not 3D, or the shapes differ.
    """
    _check(reference, prediction)
    n_reference = np.count_nonzero(reference)
    return 100.0 * (np.count_nonzero(prediction) / n_reference - 1.0) if n_reference else float("nan")


def score_organ(
    reference: np.ndarray,
    prediction: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
    worst_mm: float | None = None,
) -> dict[str, float]:
    """Every metric of one organ, with the surface distances computed once, on the joint bounding box.

    Args:
        reference: Bool mask, shape `(Z, Y, X)`.
        prediction: Bool mask, same shape as `reference`.
        spacing_mm: Voxel size along `(Z, Y, X)`, in mm.
        tolerance_mm: Largest surface distance, in mm, that counts as agreement in `surface_dice`.
        worst_mm: Distance reported when one mask is empty. None stands for the diagonal of the arrays given.

    Returns:
        `METRICS` -> value. Volumes in mL are numbers even if the other metrics are NaN.

    Raises:
        ValueError: If a mask is not bool, the shapes differ, a spacing is not positive or the tolerance is negative.
    """
    _check(reference, prediction, spacing_mm)
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance_mm is {tolerance_mm}; give a distance of 0 mm or more.")
    if worst_mm is None:
        worst_mm = image_diagonal_mm(reference.shape, spacing_mm)
    volumes = {
        "reference_ml": np.count_nonzero(reference) * _voxel_ml(spacing_mm),
        "prediction_ml": np.count_nonzero(prediction) * _voxel_ml(spacing_mm),
        "volume_difference_ml": volume_difference_ml(reference, prediction, spacing_mm=spacing_mm),
        "volume_difference_percent": volume_difference_percent(reference, prediction),
    }
    found = presence(reference, prediction)
    if found != "scored":
        nothing = found == "left_out"
        distance, overlap = (float("nan"), float("nan")) if nothing else (float(worst_mm), 0.0)
        return {
            "dsc_percent": overlap,
            "hd95_mm": distance,
            "plain_hd95_mm": distance,
            "surface_dice": overlap,
            "mean_surface_distance_mm": distance,
            **volumes,
        }

    box = joint_bounding_box(reference, prediction)
    reference, prediction = reference[box], prediction[box]
    # Never with an empty mask: the library then asks NumPy for `np.Inf`, which NumPy 2 no longer has.
    surfaces = compute_surface_distances(reference, prediction, tuple(float(s) for s in spacing_mm))
    return {
        "dsc_percent": dice_percent(reference, prediction),
        "hd95_mm": float(compute_robust_hausdorff(surfaces, 95)),
        "plain_hd95_mm": _plain_hd95_mm(reference, prediction, spacing_mm),
        "surface_dice": float(compute_surface_dice_at_tolerance(surfaces, tolerance_mm)),
        "mean_surface_distance_mm": _mean_over_both_surfaces(surfaces),
        **volumes,
    }


def image_diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length of the diagonal of an image, outer voxel edge to outer voxel edge, in mm. No HD95 can be larger."""
    return float(np.linalg.norm(np.multiply(shape, spacing_mm)))


def joint_bounding_box(reference: np.ndarray, prediction: np.ndarray) -> tuple[slice, ...]:
    """Smallest box that holds both masks, with one voxel more on each side if the image has one.

    Raises:
        ValueError: If both masks are empty.
    """
    either = reference | prediction
    box = []
    for axis in range(either.ndim):
        filled = np.flatnonzero(either.any(axis=tuple(a for a in range(either.ndim) if a != axis)))
        if not len(filled):
            raise ValueError("both masks are empty, so they have no bounding box.")
        box.append(slice(max(int(filled[0]) - 1, 0), int(filled[-1]) + 2))
    return tuple(box)


def _plain_hd95_mm(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> float:
    borders = [
        mask & ~ndimage.binary_erosion(mask) for mask in (reference, prediction)
    ]  # six neighbours is its default
    return max(
        # "inverted_cdf" takes the element ceil(0.95 K) of the sorted distances.
        float(np.percentile(_distances_mm(a, b, spacing_mm), 95, method="inverted_cdf"))
        for a, b in (borders, borders[::-1])
    )


def _distances_mm(from_border: np.ndarray, to_border: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance of each voxel of one border to the nearest one of the other."""
    return ndimage.distance_transform_edt(~to_border, sampling=spacing_mm)[from_border]


def _mean_over_both_surfaces(surfaces: dict[str, np.ndarray]) -> float:
    distances = np.concatenate([surfaces["distances_gt_to_pred"], surfaces["distances_pred_to_gt"]])
    areas = np.concatenate([surfaces["surfel_areas_gt"], surfaces["surfel_areas_pred"]])
    return float(np.average(distances, weights=areas))


def _voxel_ml(spacing_mm: Sequence[float]) -> float:
    return float(np.prod(spacing_mm)) / 1000.0  # 1 mL = 1000 mm^3


def _check(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float] | None = None) -> None:
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if mask.dtype != bool:
            raise ValueError(f"{name} has dtype {mask.dtype}; pass a bool mask, e.g. `labels == 3`.")
        if mask.ndim != 3:
            raise ValueError(f"{name} has shape {mask.shape}; pass a mask of shape (Z, Y, X).")
    if reference.shape != prediction.shape:
        raise ValueError(f"reference has shape {reference.shape}, prediction {prediction.shape}; put both on one grid.")
    if spacing_mm is not None and (len(spacing_mm) != 3 or not all(0 < s < np.inf for s in spacing_mm)):
        raise ValueError(f"spacing_mm is {tuple(spacing_mm)}; give three positive numbers, along (Z, Y, X).")
