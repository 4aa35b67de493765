"""A trained model: the cases of its validated folds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scored_label_maps import CHIASM, HALF_LENS, LABELS, LENS, REFERENCE, label_map, write

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.evaluation.score_files import read_evaluation

CASES = {"0": ("case_1", "case_2"), "1": ("case_3",)}


def validated_model(folder: Path, predictions: dict[str, np.ndarray], rates: dict[str, float]) -> Path:
    """What nnU-Net and our trainer leave of the folds in `CASES`; cases without a prediction are lost."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "channel_names": {"0": "CT", "1": "T1"}}))
    configurations = {"3d_fullres": {}, "3d_lowres": {}}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    configurations["3d_cascade_32x96x96"] = {"inherits_from": "3d_cascade_fullres"}
    (folder / "plans.json").write_text(json.dumps({"configurations": configurations}))
    for fold, cases in CASES.items():
        validation = folder / f"fold_{fold}" / "validation"
        there = [case for case in cases if case in predictions]
        for case in there:
            write(validation, case, predictions[case])
        summary = {"metric_per_case": [{"prediction_file": f"/elsewhere/{case}.nii.gz"} for case in there]}
        (validation / "summary.json").write_text(json.dumps(summary))
        boxes = {case: {"label_crop_pass_rate": rates[case]} for case in cases if case in rates}
        (validation / "label_crop_pass_rate.json").write_text(json.dumps({"cases": boxes}))
    return folder


@pytest.fixture
def trained(tmp_path: Path, monkeypatch) -> tuple[Path, Path, Path]:
    """Results, raw and preprocessed folder of a dataset of four cases, three of them validated by two folds."""
    results, raw, preprocessed = (tmp_path / name / "Dataset501_Head" for name in ("results", "raw", "preprocessed"))
    for case in ("case_1", "case_2", "case_3", "case_4"):
        write(raw / "labelsTr", case, REFERENCE)
        write(preprocessed / "gt_segmentations", case, REFERENCE)
    splits = [{"train": [], "val": list(cases)} for cases in CASES.values()] + [{"train": [], "val": ["case_4"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    return results, raw, preprocessed


def test_cross_validation_of_a_model_is_scored_with_its_localizer(trained, tmp_path, caplog):
    results, raw, _ = trained
    only_lens = label_map((LENS, 1))
    maps = {"case_1": REFERENCE, "case_2": HALF_LENS, "case_3": REFERENCE}
    rates = {"case_1": 1.0, "case_2": 0.875, "case_3": None}
    model = validated_model(results / "CascadeOARTrainer__Plans__3d_cascade_32x96x96", maps, rates)
    validated_model(results / "CascadeOARTrainer__Plans__3d_lowres", dict.fromkeys(maps, only_lens), {})
    (model / "fold_2").mkdir()  # not validated yet
    (model / "fold_all" / "validation").mkdir(parents=True)
    out = tmp_path / "out"
    summary = evaluate(model, None, out, n_processes=1, show_progress=False)
    assert summary.cases == ("case_1", "case_2", "case_3")
    assert summary.folds == ("0", "1")
    assert summary.channels == ("CT", "T1")
    assert summary.ignored == ()
    assert "not validated yet, left out: fold 2" in caplog.text
    assert summary.scores("case_2")["Lens_L"] == pytest.approx(200 / 3)
    assert summary.files["case_3"] == (model / "fold_1/validation/case_3.nii.gz", raw / "labelsTr/case_3.nii.gz")
    assert summary.pass_rates == {"case_1": 1.0, "case_2": 0.875}
    assert summary.localizer.per_organ["OpticChiasm"]["dsc_percent"].value == 0.0
    text = (out / "evaluation.md").read_text()
    assert "Cross-validation, folds 0, 1." in text
    assert "| Lens_L | 100.00 +- 0.00 | 88.89 +- 19.25 |" in text  # localizer, segmenter
    assert "Missed by the localizer: case_1: OpticChiasm; case_2: OpticChiasm; case_3: OpticChiasm" in text
    assert read_evaluation(out / "localizer").missed == summary.localizer.missed


SPECK = label_map((LENS, 1), (CHIASM, 2), (np.s_[4, 0, 10], 1))  # one voxel of 1.7 mm3 far from the lens


def test_cross_validation_stands_beside_what_the_models_postprocessing_makes_of_it(trained, tmp_path):
    results, _, _ = trained
    maps = {"case_1": SPECK, "case_2": HALF_LENS, "case_3": REFERENCE}
    model = validated_model(results / "T__P__3d_fullres", maps, {})
    chosen = {"organs": {"Lens_L": [{"step": "largest_component"}], "OpticChiasm": []}}
    (model / "organ_postprocessing.json").write_text(json.dumps(chosen))
    out = tmp_path / "out"
    summary = evaluate(model, None, out, n_processes=1, show_progress=False)
    assert summary.scores("case_1")["Lens_L"] == pytest.approx(100 * 16 / 17)
    both = read_evaluation(out).by_postprocessing
    assert list(both) == ["without", "with"]
    assert both["without"].scores("case_1") == summary.scores("case_1")
    assert both["with"].scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}
    assert both["with"].scores("case_2") == summary.scores("case_2")
    text = (out / "evaluation.md").read_text()
    assert "| Lens_L | 86.93 +- 17.79 | 88.89 +- 19.25 |" in text
    assert "It was chosen on these cases, so what it gains is an upper bound." in text
    assert read_evaluation(out / "with_postprocessing").by_postprocessing == {}


def test_postprocessing_that_removes_an_organ_is_named_beside_the_scores(trained, tmp_path):
    results, _, _ = trained
    model = validated_model(results / "T__P__3d_fullres", dict.fromkeys(("case_1", "case_2", "case_3"), REFERENCE), {})
    removes = {"organs": {"Lens_L": [{"step": "small_pieces", "least_ml": 1.0}]}}
    (model / "organ_postprocessing.json").write_text(json.dumps(removes))
    summary = evaluate(model, None, tmp_path / "out", n_processes=1, show_progress=False)
    assert summary.missed == []
    assert "Missed only with postprocessing: case_1: Lens_L; case_2: Lens_L; case_3: Lens_L" in summary.table_markdown


@pytest.mark.parametrize(
    "content", ["{}", '{"organs": {"Lens_L": [{"step": "os.system"}]}}', '{"organs": {"Lens_L": []}}']
)
def test_postprocessing_that_is_damaged_or_does_nothing_costs_no_score(trained, tmp_path, caplog, content):
    results, _, _ = trained
    model = validated_model(results / "T__P__3d_fullres", dict.fromkeys(("case_1", "case_2", "case_3"), REFERENCE), {})
    (model / "organ_postprocessing.json").write_text(content)
    summary = evaluate(model, None, tmp_path / "out", n_processes=1, show_progress=False)
    assert (summary.all_organs["dsc_percent"].value, summary.by_postprocessing) == (100.0, {})
    assert ("Not scored with postprocessing" in caplog.text) == ("[]" not in content)


def test_case_that_the_validation_lost_counts_as_failed(trained, tmp_path):
    results, _, _ = trained
    model = validated_model(results / "T__P__3d_fullres", {"case_1": REFERENCE, "case_3": REFERENCE}, {})
    summary = evaluate(model, None, tmp_path / "out", n_processes=1, show_progress=False)
    assert summary.failed == {"case_2": "no prediction"}
    assert summary.per_organ["Lens_L"]["dsc_percent"].value == pytest.approx(200 / 3)
    assert summary.localizer is None


def test_what_is_no_cross_validation_is_named(trained, tmp_path, monkeypatch):
    results, raw, preprocessed = trained
    model = validated_model(results / "T__P__3d_fullres", {c: REFERENCE for f in CASES.values() for c in f}, {})

    def score_model(references: Path | None = None):
        return evaluate(model, references, tmp_path / "out", n_processes=1, show_progress=False)

    shutil.rmtree(raw)
    assert score_model().files["case_1"][1].parent == preprocessed / "gt_segmentations"
    write(tmp_path / "others", "head_7", REFERENCE)
    with pytest.raises(FileNotFoundError, match=r"No reference for 3 of the 3 validated cases, e\.g\. 'case_1'"):
        score_model(tmp_path / "others")
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(FileNotFoundError, match="neither nnUNet_raw nor nnUNet_preprocessed is set"):
        score_model()
    references = preprocessed / "gt_segmentations"
    summary_file = model / "fold_1" / "validation" / "summary.json"
    summary_file.write_text(json.dumps({"metric_per_case": [{"prediction_file": "a/case_1.nii.gz"}]}))
    with pytest.raises(ValueError, match="'case_1' was validated by fold 0 and fold 1"):
        score_model(references)
    summary_file.write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        score_model(references)
    for fold in CASES:
        (model / f"fold_{fold}").rename(model / f"old_{fold}")
    (model / "fold_all" / "validation").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Fold all validates on its training cases"):
        score_model(references)
    with pytest.raises(FileNotFoundError, match=r"is no trained model .* name the folder of the references"):
        evaluate(references, None, tmp_path / "out")
