"""Settings of an evaluation: labels, pairs, tolerances."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scored_label_maps import CHIASM, HALF_LENS, LABELS, LENS, REFERENCE, label_map, score, write

from nnunet_ext.evaluation.score_files import read_evaluation


@pytest.mark.parametrize("place", [0, 1])
def test_left_and_right_are_those_of_the_dataset_json_beside_predictions_or_references_else_by_name(folders, place):
    labels = {"background": 0, "left_lens": 1, "right_lens": 2}
    for folder in folders[:2]:
        write(folder, "case_1", REFERENCE)
    assert score(folders, labels=labels).left_right_pairs == [("left_lens", "right_lens")]
    (folders[place] / "dataset.json").write_text(
        json.dumps({"labels": {"A": 1, "B": 2}, "left_right_pairs": [["B", "A"]]})
    )
    assert score(folders, labels=None).left_right_pairs == [("B", "A")]
    assert read_evaluation(folders[2]).left_right_pairs == [("B", "A")]
    assert score(folders, labels={"B": 1, "other": 2}).left_right_pairs == []


def test_tolerance_is_looked_up_per_organ(folders):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", HALF_LENS)
    near = score(folders, tolerance_mm={"Lens_L": 0.1, "OpticChiasm": 2.0}).scores("case_1", "surface_dice")
    far = score(folders, tolerance_mm={"Lens_L": 2.0, "OpticChiasm": 0.1}).scores("case_1", "surface_dice")
    assert near["Lens_L"] < far["Lens_L"] == 1.0


def test_organs_not_named_get_the_tolerance_of_the_table(folders):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", HALF_LENS)
    assert score(folders, tolerance_mm={"Lens_L": 0.3}).tolerance_mm == {"Lens_L": 0.3, "OpticChiasm": 2.5}
    labels = {"Eye_R": 1, "Pituitary": 2}
    assert score(folders, labels=labels, tolerance_mm=None).tolerance_mm == {"Eye_R": 1.65, "Pituitary": 1.0}


@pytest.mark.parametrize("where", ["predictions", "references", "."])
def test_labels_come_from_the_dataset_json_nearby(folders, where):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", REFERENCE)
    with pytest.raises(FileNotFoundError, match=r"No dataset\.json says which label is which organ"):
        score(folders, labels=None)
    (references.parent / where / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    assert score(folders, labels=None).scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}


def test_regions_and_the_ignore_label_follow_nnunet(folders):
    predictions, references, _ = folders
    write(references, "case_1", label_map((LENS, 1), (CHIASM, 2), (np.s_[4], 3)))
    write(predictions, "case_1", label_map((LENS, 2), (CHIASM, 1), (np.s_[4], 1)))
    summary = score(folders, labels={"background": 0, "both": [1, 2], "second": 2, "ignore": 3})
    assert summary.scores("case_1") == {"both": 100.0, "second": 0.0}


def test_bad_folders_and_settings_are_named(folders, tmp_path):
    _, references, out = folders
    with pytest.raises(FileNotFoundError, match="No label map"):
        score(folders)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        score((tmp_path / "nowhere", references, out))
    write(references, "case_1", REFERENCE)
    with pytest.raises(ValueError, match="tolerance_mm names Lens; the organs are Lens_L, OpticChiasm"):
        score(folders, tolerance_mm={"Lens": 1.0})
    with pytest.raises(ValueError, match="tolerance_mm of 'Lens_L' is -1"):
        score(folders, tolerance_mm=-1)
    with pytest.raises(ValueError, match="name no organ"):
        score(folders, labels={"background": 0})
    with pytest.raises(ValueError, match="organ 'Lens_L' has label -4"):
        score(folders, labels={"Lens_L": -4})
    with pytest.raises(ValueError, match="n_processes is 0"):
        score(folders, n_processes=0)
    write(references, "case_1", REFERENCE, ".nrrd")
    with pytest.raises(ValueError, match=r"case 'case_1' is there twice .*case_1.nii.gz and case_1.nrrd"):
        score(folders)
    assert not out.exists()


def test_import_stays_light():
    """`nnunet_ext evaluate --help` must not wait for torch."""
    code = (
        "import sys, nnunet_ext.evaluation.evaluating, nnunet_ext.evaluation.metrics\n"
        "print(sorted({'torch', 'nnunetv2'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_mean_over_folds_is_taken_per_case_first_and_stands_beside_the_ensemble(folders):
    predictions, references, out = folders
    fold_1, fold_2 = (predictions.with_name(name) for name in ("fold_1", "fold_2"))
    for case in ("case_1", "case_2"):
        write(references, case, REFERENCE)
        write(predictions, case, REFERENCE)
        write(fold_1, case, REFERENCE)
    write(fold_2, "case_1", HALF_LENS)  # its lens: DSC 66.7, plain HD95 1.4 mm
    write(fold_2, "case_2", label_map((CHIASM, 2)))  # its lens missed
    summary = score(folders, folds=[fold_1, fold_2])
    mean = summary.mean_over_folds
    assert summary.scores("case_1")["Lens_L"] == 100.0
    assert mean.values("Lens_L") == pytest.approx({"case_1": (100 + 200 / 3) / 2, "case_2": 50.0})
    assert mean.values("Lens_L", "plain_hd95_mm")["case_1"] == pytest.approx(0.7)
    lens = mean.per_organ["Lens_L"]["dsc_percent"]
    assert (lens.value, lens.sd) == pytest.approx((66.6666667, (250 / 3 - 50) / 2**0.5))
    assert mean.missed == []  # one fold found it
    assert "| Lens_L | 100.00 +- 0.00 | 66.67 +- 23.57 |" in summary.table_markdown
    assert sorted(path.name for path in (out / "folds").iterdir()) == ["1", "2"]
    assert read_evaluation(out).mean_over_folds.rows == mean.rows
    assert read_evaluation(out).table_markdown == summary.table_markdown
    assert summary.only(["case_2"]).mean_over_folds.cases == ("case_2",)


def test_one_fold_is_no_mean(folders):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", REFERENCE)
    with pytest.raises(ValueError, match="folds is one folder: a mean needs two or more"):
        score(folders, folds=[predictions])
