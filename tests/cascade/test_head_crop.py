import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.head_crop import BODY_MARGIN_MM, PLANS_KEY, ROOM_MM, HeadCrop
from nnunet_ext.cleaning.head import HeadPlace

SPACING_MM = (3.0, 2.0, 2.5)
SHAPE = (110, 120, 150)


def body(shoulders: bool = True) -> np.ndarray:
    """A head of 180 x 150 mm, its crown 30 mm below the top of the volume, on a neck and shoulders."""
    mask = np.zeros(SHAPE, bool)
    mask[40:100, 15:105, 45:105] = True
    mask[:40, 40:80, 55:95] = True
    mask[: 20 if shoulders else 0, 20:100, 5:145] = True
    return mask


def case(organs: dict[int, tuple], shoulders: bool = True):
    label_map = np.zeros(SHAPE, np.int16)
    for value, where in organs.items():
        label_map[where] = value
    return HeadPlace.of(body(shoulders), SPACING_MM), roi.organ_extents(label_map, spacing_mm=SPACING_MM)


EYE, LARYNX = np.s_[70:78, 17:27, 50:62], np.s_[22:30, 42:60, 70:80]


def test_eyes_ask_for_the_head_and_some_room():
    crop = HeadCrop.fit([case({1: EYE})])
    assert crop == HeadCrop(150.0 + ROOM_MM, ((BODY_MARGIN_MM,) * 2,) * 2)
    box = crop.box(case({1: EYE})[0])
    assert box == ((40, 104), (10, 110), (41, 109))  # the shoulders are gone


def test_a_larynx_pulls_the_crop_down():
    crop = HeadCrop.fit([case({1: EYE}), case({1: EYE, 2: LARYNX})])
    assert crop.below_crown_mm == (100 - 22) * 3 + ROOM_MM
    assert crop.box(case({1: EYE})[0])[0][0] == 12


def test_an_organ_in_front_of_the_head_is_inside():
    chin = np.s_[45:50, 8:20, 70:80]
    place = HeadPlace.of(
        body() | np.isin(np.arange(SHAPE[1]), range(8, 15))[None, :, None] & np.zeros(SHAPE, bool), SPACING_MM
    )
    organs = case({1: chin})[1]
    crop = HeadCrop.fit([(place, organs)])
    assert crop.beyond_head_mm[0] == ((15 - 8) * 2.0 + ROOM_MM, BODY_MARGIN_MM)


@settings(max_examples=40, deadline=None)
@given(
    starts=st.lists(st.tuples(st.integers(0, 95), st.integers(0, 110), st.integers(0, 140)), min_size=1, max_size=4),
    shoulders=st.booleans(),
)
def test_every_training_organ_inside_the_body_lies_inside_the_crop(starts, shoulders):
    mask = body(shoulders)
    cases = []
    for start in starts:
        where = tuple(slice(a, a + 5) for a in start)
        if mask[where].all():
            cases.append(case({1: where}, shoulders))
    crop = HeadCrop.fit(cases)
    for place, organs in cases:
        for organ in organs.values():
            for (first, end), low, high, mm in zip(
                crop.box(place), organ.lower_mm, organ.upper_mm, SPACING_MM, strict=True
            ):
                assert first * mm <= low + 1e-6
                assert end * mm >= high - 1e-6


def test_a_plan_holds_the_crop_as_plain_numbers():
    crop = HeadCrop(181.0, ((10.0, 12.0), (40.0, 10.0)))
    plan = json.loads(json.dumps(crop.to_plan()))
    assert plan == {"head_crop": {"below_crown_mm": 181.0, "beyond_head_mm": [[10.0, 12.0], [40.0, 10.0]]}}
    assert HeadCrop.from_plan(plan) == crop


@pytest.mark.parametrize("plan", [{}, {PLANS_KEY: None}])
def test_an_older_plan_has_none(plan):
    assert HeadCrop.from_plan(plan) is None


def trunk(below: int = 0):
    """A body that goes through the whole volume but for `below` slices, and an organ in it."""
    mask = np.zeros(SHAPE, bool)
    mask[below:, 20:100, 25:125] = True
    label_map = np.zeros(SHAPE, np.int16)
    label_map[30:40, 50:60, 60:70] = 1
    return HeadPlace.of(mask, SPACING_MM), roi.organ_extents(label_map, spacing_mm=SPACING_MM)


def test_trunks_are_seen_whole_however_high_their_images_begin():
    crop = HeadCrop.fit([trunk(), trunk(below=10), case({1: EYE})])
    assert crop == HeadCrop(None, ())
    assert crop.box(trunk(below=10)[0]) == ((6, 110), (15, 105), (21, 129))  # 10 mm around the body, within the volume
    plan = json.loads(json.dumps(crop.to_plan()))
    assert plan == {"whole_body": True}
    assert HeadCrop.from_plan(plan) == crop


def test_one_cut_body_among_heads_is_measured_like_them():
    crop = HeadCrop.fit([case({1: EYE}), case({1: EYE}, shoulders=False), trunk()])
    assert crop.below_crown_mm == (110 - 30) * 3 + ROOM_MM
