"""Bias field, noise and scale of the MR."""

import numpy as np
import pytest

from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.mr import degrade_mr, mr_bias

GRID = Grid((48, 60, 30), (4.0, 4.0, 6.0), (-96.0, -120.0, -90.0))


@pytest.fixture(scope="module")
def head():
    z, y, x = (GRID.coordinates_mm(axis) for axis in (2, 1, 0))
    inside = (z[:, None, None] / 80) ** 2 + (y[:, None] / 95) ** 2 + (x / 75) ** 2 < 1
    return np.where(inside, 500, 8).astype(np.float32)


@pytest.mark.parametrize("non_uniformity", [0.2, 0.4])
def test_the_bias_field_spans_its_non_uniformity_in_the_head(head, non_uniformity):
    plane = mr_bias(head, GRID, np.random.default_rng(1), non_uniformity=non_uniformity)
    field = np.stack([plane(k) for k in range(30)])[head > 100]
    low, high = np.percentile(field, (2, 98))
    assert high / low == pytest.approx((1 + non_uniformity / 2) / (1 - non_uniformity / 2), rel=0.05)


def test_degrading_multiplies_by_the_field_it_returns(head):
    image = head.copy()
    bias = degrade_mr(image, GRID, np.random.default_rng(0))
    field = np.stack([bias(k) for k in range(30)])
    inside = head > 100
    gain = image[inside] / (head * field)[inside]
    assert gain.std() / gain.mean() < 0.06  # noise alone
    assert 0.6 <= gain.mean() <= 1.65
    assert (image >= 0).all()
