"""The reference study's configurations: their patches, the organs they leave out, and that every one trains."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned_heads import (
    CONFIGURATIONS,
    FINE_ZYX,
    LABELS,
    NAME,
    RIVALS,
    SPACINGS_MM,
    STUDY,
    STUDY_LOCALIZER,
    head,
    set_paths,
    write_dataset_json,
)

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.roi_fitting import RoiFit
from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall
from nnunet_ext.plans.study_configurations import (
    normalization_of,
    plan_study_whole_volume,
    study_schedule,
    trained_patch,
)
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer
from nnunet_ext.trainers.cascade_oar_trainer_reference import CascadeOARTrainerReference


def test_the_studys_patches_are_exact_where_the_bodies_are_large_enough(planned):
    plan = planned(overwrite_target_spacing=FINE_ZYX)
    complete = plan["configurations"]["3d_cascade_fullres"]["roi"]
    crops = [(32, 128, 128), (32, 96, 96), (16, 64, 64)]
    patches = [(80, 256, 256), (40, 128, 128), *chain(*zip(crops, crops, strict=True))]
    for name, patch in zip(STUDY, patches, strict=True):
        c = PlansManager(plan).get_configuration(name)
        assert tuple(trained_patch(c.configuration)) == patch
        assert c.data_identifier == "CascadeOARPlansSmall_3d_fullres"
        assert c.spacing == FINE_ZYX
        assert c.configuration["deep_supervision"] is (name != STUDY_LOCALIZER)
        sliding, cropped = "cascade" in name, "crops" in name
        assert c.previous_stage_name == ("3d_lowres" if sliding else STUDY_LOCALIZER if cropped else None)
        like = plan["configurations"][
            "3d_cascade_fullres" if sliding or cropped else "3d_lowres" if name == STUDY_LOCALIZER else "3d_fullres"
        ]
        assert c.configuration["training"] == like["training"]
        if sliding:
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
    for target_gb, batch_size in ((20, 2), (16, 1), (8, 1)):
        planner.UNet_vram_target_GB = target_gb
        name, entries = plan_study_whole_volume(planner, spacing_mm, np.array([80, 256, 256]))
        assert entries["batch_size"] == batch_size
        assert entries["patch_size"] == [80, 256, 256]
        whole = {**entries, "spacing": spacing_mm}
        configurations = {"3d_fullres": whole, name: entries, "3d_cascade_fullres": roi_entry}
        planner.plans = {"configurations": configurations, "head_crop": {"below_crown_mm": 180.0}}
        planner.report(RoiFit(None, (1.0, 1.0, 1.0)))
        out = capsys.readouterr().out
        expected_gib = planner.expected_gib([80, 256, 256], entries["architecture"], batch_size)
        assert (
            f"{name}: spacing (1.25, 0.80, 0.80) mm, patch (80, 256, 256), batch size {batch_size}, "
            f"about {expected_gib:.1f} GiB of GPU memory" in out
        )
        warning = (
            f"WARNING: {name} needs a GPU memory target of 8.4 GB even with a batch size of 1, more than 8 GB. Train it on "
            "a larger GPU, planned for with -gpu_memory_target 9, or leave it out."
        )
        assert (warning in out) == (target_gb == 8)
        assert ("WARNING" in out) == (target_gb == 8)


def test_the_studys_patches_are_never_larger_than_the_largest_body(planned):
    plan = planned()
    spacing = plan["configurations"]["3d_fullres"]["spacing"]
    bodies = [np.multiply(c.body_shape, c.spacing_mm) / spacing for c in CascadeOARPlannerSmall(501).scan().values()]
    for name in STUDY:
        c = plan["configurations"][name]
        divisor = np.prod(c["architecture"]["arch_kwargs"]["strides"], axis=0)
        for patch in (c["patch_size"], trained_patch(c)):
            assert (np.array(patch) < np.ceil(np.max(bodies, axis=0)) + divisor).all()
            assert (np.array(patch) % divisor == 0).all()


def test_the_window_of_organ_crops_holds_the_crops_of_every_training_case_and_a_margin(planned):
    plan = planned(overwrite_target_spacing=[0.7, 0.12, 0.23])
    c = plan["configurations"]["3d_organ_crops_16x64x64"]
    np.testing.assert_allclose(c["roi"]["size_mm"], np.multiply(c["patch_size"], [0.7, 0.12, 0.23]))
    assert set(c["roi"]["offset_mm"]) == {"1", "2", "3"}  # the eyes are left out, but vote
    rule = roi.RoiRule.from_plan(c["roi"])
    size_mm = np.multiply(trained_patch(c), [0.7, 0.12, 0.23])
    for case in CascadeOARPlannerSmall(501).scan().values():
        centre, _, _ = roi.vote_centre(case.organs, rule)
        room = np.divide(rule.size_mm, 2) - np.abs(np.subtract(roi.middle_of(case.organs[3]), centre)) - size_mm / 2
        body = np.multiply(case.body_shape, case.spacing_mm) < rule.size_mm
        assert ((room >= CascadeOARPlannerSmall.roi_margin_mm - 1e-6) | body).all()


def test_the_studys_localizer_is_its_3d_unet_at_full_resolution_and_a_smaller_one_says_so(planned, capsys):
    class Wide(CascadeOARPlannerSmall):
        localizer_features, study_localizer_patch = 32, CascadeOARPlanner.study_localizer_patch

    small, whole = planned(), planned(Wide, plans_name="Wide")
    c = PlansManager(whole).get_configuration(STUDY_LOCALIZER)
    options = c.network_arch_init_kwargs
    assert (options["features_per_stage"][0], options["downsampling"]) == (32, "max_pooling")
    assert not options["residual_blocks"]
    assert options["norm_op"].endswith("BatchNorm3d")
    assert c.next_stage_names == ["3d_cascade_fullres"]
    assert c.data_identifier == "Wide_3d_fullres"
    assert c.configuration["recipe"]["foreground_weight"] == CascadeOARPlannerSmall.localizer_foreground_weight
    assert "reduced" not in c.configuration
    said = "patches of at most 40x128x128 voxels, 8 features in the first stage"
    assert small["configurations"][STUDY_LOCALIZER]["reduced"] == said
    assert capsys.readouterr().out.count(f"{STUDY_LOCALIZER} is smaller than the study's: {said}\n") == 1
    assert (CascadeOARPlanner.localizer_features, CascadeOARPlanner.study_localizer_patch) == (32, (80, 256, 256))


def test_organs_too_large_for_a_crop_are_left_out_and_said(planned, capsys):
    """Eyes of 9 mm, a chiasm of 7 mm, to about a voxel; 16x64x64 is 11 x 7.7 x 15 mm."""
    plan = planned(overwrite_target_spacing=[0.7, 0.12, 0.23])
    said = capsys.readouterr().out
    left_out = {n: c["roi"]["left_out"] for n, c in plan["configurations"].items() if "roi" in c}
    assert left_out.pop("3d_cascade_16x64x64") == left_out.pop("3d_organ_crops_16x64x64") == [1, 2]
    assert not any(left_out.values())
    assert f"3d_organ_crops_16x64x64: one crop around each of OpticChiasm, placed by {STUDY_LOCALIZER}\n" in said
    roi_entry = plan["configurations"]["3d_cascade_16x64x64"]["roi"]
    assert set(roi_entry["offset_mm"]) == {"1", "2", "3"}  # all of them vote
    assert [line.split(" is left out: it is ")[0] for line in said.splitlines() if "is left out: it is" in line] == [
        "3d_cascade_16x64x64: Eye_L",
        "3d_cascade_16x64x64: Eye_R",
    ]
    assert "the crop 11 x 8 x 15 mm" in said


def test_a_crop_that_holds_no_organ_is_not_planned_and_said(planned, capsys):
    plan = planned(overwrite_target_spacing=[0.7, 0.1, 0.23])  # 16x64x64 is 11 x 6 x 15 mm
    assert "3d_cascade_16x64x64 is left out: no organ fits it" in capsys.readouterr().out
    assert list(plan["configurations"]) == [name for name in CONFIGURATIONS if not name.endswith("16x64x64")]


def test_an_epoch_of_the_study_is_a_pass_over_the_training_cases_of_a_fold():
    schedule = study_schedule(45)
    assert (schedule.num_epochs, schedule.iterations_per_epoch, schedule.val_iterations_per_epoch) == (150, 36, 9)
    assert study_schedule(1).iterations_per_epoch == 1
    assert CascadeOARPlanner.has_study_schedule
    assert not CascadeOARPlannerSmall.has_study_schedule


def test_one_range_for_all_channels_is_asked_for_in_the_dataset_json_and_needs_a_window():
    channels = {"channel_names": {"0": "CT", "1": "T1"}}
    schemes = ["CTNormalization", "ZScoreNormalization"]
    assert normalization_of(channels, schemes, where="d") == schemes
    asked = {**channels, "one_intensity_range": True}
    for recorded in ({}, {"nnunet_ext": {"window_hu": [-160, 240]}}):
        assert normalization_of({**asked, **recorded}, schemes, where="d") == ["RescaleTo01Normalization"] * 2
    with pytest.raises(ValueError, match="d: one_intensity_range needs a CT with a window"):
        normalization_of({**asked, "nnunet_ext": {"window_hu": None}}, schemes, where="d")
    mr = {"channel_names": {"0": "T1"}, "one_intensity_range": True, "nnunet_ext": {"window_hu": None}}
    assert normalization_of(mr, schemes[1:], where="d") == ["RescaleTo01Normalization"]
    with pytest.raises(ValueError, match="write true or false"):
        normalization_of({**channels, "one_intensity_range": 1}, schemes, where="d")


class WithStudySchedule(CascadeOARPlannerSmall):
    has_study_schedule = True


def test_the_plan_of_a_dataset_that_asks_for_one_range_brings_every_channel_to_0_to_1(own_raw):
    write_dataset_json(own_raw, one_intensity_range=True)
    plan = WithStudySchedule(501).plan_experiment()
    assert plan["configurations"]["3d_fullres"]["normalization_schemes"] == ["RescaleTo01Normalization"] * 2
    for name, configuration in plan["configurations"].items():
        of_study = None if name in RIVALS else vars(study_schedule(3))
        assert configuration.get("reference_training") == of_study
    plans = PlansManager(plan)
    configuration = plans.get_configuration("3d_fullres")
    images, _ = head(SPACINGS_MM[0])
    arrays = [np.clip(sitk.GetArrayFromImage(image), -160, 240) for image in images]
    properties = {"spacing": SPACINGS_MM[0][::-1]}
    dataset_json = json.loads((own_raw / "dataset.json").read_text())
    data, _ = configuration.preprocessor_class(verbose=False).crop_to_body(
        arrays, properties, plans, configuration, dataset_json
    )
    assert [(float(channel.min()), float(channel.max())) for channel in data] == [(0.0, 1.0)] * 2


SHORT_PLANS = "short_plans.json"


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


#: One size of the crops around organs stands for all.
TRAINED = [name for name in CONFIGURATIONS if name not in ("3d_organ_crops_32x128x128", "3d_organ_crops_32x96x96")]


@pytest.mark.parametrize("name", TRAINED)
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
