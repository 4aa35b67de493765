"""The rule that places the box: votes, sizes and what happens when organs are missing or misplaced."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roi_heads import CHIASM, EYE_L, EYE_R, HEAD, LENS_L, SHAPE, SPACING_MM, at, fitted, head, rule

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.roi import RoiRule, box_around, find_roi, organ_extents, vote_centre

# ------------------------------------------------------------------------------------------------ extents


def test_organ_extents_are_in_mm_from_the_outer_edge_of_the_first_voxel():
    extents = organ_extents(head({5: np.s_[1:3, 2:4, 4:6]}, shape=(5, 7, 11)), spacing_mm=SPACING_MM)
    assert list(extents) == [5]
    assert extents[5].lower_mm == pytest.approx((3.0, 1.6, 2.8))
    assert extents[5].upper_mm == pytest.approx((9.0, 3.2, 4.2))
    assert extents[5].centroid_mm == pytest.approx((6.0, 2.4, 3.5))
    assert extents[5].volume_ml == pytest.approx(6.0 * 1.6 * 1.4 / 1000)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.float32])
def test_organ_extents_do_not_depend_on_the_type_of_the_label_map(dtype):
    assert organ_extents(head(dtype=dtype), spacing_mm=SPACING_MM) == organ_extents(head(), spacing_mm=SPACING_MM)


def test_organ_extents_ignore_negative_values_and_absent_labels():
    label_map = head({7: np.s_[1, 1, 1]}, shape=(5, 7, 11), dtype=np.int8)
    label_map[4] = -1
    assert list(organ_extents(label_map, spacing_mm=SPACING_MM)) == [7]
    assert organ_extents(np.full((2, 3, 5), -1, np.int8), spacing_mm=SPACING_MM) == {}


def test_clean_drops_a_small_far_component_and_keeps_a_large_one():
    organ, speck = np.s_[1:3, 1:3, 1:3], np.s_[4, 6, 10]  # 8 voxels and 1: a share of 0.125
    alone = organ_extents(head({1: organ}, shape=(5, 7, 11)), spacing_mm=SPACING_MM)
    label_map = head({1: organ}, shape=(5, 7, 11))
    label_map[speck] = 1
    assert organ_extents(label_map, spacing_mm=SPACING_MM, clean=True) == alone
    assert organ_extents(label_map, spacing_mm=SPACING_MM)[1].upper_mm == pytest.approx((15.0, 5.6, 7.7))
    label_map[4, 6, 9:11] = 1  # 2 of 8 voxels: a share of 0.25 is kept
    assert organ_extents(label_map, spacing_mm=SPACING_MM, clean=True)[1].upper_mm == pytest.approx((15.0, 5.6, 7.7))


def test_clean_takes_voxels_that_touch_at_a_corner_for_one_component():
    label_map = np.zeros((5, 7, 11), np.uint8)
    label_map[1:3, 1:3, 1:3] = 1
    label_map[3, 3, 3] = 1  # a thin nerve may hang on by a corner
    assert organ_extents(label_map, spacing_mm=(1, 1, 1), clean=True)[1].upper_mm == (4, 4, 4)


# ------------------------------------------------------------------------------------------------ votes


def test_two_eyes_alone_place_the_same_box_as_all_organs():
    all_organs = find_roi(head(), fitted(), spacing_mm=SPACING_MM)
    eyes = find_roi(head({k: HEAD[k] for k in (EYE_L, EYE_R)}), fitted(), spacing_mm=SPACING_MM)
    assert all_organs.box == eyes.box
    assert all_organs.voters == (EYE_L, EYE_R, LENS_L, CHIASM)
    assert eyes.voters == (EYE_L, EYE_R)
    assert roi.label_crop_pass_rate(head(), eyes.box) == 1.0


def test_any_single_organ_places_the_same_box():
    expected = find_roi(head(), fitted(), spacing_mm=SPACING_MM).box
    for value, where in HEAD.items():
        assert find_roi(head({value: where}), fitted(), spacing_mm=SPACING_MM).box == expected


def test_an_organ_far_from_where_the_others_place_it_is_dropped_and_named():
    misplaced = HEAD | {LENS_L: np.s_[12:14, 36:39, 2:6]}  # 21, 26 and 28 mm off
    decision = find_roi(head(misplaced), fitted(), spacing_mm=SPACING_MM)
    assert decision.outliers == (LENS_L,)
    assert decision.voters == (EYE_L, EYE_R, CHIASM)
    assert decision.box == find_roi(head(), fitted(), spacing_mm=SPACING_MM).box


def test_votes_are_weighted_by_their_reliability():
    centre, used, dropped = vote_centre({1: at(0, 0, 0), 2: at(10, 0, 0)}, rule({1: 2.0, 2: 4.0}))
    assert centre == pytest.approx((2.0, 0, 0))  # weights 1/4 and 1/16: 10 * (1/16) / (5/16)
    assert used == (1, 2)
    assert dropped == ()


@pytest.mark.parametrize(("reliable", "unreliable"), [(1.0, 2.0), (1.0, 10.0), (3.0, 12.0)])
@pytest.mark.parametrize("reliable_comes_first", [True, False])
def test_of_two_organs_that_disagree_the_reliable_one_is_kept(reliable, unreliable, reliable_comes_first):
    good, bad = (1, 2) if reliable_comes_first else (2, 1)
    extents = {good: at(20, 20, 20), bad: at(90, 20, 20)}
    centre, used, dropped = vote_centre(extents, rule({good: reliable, bad: unreliable}))
    assert (used, dropped) == ((good,), (bad,))
    assert centre == pytest.approx((20, 20, 20))


def test_two_organs_that_differ_by_less_than_the_spread_of_the_unreliable_one_both_vote():
    _, used, _ = vote_centre({1: at(20, 20, 20), 2: at(50, 20, 20)}, rule({1: 1.0, 2: 10.0}))
    assert used == (1, 2)  # 30 mm are 3 spreads


def test_labels_unknown_to_the_rule_do_not_vote():
    assert vote_centre({9: at(1, 2, 3)}, rule({1: 1.0})) == (None, (), ())


@pytest.mark.parametrize("label_map", [np.zeros((5, 7, 11), np.uint8), head({9: np.s_[1, 1, 1]}, shape=(5, 7, 11))])
def test_find_roi_without_a_known_organ_is_the_whole_volume(label_map):
    decision = find_roi(label_map, fitted(), spacing_mm=SPACING_MM)
    assert decision.box == ((0, 5), (0, 7), (0, 11))
    assert not decision.found
    assert decision.centre_mm is None


def test_find_roi_ignores_a_far_speck_of_a_found_organ():
    label_map = head()
    label_map[13, 39, 0] = EYE_L
    assert (
        find_roi(label_map, fitted(), spacing_mm=SPACING_MM).box
        == find_roi(head(), fitted(), spacing_mm=SPACING_MM).box
    )


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)))
def test_the_box_follows_a_shifted_head(shift):
    shape = (30, 60, 90)
    small = RoiRule((12.0, 8.0, 14.0), fitted().offset_mm, fitted().spread_mm)

    def moved(by):
        return head({k: tuple(slice(s.start + 8 + d, s.stop + 8 + d) for s, d in zip(w, by, strict=True))
                     for k, w in HEAD.items()}, shape=shape)  # fmt: skip

    here = find_roi(moved((0, 0, 0)), small, spacing_mm=SPACING_MM).box
    there = find_roi(moved(shift), small, spacing_mm=SPACING_MM).box
    for (a, b), (c, d), s in zip(here, there, shift, strict=True):
        assert abs(c - a - s) <= 1  # the centre may lie on the edge between two voxels
        assert d - c == b - a


# ------------------------------------------------------------------------------------------------ box


def test_forty_voxels_of_0_8_mm_stay_forty():
    (box,) = box_around([40.0], [40 * 0.8], spacing_mm=[0.8], shape=[100])
    assert box == (30, 70)


@pytest.mark.parametrize("spacing", [0.8, 0.7, 1.1, 2.3])
def test_a_spacing_read_from_a_file_as_32_bit_float_costs_no_voxel(spacing):
    for stored in (spacing, float(np.float32(spacing))):
        for n in range(1, 200):
            ((lower, upper),) = box_around([100.0], [n * spacing], spacing_mm=[stored], shape=[1000])
            assert upper - lower == n


def test_a_box_is_rounded_to_whole_voxels_that_fit_into_it():
    assert box_around([15.0, 8.0, 7.0], [10.0, 3.0, 3.6], spacing_mm=SPACING_MM, shape=(14, 40, 60)) == (
        (4, 7),  # 3 voxels of 3 mm in 10 mm; centre 5 voxels - 1.5 = 3.5, to even
        (8, 11),  # 3 of 0.8 mm in 3 mm; 10 - 1.5 = 8.5, to even
        (8, 13),  # 5 of 0.7 mm in 3.6 mm; 10 - 2.5 = 7.5, to even
    )


def test_a_box_that_leaves_the_volume_is_moved_inside():
    assert box_around([0.0, 32.0, 21.0], [9.0, 4.0, 3.5], spacing_mm=SPACING_MM, shape=SHAPE) == (
        (0, 3),
        (35, 40),
        (28, 33),
    )


def test_a_volume_smaller_than_the_box_is_the_box():
    assert box_around([1.0, 1.0, 1.0], [100.0] * 3, spacing_mm=SPACING_MM, shape=(5, 7, 11)) == roi.whole((5, 7, 11))


axis = st.tuples(
    st.floats(-20, 120),  # centre
    st.floats(0.5, 90),  # size
    st.floats(0.3, 5),  # spacing
    st.integers(1, 60),  # voxels
)


@settings(max_examples=300, deadline=None)
@given(st.tuples(axis, axis, axis))
def test_a_box_is_never_larger_than_asked_for_inside_the_volume_and_as_near_as_possible(axes):
    centre, size, spacing, shape = zip(*axes, strict=True)
    for c, mm, s, n, (lower, upper) in zip(
        *(centre, size, spacing, shape, box_around(centre, size, spacing_mm=spacing, shape=shape)), strict=True
    ):
        assert 0 <= lower < upper <= n
        assert (upper - lower) * s <= max(mm + 1e-4 * s, s)
        assert upper - lower == n or (upper - lower + 1) * s > mm  # not a voxel smaller than need be
        if lower > 0 and upper < n:
            assert abs((lower + upper) / 2 * s - c) <= s / 2 + 1e-9


# ------------------------------------------------------------------------------------------------ pass rate, border


def test_label_crop_pass_rate_counts_the_organ_voxels_inside():
    label_map = head({1: np.s_[1, 1, 0:3], 2: np.s_[2, 2, 0:5]}, shape=(5, 7, 11))  # 8 voxels
    assert roi.label_crop_pass_rate(label_map, ((0, 5), (0, 7), (0, 11))) == 1.0
    assert roi.label_crop_pass_rate(label_map, ((0, 2), (0, 7), (0, 11))) == 3 / 8
    assert roi.label_crop_pass_rate(label_map, ((0, 5), (0, 7), (1, 3))) == 4 / 8
    assert math.isnan(roi.label_crop_pass_rate(np.zeros((5, 7, 11)), ((0, 5), (0, 7), (0, 11))))


def test_touches_border_names_the_sides_an_organ_reaches():
    label_map = head({1: np.s_[2, 2:5, 5]}, shape=(5, 7, 11))
    assert roi.touches_border(label_map, ((1, 4), (1, 6), (4, 7))) == []
    assert roi.touches_border(label_map, ((2, 4), (1, 6), (4, 7))) == [0]
    assert roi.touches_border(label_map, ((1, 3), (1, 6), (4, 7))) == [1]
    assert roi.touches_border(label_map, ((1, 4), (2, 5), (4, 7))) == [2, 3]
    assert roi.touches_border(label_map, ((1, 4), (1, 6), (5, 6))) == [4, 5]


def test_touches_border_leaves_out_the_sides_of_the_volume():
    label_map = head({1: np.s_[:, :, :]}, shape=(5, 7, 11))
    assert roi.touches_border(label_map, ((0, 5), (0, 7), (0, 11))) == []
    assert roi.touches_border(label_map, ((0, 4), (0, 7), (3, 11))) == [1, 4]


# ------------------------------------------------------------------------------------------------ the plan


def test_a_rule_survives_the_plans_file():
    before = fitted(jitter_mm=5.0)
    plan = {**before.to_plan(), "margin_mm": 2.0, "needed_mm": [1.0, 2.0, 3.0]}
    after = RoiRule.from_plan(json.loads(json.dumps(plan)))
    assert after == before
    assert all(isinstance(k, int) for k in after.offset_mm)


@pytest.mark.parametrize("key", ["size_mm", "offset_mm", "spread_mm", "jitter_mm"])
def test_a_plan_without_a_key_is_named(key):
    plan = fitted().to_plan()
    del plan[key]
    with pytest.raises(ValueError, match=f"no '{key}'.*-pl CascadeOARPlanner"):
        RoiRule.from_plan(plan)


def test_the_organs_left_out_are_read_back_from_the_plan_and_older_plans_have_none():
    plan = json.loads(json.dumps(replace(fitted(), left_out=(1, 2)).to_plan()))
    assert RoiRule.from_plan(plan).left_out == (1, 2)
    assert roi.left_out_labels({"roi": plan}) == (1, 2)
    del plan["left_out"]
    assert RoiRule.from_plan(plan).left_out == ()
    assert roi.left_out_labels({"roi": plan}) == roi.left_out_labels({}) == ()


def test_labels_taken_for_background_keep_the_label_maps_type_and_the_callers_array():
    label_map = head()
    changed = roi.without(label_map, (EYE_L, CHIASM))
    assert changed.dtype == label_map.dtype
    assert set(np.unique(changed)) == {0, EYE_R, LENS_L}
    assert set(np.unique(label_map)) == {0, EYE_L, EYE_R, LENS_L, CHIASM}


# ------------------------------------------------------------------------------------------------ a grown box

OUTER = ((0, 100), (0, 100), (0, 100))
BOX = ((20, 40), (20, 40), (20, 40))
LOW_X, HIGH_X = 4, 5


def along_x(touched, organs, most=None) -> tuple[int, int]:
    found = roi.grown(BOX, touched, (*BOX[:2], organs), step=(5, 5, 5), outer=OUTER, most=most and (20, 20, most))
    assert found[:2] == BOX[:2]
    return found[2]


def test_a_box_grows_where_an_organ_touches_it_and_nowhere_else():
    assert along_x([LOW_X], (20, 30)) == (15, 40)
    assert along_x([LOW_X, HIGH_X], (20, 40)) == (15, 45)
    assert roi.grown(BOX, [LOW_X], BOX, step=(5, 5, 5), outer=((0, 100), (0, 100), (18, 100)))[2] == (18, 40)


def test_at_its_largest_the_other_side_gives_way_as_far_as_no_organ_is_near():
    assert along_x([LOW_X], (20, 30), most=22) == (15, 37)
    assert along_x([HIGH_X], (30, 40), most=22) == (23, 45)
    assert along_x([LOW_X], (20, 33), most=22) == (20, 40)  # an organ is too near: this axis stays


def test_organs_everywhere_do_not_make_it_larger_than_believable():
    box = BOX
    for _ in range(10):
        box = roi.grown(box, range(6), box, step=(5, 5, 5), outer=OUTER, most=(30, 30, 30))
    assert box == ((15, 45),) * 3


def test_the_largest_box_has_room_for_a_larger_head_and_the_margin():
    plan = {"size_mm": [80.0, 90.0, 130.0], "needed_mm": [60.0, 60.0, 100.0], "margin_mm": 10.0}
    assert roi.largest_size_mm(plan) == (95.0, 95.0, 145.0)
    assert roi.largest_size_mm({**plan, "size_mm": [99.0, 90.0, 130.0]})[0] == 99.0  # never below its own size
    assert roi.largest_size_mm({"size_mm": [80.0, 90.0, 130.0]}) is None  # a plan of version 0.1.0


def test_the_box_of_all_organs_in_a_box():
    label_map = np.zeros((9, 10, 11), np.uint8)
    label_map[2, 4, 5], label_map[3, 6, 9], label_map[0, 0, 0] = 1, 7, 3
    assert roi.occupied(label_map, ((1, 9), (0, 10), (2, 11))) == ((2, 4), (4, 7), (5, 10))
    assert roi.occupied(np.zeros_like(label_map), ((1, 9), (0, 10), (2, 11))) == ((1, 9), (0, 10), (2, 11))
