"""Eyes, lenses, nerves and chiasm: round, in place, whole, of human size, and on the right side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from map_heads import EYES_MM, sphericity
from scipy import ndimage

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.from_maps.draws import HeadDraw
from nnunet_ext.phantom.from_maps.field_of_view import draw_grid
from nnunet_ext.phantom.from_maps.one_case import draw_scene
from nnunet_ext.phantom.from_maps.sampling import labels_on

VALUE = {organ: value for value, organ in enumerate(ORGANS, start=1)}
NEIGHBOURS = np.ones((3, 3, 3), bool)
SPACING_MM = (1.0, 1.0, 2.5)


def labelled(person, seed: int, spacing_mm=SPACING_MM, **changes):
    """The scene of a case, its labels, and the voxel size along `(Z, Y, X)`."""
    draw = replace(HeadDraw.draw(np.random.default_rng(seed)), missing_eye=None, prosthesis=None, **changes)
    scene, _ = draw_scene(person, seed, 0, draw)
    body = scene.warp.to_world_mm(person.outline_mm)
    grid, _ = draw_grid(scene, body, spacing_mm, immobilised=False, rng=np.random.default_rng(seed))
    scene = replace(scene, organs=scene.organs.fitted(grid))
    return scene, labels_on(scene, grid), grid


@pytest.mark.parametrize("seed", range(8))
def test_organs_are_round_whole_and_of_human_size(person, seed):
    _, labels, grid = labelled(person, seed)
    spacing = grid.spacing_mm[::-1]
    ml = {organ: float((labels == value).sum() * np.prod(spacing) / 1000) for organ, value in VALUE.items()}
    for side in "LR":
        eye, lens, nerve = (labels == VALUE[f"{organ}_{side}"] for organ in ("Eye", "Lens", "OpticNrv"))
        assert sphericity(eye | lens, spacing) >= 0.95
        assert 4.7 < ml[f"Eye_{side}"] + ml[f"Lens_{side}"] < 8.6
        assert 0.14 < ml[f"Lens_{side}"] < 0.28
        assert 0.4 < ml[f"OpticNrv_{side}"] < 0.95
        for organ in (eye, lens, nerve):
            assert ndimage.label(organ, NEIGHBOURS)[1] == 1
        around = ndimage.binary_dilation(nerve, NEIGHBOURS)
        assert (around & eye).any()
        assert (around & (labels == VALUE["OpticChiasm"])).any()
    assert ml["OpticChiasm"] == pytest.approx(0.33, abs=0.02)  # that of the map is larger than any that was counted
    assert ndimage.label(labels == VALUE["OpticChiasm"], NEIGHBOURS)[1] == 1


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.5), (0.8, 0.8, 5.0), (4.0, 4.0, 4.0)])
def test_each_nerve_is_one_piece_on_coarse_grids(person, spacing_mm):
    for seed in range(4):
        _, labels, _ = labelled(person, seed, spacing_mm)
        for side in "LR":
            nerve = labels == VALUE[f"OpticNrv_{side}"]
            assert ndimage.label(nerve, NEIGHBOURS)[1] == 1
            around = ndimage.binary_dilation(nerve, NEIGHBOURS)
            assert (around & (labels == VALUE[f"Eye_{side}"])).any()
            assert (around & (labels == VALUE["OpticChiasm"])).any()


def test_the_lens_lies_in_the_globe_and_looks_where_the_eye_looks(person):
    gaze = {"gaze_deg": (20.0, -15.0), "squint_deg": (0.0, 0.0), "rotation_deg": (0.0, 0.0, 0.0)}
    scene, _, _ = labelled(person, 2, **gaze)
    for eye in scene.organs.eyes.values():
        towards = eye.lens_centre_mm - eye.centre_mm
        towards /= np.linalg.norm(towards)
        yaw, pitch = np.rad2deg([np.arctan2(towards[0], -towards[1]), np.arcsin(towards[2])])
        assert yaw == pytest.approx(20, abs=4)  # the shear of the warp turns it a little
        assert pitch == pytest.approx(-15, abs=4)
        front = eye.radius_mm - np.linalg.norm(eye.lens_centre_mm - eye.centre_mm) - eye.lens_mm[1]
        assert 3 <= front <= 5
        angles = np.linspace(0, 2 * np.pi, 60)
        across = np.linalg.svd(towards[None])[2][1:]
        rim = eye.lens_centre_mm + eye.lens_mm[0] * (
            np.cos(angles)[:, None] * across[0] + np.sin(angles)[:, None] * across[1]
        )
        assert (eye.distance_mm(rim) < 0).all()


def test_sides_stay_with_the_head_when_it_is_turned(person):
    for turn in ((0.0, 0.0, 24.0), (0.0, 24.0, 0.0), (-24.0, 0.0, 0.0)):
        scene, labels, grid = labelled(person, 1, rotation_deg=turn)
        for side, letter in (("left", "L"), ("right", "R")):
            at = np.argwhere(labels == VALUE[f"Eye_{letter}"]).mean(axis=0)[::-1]
            head = scene.warp.to_head_mm(np.asarray(grid.origin_mm) + at * np.asarray(grid.spacing_mm))
            assert head == pytest.approx(EYES_MM[side], abs=2.5)


@pytest.mark.parametrize("finding", ["missing_eye", "prosthesis"])
def test_a_lost_eye_has_no_label_but_its_nerve_has(person, finding):
    draw = replace(HeadDraw.draw(np.random.default_rng(1)), missing_eye=None, prosthesis=None)
    scene, _ = draw_scene(person, 1, 0, replace(draw, **{finding: "left"}))
    body = scene.warp.to_world_mm(person.outline_mm)
    grid, _ = draw_grid(scene, body, SPACING_MM, immobilised=False, rng=np.random.default_rng(1))
    labels = labels_on(scene, grid)
    assert set(np.unique(labels)) == {0, *VALUE.values()} - {VALUE["Eye_L"], VALUE["Lens_L"]}
    assert ndimage.label(labels == VALUE["OpticNrv_L"], NEIGHBOURS)[1] == 1
