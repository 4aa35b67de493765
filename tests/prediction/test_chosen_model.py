"""The model that is named goes before the starter, and options that would be ignored are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_starter import VERSION, write_starter

from nnunet_ext.prediction.chosen_model import choose_model
from nnunet_ext.starter.shipped import SEGMENTER


@pytest.fixture
def starter(tmp_path, cascade_plans) -> Path:
    return write_starter(tmp_path / "starter", cascade_plans)


def test_without_a_model_the_starter_is_chosen_and_nnunets_folders_are_not_asked_for(starter, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    chosen = choose_model(None, None, starter=starter)
    assert chosen.starter is not None
    assert chosen.starter.version == VERSION
    assert (chosen.folder, chosen.folds) == (starter / "model" / SEGMENTER, ("all",))


def test_a_named_model_goes_before_the_starter(starter):
    model = starter / "model" / SEGMENTER
    chosen = choose_model(None, model, folds=["0"], checkpoint="best.pth")
    assert (chosen.folder, chosen.folds, chosen.checkpoint, chosen.starter) == (model, ["0"], "best.pth", None)
    assert choose_model(None, model, use_starter=False).folder == model
    with pytest.raises(ValueError, match="leave out one of them"):
        choose_model(None, model, starter=starter)


def test_the_starter_can_be_refused(starter):
    with pytest.raises(ValueError, match="--no-starter refuses the starter: name a model with -d or -m"):
        choose_model(None, None, use_starter=False)
    with pytest.raises(ValueError, match="--no-starter refuses it: leave out one of them"):
        choose_model(None, None, starter=starter, use_starter=False)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"configuration": "3d_fullres"}, "-c"),
        ({"trainer": "T"}, "-tr"),
        ({"plans": "P"}, "-p"),
        ({"folds": [0]}, "-f"),
    ],
)
def test_options_that_choose_among_models_are_refused_with_the_starter(starter, option, name):
    with pytest.raises(ValueError, match=rf"^{name} chooses among the models of a data set.*give -d"):
        choose_model(None, None, starter=starter, **option)


def test_another_checkpoint_of_the_starter_is_refused(starter):
    with pytest.raises(ValueError, match=r"the starter has no best\.pth"):
        choose_model(None, None, starter=starter, checkpoint="best.pth")
