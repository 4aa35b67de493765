"""The grid of a case."""

from __future__ import annotations

import numpy as np

from nnunet_ext.phantom.from_maps.field_of_view import draw_grid
from nnunet_ext.phantom.from_maps.one_case import draw_scene


def test_a_grid_may_cut_the_head_but_never_an_organ(person):
    cuts = []
    scene, _ = draw_scene(person, 1, 0)
    body = scene.warp.to_world_mm(person.outline_mm)
    low, high = scene.organs.box_mm
    for seed in range(80):
        rng = np.random.default_rng(seed)
        grid, cut = draw_grid(scene, body, (1.0, 1.0, 2.5), immobilised=False, rng=rng)
        assert grid.spacing_mm == (1.0, 1.0, 2.5)
        assert (np.asarray(grid.origin_mm) < low - 10).all()
        assert (grid.end_mm > high + 10).all()
        if cut in ("left", "right"):
            axis_end = grid.end_mm[0] if cut == "left" else grid.origin_mm[0]
            assert low[0] < body[:, 0].max()
            assert body[:, 0].min() < axis_end < body[:, 0].max()
        cuts.append(cut)
    assert 4 < sum(cut is not None for cut in cuts) < 40
    assert len(set(cuts)) >= 5
