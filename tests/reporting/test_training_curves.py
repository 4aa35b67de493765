"""Training logs as nnU-Net writes them: resumed, started anew, stopped in the middle of an epoch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from nnunet_ext.reporting.training_curves import read_training_curves


def epoch(number: int, train: float, dice: list[float] | None) -> str:
    lines = [f"Epoch {number} ", "Current learning rate: 0.003 ", f"train_loss {train} "]
    if dice is not None:
        lines += [
            "val_loss -0.25 ",
            f"Pseudo dice [{', '.join(f'np.float32({d})' for d in dice)}] ",
            "Epoch time: 2.1 s ",
        ]
    return "".join(f"2026-11-26 01:43:38.388313: {line}\n" for line in lines)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "CascadeOARTrainer__Plans__3d_lowres"
    (folder / "fold_0").mkdir(parents=True)
    labels = {"background": 0, "Lens_L": 1, "OpticChiasm": 2}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def log(model: Path, name: str, text: str, fold: str = "fold_0") -> None:
    (model / fold).mkdir(exist_ok=True)
    (model / fold / f"training_log_{name}.txt").write_text("#####\nsome words about Epoch 99\n" + text)


def test_resumed_training_goes_on_and_an_epoch_cut_off_does_not_count(model):
    log(model, "2026_11_26_01", epoch(0, 1.5, [0.1, 0.0]) + epoch(1, 1.0, [0.2, 0.1]) + epoch(2, 9.0, None))
    log(model, "2026_11_26_02", epoch(2, -0.5, [0.3, math.nan]) + epoch(3, 7.0, None))
    (curve,) = read_training_curves(model)
    assert (curve.model, curve.configuration, curve.fold) == (model.name, "3d_lowres", "0")
    assert curve.epochs == (0, 1, 2)
    assert curve.train_loss == (1.5, 1.0, -0.5)
    assert curve.validation_loss == (-0.25, -0.25, -0.25)
    assert curve.pseudo_dice["Lens_L"] == (0.1, 0.2, 0.3)
    assert curve.pseudo_dice["OpticChiasm"][:2] == (0.0, 0.1)
    assert math.isnan(curve.pseudo_dice["OpticChiasm"][2])
    assert curve.epoch_s == (2.1, 2.1, 2.1)
    assert curve.hours == pytest.approx(6.3 / 3600)  # those that count


def test_training_started_anew_does_not_go_on_from_the_old_one(model):
    log(model, "2026_11_26_01", "".join(epoch(e, 1.0, [0.1, 0.1]) for e in range(5)))
    log(model, "2026_11_26_02", epoch(0, 2.0, [0.4, 0.5]))
    assert read_training_curves(model)[0].train_loss == (2.0,)


def test_organs_that_the_model_leaves_out_have_no_curve_and_folds_stay_apart(model):
    content = {"labels": {"background": 0, "Eye_L": 1, "Lens_L": 2}, "left_out_organs": ["Eye_L"]}
    (model / "dataset.json").write_text(json.dumps(content))
    log(model, "1", epoch(0, 1.0, [0.0, 0.7]))
    log(model, "1", epoch(0, 1.0, [0.0, 0.8]), fold="fold_all")
    assert [(c.fold, c.pseudo_dice) for c in read_training_curves(model)] == [
        ("0", {"Lens_L": (0.7,)}),
        ("all", {"Lens_L": (0.8,)}),
    ]


def test_model_without_a_finished_epoch_is_named(model):
    log(model, "1", epoch(0, 1.0, None))
    with pytest.raises(FileNotFoundError, match="3d_lowres has no log of a finished epoch"):
        read_training_curves(model)
