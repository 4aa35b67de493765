"""Crops to the body and to the ROI, and that nnU-Net's export finds the way back."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.cascade import preprocessor, roi
from nnunet_ext.cascade.head_crop import HeadCrop
from nnunet_ext.cascade.preprocessor import (
    BODY_MARGIN_MM,
    PROPERTIES_KEY,
    CascadeOARPreprocessor,
    body_box,
    clip,
    find_body,
    shift,
    standardise,
    stored_extents,
)
from nnunet_ext.cascade.roi_fitting import fit_roi
from nnunet_ext.cleaning import head

SHAPE = (31, 53, 47)
SPACING_MM = (2.3, 1.7, 1.3)  # 71 x 90 x 61 mm
CENTRE = (14, 22, 25)
RADII = (7, 10, 13)  # an ellipsoid of 16, 17 and 17 mm: the head
HEAD_BOX = ((7, 22), (12, 33), (12, 39))
EYE_L, EYE_R, CHIASM = 1, 2, 3
ORGANS = {
    EYE_L: np.s_[12:16, 14:20, 28:35],
    EYE_R: np.s_[12:16, 14:20, 15:22],
    CHIASM: np.s_[16:18, 25:28, 22:29],
}
LABELS = {"background": 0, "Eye_L": EYE_L, "Eye_R": EYE_R, "OpticChiasm": CHIASM}
DATASET = {"channel_names": {"0": "CT", "1": "T1", "2": "T2"}, "labels": LABELS, "file_ending": ".nii.gz"}
TRANSPOSITIONS = [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)]  # the last two are not their own inverse


def reference(organs=ORGANS) -> np.ndarray:
    label_map = np.zeros((1, *SHAPE), np.uint8)
    for value, where in organs.items():
        label_map[0][where] = value
    return label_map


def images(channels=("CT", "T1", "T2"), seed: int = 0) -> np.ndarray:
    """A head of soft tissue in air, with noise; three channels of different scale."""
    rng = np.random.default_rng(seed)
    index = np.meshgrid(*[(np.arange(n) - c) / r for n, c, r in zip(SHAPE, CENTRE, RADII, strict=True)], indexing="ij")
    inside = sum(i**2 for i in index) <= 1
    of = {"CT": (-1000.0, 40.0, 10.0), "T1": (10.0, 300.0, 15.0), "T2": (30.0, 900.0, 40.0)}
    return np.stack(
        [np.where(inside, of[c][1], of[c][0]) + of[c][2] * rng.standard_normal(SHAPE) for c in channels]
    ).astype(np.float32)


def rule(forward=(0, 1, 2), margin_mm: float = 3.0) -> dict:
    """The ROI rule fitted to the one case there is, in plan axes."""
    label_map = reference()[0].transpose(forward)
    extents = roi.organ_extents(label_map, spacing_mm=[SPACING_MM[i] for i in forward])
    return fit_roi({"case": extents}, margin_mm=margin_mm, jitter_mm=0.0).rule.to_plan()


def managers(cascade_plans, configuration="3d_cascade_fullres", *, forward=(0, 1, 2), scale=1.0, **options):
    spacing = [SPACING_MM[i] * scale for i in forward]
    plans = PlansManager(cascade_plans(spacing_mm=spacing, transpose_forward=forward, roi=rule(forward), **options))
    return plans, plans.get_configuration(configuration)


def run(plans, configuration, data=None, seg=None, properties=None, dataset=DATASET):
    return CascadeOARPreprocessor(verbose=False).run_case_npy(
        images() if data is None else data,
        seg,
        properties or {"spacing": list(SPACING_MM)},
        plans,
        configuration,
        dataset,
    )


def exported(seg: np.ndarray, properties: dict, plans, configuration) -> np.ndarray:
    """The preprocessed label map sent through nnU-Net's own export, as one-hot logits."""
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(seg[0].astype(np.int64)), len(LABELS))
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        one_hot.permute(3, 0, 1, 2).float(),
        plans,
        configuration,
        plans.get_label_manager(DATASET),
        properties,
        num_threads_torch=1,
    )


def whole_body_box(volumes: np.ndarray, channel_names: dict) -> roi.Box:
    """Of a plan without a head crop."""
    body = find_body(volumes, spacing_mm=SPACING_MM, channel_names=channel_names, earlier=True)
    return body_box(body, spacing_mm=SPACING_MM, head_crop=None)


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 200.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


# ------------------------------------------------------------------------------------------------ body


@pytest.mark.parametrize("channels", [("CT", "T1", "T2"), ("T1",), ("T2", "T1"), ("T1", "CT")])
def test_the_body_box_is_the_head_and_a_margin_of_10_mm(channels):
    names = {str(i): c for i, c in enumerate(channels)}
    box = whole_body_box(images(channels), names)
    margins = [int(np.ceil(BODY_MARGIN_MM / s)) for s in SPACING_MM]  # 5, 6 and 8 voxels
    assert margins == [5, 6, 8]
    for (lower, upper), (first, last), m, n in zip(box, HEAD_BOX, margins, SHAPE, strict=True):
        assert abs(lower - max(0, first - m)) <= 1
        assert abs(upper - min(n, last + m)) <= 1


@pytest.mark.parametrize(
    ("channels", "used", "is_ct"), [(("T1", "CT"), 1, True), (("ct",), 0, True), (("T1", "T2"), 0, False)]
)
def test_the_body_is_looked_for_in_the_ct_or_else_in_the_first_mr(monkeypatch, channels, used, is_ct):
    seen = []

    def find(volume, *, spacing_mm, is_ct):
        seen.append((float(volume.flat[0]), is_ct))
        return np.ones(volume.shape, bool)

    monkeypatch.setattr(preprocessor, "coarse_body_mask", find)
    volumes = np.stack([np.full((5, 7, 11), i, np.float32) for i in range(len(channels))])
    volumes[:, -1] += 9.0  # an image of one value is none
    find_body(volumes, spacing_mm=SPACING_MM, channel_names={str(i): c for i, c in enumerate(channels)})
    assert seen == [(used, is_ct)]


@pytest.mark.parametrize("lacking", [("CT",), ("CT", "T1"), ("T1", "T2")])
def test_without_a_channel_the_body_is_looked_for_in_another_one(lacking):
    channels = ("CT", "T1", "T2")
    names = {str(i): c for i, c in enumerate(channels)}
    volumes = images(channels)
    whole = whole_body_box(volumes, names)
    for channel in lacking:
        volumes[channels.index(channel)] = 0
    box = whole_body_box(volumes, names)
    assert all(abs(a - b) <= 1 for pair in zip(box, whole, strict=True) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("value", [0.0, -1000.0])
def test_a_channel_of_one_value_is_zero_after_normalisation_also_a_ct(cascade_plans, value):
    plans, configuration = managers(cascade_plans, "3d_fullres")
    data = images()
    data[0] = value
    found, _, _ = run(plans, configuration, data)
    assert np.abs(found[0]).max() == 0
    assert found[1].std() > 0.5


def test_a_volume_without_a_body_is_kept_whole():
    air = np.full((1, 5, 7, 11), -1000.0, np.float32)
    assert whole_body_box(air, {"0": "CT"}) == roi.whole((5, 7, 11))
    nobody = np.zeros((5, 7, 11), bool)
    crop = HeadCrop(50.0, ((10.0, 10.0), (10.0, 10.0)))
    assert body_box(nobody, spacing_mm=SPACING_MM, head_crop=crop) == roi.whole((5, 7, 11))


# ------------------------------------------------------------------------------------------------ head crop

REACH = HeadCrop(below_crown_mm=30.0, beyond_head_mm=((4.0, 6.0), (5.0, 5.0)))


def with_neck(volumes: np.ndarray) -> np.ndarray:
    volumes = volumes.copy()
    neck = np.s_[:12, 14:31, 17:34]
    for image in volumes:
        image[neck] = image[12:16, 18:27, 20:30].mean() + 0.1 * (image[neck] - image[neck].mean())
    return volumes


def with_torso(volumes: np.ndarray, slices: int, *, in_mr: bool) -> np.ndarray:
    """The head and a neck on a wide torso. Where the MR did not see the torso, conversion leaves the MR's lowest value."""
    volumes = with_neck(volumes)
    torso = np.empty((len(volumes), slices, *volumes.shape[2:]), np.float32)
    noise = np.random.default_rng(5).standard_normal(torso.shape[1:])
    for part, image, mean, sd in zip(torso, volumes, (45.0, 500.0, 1200.0), (10.0, 15.0, 40.0), strict=True):
        part[...] = mean + sd * noise if in_mr or mean < 100 else image.min()
        part[:, :3] = image.min()  # air in front of it
    return np.concatenate([torso, volumes], axis=1)


@pytest.mark.parametrize("forward", TRANSPOSITIONS)
@pytest.mark.parametrize("in_mr", [False, True])
def test_with_a_head_crop_the_networks_see_the_same_however_far_the_images_go_down(
    cascade_plans, monkeypatch, forward, in_mr
):
    monkeypatch.setattr(head, "HEAD_MM", 30.0)  # as small as this head
    plans, configuration = managers(cascade_plans, "3d_fullres", forward=forward)
    plans.plans.update(REACH.to_plan())
    seen, boxes = [], []
    for slices in (0, 9, 40):
        data = with_neck(images()) if slices == 0 else with_torso(images(), slices, in_mr=in_mr)
        found, _, properties = run(plans, configuration, data)
        seen.append(found)
        boxes.append(np.array(properties["bbox_used_for_cropping"])[forward.index(0)] - slices)
    assert boxes[0].tolist() == boxes[1].tolist() == boxes[2].tolist()
    assert abs(boxes[0][0] - (22 - round(30 / SPACING_MM[0]))) <= 1  # down from the crown
    np.testing.assert_array_equal(seen[1], seen[2])
    np.testing.assert_allclose(seen[0], seen[1], atol=0.05)


def test_without_a_head_crop_the_whole_body_is_seen_and_the_z_score_is_nnunets(cascade_plans):
    plans, configuration = managers(cascade_plans, "3d_fullres")
    data = with_torso(images(), 20, in_mr=True)
    found, _, properties = run(plans, configuration, data)
    assert properties["bbox_used_for_cropping"][0][0] == 0
    assert found.shape[2:] == SHAPE[1:]
    for channel in found[1:]:
        assert float(channel.mean()) == pytest.approx(0.0, abs=1e-4)
        assert float(channel.std()) == pytest.approx(1.0, abs=1e-4)


def test_the_z_score_runs_over_the_body_inside_the_field_of_view():
    rng = np.random.default_rng(0)
    image = rng.normal(300, 20, (12, 14, 16)).astype(np.float32)
    body = np.zeros(image.shape, bool)
    body[2:10, 3:11, 4:13] = True
    image[~body] = rng.normal(50, 3, np.count_nonzero(~body))
    image[:5] = image.min() - 1  # not seen
    image[7, 6, 8] = image.min()  # a void inside the body is
    standardise(image, body)
    seen = image[5:10, 3:11, 4:13].astype(float)
    assert seen.mean() == pytest.approx(0, abs=1e-3)
    assert seen.std() == pytest.approx(1, abs=1e-3)


def test_an_image_that_sees_nothing_of_the_body_is_left_alone():
    image = np.zeros((6, 7, 8), np.float32)
    image[0, 0, 0] = 5.0
    standardise(image, np.ones(image.shape, bool))
    assert image.sum() == 5.0


@pytest.mark.parametrize("configuration", ["3d_lowres", "3d_fullres"])
@pytest.mark.parametrize("forward", TRANSPOSITIONS)
def test_every_configuration_without_a_previous_stage_is_cropped_to_the_body(cascade_plans, configuration, forward):
    plans, configuration = managers(cascade_plans, configuration, forward=forward)
    data, seg, properties = run(plans, configuration)
    body = whole_body_box(images(), DATASET["channel_names"])
    assert tuple(tuple(b) for b in properties["bbox_used_for_cropping"]) == tuple(body[i] for i in forward)
    assert data.shape[1:] == seg.shape[1:] == tuple(body[i][1] - body[i][0] for i in forward)
    assert tuple(properties["shape_before_cropping"]) == tuple(SHAPE[i] for i in forward)
    assert not seg.any()
    assert PROPERTIES_KEY not in properties


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("forward", TRANSPOSITIONS)
def test_a_label_map_returns_to_the_same_voxels_where_the_planned_grid_is_the_cases(cascade_plans, forward):
    plans, configuration = managers(cascade_plans, forward=forward)
    _, seg, properties = run(plans, configuration, seg=reference())
    assert seg.size < 0.6 * np.prod([u - lo for lo, u in HEAD_BOX])  # the ROI, not the body
    np.testing.assert_array_equal(exported(seg, properties, plans, configuration), reference()[0])


@pytest.mark.parametrize("forward", TRANSPOSITIONS)
def test_a_label_map_returns_through_a_finer_grid_to_a_dsc_of_at_least_96(cascade_plans, forward):
    plans, configuration = managers(cascade_plans, forward=forward, scale=0.7)
    _, seg, properties = run(plans, configuration, seg=reference())
    back = exported(seg, properties, plans, configuration)
    scores = {value: dsc(back == value, reference()[0] == value) for value in ORGANS}
    assert min(scores.values()) >= 96.0, scores


def test_the_box_in_the_properties_holds_the_organs_and_is_the_one_the_rule_places(cascade_plans):
    plans, configuration = managers(cascade_plans, forward=(2, 0, 1))
    data, _, properties = run(plans, configuration, seg=reference())
    box = properties["bbox_used_for_cropping"]
    label_map = reference()[0].transpose(2, 0, 1)
    assert roi.label_crop_pass_rate(label_map, tuple(map(tuple, box))) == 1.0
    assert data.shape[1:] == tuple(u - lo for lo, u in box)
    spacing = [SPACING_MM[i] for i in (2, 0, 1)]
    assert (
        tuple(map(tuple, box))
        == roi.find_roi(label_map, roi.RoiRule.from_plan(rule((2, 0, 1))), spacing_mm=spacing).box
    )
    assert properties[PROPERTIES_KEY] == {"found": True, "voters": [1, 2, 3], "outliers": []}


def test_two_eyes_place_the_same_box_as_all_organs(cascade_plans):
    plans, configuration = managers(cascade_plans)
    _, _, of_all = run(plans, configuration, seg=reference())
    _, _, of_eyes = run(plans, configuration, seg=reference({k: ORGANS[k] for k in (EYE_L, EYE_R)}))
    assert of_eyes["bbox_used_for_cropping"] == of_all["bbox_used_for_cropping"]
    assert of_eyes[PROPERTIES_KEY]["voters"] == [1, 2]


def test_normalisation_is_that_of_the_whole_body_wherever_the_roi_lies(cascade_plans):
    plans, cascaded = managers(cascade_plans)
    _, whole_body = managers(cascade_plans, "3d_fullres")
    body_data, _, body = run(plans, whole_body)
    origin = tuple(map(tuple, body["bbox_used_for_cropping"]))
    for organs in (ORGANS, {EYE_L: np.s_[9:12, 24:27, 17:20]}):
        data, _, properties = run(plans, cascaded, seg=reference(organs))
        box = clip(tuple(map(tuple, properties["bbox_used_for_cropping"])), origin)
        np.testing.assert_array_equal(data, body_data[(slice(None), *roi.slices(box))])
    assert body_data[1].mean() == pytest.approx(0.0, abs=1e-4)  # z-score of the body
    assert body_data[1].std() == pytest.approx(1.0, abs=1e-4)
    assert abs(data[1].mean()) > 0.2  # the crop alone has another mean


@pytest.mark.parametrize("channels", [("T1", "T2"), ("T2",)])
def test_mr_only_data_are_cropped_to_the_roi_and_back(cascade_plans, channels):
    plans, configuration = managers(cascade_plans, channels=channels)
    dataset = {**DATASET, "channel_names": {str(i): c for i, c in enumerate(channels)}}
    data, seg, properties = run(plans, configuration, images(channels), reference(), dataset=dataset)
    assert data.shape[0] == len(channels)
    np.testing.assert_array_equal(exported(seg, properties, plans, configuration), reference()[0])


# ------------------------------------------------------------------------------------------------ the caller's data


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade_fullres"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_what_the_caller_passes_is_left_as_it_is(cascade_plans, configuration, dtype):
    plans, configuration = managers(cascade_plans, configuration)
    data, seg, properties = images().astype(dtype), reference(), {"spacing": list(SPACING_MM), "sitk_stuff": {"a": 1}}
    before = data.copy(), seg.copy(), copy.deepcopy(properties)
    new_data, new_seg, new_properties = run(plans, configuration, data, seg, properties)
    np.testing.assert_array_equal(data, before[0])
    np.testing.assert_array_equal(seg, before[1])
    assert properties == before[2]
    assert new_properties["sitk_stuff"] == {"a": 1}
    assert not np.shares_memory(new_data, data)
    assert not np.shares_memory(new_seg, seg)
    assert new_data.dtype == np.float32
    assert new_seg.dtype == np.int8


def test_a_label_above_127_is_kept(cascade_plans):
    plans, configuration = managers(cascade_plans, "3d_fullres")
    label_map = reference().astype(np.int16)
    label_map[label_map == CHIASM] = 300
    _, seg, _ = run(plans, configuration, seg=label_map)
    assert seg.max() == 300


# ------------------------------------------------------------------------------------------------ no organ, request


def test_an_empty_localizer_map_leaves_the_whole_body_and_says_so(cascade_plans):
    plans, configuration = managers(cascade_plans)
    data, _, properties = run(plans, configuration, seg=np.zeros_like(reference()))
    body = whole_body_box(images(), DATASET["channel_names"])
    assert tuple(map(tuple, properties["bbox_used_for_cropping"])) == body
    assert data.shape[1:] == tuple(u - lo for lo, u in body)
    assert properties[PROPERTIES_KEY]["found"] is False


def test_at_prediction_the_file_in_which_nothing_was_found_is_named(cascade_plans, files, tmp_path, capsys):
    plans, configuration = managers(cascade_plans)
    empty = write(tmp_path, "empty", np.zeros(SHAPE, np.uint8))
    CascadeOARPreprocessor(verbose=False).run_case(files[0], empty, plans, configuration, DATASET)
    assert f"WARNING: {empty}: the localizer found no organ" in capsys.readouterr().out
    CascadeOARPreprocessor(verbose=False).run_case(*files, plans, configuration, DATASET)
    assert "WARNING" not in capsys.readouterr().out


def test_a_requested_box_overrules_the_vote_and_is_clipped_to_the_body(cascade_plans):
    plans, configuration = managers(cascade_plans, forward=(2, 0, 1))
    request = [[10, 30], [8, 20], [0, 25]]  # plan axes; the body begins at 6 along the last
    crops = CascadeOARPreprocessor(verbose=False)
    data, of_body = crops.crop_to_body(images(), {"spacing": list(SPACING_MM)}, plans, configuration, DATASET)
    seg = reference().transpose(0, *(i + 1 for i in plans.transpose_forward))
    seg = seg[(slice(None), *roi.slices(of_body["bbox_used_for_cropping"]))]
    properties = copy.deepcopy(of_body)
    data, seg, new = crops.crop_to_roi(data, seg, properties, plans, configuration, box=request)
    assert properties == of_body
    grids = crops.resampling(data.shape[1:], new, plans, configuration)
    data, seg = configuration.resampling_fn_data(data, *grids), configuration.resampling_fn_seg(seg, *grids)
    body = whole_body_box(images(), DATASET["channel_names"])
    assert body[1][0] > 0
    assert new["bbox_used_for_cropping"] == [[10, 30], [8, 20], [body[1][0], 25]]
    assert data.shape[1:] == seg.shape[1:] == (20, 12, 25 - body[1][0])
    expected = np.zeros_like(reference()[0])
    inside = np.s_[8:20, body[1][0] : 25, 10:30]
    expected[inside] = reference()[0][inside]
    np.testing.assert_array_equal(exported(seg, new, plans, configuration), expected)


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_raises_naming_the_channel(cascade_plans, value):
    plans, configuration = managers(cascade_plans, "3d_fullres")
    data = images()
    data[1, 3, 4, 5] = value
    with pytest.raises(ValueError, match=r"channels \[1\] hold NaN or infinite"):
        run(plans, configuration, data)


def test_images_and_label_map_of_different_size_raise_with_both_sizes(cascade_plans):
    plans, configuration = managers(cascade_plans, "3d_fullres")
    with pytest.raises(ValueError, match=r"\(31, 53, 47\).*\(30, 53, 47\)"):
        run(plans, configuration, seg=reference()[:, 1:])


# ------------------------------------------------------------------------------------------------ files


def write(folder, name: str, array: np.ndarray) -> str:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # RAS, as nnU-Net's reader wants it: no axis is moved
    path = str(folder / f"{name}.nii.gz")
    sitk.WriteImage(image, path)
    return path


@pytest.fixture
def files(tmp_path) -> tuple[list[str], str]:
    return (
        [write(tmp_path, f"case_000{i}", channel) for i, channel in enumerate(images())],
        write(tmp_path, "label", reference()[0]),
    )


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade_fullres"])
def test_a_training_case_is_saved_uncropped_with_organ_extents_and_locations(
    cascade_plans, files, tmp_path, configuration
):
    plans, configuration = managers(cascade_plans, configuration, scale=0.9)
    out = str(tmp_path / "case")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CascadeOARPreprocessor(verbose=False).run_case_save(out, *files, plans, configuration, DATASET)
    data, seg, _, properties = nnUNetDatasetBlosc2(str(tmp_path), ["case"]).load_case("case")
    body = whole_body_box(images(), DATASET["channel_names"])
    assert tuple(map(tuple, properties["bbox_used_for_cropping"])) == body
    assert data.shape[1:] == tuple(round((u - lo) / 0.9) for lo, u in body)
    seg = np.asarray(seg[:])
    assert set(properties["class_locations"]) == set(ORGANS)
    for value, where in properties["class_locations"].items():
        assert len(where) == np.count_nonzero(seg == value) > 0
        assert (seg[tuple(np.asarray(where).T)] == value).all()
    spacing = [s * 0.9 for s in SPACING_MM]
    assert stored_extents(properties) == roi.organ_extents(seg[0], spacing_mm=spacing)
    pickled = pickle.dumps(properties[PROPERTIES_KEY])  # in the file of every case: no class of ours, no array
    assert b"nnunet_ext" not in pickled
    assert b"numpy" not in pickled


def test_run_case_at_prediction_crops_to_the_localizers_box(cascade_plans, files):
    plans, configuration = managers(cascade_plans)
    _, seg, properties = CascadeOARPreprocessor(verbose=False).run_case(*files, plans, configuration, DATASET)
    assert properties[PROPERTIES_KEY]["found"]
    assert "class_locations" not in properties
    np.testing.assert_array_equal(exported(seg, properties, plans, configuration), reference()[0])


def test_run_case_takes_the_file_of_the_data_set_too(cascade_plans, files, tmp_path):
    plans, configuration = managers(cascade_plans, "3d_fullres")
    dataset_file = tmp_path / "dataset.json"
    dataset_file.write_text(json.dumps(DATASET))
    data, seg, properties = CascadeOARPreprocessor(verbose=False).run_case(*files, plans, configuration, DATASET)
    of_file = CascadeOARPreprocessor(verbose=False).run_case(*files, plans, configuration, str(dataset_file))
    np.testing.assert_array_equal(of_file[0], data)
    np.testing.assert_array_equal(of_file[1], seg)
    assert of_file[2][PROPERTIES_KEY] == properties[PROPERTIES_KEY]


def test_a_bad_training_case_is_named_by_its_file(cascade_plans, files, tmp_path):
    plans, configuration = managers(cascade_plans, "3d_fullres")
    data = images()[0]
    data[0, 0, 0] = np.nan
    write(tmp_path, "case_0000", data)
    with pytest.raises(ValueError, match=r"case_0000\.nii\.gz .*NaN"):
        CascadeOARPreprocessor(verbose=False).run_case_save(
            str(tmp_path / "out"), *files, plans, configuration, DATASET
        )
    assert not list(tmp_path.glob("out*"))


# ------------------------------------------------------------------------------------------------ boxes


@st.composite
def box_within(draw, sizes=(5, 7, 11)):
    box = []
    for n in sizes:
        lower = draw(st.integers(0, n - 1))
        box.append((lower, draw(st.integers(lower + 1, n))))
    return tuple(box)


@settings(max_examples=100, deadline=None)
@given(origin=box_within(), data=st.data())
def test_clip_undoes_shift_and_shift_undoes_clip(origin, data):
    inner = data.draw(box_within(tuple(u - lo for lo, u in origin)))
    assert clip(shift(inner, origin), origin) == inner
    assert shift(clip(shift(inner, origin), origin), origin) == shift(inner, origin)


@settings(max_examples=100, deadline=None)
@given(origin=box_within(), data=st.data())
def test_a_crop_of_a_crop_pastes_back_where_it_came_from(origin, data):
    volume = np.arange(5 * 7 * 11).reshape(5, 7, 11)
    inner = data.draw(box_within(tuple(u - lo for lo, u in origin)))
    crop = volume[roi.slices(origin)][roi.slices(inner)]
    np.testing.assert_array_equal(volume[roi.slices(shift(inner, origin))], crop)


def test_clip_cuts_off_what_lies_outside():
    assert clip(((2, 9), (0, 3)), ((4, 8), (1, 7))) == ((0, 4), (0, 2))
