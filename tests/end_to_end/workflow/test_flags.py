"""What is done, what is made again, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from reference_tables import check_file

from nnunet_ext.end_to_end.workflow.flags import Flags, StepsDiffer
from nnunet_ext.end_to_end.workflow.step import Step

TRAIN = Step("train", "Train", ("train", "--epochs", "5"), ("model/weights",), lasting=True)
PREDICT = Step("predict", "Predict", ("predict",), ("predicted",), ("model/weights",))
LONGER = replace(TRAIN, command=("train", "--epochs", "9"))


def make(flags: Flags, folder: Path, step: Step) -> None:
    """Do a step, whose outputs are folders."""
    flags.begin(step)
    for output in step.outputs:
        (folder / output).mkdir(parents=True, exist_ok=True)
    flags.end(step, 1.25)


def test_a_step_is_done_once_it_has_ended_and_as_long_as_its_outputs_are_there(tmp_path):
    flags = Flags(tmp_path, [TRAIN, PREDICT])
    assert not flags.is_done(TRAIN)
    flags.begin(TRAIN)
    (tmp_path / "model" / "weights").mkdir(parents=True)
    assert not flags.is_done(TRAIN)  # killed here, its output is there
    flags.end(TRAIN, 1.25)
    assert flags.is_done(TRAIN)
    assert flags.seconds(TRAIN) == 1.2
    check_file(json.loads(flags.done_file(TRAIN).read_text()), "STEP.done.json")
    assert Flags(tmp_path, [replace(TRAIN, how=("-device", "cpu"))]).is_done(TRAIN)
    (tmp_path / "model" / "weights").rmdir()
    assert not flags.is_done(TRAIN)
    assert flags.missing(TRAIN) == ["model/weights"]


def test_what_another_command_made_is_removed_but_never_what_took_long(tmp_path):
    flags = Flags(tmp_path, [TRAIN, PREDICT])
    make(flags, tmp_path, TRAIN)
    make(flags, tmp_path, PREDICT)
    (tmp_path / "predicted" / "case").touch()
    flags.begin(PREDICT)  # the same command goes on with what is there
    assert (tmp_path / "predicted" / "case").is_file()

    mirrored = replace(PREDICT, command=("predict", "--mirror"))
    other = Flags(tmp_path, [TRAIN, mirrored])
    other.check(mirrored)
    other.begin(mirrored)
    assert not (tmp_path / "predicted").exists()
    assert other.is_done(TRAIN)

    longer = Flags(tmp_path, [LONGER, PREDICT])
    with pytest.raises(
        StepsDiffer, match=r"model/weights was made by another .* `train --epochs 5`, now `train --epochs 9`"
    ):
        longer.check(LONGER)
    (tmp_path / "model").rename(tmp_path / "earlier")
    longer.check(LONGER)


def test_a_step_killed_under_another_command_is_not_gone_on_with(tmp_path):
    Flags(tmp_path, [TRAIN, PREDICT]).begin(PREDICT)
    (tmp_path / "predicted").mkdir()  # killed here
    Flags(tmp_path, [LONGER, PREDICT]).begin(PREDICT)
    assert not (tmp_path / "predicted").exists()


def test_a_damaged_flag_is_named(tmp_path):
    flags = Flags(tmp_path, [TRAIN])
    make(flags, tmp_path, TRAIN)
    flags.done_file(TRAIN).write_text("{")
    with pytest.raises(ValueError, match=r"train\.done\.json is damaged.*delete it to make its step again"):
        flags.is_done(TRAIN)
