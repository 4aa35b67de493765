"""Distances of solids, and their volumes."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.phantom.shapes import biconvex, biconvex_volume_ml, capsule, ellipsoid, flat_tube, sphere, tube


def test_shapes_measure_distance():
    p = np.float32([[0, 0, 5], [0, 0, 2], [3, 0, 0]])
    np.testing.assert_allclose(sphere((0, 0, 0), 3).distance_mm(p), [2, -1, 0], atol=1e-5)
    np.testing.assert_allclose(ellipsoid((0, 0, 0), (3, 3, 3)).distance_mm(p), [2, -1, 0], atol=1e-5)
    rod = capsule((0, 0, -1), (0, 0, 1), 1)
    np.testing.assert_allclose(rod.distance_mm(p), [3, 0, 2], atol=1e-5)
    np.testing.assert_allclose(
        tube(np.float32([[0, 0, -1], [0, 0, 0], [0, 0, 1]]), 1.0).distance_mm(p), [3, 0, 2], atol=1e-4
    )
    ribbon = flat_tube(np.float32([[0, -5, 0], [0, 5, 0]]), 1.0, (1, 0, 0), 3.0)
    np.testing.assert_allclose(ribbon.distance_mm(p), [4, 1, 0], atol=1e-4)  # 3 mm wide to either side
    assert sphere((5, 0, 0), 1).mirrored().distance_mm(np.float32([-5, 0, 0])) == pytest.approx(-1)


def test_biconvex_volume_matches_its_shape():
    size = {"radius_mm": 4.9, "front_mm": 1.9, "back_mm": 2.6}
    axis = np.arange(-6, 6, 0.2, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    inside = biconvex((0, 0, 0), (0, -1, 0), **size).distance_mm(points) < 0
    assert inside.sum() * 0.2**3 / 1000 == pytest.approx(biconvex_volume_ml(**size), rel=0.02)
    # The flatter cap faces forward, towards -y.
    y = points[inside][:, 1]
    assert y.min() == pytest.approx(-1.9, abs=0.2)
    assert y.max() == pytest.approx(2.6, abs=0.25)
