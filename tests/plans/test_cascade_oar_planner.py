"""Plans for a synthetic raw dataset of six heads in three spacings, one of them stored in another orientation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned_heads import (
    CONFIGURATIONS,
    FINEST_ZYX,
    LABELS,
    NAME,
    RIVALS,
    SPACINGS_MM,
    STUDY,
    head,
    make_raw,
    plans_file,
    set_paths,
    write_case,
    write_dataset_json,
)

from nnunet_ext.cascade.roi import RoiRule, find_roi, label_crop_pass_rate
from nnunet_ext.hooks.experiment_planning import lookup
from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall
from nnunet_ext.plans.study_configurations import trained_patch
from nnunet_ext.plans.training_set import ScannedCase
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer
from nnunet_ext.trainers.cascade_oar_trainer_reference import CascadeOARTrainerReference
from nnunet_ext.training.schedule import TrainingSchedule

# ------------------------------------------------------------------------------------------------ configurations


def test_the_plan_has_localizer_baseline_segmenter_and_the_studys_patches_and_nothing_else(planned, shared_root):
    plan = planned()
    assert list(plan["configurations"]) == CONFIGURATIONS
    assert json.loads(plans_file(shared_root).read_text()) == json.loads(json.dumps(plan))
    segmenter = PlansManager(plan).get_configuration("3d_cascade_fullres")
    assert segmenter.previous_stage_name == "3d_lowres"
    assert PlansManager(plan).get_configuration("3d_lowres").next_stage_names == ["3d_cascade_fullres"]
    assert segmenter.data_identifier == "CascadeOARPlansSmall_3d_fullres"


def test_an_older_plan_is_kept_aside_and_its_configurations_do_not_survive(own_raw, tmp_path):
    file = plans_file(tmp_path)
    older = {"configurations": {"2d": {"spacing": [1.0, 1.0]}}}
    file.write_text(json.dumps(older))
    CascadeOARPlannerSmall(501).plan_experiment()
    assert "2d" not in json.loads(file.read_text())["configurations"]
    assert json.loads(file.with_name(file.name + ".old").read_text()) == older


def test_planning_twice_leaves_no_copy_of_the_same_plan(own_raw, tmp_path):
    for _ in range(2):
        CascadeOARPlannerSmall(501).plan_experiment()
    names = sorted(f.name for f in plans_file(tmp_path).parent.iterdir())
    assert names == ["CascadeOARPlansSmall.json", "dataset.json", "dataset_fingerprint.json"]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_nnunet_reads_every_configuration_and_builds_its_network(planned, configuration):
    plans = PlansManager(json.loads(json.dumps(planned())))
    c = plans.get_configuration(configuration)
    network = get_network_from_plans(
        c.network_arch_class_name,
        c.network_arch_init_kwargs,
        c.network_arch_init_kwargs_req_import,
        2,
        len(LABELS),
        deep_supervision=False,
    ).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 2, *c.patch_size)).shape == (1, len(LABELS), *c.patch_size)
    assert c.preprocessor_class.__name__ == "CascadeOARPreprocessor"
    assert callable(c.resampling_fn_data)
    assert callable(c.resampling_fn_seg)
    assert c.use_mask_for_norm == [False, False]
    assert c.normalization_schemes == ["CTNormalization", "ZScoreNormalization"]
    TrainingSchedule.from_plan(c.configuration["training"])


def test_the_full_planner_differs_in_size_and_schedule(planned):
    class Planner(CascadeOARPlanner):  # the default networks would take seconds to build
        localizer_voxels = 32**3
        localizer_features = 8

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.UNet_base_num_features = 8
            self.UNet_blocks_per_stage_encoder = (1,) * 8

    plan = planned(Planner)
    assert plan["plans_name"] == "CascadeOARPlans"
    segmenter = plan["configurations"]["3d_cascade_fullres"]
    assert segmenter["training"]["num_epochs"] == 500
    assert segmenter["architecture"]["arch_kwargs"]["dropout_op"] == "torch.nn.modules.dropout.Dropout3d"
    assert segmenter["architecture"]["arch_kwargs"]["dropout_op_kwargs"] == {"p": 0.1}


@pytest.mark.parametrize(
    ("planner", "force_separate_z"),
    [
        ("CascadeOARPlanner", False),
        ("CascadeOARPlannerSmall", False),
        ("CascadeOARPlannerSeparateZ", None),
        ("CascadeOARPlannerSmallSeparateZ", None),
    ],
)
def test_images_label_maps_and_the_export_are_interpolated_along_the_same_axes(planned, planner, force_separate_z):
    plan = planned(getattr(lookup, planner))
    assert plan["plans_name"] == planner.replace("Planner", "Plans")
    for name in ("3d_lowres", "3d_fullres"):
        configuration = plan["configurations"][name]
        for what in ("data", "seg", "probabilities"):
            assert configuration[f"resampling_fn_{what}_kwargs"]["force_separate_z"] is force_separate_z
    segmenter = plan["configurations"]["3d_cascade_fullres"]
    assert segmenter["inherits_from"] == "3d_fullres"
    assert not any("resampling" in key for key in segmenter)


def test_the_command_lines_default_preprocessor_is_replaced(own_raw):
    plan, _ = plan_experiment_dataset(501, CascadeOARPlannerSmall, 0.25, "DefaultPreprocessor", None, None)
    assert plan["configurations"]["3d_fullres"]["preprocessor_name"] == "CascadeOARPreprocessor"


# ------------------------------------------------------------------------------------------------ grid


def test_the_grid_is_a_little_finer_than_the_finest_where_spacings_differ(planned):
    expected = [0.95 * s for s in FINEST_ZYX]
    assert planned()["configurations"]["3d_fullres"]["spacing"] == pytest.approx(expected, abs=1e-4)


def test_the_grid_is_the_cases_own_where_all_agree(planned, monkeypatch):
    cases = {f"case_{x}": ScannedCase((3.0, 0.9, x), (40, 80, 80), {}) for x in (0.9, 1.0, 1.2)}
    monkeypatch.setattr(CascadeOARPlanner, "scan", lambda self: cases)
    planner = object.__new__(CascadeOARPlanner)
    planner.overwrite_target_spacing = None
    assert planner.determine_fullres_target_spacing() == pytest.approx([3.0, 0.9, 0.95 * 0.9])


def test_one_case_far_finer_than_the_rest_does_not_set_the_grid(tmp_path, monkeypatch):
    set_paths(monkeypatch, tmp_path)
    make_raw(tmp_path, spacings=[(0.75, 1.5, 3.0), (1.5, 1.5, 3.0), (1.5, 1.5, 3.0)], n=3)
    spacing = CascadeOARPlannerSmall(501).determine_fullres_target_spacing()
    assert spacing == pytest.approx((3.0, 1.5, 0.9), abs=1e-4)  # 0.6 of the median


@pytest.mark.parametrize(
    ("spacing_zyx", "forward", "left_right_axis"),
    [([3.0, 1.5, 1.6], [0, 1, 2], 2), ([1.5, 3.0, 1.6], [1, 0, 2], 2), ([1.5, 1.6, 3.0], [2, 0, 1], 0)],
)
def test_a_given_spacing_is_used_and_left_right_follows_the_transposition(
    planned, spacing_zyx, forward, left_right_axis
):
    plan = planned(overwrite_target_spacing=spacing_zyx)
    assert plan["configurations"]["3d_fullres"]["spacing"] == [spacing_zyx[i] for i in forward]
    assert plan["transpose_forward"] == forward
    assert [forward[i] for i in plan["transpose_backward"]] == [0, 1, 2]
    assert plan["left_right_axis"] == left_right_axis
    # The eyes lie 20 mm apart along that axis, apart from the obliqueness, and nowhere else.
    offsets = plan["configurations"]["3d_cascade_fullres"]["roi"]["offset_mm"]
    apart = np.abs(np.subtract(offsets["1"], offsets["2"]))
    assert apart[left_right_axis] == pytest.approx(20.0, abs=1.0)
    assert np.delete(apart, left_right_axis) == pytest.approx([0.0, 0.0], abs=1.0)


def test_a_case_stored_in_another_orientation_votes_for_the_same_centre(planned):
    rule = planned()["configurations"]["3d_cascade_fullres"]["roi"]
    assert max(rule["spread_mm"].values()) < 1.5  # the same head, up to the voxel size


# ------------------------------------------------------------------------------------------------ patches


def test_the_localizers_patch_covers_the_body_of_every_case(planned):
    planner = CascadeOARPlannerSmall(501)
    plan = planned()
    c = plan["configurations"]["3d_lowres"]
    covered = np.multiply(c["patch_size"], c["spacing"])
    for case in planner.scan().values():
        extent = np.multiply(case.body_shape, case.spacing_mm)[plan["transpose_forward"]]
        assert (covered >= extent - 1e-6).all()
    assert np.prod(c["patch_size"]) <= CascadeOARPlannerSmall.localizer_voxels
    assert (np.array(c["spacing"]) >= np.array(plan["configurations"]["3d_fullres"]["spacing"])).all()


def test_the_roi_is_one_that_the_network_divides_and_holds_what_the_organs_need_and_the_margin(planned):
    c = planned()["configurations"]["3d_cascade_fullres"]
    spacing = planned()["configurations"]["3d_fullres"]["spacing"]
    assert (np.array(c["roi"]["size_mm"]) >= np.add(c["roi"]["needed_mm"], 2 * c["roi"]["margin_mm"]) - 1e-6).all()
    divisor = np.prod(c["architecture"]["arch_kwargs"]["strides"], axis=0)
    box = np.round(np.divide(c["roi"]["size_mm"], spacing)).astype(int)
    assert np.multiply(box, spacing) == pytest.approx(c["roi"]["size_mm"])
    assert (box % divisor == 0).all()


def test_eight_windows_predict_the_roi(planned):
    plan = planned()
    c = plan["configurations"]["3d_cascade_fullres"]
    box = np.round(np.divide(c["roi"]["size_mm"], plan["configurations"]["3d_fullres"]["spacing"])).astype(int)
    steps = compute_steps_for_sliding_window(tuple(box.tolist()), tuple(c["patch_size"]), 0.5)
    assert [len(along) for along in steps] == [2, 2, 2]


@pytest.mark.parametrize("share", [1.0, 2 / 3, 0.5, 0.3])
def test_the_segmenters_patch_is_the_planned_share_of_the_roi(planned, share, monkeypatch):
    monkeypatch.setattr(CascadeOARPlannerSmall, "segmenter_patch_share", share)
    plan = planned(plans_name=f"Share{round(100 * share)}")
    c = plan["configurations"]["3d_cascade_fullres"]
    box = np.round(np.divide(c["roi"]["size_mm"], plan["configurations"]["3d_fullres"]["spacing"])).astype(int)
    step = np.prod(c["architecture"]["arch_kwargs"]["strides"], axis=0)
    assert c["patch_size"] == list(step * np.ceil(share * box / step - 1e-6).astype(int))
    assert (c["patch_size"] == list(box)) == (share == 1)


def test_the_segmenters_deepest_stage_has_two_voxels_however_small_the_share(planned, monkeypatch):
    monkeypatch.setattr(CascadeOARPlannerSmall, "segmenter_patch_share", 0.05)
    c = planned(plans_name="Share5")["configurations"]["3d_cascade_fullres"]
    assert c["patch_size"] == (2 * np.prod(c["architecture"]["arch_kwargs"]["strides"], axis=0)).tolist()


def test_four_patches_of_two_thirds_of_the_roi_are_a_batch_where_memory_allows(planned, monkeypatch):
    assert CascadeOARPlannerSmall.segmenter_patch_share == CascadeOARPlanner.segmenter_patch_share == 2 / 3
    configurations = planned()["configurations"]
    assert configurations["3d_cascade_fullres"]["batch_size"] == 4
    assert {configurations[name]["batch_size"] for name in STUDY if "cascade" in name} == {2}
    monkeypatch.setattr(CascadeOARPlannerSmall, "segmenter_memory_factor", 1.0)
    sizes = []
    for memory_gb in (0.021, 0.016, 0.0103):
        c = planned(gpu_memory_target_in_gb=memory_gb, plans_name="Memory")["configurations"]["3d_cascade_fullres"]
        assert c["patch_size"] == configurations["3d_cascade_fullres"]["patch_size"]
        sizes.append(c["batch_size"])
    assert sizes == [4, 2, 2]  # three fit the second, but two GPUs can not share three


def test_the_planned_roi_holds_every_organ_of_every_case(planned):
    plan = planned()
    rule = RoiRule.from_plan(json.loads(json.dumps(plan))["configurations"]["3d_cascade_fullres"]["roi"])
    planner, forward = CascadeOARPlannerSmall(501), plan["transpose_forward"]
    reader = planner.determine_reader_writer()()
    for files in planner.dataset.values():
        seg, properties = reader.read_seg(files["label"])
        label_map = seg[0].transpose(forward).astype(np.int16)
        spacing = [properties["spacing"][i] for i in forward]
        eyes = np.where(label_map == 3, 0, label_map)
        assert label_crop_pass_rate(label_map, find_roi(eyes, rule, spacing_mm=spacing).box) == 1.0


def test_the_plan_holds_what_is_usual_of_the_training_labels(planned, shared_root):
    ranges = planned()["plausibility"]
    volumes_ml = {organ: [] for organ in LABELS if organ != "background"}
    for file in sorted((shared_root / "raw" / NAME / "labelsTr").glob("*.nii.gz")):
        label = sitk.ReadImage(str(file))
        array = sitk.GetArrayViewFromImage(label)
        for organ, volumes in volumes_ml.items():
            volumes.append(np.count_nonzero(array == LABELS[organ]) * np.prod(label.GetSpacing()) / 1000)
    assert set(ranges["volume_ml"]) == set(volumes_ml)
    for organ, (lower, upper) in ranges["volume_ml"].items():
        assert lower < min(volumes_ml[organ]) < max(volumes_ml[organ]) < upper
        assert np.sqrt(lower * upper) == pytest.approx(np.exp(np.mean(np.log(volumes_ml[organ]))))
    assert ranges["left_to_right_mm"]["Eye_L"] < 0  # x runs to the right in RAS


@pytest.mark.parametrize("memory_gb", [3e-5, 3e-6])
def test_a_roi_too_large_for_the_gpu_is_covered_by_smaller_patches(planned, memory_gb):
    whole_roi = planned()["configurations"]["3d_cascade_fullres"]
    c = planned(gpu_memory_target_in_gb=memory_gb)["configurations"]["3d_cascade_fullres"]
    assert c["roi"]["size_mm"] == whole_roi["roi"]["size_mm"]
    assert np.prod(c["patch_size"]) < np.prod(whole_roi["patch_size"])
    assert min(c["patch_size"]) >= 4  # nnU-Net's smallest feature map


@pytest.mark.parametrize("target_gb", [1e-1, 1e-3])
def test_a_batch_is_one_patch_where_two_exceed_the_memory_target_and_a_warning_where_one_does(
    planned, capsys, target_gb
):
    """Of the small planner's configurations, those in the ROI may use a multiple of the target."""
    plan = planned(gpu_memory_target_in_gb=target_gb)
    said = capsys.readouterr().out
    made = CascadeOARPlannerSmall(501, target_gb)
    for name, entries in plan["configurations"].items():
        c = {**plan["configurations"]["3d_fullres"], **entries}
        factor = made.segmenter_memory_factor if "previous_stage" in c else 1
        two_gb = made.target_gb(trained_patch(c), c["architecture"], 2)
        if name not in RIVALS:  # whose batch is that of their papers
            assert (c["batch_size"] == 1) == (two_gb > factor * target_gb), name
        assert (f"WARNING: {name} needs" in said) == (two_gb / 2 > factor * target_gb), name
        assert re.search(rf"^{name}: .*batch size {c['batch_size']}, about .* GiB of GPU memory", said, re.M)


# ------------------------------------------------------------------------------------------------ what can't be planned


def test_training_labels_without_any_organ_raise(own_raw):
    for i, spacing in enumerate(SPACINGS_MM):
        images, label = head(spacing)
        write_case(own_raw, f"head_{i:02d}", images, label * 0)
    with pytest.raises(ValueError, match="no training label map holds an organ"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_a_case_with_a_missing_organ_is_planned_and_named(own_raw, capsys):
    images, label = head(SPACINGS_MM[0])
    write_case(own_raw, "head_00", images, sitk.Mask(label, label != 3))
    CascadeOARPlannerSmall(501).plan_experiment()
    assert "Cases with organs missing: head_00" in capsys.readouterr().out


@pytest.mark.parametrize("label", [{"ignore": 4}, {"Eyes": [1, 2]}])
def test_label_tables_the_cascade_cannot_use_are_refused(own_raw, label):
    write_dataset_json(own_raw, labels={**LABELS, **label}, regions_class_order=[1, 2, 3, 1])
    with pytest.raises(ValueError, match=next(iter(label))):
        CascadeOARPlannerSmall(501).plan_experiment()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": {"0": "background", "1": "Eye_L"}}, "of nnU-Net v1: labels are value -> name"),
        ({"labels": {"background": 0, "Eye_L": "1"}}, "'Eye_L' has the value \"1\"; write the number 1 without quotes"),
        ({"channel_names": ["CT", "T1"]}, "channel_names is .*; write number -> name"),
    ],
)
def test_a_dataset_json_of_another_form_is_told_what_to_write(own_raw, change, said):
    write_dataset_json(own_raw, **change)
    with pytest.raises(ValueError, match=said):
        CascadeOARPlannerSmall(501)
    (own_raw / "dataset.json").write_text('{"labels": ')
    with pytest.raises(ValueError, match=r"dataset\.json is damaged: it is cut off"):
        CascadeOARPlannerSmall(501)


def test_a_person_with_several_cases_is_in_one_fold(own_raw, tmp_path, capsys):
    write_dataset_json(own_raw, same_person=[["head_00", "head_02"]])
    CascadeOARPlannerSmall(501).plan_experiment()
    file = plans_file(tmp_path).with_name("splits_final.json")
    splits = json.loads(file.read_text())
    assert sorted(split["val"] for split in splits) == [["head_00", "head_02"], ["head_01"]]
    assert "2 folds with each person in one of them" in capsys.readouterr().out
    before = file.stat().st_mtime_ns
    CascadeOARPlannerSmall(501).plan_experiment()
    assert file.stat().st_mtime_ns == before
    file.write_text(json.dumps([{"train": ["head_00"], "val": ["head_01", "head_02"]}]))
    with pytest.raises(
        ValueError, match="fold 0 trains on case 'head_00' and validates on 'head_02' of the same person"
    ):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_without_such_persons_the_splits_are_left_to_nnunet(own_raw, tmp_path):
    CascadeOARPlannerSmall(501).plan_experiment()
    assert not plans_file(tmp_path).with_name("splits_final.json").exists()


def test_an_older_plan_that_is_damaged_is_kept_aside(own_raw, tmp_path):
    plans_file(tmp_path).write_text("{")
    CascadeOARPlannerSmall(501).plan_experiment()
    assert Path(f"{plans_file(tmp_path)}.old").read_text() == "{"


# ------------------------------------------------------------------------------------------------ left and right


def own_labels(raw: Path, left: str, right: str, third: str = "OpticChiasm", **changes) -> dict:
    write_dataset_json(raw, labels={"background": 0, left: 1, right: 2, third: 3}, **changes)
    return json.loads((raw / "dataset.json").read_text())


@pytest.mark.parametrize(
    ("left", "right"),
    [("left_eye", "right_eye"), ("EyeL", "EyeR"), ("左眼", "右眼"), ("Auge_li", "Auge_re"), ("OS", "OD")],
)
def test_training_exchanges_left_and_right_however_they_are_called(own_raw, left, right):
    dataset_json = own_labels(own_raw, left, right)
    plans = CascadeOARPlannerSmall(501).plan_experiment()
    assert plans["left_right_pairs"] == [[left, right]]
    assert list(plans["plausibility"]["left_to_right_mm"]) == [left]
    saved = json.loads((own_raw.parents[1] / "preprocessed" / NAME / "CascadeOARPlansSmall.json").read_text())
    for cls in (CascadeOARTrainer, CascadeOARTrainerReference):
        trainer = cls({**saved, "continue_training": False}, "3d_lowres", 0, dataset_json, torch.device("cpu"))
        seg = torch.zeros(1, 3, 4, 5, dtype=torch.int16)
        axis = trainer.left_right_axis
        seg.select(axis + 1, 0)[...] = 1  # the left organ at one end, the right one at the other
        seg.select(axis + 1, -1)[...] = 2
        mirrored = trainer.mirror_transform()._apply_to_segmentation(seg, axes=(axis,))
        assert torch.equal(mirrored, seg), "a mirrored left organ is a right one, at the right one's place"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("Eye_L", "Eye_R", "PTV_R"),
            r"'PTV_R' looks like a right organ and has no left partner.*\[\[\"Eye_L\", \"Eye_R\"\]\]",
        ),
        (("left_eye", "Eye_L", "Eye_R"), r"dataset\.json: 'left_eye' looks like a left organ"),
        (
            ("parotidl", "parotidr", "Eye"),
            r"'parotidl' and 'parotidr' may be left and right.*\[\[\"parotidl\", \"parotidr\"\]\]",
        ),
        (
            ("左眼", "脑干", "Eye"),
            r"'左眼' looks like a left organ and has no right partner.*mirror_left_right = false",
        ),
    ],
)
def test_a_name_with_a_side_and_without_one_partner_stops_planning_before_any_case_is_read(own_raw, names, message):
    own_labels(own_raw, *names)
    for file in (own_raw / "labelsTr").iterdir():
        file.write_bytes(b"")  # reading one would fail in other words
    with pytest.raises(ValueError, match=message):
        CascadeOARPlannerSmall(501)


@pytest.mark.parametrize(
    ("line", "pairs", "mirrors"),
    [
        ({"left_right_pairs": [["Eye_L", "Eye_R"]]}, [["Eye_L", "Eye_R"]], True),
        ({"left_right_pairs": []}, [], True),
        ({"mirror_left_right": False}, [["Eye_L", "Eye_R"]], False),
        ({"mirror_left_right": False, "left_right_pairs": [["Eye_L", "Eye_R"]]}, [["Eye_L", "Eye_R"]], False),
    ],
)
def test_the_lines_that_the_message_names_let_planning_go_on(own_raw, capsys, line, pairs, mirrors):
    dataset_json = own_labels(own_raw, "Eye_L", "Eye_R", "Level_R", **line)
    plans = CascadeOARPlannerSmall(501).plan_experiment()
    assert plans["left_right_pairs"] == pairs
    assert re.search(r"Without a partner or a side.*'Level_R'", capsys.readouterr().out)
    assert {c["recipe"]["mirror_left_right"] for c in plans["configurations"].values()} == {mirrors}
    for cls in (CascadeOARTrainer, CascadeOARTrainerReference):
        trainer = cls({**plans, "continue_training": False}, "3d_lowres", 0, dataset_json, torch.device("cpu"))
        assert (trainer.left_right_axis in trainer.mirror_transform().allowed_axes) == mirrors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"left_right_pairs": [["Eye_L", "Auge"]]}, r"dataset\.json: left_right_pairs names 'Auge', which is no label"),
        ({"left_right_pairs": "Eye_L Eye_R"}, r"left_right_pairs is 'Eye_L Eye_R', not a list of pairs"),
        ({"left_right_pairs": [["Eye_L", "Eye_R"], ["Eye_L", "OpticChiasm"]]}, "names 'Eye_L' twice"),
        ({"left_right_pairs": [["background", "Eye_R"]]}, "names 'background', which is no label"),
        ({"mirror_left_right": "false"}, r"dataset\.json: mirror_left_right is 'false'; write true or false"),
    ],
)
def test_a_wrong_line_about_sides_stops_planning(own_raw, line, message):
    own_labels(own_raw, "Eye_L", "Eye_R", **line)
    with pytest.raises(ValueError, match=message):
        CascadeOARPlannerSmall(501)
