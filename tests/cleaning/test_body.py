import re

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.cleaning.bias_field import field_from_gradients, n4
from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.cleaning.ct import clean_ct, clip_padding, hu_problem, window
from nnunet_ext.cleaning.thresholds import otsu_threshold
from nnunet_ext.phantom.one_case import Phantom


def head(shape=(80, 96, 104), spacing_mm=(3.0, 2.6, 2.4), gap_mm=4.0, seed=0):
    """CT in HU `(Z, Y, X)` of an ellipsoid head with skull, sinus and nostril, a mask in front, a couch behind."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    y = y + 18.0
    depth = (np.sqrt((z / 100) ** 2 + (y / 92) ** 2 + (x / 75) ** 2) - 1) * 80
    ct = np.full(shape, -1000.0, dtype=np.float32)
    truth = depth <= 0
    ct[truth] = 40
    ct[(depth > -16) & (depth < -8)] = 900
    ct[np.sqrt((z / 12) ** 2 + ((y + 70) / 14) ** 2 + (x / 12) ** 2) < 1] = -1000  # sinus
    ct[(np.abs(x) < 4) & (np.abs(z) < 4) & (y < -70) & truth] = -1000  # its way out
    mask = (depth > gap_mm) & (depth < gap_mm + 2.5) & (y < 10)
    couch = (y > 100) & (y < 128) & np.ones(shape, dtype=bool)
    ct[mask] = -60
    ct[couch] = -60
    return ct + np.random.default_rng(seed).normal(0, 12, shape).astype(np.float32), truth, mask, couch


def to_image(array: np.ndarray, spacing_mm=(3.0, 2.6, 2.4)) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(mm) for mm in spacing_mm[::-1]])
    return image


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("spacing_mm", [(3.0, 2.6, 2.4), (2.4, 3.0, 2.6)])
def test_body_mask_keeps_the_head_and_its_air_and_drops_mask_and_couch(spacing_mm):
    ct, truth, mask, couch = head(spacing_mm=spacing_mm)
    body = body_mask_array(ct, spacing_mm=spacing_mm, is_ct=True)
    assert dice(body, truth) > 0.995
    assert np.count_nonzero(truth & ~body) < 1e-4 * np.count_nonzero(truth)
    assert np.count_nonzero(body & (mask | couch)) < 0.01 * np.count_nonzero(mask | couch)


def test_the_front_wall_of_a_large_sinus_stays_with_its_skin():
    ct, truth, mask, couch = head()
    spacing_mm = (3.0, 2.6, 2.4)
    depth_mm = ndimage.distance_transform_edt(truth, sampling=spacing_mm)
    z, y, x = np.ogrid[tuple(slice(n) for n in ct.shape)]
    front = truth & (abs(z - 40) < 7) & (abs(x - 52) < 10) & (y < 40)
    around = truth & (abs(z - 40) < 9) & (abs(x - 52) < 12) & (y < 40) & (depth_mm > 2.7) & (depth_mm < 12)
    ct[around] = 900  # the wall hangs together with the skull
    for low, high, hu in ((0.0, 2.7, 40), (2.7, 5.4, 900), (5.4, 22.0, -1000)):
        ct[front & (depth_mm > low) & (depth_mm <= high)] = hu
    body = body_mask_array(ct, spacing_mm=spacing_mm, is_ct=True)
    wall = front & (depth_mm <= 5.4)
    assert np.count_nonzero(front & ~body) < 0.03 * np.count_nonzero(wall)  # without its bone to hold on to, all of it
    assert np.count_nonzero(body & (mask | couch)) < 0.01 * np.count_nonzero(mask | couch)


def test_body_mask_is_refined_on_a_fine_grid():
    spacing_mm = (3.0, 0.9, 0.8)
    ct, truth, mask, couch = head((72, 300, 330), spacing_mm, gap_mm=3.0)
    body = body_mask_array(ct, spacing_mm=spacing_mm, is_ct=True)
    assert dice(body, truth) > 0.995
    assert np.count_nonzero(truth & ~body) < 1e-4 * np.count_nonzero(truth)
    assert np.count_nonzero(body & (mask | couch)) < 0.01 * np.count_nonzero(mask | couch)


def test_body_mask_of_mr_bridges_the_dark_skull():
    ct, truth, _, _ = head()
    noise = np.abs(np.random.default_rng(1).normal(0, 6, ct.shape))
    mr = np.where(truth, np.where(ct > 500, 5, np.where(ct < -500, 3, 150)), 0) + noise
    body = body_mask_array(mr.astype(np.float32), spacing_mm=(3.0, 2.6, 2.4), is_ct=False)
    assert dice(body, truth) > 0.98
    assert np.count_nonzero(truth & ~body) < 0.01 * np.count_nonzero(truth)


def test_body_mask_takes_other_units_and_odd_shapes():
    ct, truth, _, _ = head()
    shifted = (ct + 1024).astype(np.int16)  # no HU: the threshold comes from the histogram
    assert dice(body_mask_array(shifted, spacing_mm=(3.0, 2.6, 2.4), is_ct=True), truth) > 0.99
    assert body_mask_array(np.full((5, 7, 11), -1000.0), spacing_mm=(3.0, 0.8, 0.7), is_ct=True).shape == (5, 7, 11)
    assert not body_mask_array(np.full((50, 70, 110), -1000), spacing_mm=(3, 0.8, 0.7), is_ct=True).any()
    assert body_mask_array(np.zeros((30, 31, 32)), spacing_mm=(3, 0.8, 0.7), is_ct=False).shape == (30, 31, 32)
    with pytest.raises(ValueError, match="three axes"):
        body_mask_array(np.zeros((3, 4)), spacing_mm=(1, 1, 1), is_ct=True)


def test_otsu_cuts_between_two_values_and_survives_one():
    assert otsu_threshold(np.array([0.0, 0, 0, 10, 10])) == pytest.approx(5.0, abs=0.2)
    assert otsu_threshold(np.array([-900.0, -800, 0, 100])) == pytest.approx(-400, abs=30)
    assert otsu_threshold(np.full(4, 7.0)) == 7.0


def test_clean_ct_changes_nothing_inside_and_writes_air_outside():
    ct, truth, mask, couch = head()
    image = to_image(np.round(ct).astype(np.int16))
    before = sitk.GetArrayFromImage(image)
    keep = np.zeros(ct.shape, dtype=bool)
    keep[2:4, 90:93, 10:13] = True  # an organ drawn on the couch stays
    cleaned, body = clean_ct(image, keep=keep)
    after = sitk.GetArrayFromImage(cleaned)
    assert after.dtype == np.int16
    inner = ndimage.binary_erosion(truth)
    np.testing.assert_array_equal(after[inner | keep], before[inner | keep])
    assert np.count_nonzero(truth & ~body) < 1e-4 * np.count_nonzero(truth)
    assert np.mean(after[(mask | couch) & ~keep] == -1000) > 0.99
    assert body[keep].all()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), before)  # the caller's image is untouched
    found = body_mask_array(before, spacing_mm=image.GetSpacing()[::-1], is_ct=True)
    assert found.sum() == np.count_nonzero(body & ~keep)


def test_clean_ct_leaves_an_image_without_a_body_as_it_is():
    image = to_image(np.full((20, 21, 22), -1000, dtype=np.int16))
    cleaned, body = clean_ct(image)
    assert body.all()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(cleaned), -1000)


@pytest.mark.parametrize("padding", [-1024, -1500, -2000, -3024])
def test_padding_is_no_problem_and_is_clipped(padding: int):
    ct = np.round(head()[0]).astype(np.int16)
    ct[:, :10] = padding
    assert hu_problem(to_image(ct)) is None
    clipped, count = clip_padding(to_image(ct))
    assert sitk.GetArrayFromImage(clipped).min() == max(ct.min(), -1024)
    assert count == np.count_nonzero(ct < -1024)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ct: ct + 1024, "so no air"),
        (lambda ct: np.where(ct > 3000, 32767, ct * 40), "so no air|16-bit|median"),
        (lambda ct: np.clip(ct, -700, None), "hardly any air"),
        (lambda ct: np.where(ct > -500, ct + 1000, ct), "median of what is not air is"),
    ],
)
def test_a_ct_that_is_not_in_hu_is_told_by_its_values(change, message: str):
    image = to_image(change(head()[0]).astype(np.float32))
    assert any(part in str(hu_problem(image)) for part in message.split("|"))
    with pytest.raises(ValueError, match=r"CT is not in HU: values .*; apply the rescale slope .* --allow-non-hu"):
        prepare_channels({"CT": image}, ChannelOptions())


def test_window_clips_and_refuses_an_empty_one():
    image = to_image(np.arange(-500, 500, dtype=np.int16).reshape(10, 10, 10))
    values = sitk.GetArrayFromImage(window(image, (-160, 240)))
    assert (values.min(), values.max(), values[5, 5, 5]) == (-160, 240, 55)
    with pytest.raises(ValueError, match=r"240\.\.-160 HU is empty"):
        window(image, (240, -160))


def test_n4_removes_a_known_bias_and_stays_finite():
    shape, spacing_mm = (40, 70, 66), (4.0, 2.6, 2.8)
    axes = [(np.arange(n) - n / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt((z / 75) ** 2 + (y / 85) ** 2 + (x / 80) ** 2)
    brain, body = radius < 0.7, radius < 1
    tissue = np.where(brain, np.where((np.sin(x / 9) * np.sin(y / 8) > 0), 110, 150), np.where(body, 200, 0))
    biased = tissue * np.exp(0.4 * x / 80 + 0.3 * (y / 85) ** 2) + np.abs(np.random.default_rng(0).normal(0, 3, shape))
    image = to_image(biased.astype(np.float32), spacing_mm)
    corrected = sitk.GetArrayFromImage(n4(image))

    def variation(array: np.ndarray) -> float:
        return float(
            np.mean([array[brain & (tissue == v)].std() / array[brain & (tissue == v)].mean() for v in (110, 150)])
        )

    assert np.all(np.isfinite(corrected))
    assert corrected.min() >= 0
    assert variation(corrected) < 0.5 * variation(biased)
    # shape, type and place stay; so does the general brightness
    assert n4(image).GetSpacing() == image.GetSpacing()
    assert 0.8 < corrected[body].mean() / biased[body].mean() < 1.25


def test_n4_does_not_depend_on_how_an_image_lies_in_the_scanner():
    ct, truth, _, _ = head()
    x = np.linspace(-0.2, 0.2, ct.shape[2], dtype=np.float32)
    straight = to_image(np.where(truth, 150 + 0.1 * np.clip(ct, -500, 500), 2).astype(np.float32) * np.exp(x))
    oblique = sitk.Image(straight)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.4)
    oblique.SetDirection(turn.GetMatrix())
    oblique.SetOrigin((-40.0, 130.0, 12.5))
    corrected = n4(oblique)
    assert corrected.GetDirection() == oblique.GetDirection()
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(corrected), sitk.GetArrayFromImage(n4(straight)), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("shape", [(5, 30, 40), (30, 5, 40), (40, 30, 5)])
def test_field_from_gradients_finds_a_field_across_tissues_on_any_axis(shape):
    spacing_mm = (4.0, 5.0, 6.0)
    axes = [(np.arange(n) - (n - 1) / 2) * mm / 100 for n, mm in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    field = 0.3 * x - 0.2 * y + 0.2 * z + 0.1 * x * y * np.ones(shape)
    tissue = np.where(np.sin(9 * x) * np.sin(8 * y) * np.ones(shape) > 0, 900.0, 340.0)
    body = np.ones(shape, bool)
    found = field_from_gradients(tissue * np.exp(field), body, spacing_mm=spacing_mm)
    np.testing.assert_allclose(found - found.mean(), field - field.mean(), atol=0.01)
    assert not field_from_gradients(tissue, np.zeros(shape, bool), spacing_mm=spacing_mm).any()


@pytest.mark.parametrize("value", [0, -3, 7])
def test_n4_leaves_a_constant_image_alone(value: int):
    image = to_image(np.full((12, 13, 14), value, dtype=np.int16))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(n4(image)), value)


def test_prepare_channels_brings_an_mr_of_another_grid_onto_the_ct():
    ct, truth, _, _ = head()
    image = to_image(np.round(ct).astype(np.int16))
    noise = np.random.default_rng(1).integers(-10, 11, ct.shape)
    mr = to_image((np.where(truth, 100, 12) + noise).astype(np.int16))
    shrunk = sitk.DICOMOrient(sitk.Shrink(mr, (2, 1, 2)), "PIR")
    result = prepare_channels({"CT": image, "T1": shrunk}, ChannelOptions(n4=False))
    assert list(result.images) == ["CT", "T1"]
    on_ct = sitk.GetArrayFromImage(result.images["T1"])
    assert on_ct.shape == ct.shape
    assert np.mean((on_ct > 50) == truth) > 0.98
    assert result.record["T1"] == {"resampled": True, "coverage": 1.0}
    assert result.warnings == []


def test_prepare_channels_refuses_an_mr_that_lies_elsewhere_and_takes_a_slab():
    ct, truth, _, _ = head()
    image = to_image(np.round(ct).astype(np.int16))
    noise = np.random.default_rng(1).integers(-10, 11, ct.shape)
    mr = to_image((np.where(truth, 100, 12) + noise).astype(np.int16))
    away = sitk.Image(mr)
    away.SetOrigin((200.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"T1 does not lie where the CT lies.*register it first"):
        prepare_channels({"CT": image, "T1": away}, ChannelOptions(n4=False))
    slab = mr[:, :, 30:50]
    result = prepare_channels({"CT": image, "T1": slab}, ChannelOptions(n4=False))
    assert result.record["T1"]["coverage"] < 0.5
    assert "T1 covers" in str(result.warnings[0])
    assert not result.fields_of_view["T1"][:30].any()


@pytest.fixture(scope="module")
def phantom(shared_phantom) -> Phantom:
    return shared_phantom(7, 1, size="tiny", with_truth=True)


@pytest.fixture(scope="module")
def unregistered(shared_phantom) -> Phantom:
    return shared_phantom(0, 0, size="tiny", unregistered=True, with_truth=True)


@pytest.mark.parametrize("channel", ["T1", "T2"])
@pytest.mark.parametrize("case", ["phantom", "unregistered"])
def test_n4_recovers_the_bias_field_of_a_phantom(case: str, channel: str, request: pytest.FixtureRequest):
    phantom = request.getfixturevalue(case)
    image = {"T1": phantom.t1, "T2": phantom.t2}[channel]
    before, after = sitk.GetArrayFromImage(image).astype(float), sitk.GetArrayFromImage(n4(image)).astype(float)
    assert np.all(np.isfinite(after))
    assert after.min() >= 0
    truth = phantom.truth.bias[channel]
    body = body_mask_array(before, spacing_mm=image.GetSpacing()[::-1], is_ct=False) & (after > 0)
    low, high = np.percentile(truth[body], (2, 98))
    assert 0.17 < 2 * (high - low) / (high + low) < 0.65  # 0.2..0.6 in the generator's head, which has no air cavities
    found = np.log(before[body] / after[body])
    assert np.corrcoef(found, np.log(truth[body]))[0, 1] >= 0.9

    def variation(array: np.ndarray) -> np.ndarray:
        pure = [share > 0.999 for share in phantom.truth.shares[channel].values()]
        return np.array([array[tissue].std() / array[tissue].mean() for tissue in pure])

    # Noise and texture stay whatever is done; of the variation the field adds to them most must go.
    left = variation(before / truth)
    of_field = np.sqrt(np.clip([variation(v) ** 2 - left**2 for v in (before, after)], 0, None)).mean(axis=1)
    assert of_field[1] < 0.5 * of_field[0]
    assert variation(after).mean() < 1.15 * left.mean()


@pytest.mark.parametrize("padding", [-1024, -1500, -2000, 0])
def test_padding_around_a_round_field_of_view_is_no_body(padding: int):
    ct, truth, mask, couch = head()
    y, x = np.indices(ct.shape[1:])
    beyond = np.hypot((y - 47.5) / 48, (x - 51.5) / 52) > 1
    ct[:, beyond] = padding
    image = to_image(np.round(ct).astype(np.int16))
    result = prepare_channels({"CT": image}, ChannelOptions())
    assert np.count_nonzero(truth & ~beyond & ~result.body) < 1e-3 * np.count_nonzero(truth)
    assert np.count_nonzero(result.body & (mask | couch | beyond)) < 0.01 * np.count_nonzero(mask | couch)
    after = sitk.GetArrayFromImage(result.images["CT"])
    assert after.min() >= -1024
    assert np.mean(after[:, beyond] <= -850) > 0.999


# --------------------------------------------------------------------------------------------- metal and other units


def with_metal(ct: np.ndarray, value: float) -> np.ndarray:
    """An implant of about 1 ml in the head of `head()`."""
    result = ct.copy()
    result[38:41, 44:48, 50:55] = value
    return result


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3071, r"the CT shows metal: 1\.1 ml at the end of the scale \(3071 HU\); streaks may reach the organs"),
        (30710, r"the CT shows metal: 1\.1 ml at the end of the scale \(30710 HU\)"),
        (32767, r"the CT shows metal: 1\.1 ml at the end of the scale \(32767 HU\)"),
    ],
)
def test_metal_is_named_and_no_reason_to_refuse_a_ct(value: int, message: str):
    ct, truth, _, _ = head()
    image = to_image(np.round(with_metal(ct, value)).astype(np.int16))
    assert hu_problem(image) is None
    result = prepare_channels({"CT": image}, ChannelOptions())
    (line,) = result.warnings
    assert re.match(message, str(line))
    assert np.count_nonzero(result.body ^ truth) < 0.02 * np.count_nonzero(truth)


def test_metal_of_an_extended_scale_is_given_with_its_highest_value():
    ct = with_metal(head()[0], 0)
    ct[38:41, 44:48, 50:55] = np.linspace(3500, 14000, 60).reshape(3, 4, 5)
    (line,) = prepare_channels({"CT": to_image(ct)}, ChannelOptions()).warnings
    assert str(line) == "the CT shows metal: 1.1 ml above 3000 HU, up to 14000 HU; streaks may reach the organs"


@pytest.mark.parametrize("low", [-1024, -32768])
def test_values_that_ran_over_the_end_of_the_scale_are_reported(low: int):
    ct = np.round(with_metal(head()[0], 3071)).astype(np.int16)
    ct[39, 45:47, 51:54] = low
    lines = prepare_channels({"CT": to_image(ct)}, ChannelOptions()).warnings
    assert str(lines[1]) == "6 voxels inside the metal are as dark as air: their values ran over the end of the scale"
    assert len(lines) == 2


def test_metal_of_the_couch_and_a_single_bright_voxel_do_not_count():
    ct, _, _, couch = head()
    ct[couch] = 3071
    ct[40, 40, 50] = 3071
    assert prepare_channels({"CT": to_image(np.round(ct).astype(np.int16))}, ChannelOptions()).warnings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ct: np.where(corner(ct), -2000, ct + 1024), "so no air"),
        (lambda ct: np.where(corner(ct), -2000, 2 * ndimage.gaussian_filter(ct, 1)), "vary below air"),
        (lambda ct: np.clip(ct, -160, 240), "so no air"),
        (lambda ct: np.clip((ct + 1000) / 8, 0, 255), "so no air"),
        (lambda ct: np.where(corner(ct), 63536 - 1024, ct), "the end of the 16-bit range"),
    ],
)
def test_padding_does_not_hide_that_values_are_no_hu(change, message: str):
    assert message in str(hu_problem(to_image(change(head()[0]).astype(np.float32))))


def corner(ct: np.ndarray) -> np.ndarray:
    result = np.zeros(ct.shape, bool)
    result[:, :12, :12] = True
    return result


def test_a_ct_limited_to_a_window_with_air_in_it_is_reported():
    image = to_image(np.clip(head()[0], -1000, 240).astype(np.int16))
    (line,) = prepare_channels({"CT": image}, ChannelOptions()).warnings
    assert re.match(r"CT: \d+% of the body lies at the highest value \(240\), which cuts it off", str(line))
