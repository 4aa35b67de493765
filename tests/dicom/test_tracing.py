"""Polygons along the edges of voxels."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from nnunet_ext.dicom.rasterising import fill_polygon
from nnunet_ext.dicom.smoothing import signed_area
from nnunet_ext.dicom.tracing import trace_mask


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.booleans()))
def test_each_piece_is_one_polygon_that_holds_its_pixels_and_no_others(mask: np.ndarray):
    image = sitk.Image([*mask.shape[::-1], 1], sitk.sitkUInt8)
    polygons = [points[:, :2] for points in trace_mask(mask[None], image)]
    filled = [fill_polygon(points, mask.shape) for points in polygons]
    np.testing.assert_array_equal(np.sum(filled, axis=0) if filled else np.zeros(mask.shape), mask)
    assert len(polygons) == ndimage.label(mask)[1]  # pieces joined by edges; their holes need no polygon
    for points in polygons:
        step = np.roll(points, -1, axis=0) - points
        assert np.all((step == 0).sum(axis=1) == 1)  # along the edges, and never straight on
        assert np.all(np.any(np.sign(step) != np.sign(np.roll(step, 1, axis=0)), axis=1))


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.booleans()))
def test_smooth_polygons_hold_the_same_pixels_and_the_same_area(mask: np.ndarray):
    image = sitk.Image([*mask.shape[::-1], 1], sitk.sitkUInt8)
    rough, smooth = ([p[:, :2] for p in trace_mask(mask[None], image, smooth=way)] for way in (False, True))
    filled = [fill_polygon(points, mask.shape) for points in smooth]
    np.testing.assert_array_equal(np.sum(filled, axis=0) if filled else np.zeros(mask.shape), mask)
    for one, other in zip(rough, smooth, strict=True):
        assert abs(signed_area(other) / signed_area(one) - 1) < 0.01


def test_a_stair_becomes_a_line_and_a_keyhole_stays():
    stair = np.tri(20, dtype=bool)[::-1]
    ring = np.ones((5, 6), bool)
    ring[2, 2:4] = False
    image = sitk.Image([20, 20, 1], sitk.sitkUInt8)
    ((rough,), (smooth,)) = (trace_mask(stair[None], image, smooth=way) for way in (False, True))
    middle = smooth[(smooth[:, 0] > 4) & (smooth[:, 0] < 15) & (smooth[:, 1] > 4) & (smooth[:, 1] < 15)]
    off = middle[:, :2].sum(axis=1) - middle[:, :2].sum(axis=1).mean()
    assert len(middle) > 10
    assert np.abs(off).max() < 0.12  # half a voxel for the stair
    assert not np.isin(smooth, rough).all()
    small = sitk.Image([6, 5, 1], sitk.sitkUInt8)
    np.testing.assert_array_equal(trace_mask(ring[None], small, smooth=True), trace_mask(ring[None], small))
