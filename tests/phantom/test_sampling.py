"""Samples inside voxels, and interpolation between the nodes of a lattice."""

import numpy as np

from nnunet_ext.phantom.sampling import Lattice, Samples, Slab, block_means, part_centres, slabs
from nnunet_ext.phantom.shapes import sphere


def lattice_of_the_world(step_mm=2.0):
    """A lattice whose head frame is the world, from -20 to 20 mm along every axis."""
    axis = np.arange(-20, 20.1, step_mm)
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")[::-1], axis=-1).astype(np.float32)
    return Lattice(np.full(3, -20.0), step_mm, nodes)


def test_parts_of_a_voxel_are_equal_and_fine_enough():
    np.testing.assert_allclose(part_centres(3.0, 1.0), [-1, 0, 1])
    np.testing.assert_allclose(part_centres(3.0, 1.1), [-1, 0, 1])
    np.testing.assert_allclose(part_centres(1.0, 2.0), [0])


def test_block_means_average_the_samples_of_each_voxel():
    fine = np.zeros((1, 2, 2, 4), np.float32)
    fine[0, 0, 0] = [1, 3, 5, 7]
    fine[0, 1, 1] = [2, 2, 4, 0]
    np.testing.assert_allclose(block_means(fine, 2, 2), [[[[1, 2]]]])  # (1 + 3 + 2 + 2) / 8, (5 + 7 + 4 + 0) / 8


def test_slabs_cover_all_slices_once():
    assert slabs(5, 2**17) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert slabs(2, 2**20) == [slice(0, 1), slice(1, 2)]


def test_a_block_holds_the_nodes_around_a_shape_and_none_is_found_beyond_the_lattice():
    lattice = lattice_of_the_world()
    block = lattice.block(np.array([4.0, -6, -2]), np.array([8.0, -4, 2]))
    low_mm, high_mm = (
        [-20 + 2.0 * at for at in ends] for ends in zip(*[(b.start, b.stop - 1) for b in block], strict=True)
    )
    assert (np.array(low_mm) <= [-2, -6, 4]).all()
    assert (np.array(high_mm) >= [2, -4, 8]).all()
    assert (np.subtract(high_mm, low_mm) < 14).all()
    assert lattice.block(np.full(3, 30.0), np.full(3, 35.0)) is None


def test_interpolated_distances_are_those_of_the_shape():
    lattice = lattice_of_the_world()
    ball = sphere((1, 2, 3), 9)
    block = lattice.block(ball.low_mm, ball.high_mm)
    lattice.will_need(ball, block)
    world_mm = [np.arange(-4.5, 10, 1.5), np.arange(-6, 9, 1.1), np.arange(-7, 9, 0.7)]  # z, y, x
    axes = tuple(Samples(mm, -20.0, 2.0, 21) for mm in world_mm)
    slab = Slab(axes, 0.7)
    found = slab.interpolate(lattice.distances_mm(ball, block), block)
    points = np.stack(np.meshgrid(*world_mm, indexing="ij")[::-1], axis=-1)
    assert found.shape == points.shape[:3]
    # Linear interpolation is off by step^2 / (8 radius) at most, away from the centre of the ball.
    far = np.linalg.norm(points - [1, 2, 3], axis=-1) > 5
    assert np.abs(found - ball.distance_mm(points))[far].max() < 0.25
    # A grown shape takes the distances of the one it was made from.
    np.testing.assert_allclose(lattice.distances_mm(ball.grown(2), block), lattice.distances_mm(ball, block) - 2)
