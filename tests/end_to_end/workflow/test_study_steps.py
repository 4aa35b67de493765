"""The study's steps: what they train, in which order, and that a user could type each command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ext.cli.main import make_parser
from nnunet_ext.end_to_end.workflow.step import Step, producers
from nnunet_ext.end_to_end.workflow.study_steps import StudyOptions, study_steps
from nnunet_ext.end_to_end.workflow.systems import OF_THE_STUDY, SLIDING, SYSTEMS
from nnunet_ext.reporting.reference_study import CROPS, MODALITIES_CROP

OPTIONS = StudyOptions(Path("/data/patients"), test=("case_41", "case_42"))


def by_name(options: StudyOptions) -> dict[str, Step]:
    return {step.name: step for step in study_steps(options)}


def trained(options: StudyOptions) -> list[str]:
    return [name.removeprefix("train_") for name in by_name(options) if name.startswith("train_")]


def test_one_fold_of_the_whole_study_trains_nine_networks_and_reports_seven():
    options = replace(OPTIONS, folds=(0,))
    crops = [f"all_3d_organ_crops_{crop}_fold_0" for crop in CROPS]
    kinds = "localizer_80x256x256", "organ_crops_32x96x96"
    both = [f"{images}_3d_{kind}_fold_0" for images in ("CT", "T1T2") for kind in kinds]
    first = ["all_3d_fullres_80x256x256_fold_0", "all_3d_localizer_80x256x256_fold_0"]
    assert trained(options) == [*first, *crops, *both]
    assert len(trained(OPTIONS)) == 5 * 9
    report = by_name(options)["report"].line
    names = ["whole", "localizer", "32x128x128", "32x96x96", "16x64x64", "CT", "T1+T2"]
    assert [word.partition("=")[0] for word in report.split() if "=" in word] == names
    assert report.endswith("-o tables --reference-study -np 2")


def test_the_systems_are_those_of_the_published_tables():
    names = [system.name for system in SYSTEMS]
    assert {*CROPS, MODALITIES_CROP} <= set(OF_THE_STUDY)
    assert [name for name in names if name not in (*OF_THE_STUDY, *SLIDING)] == ["ours"]
    sizes = [name.removeprefix("sliding-").removeprefix("coarse-") for name in SLIDING]
    assert sizes == list(OF_THE_STUDY)


def test_only_what_is_asked_for_is_trained_and_a_localizer_once():
    options = replace(OPTIONS, systems=("sliding-32x96x96", "sliding-16x64x64"), fewer=(), folds=(2,))
    assert trained(options) == [f"all_3d_{name}_fold_2" for name in ("lowres", "cascade_32x96x96", "cascade_16x64x64")]
    ours = replace(OPTIONS, systems=("sliding-32x96x96", "ours"), fewer=(), folds=(0,))
    steps = by_name(ours)
    assert "-tr CascadeOARTrainer " in steps["train_all_3d_cascade_fullres_CascadeOARTrainer_fold_0"].line
    assert "-tr CascadeOARTrainer " in steps["train_all_3d_lowres_CascadeOARTrainer_fold_0"].line
    assert "-tr CascadeOARTrainerReference " in steps["train_all_3d_lowres_fold_0"].line


def test_a_segmenter_waits_for_all_folds_of_its_localizer_and_a_prediction_for_both_stages():
    options = replace(OPTIONS, folds=(0, 3))
    before = producers(study_steps(options))
    localizers = {"train_CT_3d_localizer_80x256x256_fold_0", "train_CT_3d_localizer_80x256x256_fold_3"}
    assert localizers < set(before["train_CT_3d_organ_crops_32x96x96_fold_3"])
    segmenters = {f"train_CT_3d_organ_crops_32x96x96_fold_{fold}" for fold in (0, 3)}
    assert localizers | segmenters | {"channels_CT"} == set(before["predict_CT"])
    assert set(before["train_all_3d_fullres_80x256x256_fold_0"]) == {"plan_all"}
    assert set(before["evaluate_T1_T2"]) == {"predict_T1_T2", "convert"}  # its references are those of all images


def test_single_folds_are_predicted_with_and_scored_beside_their_ensemble():
    steps = by_name(replace(OPTIONS, systems=("whole",), fewer=(), folds=(0, 1), each_fold=True))
    assert "-f 0 1 " in steps["predict_whole"].line
    assert "-f 1 " in steps["predict_whole_fold_1"].line
    assert "--folds predicted/folds/whole/fold_0 predicted/folds/whole/fold_1" in steps["evaluate_whole"].line


def test_another_number_of_epochs_is_plans_of_another_name():
    steps = by_name(replace(OPTIONS, epochs=100, systems=("whole",), fewer=(), folds=(0,)))
    assert (
        steps["schedule_all"].line == "nnunet_ext schedule 521 -p CascadeOARPlans -o CascadeOARPlansShort --epochs 100"
    )
    assert "-p CascadeOARPlansShort " in steps["train_all_3d_fullres_80x256x256_fold_0"].line
    assert producers(list(steps.values()))["train_all_3d_fullres_80x256x256_fold_0"] == ("schedule_all", "plan_all")


def test_each_command_is_one_that_a_user_could_type():
    ours, theirs = set(), set()
    options = replace(OPTIONS, source=None, n_phantoms=9, epochs=1, each_fold=True, convert=("--no-n4",))
    for step in study_steps(options):
        program, *words = step.words
        if program == "nnunet_ext":
            make_parser().parse_args(words)
            ours.add(words[0])
        else:
            theirs.add(program)
    assert ours == {"phantom", "convert", "channels", "schedule", "predict", "evaluate", "report"}
    assert theirs == {"nnUNetv2_plan_and_preprocess", "nnUNetv2_train"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"systems": ("64x64x64",)}, "there is no system '64x64x64'; there are whole, localizer, "),
        ({"folds": ()}, "at least one system and one fold"),
        ({"fewer": (("PET",),)}, r"PET is no part of the images CT\+T1\+T2"),
        ({"fewer": (("CT", "T1", "T2"),)}, r"CT\+T1\+T2 is no part of"),
        ({"fewer": (("CT",), ("CT",))}, "the same images are named twice"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        study_steps(replace(OPTIONS, **changes))
