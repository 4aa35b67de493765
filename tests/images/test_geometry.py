import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.images.geometry import (
    back_to_grid,
    corners_mm,
    describe_grid,
    field_of_view,
    grid_difference,
    orientation_code,
    resample_labels,
    resample_to,
    same_grid,
    to_canonical,
)

ALL_CODES = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*axes)
]  # fmt: skip


def rotation(angles_deg: tuple[float, float, float]) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.deg2rad(angles_deg))
    return np.round(np.reshape(transform.GetMatrix(), (3, 3)), 12)  # as `read_image` leaves it


def make_image(shape=(5, 7, 11), spacing_mm=(3.0, 0.8, 0.7), angles_deg=(0.0, 0.0, 0.0), seed=0) -> sitk.Image:
    """`shape` and `spacing_mm` along (Z, Y, X)."""
    image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16))
    image.SetSpacing(spacing_mm[::-1])
    image.SetOrigin((-31.0, 17.5, 400.0))
    image.SetDirection(rotation(angles_deg).ravel())
    return image


@pytest.mark.parametrize("code", ALL_CODES)
@pytest.mark.parametrize("angles_deg", [(0, 0, 0), (12, -8, 15)])
def test_all_48_axis_orders_become_equal_and_go_back_exactly(code: str, angles_deg):
    original = make_image(angles_deg=angles_deg)
    turned = sitk.DICOMOrient(original, code)
    canonical = to_canonical(turned)
    assert orientation_code(canonical) == "LPS"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(canonical), sitk.GetArrayFromImage(original))
    assert same_grid(canonical, original, 1e-6)
    back = back_to_grid(canonical, turned)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(turned))
    assert back.GetOrigin() == turned.GetOrigin()
    assert back.GetDirection() == turned.GetDirection()
    assert back.GetSpacing() == turned.GetSpacing()


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.floats(-180, 180)] * 3), st.booleans())
def test_any_oblique_direction_keeps_every_voxel_at_its_place(angles_deg, mirrored: bool):
    image = make_image(angles_deg=angles_deg)
    if mirrored:  # left-handed axes
        image.SetDirection((rotation(angles_deg) @ np.diag([1.0, 1.0, -1.0])).ravel())
    canonical = to_canonical(image)
    assert orientation_code(canonical) == "LPS"
    index = (10, 3, 1)
    where = canonical.TransformPhysicalPointToIndex(image.TransformIndexToPhysicalPoint(index))
    assert canonical[where] == image[index]
    back = back_to_grid(canonical, image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    assert (back.GetOrigin(), back.GetDirection()) == (image.GetOrigin(), image.GetDirection())


def test_back_to_grid_raises_when_the_mask_belongs_to_another_image():
    with pytest.raises(ValueError, match=r"sizes differ"):
        back_to_grid(make_image((5, 7, 12)), make_image())


def test_same_grid_measures_the_corner_furthest_away():
    a, b = make_image(), make_image()
    b.SetSpacing((0.71, 0.8, 3.0))  # 10 steps of 0.01 mm along x
    assert not same_grid(a, b, 0.09)
    assert same_grid(a, b, 0.11)
    assert "corners up to 0.1 mm apart" in grid_difference(a, b)
    assert describe_grid(a) == "11x7x5 voxels of 0.7x0.8x3 mm, LPS, first voxel at (-31.0, 17.5, 400.0) mm"


@pytest.mark.parametrize(
    ("edge_mm", "same_mm", "other_mm"),
    [(0.2, 0.04, 0.1), (0.5, 0.12, 0.25), (1.0, 0.24, 0.5), (2.5, 0.24, 0.26), (5.0, 0.24, 0.26)],
)
def test_half_a_voxel_and_a_quarter_of_a_mm_are_another_grid(edge_mm: float, same_mm: float, other_mm: float):
    a, near, far = (make_image(spacing_mm=(5.0, edge_mm, edge_mm), angles_deg=(10, 5, -3)) for _ in range(3))
    near.SetOrigin(np.add(a.GetOrigin(), (0, same_mm, 0)).tolist())
    far.SetOrigin(np.add(a.GetOrigin(), (0, other_mm, 0)).tolist())
    assert same_grid(a, near)
    assert same_grid(near, a)
    assert not same_grid(a, far)


def planning_ct() -> sitk.Image:
    """512 x 512 x 200 voxels of 0.9765625 x 0.9765625 x 2.5 mm, oblique."""
    ct = sitk.Image((512, 512, 200), sitk.sitkUInt8)
    ct.SetSpacing((0.9765625, 0.9765625, 2.5))
    ct.SetOrigin((-249.51171875, -402.51171875, -1213.4375))
    ct.SetDirection(rotation((4, -3, 5)).ravel())
    return ct


def test_headers_of_one_planning_ct_by_two_tools_are_one_grid():
    ct, other = planning_ct(), planning_ct()
    other.SetSpacing(np.round(ct.GetSpacing(), 4).tolist())
    other.SetOrigin(np.round(ct.GetOrigin(), 2).tolist())
    other.SetDirection(np.round(ct.GetDirection(), 6).tolist())
    assert same_grid(ct, other)
    other.SetOrigin(np.subtract(ct.GetOrigin(), 0.9765625 / 2).tolist())  # corner of the voxel for its centre
    assert not same_grid(ct, other)
    assert "origin differs by (0.49, 0.49, 0.49) mm, corners up to 0.846 mm apart" in grid_difference(ct, other)


def test_an_image_turned_by_45_degrees_goes_back_whatever_rounding_does_to_its_axes():
    image = make_image(angles_deg=(0, 0, 45))
    turned = sitk.Image(image)
    turned.SetDirection(rotation((0, 0, 45 + 1e-5)).ravel())
    other = sitk.Image(image)
    other.SetDirection(rotation((0, 0, 45 - 1e-5)).ravel())
    assert orientation_code(turned) != orientation_code(other)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back_to_grid(turned, other)), sitk.GetArrayFromImage(image))


def test_corners_lie_where_simpleitk_puts_them():
    image = make_image(angles_deg=(20, 5, -40))
    expected = [image.TransformIndexToPhysicalPoint(index) for index in itertools.product((0, 10), (0, 6), (0, 4))]
    np.testing.assert_allclose(corners_mm(image), expected, atol=1e-9)


def test_bspline_reproduces_a_smooth_image_and_stays_in_its_range():
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in (20, 24, 28)), indexing="ij")
    image = sitk.GetImageFromArray((np.sin(x / 4) + np.cos(y / 5) + z / 10).astype(np.float32))
    reference = sitk.Image((20, 20, 20), sitk.sitkUInt8)
    reference.SetOrigin((3.3, 2.7, 4.1))
    reference.SetSpacing((0.9, 0.8, 0.7))
    result = resample_to(image, reference)
    k, j, i = np.meshgrid(*(np.arange(20.0),) * 3, indexing="ij")
    expected = np.sin((3.3 + 0.9 * i) / 4) + np.cos((2.7 + 0.8 * j) / 5) + (4.1 + 0.7 * k) / 10
    np.testing.assert_allclose(sitk.GetArrayFromImage(result), expected, atol=0.01)
    edge = sitk.GetImageFromArray(np.repeat([0, 1000], 5)[None, None].repeat(6, 0).repeat(6, 1).astype(np.int16))
    fine = sitk.Image((40, 6, 6), sitk.sitkUInt8)
    fine.SetSpacing((0.2, 1, 1))
    values = sitk.GetArrayFromImage(resample_to(edge, fine))
    assert values.min() >= 0
    assert values.max() <= 1000


def test_resampling_fills_beyond_the_field_of_view_with_the_minimum_unless_told():
    image = make_image((6, 6, 6), (1.0, 1.0, 1.0))
    far = sitk.Image((4, 4, 4), sitk.sitkUInt8)
    lowest = int(sitk.GetArrayFromImage(image).min())
    for interpolation in ("bspline", "linear", "nearest"):
        assert np.all(sitk.GetArrayFromImage(resample_to(image, far, interpolation=interpolation)) == lowest)
    assert np.all(sitk.GetArrayFromImage(resample_to(image, far, outside_value=-1500)) == -1500)
    with pytest.raises(ValueError, match="'cubic'"):
        resample_to(image, far, interpolation="cubic")


@pytest.mark.parametrize("angles_deg", [(0, 0, 0), (10, 20, 30)])
def test_field_of_view_agrees_with_simpleitk(angles_deg):
    image = make_image((9, 8, 10), (2.0, 2.5, 1.5), angles_deg)
    reference = make_image((20, 22, 24), (1.3, 1.1, 1.2), (5, 0, 0))
    reference.SetOrigin((-38.0, 10.0, 392.0))
    ones = sitk.Cast(image * 0 + 1, sitk.sitkUInt8)
    expected = sitk.GetArrayFromImage(resample_to(ones, reference, interpolation="nearest", outside_value=0)) > 0
    assert 0.05 < expected.mean() < 0.95
    assert np.mean(field_of_view(image, reference) == expected) > 0.999  # centres on the very border may differ


def test_resample_labels_invents_no_value_and_keeps_volumes():
    array = np.zeros((20, 24, 28), dtype=np.uint8)
    array[4:12, 5:15, 6:16] = 1
    array[4:12, 5:15, 16:22] = 7  # beside label 1: averaging would give 2..6
    labels = sitk.GetImageFromArray(array)
    labels.SetSpacing((1.0, 1.0, 2.0))
    reference = sitk.Image((40, 40, 60), sitk.sitkUInt8)
    reference.SetSpacing((0.7, 0.6, 0.66))
    reference.SetDirection(rotation((4, -3, 5)).ravel())
    result = sitk.GetArrayFromImage(resample_labels(labels, reference))
    assert result.dtype == np.uint8
    assert set(np.unique(result)) == {0, 1, 7}
    voxel = 0.7 * 0.6 * 0.66
    assert np.count_nonzero(result == 1) * voxel == pytest.approx(8 * 10 * 10 * 2, rel=0.03)
    assert np.count_nonzero(result == 7) * voxel == pytest.approx(8 * 10 * 6 * 2, rel=0.03)


def test_resample_labels_on_the_same_grid_changes_nothing():
    labels = sitk.Cast(make_image() > 0, sitk.sitkUInt8)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(resample_labels(labels, make_image())), sitk.GetArrayFromImage(labels)
    )
