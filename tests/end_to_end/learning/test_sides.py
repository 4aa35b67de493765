"""Left and right as one label and back, on an oblique grid with voxels of 1, 2 and 3 mm."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.end_to_end.learning.sides import merge_sides, merged_labels, middle_of, split_sides
from nnunet_ext.labels.organs import ORGANS

LABELS = {"background": 0, **{organ: value for value, organ in enumerate(ORGANS, 1)}}
SHAPE = (12, 24, 90)  # (Z, Y, X)
#: Left is at high x in LPS. Lens of the left eye missing.
PARTS = {
    "Eye_R": np.s_[3:7, 4:10, 8:20],
    "Eye_L": np.s_[3:7, 4:10, 70:82],
    "Lens_R": np.s_[4:6, 2:4, 12:16],
    "OpticNrv_R": np.s_[4:6, 10:20, 16:40],
    "OpticNrv_L": np.s_[4:6, 10:20, 50:74],
    "OpticChiasm": np.s_[4:6, 20:23, 38:52],
}


def label_map() -> np.ndarray:
    seg = np.zeros(SHAPE, np.uint8)
    for organ, where in PARTS.items():
        seg[where] = LABELS[organ]
    return seg


def as_image(array: np.ndarray, degrees: float = 0.0) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((-44.5, 10.0, -20.0))
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    return image


def test_merged_labels_have_one_value_for_both_sides():
    assert merged_labels(LABELS) == {"background": 0, "Eye": 1, "Lens": 2, "OpticNrv": 3, "OpticChiasm": 4}
    merged = merge_sides(label_map(), LABELS)
    assert np.array_equal(merged == 1, np.isin(label_map(), (1, 2)))
    assert np.array_equal(merged == 4, label_map() == 7)


@pytest.mark.parametrize("degrees", [0.0, 25.0, -25.0])
def test_organs_come_back_on_their_sides_in_a_turned_head(degrees):
    merged = as_image(merge_sides(label_map(), LABELS), degrees)
    split = split_sides(merged, LABELS, middle_mm=1000.0)
    assert np.array_equal(sitk.GetArrayFromImage(split), label_map())
    assert split.GetDirection() == merged.GetDirection()


def test_the_plane_is_that_of_the_eyes_in_the_file_not_of_its_axes():
    """An image stored from left to right."""
    image = sitk.DICOMOrient(as_image(merge_sides(label_map(), LABELS)), "RPS")
    back = sitk.DICOMOrient(split_sides(image, LABELS, middle_mm=1000.0), "LPS")
    assert np.array_equal(sitk.GetArrayFromImage(back), label_map())


def test_with_one_eye_the_middle_of_the_head_tells_the_sides():
    seg = label_map()
    seg[PARTS["Eye_L"]] = 0
    split = split_sides(as_image(merge_sides(seg, LABELS)), LABELS, middle_mm=0.0)
    assert np.array_equal(sitk.GetArrayFromImage(split), seg)


def test_pieces_of_one_eye_are_no_two_eyes():
    seg = label_map()
    seg[PARTS["Eye_L"]] = 0
    seg[:, :, 13] = 0  # the right eye in two pieces, 6 mm apart
    split = split_sides(as_image(merge_sides(seg, LABELS)), LABELS, middle_mm=0.0)
    assert not (sitk.GetArrayFromImage(split) == LABELS["Eye_L"]).any()


def test_an_empty_prediction_stays_empty():
    split = split_sides(as_image(np.zeros(SHAPE, np.uint8)), LABELS, middle_mm=0.0)
    assert not sitk.GetArrayFromImage(split).any()


def test_the_middle_is_half_way_between_the_sides_of_the_head():
    body = np.zeros(SHAPE, bool)
    body[:, :, 10:31] = True  # centres of voxels 10 and 30: -34.5 and -14.5 mm
    assert middle_of(body, as_image(body.astype(np.uint8))) == pytest.approx(-24.5)
    assert middle_of(np.zeros(SHAPE, bool), as_image(body.astype(np.uint8))) == pytest.approx(0.0)
