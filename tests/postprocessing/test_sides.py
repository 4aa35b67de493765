"""Left and right organs on their own side of a midline that the head brings along."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from nnunet_ext.postprocessing.choice import Postprocessing, read_steps
from nnunet_ext.postprocessing.sides import after_own_side, on_own_sides
from nnunet_ext.postprocessing.steps import OWN_SIDE, Change, Step

LABELS = {"background": 0, "Eye_L": 1, "Eye_R": 2, "OpticNrv_L": 3, "OpticNrv_R": 4, "OpticChiasm": 5}
PAIRS = [(1, 2), (3, 4)]
NAMES = [("Eye_L", "Eye_R"), ("OpticNrv_L", "OpticNrv_R")]
SPACING_MM = (2.5, 1.0, 1.5)
SHAPE = (16, 44, 60)


def head(turn_degrees: float = 20.0, missing: str = "") -> np.ndarray:
    """Two eyes and two nerves that meet at a chiasm, turned about the body's axis."""
    place = np.stack(np.indices(SHAPE), axis=-1) * SPACING_MM - np.array([20.0, 22.0, 45.0])
    turn = np.radians(turn_degrees)
    y = place[..., 1] * np.cos(turn) - place[..., 2] * np.sin(turn)
    x = place[..., 1] * np.sin(turn) + place[..., 2] * np.cos(turn)
    label_map = np.zeros(SHAPE, np.uint8)
    for side, (eye, nerve) in ((1, (1, 3)), (-1, (2, 4))):
        along = np.clip((10 - y) / 16, 0, 1)  # from the chiasm at y = 10 to the back of the eye at y = -6
        on_nerve = (x - side * (2 + 24 * along)) ** 2 + place[..., 0] ** 2 < 3**2
        label_map[on_nerve & (side * x > 0) & (y < 10) & (y > -6)] = nerve
        if missing != ("Eye_L" if side == 1 else "Eye_R"):
            label_map[(x - side * 26) ** 2 + (y + 12) ** 2 + place[..., 0] ** 2 < 8**2] = eye
    label_map[(x**2 + (y - 12) ** 2 + place[..., 0] ** 2 < 4**2) & (y >= 10)] = 5
    return label_map


def with_wrong_sides(label_map: np.ndarray) -> np.ndarray:
    """A lump of either eye has the other one's name, and so has the end of a nerve."""
    wrong = label_map.copy()
    for value, other, n in ((1, 2, 12), (2, 1, 9), (3, 4, 5)):
        wrong[tuple(np.argwhere(label_map == value)[:n].T)] = other
    return wrong


@pytest.mark.parametrize("turn_degrees", [-25.0, 0.0, 25.0])
def test_voxels_across_the_midline_of_a_turned_head_get_the_other_organs_name(turn_degrees):
    expected = head(turn_degrees)
    assert {1, 2, 3, 4, 5} <= set(np.unique(expected))
    given = with_wrong_sides(expected)
    assert np.count_nonzero(given != expected) == 26
    np.testing.assert_array_equal(on_own_sides(given, PAIRS, spacing_mm=SPACING_MM), expected)


def test_the_sides_are_the_same_in_every_order_and_direction_of_the_axes():
    given, expected = with_wrong_sides(head()), head()
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = tuple(slice(None, None, flip) for flip in flips)
        spacing_mm = [SPACING_MM[axis] for axis in order]
        found = on_own_sides(given.transpose(order)[turn], PAIRS, spacing_mm=spacing_mm)
        np.testing.assert_array_equal(found, expected.transpose(order)[turn])


def test_an_eye_that_is_not_there_does_not_move_the_midline():
    expected = head(missing="Eye_R")
    given = expected.copy()
    given[tuple(np.argwhere(expected == 1)[:6].T)] = 2  # a speck of the missing eye in the other one
    np.testing.assert_array_equal(on_own_sides(given, PAIRS, spacing_mm=SPACING_MM), expected)


def test_where_nothing_tells_the_midline_nothing_is_changed():
    only_one = np.where(np.isin(head(), (1, 3)), head(), 0)
    half_swapped = head()
    half_swapped[tuple(np.argwhere(half_swapped == 1)[::2].T)] = 2
    for given in (only_one, half_swapped, np.zeros(SHAPE, np.uint8)):
        np.testing.assert_array_equal(on_own_sides(given, PAIRS, spacing_mm=SPACING_MM), given)
    np.testing.assert_array_equal(on_own_sides(head(), [], spacing_mm=SPACING_MM), head())


def test_half_a_head_whose_one_eye_has_both_names_keeps_its_nerve():
    """The midline that such an eye tells lies in the eye, and the nerve across it."""
    half = np.where(np.isin(head(), (1, 3)), head(), 0)
    places = np.argwhere(half == 1)
    half[tuple(places[places[:, 2] < np.median(places[:, 2])].T)] = 2
    assert {1, 2, 3} <= set(np.unique(half))
    np.testing.assert_array_equal(on_own_sides(half, PAIRS, spacing_mm=SPACING_MM), half)


def test_what_one_organ_alone_gives_away_becomes_background_and_what_it_takes_is_its_own():
    expected, given = head(), with_wrong_sides(head())
    result = after_own_side(given, [1], PAIRS, spacing_mm=SPACING_MM)
    np.testing.assert_array_equal(result == 1, expected == 1)
    assert np.count_nonzero((given == 1) & (result == 0)) == 9
    np.testing.assert_array_equal(result[np.isin(given, (3, 4, 5))], given[np.isin(given, (3, 4, 5))])


def test_a_model_brings_the_step_and_what_changed_is_told_for_both_organs():
    content = {"organs": {organ: [{"step": OWN_SIDE}] for pair in NAMES for organ in pair}}
    steps = read_steps(content, LABELS, "model.json", NAMES)
    assert steps["Eye_L"] == (Step(OWN_SIDE),)
    given = with_wrong_sides(head())
    result, changes = Postprocessing("model.json", steps, pairs=NAMES).apply(given, LABELS, spacing_mm=SPACING_MM)
    np.testing.assert_array_equal(result, head())
    assert changes == {
        "Eye_L": Change(12, 9, False),
        "Eye_R": Change(9, 12, False),
        "OpticNrv_L": Change(5, 0, False),
        "OpticNrv_R": Change(0, 5, False),
    }


def test_an_organ_without_a_partner_has_no_side():
    with pytest.raises(ValueError, match="'OpticChiasm' has the step own_side, and no left or right partner"):
        read_steps({"organs": {"OpticChiasm": [{"step": OWN_SIDE}]}}, LABELS, "model.json", NAMES)
