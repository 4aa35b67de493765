"""Couch, noise and streaks of the CT."""

import numpy as np
import pytest

from nnunet_ext.phantom.ct import add_ct_noise, add_streaks, couch_background
from nnunet_ext.phantom.grids import Grid

GRID = Grid((120, 100, 9), (4.0, 4.0, 3.0), (-240.0, -200.0, 10.0))


def test_the_couch_is_a_shell_of_plastic_at_its_height():
    grid = Grid((480, 400, 2), (1.0, 1.0, 3.0), (-240.0, -200.0, 10.0))
    image = couch_background(grid, top_mm=80.0, middle_mm=0.0, rng=np.random.default_rng(0))
    assert image.shape == (1, 400, 480)
    column = image[0, :, 240]  # through the middle, from front to back
    assert (column[:200] == -1000).all()  # in front of head rest and couch
    np.testing.assert_allclose(column[[281, 285, 300]], [-60, -940, -940], atol=1)  # shell of 2 mm, and its filling
    assert (image >= -1000).all()


def test_noise_has_the_standard_deviation_asked_for_and_no_mean():
    ct_hu = np.zeros((4, 128, 128), np.float32)
    add_ct_noise(ct_hu, np.random.default_rng(0), sigma_hu=12.0)
    assert ct_hu.std() == pytest.approx(12, rel=0.05)
    assert ct_hu.mean() == pytest.approx(0, abs=0.5)
    assert np.corrcoef(ct_hu[:, :, 1:].ravel(), ct_hu[:, :, :-1].ravel())[0, 1] > 0.3  # neighbours


def test_streaks_stay_near_the_slices_of_the_metal_and_out_of_the_air():
    ct_hu = np.full((9, 100, 120), 40.0, np.float32)
    ct_hu[:, :, :20] = -1000
    metal_mm = np.array([[0.0, 0.0, 22.0]])  # slice 4
    add_streaks(ct_hu, GRID, metal_mm, np.random.default_rng(0))
    changed = np.abs(ct_hu[:, :, 20:] - 40).max(axis=(1, 2))
    assert ct_hu[4].max() == 3071
    assert changed[4] > 100 > changed[0]
    assert changed[4] > changed[2] > changed[0]
    assert (ct_hu[:, :, :19] == -1000).all()
