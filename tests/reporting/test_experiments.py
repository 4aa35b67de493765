"""Runs become experiments that can be compared, or are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_summaries import summary
from small_experiments import run

from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.messages import Message
from nnunet_ext.reporting.content import Experiment
from nnunet_ext.reporting.experiments import check_comparable, common_cases, curves_of, load_experiments
from nnunet_ext.reporting.reporting import report


def experiment(name: str, scores: EvaluationSummary) -> Experiment:
    return Experiment(name, Path(name), scores)


def test_common_cases_are_in_the_order_of_the_first_and_the_others_are_named():
    many, few = summary({"Eye_L": [1.0, 2.0, 3.0, 4.0, 5.0]}), summary({"Eye_L": [1.0, 2.0, 3.0]})
    few = few.only(["case_2", "case_1"])
    cases, remarks = common_cases([experiment("many", many), experiment("few", few)])
    assert cases == ("case_1", "case_2")
    assert remarks == [
        Message(
            "compared_on_common_cases", {"n": 2, "name": "many", "more": 3, "cases": ["case_0", "case_3", "case_4"]}
        )
    ]
    assert common_cases([experiment("few", few), experiment("again", few)])[1] == []


@pytest.mark.parametrize(("reference_ml", "same"), [(99.0, True), (98.9, False)])
def test_references_are_other_contours_if_their_volumes_differ_by_more_than_a_hundredth(reference_ml, same):
    first, other = experiment("A", summary({"Eye_L": [100.0]})), summary({"Eye_L": [100.0]})
    other = replace(other, rows=[replace(row, reference_ml=reference_ml) for row in other.rows])
    if same:
        check_comparable([first, experiment("B", other)], ["case_0"])
    else:
        with pytest.raises(ValueError, match=r"Eye_L has 100\.000 mL in A and 98\.900 mL in B"):
            check_comparable([first, experiment("B", other)], ["case_0"])


def trained(folder: Path) -> Path:
    """A model with a log of one epoch. The localizer of `cascade` is `lowres`."""
    (folder / "fold_0").mkdir(parents=True)
    plans = {"configurations": {"lowres": {}, "fullres": {}, "cascade": {"previous_stage": "lowres"}}}
    (folder / "plans.json").write_text(json.dumps(plans))
    lines = ["Epoch 0", "train_loss 1.0", "val_loss 2.0", "Pseudo dice [0.5]"]
    log = "".join(f"2025-01-01 10:00:00.000000: {line}\n" for line in lines)
    (folder / "fold_0" / "training_log_1.txt").write_text(log)
    return folder


def test_curves_are_those_asked_for_and_of_cross_validated_models_and_their_localizers_each_once(tmp_path):
    lowres, fullres, cascade = (trained(tmp_path / f"T__P__{name}") for name in ("lowres", "fullres", "cascade"))
    models = cascade, fullres, tmp_path / "moved_away"
    scores = [replace(summary({"Eye_L": [1.0]}), model=model) for model in models]
    curves = curves_of([experiment(model.name, one) for model, one in zip(models, scores, strict=True)], [fullres])
    assert [curve.model for curve in curves] == [fullres.name, lowres.name, cascade.name]


def test_images_are_those_beside_the_references_unless_a_folder_is_named(data, tmp_path):
    def images(folder: Path | None) -> dict:
        runs = [("good", data / "evaluation_good")]
        (loaded,) = load_experiments(runs, tmp_path, None, folder, n_processes=1, show_progress=False)
        return dict(loaded.images)

    beside = data / "Dataset501_Head" / "imagesTs"
    assert images(None)["case_3"] == {"CT": beside / "case_3_0000.nii.gz", "T1": beside / "case_3_0001.nii.gz"}
    (tmp_path / "case_3_0000.nii.gz").touch()
    assert images(tmp_path) == {"case_3": {"CT": tmp_path / "case_3_0000.nii.gz"}}, "the channels of that folder"


def test_predictions_are_evaluated_where_references_are_named(data, tmp_path):
    references = data / "Dataset501_Head" / "labelsTs"
    runs = [("a/b", data / "good")]
    with pytest.raises(
        FileNotFoundError, match=r"run 'a/b': .*good holds predictions; name the folder of their references"
    ):
        report(runs, tmp_path, show_progress=False)
    found = report(runs, tmp_path, references=references, cases=["case_0"], n_processes=1, show_progress=False)
    assert found.experiments[0].folder == tmp_path / "evaluations" / "a_b"
    assert found.experiments[0].scores.ok


def test_what_cannot_be_compared_is_named(data, tmp_path):
    with pytest.raises(ValueError, match="two runs are called 'good'"):
        run(data, tmp_path, "good", "good")
    with pytest.raises(FileNotFoundError, match=r"run 'x': .*nowhere is not a folder"):
        report([("x", data / "nowhere")], tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"is neither an evaluation .* nor a trained model .* nor a folder of label"
    ):
        report([("x", data)], tmp_path)

    def other(name: str, **changes) -> Path:
        content = json.loads((data / "evaluation_good" / "evaluation.json").read_text())
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(content | changes))
        return tmp_path / name

    content = json.loads((data / "evaluation_good" / "evaluation.json").read_text())
    first = ("good", data / "evaluation_good")
    tolerances = other("tolerances", tolerance_mm={"Lens_L": 3.0, "OpticChiasm": 2.5})
    with pytest.raises(ValueError, match=r"Lens_L has a tolerance of 0\.98 mm in good and 3 mm in x.*--tolerance-mm"):
        report([first, ("x", tolerances)], tmp_path)
    content["per_case"]["case_5"]["Lens_L"]["reference_ml"] *= 1.5
    references = other("references", per_case=content["per_case"])
    with pytest.raises(ValueError, match=r"case 'case_5': the reference of Lens_L has .* not the same contours"):
        report([first, ("x", references)], tmp_path)
    renamed = other("renamed", per_case={f"head_{case}": scores for case, scores in content["per_case"].items()})
    with pytest.raises(ValueError, match=r"no case in common: good: case_0, case_1, case_2, \.\.\.; x: head_case_0"):
        report([first, ("x", renamed)], tmp_path)
