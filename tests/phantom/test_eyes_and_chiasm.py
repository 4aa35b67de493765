"""Eyes, nerves and chiasm of the size that was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.phantom.eyes_and_chiasm import chiasm_shape, eye_side
from nnunet_ext.phantom.head_parameters import SIDES


def points_of(shape, step_mm):
    """Points of a regular grid in the box of a shape."""
    axes = [
        np.arange(low, high, step_mm, dtype=np.float32) for low, high in zip(shape.low_mm, shape.high_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def test_the_chiasm_has_the_volume_that_was_drawn(head):
    shape, _ = chiasm_shape(head)
    inside = shape.distance_mm(points_of(shape, 0.3)) < 0
    assert inside.sum() * 0.3**3 / 1000 == pytest.approx(head.chiasm_ml, rel=0.03)


def test_nerves_have_the_length_that_was_drawn_and_end_in_eye_and_chiasm(head):
    chiasm, factor = chiasm_shape(head)
    for index, name in enumerate(SIDES):
        side = eye_side(head, name, chiasm, factor)
        assert side.nerve_length_mm == pytest.approx(head.nerve_length_mm[index], abs=0.6)
        assert np.linalg.norm(side.nerve_mm[0] - side.globe_mm) < side.radius_mm
        assert chiasm.distance_mm(side.nerve_mm[-1:])[0] < 0
        assert np.sign(side.globe_mm[0]) == SIDES[name]
