"""Two folders of label maps: what is compared, and that the rest is named."""

from __future__ import annotations

import json

import pytest
from scored_label_maps import HALF_LENS, REFERENCE, score, write

from nnunet_ext.evaluation.folders import PlacedBox
from nnunet_ext.evaluation.score_files import read_evaluation


def test_prediction_without_reference_is_ignored_and_listed(folders):
    predictions, references, _ = folders
    write(predictions, "case_1", REFERENCE)
    write(predictions, "case_9", HALF_LENS)
    write(references, "case_1", REFERENCE)
    summary = score(folders)
    assert summary.ignored == ("case_9",)
    assert summary.ok
    assert summary.per_organ["Lens_L"]["dsc_percent"].n == 1


@pytest.mark.parametrize(
    ("of_prediction", "of_reference"),
    [
        (".mhd", ".nii.gz"),
        (".NII.GZ", ".mha"),
        (".Nii.gz", ".nrrd"),
        (".nii", ".mhd"),
        (".NRRD", ".MHA"),
        (".MHD", ".nii"),
    ],
)
def test_a_case_is_scored_whatever_the_two_formats_are(folders, of_prediction, of_reference):
    for folder, ending in zip(folders, (of_prediction, of_reference), strict=False):
        write(folder, "case_1", REFERENCE, ending.lower())
        (folder / f"case_1{ending.lower()}").rename(folder / f"case_1{ending}")
    summary = score(folders)
    assert summary.scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}
    assert summary.not_compared == ()  # the data file of a .mhd is a part of it


@pytest.mark.parametrize("twin", ["case_1.nii", "case_1.NII.GZ", "case_1.mhd", "case_1.MHA", "case_1.nrrd"])
def test_two_files_of_one_case_are_refused_whatever_their_endings(folders, twin):
    write(folders[1], "case_1", REFERENCE)
    (folders[1] / twin).touch()
    with pytest.raises(ValueError, match=r"case 'case_1' is there twice"):
        score(folders)


def test_whatever_is_not_compared_is_named(folders, tmp_path):
    predictions, references, out = folders
    for folder in (predictions, references):
        write(folder, "case_1", REFERENCE)
    write(references, "case_2", REFERENCE)
    write(predictions, "case_3", REFERENCE)
    (predictions / "case_2.nii.gz").mkdir()
    (references / "case_4.hdr").touch()
    for ignored in ("dataset.json", "case_1.npz", "case_1.PKL", "._case_1.nii.gz"):
        (predictions / ignored).write_text("{}")
    summary = score(folders)
    assert summary.failed == {"case_2": "no prediction"}
    assert summary.ignored == ("case_3",)
    assert summary.not_compared == ("predictions/case_2.nii.gz (a folder)", "references/case_4.hdr")
    assert json.loads((out / "evaluation.json").read_text())["not_compared"] == list(summary.not_compared)
    assert "(not compared): predictions/case_2.nii.gz (a folder), references/case_4.hdr\n" in summary.table_markdown
    assert read_evaluation(out).not_compared == summary.not_compared


def test_predictions_of_other_cases_are_an_error(folders):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    with pytest.raises(
        FileNotFoundError, match=r"None of the 0 predictions .*no label map there, case_1\.nii\.gz here"
    ):
        score(folders)
    write(predictions, "Case_1", REFERENCE)
    write(predictions, "Case_2", REFERENCE)
    with pytest.raises(FileNotFoundError, match=r"None of the 2 predictions .*: Case_1\.nii\.gz, \.\.\. there, case_1"):
        score(folders)
    assert not out.exists()


def test_a_box_is_turned_to_the_axes_of_another_grid_of_the_same_case():
    box = PlacedBox(((1, 4), (2, 6), (3, 10)), "RAS")  # along (Z, Y, X)
    assert box.on((5, 7, 11), "RAS") == (slice(1, 4), slice(2, 6), slice(3, 10))
    assert box.on((5, 7, 11), "LPS") == (slice(1, 4), slice(1, 5), slice(1, 8))
    for shape, axes in (((5, 7, 9), "LPS"), ((5, 7, 11), "PLS")):
        with pytest.raises(ValueError, match="does not fit"):
            box.on(shape, axes)
