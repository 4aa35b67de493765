"""A training that a deadline ends, goes on and leaves its validation to a step of its own."""

from __future__ import annotations

import json
from pathlib import Path
from time import time

import pytest
import torch
from reference_tables import check_file

from nnunet_ext.cascade.box_jitter import JITTER_FILE
from nnunet_ext.nnunet_folders import PREPROCESSED_PARTS
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


def test_a_training_is_refused_while_parts_of_its_cases_are_to_be_preprocessed(make):
    trainer = make(**OPTIONS)
    trainer.dataset_json["numTraining"] = 5
    assert len(trainer.do_split()[0]) == 3  # preprocessed by nnU-Net, which makes all or none
    Path(trainer.preprocessed_dataset_folder, PREPROCESSED_PARTS).mkdir()
    with pytest.raises(
        ValueError, match=r"4 of 5 training cases are preprocessed for 3d_cascade_fullres in .*other parts"
    ):
        trainer.run_training()


# ------------------------------------------------------------------------------------------------ the next job


def latest(trainer: CascadeOARTrainer) -> Path:
    return Path(trainer.output_folder, "checkpoint_latest.pth")


def after_one_epoch_of(hours: float, make, **options) -> CascadeOARTrainer:
    """A training whose only epoch took so long, a week ago, as its checkpoint has it."""
    trainer = make(**{**OPTIONS, **options, "num_epochs": 1})
    trainer.run_training()
    file = Path(trainer.output_folder, "checkpoint_final.pth")
    checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    start_s = time() - 7 * 24 * 3600
    checkpoint["logging"]["epoch_start_timestamps"] = [start_s]
    checkpoint["logging"]["epoch_end_timestamps"] = [start_s + hours * 3600]
    torch.save(checkpoint, latest(trainer))
    file.unlink()
    return trainer


def test_the_time_budget_counts_the_epochs_of_all_jobs_and_not_the_time_between_them(make):
    after_one_epoch_of(2.0, make)
    over = make(**OPTIONS, time_budget_h=1.9)
    over.load_checkpoint(str(latest(over)))
    assert over.reason_to_stop() == "the time budget of 1.9 h is used"
    half = make(**{**OPTIONS, "num_epochs": 100}, time_budget_h=4.0)
    half.load_checkpoint(str(latest(half)))
    assert half.progress() == pytest.approx(0.5)
    within = make(**{**OPTIONS, "num_epochs": 2}, time_budget_h=4.0)
    within.load_checkpoint(str(latest(within)))
    within.run_training()
    assert within.current_epoch == 2
    assert 2.0 < within.elapsed_h() < 2.2


# ------------------------------------------------------------------------------------------------ the jitter


def validate_localizer(trainer: CascadeOARTrainer, fold: int, error_mm: float = 1.0) -> None:
    """What the validation of a localizer's fold leaves."""
    folder = trainer._localizer_folder() / f"fold_{fold}" / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    case = {"fallback_whole_volume": False, "label_crop_pass_rate": 1.0, "error_mm": [error_mm] * 3}
    cases = {f"fold{fold}_{i}": case for i in range(3)}
    (folder / "label_crop_pass_rate.json").write_text(json.dumps({"cases": cases}))


def record(trainer: CascadeOARTrainer) -> dict:
    return json.loads(Path(trainer.output_folder, JITTER_FILE).read_text())


def test_the_jitter_of_a_training_is_recorded_and_stays_when_more_becomes_known(make):
    trainer = make(**OPTIONS)
    trainer.initialize()
    trainer.settle_jitter()
    assert (record(trainer)["box_jitter"], record(trainer)["asked"]) == ("planned", "measured")
    check_file(record(trainer), JITTER_FILE)
    validate_localizer(trainer, 0)
    resumed = make(**OPTIONS)
    resumed.initialize()
    resumed.current_epoch = 1
    resumed.settle_jitter()
    assert record(resumed)["box_jitter"] == "planned"
    assert len(resumed.dataset_class.errors_mm) == 0
    assert "The jitter of the box is planned, as box_jitter.json says" in Path(resumed.log_file).read_text()
    anew = make(**OPTIONS)
    anew.initialize()
    anew.settle_jitter()
    assert (record(anew)["box_jitter"], record(anew)["folds"]) == ("measured", [0])
    assert record(anew)["errors_mm"] == [[1.0] * 3] * 3


def test_an_experiment_that_says_measured_waits_for_its_folds_and_takes_no_others(make, monkeypatch):
    monkeypatch.setenv("nnunet_ext_jitter", "measured 0 1")
    trainer = make(**OPTIONS)
    trainer.initialize()
    validate_localizer(trainer, 0)
    validate_localizer(trainer, 2, error_mm=50.0)
    trained = trainer._localizer_folder() / "fold_1"
    trained.mkdir()
    command = r"nnUNetv2_train Dataset501_Test 3d_lowres 1 -tr CascadeOARTrainer -p CascadeOARPlans -device cpu"
    for checkpoint, option in ((None, ""), ("checkpoint_latest.pth", " --c"), ("checkpoint_final.pth", " --val")):
        if checkpoint:
            (trained / checkpoint).touch()
        with pytest.raises(
            FileNotFoundError, match=rf"of fold 1 there are none in .*First: {command}{option}\. Or pass"
        ):
            trainer.run_training()
    validate_localizer(trainer, 1, error_mm=2.0)
    trainer.settle_jitter()
    assert (record(trainer)["box_jitter"], record(trainer)["folds"]) == ("measured", [0, 1])
    assert trainer.dataset_class.errors_mm == [[1.0] * 3] * 3 + [[2.0] * 3] * 3


def test_an_experiment_that_says_planned_takes_no_errors_whatever_is_known(make, monkeypatch):
    monkeypatch.setenv("nnunet_ext_jitter", "planned")
    trainer = make(**OPTIONS)
    validate_localizer(trainer, 0)
    trainer.initialize()
    trainer.settle_jitter()
    assert (record(trainer)["box_jitter"], record(trainer)["errors_mm"]) == ("planned", [])
    monkeypatch.setenv("nnunet_ext_jitter", "measured 0")
    other = make(**OPTIONS)
    other.initialize()
    other.current_epoch = 1
    with pytest.raises(ValueError, match=r"began with the jitter planned, .*go on with nnunet_ext_jitter=planned"):
        other.settle_jitter()
    off = make(**OPTIONS, recipe={"box_jitter": "off"})
    off.initialize()
    with pytest.raises(ValueError, match=r"asks for the jitter measured, and recipe\.box_jitter of the plan is off"):
        off.settle_jitter()


def test_a_validation_of_its_own_says_which_step_of_the_localizer_is_missing(make):
    trainer = make(**OPTIONS)
    trainer.initialize()
    folder = trainer._localizer_folder() / "fold_0"
    again = r"Then repeat: nnUNetv2_train Dataset501_Test 3d_cascade_fullres 0 .* -device cpu --val$"
    with pytest.raises(
        FileNotFoundError, match=rf"maps of 1 cases.*'head_3'.*First: nnUNetv2_train .* 3d_lowres 0 .*{again}"
    ):
        trainer.perform_actual_validation()
    folder.mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()  # trained without its final validation
    with pytest.raises(
        FileNotFoundError, match=rf"3d_lowres 0 -tr CascadeOARTrainer -p CascadeOARPlans -device cpu --val\. {again}"
    ):
        trainer.perform_actual_validation()
