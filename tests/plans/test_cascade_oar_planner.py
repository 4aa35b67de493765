"""Plans for a synthetic raw dataset of six heads in three spacings, one of them stored in another orientation."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.cascade.roi import RoiRule, find_roi, label_crop_pass_rate
from nnunet_ext.cascade.roi_fitting import RoiFit
from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner, CascadeOARPlannerSmall, ScannedCase
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer, CascadeOARTrainerReference
from nnunet_ext.training.schedule import TrainingSchedule

NAME = "Dataset501_Heads"
LABELS = {"background": 0, "Eye_L": 1, "Eye_R": 2, "OpticChiasm": 3}
EXTENT_MM = (66.0, 62.0, 58.0)  # x, y, z
#: Organs in mm in LPS, from the head's centre: left is +x, posterior +y.
ORGANS_MM = {1: ((10, -14, 4), 4.5), 2: ((-10, -14, 4), 4.5), 3: ((0, 4, -4), 3.5)}
SPACINGS_MM = [(1.5, 1.6, 3.0), (1.7, 1.5, 2.8), (1.6, 1.7, 3.1)]  # x, y, z
FINEST_ZYX = (2.8, 1.5, 1.5)
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.10, -0.08, 0.12).GetMatrix()


def head(spacing_mm, *, seed: int = 0, shift_mm=(0.0, 0.0, 0.0), direction=OBLIQUE) -> tuple[list, sitk.Image]:
    """CT and T1 of a head of 20 mm radius in air, and its label map; axes in (oblique) LPS order."""
    size = [round(e / s) for e, s in zip(EXTENT_MM, spacing_mm, strict=True)]
    axes = [(np.arange(n) + 0.5) * s - n * s / 2 for n, s in zip(size, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    points = np.stack([x, y, z], -1) - shift_mm
    inside = (points**2).sum(-1) <= 20.0**2
    noise = np.random.default_rng(seed).standard_normal(inside.shape)
    labels = np.zeros(inside.shape, np.uint8)
    for value, (centre, radius) in ORGANS_MM.items():
        labels[((points - centre) ** 2).sum(-1) <= radius**2] = value
    arrays = [np.where(inside, 40.0, -1000.0) + 5 * noise, np.where(inside, 300.0, 5.0) + 3 * noise, labels]
    made = []
    for array in arrays:
        image = sitk.GetImageFromArray(array if array is labels else array.astype(np.float32))
        image.SetSpacing(spacing_mm)
        image.SetOrigin((-30.0, 12.0, 5.0))
        image.SetDirection(direction)
        made.append(image)
    return made[:2], made[2]


def write_case(raw: Path, case: str, images: list, label: sitk.Image) -> None:
    for i, image in enumerate(images):
        sitk.WriteImage(image, str(raw / "imagesTr" / f"{case}_{i:04d}.nii.gz"))
    sitk.WriteImage(label, str(raw / "labelsTr" / f"{case}.nii.gz"))


def write_dataset_json(raw: Path, **changes) -> None:
    cases = sorted(f.name.removesuffix(".nii.gz") for f in (raw / "labelsTr").glob("*.nii.gz"))
    content = {
        "channel_names": {"0": "CT", "1": "T1"},
        "labels": LABELS,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        # Named, so that nnU-Net does not start twelve processes to list them.
        "dataset": {
            c: {"images": [f"imagesTr/{c}_{i:04d}.nii.gz" for i in range(2)], "label": f"labelsTr/{c}.nii.gz"}
            for c in cases
        },
        **changes,
    }
    (raw / "dataset.json").write_text(json.dumps(content))


def make_raw(root: Path, *, spacings=SPACINGS_MM, n: int = 6) -> Path:
    """The raw dataset and its fingerprint; returns the raw folder."""
    raw, preprocessed = root / "raw" / NAME, root / "preprocessed" / NAME
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed, root / "results"):
        folder.mkdir(parents=True)
    for i in range(n):
        images, label = head(spacings[i % len(spacings)], seed=i, shift_mm=(i - 2.0, 0.5 * i, -i / 2))
        if i == 4:  # the same head, other axes
            images, label = [sitk.DICOMOrient(x, "PIR") for x in images], sitk.DICOMOrient(label, "PIR")
        write_case(raw, f"head_{i:02d}", images, label)
    write_dataset_json(raw)
    statistics = dict.fromkeys(("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5"), 1.0)
    (preprocessed / "dataset_fingerprint.json").write_text(
        json.dumps(
            {
                "foreground_intensity_properties_per_channel": {"0": statistics, "1": statistics},
                "median_relative_size_after_cropping": 0.3,  # nnU-Net would normalise inside the nonzero mask
                "spacings": [[s[2], s[1], s[0]] for s in spacings],
                "shapes_after_crop": [[20, 40, 40]] * len(spacings),
            }
        )
    )
    return raw


def set_paths(monkeypatch, root: Path) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(root / name))


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("planner")
    make_raw(root)
    return root


@pytest.fixture
def planned(shared_root, monkeypatch) -> Callable[..., dict]:
    """Plans the shared dataset with `CascadeOARPlannerSmall`; same options, same plans."""
    set_paths(monkeypatch, shared_root)

    def plan(planner=CascadeOARPlannerSmall, **options) -> dict:
        return planner(501, **options).plan_experiment()

    return plan


@pytest.fixture
def own_raw(tmp_path, monkeypatch) -> Path:
    """A dataset of three cases to spoil."""
    set_paths(monkeypatch, tmp_path)
    return make_raw(tmp_path, n=3)


SHORT_PLANS = "short_plans.json"


def plans_file(root: Path, name: str = "CascadeOARPlansSmall") -> Path:
    return root / "preprocessed" / NAME / f"{name}.json"


# ------------------------------------------------------------------------------------------------ configurations


STUDY = ["3d_fullres_80x256x256", "3d_cascade_32x128x128", "3d_cascade_32x96x96", "3d_cascade_16x64x64"]
CONFIGURATIONS = ["3d_lowres", "3d_fullres", "3d_cascade_fullres", *STUDY]
#: A grid on which these small heads are as many voxels as real ones on the study's.
FINE_ZYX = [0.7, 0.23, 0.23]


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
    for memory_gb in (0.016, 0.012, 0.0103):
        c = planned(gpu_memory_target_in_gb=memory_gb, plans_name="Memory")["configurations"]["3d_cascade_fullres"]
        assert c["patch_size"] == configurations["3d_cascade_fullres"]["patch_size"]
        sizes.append(c["batch_size"])
    assert 4 == sizes[0] > sizes[1] > sizes[2] == 2


def test_only_the_small_planners_localizer_weights_the_organs_more(planned):
    weights = {n: c["recipe"]["foreground_weight"] for n, c in planned()["configurations"].items()}
    assert weights.pop("3d_lowres") == CascadeOARPlannerSmall.localizer_foreground_weight == 25
    assert set(weights.values()) == {5} == {CascadeOARPlanner.localizer_foreground_weight}


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


# ------------------------------------------------------------------------------------------------ the study's patches


def test_the_studys_patches_are_exact_where_the_bodies_are_large_enough(planned):
    plan = planned(overwrite_target_spacing=FINE_ZYX)
    complete = plan["configurations"]["3d_cascade_fullres"]["roi"]
    for name, patch in zip(STUDY, [(80, 256, 256), (32, 128, 128), (32, 96, 96), (16, 64, 64)], strict=True):
        c = PlansManager(plan).get_configuration(name)
        assert tuple(c.patch_size) == patch
        assert c.data_identifier == "CascadeOARPlansSmall_3d_fullres"
        assert c.spacing == FINE_ZYX
        assert c.configuration["deep_supervision"] is True
        cropped = "cascade" in name
        assert c.previous_stage_name == ("3d_lowres" if cropped else None)
        like = plan["configurations"]["3d_cascade_fullres" if cropped else "3d_fullres"]
        assert c.configuration["training"] == like["training"]
        if cropped:
            size_mm = np.maximum(complete["size_mm"], np.multiply(patch, FINE_ZYX))
            assert c.configuration["roi"]["size_mm"] == pytest.approx(size_mm)
            assert c.configuration["roi"]["offset_mm"] == complete["offset_mm"]


def test_the_studys_whole_volume_is_planned_for_the_memory_there_is(planned, monkeypatch, capsys):
    """16.7 GB for two and 8.4 GB for one were measured, with three channels and seven organs as the study has them."""
    size = functools.cache(lambda planner, patch, *_: CascadeOARPlanner.feature_map_size(planner, patch, architecture))
    planner = CascadeOARPlanner(501)
    planner.dataset_json["channel_names"] = {"0": "CT", "1": "T1", "2": "T2"}
    planner.dataset_json["labels"] = {"background": 0, **{f"organ_{value}": value for value in range(1, 8)}}
    spacing_mm = np.array([1.25, 0.8, 0.8])
    _, architecture = planner.segmenter_unet(spacing_mm, (80, 256, 256))
    monkeypatch.setattr(planner, "feature_map_size", lambda patch, _: size(planner, tuple(patch)))  # seconds each time
    roi_entry = {"roi": {"size_mm": (1.0, 1.0, 1.0)}}
    for target_gb, batch_size, needs in ((20, 2, "16.7"), (16, 1, "8.4"), (8, 1, "8.4")):
        planner.UNet_vram_target_GB = target_gb
        name, entries = planner.plan_study_whole_volume(spacing_mm, np.array([80, 256, 256]))
        assert entries["batch_size"] == batch_size
        assert entries["patch_size"] == [80, 256, 256]
        whole = {**entries, "spacing": spacing_mm}
        planner.plans = {"configurations": {"3d_fullres": whole, name: entries, "3d_cascade_fullres": roi_entry}}
        planner.report(RoiFit(None, (1.0, 1.0, 1.0)))
        out = capsys.readouterr().out
        assert (
            f"{name}: spacing (1.25, 0.80, 0.80) mm, patch (80, 256, 256), batch size {batch_size}, about {needs} GB"
            in out
        )
        warning = (
            f"WARNING: {name} needs about 8.4 GB of GPU memory even with a batch size of 1, more than the target of 8 GB. "
            "Train it on a larger GPU, planned for with -gpu_memory_target 9, or leave it out."
        )
        assert (warning in out) == (target_gb == 8)
        assert ("WARNING" in out) == (target_gb == 8)


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
        two_gb = made.memory_gb(c["patch_size"], c["architecture"], 2)
        assert (c["batch_size"] == 1) == (two_gb > factor * target_gb), name
        assert (f"WARNING: {name} needs" in said) == (two_gb / 2 > factor * target_gb), name
        assert re.search(rf"^{name}: .*batch size {c['batch_size']}, (about|less than) .*GB of GPU memory", said, re.M)


def test_the_studys_patches_are_never_larger_than_the_largest_body(planned):
    plan = planned()
    spacing = plan["configurations"]["3d_fullres"]["spacing"]
    bodies = [np.multiply(c.body_shape, c.spacing_mm) / spacing for c in CascadeOARPlannerSmall(501).scan().values()]
    for name in STUDY:
        c = plan["configurations"][name]
        divisor = np.prod(c["architecture"]["arch_kwargs"]["strides"], axis=0)
        assert (np.array(c["patch_size"]) < np.ceil(np.max(bodies, axis=0)) + divisor).all()
        assert (np.array(c["patch_size"]) % divisor == 0).all()


def test_organs_too_large_for_a_crop_are_left_out_and_said(planned, capsys):
    """Eyes of 9 mm, a chiasm of 7 mm, to about a voxel; 16x64x64 is 11 x 7.7 x 15 mm."""
    plan = planned(overwrite_target_spacing=[0.7, 0.12, 0.23])
    said = capsys.readouterr().out
    left_out = {n: c["roi"]["left_out"] for n, c in plan["configurations"].items() if "roi" in c}
    assert left_out.pop("3d_cascade_16x64x64") == [1, 2]
    assert left_out == {"3d_cascade_fullres": [], "3d_cascade_32x128x128": [], "3d_cascade_32x96x96": []}
    roi_entry = plan["configurations"]["3d_cascade_16x64x64"]["roi"]
    assert set(roi_entry["offset_mm"]) == {"1", "2", "3"}  # all of them vote
    assert [line.split(" is left out: it is ")[0] for line in said.splitlines() if "left out" in line] == [
        "3d_cascade_16x64x64: Eye_L",
        "3d_cascade_16x64x64: Eye_R",
    ]
    assert "the crop 11 x 8 x 15 mm" in said


def test_a_crop_that_holds_no_organ_is_not_planned_and_said(planned, capsys):
    plan = planned(overwrite_target_spacing=[0.7, 0.1, 0.23])  # 16x64x64 is 11 x 6 x 15 mm
    assert "3d_cascade_16x64x64 is left out: no organ fits it" in capsys.readouterr().out
    assert list(plan["configurations"]) == CONFIGURATIONS[:-1]


# ------------------------------------------------------------------------------------------------ every system trains


@pytest.fixture(scope="module")
def preprocessed(shared_root) -> Path:
    """The data of both grids, and a plan with schedules of two iterations."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_paths(monkeypatch, shared_root)
        plan = CascadeOARPlannerSmall(501).plan_experiment()
        for c in plan["configurations"].values():
            c["training"].update(num_epochs=1, iterations_per_epoch=2, val_iterations_per_epoch=1)
        # Not where plans are written: a test that plans again would bring the long schedules back.
        (shared_root / SHORT_PLANS).write_text(json.dumps(plan))
        plans, raw = PlansManager(plan), shared_root / "raw" / NAME
        dataset_json = json.loads((raw / "dataset.json").read_text())
        for name in ("3d_lowres", "3d_fullres"):
            configuration = plans.get_configuration(name)
            folder = shared_root / "preprocessed" / NAME / configuration.data_identifier
            folder.mkdir()
            for label in sorted((raw / "labelsTr").glob("*.nii.gz")):
                case = label.name.removesuffix(".nii.gz")
                images = [str(raw / "imagesTr" / f"{case}_{i:04d}.nii.gz") for i in range(2)]
                configuration.preprocessor_class(verbose=False).run_case_save(
                    str(folder / case), images, str(label), plans, configuration, dataset_json
                )
    return shared_root


@pytest.fixture
def train(preprocessed, monkeypatch, tmp_path) -> Callable[..., nnUNetTrainer]:
    """Trains a configuration of the plan for two iterations; `change` edits the configuration first."""
    set_paths(monkeypatch, preprocessed)
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", lambda *_: None)

    def run(cls, name: str, change: Callable[[dict], None] = lambda c: None) -> nnUNetTrainer:
        plan = json.loads((preprocessed / SHORT_PLANS).read_text())
        change(plan["configurations"][name])
        plan["continue_training"] = False
        dataset_json = json.loads((preprocessed / "raw" / NAME / "dataset.json").read_text())
        trainer = cls(plan, name, 0, dataset_json, torch.device("cpu"))
        trainer.run_training()
        assert trainer.current_epoch == 1
        return trainer

    return run


def predictor_of(trainer: nnUNetTrainer) -> nnUNetPredictor:
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    return predictor


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_system_of_the_study_trains_by_its_recipe_from_one_plan(train, name):
    trainer = train(CascadeOARTrainerReference, name)
    assert trainer.batch_size == 1
    assert np.isfinite(trainer.logger.get_value("train_losses", step=0))
    patch = trainer.configuration_manager.patch_size
    logits = predictor_of(trainer).predict_logits_from_preprocessed_data(torch.zeros(2, *patch))
    assert tuple(logits.shape) == (len(LABELS), *patch)


def plain(configuration: dict) -> None:
    """Every one of the study's improvements switched off."""
    configuration["architecture"]["arch_kwargs"].update(residual_blocks=False, downsampling="max_pooling")
    configuration["deep_supervision"] = False


def test_an_ablation_added_under_a_name_of_its_own_shares_data_and_localizer(planned, monkeypatch, tmp_path):
    plan = json.loads(json.dumps(planned()))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    plan["configurations"]["3d_cascade_plain"] = {"inherits_from": "3d_cascade_fullres", "deep_supervision": False}
    dataset_json = {"channel_names": {"0": "CT", "1": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"}
    both = [
        CascadeOARTrainer({**plan, "continue_training": False}, name, 0, dataset_json, torch.device("cpu"))
        for name in ("3d_cascade_plain", "3d_cascade_fullres")
    ]
    assert [trainer.enable_deep_supervision for trainer in both] == [False, True]
    for shared in ("preprocessed_dataset_folder", "folder_with_segs_from_previous_stage"):
        assert getattr(both[0], shared) == getattr(both[1], shared)


def test_the_segmenter_trains_and_predicts_without_the_studys_improvements(train):
    trainer = train(CascadeOARTrainerReference, "3d_cascade_fullres", plain)
    assert not trainer.enable_deep_supervision
    network = predictor_of(trainer).network
    assert [m for m in network.modules() if isinstance(m, torch.nn.MaxPool3d)]
    assert not [m for m in network.modules() if type(m).__name__ == "BasicBlockD"]
    patch = trainer.configuration_manager.patch_size
    assert predictor_of(trainer).predict_logits_from_preprocessed_data(torch.zeros(2, *patch)).isfinite().all()


# ------------------------------------------------------------------------------------------------ what can't be planned


def test_every_case_whose_label_map_has_another_size_is_listed(own_raw):
    for case in ("head_00", "head_02"):
        _, label = head((2.0, 2.0, 2.0))
        sitk.WriteImage(label, str(own_raw / "labelsTr" / f"{case}.nii.gz"))
    with pytest.raises(ValueError, match=r"(?s)2 training cases.*head_00.*\(29, 31, 33\).*head_02"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_a_case_whose_channels_differ_in_size_is_listed_with_the_others(own_raw):
    images, _ = head((2.0, 2.0, 2.0))
    sitk.WriteImage(images[1], str(own_raw / "imagesTr" / "head_01_0001.nii.gz"))
    _, label = head((2.0, 2.0, 2.0))
    sitk.WriteImage(label, str(own_raw / "labelsTr" / "head_02.nii.gz"))
    with pytest.raises(ValueError, match=r"(?s)2 training cases.*head_01.*head_02"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_a_damaged_file_is_listed_by_its_case(own_raw):
    (own_raw / "labelsTr" / "head_01.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)1 training cases.*head_01"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_labels_that_nnunet_would_cut_down_are_listed_by_case_and_value(own_raw):
    for case, change in {
        "head_00": lambda label: sitk.Cast(label, sitk.sitkFloat32) * 0.9999999,
        "head_01": lambda label: sitk.Cast(label, sitk.sitkInt16) - 1,
        "head_02": lambda label: sitk.Cast(label, sitk.sitkFloat32),  # whole numbers of another type
    }.items():
        file = own_raw / "labelsTr" / f"{case}.nii.gz"
        sitk.WriteImage(change(sitk.ReadImage(str(file))), str(file))
    said = (
        r"(?s)2 training cases.*head_00.* holds 0\.9999999, .*no whole number.*head_01': label values \[-1\] are not in"
    )
    with pytest.raises(ValueError, match=said) as caught:
        CascadeOARPlannerSmall(501).plan_experiment()
    assert "head_02" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t1, ct: t1 * 0, r"case 'head_01': T1 holds one value \(0\); export it again\. Files: "),
        (lambda t1, ct: ct, "case 'head_01': CT and T1 are the same image"),
    ],
)
def test_a_training_case_with_a_channel_that_holds_nothing_is_named(own_raw, spoil, message: str):
    ct, t1 = (own_raw / "imagesTr" / f"head_01_000{n}.nii.gz" for n in range(2))
    sitk.WriteImage(spoil(*(sitk.ReadImage(str(file)) for file in (t1, ct))), str(t1))
    with pytest.raises(ValueError, match=message):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_an_inverted_label_map_is_named(own_raw):
    file = own_raw / "labelsTr" / "head_01.nii.gz"
    label = sitk.ReadImage(str(file))
    sitk.WriteImage(sitk.Cast(label == 0, sitk.sitkUInt8), str(file))
    with pytest.raises(ValueError, match=r"case 'head_01': Eye_L fills 100% of the image"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_simpleitk_reader_and_another_orientation_raise_naming_the_case(own_raw):
    images, label = head(SPACINGS_MM[1])
    write_case(own_raw, "head_01", [sitk.DICOMOrient(i, "RAS") for i in images], sitk.DICOMOrient(label, "RAS"))
    write_dataset_json(own_raw, overwrite_image_reader_writer="SimpleITKIO")
    with pytest.raises(ValueError, match=r"(?s)1 training cases.*head_01.*not in LPS order.*NibabelIOWithReorient"):
        CascadeOARPlannerSmall(501).plan_experiment()


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


def test_a_label_value_that_the_dataset_does_not_name_is_listed(own_raw):
    _, label = head(SPACINGS_MM[0])
    array = sitk.GetArrayFromImage(label)
    array[0, 0, 0] = 9
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(label)
    sitk.WriteImage(changed, str(own_raw / "labelsTr" / "head_00.nii.gz"))
    with pytest.raises(ValueError, match=r"(?s)1 training cases.*head_00.*\[9\]"):
        CascadeOARPlannerSmall(501).plan_experiment()
