"""Plans with another schedule: what changes, what is left, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_ext.end_to_end.plan_schedule import set_schedule

PLANS = {
    "plans_name": "Plans",
    "configurations": {
        "3d_lowres": {"data_identifier": "Plans_3d_lowres", "training": {"num_epochs": 250, "initial_lr": 0.001}},
        "3d_fullres": {"training": {"num_epochs": 500, "iterations_per_epoch": 250}},
        "3d_ablated": {"inherits_from": "3d_fullres"},
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    (tmp_path / "Dataset501_Head").mkdir()
    (tmp_path / "Dataset501_Head" / "Plans.json").write_text(json.dumps(PLANS))
    return tmp_path / "Dataset501_Head"


def test_all_configurations_get_the_numbers_and_the_plans_another_name(folder):
    file = set_schedule(501, "Plans9", plans="Plans", epochs=9, iterations=5)
    new = json.loads(file.read_text())
    assert file == folder / "Plans9.json"
    assert new["plans_name"] == "Plans9"
    lowres, fullres, ablated = new["configurations"].values()
    assert lowres["training"] == {"num_epochs": 9, "initial_lr": 0.001, "iterations_per_epoch": 5}
    assert lowres["data_identifier"] == "Plans_3d_lowres"  # the preprocessed data are shared
    assert fullres["training"] == {"num_epochs": 9, "iterations_per_epoch": 5}
    assert ablated == {"inherits_from": "3d_fullres"}
    assert json.loads((folder / "Plans.json").read_text()) == PLANS


def test_only_the_configuration_named_changes_and_a_repeated_call_writes_nothing(folder):
    file = set_schedule(501, "Plans9", plans="Plans", epochs=9, configurations=["3d_lowres"])
    written = file.stat().st_mtime_ns
    assert json.loads(file.read_text())["configurations"]["3d_fullres"] == PLANS["configurations"]["3d_fullres"]
    set_schedule(501, "Plans9", plans="Plans", epochs=9, configurations=["3d_lowres"])
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Plans", {}, "plans name 'Plans': use letters.*another name than Plans"),
        ("My__Plans", {}, "plans name 'My__Plans'"),  # nnU-Net divides the names of models at two
        ("Plans9", {"configurations": ["3d_ablated"]}, "the plans Plans have no training of 3d_ablated"),
        ("Plans9", {"epochs": 0}, "training.num_epochs is 0"),
    ],
)
def test_names_and_numbers_that_are_none_are_refused(folder, name, options, said):
    with pytest.raises(ValueError, match=said):
        set_schedule(501, name, plans="Plans", **options)
    assert [file.name for file in folder.iterdir()] == ["Plans.json"]


def test_missing_plans_are_named_with_those_that_are_there(folder):
    with pytest.raises(FileNotFoundError, match=r"there are no plans CascadeOARPlans in .*Dataset501_Head \(Plans\)"):
        set_schedule(501, "Plans9", epochs=9)
