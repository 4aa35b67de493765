import numpy as np
import pytest

from nnunet_ext.cleaning.head import HEAD_MM, HeadPlace, has_crown, image_region

SPACING_MM = (5.0, 2.0, 3.0)
SHAPE = (60, 110, 130)  # 300 x 220 x 390 mm


def patient() -> np.ndarray:
    """A head of 160 x 200 mm down to slice 26, a neck, and shoulders 360 mm wide below slice 16."""
    z, y, x = np.indices(SHAPE)
    mm = [(i + 0.5) * s for i, s in zip((z, y, x), SPACING_MM, strict=True)]
    head = ((mm[1] - 110) / 100) ** 2 + ((mm[2] - 195) / 80) ** 2 <= 1
    neck = ((mm[1] - 120) / 60) ** 2 + ((mm[2] - 195) / 60) ** 2 <= 1
    shoulders = (np.abs(mm[1] - 120) < 90) & (np.abs(mm[2] - 195) < 180)
    return (head & (z >= 26) & (z < 55)) | (neck & (z < 26)) | (shoulders & (z < 16))


def test_the_head_is_as_wide_as_the_uppermost_150_mm():
    place = HeadPlace.of(patient(), SPACING_MM)
    assert place.top == 55
    assert HEAD_MM == 150
    assert place.head == ((5, 105), (38, 92))  # 200 mm and 162 mm
    assert place.body == ((0, 55), (5, 105), (5, 125))


def test_a_box_ends_below_the_crown_and_beside_the_head():
    place = HeadPlace.of(patient(), SPACING_MM)
    box = place.box(below_crown_mm=220, beyond_head_mm=((4, 0), (9, 30)), margin_mm=10)
    assert box == ((55 - 44, 57), (3, 105), (35, 102))


def test_a_box_reaches_no_further_than_the_body_and_its_margin():
    body = np.zeros(SHAPE, bool)
    body[20:50, 40:60, 50:80] = True
    place = HeadPlace.of(body, SPACING_MM)
    assert place.box(below_crown_mm=900, beyond_head_mm=((90, 90), (90, 90)), margin_mm=10) == place.whole_box(10)
    assert place.whole_box(10) == ((18, 52), (35, 65), (46, 84))
    assert place.whole_box(1000) == tuple((0, n) for n in SHAPE)


def test_a_few_voxels_above_the_crown_are_not_the_crown():
    body = patient()
    body[58, 50, 60:70] = True  # 60 mm2
    assert HeadPlace.of(body, SPACING_MM).top == 55
    body[58, 50:70, 60:70] = True  # 1200 mm2
    assert HeadPlace.of(body, SPACING_MM).top == 59


def test_nobody_has_no_head():
    assert HeadPlace.of(np.zeros((4, 5, 6), bool), SPACING_MM) is None


def test_a_body_without_a_slice_of_some_size_is_placed_all_the_same():
    body = np.zeros((4, 5, 6), bool)
    body[1:3, 2, 3] = True
    assert HeadPlace.of(body, SPACING_MM).top == 3


# ------------------------------------------------------------------------------------------------ field of view


def test_voxels_of_the_lowest_value_at_the_border_lie_outside_the_field_of_view():
    image = np.random.default_rng(0).uniform(1, 9, (7, 8, 9))
    image[:3] = 0.5
    image[5, 4, 4] = 0.5  # dark, but inside
    region = image_region(image)
    assert not region[:3].any()
    assert region[3:].all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_the_field_of_view_may_end_at_any_side(axis, end):
    image = np.random.default_rng(0).uniform(1, 9, (7, 8, 9))
    image[(slice(None),) * axis + (end,)] = 0.0
    assert np.count_nonzero(~image_region(image)) == image.size // image.shape[axis]


def test_an_image_without_a_border_of_one_value_is_seen_everywhere():
    image = np.random.default_rng(0).uniform(1, 9, (7, 8, 9))
    image[3, 4, 5] = 0.0
    assert image_region(image).all()


def test_a_body_that_the_image_cuts_has_no_crown():
    assert has_crown(np.array([100.0, 100, 90, 60, 20, 0, 0]), 20.0)  # air above
    assert has_crown(np.array([100.0, 100, 90, 70]), 20.0)  # cut, but near the end
    assert not has_crown(np.array([100.0, 100, 90, 71]), 20.0)
    assert not has_crown(np.array([400.0, 100, 90, 71]), 60.0)  # shoulders further down do not count
