"""Plans of three heads for trainings that start from a model, which was planned for six heads in other channels."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned_heads import NAME, set_paths, write_dataset_json
from start_models import network_of, write_model

from nnunet_ext.cascade.start_checks import check_plan
from nnunet_ext.cascade.start_model import StartModel, copy_folder
from nnunet_ext.plans.cascade_oar_planner_finetuned import CascadeOARPlannerFinetuned

MODEL_DATASET = {
    "channel_names": {"0": "T2", "1": "T1", "2": "CT"},
    "labels": {"background": 0, "OpticChiasm": 1, "Eye_R": 2, "Lens_L": 3, "Lens_R": 4, "Eye_L": 5},
    "file_ending": ".nii.gz",
}
STAGES = ("3d_lowres", "3d_cascade_fullres")


def models_plans(plans: dict) -> dict:
    """The small planner's plans as a model with three channels and factorised sides has them."""
    plans = copy.deepcopy(plans)
    segmenter = plans["configurations"]["3d_cascade_fullres"]
    segmenter["architecture"]["arch_kwargs"]["left_right_pairs"] = [[5, 2], [3, 4]]
    for name in ("3d_lowres", "3d_fullres"):
        plans["configurations"][name]["normalization_schemes"] = ["ZScoreNormalization"] * 2 + ["CTNormalization"]
        plans["configurations"][name]["use_mask_for_norm"] = [False] * 3
    for name in STAGES:
        plans["configurations"][name]["training"] |= {"initial_lr": 4e-3, "num_epochs": 50, "patience_epochs": 9}
        plans["configurations"][name]["recipe"] |= {"modality_dropout": 0.5, "dropout_spares": "any"}
    properties = plans["foreground_intensity_properties_per_channel"]["0"]
    intensities = {str(at): {**properties, "mean": 10.0 * at} for at in range(3)}
    pairs = [["Eye_L", "Eye_R"], ["Lens_L", "Lens_R"]]
    return {
        **plans,
        "plans_name": "Theirs",
        "foreground_intensity_properties_per_channel": intensities,
        "left_right_pairs": pairs,
    }


@pytest.fixture
def model(planned, own_raw, monkeypatch, tmp_path) -> Path:
    """The model's segmenter. Its copies are where the planner looks for them, beside the data of three heads."""
    plans = planned()
    set_paths(monkeypatch, tmp_path)
    segmenter = write_model(tmp_path / "elsewhere", models_plans(plans), MODEL_DATASET)
    for stage in STAGES:
        folder = segmenter.with_name(segmenter.name.replace(STAGES[1], stage))
        copy_to = copy_folder(tmp_path / "preprocessed" / NAME, "CascadeOARPlansFinetuned", stage)
        StartModel.trained(folder, folder / "fold_all" / "checkpoint_final.pth").copy_to(copy_to)
    return segmenter


def test_grid_normalization_network_and_recipe_are_the_models_and_the_roi_is_the_patients(model, tmp_path):
    _, name = plan_experiment_dataset(501, CascadeOARPlannerFinetuned)
    assert name == "CascadeOARPlansFinetuned"
    plans = json.loads((tmp_path / "preprocessed" / NAME / f"{name}.json").read_text())
    theirs = json.loads((model / "plans.json").read_text())
    assert list(plans["configurations"]) == ["3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert plans["transpose_forward"] == theirs["transpose_forward"]
    assert [v["mean"] for v in plans["foreground_intensity_properties_per_channel"].values()] == [20, 10]  # CT, T1
    dataset = json.loads((tmp_path / "preprocessed" / NAME / "dataset.json").read_text())
    for stage in STAGES:
        ours, model_entry = (PlansManager(p).get_configuration(stage).configuration for p in (plans, theirs))
        for key in ("spacing", "patch_size", "batch_size", "resampling_fn_data", "resampling_fn_data_kwargs"):
            assert ours[key] == model_entry[key], key
        assert ours["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization"]
        assert ours["use_mask_for_norm"] == [False, False]
        assert ours["recipe"] == model_entry["recipe"]
        training = {"initial_lr": 1e-3, "num_epochs": 25, "patience_epochs": 4, "constant_share": 0.0}
        assert ours["training"] == model_entry["training"] | training
        assert ours["start_from"] == f"CascadeOARPlansFinetuned_model/{stage}"
        copied = StartModel.copied(tmp_path / "preprocessed" / NAME / ours["start_from"])
        check_plan(copied, plans, ours, dataset, configuration=stage)
        start = copied.weights_for(network_of(plans, dataset, stage), ours, dataset)
        assert "Organs taken from the model by name: Eye_L, Eye_R, OpticChiasm." in start.lines
    segmenter = plans["configurations"]["3d_cascade_fullres"]
    pairs = PlansManager(plans).get_configuration("3d_cascade_fullres").configuration["architecture"]["arch_kwargs"]
    assert pairs["left_right_pairs"] == [[1, 2]]
    assert "start_from" not in plans["configurations"]["3d_fullres"]
    assert sorted(segmenter["roi"]["offset_mm"]) == ["1", "2", "3"]
    assert plans["left_right_pairs"] == [["Eye_L", "Eye_R"]]
    assert plans["head_crop"]["below_crown_mm"] == 180
    box = np.divide(segmenter["roi"]["size_mm"], theirs["configurations"]["3d_fullres"]["spacing"])
    np.testing.assert_allclose(box, np.round(box), atol=1e-6)
    steps = np.prod(pairs["strides"], axis=0)
    assert (np.round(box) % steps == 0).all()
    assert (np.round(box) >= theirs["configurations"]["3d_cascade_fullres"]["patch_size"]).all()
    assert (np.array(segmenter["roi"]["size_mm"]) >= np.array(segmenter["roi"]["needed_mm"]) + 20 - 1e-6).all()


def test_without_a_copied_model_or_with_a_grid_of_its_own_nothing_is_planned(own_raw):
    with pytest.raises(
        FileNotFoundError, match=r"CascadeOARPlansFinetuned_model/3d_\w+ holds no model.*finetune --from"
    ):
        CascadeOARPlannerFinetuned(501).plan_experiment()
    with pytest.raises(ValueError, match="the grid of a training that starts from a model is the model's"):
        CascadeOARPlannerFinetuned(501, overwrite_target_spacing=(1.0, 1.0, 1.0)).plan_experiment()


def test_images_that_another_reader_reads_are_refused(model, own_raw):
    write_dataset_json(own_raw, overwrite_image_reader_writer="SimpleITKIO")
    with pytest.raises(ValueError, match=r"read by SimpleITKIO, and those of the model .* by NibabelIOWithReorient"):
        CascadeOARPlannerFinetuned(501).plan_experiment()


def test_a_channel_that_the_model_lacks_is_refused_before_the_patients_are_read(model, own_raw):
    write_dataset_json(own_raw, channel_names={"0": "CT", "1": "PET"})
    planner = CascadeOARPlannerFinetuned(501)
    with pytest.raises(ValueError, match=r"raw/\S+dataset\.json: the model .* has no channel PET; it has T2, T1, CT"):
        planner.plan_experiment()
    assert planner.scanned is None


def test_a_model_with_one_crop_per_organ_is_refused(model, tmp_path):
    (copied,) = (tmp_path / "preprocessed" / NAME).rglob("CascadeOARPlansFinetuned_model/3d_cascade_fullres/plans.json")
    plans = json.loads(copied.read_text())
    plans["configurations"]["3d_cascade_fullres"]["architecture"]["arch_kwargs"]["crop_size"] = [16, 64, 64]
    copied.write_text(json.dumps(plans))
    with pytest.raises(
        ValueError, match="has one crop per organ, from which no training can start; name a model whose"
    ):
        CascadeOARPlannerFinetuned(501).plan_experiment()
