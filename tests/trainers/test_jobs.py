"""A training that a deadline ends, goes on and leaves its validation to a step of its own."""

from __future__ import annotations

import json
from pathlib import Path
from time import time

import pytest
from reference_tables import check_file

from nnunet_ext.trainers import cascade_oar_trainer
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer
from nnunet_ext.training.job import OUT_OF_TIME, PROGRESS_FILE

OPTIONS = {"num_epochs": 3, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}


def progress(trainer: CascadeOARTrainer) -> dict:
    return json.loads(Path(trainer.output_folder, PROGRESS_FILE).read_text())


def test_a_deadline_ends_the_run_after_an_epoch_and_the_next_goes_on(make, monkeypatch):
    whole = make(**OPTIONS)
    whole.run_training()
    log = whole.logger.local_logger.my_fantastic_logging
    assert progress(whole)["epoch"] == 3
    check_file(progress(whole), PROGRESS_FILE)

    with monkeypatch.context() as patched:
        patched.setenv("nnunet_ext_deadline", str(time() + 1e6))
        trainer = make(**OPTIONS)
        end = trainer.on_epoch_end

        def on_epoch_end() -> None:
            end()
            if trainer.current_epoch == 2:  # from here on no time is left
                patched.setattr(cascade_oar_trainer, "time", lambda: time() + 1e6)

        patched.setattr(trainer, "on_epoch_end", on_epoch_end)
        with pytest.raises(SystemExit) as ended:
            trainer.run_training()
    assert ended.value.code == OUT_OF_TIME
    assert progress(trainer)["out_of_time"]
    assert progress(trainer)["epoch"] == 2
    assert "2 of 3 epochs are done; go on with: nnUNetv2_train" in Path(trainer.log_file).read_text()

    resumed = make(**OPTIONS)
    resumed.load_checkpoint(str(Path(trainer.output_folder, "checkpoint_latest.pth")))
    assert resumed.current_epoch == 2
    resumed.run_training()
    assert progress(resumed)["epoch"] == 3
    assert not progress(resumed)["out_of_time"]
    rates = resumed.logger.local_logger.my_fantastic_logging["lrs"]
    assert rates == pytest.approx(log["lrs"])  # those of a training that nothing ended


def test_a_deadline_that_is_over_trains_no_epoch(make, monkeypatch):
    monkeypatch.setenv("nnunet_ext_deadline", str(time() - 1))
    trainer = make(**OPTIONS)
    with pytest.raises(SystemExit) as ended:
        trainer.run_training()
    assert ended.value.code == OUT_OF_TIME
    assert progress(trainer)["epoch"] == 0
    assert not list(Path(trainer.output_folder).glob("checkpoint_*"))


def test_the_final_validation_can_be_left_to_a_step_of_its_own(make, monkeypatch):
    monkeypatch.setenv("nnunet_ext_validation", "off")
    validated = []
    monkeypatch.setattr(CascadeOARTrainer, "_validate_segmenter", lambda self, _save: validated.append(self))
    trainer = make(**OPTIONS)
    trainer.run_training()
    trainer.perform_actual_validation()
    assert not validated
    assert "The final validation is left to: nnUNetv2_train" in Path(trainer.log_file).read_text()
    again = make(**OPTIONS)  # as `--val`, which does not train
    again.perform_actual_validation()
    assert validated == [again]
