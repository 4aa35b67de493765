"""Metrics against numbers worked out on paper.

A single voxel has 8 surface elements of equal area, one per corner, so shares of surface can be counted by hand.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import surface_distance

from nnunet_ext.evaluation import metrics

SHAPE = (5, 7, 11)
SPACING_MM = (3.0, 0.8, 0.7)
DIAGONAL_MM = math.sqrt(15.0**2 + 5.6**2 + 7.7**2)


def mask(*voxels: tuple[int, int, int], shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    out = np.zeros(shape, bool)
    for voxel in voxels:
        out[voxel] = True
    return out


def blobs(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.3


def test_two_single_voxels_2_mm_apart():
    """Corners of the first lie at x = 2, 3 mm, of the second at x = 4, 5 mm: half is 2 mm away, half 1 mm."""
    first, second = mask((2, 3, 2)), mask((2, 3, 4))
    spacing_mm = (3.0, 0.8, 1.0)
    assert metrics.dice_percent(first, second) == 0.0
    assert metrics.hd95_mm(first, second, spacing_mm=spacing_mm) == pytest.approx(2.0)
    assert metrics.mean_surface_distance_mm(first, second, spacing_mm=spacing_mm) == pytest.approx(1.5)
    for tolerance_mm, share in [(0.9, 0.0), (1.0, 0.5), (1.9, 0.5), (2.0, 1.0)]:
        found = metrics.surface_dice(first, second, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
        assert found == pytest.approx(share)
    assert metrics.volume_difference_ml(first, second, spacing_mm=spacing_mm) == 0.0


def test_volume_difference_is_signed_and_in_percent_of_the_reference():
    two, three, none = mask((2, 3, 2), (2, 3, 4)), mask((2, 3, 2), (2, 3, 3), (2, 3, 4)), mask()
    assert metrics.volume_difference_percent(two, three) == pytest.approx(50.0)
    assert metrics.volume_difference_percent(three, two) == pytest.approx(-100 / 3)
    assert metrics.volume_difference_percent(two, none) == -100.0
    assert math.isnan(metrics.volume_difference_percent(none, two))
    # 3.0 x 0.8 x 0.7 mm: a voxel is 1.68 mm^3, so one voxel more is 0.00168 mL.
    assert metrics.volume_difference_ml(two, three, spacing_mm=SPACING_MM) == pytest.approx(0.00168)


@pytest.mark.parametrize(
    ("organ", "mm"),
    [
        ("Lens_L", 0.98),
        ("OpticNrv_R", 2.5),
        ("Brainstem", 2.5),
        ("Uterus", 1.0),
        ("left_eye", 1.65),
        ("LensR", 0.98),
        ("左视神经", 2.5),
        ("Chiasma", 2.5),
        ("parotid left", 2.85),
        ("Lens_L_PRV", 1.0),  # a margin is not the organ
    ],
)
def test_tolerance_is_found_by_the_name_without_its_side(organ: str, mm: float):
    assert metrics.tolerance_mm_of(organ) == mm


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 3.0), (1, 0.8), (2, 0.7)])
def test_box_shifted_by_one_voxel_is_one_voxel_edge_away(axis: int, step_mm: float):
    reference = np.zeros((8, 12, 12), bool)
    reference[3:5, 4:8, 4:8] = True
    prediction = np.roll(reference, 1, axis)
    length = reference.any(axis=tuple({0, 1, 2} - {axis})).sum()
    assert metrics.dice_percent(reference, prediction) == pytest.approx(100.0 * (length - 1) / length)
    assert metrics.hd95_mm(reference, prediction, spacing_mm=SPACING_MM) == pytest.approx(step_mm)
    assert metrics.surface_dice(reference, prediction, spacing_mm=SPACING_MM, tolerance_mm=step_mm + 1e-6) == 1.0
    assert metrics.surface_dice(reference, prediction, spacing_mm=SPACING_MM, tolerance_mm=step_mm - 0.1) < 1.0


def test_hd95_is_the_larger_of_two_directed_percentiles_not_one_percentile_of_both():
    """One of 12 voxels is lost: 8.3 % of the reference surface, but 4.3 % of both surfaces together."""
    near = [(0, 0, x) for x in range(0, 22, 2)]
    reference = mask(*near, (0, 0, 40), shape=(1, 1, 50))
    prediction = mask(*near, shape=(1, 1, 50))
    spacing_mm = (3.0, 0.8, 0.5)
    # The lost voxel has corners at x = 40 and 41, the nearest ones of the prediction are at x = 21. The four at 41 are
    # the last 4.2 % of the reference surface, so its 95th percentile is at 40.
    for one, other in [(reference, prediction), (prediction, reference)]:
        assert metrics.hd95_mm(one, other, spacing_mm=spacing_mm) == pytest.approx((40 - 21) * 0.5)
        found = metrics.surface_dice(one, other, spacing_mm=spacing_mm, tolerance_mm=1.0)
        assert found == pytest.approx((96 - 8 + 88) / (96 + 88))


def row_of_voxels(n: int) -> np.ndarray:
    return mask(*((1, 1, x) for x in range(n)), shape=(3, 4, 30))


@pytest.mark.parametrize(("n", "element"), [(20, 19), (21, 20), (22, 21), (30, 29)])
def test_plain_hd95_is_the_element_ceil_095_k_of_the_sorted_distances_not_an_interpolated_one(n, element):
    """All voxels of a row are border. Of n, 16 are shared, and the others lie 1, 2, ... voxels of 0.7 mm from the last."""
    sorted_mm = [0.0] * 16 + [0.7 * (k + 1) for k in range(n - 16)]
    assert element == math.ceil(0.95 * n)
    for pair in ((row_of_voxels(n), row_of_voxels(16)), (row_of_voxels(16), row_of_voxels(n))):  # the larger direction
        found = metrics.plain_hd95_mm(*pair, spacing_mm=SPACING_MM)
        assert found == pytest.approx(sorted_mm[element - 1])


def test_plain_hd95_of_two_voxels_is_the_distance_of_their_centres_in_mm():
    found = metrics.plain_hd95_mm(mask((1, 2, 2)), mask((2, 5, 6)), spacing_mm=SPACING_MM)
    assert found == pytest.approx(math.sqrt(3.0**2 + 2.4**2 + 2.8**2))


@pytest.mark.parametrize("seed", range(4))
def test_plain_hd95_is_what_counting_voxel_by_voxel_gives(seed):
    def border(m: np.ndarray) -> list[tuple[int, ...]]:
        held = set(map(tuple, np.argwhere(m).tolist()))
        steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
        return [v for v in held if not all(tuple(a + b for a, b in zip(v, s, strict=True)) in held for s in steps)]

    def directed(a: np.ndarray, b: np.ndarray) -> float:
        mm = np.array(SPACING_MM)
        nearest = sorted(min(np.linalg.norm((np.array(v) - w) * mm) for w in border(b)) for v in border(a))
        return nearest[math.ceil(0.95 * len(nearest)) - 1]

    first, second = (np.random.default_rng([seed, n]).random(SHAPE) < 0.85 for n in (0, 1))
    first[1:4, 1:6, 2:9] = True  # has voxels inside, which are no border
    assert metrics.plain_hd95_mm(first, second, spacing_mm=SPACING_MM) == pytest.approx(
        max(directed(first, second), directed(second, first))
    )


def test_hd95_forgives_less_than_five_percent_of_the_surface():
    near = [(0, 0, x) for x in range(0, 60, 2)]
    reference = mask(*near, (0, 0, 90), shape=(1, 1, 100))
    prediction = mask(*near, shape=(1, 1, 100))
    assert metrics.hd95_mm(reference, prediction, spacing_mm=SPACING_MM) == 0.0
    assert metrics.mean_surface_distance_mm(reference, prediction, spacing_mm=SPACING_MM) > 0.0


@pytest.mark.parametrize(
    "organ",
    [
        pytest.param(np.ones(SHAPE, bool), id="full image"),
        pytest.param(mask((2, 3, 5)), id="single voxel"),
        pytest.param(mask((0, 0, 0)), id="corner voxel"),
        pytest.param(mask((4, 6, 10)), id="last corner voxel"),
        pytest.param(mask(np.s_[2, :, :]), id="sheet through the image"),
        pytest.param(mask(np.s_[0, 3, :]), id="line along the border"),
        pytest.param(blobs(1), id="scattered voxels"),
    ],
)
def test_identical_masks_agree_fully(organ: np.ndarray):
    found = metrics.score_organ(organ, organ.copy(), spacing_mm=SPACING_MM, tolerance_mm=0.0)
    assert found["dsc_percent"] == 100.0
    assert found["hd95_mm"] == 0.0
    assert found["surface_dice"] == 1.0
    assert found["mean_surface_distance_mm"] == 0.0
    assert found["volume_difference_ml"] == 0.0


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_sheets_at_the_border_are_one_voxel_from_their_neighbour(axis: int, end: int):
    """A sheet one voxel thick, and the same one voxel further in: its outer face is one voxel away."""
    reference, prediction = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    np.moveaxis(reference, axis, 0)[end] = True
    np.moveaxis(prediction, axis, 0)[1 if end == 0 else -2] = True
    assert metrics.dice_percent(reference, prediction) == 0.0
    assert metrics.hd95_mm(reference, prediction, spacing_mm=SPACING_MM) == pytest.approx(SPACING_MM[axis])


def test_full_prediction_of_half_an_image():
    reference, prediction = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    reference[:2] = True
    assert metrics.dice_percent(reference, prediction) == pytest.approx(100 * 2 * 2 / (2 + 5))
    assert metrics.hd95_mm(reference, prediction, spacing_mm=SPACING_MM) == pytest.approx(9.0)
    found_ml = metrics.volume_difference_ml(reference, prediction, spacing_mm=SPACING_MM)
    assert found_ml == pytest.approx(3 * 7 * 11 * 3.0 * 0.8 * 0.7 / 1000)


def test_missed_and_invented_organ_get_the_worst_value():
    empty, organ = mask(), mask((2, 3, 5), (2, 3, 6))
    for reference, prediction, name in [(organ, empty, "missed"), (empty, organ, "invented")]:
        assert metrics.presence(reference, prediction) == name
        assert metrics.dice_percent(reference, prediction) == 0.0
        assert metrics.hd95_mm(reference, prediction, spacing_mm=SPACING_MM) == pytest.approx(DIAGONAL_MM)
        assert metrics.hd95_mm(reference, prediction, spacing_mm=SPACING_MM, worst_mm=300.0) == 300.0
        assert metrics.plain_hd95_mm(reference, prediction, spacing_mm=SPACING_MM, worst_mm=300.0) == 300.0
        assert metrics.mean_surface_distance_mm(reference, prediction, spacing_mm=SPACING_MM, worst_mm=300.0) == 300.0
        assert metrics.surface_dice(reference, prediction, spacing_mm=SPACING_MM, tolerance_mm=1e6) == 0.0
    assert metrics.volume_difference_ml(organ, empty, spacing_mm=SPACING_MM) == pytest.approx(-2 * 1.68 / 1000)


def test_two_empty_masks_have_no_score():
    empty = mask()
    assert metrics.presence(empty, empty) == "left_out"
    found = metrics.score_organ(empty, empty, spacing_mm=SPACING_MM)
    for name in ("dsc_percent", "hd95_mm", "plain_hd95_mm", "surface_dice", "mean_surface_distance_mm"):
        assert math.isnan(found[name]), name
    assert found["volume_difference_ml"] == 0.0
    assert math.isnan(metrics.dice_percent(empty, empty))


@pytest.mark.parametrize("seed", range(5))
def test_crop_to_the_joint_bounding_box_changes_nothing(seed: int):
    shape = (20, 30, 40)
    reference, prediction = np.zeros(shape, bool), np.zeros(shape, bool)
    reference[9:14, 8:15, 20:31] = blobs(seed)
    prediction[8:13, 9:16, 17:28] = blobs(seed + 100)
    cropped = metrics.joint_bounding_box(reference, prediction)
    assert reference[cropped].size < 0.2 * reference.size  # a crop happened
    assert reference[cropped].sum() == reference.sum()
    assert prediction[cropped].sum() == prediction.sum()

    surfaces = surface_distance.compute_surface_distances(reference, prediction, SPACING_MM)  # on the whole image
    found = metrics.score_organ(reference, prediction, spacing_mm=SPACING_MM, tolerance_mm=0.75)
    assert found["hd95_mm"] == surface_distance.compute_robust_hausdorff(surfaces, 95)
    assert found["surface_dice"] == surface_distance.compute_surface_dice_at_tolerance(surfaces, 0.75)
    assert found["dsc_percent"] == metrics.dice_percent(reference, prediction)
    again = metrics.score_organ(reference[cropped], prediction[cropped], spacing_mm=SPACING_MM, tolerance_mm=0.75)
    assert again == found


def test_crop_keeps_one_voxel_around_the_masks_and_stops_at_the_border():
    box = metrics.joint_bounding_box(mask((0, 2, 4)), mask((1, 3, 10)))
    assert box == np.s_[0:3, 1:5, 3:12]
    assert mask()[box].shape == (3, 4, 8)
    with pytest.raises(ValueError, match="both masks are empty"):
        metrics.joint_bounding_box(mask(), mask())


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
def test_scores_do_not_depend_on_axis_order_or_flips(axes: tuple[int, ...], flips: tuple[int, ...]):
    reference, prediction = blobs(1), blobs(2)
    expected = metrics.score_organ(reference, prediction, spacing_mm=SPACING_MM, tolerance_mm=0.75)
    found = metrics.score_organ(
        np.flip(reference, flips).transpose(axes),
        np.flip(prediction, flips).transpose(axes),
        spacing_mm=[SPACING_MM[axis] for axis in axes],
        tolerance_mm=0.75,
    )
    assert found == pytest.approx(expected)


def test_inputs_are_not_modified():
    reference, prediction = blobs(1), blobs(2)
    metrics.score_organ(reference, prediction, spacing_mm=SPACING_MM)
    np.testing.assert_array_equal(reference, blobs(1))
    np.testing.assert_array_equal(prediction, blobs(2))


@pytest.mark.parametrize(
    ("reference", "prediction", "spacing_mm", "message"),
    [
        (mask(), mask(shape=(5, 7, 12)), SPACING_MM, r"\(5, 7, 11\), prediction \(5, 7, 12\)"),
        (mask().astype(np.uint8), mask(), SPACING_MM, "reference has dtype uint8"),
        (mask()[0], mask()[0], SPACING_MM, r"shape \(7, 11\)"),
        (mask(), mask(), (3.0, 0.0, 0.7), r"\(3.0, 0.0, 0.7\)"),
        (mask(), mask(), (3.0, float("nan"), 0.7), "three positive numbers"),
        (mask(), mask(), (0.8, 0.7), "three positive numbers"),
    ],
)
def test_bad_input_is_named(reference, prediction, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        metrics.score_organ(reference, prediction, spacing_mm=spacing_mm)


def test_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance_mm is -1"):
        metrics.surface_dice(mask(), mask(), spacing_mm=SPACING_MM, tolerance_mm=-1.0)
