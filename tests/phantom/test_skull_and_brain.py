"""Tumours of the brain, and metal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnunet_ext.phantom.skull_and_brain import brain_tumour, metal_parts


def test_a_tumour_of_the_brain_keeps_its_distance_from_the_chiasm(head):
    for seed in range(20):
        oedema, *_ = brain_tumour(head, np.random.default_rng(seed))
        lowest_mm = oedema.shapes[0].low_mm[2]
        assert lowest_mm > head.chiasm_center_mm[2]


def test_metal_is_a_clip_or_one_to_three_fillings(head):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert metal_parts(replace(head, streaks="clip"), rng).shape == (1, 3)
        fillings_mm = metal_parts(replace(head, streaks="dental"), rng)
        assert 1 <= len(fillings_mm) <= 3
        assert (fillings_mm[:, 2] < -50).all()
    assert metal_parts(head, np.random.default_rng(0)).shape == (0, 3)
