"""The page for predictions without references: what it shows, and what it refuses."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest
from small_experiments import LABELS, label_map, write

from nnunet_ext.reporting.viewing import view


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Two predictions, of which one has a warning, and images of the other."""
    folder = tmp_path / "predictions"
    for case in ("case_1", "case_2"):
        write(folder, case, label_map())
    write(tmp_path / "imagesTs", "case_1_0000", label_map().astype("int16"))
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "channel_names": {"0": "CT"}}))
    record = {"warnings": ["odd"], "missing": ["Lens_L"]}
    (folder / "predictions.json").write_text(json.dumps({"cases": {"case_2": record}}))
    return folder


def test_cases_with_warnings_come_first_and_nothing_has_a_score(predictions, tmp_path):
    page = view(predictions, tmp_path / "imagesTs", tmp_path / "page.html", show_progress=False)
    assert list(page.case_bytes) == ["case_1"]
    assert page.left_out == {"case_2": "images"}
    (text,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page.path.read_text())
    (shown,) = json.loads(text)["experiments"]
    assert not shown["has_scores"]
    assert [case["name"] for case in shown["cases"]] == ["case_2", "case_1"]
    assert [reason["kind"] for reason in shown["cases"][0]["reasons"]] == ["missed", "warnings"]
    assert shown["cases"][0]["warnings"] == ["odd"]


def shown_channels(page: Path, case: str) -> list[str]:
    """Names of the channels of a case in the viewer."""
    (packed,) = re.findall(rf'id="case:{case}">([^<]*)<', page.read_text())
    content = gzip.decompress(base64.b64decode(packed))
    header = json.loads(content[4 : 4 + int.from_bytes(content[:4], "little")])
    return [channel["name"] for channel in header["channels"]]


def test_a_case_is_shown_with_the_channels_that_it_had_from_a_folder_of_its_own_too(predictions, tmp_path):
    dataset = {"labels": LABELS, "channel_names": {"0": "CT", "1": "T1", "2": "T2"}}
    (predictions / "dataset.json").write_text(json.dumps(dataset))
    records = {"case_1": {"channels": ["CT"]}, "case_2": {"channels": ["T1", "T2"]}}
    (predictions / "predictions.json").write_text(json.dumps({"cases": records}))
    for channel in ("T1", "T2"):
        write(tmp_path / "imagesTs" / "case_2", channel, label_map().astype("int16"))
    page = view(predictions, tmp_path / "imagesTs", tmp_path / "page.html", show_progress=False)
    assert page.left_out == {}
    assert shown_channels(page.path, "case_1") == ["CT"]
    assert shown_channels(page.path, "case_2") == ["T1", "T2"]
    (tmp_path / "imagesTs" / "case_2" / "T1.nii.gz").unlink()
    page = view(predictions, tmp_path / "imagesTs", tmp_path / "page.html", show_progress=False)
    assert page.left_out == {"case_2": "images"}


def test_a_prediction_that_leads_nowhere_has_no_viewer_and_is_named(predictions, tmp_path, caplog):
    (predictions / "case_1.nii.gz").unlink()
    (predictions / "case_1.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    page = view(predictions, tmp_path / "imagesTs", tmp_path / "page.html", show_progress=False)
    assert page.left_out == {"case_1": "images", "case_2": "images"}
    assert "case 'case_1' has no viewer" in caplog.text


@pytest.mark.parametrize(
    ("missing", "named"), [("dataset.json", "no dataset.json in"), ("*.nii.gz", "no label map in")]
)
def test_a_folder_without_predictions_is_refused(predictions, tmp_path, missing, named):
    for file in predictions.glob(missing):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=named):
        view(predictions, tmp_path / "imagesTs", tmp_path / "page.html", show_progress=False)
    assert not (tmp_path / "page.html").exists()
