"""Trainings that begin with the weights of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from reference_tables import rows
from start_models import MODEL_DATASET, write_model
from tiny_cases import rule

from nnunet_ext.cascade.start_model import StartModel, copy_folder
from nnunet_ext.training.foreign_models import read_weights

STAGES = ("3d_lowres", "3d_cascade_fullres")
ITERATIONS = {"num_epochs": 1, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}


@pytest.fixture
def start(folders, cascade_plans) -> dict[str, str]:
    """Stage -> `start_from`, with the copies of both stages where the planner puts them."""
    plans = {**cascade_plans(roi=rule().to_plan(), channels=tuple(MODEL_DATASET["channel_names"].values()))}
    segmenter = write_model(folders / "elsewhere", {**plans, "plans_name": "Theirs"})
    preprocessed = folders / "preprocessed" / "Dataset501_Test"
    found = {}
    for stage in STAGES:
        model = segmenter.with_name(f"{segmenter.name.rpartition('__')[0]}__{stage}")
        copy = copy_folder(preprocessed, "CascadeOARPlans", stage)
        StartModel.trained(model, model / "fold_all" / "checkpoint_final.pth").copy_to(copy)
        found[stage] = str(copy.relative_to(preprocessed))
    return found


def copy_of(folders: Path, entry: str) -> Path:
    return folders / "preprocessed" / "Dataset501_Test" / entry


def log_of(trainer) -> str:
    return "".join(file.read_text() for file in Path(trainer.output_folder).glob("training_log_*.txt"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_begins_with_the_models_weights_by_name_and_says_so(make, folders, start, stage):
    trainer = make(configuration=stage, start_from=start[stage], recipe={"weights_average": 0.9}, **ITERATIONS)
    trainer.check_before_training()
    trainer.on_train_start()
    random = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer._begin_with_model()
    weights = read_weights(copy_of(folders, start[stage]) / "checkpoint.pth")["network_weights"]
    for name, value in trainer.network.state_dict().items():
        theirs = weights[name].float()
        if (value.shape[1:2], theirs.shape[1:2]) == ((3,), (4,)):  # the first layer, by all of its names
            theirs = theirs[:, [2, 3, 0]]  # CT, T1, T2 are there
        elif ".seg_layers." in name:
            theirs = theirs[[0, 4, 2, 1]]  # background, Eye_L, Eye_R, OpticChiasm
        assert torch.equal(value, theirs), name
    assert any(not torch.equal(random[name], value) for name, value in trainer.network.state_dict().items())
    for name, value in trainer.average.average.items():
        assert torch.equal(value, trainer.network.get_parameter(name)), name
    log = log_of(trainer)
    assert f"The training begins with the weights of CascadeOARTrainer__Theirs__{stage}, fold all." in log
    assert "Inputs of the model that the data set does not have, left out: FLAIR." in log
    assert "Organs of the model that the data set does not have, left out: Lens_L." in log
    source = json.loads(Path(trainer.output_folder_base, "dataset.json").read_text())["trained_with"]["start_from"]
    listed = {line[0] for line in rows("files.md", "`dataset.json`")}
    assert {f"trained_with.start_from.{key}" for key in source} <= listed
    assert source == {"model": f"CascadeOARTrainer__Theirs__{stage}", "fold": "all", "configuration": stage}


def test_a_training_that_goes_on_keeps_its_own_weights(make, folders, start):
    options = {"configuration": "3d_lowres", "start_from": start["3d_lowres"]}
    trainer = make(**options, **ITERATIONS)
    trainer.run_training()
    file = Path(trainer.output_folder, "checkpoint_final.pth")
    (copy_of(folders, start["3d_lowres"]) / "checkpoint.pth").unlink()  # not needed any more
    again = make(**options, **{**ITERATIONS, "num_epochs": 2})
    again.load_checkpoint(str(file))
    loaded = {name: value.clone() for name, value in again.network.state_dict().items()}
    again.check_before_training()
    again._take_over_checkpoints()
    assert all(torch.equal(value, loaded[name]) for name, value in again.network.state_dict().items())
    again.run_training()
    assert again.current_epoch == 2


def test_a_copy_that_is_damaged_or_gone_is_refused_before_the_training(make, folders, start):
    trainer = make(start_from=start["3d_cascade_fullres"])
    file = copy_of(folders, start["3d_cascade_fullres"]) / "checkpoint.pth"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(
        ValueError, match=r"checkpoint\.pth can't be read as weights: it is damaged.*nnunet_ext finetune"
    ):
        trainer.check_before_training()
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds no model to start from \(checkpoint\.pth is not there\); start with"
    ):
        trainer.check_before_training()


def test_a_plan_of_another_grid_is_refused(make, start, folders):
    copy = copy_of(folders, start["3d_lowres"])
    plans = json.loads((copy / "plans.json").read_text())
    plans["configurations"]["3d_lowres"]["spacing"] = [1.5, 2.0, 2.0]
    (copy / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(
        ValueError,
        match=r"'3d_lowres': spacing is \[2\.0, 2\.0, 2\.0\], and \[1\.5, 2\.0, 2\.0\] in the model.*finetune",
    ):
        make(configuration="3d_lowres", start_from=start["3d_lowres"]).run_training()
