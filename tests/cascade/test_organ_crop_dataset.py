"""Training crops around single organs, and which share of each organ its crop holds in the validation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.organ_crop_dataset import OrganCropDatasets, crop_rates
from nnunet_ext.cascade.preprocessor import PROPERTIES_KEY
from nnunet_ext.cascade.roi_fitting import fit_roi

SHAPE, SPACING_MM, CROP = (28, 40, 46), (2.0, 1.5, 1.25), (8, 12, 10)
#: The third lies at the border of the volume.
ORGANS = {1: np.s_[8:14, 10:18, 24:32], 2: np.s_[16:20, 20:26, 16:22], 3: np.s_[24:28, 30:34, 40:44]}
#: First voxel of the crop around each: middle minus half of the crop, inside the volume.
FIRST = {1: (7, 8, 23), 2: (14, 17, 14), 3: (20, 26, 36)}


def label_map(organs=ORGANS) -> np.ndarray:
    seg = np.zeros((1, *SHAPE), np.int16)
    for value, where in organs.items():
        seg[0][where] = value
    return seg


@pytest.fixture
def folder(tmp_path):
    """A case in whose first channel every voxel has its own value."""
    data = np.arange(2 * np.prod(SHAPE), dtype=np.float32).reshape(2, *SHAPE)
    properties = {
        "spacing": list(SPACING_MM),
        "shape_before_cropping": SHAPE,
        "bbox_used_for_cropping": [[0, n] for n in SHAPE],
        "shape_after_cropping_and_before_resampling": SHAPE,
        "class_locations": {},
        PROPERTIES_KEY: {"organ_extents": roi.organ_extents(label_map()[0], spacing_mm=SPACING_MM)},
    }
    blocks = {"chunks": data.shape, "blocks": (1, 8, 8, 8), "chunks_seg": (1, *SHAPE), "blocks_seg": (1, 8, 8, 8)}
    nnUNetDatasetBlosc2.save_case(data, label_map(), properties, str(tmp_path / "case"), **blocks)
    return tmp_path


def datasets(*, jitter_mm=0.0, left_out=(), from_localizer=False, errors=None) -> OrganCropDatasets:
    extents = roi.organ_extents(label_map()[0], spacing_mm=SPACING_MM)
    fit = fit_roi({"case": extents}, margin_mm=30.0, jitter_mm=jitter_mm).rule
    return OrganCropDatasets(
        rule=roi.RoiRule(fit.size_mm, fit.offset_mm, fit.spread_mm, jitter_mm, left_out),
        spacing_mm=SPACING_MM,
        transpose_forward=(0, 1, 2),
        from_localizer=from_localizer,
        crop_size=CROP,
        organ_errors_mm=errors or {},
    )


def first_voxels(dataset, n: int) -> list[tuple[int, ...]]:
    """Where the first voxel of each of `n` training crops lies, all of the planned size."""
    found = []
    for _ in range(n):
        data, seg, previous, _ = dataset.load_case("case")
        assert data.shape == (2, *CROP)
        assert previous is None
        at = tuple(int(i) for i in np.unravel_index(round(float(data[0, 0, 0, 0])), SHAPE))
        box = tuple((a, a + n) for a, n in zip(at, CROP, strict=True))
        kept = roi.without(label_map(), dataset.rule.left_out)
        np.testing.assert_array_equal(seg, kept[(slice(None), *roi.slices(box))])
        found.append(at)
    return found


@pytest.mark.parametrize("held", [False, True])
def test_a_training_crop_lies_around_one_organ_each_as_often(folder, held):
    dataset = datasets()(str(folder), ["case"])
    if held:
        assert dataset.hold(1e9) > 0
    np.random.seed(0)
    found = first_voxels(dataset, 90)
    assert set(found) == set(FIRST.values())
    assert min(found.count(at) for at in FIRST.values()) > 15


def test_organs_left_out_get_no_crop_and_are_background_in_the_others(folder):
    found = first_voxels(datasets(left_out=(1,))(str(folder), ["case"]), 20)
    assert set(found) == {FIRST[2], FIRST[3]}


@pytest.mark.parametrize("held", [False, True])
def test_crops_are_moved_by_the_localizers_errors_for_their_organ(folder, held):
    errors = {1: [[4.0, -3.0, 0.0]] * 3, 2: [[0.0, 0.0, 0.0]] * 3}
    dataset = datasets(errors=errors, left_out=(3,))(str(folder), ["case"])
    if held:
        dataset.hold(1e9)
    np.random.seed(1)
    moved = [np.subtract(at, FIRST[1]) for at in first_voxels(dataset, 60) if at[0] < 13]
    # 4 mm are two slices, 3 mm two rows; a voxel more or less lies between the errors seen.
    assert np.abs(np.subtract(moved, (2, -2, 0))).max() <= 1
    assert len({tuple(m) for m in moved}) > 3


@pytest.mark.parametrize("errors", [None, {2: [[50.0, 50.0, 50.0]]}], ids=["none", "too few"])
def test_without_enough_errors_crops_are_moved_as_planned(folder, errors):
    dataset = datasets(jitter_mm=2.0, errors=errors, left_out=(2, 3))(str(folder), ["case"])
    np.random.seed(2)
    moved = np.subtract(first_voxels(dataset, 60), FIRST[1]) * SPACING_MM
    assert (np.abs(moved).max(0) <= 2.0 + np.divide(SPACING_MM, 2)).all()
    assert (moved != 0).any(0).all()


def localized(folder, organs) -> tuple:
    """What the validation loads where the localizer found these organs, and its record."""
    (folder / "maps").mkdir()
    nnUNetDatasetBlosc2.save_seg(label_map(organs)[0].astype(np.uint8), str(folder / "maps" / "case"))
    made = datasets(from_localizer=True)
    loaded = made(str(folder), ["case"], str(folder / "maps")).load_case("case")
    return loaded, made.records["case"]


def test_the_validation_gives_the_label_map_that_places_the_crops_and_the_share_that_each_holds(folder):
    moved = {1: np.s_[8:14, 16:24, 24:32], 3: ORGANS[3]}  # the first 6 voxels off, the second not found
    (data, _, guide, properties), record = localized(folder, moved)
    assert data.shape[1:] == guide.shape
    box = properties["bbox_used_for_cropping"]
    np.testing.assert_array_equal(guide, label_map(moved)[(0, *roi.slices(box))])
    # The first crop has rows 14 to 26, its organ rows 10 to 18. Along the other axes it holds all of it.
    assert record["organ_pass_rates"] == pytest.approx({"1": 4 / 8, "2": 0.0, "3": 1.0})
    assert record["without_crop"] == [2]
    n = {1: 6 * 8 * 8, 2: 4 * 6 * 6, 3: 4 * 4 * 4}
    assert record["label_crop_pass_rate"] == pytest.approx((n[1] / 2 + n[3]) / sum(n.values()))


def test_where_the_localizer_finds_nothing_no_organ_has_a_crop(folder):
    (_, _, guide, _), record = localized(folder, {})
    assert not guide.any()
    assert record["without_crop"] == [1, 2, 3]
    assert record["label_crop_pass_rate"] == 0.0
    assert record["fallback_whole_volume"]


def test_rates_by_hand():
    reference = np.zeros((4, 4, 10), np.int16)
    reference[1:3, 1:3, 2:7] = 1  # five columns
    rates = crop_rates(reference, {1: [(0.0, 4.0), (0.0, 4.0), (3.2, 9.0)]})  # the columns whose middles lie beyond 3.2
    assert rates == {"organ_pass_rates": {"1": 4 / 5}, "without_crop": [], "label_crop_pass_rate": 4 / 5}
    nothing = crop_rates(np.zeros((2, 2, 2), np.int16), {})
    assert nothing == {"organ_pass_rates": {}, "without_crop": [], "label_crop_pass_rate": None}


def test_the_dataset_class_can_be_pickled():
    again = pickle.loads(pickle.dumps(datasets(errors={1: [[1.0, 2.0, 3.0]]})))
    assert again.crop_size == CROP
    assert again.organ_errors_mm == {1: [[1.0, 2.0, 3.0]]}
