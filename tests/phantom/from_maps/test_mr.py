"""The MR of a case and what spoils it."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.phantom.from_maps.mr import MISALIGNMENT_MM, Misalignment, acquire_mr, slice_profile
from nnunet_ext.phantom.from_maps.one_case import draw_scene
from nnunet_ext.phantom.from_maps.sampling import TissueSampler
from nnunet_ext.phantom.grids import Grid


def test_thick_slices_keep_what_is_constant_and_average_the_rest():
    profile = slice_profile(40, 1.0, 5.0, 2.0)
    np.testing.assert_allclose(profile.sum(axis=1), 1, atol=1e-5)
    spike = profile[:, 20]
    assert spike.max() == pytest.approx(0.2, abs=0.02)  # one of five voxels
    assert spike.sum() == pytest.approx(1, abs=0.1)


def test_slices_of_one_voxel_change_nothing():
    np.testing.assert_allclose(slice_profile(12, 2.5, 2.5, 0.0), np.eye(12), atol=1e-6)


def test_misalignment_is_up_to_three_millimetres():
    centre = np.array([5.0, -20.0, 9.0])
    drawn = [Misalignment.draw(np.random.default_rng(seed), centre) for seed in range(200)]
    moved = [float(np.linalg.norm(one.to_ct_mm(centre) - centre)) for one in drawn]
    assert max(moved) <= MISALIGNMENT_MM + 1e-6
    assert max(moved) > 2
    assert np.median(moved) < 1.2


@pytest.fixture(scope="module")
def sampler(person) -> TissueSampler:
    scene, _ = draw_scene(person, 0, 0)
    corner = scene.warp.translation_mm - [96, 112, 80]
    return TissueSampler(scene, Grid((64, 84, 40), (3.0, 3.0, 4.0), tuple(corner.tolist())))


@pytest.mark.parametrize("contrast", ["realistic", "random"])
def test_a_head_is_brighter_than_the_noise_around_it(sampler, contrast):
    for seed in range(4):
        image, record = acquire_mr(
            sampler, "T2", contrast=contrast, metal_mm=np.empty((0, 3)), rng=np.random.default_rng(seed)
        )
        assert image.shape == (40, 84, 64)
        assert np.isfinite(image).all()
        assert image.min() >= 0
        seen = image[image.any(axis=(1, 2))]
        corner, middle = seen[:, :6, :6], seen[len(seen) // 2, 40:50, 28:36]
        assert middle.mean() > 2 * corner.mean()
        assert corner.std() > 0  # Rician noise has no zeros in air
        assert 0.02 <= record["noise"] <= 0.08


def test_metal_leaves_a_void(sampler):
    place = sampler.scene.warp.translation_mm[None] + [0, 30, 10]
    with_metal, without = (
        acquire_mr(sampler, "T1", contrast="realistic", metal_mm=places, rng=np.random.default_rng(1))[0]
        for places in (place, np.empty((0, 3)))
    )
    x, y, z = np.rint((place[0] - sampler.grid.origin_mm) / np.array(sampler.grid.spacing_mm)).astype(int)
    assert with_metal[z, y, x] < 0.5 * without[z, y, x]
