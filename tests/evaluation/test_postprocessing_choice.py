"""Postprocessing chosen on a cross-validation, by the command, on label maps whose faults are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from reference_tables import check_file

from nnunet_ext.cli.main import main
from nnunet_ext.evaluation.postprocessing_choice import LEAST_CASES, candidate_steps, choose, choose_postprocessing
from nnunet_ext.evaluation.postprocessing_scores import Scored, ScoringJob, score_candidates
from nnunet_ext.installation.models import install_model
from nnunet_ext.postprocessing.choice import read_postprocessing
from nnunet_ext.postprocessing.steps import Step

LABELS = {"background": 0, "Eye_L": 1, "OpticChiasm": 2, "Lens_L": 3}
SHAPE = (9, 16, 21)
SPACING_MM = (3.0, 1.0, 0.7)
RANGES = {"volume_ml": {"Lens_L": [0.02, 0.2]}, "left_to_right_volume": {}, "left_to_right_mm": {}, "distance_mm": {}}
N_CASES = 12


def write(folder: Path, case: str, array: np.ndarray, axes: str = "LPS") -> None:
    """An oblique image, whose axes then run in other directions."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin((-12.5, 31.0, 7.25))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.20, -0.15, 0.10).GetMatrix())
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(image, axes), str(folder / f"{case}.nii.gz"))


def reference(case: int) -> np.ndarray:
    """An eye and a chiasm in all cases, and a lens in all but the first four."""
    array = np.zeros(SHAPE, np.uint8)
    array[2:6, 3:9, 3:11] = 1
    array[6:8, 10:13, 12:18] = 2
    if case >= 4:
        array[3:5, 5:7, 4:8] = 3
    return array


def prediction(case: int) -> np.ndarray:
    """With a stray piece of eye far away in every other case, and a lens of two voxels where there is none."""
    array = reference(case)
    array[5, 8, 3 + case % 3] = 0
    if case % 2:
        array[8, 14:16, 19:21] = 1
    if case < 4:
        array[4, 6, 5:7] = 3
    return array


def trained(root: Path, n_cases: int = N_CASES, folds: int = 3) -> Path:
    """A model of this many validated cases, and the references in `labelsTr` beside it."""
    model = root / "results" / "Dataset501_Head" / "CascadeOARTrainer__CascadeOARPlans__3d_fullres"
    for fold in range(folds):
        validation = model / f"fold_{fold}" / "validation"
        cases = range(fold, n_cases, folds)
        for case in cases:
            write(validation, f"case_{case:02d}", prediction(case))
        summary = {"metric_per_case": [{"prediction_file": f"/elsewhere/case_{case:02d}.nii.gz"} for case in cases]}
        (validation / "summary.json").write_text(json.dumps(summary))
    for case in range(n_cases):
        write(root / "labelsTr", f"case_{case:02d}", reference(case), axes="RAS")
    channels = {"labels": LABELS, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (model / "dataset.json").write_text(json.dumps(channels))
    (model / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {}}, "plausibility": RANGES}))
    return model


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """The model after the command, with held-out cases."""
    root = tmp_path_factory.mktemp("chosen")
    model = trained(root)
    for case in (1, 3, 4):
        write(root / "predicted", f"new_{case}", prediction(case))
        write(root / "labelsTs", f"new_{case}", reference(case))
    command = ["postprocessing", str(model), str(root / "labelsTr"), "-np", "1"]
    assert main([*command, "--held-out", str(root / "predicted"), str(root / "labelsTs")]) == 0
    return model


def test_what_raises_dsc_without_raising_hd95_is_written_into_the_model(chosen):
    content = json.loads((chosen / "organ_postprocessing.json").read_text())
    check_file(content, "organ_postprocessing.json")
    assert content["organs"]["Eye_L"][0] == {"step": "largest_component"}
    assert content["organs"]["OpticChiasm"] == []
    # Two voxels of 2.1 mm^3 are less than a lens can be, and no speck of a tenth of it.
    assert content["organs"]["Lens_L"] == [{"step": "small_pieces", "least_ml": 0.02}]
    assert content["too_few_cases"] == []
    lens = content["scores"]["Lens_L"]
    assert lens["emptied"] == ["case_00", "case_01", "case_02", "case_03"]
    assert lens["without"]["dsc_percent"]["mean"] == pytest.approx(100 * 8 / 12)
    assert lens["chosen"]["dsc_percent"]["mean"] == lens["by_other_folds"]["dsc_percent"]["mean"] == 100
    assert lens["chosen"]["hd95_mm"]["mean"] == 0
    assert (lens["better"], lens["worse"], lens["n_cases"]) == (4, 0, 12)


def test_the_table_says_with_and_without_on_which_cases_and_what_was_emptied(chosen):
    text = (chosen / "organ_postprocessing.md").read_text()
    assert "| Eye_L | largest component" in text
    assert "| OpticChiasm | none helps |" in text
    assert "| Lens_L | small pieces (least 0.02 mL) |" in text
    assert "**The steps were chosen on these very cases**" in text
    assert "by other folds" in text
    assert "- Emptied by the steps: Lens_L in case_00, case_01, case_02, case_03" in text
    held_out = text.partition("## Held-out cases")[2]
    assert "- Emptied by the steps: Lens_L in new_1, new_3" in held_out
    lens = next(line for line in held_out.splitlines() if line.startswith("| Lens_L"))
    assert lens.startswith("| Lens_L | 33.33 +- 57.74 | 100.00 +- 0.00 |")
    assert lens.endswith("| 3 | 2 | 0 |")


def test_a_shared_model_keeps_the_choice_with_nnunets_own_export(chosen, tmp_path):
    """nnU-Net packs `dataset.json`, and no file that it doesn't know."""
    import zipfile

    name = "Dataset501_Head/CascadeOARTrainer__CascadeOARPlans__3d_fullres"
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for file in ("plans.json", "dataset.json"):
            archive.write(chosen / file, f"{name}/{file}")
    (model,) = install_model(tmp_path / "model.zip", tmp_path / "elsewhere")
    dataset = json.loads((model / "dataset.json").read_text())
    found = read_postprocessing(model, dataset)
    assert found.source == "organ_postprocessing.json"
    assert found.steps == read_postprocessing(chosen, dataset).steps
    assert dataset["labels"] == LABELS


def test_too_few_cases_choose_nothing_and_say_so(tmp_path, capsys):
    model = trained(tmp_path, n_cases=LEAST_CASES - 1, folds=1)
    choice = choose_postprocessing(model, tmp_path / "labelsTr", n_processes=1, show_progress=False)
    assert all(one.steps == () for one in choice.organs.values())
    assert read_postprocessing(model, {"labels": LABELS}).steps == {}
    assert "| Eye_L | none: 9 cases, fewer than 10 |" in choice.table_markdown
    assert choice.organs["Eye_L"].by_other_folds is None
    assert json.loads((model / "organ_postprocessing.json").read_text())["too_few_cases"] == [*LABELS][1:]


def test_a_damaged_case_is_named_and_takes_no_part(tmp_path, capsys):
    model = trained(tmp_path)
    (model / "fold_0/validation/case_03.nii.gz").write_bytes(b"damaged")
    assert main(["postprocessing", str(model), str(tmp_path / "labelsTr"), "-np", "1"]) == 1
    captured = capsys.readouterr()
    assert "case 'case_03'" in captured.err
    assert json.loads((model / "organ_postprocessing.json").read_text())["scores"]["Eye_L"]["n_cases"] == 11


def test_what_is_no_model_and_predictions_that_are_postprocessed_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no trained model"):
        choose_postprocessing(tmp_path)
    model = trained(tmp_path)
    write(tmp_path / "predicted", "new", prediction(0))
    manifest = {"cases": {}, "postprocessing": {"file": "organ_postprocessing.json"}}
    (tmp_path / "predicted" / "predictions.json").write_text(json.dumps(manifest))
    held_out = tmp_path / "predicted", tmp_path / "labelsTr"
    with pytest.raises(ValueError, match="postprocessed already; predict with --no-postprocessing"):
        choose_postprocessing(model, tmp_path / "labelsTr", held_out=held_out, n_processes=1, show_progress=False)
    assert not (model / "organ_postprocessing.json").exists()


def by_case(*scores: tuple[float, float, float]) -> dict:
    """Ten cases whose only step turns a DSC of 80 and distances of 2 into these scores, case by case in turn."""
    return {str(at): {(): Scored(80.0, 2.0, 2.0), (0,): Scored(*scores[at % len(scores)])} for at in range(LEAST_CASES)}


@pytest.mark.parametrize(
    ("scores", "taken"),
    [
        ([(80.1, 2.0, 2.0)], (0,)),
        ([(80.005, 1.0, 1.0)], ()),  # no gain that a table shows
        ([(90.0, 2.1, 2.0)], ()),  # a distance rises
        ([(90.0, 2.0, 2.1)], ()),
        ([(90.0, 1.0, 1.0), (81.0, 3.0, 3.0)], (0,)),  # of the distances it is the mean
        ([(90.0, 1.0, 1.0), (75.0, 1.0, 1.0)], ()),  # as many worse as better
        ([(90.0, 1.0, 1.0), (65.0, 1.0, 1.0)], ()),
        ([(95.0, 1.0, 1.0)] + 9 * [(80.0, 2.0, 2.0)], ()),  # one case alone
        (2 * [(95.0, 1.0, 1.0)] + 7 * [(80.0, 2.0, 2.0)] + [(79.0, 2.0, 2.0)], (0,)),
    ],
)
def test_a_step_stays_if_it_raises_the_mean_dsc_and_no_mean_distance(scores, taken):
    assert choose(by_case(*scores), 1) == taken
    fewer = {case: found for case, found in by_case(*scores).items() if case != "0"}
    assert choose(fewer, 1) == ()


def test_only_an_optic_nerve_is_closed_and_only_known_volumes_are_small():
    names = {"OpticNrv_L": 1, "Eye_L": 2, "OpticChiasm": 3}
    assert candidate_steps("OpticNrv_L", names, None)[0] == Step("close_gaps", 10.0)
    assert [step.name for step in candidate_steps("Eye_L", names, None)] == [
        "largest_component",
        "fill_holes",
        "smooth",
    ]
    assert candidate_steps("Eye_L", names, 3.14159)[1:3] == [Step("small_pieces", 0.314), Step("small_pieces", 3.14)]


def test_a_pair_is_scored_with_each_organ_on_its_own_side(tmp_path):
    labels, pairs = {"background": 0, "Eye_L": 1, "Eye_R": 2}, [("Eye_L", "Eye_R")]
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:6, 3:9, 2:8], expected[2:6, 3:9, 13:19] = 1, 2
    given = expected.copy()
    given[3:5, 4:8, 7], given[5, 8, 13:16] = 2, 1
    write(tmp_path, "reference", expected)
    write(tmp_path, "prediction", given, axes="RAS")
    steps = {organ: candidate_steps(organ, labels, None, pairs) for organ in labels if organ != "background"}
    assert [step.name for step in steps["Eye_L"]] == ["own_side", "largest_component", "fill_holes", "smooth"]
    files = [tmp_path / f"{name}.nii.gz" for name in ("prediction", "reference")]
    scored = score_candidates(ScoringJob("case", *files, labels, steps, pairs))
    for organ in steps:
        assert scored[organ][()].dsc_percent < 97
        assert scored[organ][(0,)][:3] == (100, 0, 0)
        assert scored[organ][(1,)].dsc_percent < 100  # the largest component alone does not bring its voxels back
