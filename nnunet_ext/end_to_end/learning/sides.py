"""Left and right organs as one label, and the two sides again from where the eyes lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

#: Two pieces are the two eyes if the smaller one has at least this share of the larger one's volume,
MIN_EYE_SHARE = 0.25
#: and if they lie at least so far apart from left to right. Pupils of adults are 50 to 75 mm apart.
MIN_EYE_DISTANCE_MM = 30.0
LEFT, RIGHT = "_L", "_R"


def one_side(organ: str) -> str:
    """The name of an organ without its side."""
    return organ[: -len(LEFT)] if organ.endswith((LEFT, RIGHT)) else organ


def merged_labels(labels: Mapping[str, int]) -> dict[str, int]:
    """Labels with one value for the left and the right organ, in the order of the given ones."""
    names = dict.fromkeys(one_side(organ) for organ in sorted(labels, key=lambda organ: labels[organ]))
    return {name: value for value, name in enumerate(names)}


def merge_sides(label_map: np.ndarray, labels: Mapping[str, int]) -> np.ndarray:
    """A label map with the values of `merged_labels`. Same shape, uint8."""
    merged = merged_labels(labels)
    table = np.zeros(max(labels.values()) + 1, np.uint8)
    for organ, value in labels.items():
        table[value] = merged[one_side(organ)]
    return table[label_map]


def split_sides(prediction: sitk.Image, labels: Mapping[str, int], *, middle_mm: float) -> sitk.Image:
    """A merged label map with left and right organs again.

    The sides are told by the plane half-way between the two eyes that the label map holds, at right angles to the line
    through them. Without two eyes it is the sagittal plane through the middle of the head.

    Args:
        prediction: With the values of `merged_labels(labels)`.
        labels: Organ -> value, with `Eye_L` and `Eye_R`.
        middle_mm: Position of the middle of the head along the patient's left-right axis (LPS), in mm.
    """
    merged = merged_labels(labels)
    array = sitk.GetArrayFromImage(prediction)
    eyes = _eye_centres_mm(array == merged[one_side("Eye_L")], prediction)
    if eyes is None:
        point, normal = np.array([middle_mm, 0.0, 0.0]), np.array([1.0, 0.0, 0.0])
    else:
        left, right = eyes
        point, normal = (left + right) / 2, left - right
    result = np.zeros_like(array)
    for name, value in merged.items():
        where = np.argwhere(array == value)
        if not value or not len(where):
            continue
        if name in labels:
            result[tuple(where.T)] = labels[name]
            continue
        is_left = (_world_mm(where, prediction) - point) @ normal > 0
        result[tuple(where[is_left].T)] = labels[name + LEFT]
        result[tuple(where[~is_left].T)] = labels[name + RIGHT]
    image = sitk.GetImageFromArray(result)
    image.CopyInformation(prediction)
    return image


def middle_of(body: np.ndarray, grid: sitk.Image) -> float:
    """Position of the middle of a head along the patient's left-right axis (LPS), in mm.

    Args:
        body: Bool, shape `(Z, Y, X)`. If it holds nothing, it is the middle of the image.
        grid: An image on the same voxels.
    """
    where = np.argwhere(body) if body.any() else np.array([[0, 0, 0], np.subtract(body.shape, 1)])
    x = _world_mm(where, grid)[:, 0]
    return float((x.min() + x.max()) / 2)


def _world_mm(index: np.ndarray, grid: sitk.Image) -> np.ndarray:
    """Centres of voxels, given as `(N, 3)` along `(Z, Y, X)`, as `(N, 3)` in mm along x, y, z (LPS)."""
    direction = np.reshape(grid.GetDirection(), (3, 3))
    return index[:, ::-1] * np.array(grid.GetSpacing()) @ direction.T + np.array(grid.GetOrigin())


def _eye_centres_mm(eyes: np.ndarray, grid: sitk.Image) -> Sequence[np.ndarray] | None:
    """Centres of the left and the right eye, or None if there are not two."""
    pieces, n = ndimage.label(eyes, np.ones((3, 3, 3)))
    if n < 2:
        return None
    sizes = np.bincount(pieces.ravel())[1:]
    second, first = np.argsort(sizes)[-2:]
    if sizes[second] < MIN_EYE_SHARE * sizes[first]:
        return None
    centres = [_world_mm(np.argwhere(pieces == piece + 1), grid).mean(0) for piece in (first, second)]
    right, left = sorted(centres, key=lambda centre: centre[0])
    return (left, right) if left[0] - right[0] >= MIN_EYE_DISTANCE_MM else None
