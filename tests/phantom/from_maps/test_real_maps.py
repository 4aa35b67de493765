"""The heads of real people, where their label maps are on this machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from map_heads import REAL_MAPS, sphericity
from scipy import ndimage

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.from_maps.field_of_view import draw_grid
from nnunet_ext.phantom.from_maps.one_case import draw_scene
from nnunet_ext.phantom.from_maps.person import read_person
from nnunet_ext.phantom.from_maps.sampling import labels_on

VALUE = {organ: value for value, organ in enumerate(ORGANS, start=1)}
NEIGHBOURS = np.ones((3, 3, 3), bool)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [n if n in (1, 5, 9) else pytest.param(n, marks=pytest.mark.long) for n in range(1, 11)]
)
def test_organs_of_real_heads_are_whole_round_and_of_human_size(number, labels):
    path = REAL_MAPS / f"head_{number:02d}.nii.gz"
    if not path.is_file():
        pytest.skip("the label maps of real people are not on this machine")
    person = read_person(path, labels)
    assert person.globes["left"].centre_mm[0] > 20
    assert person.globes["right"].centre_mm[0] < -20
    for seed in range(4):
        scene, draw = draw_scene(person, seed, number)
        body = scene.warp.to_world_mm(person.outline_mm)
        rng = np.random.default_rng(seed)
        grid, _ = draw_grid(scene, body, (1.0, 1.0, 2.5), immobilised=False, rng=rng)
        scene = replace(scene, organs=scene.organs.fitted(grid))
        found = labels_on(scene, grid)
        spacing = grid.spacing_mm[::-1]
        axes = (grid.coordinates_mm(axis)[::2].astype(np.float64) for axis in (2, 1, 0))
        voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]
        assert scene.warp.jacobian(voxels).min() > 0.2
        ml = {organ: float((found == value).sum() * np.prod(spacing) / 1000) for organ, value in VALUE.items()}
        chiasm = found == VALUE["OpticChiasm"]
        assert 0.18 < ml["OpticChiasm"] < 0.34
        assert ndimage.label(chiasm, NEIGHBOURS)[1] == 1
        for side, name in (("L", "left"), ("R", "right")):
            nerve = found == VALUE[f"OpticNrv_{side}"]
            assert ndimage.label(nerve, NEIGHBOURS)[1] == 1
            around = ndimage.binary_dilation(nerve, NEIGHBOURS)
            assert (around & chiasm).any()
            assert 0.4 < ml[f"OpticNrv_{side}"] < 0.97
            assert 36 < scene.organs.nerves[name].length_mm < 64
            if name in (draw.missing_eye, draw.prosthesis):
                assert ml[f"Eye_{side}"] == 0
                continue
            eye, lens = (found == VALUE[f"{organ}_{side}"] for organ in ("Eye", "Lens"))
            assert (around & eye).any()
            assert sphericity(eye | lens, spacing) >= 0.95
            assert 4.8 < ml[f"Eye_{side}"] + ml[f"Lens_{side}"] < 8.6
            assert 0.14 < ml[f"Lens_{side}"] < 0.28
