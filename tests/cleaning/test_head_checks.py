"""Images of whole heads pass, and what is no whole head is told by name. The heads are ellipsoids on a neck."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from case_folders import DATA

from nnunet_ext.cleaning.head_checks import check_head, lacks_head
from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.phantom.torso import make_torso

#: Half the height, length and breadth of a head in mm.
ADULT, CHILD, INFANT = (115.0, 98.0, 78.0), (98.0, 85.0, 66.0), (72.0, 64.0, 52.0)
SPACING_MM = (3.0, 2.2, 1.9)
MR = {"air": 4.0, "skin": 500.0, "skull": 20.0, "brain": 300.0}
CT = {"air": -1000.0, "skin": 30.0, "skull": 900.0, "brain": 35.0}


def head(size_mm=ADULT, *, values=MR, spacing_mm=SPACING_MM, noise=3.0, stem=False) -> np.ndarray:
    """Skin of 6 % of the size, skull of 8 % and a brain, in air, `(Z, Y, X)`. The neck goes on to the lowest slice."""
    extent_mm = [2 * radius + 40 for radius in size_mm]
    axes = [(np.arange(round(e / mm)) + 0.5) * mm - e / 2 for e, mm in zip(extent_mm, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    depth = np.sqrt((z / size_mm[0]) ** 2 + (y / size_mm[1]) ** 2 + (x / size_mm[2]) ** 2)
    image = np.full(depth.shape, values["air"])
    image[(z < 0) & ((y / (0.55 * size_mm[1])) ** 2 + (x / (0.65 * size_mm[2])) ** 2 < 1)] = values["skin"]
    image[depth < 1] = values["skin"]
    image[depth < 0.94] = values["skull"]
    image[depth < 0.86] = values["brain"]
    if stem:
        image[(z < 0) & (y**2 + x**2 < (0.15 * size_mm[1]) ** 2) & (z > -1.05 * size_mm[0])] = values["brain"]
    return image + noise * np.random.default_rng(0).standard_normal(image.shape)


def found(image: np.ndarray, *, spacing_mm=SPACING_MM, is_ct=False) -> list[tuple[str, list[str]]]:
    """Kinds of the messages, and of the sides in them."""
    messages = check_head("T1", image, spacing_mm=spacing_mm, is_ct=is_ct)
    return [(message.kind, [side.kind for side in message.values.get("sides", ())]) for message in messages]


@pytest.mark.parametrize("spacing_mm", [(1.5, 2.2, 1.9), (7.0, 1.1, 0.9)])
@pytest.mark.parametrize("size_mm", [ADULT, CHILD, INFANT])
@pytest.mark.parametrize("values", [MR, CT])
def test_a_whole_head_of_any_size_passes_with_noise_around_it_and_masked(size_mm, values, spacing_mm):
    image, is_ct = head(size_mm, values=values, spacing_mm=spacing_mm), values is CT
    masked = np.where(head(size_mm, values=MR, spacing_mm=spacing_mm, noise=0) > 4, image, values["air"])
    for one in (image, masked):
        assert found(one, spacing_mm=spacing_mm, is_ct=is_ct) == []


@pytest.mark.parametrize(
    ("part", "side"),
    [
        (np.s_[:-30], "side_top"),
        (np.s_[65:], "side_bottom"),
        (np.s_[:, 45:], "side_front"),
        (np.s_[:, :-45], "side_back"),
        (np.s_[:, :, 45:], "side_right"),
        (np.s_[:, :, :-45], "side_left"),
    ],
)
@pytest.mark.parametrize("values", [MR, CT])
def test_a_part_of_a_head_is_told_with_the_side_that_is_missing(values, part, side):
    assert found(head(values=values)[part], is_ct=values is CT) == [("head_cut", [side])]


@pytest.mark.parametrize("part", [np.s_[:-11], np.s_[40:], np.s_[:, 16:], np.s_[:, :-16], np.s_[:, :, 16:-16]])
def test_a_crown_a_nose_or_an_ear_beyond_the_border_is_no_part_of_a_head(part):
    """6 to 13 mm of the head are cut off, and all below the mouth."""
    assert found(head()[part]) == []


def test_slices_without_an_image_count_as_beyond_the_border():
    image = head()
    image[-35:] = 0
    assert found(image) == [("head_cut", ["side_top"])]


def test_two_sides_are_both_told():
    assert found(head()[:-30, :, 45:]) == [("head_cut", ["side_top", "side_right"])]


@pytest.mark.parametrize("size_mm", [ADULT, CHILD, INFANT])
def test_a_brain_without_skull_is_told_in_a_masked_mr_and_in_a_ct(size_mm):
    depth = head(size_mm, values={"air": 0, "skin": 0, "skull": 0, "brain": 1}, noise=0, stem=True)
    mr, ct = head(size_mm, noise=20), head(size_mm, values=CT)
    assert found(np.where(depth > 0, mr, 0)) == [("skull_stripped", [])]
    assert found(np.where(depth > 0, ct, -1000), is_ct=True) == [("skull_stripped", [])]


def test_a_masked_brain_that_is_cut_below_its_middle_ends_in_no_stem():
    """It could be a head of an unusual contrast, so nothing is said of a skull."""
    depth = head(values={"air": 0, "skin": 0, "skull": 0, "brain": 1}, noise=0)
    assert found(np.where(depth > 0, head(noise=20), 0)[40:]) == []


def test_the_first_thing_that_is_wrong_is_told_alone():
    depth = head(values={"air": 0, "skin": 0, "skull": 0, "brain": 1}, noise=0, stem=True)
    assert found(np.where(depth > 0, head(noise=20), 0)[:-40]) == [("skull_stripped", [])]


# ------------------------------------------------------------------------------------------------ a body


def shoulders(above_mm: float) -> np.ndarray:
    """A CT with a head over shoulders, of which the uppermost `above_mm` are left over the shoulders."""
    upper = head(values=CT)
    body = np.full((40, 120, 260), -1000.0)
    y, x = np.ogrid[:120, :260]
    body[:, ((y - 60) / 50) ** 2 + ((x - 130) / 110) ** 2 < 1] = 30.0  # 220 x 418 mm
    wide = np.full((upper.shape[0], *body.shape[1:]), -1000.0)
    top, left = (body.shape[1] - upper.shape[1]) // 2, (body.shape[2] - upper.shape[2]) // 2
    wide[:, top : top + upper.shape[1], left : left + upper.shape[2]] = upper
    rng = np.random.default_rng(0)
    return np.concatenate([body, wide[: round(above_mm / SPACING_MM[0])]]) + 5 * rng.standard_normal(
        (len(body) + len(wide[: round(above_mm / SPACING_MM[0])]), *body.shape[1:])
    )


def test_a_head_over_shoulders_passes_and_a_chest_does_not():
    assert found(shoulders(270.0), is_ct=True) == []
    assert found(shoulders(60.0), is_ct=True) == [("body_without_head", [])]
    assert found(shoulders(0.0), is_ct=True) == [("body_without_head", [])]


def test_shoulders_too_near_the_top_leave_no_room_for_a_head():
    """Sections in mm2, 10 mm apart. Shoulders are larger than 400 cm2."""
    chest = [60_000.0] * 5
    assert not lacks_head(np.array([*chest, *[10_000.0] * 12]), 10.0)
    assert lacks_head(np.array([*chest, *[10_000.0] * 11]), 10.0)
    assert lacks_head(np.array(chest), 10.0)
    assert not lacks_head(np.array([39_000.0] * 5), 10.0)


# ------------------------------------------------------------------------------------------------ real heads


def real(name: str) -> tuple[np.ndarray, tuple[float, ...]]:
    image = to_canonical(read_image(DATA / name))
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]


@pytest.mark.skipif(not DATA.is_dir(), reason="the images of real heads are not here")
def test_real_heads_pass_and_their_halves_do_not():
    for channel in ("T1", "T2"):
        image, spacing_mm = real(f"template_triplet/{channel}.nii.gz")
        assert found(image, spacing_mm=spacing_mm) == []
        for part, side in (
            (np.s_[:45], "side_top"),
            (np.s_[60:], "side_bottom"),
            (np.s_[:, :, 45:], "side_right"),
            (np.s_[:, 36:], "side_front"),
        ):
            assert found(image[part], spacing_mm=spacing_mm) == [("head_cut", [side])]
    for number in ("02", "04", "05", "07"):
        image, spacing_mm = real(f"heads/fixation_{number}/CT.nii.gz")
        assert found(image, spacing_mm=spacing_mm, is_ct=True) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the image of a real brain is not here")
def test_a_real_brain_without_skull_is_told():
    image, spacing_mm = real("orientations/RAS.nii.gz")
    letters = (image[0] > 80) & (image[-1] > 80)  # they run through all slices
    image[:, letters] = 0
    image[image < 8] = 0  # its background is one value that is not 0, and the letters were
    assert found(image, spacing_mm=spacing_mm) == [("skull_stripped", [])]


@pytest.mark.parametrize("channel", ["CT", "T2"])
def test_a_torso_is_told_and_another_model_named(channel: str):
    image = make_torso(0, 0, size="tiny").images[channel]
    array, spacing_mm = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    (message,) = check_head(channel, array, spacing_mm=spacing_mm, is_ct=channel == "CT")
    assert "cuts off a part of the head at the top" in str(message)
    assert "name a model of this body site with -d or -m" in str(message)
