"""The box fitted to training cases, and the organs that do not fit a crop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roi_heads import SHAPE, SPACING_MM, at, head

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.roi import OrganExtent, RoiRule, find_roi, organ_extents, vote_centre
from nnunet_ext.cascade.roi_fitting import fit_roi, too_large

# ------------------------------------------------------------------------------------------------ fitting


def test_the_fitted_box_is_the_organs_bounding_box_where_there_is_one_case():
    fit = fit_roi({"a": organ_extents(head(), spacing_mm=SPACING_MM)}, margin_mm=2.0, jitter_mm=1.5)
    needed = (5 * 3.0, 27 * 0.8, 40 * 0.7)  # z 4..9, y 3..30, x 10..50
    assert fit.needed_mm == pytest.approx(needed)
    assert fit.rule.size_mm == pytest.approx([n + 4 for n in needed])
    assert fit.rule.jitter_mm == 1.5
    assert set(fit.rule.spread_mm.values()) == {roi.MIN_SPREAD_MM}
    assert fit.incomplete_cases == []


def test_offsets_are_medians_and_spreads_say_how_far_votes_lie_from_the_centre():
    # Organ 2 lies 10, 12 and 20 mm above organ 1; both reach 2 mm around their centroid. Centres: 5, 6 and 10 mm above 1.
    cases = {f"c{d}": {1: at(20, 20, 20), 2: at(20 + d, 20, 20)} for d in (10, 12, 20)}
    fit = fit_roi(cases, margin_mm=0.0, jitter_mm=0.0)
    assert fit.rule.offset_mm == {1: pytest.approx((-6, 0, 0)), 2: pytest.approx((6, 0, 0))}
    assert fit.rule.spread_mm == pytest.approx({1: math.sqrt(17 / 3), 2: math.sqrt(17 / 3)})  # 1, 0 and 4 mm off
    # The voted centre is the middle again (equal weights); the case of 20 mm reaches (20 + 4) / 2 = 12 mm.
    assert fit.needed_mm == pytest.approx((24, 4, 4))


def test_a_case_with_a_missing_organ_is_listed_and_still_fits():
    cases = {"full": {1: at(20, 20, 20), 2: at(40, 20, 20)}, "half": {2: at(60, 20, 20)}}
    fit = fit_roi(cases, margin_mm=0.0, jitter_mm=0.0)
    assert fit.incomplete_cases == ["half"]
    assert fit.rule.offset_mm == {1: (-10, 0, 0), 2: (10, 0, 0)}
    assert vote_centre(cases["half"], fit.rule)[0] == (50, 20, 20)


def test_without_a_complete_case_organs_seen_apart_are_put_together():
    cases = {"a": {1: at(20, 20, 20), 2: at(40, 20, 20)}, "b": {2: at(40, 20, 20), 3: at(40, 50, 20)}}
    fit = fit_roi(cases, margin_mm=0.0, jitter_mm=0.0)
    assert set(fit.rule.offset_mm) == {1, 2, 3}
    assert fit.incomplete_cases == ["a", "b"]
    assert_every_organ_inside(cases, fit)


def test_two_groups_without_a_common_organ_are_each_placed():
    cases = {"a": {1: at(20, 20, 20), 2: at(40, 20, 20)}, "b": {3: at(10, 50, 20)}}
    fit = fit_roi(cases, margin_mm=0.0, jitter_mm=0.0)
    assert fit.rule.offset_mm == {1: (-10, 0, 0), 2: (10, 0, 0), 3: (0, 0, 0)}
    assert_every_organ_inside(cases, fit)


def test_a_case_without_organs_is_left_out():
    fit = fit_roi({"a": {1: at(20, 20, 20)}, "empty": {}}, margin_mm=0.0, jitter_mm=0.0)
    assert fit.needed_mm == (4, 4, 4)


@pytest.mark.parametrize("cases", [{}, {"a": {}}])
def test_fit_roi_raises_without_any_organ(cases):
    with pytest.raises(ValueError, match="Check labelsTr"):
        fit_roi(cases, margin_mm=0.0, jitter_mm=0.0)


def assert_every_organ_inside(cases, fit):
    for name, organs in cases.items():
        centre, _, _ = vote_centre(organs, fit.rule)
        half = np.divide(fit.rule.size_mm, 2) + 1e-6
        for organ in organs.values():
            assert (np.subtract(organ.lower_mm, centre) >= -half).all(), name
            assert (np.subtract(organ.upper_mm, centre) <= half).all(), name


coordinate = st.floats(0, 100)
organ = st.builds(at, coordinate, coordinate, coordinate, half_mm=st.floats(0.5, 10))
case = st.dictionaries(st.integers(1, 4), organ, min_size=1)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), case, min_size=1))
def test_every_training_organ_lies_inside_the_box_its_rule_places(cases):
    fit = fit_roi(cases, margin_mm=0.0, jitter_mm=0.0)
    assert set(fit.rule.offset_mm) == set(fit.rule.spread_mm) == set().union(*cases.values())
    assert_every_organ_inside(cases, fit)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_training_voxel_lies_inside_the_voxel_box_with_a_margin_of_one_voxel(seed):
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(3):
        organs = {}
        for value in (1, 2, 3):
            lower = [int(rng.integers(2, n - 6)) for n in SHAPE]
            organs[value] = tuple(slice(a, a + int(rng.integers(1, 4))) for a in lower)
        maps.append(head(organs))
    extents = {str(i): organ_extents(m, spacing_mm=SPACING_MM) for i, m in enumerate(maps)}
    needed = fit_roi(extents, margin_mm=0.0, jitter_mm=0.0).rule
    # Whole voxels of at most the size, centred to half a voxel: a voxel on each side makes up for both.
    size = tuple(mm + 2 * s for mm, s in zip(needed.size_mm, SPACING_MM, strict=True))
    grown = RoiRule(size, needed.offset_mm, needed.spread_mm)
    for label_map in maps:
        assert roi.label_crop_pass_rate(label_map, find_roi(label_map, grown, spacing_mm=SPACING_MM).box) == 1.0


# ------------------------------------------------------------------------------------------------ crops of given size

#: Eyes of 10 mm, a gland of 6 mm and a nerve of 6 x 6 x 30 mm.
NERVE = OrganExtent((0, 20, 0), (-3, 5, -3), (3, 35, 3), 1.08)
FACE = {1: at(0, 0, -30, half_mm=5), 2: at(0, 0, 30, half_mm=5), 3: at(0, 0, 0, half_mm=3), 4: NERVE}


def large_for(size_mm, cases=None, *, pairs=((1, 2),), voxel_mm=(1.0, 1.0, 1.0)) -> dict:
    return too_large(cases or {"face": FACE}, size_mm, voxel_mm=voxel_mm, pairs=pairs)


def test_organs_too_large_for_a_crop_around_them_are_named_with_their_size():
    assert large_for((11, 31, 11)) == {}
    assert large_for((11, 30, 11)) == {4: pytest.approx((6, 30, 6))}
    assert large_for((10, 31, 11)) == {1: pytest.approx((10, 10, 10)), 2: pytest.approx((10, 10, 10))}
    assert set(large_for((5, 5, 5))) == {1, 2, 3, 4}


def test_a_crop_loses_half_a_voxel_on_each_side_to_whole_voxels():
    assert large_for((11, 31, 11), voxel_mm=(1.1, 1.0, 1.0)).keys() == {1, 2}


def test_a_pair_of_which_one_is_too_large_is_left_out_together():
    cases = {"face": FACE | {2: at(0, 0, 30, half_mm=7)}}
    assert large_for((12, 40, 40), cases).keys() == {1, 2}
    assert large_for((12, 40, 40), cases, pairs=()).keys() == {2}
    assert large_for((12, 40, 40), {"face": {2: cases["face"][2]}}).keys() == {2}  # no case has its partner


@pytest.mark.parametrize(("n_large", "left_out"), [(10, set()), (11, {3})])
def test_an_organ_fits_that_is_held_in_half_of_its_cases(n_large, left_out):
    cases = {f"face_{i:02d}": FACE | ({3: at(0, 0, 0, half_mm=30)} if i < n_large else {}) for i in range(20)}
    assert large_for((40, 50, 40), cases).keys() == left_out
