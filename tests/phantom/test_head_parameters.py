"""Numbers drawn for a head."""

from __future__ import annotations

import numpy as np

from nnunet_ext.phantom.anatomy import build_anatomy
from nnunet_ext.phantom.head_parameters import HeadParameters


def test_drawn_heads_stay_within_the_stated_ranges():
    for seed in range(40):
        head = HeadParameters.draw(np.random.default_rng(seed))
        assert max(np.abs(head.rotation_deg)) <= 10
        assert np.linalg.norm(head.translation_mm) <= 15
        assert all(0.15 <= v <= 0.25 for v in head.lens_ml)
        assert 0.2 <= head.chiasm_ml <= 0.4
        assert all(3 <= 2 * r <= 4 for r in head.nerve_radius_mm)
        assert all(23 <= 2 * r <= 25 for r in head.globe_radius_mm)
        if seed % 8 == 0:  # the geometry takes longer than the draw
            assert all(45 <= v <= 50 for v in build_anatomy(head, np.random.default_rng(0)).nerve_lengths_mm)
