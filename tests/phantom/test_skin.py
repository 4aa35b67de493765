"""The skin, and the fixation mask on it."""

from __future__ import annotations

import numpy as np

from nnunet_ext.phantom.skin import skin_surface


def test_the_fixation_mask_lies_on_the_skin(anatomy):
    (mask,) = anatomy.accessories
    points = np.random.default_rng(0).uniform((-90, -115, -90), (90, 20, 110), (400_000, 3)).astype(np.float32)
    sheet = mask.combine(*(shape.distance_mm(points) for shape in mask.shapes)) < 0
    assert sheet.sum() > 100
    above_skin_mm = anatomy.skin.distance_mm(points[sheet])
    assert above_skin_mm.min() > -0.01
    assert above_skin_mm.max() < 6.1  # a gap of 3 mm and a sheet of 3 mm


def test_the_nose_lies_in_front_and_the_ears_beside_the_head(head):
    skin = skin_surface(head)
    front, left, above = np.array([0, -97, -25]), np.array([77, 10, -8]), np.array([0, 8, 80])
    points = np.stack([front, left, above, front * 1.6, left * 1.6, above * 1.6]) * head.scale
    assert (skin.distance_mm(points.astype(np.float32)) < 0).tolist() == [True] * 3 + [False] * 3
