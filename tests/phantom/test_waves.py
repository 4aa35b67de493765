"""Smooth random functions of space."""

import numpy as np
import pytest

from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.waves import Waves, add_texture, deformation


def test_waves_have_zero_mean_and_unit_variance_and_keep_their_bound():
    values = Waves.draw(np.random.default_rng(0), (10, 20), 8)(np.random.default_rng(1).uniform(-200, 200, (50_000, 3)))
    assert values.mean() == pytest.approx(0, abs=0.03)
    assert values.std() == pytest.approx(1, abs=0.03)
    assert np.abs(values).max() <= np.sqrt(2 * 8)


def test_waves_are_the_same_on_a_grid():
    waves = Waves.draw(np.random.default_rng(3), (12, 45), 6)
    z, y, x = np.arange(0, 30, 5.0), np.arange(-8, 8, 2.0), np.arange(4, 16, 1.5)
    points = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], axis=-1).astype(np.float32)
    np.testing.assert_allclose(waves.on_grid(z, y, x), waves(points), atol=1e-4)


def test_a_deformation_stays_within_its_amplitude():
    points = np.random.default_rng(1).uniform(-100, 100, (2000, 3)).astype(np.float32)
    moved_mm = np.abs(deformation(np.random.default_rng(0), 1.6)(points)).max()
    assert 0.5 < moved_mm <= 1.6


def test_texture_varies_tissue_by_its_amplitude_and_leaves_air():
    grid = Grid((40, 30, 20), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0))
    image = np.full((20, 30, 40), 100.0, np.float32)
    image[:, :5] = 0
    add_texture(image, grid, np.random.default_rng(0), amplitude=0.03)
    assert not image[:, :5].any()
    tissue = image[:, 5:]
    assert 1 < tissue.std() < 5
    assert np.abs(tissue - 100).max() <= 3 * np.sqrt(2 * 6) + 1e-3
