"""`dataset.json`, `predictions.json`, splits and data sets as users leave them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nnunet_ext.nnunet_folders import (
    channel_files,
    find_dataset,
    find_label_maps,
    folder_of_variable,
    read_dataset_json,
    read_predictions_json,
    read_splits,
)

GOOD = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "Eye_L": 1, "Eyes": [1, 2]}, "numTraining": 1}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_dataset_json_with_organs_regions_and_an_ignore_label_is_read(tmp_path: Path):
    content = {**GOOD, "labels": {**GOOD["labels"], "ignore": 3, "Brain": 7}}
    assert read_dataset_json(write(tmp_path / "dataset.json", content)) == content
    assert read_dataset_json(write(tmp_path / "dataset.json", {"labels": {"Eye_L": 1}})) == {"labels": {"Eye_L": 1}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["Eye_L"]}, 'labels is ["Eye_L"], where an object {...} is needed'),
        ({"labels": {}}, "has no 'labels'"),
        ({"labels": None}, "labels is null"),
        ({"labels": {"Eye_L": "1"}}, "the label 'Eye_L' has the value \"1\"; write the number 1 without quotes"),
        ({"labels": {"Eye_L": "left"}}, "the label 'Eye_L' has the value \"left\"; write a whole number"),
        ({"labels": {"Eye_L": 1.5}}, "the label 'Eye_L' has the value 1.5; write a whole number"),
        ({"labels": {"Eye_L": True}}, "the label 'Eye_L' has the value true"),
        ({"labels": {"Eye_L": None}}, "the label 'Eye_L' has the value null"),
        ({"labels": {"Eye_L": -1}}, "the label 'Eye_L' has the value -1; label values are 0 or more"),
        ({"labels": {"Eyes": [0, 1]}}, "the label 'Eyes' has the value [0, 1]; a region is made of labels of 1 or more"),
        ({"labels": {"background": 0}}, 'the labels {"background": 0} name no organ; write name -> value'),
        ({"labels": {"Eyes": []}}, "the label 'Eyes' has the value []"),
        ({"labels": {"Eyes": [1, "2"]}}, "the label 'Eyes' has the value [1, \"2\"]"),
        ({"labels": {"Eye_L": {"value": 1}}}, "the label 'Eye_L' has the value {\"value\": 1}"),
        ({"labels": {"Eye_L": 1, "Eye_R": 1}}, "the labels 'Eye_L' and 'Eye_R' both have the value 1; give each its own"),
        ({"labels": {" ": 1}}, "a label of the value 1 has no name"),
        ({"labels": {"0": "background", "1": "Eye_L"}}, 'is of nnU-Net v1: labels are value -> name'),
        ({"channel_names": ["CT"]}, 'channel_names is ["CT"], where an object {...} is needed; write number -> name'),
        ({"channel_names": {"CT": "0"}}, "channel_names holds 'CT': \"0\"; write number -> name"),
        ({"channel_names": {"0": 1}}, "channel_names holds '0': 1; write number -> name"),
        ({"channel_names": {}}, "channel_names holds nothing"),
        ({"left_out_organs": "Eye_L"}, 'left_out_organs is "Eye_L"'),
        ({"trained_with": {"recipe": "adam"}}, 'trained_with.recipe is "adam"'),
        ({"file_ending": None}, "file_ending is null"),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_a_dataset_json_is_named_with_file_value_and_remedy(tmp_path: Path, change, said):
    path = write(tmp_path / "dataset.json", {**GOOD, **change})
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_dataset_json(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_dataset_json_of_nnunet_v1_is_told_how_v2_writes_it(tmp_path: Path):
    old = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "Eye_L"}}
    with pytest.raises(
        ValueError, match=r'v1: labels are value -> name.*write name -> value, e\.g\. "labels": .*modality'
    ):
        read_dataset_json(write(tmp_path / "dataset.json", old))
    old["labels"] = GOOD["labels"]
    with pytest.raises(ValueError, match='has "modality" and no "channel_names"; write number -> name'):
        read_dataset_json(write(tmp_path / "dataset.json", old))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "it is [], where an object"),
        ({}, "it has no 'cases'"),
        ({"cases": []}, "cases is [], where an object"),
        ({"cases": {"a": []}}, "cases.a is [], where an object"),
        ({"cases": {"a": {"box": "all"}}}, 'cases.a.box is "all"'),
        ({"cases": {"a": {"box": [[0, 1], [2, 3]]}}}, "the box of case 'a' is [[0, 1], [2, 3]], three pairs"),
        ({"cases": {"a": {"box": [0, 1, 2]}}}, "the box of case 'a' is [0, 1, 2], three pairs"),
        ({"cases": {"a": {"box": [[0, 1], [2, 3], [5, 4]]}}}, "the box of case 'a'"),
        ({"cases": {"a": {"box": [[0, 1], [2, 3], [-4, 4]]}}}, "the box of case 'a'"),
        ({"cases": {"a": {"box": [[0, 1], [2, 3], [0.5, 4]]}}}, "the box of case 'a'"),
        ({"cases": {"a": {"warnings": "none"}}}, 'cases.a.warnings is "none"'),
        ({"cases": {}, "models": "m"}, 'models is "m"'),
    ],
)
def test_a_predictions_json_that_predict_did_not_write_is_refused(tmp_path: Path, content, said):
    path = write(tmp_path / "predictions.json", content)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_predictions_json(path)
    assert str(path) in str(error.value)
    assert "move it away" in str(error.value)


def test_the_record_of_a_case_counts_instead_of_its_entry_and_an_empty_one_takes_it_out(tmp_path: Path):
    path = write(
        tmp_path / "predictions.json", {"models": ["m"], "cases": {"a": {"failed": "no CT"}, "b": {}, "c": {}}}
    )
    (tmp_path / "records").mkdir()
    write(tmp_path / "records" / "a.json", {"box": [[0, 1], [2, 3], [4, 5]]})
    write(tmp_path / "records" / "b.json", None)
    write(tmp_path / "records" / "d.v2.json", {"failed": "no T1"})
    (tmp_path / "records" / ".e.json.7.tmp").write_text("{")
    cases = {"a": {"box": [[0, 1], [2, 3], [4, 5]]}, "c": {}, "d.v2": {"failed": "no T1"}}
    assert read_predictions_json(path) == {"models": ["m"], "cases": cases}
    for content, said in (
        ("{", "is damaged"),
        ('{"box": [1, 2, 3]}', "the box of case 'a' is"),
        ("[]", "is not what it"),
    ):
        (tmp_path / "records" / "a.json").write_text(content)
        with pytest.raises(ValueError, match=rf"records/a\.json.*{said}"):
            read_predictions_json(path)


@pytest.mark.parametrize(
    "content", [{}, [3], [{"train": []}], [{"train": "a", "val": []}], [{"train": [1], "val": []}]]
)
def test_splits_of_another_form_are_refused(tmp_path: Path, content):
    with pytest.raises(ValueError, match=r"splits_final\.json is not a list of splits with 'train' and 'val' \(.+\)"):
        read_splits(write(tmp_path / "splits_final.json", content))


def test_an_environment_variable_that_names_no_folder_is_told(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pytest.raises(FileNotFoundError, match=r"the environment variable nnUNet_results is not set.*export"):
        folder_of_variable("nnUNet_results", "models")
    (tmp_path / "file").write_text("")
    for name, said in (("file", "file, which is a file"), ("none", "none, which does not exist")):
        monkeypatch.setenv("nnUNet_results", str(tmp_path / name))
        with pytest.raises(OSError, match=f"nnUNet_results names .*{said}"):
            folder_of_variable("nnUNet_results", "models")


def test_a_data_set_is_found_by_number_or_name_and_a_wrong_one_is_told_what_is_there(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    for name in ("Dataset005_A", "Dataset006_B", "Dataset006_C"):
        (tmp_path / name).mkdir()
    for given in (5, "5", "Dataset005_A"):
        assert find_dataset("nnUNet_results", given, "models") == tmp_path / "Dataset005_A"
    with pytest.raises(ValueError, match=r"6 is ambiguous: .*Dataset006_B and Dataset006_C; give the full name"):
        find_dataset("nnUNet_results", 6, "models")
    for given in (7, "Dataset005_B", "x"):
        with pytest.raises(
            FileNotFoundError, match=f"no data set {given} among the models.*Dataset005_A, Dataset006_B"
        ):
            find_dataset("nnUNet_results", given, "models")


def test_channel_files_names_the_image_that_is_missing(tmp_path):
    (tmp_path / "case_2_0000.nii.gz").write_bytes(b"")
    assert channel_files(tmp_path, "case_2", {"0": "CT"}) == {"CT": tmp_path / "case_2_0000.nii.gz"}
    with pytest.raises(FileNotFoundError, match=r"no image case_2_0001.nii.gz \(channel T1\)"):
        channel_files(tmp_path, "case_2", {"0": "CT", "1": "T1"})


def test_label_maps_are_found_by_their_ending(tmp_path):
    for name in ("a.nii.gz", "b.b.nrrd", "c.nii", "d.mha", "._a.nii.gz", "dataset.json", "a.npz", "plans.json"):
        (tmp_path / name).touch()
    (tmp_path / "fold.nii").mkdir()
    assert list(find_label_maps(tmp_path)) == ["a", "b.b", "c", "d"]


def test_channels_are_found_in_any_format(tmp_path):
    for name in ("case_1_0000.NII.GZ", "case_1_0001.mhd", "case_10_0000.nii", "case_1_0000.txt", "[1]_0000.nrrd"):
        (tmp_path / name).touch()
    found = channel_files(tmp_path, "case_1", {"1": "T1", "0": "CT"})
    assert {channel: path.name for channel, path in found.items()} == {
        "CT": "case_1_0000.NII.GZ",
        "T1": "case_1_0001.mhd",
    }
    assert channel_files(tmp_path, "[1]", {"0": "CT"})["CT"].name == "[1]_0000.nrrd"
    with pytest.raises(FileNotFoundError, match=r"no image case_1_0002\.nii\.gz \(channel T2\)"):
        channel_files(tmp_path, "case_1", {"2": "T2"})
