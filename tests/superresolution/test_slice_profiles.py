import numpy as np
import pytest

from nnunet_ext.superresolution.slice_profiles import (
    BOX,
    GAUSSIAN,
    interpolating_matrix,
    slices_of,
    thickening_matrix,
)


def test_a_thicker_slice_is_the_mean_of_the_voxels_it_covers():
    assert thickening_matrix(4, 2) @ np.array([1, 3, 10, 20]) == pytest.approx([2, 15])
    # 5 voxels in 2 slices of 2.5 voxels: the middle one belongs to both, half each.
    assert thickening_matrix(5, 2) @ np.array([1, 3, 10, 20, 40]) == pytest.approx([9 / 2.5, 65 / 2.5])


def test_a_gaussian_profile_has_half_its_height_half_a_thickness_away():
    n, new_n = 1000, 5  # slices of 200 voxels
    weights = thickening_matrix(n, new_n, GAUSSIAN)[2]
    assert weights.argmax() in (499, 500)
    assert weights[500 + 100] / weights.max() == pytest.approx(0.5, abs=0.01)
    assert weights[500 + 200] / weights.max() == pytest.approx(1 / 16, abs=0.01)  # exp(-4 ln 2)


@pytest.mark.parametrize("profile", [BOX, GAUSSIAN])
def test_constant_values_stay_what_they_are(profile):
    there = thickening_matrix(23, 5, profile) @ np.full(23, -1000.0)
    assert there == pytest.approx(-1000)
    assert interpolating_matrix(5, 23) @ there == pytest.approx(-1000, rel=1e-5)


def test_slices_cover_the_same_mm():
    assert slices_of(40, 2.5, 5.0) == 20
    assert slices_of(41, 1.0, 7.0) == 6
    assert slices_of(3, 1.0, 7.0) == 2


def test_thinner_slices_and_unknown_profiles_are_refused():
    with pytest.raises(ValueError, match="6 slices are thinner than 5"):
        thickening_matrix(5, 6)
    with pytest.raises(ValueError, match="slice profile 'triangle' is not one of box, gaussian"):
        thickening_matrix(5, 2, "triangle")
