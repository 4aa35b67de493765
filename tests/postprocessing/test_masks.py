"""Steps on one mask, with numbers worked out on paper, in every orientation of the axes."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import ndimage

from nnunet_ext.postprocessing.masks import (
    filled,
    largest_component,
    smoothed,
    with_gaps_closed,
    without_small_pieces,
)

SHAPE = (11, 24, 40)
SPACING_MM = (3.0, 1.0, 0.7)


def empty() -> np.ndarray:
    return np.zeros(SHAPE, dtype=bool)


def broken_nerve() -> tuple[np.ndarray, list[np.ndarray]]:
    """A nerve that rises from slice 2 to 8, lacks voxels 14 to 20 along x, and starts away from eye and chiasm."""
    nerve, eye, chiasm = empty(), empty(), empty()
    for x in range(5, 33):
        if not 14 <= x <= 20:
            z, y = 2 + round((x - 5) * 6 / 27), 8 + round((x - 5) / 4)
            nerve[z, y : y + 4, x] = True
    eye[1:4, 6:12, 0:3] = True
    chiasm[7:10, 14:20, 36:39] = True
    return nerve, [eye, chiasm]


def test_the_largest_of_two_pieces_stays_and_voxels_joined_by_a_corner_are_one():
    mask = empty()
    mask[2, 2, 2] = mask[3, 3, 3] = mask[4, 4, 4] = True
    alone = mask.copy()
    mask[8, 8, 8:10] = True
    np.testing.assert_array_equal(largest_component(mask), alone)
    assert not largest_component(empty()).any()


def test_pieces_are_small_by_their_volume_in_ml():
    mask = empty()
    mask[2, 2, 2:6] = True  # 4 voxels of 2.1 mm^3
    mask[8, 8, 8:10] = True
    kept = without_small_pieces(mask, spacing_mm=SPACING_MM, least_ml=0.0083)
    assert np.argwhere(kept)[:, 0].tolist() == [2] * 4
    assert not without_small_pieces(mask, spacing_mm=SPACING_MM, least_ml=0.0085).any()
    assert not without_small_pieces(empty(), spacing_mm=SPACING_MM, least_ml=0.001).any()


def test_a_hole_is_closed_and_a_tunnel_is_not():
    mask = empty()
    mask[1:4, 1:4, 1:4] = True
    mask[2, 2, 2] = False
    assert filled(mask)[2, 2, 2]
    mask[2, 2, 3] = False
    assert not filled(mask)[2, 2, 2]


def test_smoothing_keeps_the_volume_and_moves_no_boundary_by_a_voxel():
    index = np.indices(SHAPE)
    centre = np.reshape((5, 12, 20), (3, 1, 1, 1))
    ball = (((index - centre) * np.reshape(SPACING_MM, (3, 1, 1, 1))) ** 2).sum(0) <= 8.0**2
    rough = ball.copy()
    rough[5, 12, 20 + 12 : 20 + 14] = True  # a spike
    rough[5, 12, 20 - 11] = False  # a dent
    smooth = smoothed(rough, spacing_mm=SPACING_MM, sigma_mm=1.0)
    assert not smooth[5, 12, 33]
    assert smooth[5, 12, 9]
    assert abs(int(smooth.sum()) - int(rough.sum())) <= 4
    assert not (smooth & ~ndimage.binary_dilation(rough)).any()
    assert not (ndimage.binary_erosion(rough) & ~smooth).any()
    assert not smoothed(empty(), spacing_mm=SPACING_MM, sigma_mm=1.0).any()


def test_a_single_voxel_survives_smoothing():
    mask = empty()
    mask[3, 3, 3] = True
    np.testing.assert_array_equal(smoothed(mask, spacing_mm=SPACING_MM, sigma_mm=1.0), mask)


def test_gaps_are_closed_between_eye_and_chiasm_and_the_nerve_keeps_its_voxels():
    nerve, ends = broken_nerve()
    assert ndimage.label(nerve, np.ones((3, 3, 3)))[1] == 2
    closed = with_gaps_closed(nerve, ends, spacing_mm=SPACING_MM, longest_mm=12.0)
    assert (closed & nerve).sum() == nerve.sum()
    whole = closed | ends[0] | ends[1]
    assert ndimage.label(whole, np.ones((3, 3, 3)))[1] == 1
    added = np.argwhere(closed & ~nerve)
    # The line between the ends of the gap, and not a block: four voxels of 1 mm wide, within a voxel of the drawn nerve.
    gap = added[(added[:, 2] >= 14) & (added[:, 2] <= 20)]
    assert set(gap[:, 2]) == set(range(14, 21))
    expected_z, expected_y = 2 + (gap[:, 2] - 5) * 6 / 27, 9.5 + (gap[:, 2] - 5) / 4
    assert np.abs(gap[:, 0] - expected_z).max() <= 1.1
    assert np.abs(gap[:, 1] - expected_y).max() <= 3.0


def test_a_gap_longer_than_allowed_and_a_missing_organ_stay():
    nerve, ends = broken_nerve()
    closed = with_gaps_closed(nerve, [ends[0], empty()], spacing_mm=SPACING_MM, longest_mm=4.0)
    assert ndimage.label(closed, np.ones((3, 3, 3)))[1] == 2  # 8 voxels of 0.7 mm apart
    assert not with_gaps_closed(empty(), ends, spacing_mm=SPACING_MM, longest_mm=12.0).any()


def test_a_fork_with_two_ends_as_near_is_joined_from_its_middle():
    nerve, eye = empty(), empty()
    nerve[5, 2:22, 20] = nerve[5, 2, 10:21] = nerve[5, 21, 10:21] = True
    eye[5, 2:22, 2:6] = True
    closed = with_gaps_closed(nerve, [eye], spacing_mm=SPACING_MM, longest_mm=10)
    assert closed[nerve].all()
    assert ndimage.label(closed | eye, np.ones((3, 3, 3)))[1] == 1


def steps():
    _, ends = broken_nerve()
    return {
        "largest": lambda mask, spacing, turn: largest_component(mask),
        "small": lambda mask, spacing, turn: without_small_pieces(mask, spacing_mm=spacing, least_ml=0.09),
        "holes": lambda mask, spacing, turn: filled(mask),
        "smooth": lambda mask, spacing, turn: smoothed(mask, spacing_mm=spacing, sigma_mm=1.0),
        "gaps": lambda mask, spacing, turn: with_gaps_closed(
            mask, [turn(end) for end in ends], spacing_mm=spacing, longest_mm=12.0
        ),
    }


@pytest.mark.parametrize("name", steps())
def test_a_step_is_the_same_in_every_order_and_direction_of_the_axes(name):
    nerve, _ = broken_nerve()
    step = steps()[name]
    expected = step(nerve, SPACING_MM, lambda mask: mask)
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):

        def turn(mask, order=order, flips=flips):
            return mask.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]

        found = step(turn(nerve), [SPACING_MM[axis] for axis in order], turn)
        np.testing.assert_array_equal(found, turn(expected))
