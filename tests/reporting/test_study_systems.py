"""Which experiment stands beside which system of the study."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_summaries import summary

from nnunet_ext.reporting.content import Experiment
from nnunet_ext.reporting.study_systems import channels_of, configuration_of, of_channels, our_systems

SCORES = summary({"Lens_L": [80.0, 90.0]})


def experiment(name: str, *, model: str = "", channels: tuple[str, ...] = ("CT", "T1", "T2"), **more) -> Experiment:
    path = Path(f"CascadeOARTrainer__CascadeOARPlans__{model}") if model else None
    return Experiment(name, Path(name), replace(SCORES, model=path, channels=channels, **more))


@pytest.mark.parametrize(
    ("name", "model", "size", "is_localizer"),
    [
        ("a", "3d_cascade_32x96x96", "32x96x96", False),
        ("32x128x128", "", "32x128x128", False),  # its name says so
        ("32x128x128", "3d_cascade_16x64x64", "16x64x64", False),  # its model knows better
        ("a", "3d_lowres", "", True),
        ("a", "3d_localizer_80x256x256", "80x256x256", True),
        ("whole", "3d_fullres_80x256x256", "80x256x256", False),
        ("Localizer", "", "", True),
        ("the localizer's segmenter", "3d_cascade_fullres", "", False),
    ],
)
def test_a_system_is_known_by_its_model_else_by_its_name(name, model, size, is_localizer):
    one = experiment(name, model=model)
    (system,) = our_systems([one], {name: one.scores})
    assert (system.size, system.is_localizer) == (size, is_localizer)


def test_the_model_of_predictions_is_that_of_predictions_json(tmp_path):
    models = ["T__P__3d_lowres", "T__P__3d_cascade_32x96x96"]
    (tmp_path / "predictions.json").write_text(json.dumps({"models": models, "cases": {}}))
    one = experiment("a", files={"case_0": (tmp_path / "case_0.nii.gz", Path("labels/case_0.nii.gz"))})
    assert configuration_of(one) == "3d_cascade_32x96x96"
    assert configuration_of(experiment("a")) == ""


def test_channels_are_those_of_the_scores_else_of_the_name():
    assert channels_of(experiment("ct", channels=("CT",))) == "CT"
    assert channels_of(experiment("a", channels=("T2w", "CT", "T1w"))) == "CT+T1+T2"
    assert channels_of(experiment("T1 + T2", channels=())) == "T1+T2"


def test_the_crop_of_table_3_7_is_taken_before_others_of_the_same_channels():
    runs = [
        experiment("localizer", model="3d_lowres"),
        experiment("large", model="3d_cascade_32x128x128"),
        experiment("middle", model="3d_cascade_32x96x96"),
        experiment("ct", model="3d_cascade_16x64x64", channels=("CT",)),
    ]
    systems = our_systems(runs, {run.name: run.scores for run in runs})
    heads = [of_channels(systems, channels).head for channels in ("CT", "CT+T1+T2")]
    assert heads == ["ct", "middle"]
    assert of_channels(systems, "T1+T2") is None


def test_a_localizer_scored_with_its_segmenter_counts_only_if_no_experiment_is_one():
    segmenter = experiment("crops", model="3d_cascade_32x96x96", localizer=SCORES)
    localizer = experiment("first", model="3d_lowres")
    alone = our_systems([segmenter], {"crops": segmenter.scores})
    assert [(str(system.head), system.is_localizer) for system in alone] == [
        ("crops", False),
        ("localizer of crops", True),
    ]
    both = our_systems([segmenter, localizer], {"crops": segmenter.scores, "first": localizer.scores})
    assert [system.head for system in both] == ["crops", "first"]


def test_the_mean_over_folds_stands_behind_its_ensemble():
    one = experiment("a", model="3d_cascade_32x96x96", of_folds=(SCORES, summary({"Lens_L": [60.0, 70.0]})))
    ensemble, folds = our_systems([one], {"a": one.scores})
    assert (ensemble.head, str(folds.head), folds.size) == ("a", "a, mean over folds", "32x96x96")
    assert folds.scores.values("Lens_L") == {"case_0": 70.0, "case_1": 80.0}
