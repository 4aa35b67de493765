"""The steps of an experiment: their order, what experiments on a data set share, and that a user could type each."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ext.cli.main import make_parser
from nnunet_ext.end_to_end.workflow.experiment import planned_experiment
from nnunet_ext.end_to_end.workflow.experiment_steps import (
    Experiment,
    experiment_steps,
    localizer_of,
    training_memory_gb,
)
from nnunet_ext.end_to_end.workflow.step import Step, producers
from nnunet_ext.files import write_json

OURS = Experiment(
    "ours",
    521,
    "Dataset521_Head",
    Path("/data/raw"),
    Path("/data/preprocessed"),
    Path("/data/results"),
    source=Path("/data/patients"),
    folds=(0, 1),
)
MODEL = "CascadeOARTrainer__CascadeOARPlans__"


def by_name(experiment: Experiment) -> dict[str, Step]:
    return {step.name: step for step in experiment_steps(experiment)}


def test_an_experiment_goes_from_patients_to_a_report():
    names = [name.replace(MODEL, "") for name in by_name(OURS)]
    folds = [
        f"{verb}_{stage}_fold_{fold}"
        for stage in ("3d_lowres", "3d_cascade_fullres")
        for fold in (0, 1)
        for verb in ("train", "validate")
    ]
    first = ["convert", "plan_CascadeOARPlans"]
    first += [f"preprocess_CascadeOARPlans_{data}" for data in ("3d_fullres", "3d_lowres")]
    last = ["cross_validation", "postprocessing_3d_cascade_fullres", "predict", "evaluate", "report"]
    assert names == [*first, *folds, *last]


def test_a_segmenter_waits_for_the_maps_of_all_folds_of_its_localizer_and_a_localizer_for_none():
    needs = {name: set(before) for name, before in producers(experiment_steps(OURS)).items()}
    maps = {f"validate_{MODEL}3d_lowres_fold_{fold}" for fold in (0, 1)}
    assert maps < needs[f"train_{MODEL}3d_cascade_fullres_fold_1"]
    assert maps | {f"train_{MODEL}3d_cascade_fullres_fold_1"} == needs[f"validate_{MODEL}3d_cascade_fullres_fold_1"]
    data = {f"preprocess_CascadeOARPlans_{name}" for name in ("3d_fullres", "3d_lowres")}
    assert needs[f"train_{MODEL}3d_lowres_fold_0"] == data | {"plan_CascadeOARPlans"}
    assert needs["predict"] == {f"postprocessing_{MODEL}3d_cascade_fullres", "convert"}


def test_the_experiment_says_how_far_the_box_is_moved_and_as_planned_the_segmenter_need_not_wait():
    segmenter, localizer = f"train_{MODEL}3d_cascade_fullres_fold_1", f"train_{MODEL}3d_lowres_fold_1"
    maps = {f"validate_{MODEL}3d_lowres_fold_{fold}" for fold in (0, 1)}
    for jitter, word, waits in (
        (None, None, True),
        ("planned", "nnunet_ext_jitter=planned", False),
        ("measured", "nnunet_ext_jitter=measured 0 1", True),
    ):
        made = replace(OURS, jitter=jitter)
        steps, needs = by_name(made), producers(experiment_steps(made))
        assert [w for w in steps[segmenter].words if "jitter" in w] == ([word] if word else [])
        assert not any("jitter" in w for w in steps[localizer].words)
        assert (maps <= set(needs[segmenter])) == waits
        assert maps <= set(needs[segmenter.replace("train_", "validate_")])


def test_each_command_is_one_that_a_user_could_type():
    others = set()
    for step in experiment_steps(replace(OURS, epochs=2, iterations=3, compare=("whole",))):
        program, *words = step.words
        if program == "nnunet_ext":
            make_parser().parse_args(words)
        else:
            others.add(" ".join(words[:2]) if program == "env" else program)
    training = "nnunet_ext_validation=off nnUNetv2_train"
    assert others == {"nnUNetv2_plan_and_preprocess", training, "nnUNetv2_train"}


def test_cases_are_shared_by_as_many_jobs_as_asked_for_and_no_other_step_changes():
    whole, parts = by_name(OURS), {"convert": 2, "preprocess_CascadeOARPlans_3d_lowres": 3, "predict": 2}
    steps = experiment_steps(OURS, parts)
    needs, made = producers(steps), {step.name: step for step in steps}
    others = [name for name in made if re.search("_scan$|_part_", name)]
    assert [name.removeprefix("preprocess_CascadeOARPlans_") for name in others] == [
        "convert_scan", "convert_part_0_of_2", "convert_part_1_of_2",
        *(f"3d_lowres_part_{k}_of_3" for k in range(3)),
        "predict_scan", "predict_part_0_of_2", "predict_part_1_of_2",
    ]  # fmt: skip
    assert {made[name].line for name in made if name not in whole} == {made[name].line for name in others}
    for name, step in whole.items():
        assert made[name].command == step.command  # what is done stays done
        assert set(needs[name]) >= set(producers([*whole.values()])[name])
        assert parts.get(name, 1) > 1 or made[name] == step
    assert needs["convert_part_1_of_2"] == ("convert_scan",)
    assert needs["convert"] == ("convert_part_0_of_2", "convert_part_1_of_2")
    assert needs["predict_part_0_of_2"] == ("predict_scan",)
    assert set(needs["predict_scan"]) == {f"postprocessing_{MODEL}3d_cascade_fullres", "convert"}
    assert set(needs["preprocess_CascadeOARPlans_3d_lowres_part_2_of_3"]) == {"convert", "plan_CascadeOARPlans"}
    assert [name for name, step in made.items() if step.resources.gpus and name in others] == others[-2:]
    for step in steps:
        if step.words[0] == "nnunet_ext":
            make_parser().parse_args(step.words[1:])


def test_another_schedule_is_plans_and_models_of_another_name_on_the_same_data():
    steps = by_name(replace(OURS, epochs=2, iterations=3))
    name = "train_CascadeOARTrainer__CascadeOARPlansEpochs2Iterations3__3d_lowres_fold_0"
    assert "-p CascadeOARPlansEpochs2Iterations3 " in steps[name].line
    assert "preprocess_CascadeOARPlans_3d_fullres" in steps
    assert steps["schedule_CascadeOARPlansEpochs2Iterations3"].line.endswith("--epochs 2 --iterations 3")


def test_two_experiments_on_a_data_set_share_all_but_their_scores(tmp_path):
    ours = planned_experiment(OURS, tmp_path / "ours")
    whole = replace(OURS, name="whole", configuration="3d_fullres", localizer=None, compare=("ours",))
    other = planned_experiment(whole, tmp_path / "whole")
    shared = {
        step.name for step in ours.steps if ours.place(step) == Path("/data/preprocessed/Dataset521_Head/workflow")
    }
    own = {step.name for step in ours.steps} - shared
    assert own == {"cross_validation", "predict", "evaluate", "report"}
    assert {"convert", "plan_CascadeOARPlans", "preprocess_CascadeOARPlans_3d_fullres"} == {
        step.name for step in other.steps if step.name in shared
    }
    assert by_name(whole)["report"].line.startswith("nnunet_ext report whole=scores ours=../ours/scores -o report")


def test_without_test_cases_the_cross_validations_are_compared():
    steps = by_name(replace(OURS, tests=False, compare=("whole",)))
    assert "predict" not in steps
    assert "ours=cross_validation whole=../whole/cross_validation" in steps["report"].line


def test_without_postprocessing_the_test_cases_wait_for_the_validations_alone():
    steps = experiment_steps(replace(OURS, postprocessing=False))
    segmenters = {f"validate_{MODEL}3d_cascade_fullres_fold_{fold}" for fold in (0, 1)}
    assert set(producers(steps)["predict"]) == {"convert", *segmenters}
    assert steps[-3].line.endswith("--no-postprocessing -o predicted -device cuda")


def test_the_plan_says_the_localizer_and_the_memory_and_before_it_the_name_does(tmp_path):
    file = tmp_path / "CascadeOARPlans.json"
    assert localizer_of("3d_cascade_fullres", file) == "3d_lowres"
    assert localizer_of("3d_organ_crops_32x96x96", file) == "3d_localizer_80x256x256"
    assert localizer_of("3d_fullres", file) is None
    assert training_memory_gb(("3d_lowres",), file) == 16
    recipes = {"3d_lowres": {"recipe": {"cache_mb": 500.0}}, "3d_mine": {"previous_stage": "3d_lowres", "recipe": {}}}
    recipes["3d_mine"]["recipe"]["cache_mb"] = 30000.0
    write_json({"configurations": recipes}, file)
    assert localizer_of("3d_mine", file) == "3d_lowres"
    assert training_memory_gb(("3d_lowres", "3d_mine"), file) == 42


def test_a_gpu_is_asked_for_by_networks_only_and_by_none_on_a_cpu():
    asking = {name.partition("_")[0] for name, step in by_name(OURS).items() if step.resources.gpus}
    assert asking == {"train", "validate", "predict"}
    assert not any(step.resources.gpus for step in experiment_steps(replace(OURS, device="cpu")))


@pytest.mark.parametrize(
    ("changes", "said"), [({"folds": ()}, "at least one fold"), ({"compare": ("ours",)}, "compared with itself")]
)
def test_an_experiment_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        experiment_steps(replace(OURS, **changes))
