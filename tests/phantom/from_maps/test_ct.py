"""The CT of a case: HU, metal, and what holds the head."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.phantom.from_maps.ct import acquire_ct
from nnunet_ext.phantom.from_maps.one_case import draw_scene
from nnunet_ext.phantom.from_maps.sampling import TissueSampler, render
from nnunet_ext.phantom.from_maps.tissues import CODE, TISSUES
from nnunet_ext.phantom.grids import Grid


@pytest.fixture(scope="module")
def sampler(person) -> TissueSampler:
    scene, _ = draw_scene(person, 0, 0)
    corner = scene.warp.translation_mm - [105, 120, 80]
    return TissueSampler(scene, Grid((105, 145, 60), (2.0, 2.0, 2.5), tuple(corner.tolist())))


@pytest.fixture(scope="module")
def body_mm(sampler) -> np.ndarray:
    return sampler.scene.warp.to_world_mm(sampler.scene.person.outline_mm)


def acquired(sampler, body_mm, metal_mm=None, immobilised=False) -> np.ndarray:
    metal_mm = np.empty((0, 3)) if metal_mm is None else metal_mm
    return acquire_ct(sampler, body_mm, metal_mm, immobilised=immobilised, rng=np.random.default_rng(3))[0]


def share_of(sampler, tissue: str) -> np.ndarray:
    table = np.zeros((1, len(TISSUES)))
    table[0, CODE[tissue]] = 1
    return render(sampler, table)[0]


def test_tissues_have_their_hu(sampler, body_mm):
    ct = acquired(sampler, body_mm)
    for tissue, low, high in (("white_matter", 25, 32), ("vitreous", 5, 15), ("bone", 800, 1600), ("air", -1010, -990)):
        inside = share_of(sampler, tissue) == 1
        assert inside.sum() > 50
        assert low - 3 < np.median(ct[inside]) < high + 3


def test_couch_rest_and_mask_lie_around_the_head_and_leave_it_as_it_is(sampler, body_mm):
    plain, held = acquired(sampler, body_mm), acquired(sampler, body_mm, immobilised=True)
    air = share_of(sampler, "air")
    added = np.clip(held, -1000, None) - np.clip(plain, -1000, None) > 150
    assert (added & (air == 1)).sum() > 3000
    assert not (added & (air == 0)).any()
    behind = sampler.grid.coordinates_mm(1) > body_mm[:, 1].max() + 3
    in_front = sampler.grid.coordinates_mm(1) < np.median(body_mm[:, 1])
    assert added[:, behind].sum() > 1000  # the couch
    assert added[:, in_front].sum() > 500  # the mask


def test_metal_is_bright_and_throws_streaks(sampler, body_mm):
    place = sampler.scene.warp.translation_mm[None] + [0, 20, 5]
    plain, with_metal = acquired(sampler, body_mm), acquired(sampler, body_mm, place)
    x, y, z = np.rint((place[0] - sampler.grid.origin_mm) / np.array(sampler.grid.spacing_mm)).astype(int)
    assert with_metal[z, y, x] > 2000
    brain = share_of(sampler, "white_matter")[z] == 1
    assert with_metal[z][brain].std() > 1.5 * plain[z][brain].std()
