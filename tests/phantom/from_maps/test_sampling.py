"""Images and labels show exactly the tissue that lies at their samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.from_maps.draws import HeadDraw
from nnunet_ext.phantom.from_maps.one_case import draw_scene
from nnunet_ext.phantom.from_maps.placing import place_organs
from nnunet_ext.phantom.from_maps.sampling import Scene, TissueSampler, divided, labels_on, means, render
from nnunet_ext.phantom.from_maps.tissues import CODE, TISSUES
from nnunet_ext.phantom.from_maps.warp import Warp
from nnunet_ext.phantom.grids import Grid


@pytest.fixture(scope="module")
def still(person) -> Scene:
    """The small head as it lies in its map."""
    warp = Warp(np.eye(3), np.zeros(3), ())
    draw = replace(HeadDraw.draw(np.random.default_rng(0)), missing_eye=None, prosthesis=None)
    return Scene(person, divided(person, np.random.default_rng(0)), warp, place_organs(person, warp, draw))


@pytest.fixture(scope="module")
def turned(person) -> Scene:
    draw = replace(HeadDraw.draw(np.random.default_rng(4)), missing_eye=None, prosthesis=None)
    return draw_scene(person, 4, 0, draw)[0]


def points_of(grid: Grid) -> np.ndarray:
    """Centres of all voxels, `(Z, Y, X, 3)`."""
    axes = (grid.coordinates_mm(axis).astype(np.float64) for axis in (2, 1, 0))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]


def test_on_the_maps_own_grid_the_tissues_are_those_of_the_map(still):
    frame, shape = still.person.frame, np.array(still.codes.shape)
    first, last = (frame.to_head_mm(index) for index in (np.zeros(3), shape - 1))
    low = np.minimum(first, last)
    size = tuple(int(n) for n in shape)
    grid = Grid(size, (1.5, 1.5, 1.5), tuple(low.tolist()))
    assert np.diag(frame.matrix) == pytest.approx(
        1 / 1.5, rel=1e-5
    )  # the frame is that of the file, so axes need no exchange
    sampler = TissueSampler(still, grid)
    z, y, x = (grid.coordinates_mm(axis) for axis in (2, 1, 0))
    found = sampler.tissues(sampler.slab(z, y, x))
    np.testing.assert_array_equal(found, still.codes.transpose(2, 1, 0))


def test_a_turned_head_shows_the_nearest_voxel_of_the_map(turned):
    origin = tuple((turned.warp.translation_mm - [80, 100, 70]).tolist())
    grid = Grid((54, 66, 47), (3.0, 3.0, 3.0), origin)
    sampler = TissueSampler(turned, grid)
    z, y, x = (grid.coordinates_mm(axis) for axis in (2, 1, 0))
    found = sampler.tissues(sampler.slab(z, y, x))
    index = turned.person.frame.to_index(turned.warp.to_head_mm(points_of(grid)))
    nearest = np.clip(np.rint(index).astype(int), 0, np.array(turned.codes.shape) - 1)
    same = found == turned.codes[tuple(np.moveaxis(nearest, -1, 0))]
    assert same.mean() > 0.98  # the rest lies within the error of interpolation, 0.1 mm, of a border of voxels
    inexact = np.abs(index - np.floor(index) - 0.5).min(axis=-1)
    assert same[inexact > 0.15].all()


def test_labels_are_those_of_the_shapes_at_the_centres_of_the_voxels(turned):
    low, high = turned.organs.box_mm
    spacing = np.array([1.0, 1.25, 2.5])
    size = tuple(int(n) for n in np.ceil((high - low + 12) / spacing))
    grid = Grid(size, tuple(spacing.tolist()), tuple((low - 6).tolist()))
    labels = labels_on(turned, grid)
    expected = turned.organs.labels(points_of(grid).reshape(-1, 3)).reshape(labels.shape)
    np.testing.assert_array_equal(labels, expected)
    points = points_of(grid)
    for side, letter in (("left", "L"), ("right", "R")):
        eye = turned.organs.eyes[side]
        globe = np.isin(labels, [ORGANS.index(f"{organ}_{letter}") + 1 for organ in ("Eye", "Lens")])
        np.testing.assert_array_equal(globe, np.linalg.norm(points - eye.centre_mm, axis=-1) <= eye.radius_mm)


def test_images_agree_with_labels(turned):
    """A picture in which only one tissue is bright has its middle and its volume where the label has it."""
    low, high = turned.organs.box_mm
    spacing = (1.0, 1.0, 2.5)
    size = tuple(int(n) for n in np.ceil((high - low + 12) / np.array(spacing)))
    grid = Grid(size, spacing, tuple((low - 6).tolist()))
    fitted = replace(turned, organs=turned.organs.fitted(grid))
    labels = labels_on(fitted, grid)
    sampler = TissueSampler(fitted, grid)
    for tissue, organ in (("lens", "Lens"), ("optic_nerve", "OpticNrv")):
        table = np.zeros((1, len(TISSUES)))
        table[0, CODE[tissue]] = 1
        share = render(sampler, table)[0]
        for letter in "LR":
            label = labels == ORGANS.index(f"{organ}_{letter}") + 1
            near = share * binary_dilation(label, iterations=2)
            assert near.sum() == pytest.approx(label.sum(), rel=0.08)
            middle = (np.argwhere(near > 0) * near[near > 0][:, None]).sum(axis=0) / near.sum()
            assert middle == pytest.approx(np.argwhere(label).mean(axis=0), abs=0.6)
            assert share[label].mean() > 0.75


def test_bone_in_the_way_of_a_nerve_becomes_sheath(turned):
    nerve = turned.organs.nerves["left"]
    middle = nerve.centreline_mm[len(nerve.centreline_mm) // 2 :: 20]
    along = np.gradient(nerve.centreline_mm, axis=0)[len(nerve.centreline_mm) // 2 :: 20]
    across = np.cross(along, [0, 0, 1.0])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    all_bone = np.full(len(middle), CODE["bone"], np.uint8)
    for off, tissue in ((0.0, "optic_nerve"), (nerve.radius_mm + 0.3, "sheath"), (nerve.radius_mm + 2, "bone")):
        inside = turned.organs.chiasm.inside(middle + off * across)
        painted = turned.organs.paint(all_bone, middle + off * across)[~inside]
        assert len(painted)
        assert set(painted.tolist()) == {CODE[tissue]}


def test_fat_lies_under_the_skin_and_muscle_below(person):
    codes = divided(person, np.random.default_rng(0)).ravel()[person.mixed]
    muscle = codes == CODE["muscle"]
    assert set(np.unique(codes).tolist()) == {CODE["muscle"], CODE["fat"]}
    assert muscle[person.depth_mm > 8].mean() > 0.8
    assert muscle[person.depth_mm < 3.5].mean() < 0.4


def test_means_are_those_of_the_samples_of_a_voxel():
    values = np.arange(2 * 4 * 3 * 6 * 2, dtype=np.float32).reshape(4, 6, 12)
    expected = values.reshape(2, 2, 2, 3, 6, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(means(values, (2, 3, 2)), expected)
