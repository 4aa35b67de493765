"""The three files of an evaluation: written whole, and read again."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from reference_tables import check_file
from scored_label_maps import HALF_LENS, LENS, REFERENCE, label_map, score, write

from nnunet_ext.evaluation.score_files import read_evaluation


def test_csv_and_json_hold_the_same_numbers(folders):
    predictions, references, out = folders
    write(references, "case_1", label_map((LENS, 1)))
    write(references, "case_2", REFERENCE)
    write(predictions, "case_1", HALF_LENS * (HALF_LENS == 1))
    summary = score(folders)
    with (out / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["organ"], row["flag"]) for row in rows] == [
        ("case_1", "Lens_L", ""),
        ("case_1", "OpticChiasm", "left_out"),
        ("case_2", "Lens_L", "failed"),
        ("case_2", "OpticChiasm", "failed"),
    ]
    assert float(rows[0]["dsc_percent"]) == pytest.approx(200 / 3)
    assert rows[1]["dsc_percent"] == ""

    content = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert content["per_case"]["case_1"]["Lens_L"]["dsc_percent"] == float(rows[0]["dsc_percent"])
    assert content["per_case"]["case_1"]["OpticChiasm"]["dsc_percent"] is None
    lens = summary.per_organ["Lens_L"]["dsc_percent"]
    written = {"mean": lens.value, "sd": lens.sd, "median": lens.median, "n": 2}
    assert content["per_organ"]["Lens_L"]["dsc_percent"] == written
    assert content["per_organ"]["OpticChiasm"]["dsc_percent"]["sd"] is None
    assert content["failed"] == {"case_2": "no prediction"}
    assert content["left_out"] == [{"case": "case_1", "organ": "OpticChiasm"}]
    check_file(content, "evaluation.json")
    assert content["tolerance_mm"] == {"Lens_L": 1.0, "OpticChiasm": 1.0}
    assert "95th percentiles" in content["definitions"]["hd95_mm"]
    assert content["versions"]["surface-distance"]


def test_predictions_stand_beside_those_without_postprocessing(folders, tmp_path):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", REFERENCE)
    write(tmp_path / "raw", "case_1", HALF_LENS)
    summary = score(folders, without_postprocessing=tmp_path / "raw")
    both = read_evaluation(out).by_postprocessing
    assert [scores.scores("case_1")["Lens_L"] for scores in both.values()] == [pytest.approx(200 / 3), 100.0]
    assert "upper bound" not in summary.table_markdown
    assert (out / "without_postprocessing" / "evaluation.csv").is_file()
    check_file(json.loads((out / "evaluation.json").read_text()), "evaluation.json")


def test_evaluation_is_read_back_as_it_was_written(folders):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    write(references, "case_2", REFERENCE)
    write(predictions, "case_1", label_map((LENS, 1)))
    summary = score(folders, localizer=predictions)
    found = read_evaluation(out)
    np.testing.assert_equal(list(map(asdict, found.rows)), list(map(asdict, summary.rows)))  # equal NaN
    assert found.table_markdown == summary.table_markdown
    assert "| Lens_L | 50.00 +- 70.71 | 50.00 +- 70.71 |" in found.table_markdown  # the localizer, the segmenter
    assert found.files == {
        "case_1": (predictions / "case_1.nii.gz", references / "case_1.nii.gz"),
        "case_2": (None, references / "case_2.nii.gz"),
    }
    assert found.failed == {"case_2": "no prediction"}
    content = json.loads((out / "evaluation.json").read_text())
    del content["per_case"]["case_1"]["Lens_L"]["volume_difference_percent"]
    (out / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"older version .*volume_difference_percent.*again"):
        read_evaluation(out)
    with pytest.raises(FileNotFoundError, match=r"references holds no evaluation\.json"):
        read_evaluation(references)


def test_stopped_write_leaves_the_old_file(folders, monkeypatch):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", REFERENCE)
    score(folders)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write(predictions, "case_1", HALF_LENS)
    monkeypatch.setattr("nnunet_ext.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        score(folders)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_older_evaluation_is_read_and_keys_that_are_not_known_do_no_harm(folders):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", HALF_LENS)
    summary = score(folders)
    content = json.loads((out / "evaluation.json").read_text())
    del content["not_compared"], content["left_right_pairs"]
    content["per_case"]["case_1"]["Lens_L"]["of_another_version"] = 1.0
    (out / "evaluation.json").write_text(json.dumps(content))
    found = read_evaluation(out)
    assert found.rows == summary.rows
    del content["per_case"]["case_1"]["Lens_L"]["plain_hd95_mm"]
    (out / "evaluation.json").write_text(json.dumps(content))
    lens, chiasm = read_evaluation(out).rows
    assert np.isnan(lens.plain_hd95_mm)
    assert replace(lens, plain_hd95_mm=summary.rows[0].plain_hd95_mm) == summary.rows[0]
    assert chiasm == summary.rows[1]
    assert (found.not_compared, found.left_right_pairs) == ((), None)
