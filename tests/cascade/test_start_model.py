"""The copy of a model that a training starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reference_tables import check_file
from start_models import MODEL_DATASET, write_model
from tiny_cases import rule

from nnunet_ext.cascade.start_model import StartModel, copied_source


@pytest.fixture
def folder(tmp_path, cascade_plans) -> Path:
    """A trained segmenter."""
    channels = tuple(MODEL_DATASET["channel_names"].values())
    return write_model(tmp_path, cascade_plans(roi=rule().to_plan(), channels=channels), fold="2")


def trained(folder: Path) -> StartModel:
    return StartModel.trained(folder, folder / "fold_2" / "checkpoint_final.pth")


def test_a_copy_is_the_model_and_says_where_it_is_from(folder, tmp_path):
    model, copy = trained(folder), tmp_path / "copy"
    assert copied_source(copy) is None
    assert not model.is_copied_in(copy)
    model.copy_to(copy)
    assert model.is_copied_in(copy)
    copied = StartModel.copied(copy)
    assert (copied.plans, copied.dataset_json, copied.source) == (model.plans, model.dataset_json, model.source)
    assert copied.title == "CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres, fold 2"
    assert copied_source(copy) == model.source
    check_file(json.loads((copy / "source.json").read_text()), "source.json")
    assert copied.entry["previous_stage"] == "3d_lowres"
    assert copied.entry["spacing"] == [2.0, 2.0, 2.0]  # inherited
    (copy / "checkpoint.pth").write_bytes(b"half")
    assert not model.is_copied_in(copy)


def test_damaged_weights_are_not_copied(folder, tmp_path):
    file = folder / "fold_2" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"fold_2/checkpoint_final\.pth can't be read as weights: it is damaged"):
        trained(folder).copy_to(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_plan_that_names_other_code_is_refused(folder):
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["nonlin"] = "subprocess.check_output"
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"names 'subprocess\.check_output' as nonlin"):
        trained(folder)


def test_a_plan_that_lacks_the_configuration_is_named(folder):
    plans = json.loads((folder / "plans.json").read_text())
    del plans["configurations"]["3d_cascade_fullres"]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"plans\.json, configuration '3d_cascade_fullres': it is not whole"):
        trained(folder)
