"""Crops read from preprocessed cases: where they lie, what they hold, and that they go back without a shift."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2 import configuration
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import ndimage

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.preprocessor import PROPERTIES_KEY
from nnunet_ext.cascade.roi_dataset import InMemoryDataset, RoiDatasets, resample_box
from nnunet_ext.cascade.roi_fitting import fit_roi

SHAPE = (28, 40, 46)  # planned voxels of the body
SPACING_MM = (2.0, 1.5, 1.25)  # 56 x 60 x 57.5 mm
ORGANS = {1: np.s_[8:14, 10:18, 24:32], 2: np.s_[16:20, 20:26, 16:22]}
SIZE_MM = (28.0, 27.0, 25.0)  # 14 x 18 x 20 planned voxels
PATCH = (14, 18, 20)


def label_map(organs=ORGANS, shape=SHAPE) -> np.ndarray:
    seg = np.zeros((1, *shape), np.int16)
    for value, where in organs.items():
        seg[0][where] = value
    return seg


def numbered(shape=SHAPE) -> np.ndarray:
    """Two channels in which every voxel has its own value."""
    return np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)


def rule(jitter_mm: float = 0.0, size_mm=SIZE_MM, left_out=()) -> roi.RoiRule:
    fit = fit_roi({"case": roi.organ_extents(label_map()[0], spacing_mm=SPACING_MM)}, margin_mm=1, jitter_mm=0)
    return roi.RoiRule(size_mm, fit.rule.offset_mm, fit.rule.spread_mm, jitter_mm, left_out)


def save(
    folder: Path,
    *,
    case: str = "case",
    data: np.ndarray | None = None,
    seg: np.ndarray | None = None,
    localizer_map: np.ndarray | None = None,
    spacing_mm=SPACING_MM,
    original_shape=SHAPE,
    body=((0, 0, 0), SHAPE),
    **more,
) -> None:
    """A preprocessed case; `spacing_mm` is the file's, in the order of its axes."""
    data = numbered() if data is None else data
    seg = label_map() if seg is None else seg
    lower, before = body
    properties = {
        "spacing": list(spacing_mm),
        "shape_before_cropping": before,
        "bbox_used_for_cropping": [[a, a + n] for a, n in zip(lower, original_shape, strict=True)],
        "shape_after_cropping_and_before_resampling": original_shape,
        "class_locations": {},
        PROPERTIES_KEY: {"organ_extents": roi.organ_extents(seg[0], spacing_mm=SPACING_MM)},
        **more,
    }
    nnUNetDatasetBlosc2.save_case(
        data, seg, properties, str(folder / case), chunks=data.shape, blocks=(1, 8, 8, 8), chunks_seg=seg.shape,
        blocks_seg=(1, 8, 8, 8),
    )  # fmt: skip
    if localizer_map is not None:
        (folder / "localizer").mkdir(exist_ok=True)
        nnUNetDatasetBlosc2.save_seg(localizer_map.astype(np.uint8), str(folder / "localizer" / case))


def load(folder: Path, *, from_localizer: bool, case: str = "case", forward=(0, 1, 2), **options):
    datasets = RoiDatasets(
        rule=rule(**options), spacing_mm=SPACING_MM, transpose_forward=forward, from_localizer=from_localizer
    )
    return datasets, datasets(str(folder), [case], str(folder / "localizer")).load_case(case)


def located(crop: np.ndarray, shape=SHAPE) -> tuple[int, ...]:
    """Where the first voxel of a crop of `numbered()` comes from."""
    return tuple(int(i) for i in np.unravel_index(round(float(crop[0, 0, 0, 0])), shape))


# ------------------------------------------------------------------------------------------------ training


def test_the_training_crop_has_the_rois_size_and_lies_where_the_organs_vote_for(tmp_path):
    save(tmp_path)
    _, (data, seg, previous, _) = load(tmp_path, from_localizer=False)
    assert data.shape == (2, *PATCH)
    assert seg.shape == (1, *PATCH)
    assert previous is None
    box = roi.find_roi(label_map()[0], rule(), spacing_mm=SPACING_MM).box
    np.testing.assert_array_equal(data, numbered()[(slice(None), *roi.slices(box))])
    np.testing.assert_array_equal(seg, label_map()[(slice(None), *roi.slices(box))])


def test_the_training_crop_jitters_by_at_most_the_plans_jitter_along_every_axis(tmp_path):
    save(tmp_path)
    np.random.seed(0)
    centre = roi.find_roi(label_map()[0], rule(), spacing_mm=SPACING_MM).centre_mm
    offsets = []
    for _ in range(60):
        _, (data, seg, _, _) = load(tmp_path, from_localizer=False, jitter_mm=5.0)
        start = located(data)
        box = tuple((a, a + n) for a, n in zip(start, PATCH, strict=True))
        np.testing.assert_array_equal(seg, label_map()[(slice(None), *roi.slices(box))])
        offsets.append((np.add(start, np.divide(PATCH, 2))) * SPACING_MM - centre)
    half_voxel = np.divide(SPACING_MM, 2)
    furthest = np.abs(offsets).max(0)
    assert (furthest <= 5.0 + half_voxel).all()
    assert (furthest > 3.5).all()
    assert (np.min(offsets, 0) < -2).all()
    assert (np.max(offsets, 0) > 2).all()


def test_the_training_crop_of_a_small_volume_is_the_volume(tmp_path):
    save(tmp_path)
    _, (data, _, _, _) = load(tmp_path, from_localizer=False, size_mm=(200.0, 27.0, 200.0))
    assert data.shape == (2, SHAPE[0], 18, SHAPE[2])


def test_a_case_without_organs_is_cropped_anywhere_to_the_same_size(tmp_path):
    save(tmp_path, seg=label_map({}))
    starts = set()
    for seed in range(8):
        np.random.seed(seed)
        _, (data, seg, _, _) = load(tmp_path, from_localizer=False)
        assert data.shape[1:] == seg.shape[1:] == PATCH
        starts.add(located(data))
    assert len(starts) > 4


@pytest.mark.parametrize("from_localizer", [True, False])
def test_labels_left_out_place_the_box_and_are_background_in_it(tmp_path, from_localizer):
    save(tmp_path, localizer_map=label_map()[0])
    datasets, (data, seg, _, _) = load(tmp_path, from_localizer=from_localizer, left_out=(2,))
    _, (as_before, complete, _, _) = load(tmp_path, from_localizer=from_localizer)
    np.testing.assert_array_equal(data, as_before)
    np.testing.assert_array_equal(seg, np.where(complete == 2, 0, complete))
    assert (complete == 2).any()
    if from_localizer:
        assert datasets.records["case"]["voters"] == [1, 2]


def test_the_pass_rate_counts_only_the_organs_that_the_crop_is_made_for(tmp_path):
    save(tmp_path, localizer_map=label_map()[0])
    narrow = {"size_mm": (28.0, 27.0, 12.5)}  # 10 voxels along x, where the organs span 16
    box = roi.find_roi(label_map()[0], rule(**narrow), spacing_mm=SPACING_MM).box
    rates = []
    for left_out in ((), (1,)):
        datasets, _ = load(tmp_path, from_localizer=True, left_out=left_out, **narrow)
        kept = label_map({k: v for k, v in ORGANS.items() if k not in left_out})[0]
        rates.append(datasets.records["case"]["label_crop_pass_rate"])
        assert rates[-1] == pytest.approx(roi.label_crop_pass_rate(kept, box))
    assert rates[0] != rates[1]


def test_a_case_of_another_preprocessor_raises_naming_case_and_command(tmp_path):
    save(tmp_path, case="head_07", **{PROPERTIES_KEY: {}})
    with pytest.raises(ValueError, match=r"case 'head_07' .*nnUNetv2_preprocess -c 3d_fullres"):
        load(tmp_path, from_localizer=False, case="head_07")


def test_only_the_blocks_of_the_box_are_read(tmp_path, monkeypatch):
    save(tmp_path)
    asked = []
    original = nnUNetDatasetBlosc2.load_case

    def watched(self, identifier):
        data, *rest = original(self, identifier)

        class Watched:
            shape = data.shape

            def __getitem__(self, index):
                asked.append(index)
                return data[index]

        return Watched(), *rest

    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", watched)
    load(tmp_path, from_localizer=False)
    assert [tuple(s.stop - s.start for s in index[1:]) for index in asked] == [PATCH]


# ------------------------------------------------------------------------------------------------ in memory


ERRORS_MM = [[4.0, -3.0, 0.5], [1.0, 2.0, -6.0], [-2.0, 0.0, 1.0]]


@pytest.mark.parametrize("errors_mm", [[], ERRORS_MM])
@pytest.mark.parametrize("guidance", [False, True])
def test_a_held_case_gives_the_samples_that_the_disk_gives(tmp_path, monkeypatch, errors_mm, guidance):
    locations = {v: np.argwhere(label_map() == v) for v in ORGANS}
    save(tmp_path, localizer_map=label_map()[0], class_locations=locations)
    datasets = RoiDatasets(
        rule=rule(jitter_mm=5.0),
        spacing_mm=SPACING_MM,
        transpose_forward=(0, 1, 2),
        guidance=guidance,
        errors_mm=errors_mm,
    )
    disk, memory = (datasets(str(tmp_path), ["case"], str(tmp_path / "localizer")) for _ in range(2))
    np.random.seed(1)
    expected = [disk.load_case("case") for _ in range(50)]
    assert len({located(data) for data, *_ in expected}) > 20
    n_bytes = memory.hold(1e9)
    held = memory.held["case"]
    assert n_bytes == held.data.nbytes + held.seg.nbytes + (held.localizer_map.nbytes if guidance else 0)
    assert n_bytes < 0.75 * (numbered().nbytes + label_map().nbytes + guidance * label_map().nbytes)
    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", None)  # the disk is not read again
    np.random.seed(1)
    for data, seg, localizer_map, properties in expected:
        sample = memory.load_case("case")
        np.testing.assert_array_equal(sample[0], data)
        np.testing.assert_array_equal(sample[1], seg)
        assert (sample[2] is None) == (localizer_map is None) == (not guidance)
        if guidance:
            np.testing.assert_array_equal(sample[2], localizer_map)
        for value, voxels in properties["class_locations"].items():
            np.testing.assert_array_equal(sample[3]["class_locations"][value], voxels)
            assert (seg[tuple(voxels.T)] == value).all()


@pytest.mark.parametrize("dataset_class", [InMemoryDataset, None])
def test_what_is_done_to_a_sample_does_not_reach_the_held_case(tmp_path, dataset_class):
    save(tmp_path)
    make = dataset_class or RoiDatasets(rule=rule(), spacing_mm=SPACING_MM, transpose_forward=(0, 1, 2))
    dataset = make(str(tmp_path), ["case"])
    dataset.hold(1e9)
    data, seg, *_ = dataset.load_case("case")
    before = data.copy(), seg.copy()
    data *= 0
    seg -= 1
    again = dataset.load_case("case")
    np.testing.assert_array_equal(again[0], before[0])
    np.testing.assert_array_equal(again[1], before[1])


def test_cases_are_held_while_they_fit_and_the_others_are_read(tmp_path):
    for case in ("a", "b", "c"):
        save(tmp_path, case=case)
    dataset = InMemoryDataset(str(tmp_path), ["a", "b", "c"])
    each = numbered().nbytes + label_map().nbytes
    assert dataset.hold(2.5 * each) == 2 * each
    assert list(dataset.held) == ["a", "b"]
    for case in ("a", "c"):
        np.testing.assert_array_equal(dataset.load_case(case)[0][:], numbered())
    assert InMemoryDataset(str(tmp_path), ["a"]).hold(0) == 0


def test_a_case_without_organs_is_not_held(tmp_path):
    save(tmp_path, seg=label_map({}))
    dataset = RoiDatasets(rule=rule(), spacing_mm=SPACING_MM, transpose_forward=(0, 1, 2))(str(tmp_path), ["case"])
    assert dataset.hold(1e9) == 0
    assert dataset.load_case("case")[0].shape[1:] == PATCH


def test_held_cases_do_not_travel_to_a_process_that_is_started_anew(tmp_path):
    save(tmp_path)
    dataset = InMemoryDataset(str(tmp_path), ["case"])
    dataset.hold(1e9)
    sent = pickle.loads(pickle.dumps(dataset))
    assert dataset.held
    assert not sent.held
    np.testing.assert_array_equal(sent.load_case("case")[0][:], numbered())


# ------------------------------------------------------------------------------------------------ validation


def test_on_identical_grids_the_validation_crop_is_the_plain_slice(tmp_path):
    save(tmp_path, localizer_map=label_map()[0])
    _, (data, _, previous, properties) = load(tmp_path, from_localizer=True)
    box = roi.find_roi(label_map()[0], rule(), spacing_mm=SPACING_MM).box
    np.testing.assert_allclose(data, numbered()[(slice(None), *roi.slices(box))], rtol=1e-5)
    assert previous is None
    assert properties["bbox_used_for_cropping"] == [list(b) for b in box]
    assert properties["shape_after_cropping_and_before_resampling"] == PATCH


def test_the_validation_box_comes_from_the_localizer_and_never_from_the_reference(tmp_path):
    moved = {k: tuple(slice(s.start + 3, s.stop + 3) for s in where) for k, where in ORGANS.items()}
    save(tmp_path, localizer_map=label_map(moved)[0])
    datasets, (data, _, _, _) = load(tmp_path, from_localizer=True)
    box = roi.find_roi(label_map(moved)[0], rule(), spacing_mm=SPACING_MM).box
    np.testing.assert_allclose(data, numbered()[(slice(None), *roi.slices(box))], rtol=1e-5)
    rate = roi.label_crop_pass_rate(label_map()[0], box)
    assert rate < 1.0
    assert datasets.records["case"]["label_crop_pass_rate"] == pytest.approx(rate)


def test_the_validation_box_is_shifted_by_the_body_crop(tmp_path):
    save(tmp_path, localizer_map=label_map()[0], body=((3, 5, 7), (40, 50, 60)))
    _, (_, _, _, properties) = load(tmp_path, from_localizer=True)
    box = roi.find_roi(label_map()[0], rule(), spacing_mm=SPACING_MM).box
    expected = [[a + o, b + o] for (a, b), o in zip(box, (3, 5, 7), strict=True)]
    assert properties["bbox_used_for_cropping"] == expected
    assert properties["shape_before_cropping"] == (40, 50, 60)


def test_records_say_how_the_box_was_placed(tmp_path):
    one_eye = label_map({1: ORGANS[1]})[0]
    save(tmp_path, localizer_map=one_eye)
    datasets, _ = load(tmp_path, from_localizer=True)
    assert datasets.records == {
        "case": {
            "localizer_found": [1],
            "voters": [1],
            "outliers": [],
            "fallback_whole_volume": False,
            "label_crop_pass_rate": 1.0,
        }
    }


def test_without_a_found_organ_the_whole_volume_is_returned_and_recorded(tmp_path):
    save(tmp_path, localizer_map=np.zeros(SHAPE))
    datasets, (data, _, _, properties) = load(tmp_path, from_localizer=True)
    np.testing.assert_array_equal(data, numbered())
    assert properties["shape_after_cropping_and_before_resampling"] == SHAPE
    assert datasets.records["case"]["fallback_whole_volume"] is True
    assert datasets.records["case"]["label_crop_pass_rate"] == 1.0


def test_a_case_without_reference_organs_has_no_pass_rate(tmp_path):
    save(tmp_path, seg=label_map({}), localizer_map=label_map()[0])
    datasets, _ = load(tmp_path, from_localizer=True)
    assert datasets.records["case"]["label_crop_pass_rate"] is None


# --------------------------------------------------------------------------------- another grid than the case's own

ORIGINAL_SPACING_MM = (2.9, 1.1, 1.7)  # plan axes; the planned grid is finer, coarser and finer
ORIGINAL_SHAPE = (19, 55, 34)  # 55.1 x 60.5 x 57.8 mm; the planned grid has 28 x 40 x 46 voxels


def field(points_mm: list[np.ndarray]) -> np.ndarray:
    z, y, x = np.meshgrid(*points_mm, indexing="ij")
    return np.sin(z / 9.0) + 2 * np.cos(y / 11.0) + np.sin((x + y) / 13.0)


def test_the_crop_reproduces_a_smooth_field_at_the_positions_of_the_original_voxels(tmp_path):
    assert tuple(compute_new_shape(ORIGINAL_SHAPE, ORIGINAL_SPACING_MM, SPACING_MM)) == (28, 40, 46)
    # nnU-Net's resampling keeps the edges: planned voxel i spans [i, i + 1] * extent / n.
    extent = np.multiply(ORIGINAL_SHAPE, ORIGINAL_SPACING_MM)
    data = field([(np.arange(n) + 0.5) * e / n for n, e in zip(SHAPE, extent, strict=True)])[None].astype(np.float32)
    forward = (2, 0, 1)
    file_spacing = [ORIGINAL_SPACING_MM[forward.index(i)] for i in range(3)]
    save(
        tmp_path,
        data=data,
        localizer_map=label_map()[0],
        spacing_mm=file_spacing,
        original_shape=ORIGINAL_SHAPE,
        body=((4, 6, 8), (30, 70, 50)),
    )
    _, (crop, _, _, properties) = load(tmp_path, from_localizer=True, forward=forward)
    box = np.subtract(properties["bbox_used_for_cropping"], np.reshape((4, 6, 8), (3, 1)))
    shape = properties["shape_after_cropping_and_before_resampling"]
    assert tuple(box[:, 1] - box[:, 0]) == shape
    assert tuple(crop.shape[1:]) == tuple(compute_new_shape(shape, ORIGINAL_SPACING_MM, SPACING_MM))
    points = []
    for (lower, upper), n, s in zip(box, crop.shape[1:], ORIGINAL_SPACING_MM, strict=True):
        points.append((lower + (np.arange(n) + 0.5) * (upper - lower) / n) * s)
    error = np.abs(crop[0] - field(points)).max() / np.ptp(data)
    assert error < 0.01


@pytest.mark.parametrize(("force_separate_z", "largest_error"), [(False, 0.01), (None, 0.2)])
def test_the_crop_is_resampled_along_the_axes_that_the_plan_says(tmp_path, force_separate_z, largest_error):
    spacing_mm, original_shape = (6.9, 1.1, 1.7), (8, 55, 34)  # slices six times as thick as pixels
    extent = np.multiply(original_shape, spacing_mm)
    data = field([(np.arange(n) + 0.5) * e / n for n, e in zip(SHAPE, extent, strict=True)])[None].astype(np.float32)
    save(tmp_path, data=data, localizer_map=label_map()[0], spacing_mm=spacing_mm, original_shape=original_shape)
    datasets = RoiDatasets(
        rule=rule(size_mm=(20.0, 27.0, 24.0)),
        spacing_mm=SPACING_MM,
        transpose_forward=(0, 1, 2),
        from_localizer=True,
        force_separate_z=force_separate_z,
    )
    crop, _, _, properties = datasets(str(tmp_path), ["case"], str(tmp_path / "localizer")).load_case("case")
    points = []
    for (lower, upper), n, mm in zip(properties["bbox_used_for_cropping"], crop.shape[1:], spacing_mm, strict=True):
        points.append((lower + (np.arange(n) + 0.5) * (upper - lower) / n) * mm)
    error = np.abs(crop[0] - field(points)).max() / np.ptp(data)
    assert error < largest_error
    assert (error > 0.01) == (force_separate_z is None)  # the nearest slice lies up to half a planned voxel away


@pytest.mark.parametrize("forward", [(0, 1, 2), (2, 0, 1)])
def test_a_label_map_predicted_on_the_crop_lands_on_the_right_original_voxels(tmp_path, cascade_plans, forward):
    """The image is the label map itself: what nnU-Net's export makes of the crop must be the original label map."""
    original = np.zeros(ORIGINAL_SHAPE, np.float32)
    original[6:11, 16:28, 14:23] = 1  # 14.5 x 13.2 x 15.3 mm
    before, lower = (24, 60, 40), (2, 3, 5)
    file_spacing = [ORIGINAL_SPACING_MM[forward.index(i)] for i in range(3)]
    plans = PlansManager(cascade_plans(spacing_mm=SPACING_MM, transpose_forward=forward, roi=rule().to_plan()))
    configuration = plans.get_configuration("3d_cascade_fullres")
    planned = configuration.resampling_fn_data(original[None], SHAPE, ORIGINAL_SPACING_MM, SPACING_MM)
    localizer_map = (planned[0] > 0.5).astype(np.int16)
    save(
        tmp_path,
        data=planned.astype(np.float32),
        seg=localizer_map[None],
        localizer_map=localizer_map,
        spacing_mm=file_spacing,
        original_shape=ORIGINAL_SHAPE,
        body=(lower, before),
    )
    _, (crop, _, _, properties) = load(tmp_path, from_localizer=True, forward=forward)
    labels = plans.get_label_manager({"labels": {"background": 0, "organ": 1}})
    logits = torch.from_numpy(np.stack([1 - crop[0], crop[0]]))
    back = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, labels, properties, num_threads_torch=1
    )
    expected = np.zeros(before, np.uint8)
    expected[tuple(slice(a, a + n) for a, n in zip(lower, ORIGINAL_SHAPE, strict=True))] = original
    expected = expected.transpose([forward.index(i) for i in range(3)])
    assert back.shape == expected.shape
    overlap = 2 * np.count_nonzero((back == 1) & (expected == 1)) / (back.sum() + expected.sum())
    assert overlap > 0.99
    centroid = [np.argwhere(m).mean(0) for m in (back == 1, expected == 1)]
    assert np.abs(centroid[0] - centroid[1]).max() < 0.05  # voxels: no shift


def test_the_validation_box_is_the_one_prediction_would_place(tmp_path):
    """On the original grid, from the same organ: at most a voxel apart, which rounding of the label map explains."""
    original = np.zeros(ORIGINAL_SHAPE, np.int16)
    original[6:11, 16:28, 14:23] = 1
    at = np.meshgrid(*[((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(SHAPE, ORIGINAL_SHAPE, strict=True)],
                     indexing="ij")  # fmt: skip
    planned = original[tuple(at)]
    save(
        tmp_path,
        seg=planned[None],
        localizer_map=planned,
        spacing_mm=ORIGINAL_SPACING_MM,
        original_shape=ORIGINAL_SHAPE,
    )
    _, (_, _, _, properties) = load(tmp_path, from_localizer=True)
    predicted = roi.find_roi(original, rule(), spacing_mm=ORIGINAL_SPACING_MM).box
    assert np.abs(np.subtract(properties["bbox_used_for_cropping"], predicted)).max() <= 1
    sizes = np.diff(properties["bbox_used_for_cropping"], axis=1)
    np.testing.assert_array_equal(sizes, np.diff(predicted, axis=1))


def test_resample_box_at_the_border_of_the_volume_needs_nothing_outside():
    data = np.full((1, 5, 7, 11), 3.5, np.float32)
    out = resample_box(data, [(0, 2.5), (4.5, 7), (0, 11)], (4, 3, 16))
    assert out.shape == (1, 4, 3, 16)
    np.testing.assert_allclose(out, 3.5, rtol=1e-6)


def test_resample_box_of_a_ramp_has_the_values_of_the_voxel_centres():
    data = np.broadcast_to(np.arange(40, dtype=np.float32), (1, 5, 7, 40))
    out = resample_box(data, [(0, 5), (0, 7), (10, 14)], (5, 7, 8))
    np.testing.assert_allclose(out[0, 2, 3], np.arange(8) * 0.5 + 9.75, atol=1e-4)  # edge 10 is value 9.5


@pytest.mark.parametrize("nearest_axis", [None, 1])
def test_channels_that_are_resampled_side_by_side_have_the_values_of_one_after_the_other(monkeypatch, nearest_axis):
    data = np.random.default_rng(4).standard_normal((3, 9, 12, 17)).astype(np.float32)
    place = [(0.4, 8.7), (1.3, 10.2), (2.5, 14.0)], (13, 7, 19)
    alone = resample_box(data, *place, nearest_axis=nearest_axis)
    inner, together = ndimage.affine_transform, threading.Barrier(3)

    def waits_for_the_others(*arguments, **options):
        together.wait(30)
        return inner(*arguments, **options)

    monkeypatch.setattr(ndimage, "affine_transform", waits_for_the_others)
    np.testing.assert_array_equal(resample_box(data, *place, nearest_axis=nearest_axis, n_threads=8), alone)


@pytest.mark.parametrize(("n_processes", "cores", "together"), [(8, 4, 2), (1, 4, 1), (8, 1, 1)])
def test_the_final_validation_uses_the_threads_that_nnunet_and_the_cores_allow(
    tmp_path, monkeypatch, n_processes, cores, together
):
    """Each of the two channels waits a moment for the other one."""
    save(tmp_path, localizer_map=label_map()[0])
    inner, met = ndimage.affine_transform, threading.Barrier(2)

    def waits_for_the_other(*arguments, **options):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.wait(0.5 if together == 1 else 30)
        return inner(*arguments, **options)

    monkeypatch.setattr(ndimage, "affine_transform", waits_for_the_other)
    monkeypatch.setattr(configuration, "default_num_processes", n_processes)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    load(tmp_path, from_localizer=True)
    assert met.broken is (together == 1)


# ------------------------------------------------------------------------------------------------ what nnU-Net asks


def test_the_dataset_class_answers_what_nnunet_asks_it_and_can_be_pickled(tmp_path):
    save(tmp_path, case="b")
    save(tmp_path, case="a")
    datasets = RoiDatasets(rule=rule(), spacing_mm=SPACING_MM, transpose_forward=(0, 1, 2))
    again = pickle.loads(pickle.dumps(datasets))
    assert again == datasets
    assert sorted(again.get_identifiers(str(tmp_path))) == ["a", "b"]
    assert again.unpack_dataset(str(tmp_path), overwrite_existing=False, num_processes=1, verify=True) is None
    dataset = pickle.loads(pickle.dumps(again(str(tmp_path))))
    assert dataset.identifiers == ["a", "b"]
    assert dataset["a"][0].shape == (2, *PATCH)
    assert dataset.folder_with_segs_from_previous_stage is None


def test_a_training_dataset_does_not_look_for_the_localizers_maps(tmp_path):
    save(tmp_path)
    datasets = RoiDatasets(rule=rule(), spacing_mm=SPACING_MM, transpose_forward=(0, 1, 2))
    assert datasets(str(tmp_path), ["case"], str(tmp_path / "missing")).load_case("case")[2] is None
