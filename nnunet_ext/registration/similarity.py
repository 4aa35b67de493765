"""How well two images agree: mutual information, edges, overlap."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.images.displacements import looked_up
from nnunet_ext.registration.volumes import ELASTIC_MM, Source, Target, shrunk_image

BINS = 32
#: The strongest tenth of gradients counts as edges.
EDGE_SHARE = 0.1


def mutual_information(a: np.ndarray, b: np.ndarray, *, bins: int = BINS) -> float:
    """Mutual information of two arrays of paired values in nats; 0 where one of them is constant.

    Bins are of equal width between the 1st and 99th percentile; values beyond fall into the first and last bin.
    """
    index = []
    for values in (a, b):
        low, high = np.percentile(values, (1, 99)) if values.size else (0.0, 0.0)
        if not high > low:
            return 0.0
        index.append(np.clip(((values - low) * (bins / (high - low))).astype(int), 0, bins - 1))
    joint = np.bincount(index[0] * bins + index[1], minlength=bins * bins).reshape(bins, bins) / index[0].size
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    used = joint > 0
    return float(np.sum(joint[used] * np.log(joint[used] / product[used])))


def information_of(target: Target, source: Source, transform: sitk.Transform, where: np.ndarray) -> float:
    values, _ = on_judging_grid(target, source, transform)
    return mutual_information(sitk.GetArrayViewFromImage(target.grid)[where], values[where])


def on_judging_grid(target: Target, source: Source, transform: sitk.Transform) -> tuple[np.ndarray, np.ndarray]:
    """Moving values on the judging grid, and which of its voxels the moving image's field of view holds."""
    outside, smooth = source.outside, shrunk_image(source, ELASTIC_MM)
    at_voxels = looked_up(transform, target.grid)
    values = sitk.GetArrayFromImage(sitk.Resample(smooth, target.grid, at_voxels, sitk.sitkLinear, outside))
    inside = values > outside
    return np.where(inside, values, outside + 1.0), inside


def edges_of(values: np.ndarray, head: np.ndarray) -> np.ndarray:
    strength = ndimage.gaussian_gradient_magnitude(values.astype(np.float32), 0.7)
    return head & (strength >= np.quantile(strength[head], 1 - EDGE_SHARE))


def overlap_of(view: tuple[np.ndarray, np.ndarray], fixed_edges: np.ndarray, inside: np.ndarray) -> float:
    values, in_view = view
    seen = inside & ndimage.binary_erosion(in_view)  # the border of the field of view is no edge of the head
    if not seen.any():
        return 0.0
    edges = edges_of(values, seen)
    both = np.count_nonzero(edges & fixed_edges)
    return float(2 * both / max(1, int(np.count_nonzero(edges)) + int(np.count_nonzero(fixed_edges))))
