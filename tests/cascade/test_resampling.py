"""Label maps on the way to the network's grid and back through nnU-Net's own export resampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

from nnunet_ext.cascade import resampling
from nnunet_ext.cascade.resampling import (
    axis_weights,
    interpolate,
    label_map_of_logits,
    resample_image,
    resample_label_map,
)


def exported(labels: np.ndarray, shape, current_spacing, new_spacing, force_separate_z=None) -> np.ndarray:
    """What nnU-Net's export makes of a network that predicts exactly `labels`."""
    logits = np.stack([labels == v for v in range(labels.max() + 2)]).astype(np.float32)
    back = resample_data_or_seg_to_shape(logits, shape, current_spacing, new_spacing, False, 1, 0, force_separate_z)
    return back.argmax(0)


def head(shape=(17, 29, 31)) -> np.ndarray:
    """A ball, a rod one voxel thick and a single voxel."""
    z, y, x = np.indices(shape)
    labels = ((z - 7) ** 2 + (y - 9) ** 2 + (x - 9) ** 2 < 20).astype(np.int16)
    labels[9, 18, 6:24] = 2
    labels[12, 23, 15] = 3
    return labels


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 200 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize(
    ("spacing", "target"),
    [
        ((2.2, 2.2, 2.2), (2.0, 2.0, 2.0)),
        ((2.4, 2.4, 2.4), (2.3, 2.3, 2.3)),
        ((2.7, 2.5, 2.5), (2.4, 2.3, 2.5)),
        ((3.2, 1.1, 1.1), (2.8, 1.0, 1.0)),
        ((3.3, 1.0, 1.0), (3.0, 0.9, 0.9)),  # more than 3:1: nnU-Net takes the coarse axis by nearest neighbour
        ((1.0, 1.1, 3.4), (0.9, 1.0, 3.1)),
        ((5.0, 0.976, 0.976), (2.375, 0.9, 0.9)),  # the reference study's slices
    ],
)
@pytest.mark.parametrize("force_separate_z", [None, False])
def test_organs_of_one_voxel_come_back_through_the_export(spacing, target, force_separate_z):
    labels = head()
    new_shape = compute_new_shape(labels.shape, spacing, target)
    there = resample_label_map(labels[None], new_shape, spacing, target, force_separate_z)
    back = exported(there[0], labels.shape, target, spacing, force_separate_z)
    assert there.shape == (1, *new_shape)
    for value in (1, 2, 3):
        assert dsc(labels == value, back == value) >= 96


def test_nnunets_own_resampling_loses_what_ours_keeps():
    labels, spacing, target = head(), (2.4, 2.4, 2.4), (2.3, 2.3, 2.3)
    new_shape = compute_new_shape(labels.shape, spacing, target)
    stock = resample_data_or_seg_to_shape(labels[None], new_shape, spacing, target, True, 1, 0, None)
    back = exported(stock[0].astype(int), labels.shape, target, spacing)
    assert dsc(labels == 2, back == 2) < 50, "the reason for this module has gone: use nnU-Net's function again"


def test_same_grid_gives_the_labels_back_in_a_new_array():
    labels = head()[None]
    same = resample_label_map(labels, labels.shape[1:], (1, 1, 1), (1, 1, 1))
    np.testing.assert_array_equal(same, labels)
    assert same is not labels


def test_no_value_is_invented_and_negative_ones_are_background():
    labels = head()
    labels[0] = -1
    there = resample_label_map(labels[None], (21, 33, 40), (2, 2, 2), (1.6, 1.75, 1.55))
    assert set(np.unique(there)) <= {0, 1, 2, 3}
    assert there.dtype == labels.dtype


def test_empty_label_map_stays_empty():
    assert not resample_label_map(np.zeros((1, 5, 6, 7), np.int8), (7, 6, 9), (1, 1, 1), (0.7, 1, 0.8)).any()


def test_organs_at_the_border_of_the_volume_are_resampled():
    labels = np.zeros((6, 7, 8), np.int8)
    labels[0, 0, :3] = 1
    labels[-2:, -1, -2:] = 2
    there = resample_label_map(labels[None], (8, 9, 10), (2, 2, 2), (1.5, 1.55, 1.6))
    np.testing.assert_array_equal(exported(there[0], labels.shape, (1.5, 1.55, 1.6), (2, 2, 2)), labels)


def test_axis_weights_keep_the_edges_of_the_volume():
    # Two voxels of 3 mm onto three of 2 mm: centres at 1, 3, 5 mm between 1.5 and 4.5 mm.
    lower, upper, weight = axis_weights(2, 3, (0, 2), (0, 3), 1)
    assert lower.tolist() == [0, 0, 1]
    np.testing.assert_allclose((1 - weight) * np.array([0, 0, 1]) + weight * upper, [0, 0.5, 1])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 9)] * 3),
    new_shape=st.tuples(*[st.integers(3, 12)] * 3),
    axis=st.sampled_from([None, 0, 1, 2]),
    seed=st.integers(0, 2**16),
)
def test_interpolation_is_that_of_nnunets_export(shape, new_shape, axis, seed):
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

    stack = np.random.default_rng(seed).random((2, *shape)).astype(np.float32)
    weights = [
        axis_weights(n, m, (0, n), (0, m), 0 if i == axis else 1)
        for i, (n, m) in enumerate(zip(shape, new_shape, strict=True))
    ]
    theirs = resample_data_or_seg(stack, new_shape, False, axis, 1, axis is not None, 0)
    np.testing.assert_allclose(interpolate(stack, weights), theirs, atol=1e-5)


# ------------------------------------------------------------------------------------------------ images and logits


GRIDS = [
    ((13, 17, 11), (3.0, 0.8, 0.7), (9, 12, 19), (4.3, 1.1, 0.4)),
    ((13, 17, 11), (5.0, 0.8, 0.7), (13, 12, 9), (5.0, 1.1, 0.9)),  # the first axis is coarse: nearest voxel
    ((5, 17, 11), (5.0, 0.8, 0.7), (9, 12, 9), (2.8, 1.1, 0.9)),
    ((17, 5, 11), (0.8, 5.0, 0.7), (17, 4, 11), (0.8, 6.0, 0.7)),
    ((7, 8, 9), (1.0, 1.0, 1.0), (14, 16, 18), (0.5, 0.5, 0.5)),
]


@pytest.mark.parametrize(("shape", "spacing", "new_shape", "new_spacing"), GRIDS)
@pytest.mark.parametrize("force_separate_z", [None, False])
def test_images_are_resampled_as_nnunet_does(shape, spacing, new_shape, new_spacing, force_separate_z):
    data = np.random.default_rng(0).normal(40, 300, (2, *shape)).astype(np.float32)
    data[1] = -1000
    data[1, 3:, 2:4] = 500.0  # an edge: splines overshoot, and are clipped
    before = data.copy()
    ours = resample_image(data, new_shape, spacing, new_spacing, force_separate_z)
    theirs = resample_data_or_seg_to_shape(data, new_shape, spacing, new_spacing, False, 3, 0, force_separate_z)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    np.testing.assert_array_equal(data, before)


def test_between_thick_slices_values_are_interpolated_only_without_separate_z():
    data = np.broadcast_to(np.array([0.0, 100.0, 200.0])[:, None, None], (3, 8, 9))[None]
    grids = (6, 8, 9), (5.0, 0.976, 0.976), (2.5, 0.976, 0.976)
    assert resample_image(data, *grids, None)[0, :, 4, 4].tolist() == [0, 0, 100, 100, 200, 200]
    between = resample_image(data, *grids, False)[0, :, 4, 4]
    assert (np.diff(between)[1:-1] > 20).all()  # beyond the middle of the last slice its value is kept
    assert between.min() >= 0
    assert between.max() <= 200


def test_an_image_on_its_own_grid_is_left_alone():
    data = np.random.default_rng(0).normal(size=(1, 5, 7, 11)).astype(np.float32)
    assert resample_image(data, (5, 7, 11), (3.0, 0.8, 0.7), (3.0, 0.8, 0.7)) is data


@pytest.mark.parametrize(("shape", "spacing", "new_shape", "new_spacing"), GRIDS)
@pytest.mark.parametrize("where", [np.s_[1:3, 2:4, 4:6], np.s_[0:2, 0:3, 0:1], np.s_[-2:, -1:, -3:], np.s_[:0]])
@pytest.mark.parametrize("layer_bytes", [1, 1 << 24])
@pytest.mark.parametrize("force_separate_z", [None, False])
def test_a_label_map_made_near_the_organs_is_the_export_of_the_whole(
    shape, spacing, new_shape, new_spacing, where, layer_bytes, force_separate_z, monkeypatch
):
    monkeypatch.setattr(resampling, "LAYER_BYTES", layer_bytes)
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (3, *shape)).astype(np.float32)
    logits[0] += 8  # background wins
    logits[1:][(slice(None), *(where if isinstance(where, tuple) else (where,)))] += 16  # but here it may not
    grids = new_shape, spacing, new_spacing
    exported = resample_data_or_seg_to_shape(logits, *grids, False, 1, 0, force_separate_z).argmax(0)
    ours = label_map_of_logits(logits, lambda x: x.argmax(0), *grids, force_separate_z)
    np.testing.assert_array_equal(ours, exported)
    assert (exported > 0).any() == (where != np.s_[:0])


def test_logits_of_16_bits_that_round_to_the_same_go_to_the_label_that_nnunet_exports():
    logits = np.random.default_rng(1).normal(8, 0.02, (3, 9, 10, 11)).astype(np.float16)  # neighbours differ by 0.008
    grids = (13, 21, 17), (2, 2, 2), (1.4, 1, 1.3)
    exported = resample_data_or_seg_to_shape(logits, *grids, False, 1, 0, False).argmax(0)
    finer = resample_data_or_seg_to_shape(logits.astype(np.float32), *grids, False, 1, 0, False).argmax(0)
    ours = label_map_of_logits(logits, lambda x: x.argmax(0), *grids, False)
    # Another order of the multiplications rounds the other way now and then.
    assert np.mean(ours != exported) < 0.001 < 0.05 < np.mean(finer != exported)
