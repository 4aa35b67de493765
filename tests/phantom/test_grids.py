"""Grids of CT and MR."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.phantom.grids import SIZES, Grid, draw_ct_grid, draw_mr_grid
from nnunet_ext.phantom.head_parameters import HeadParameters
from nnunet_ext.phantom.pose import EXTREMES_MM, Pose


def test_the_whole_head_is_in_the_grid_of_the_ct():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        head = HeadParameters.draw(rng)
        pose = Pose.of(head, rng)
        for sizes in SIZES.values():
            grid = draw_ct_grid(sizes, pose.to_world_mm(EXTREMES_MM * head.scale), rng)
            crown = pose.to_world_mm(np.array([0, 8, 117.0]) * head.scale)
            assert (crown > grid.origin_mm).all()
            assert (crown < grid.end_mm).all()


def test_the_grid_of_the_mr_reaches_from_the_crown_down_and_around_the_head():
    extremes_mm = np.array([[-80.0, 0, 0], [80, 0, 0], [0, -110, -30], [0, 100, 40], [0, 10, 120]])
    for seed in range(5):
        grid = draw_mr_grid(SIZES["small"], extremes_mm, np.random.default_rng(seed))
        low_mm, high_mm = np.asarray(grid.origin_mm), grid.end_mm
        assert (low_mm[:2] < [-80, -110]).all()
        assert (high_mm[:2] > [80, 100]).all()
        assert high_mm[2] == pytest.approx(120, abs=10)
        assert 170 < high_mm[2] - low_mm[2] < 205


def test_coordinates_of_a_grid_are_voxel_centres():
    grid = Grid((3, 2, 2), (0.5, 2.0, 4.0), (-10.0, 5.0, 30.0))
    np.testing.assert_allclose(grid.coordinates_mm(0), [-10, -9.5, -9])
    np.testing.assert_allclose(grid.end_mm, [-9, 7, 34])
