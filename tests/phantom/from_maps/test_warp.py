"""The warp of a head folds nothing and can be undone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_ext.phantom.from_maps.draws import MOST_TURNED_DEG, HeadDraw
from nnunet_ext.phantom.from_maps.warp import Bend, draw_warp, unfolded
from nnunet_ext.phantom.pose import rotation_matrix
from nnunet_ext.phantom.waves import Waves


def voxels_mm(spacing: float = 4.0) -> np.ndarray:
    axes = [np.arange(low, high, spacing) for low, high in ((-110, 110), (-130, 130), (-120, 120))]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


@pytest.mark.parametrize("seed", range(12))
def test_volumes_change_by_less_than_five_times_at_every_voxel(seed):
    rng = np.random.default_rng(seed)
    warp = draw_warp(rng, rotation_matrix(HeadDraw.draw(rng).rotation_deg))
    jacobian = warp.jacobian(voxels_mm() + warp.translation_mm)
    assert jacobian.min() > 0.2
    assert jacobian.max() < 5


def test_a_bend_that_would_fold_is_weakened():
    rng = np.random.default_rng(0)
    waves = tuple(Waves.draw(rng, (20, 30), 4) for _ in range(3))
    wild = replace(draw_warp(rng, np.eye(3)), bends=(Bend(waves, 9.0),), strength=1.0)
    points = voxels_mm() + wild.translation_mm
    assert wild.jacobian(points).min() < 0
    tamed = unfolded(wild)
    assert 0 < tamed.strength < 1
    assert tamed.jacobian(points).min() > 0.2


def test_points_go_to_the_image_and_back():
    rng = np.random.default_rng(3)
    warp = draw_warp(rng, rotation_matrix((20, -10, 8)))
    head = rng.uniform(-100, 100, (500, 3))
    np.testing.assert_allclose(warp.to_head_mm(warp.to_world_mm(head)), head, atol=2e-3)


def test_heads_turn_by_up_to_25_degrees():
    turns = [np.linalg.norm(HeadDraw.draw(np.random.default_rng(seed)).rotation_deg) for seed in range(300)]
    assert max(turns) <= MOST_TURNED_DEG == 25
    assert max(turns) > 20
