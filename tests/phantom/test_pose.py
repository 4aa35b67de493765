"""Positions of the head in the CT, and of the MR relative to the CT."""

from __future__ import annotations

import numpy as np

from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.head_parameters import HeadParameters
from nnunet_ext.phantom.pose import Pose, Shift


def test_shift_equals_its_sitk_transform_and_inverts():
    rng = np.random.default_rng(3)
    grid = Grid((50, 60, 40), (4.0, 3.5, 5.0), (-110.0, -250.0, 30.0))
    shift = Shift.draw(rng, grid)
    points = rng.uniform(grid.origin_mm, grid.end_mm, (50, 3))
    moved = shift.to_mr_mm(points)
    np.testing.assert_allclose([shift.to_sitk().TransformPoint(p) for p in points.tolist()], moved, atol=1e-6)
    np.testing.assert_allclose(shift.to_ct_mm(moved), points, atol=2e-3)
    assert np.linalg.norm(shift.bend_mm(points), axis=1).max() <= 2


def test_pose_inverts():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pose = Pose.of(HeadParameters.draw(rng), rng)
        points = rng.uniform(-90, 90, (20, 3))
        np.testing.assert_allclose(pose.to_head_mm(pose.to_world_mm(points)), points, atol=1e-3)
