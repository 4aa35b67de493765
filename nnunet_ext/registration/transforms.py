"""Transforms chained, averaged and applied to points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk


def points_of(grid: sitk.Image, mask: np.ndarray, most: int = 500) -> np.ndarray:
    index = np.argwhere(mask)
    index = index[:: max(1, len(index) // most)]
    return np.array([grid.TransformContinuousIndexToPhysicalPoint([float(v) for v in zyx[::-1]]) for zyx in index])


def apply(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in values.items()}


def chained(last: sitk.Transform, first: sitk.Transform) -> sitk.Transform:
    """`first`, then `last`, without needless identities."""
    if "Identity" in last.GetName():
        return first
    chain = sitk.CompositeTransform([last, first])
    chain.FlattenTransform()  # a file cannot hold a chain inside a chain
    return chain


def as_euler(transform: sitk.Transform, center_mm: np.ndarray) -> sitk.Euler3DTransform:
    """A rigid transform about a given centre."""
    origin = np.asarray(transform.TransformPoint(center_mm.tolist()))
    axes = np.column_stack(
        [np.asarray(transform.TransformPoint((center_mm + 100.0 * e).tolist())) - origin for e in np.eye(3)]
    )
    u, _, vt = np.linalg.svd(axes)
    result = sitk.Euler3DTransform()
    result.SetCenter(center_mm.tolist())
    result.SetMatrix((u @ vt).ravel().tolist(), 1e-8)
    result.SetTranslation((origin - center_mm).tolist())
    return result


def mean_euler(transforms: Sequence[sitk.Euler3DTransform]) -> sitk.Euler3DTransform:
    """Mean of rigid transforms about one centre that differ by little."""
    result = sitk.Euler3DTransform(transforms[0])
    u, _, vt = np.linalg.svd(np.mean([np.reshape(t.GetMatrix(), (3, 3)) for t in transforms], axis=0))
    result.SetMatrix((u @ vt).ravel().tolist(), 1e-8)
    result.SetTranslation(np.mean([t.GetTranslation() for t in transforms], axis=0).tolist())
    return result
