"""The training that starts from a model: what it refuses, and one on tiny phantoms that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from start_models import MODEL_DATASET, write_model
from tiny_cases import rule

from nnunet_ext.end_to_end.finetuning import PLANS, TRAINER, Training, finetune, stages_of
from nnunet_ext.nnunet_folders import BOXES_FILE
from nnunet_ext.starter.shipped import FOLDER

NAME = "Dataset601_Tiny"
LABELS = {"background": 0, "Eye_L": 1, "Eye_R": 2}


@pytest.fixture
def model(tmp_path, cascade_plans) -> Path:
    """A segmenter of small networks on a coarse grid, its localizer beside it."""
    channels = tuple(MODEL_DATASET["channel_names"].values())
    plans = cascade_plans(
        roi=rule().to_plan(), channels=channels, spacing_mm=(4.0,) * 3, localizer_spacing_mm=(8.0,) * 3
    )
    return write_model(tmp_path / "models", {**plans, "plans_name": "Theirs"})


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """A raw data set of which only the names are looked at."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    write(tmp_path / "raw" / NAME, n=5)
    return tmp_path / "raw" / NAME


def write(raw: Path, *, n: int, **changes: object) -> None:
    (raw / "labelsTr").mkdir(parents=True, exist_ok=True)
    for file in raw.glob("labelsTr/*"):
        file.unlink()
    for at in range(n):
        (raw / "labelsTr" / f"head_{at}.nii.gz").touch()
    content = {"channel_names": {"0": "CT", "1": "T2"}, "labels": LABELS, "file_ending": ".nii.gz", **changes}
    (raw / "dataset.json").write_text(json.dumps(content))


def test_five_patients_are_a_cross_validation_and_fewer_are_told_what_is_possible(raw, model):
    training = Training.of(601, model, "cpu")
    assert (training.folds(()), training.planned_folds()) == ([], [0, 1, 2, 3, 4])
    assert training.folds(["1", "all"]) == [1, "all"]
    write(raw, n=4)
    few = Training.of(601, model, "cpu")
    message = (
        rf"at least 5 patients, and {NAME} has 4\. -f all trains on all of them.*write splits_final\.json.* -f 0 is"
    )
    for asked in ((), ["0"]):
        with pytest.raises(ValueError, match=message):
            few.folds(asked)
    assert few.folds(["all"]) == ["all"]
    few.preprocessed.mkdir()
    few.splits_file.write_text(json.dumps([{"train": ["head_0", "head_1"], "val": ["head_2"]}] * 2))
    assert (few.folds(["0"]), few.planned_folds()) == ([0], [0, 1])
    with pytest.raises(ValueError, match="fold 'last' is none: give numbers from 0 on, or all"):
        few.folds(["last"])


def test_cases_of_one_person_are_one_patient(raw, model):
    write(raw, n=6, same_person=[["head_0", "head_1"], ["head_2", "head_3"]])
    assert Training.of(601, model, "cpu").planned_folds() == [0, 1, 2, 3]
    write(raw, n=2, same_person=[["head_0", "head_1"]])
    with pytest.raises(ValueError, match=f"{NAME} has 1\\."):
        Training.of(601, model, "cpu").folds(())


def test_a_data_set_that_the_model_does_not_know_is_refused_before_anything_is_written(raw, model):
    write(raw, n=5, channel_names={"0": "PET"})
    with pytest.raises(ValueError, match=rf"{NAME}/dataset\.json: the model .* has no channel PET"):
        finetune(601, model=model, device="cpu")
    assert not list((raw.parents[1] / "preprocessed").iterdir())


@pytest.mark.skipif(not (FOLDER / "model").is_dir(), reason="the checkout holds no starter")
def test_without_a_model_the_starter_is_where_a_training_starts():
    assert set(stages_of(None)) == {"3d_lowres", "3d_cascade_fullres"}


def test_a_folder_that_is_no_model_and_one_without_localizer_are_named(raw, model):
    with pytest.raises(FileNotFoundError, match=r"models is no trained model: name one of the folders in it, Cascade"):
        stages_of(model.parent)
    localizer = model.with_name(model.name.replace("cascade_fullres", "lowres"))
    with pytest.raises(FileNotFoundError, match=r"3d_lowres has no localizer beside it"):
        stages_of(localizer)
    (localizer / "fold_all" / "checkpoint_final.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"3d_lowres holds no fold with checkpoint_final\.pth"):
        stages_of(model)
    localizer.rename(model.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"3d_cascade_fullres has no localizer beside it"):
        stages_of(model)


def test_damaged_weights_are_refused_before_anything_is_planned(raw, model):
    file = model / "fold_all" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint_final\.pth can't be read as weights: it is damaged"):
        finetune(601, model=model, device="cpu")
    assert not (raw.parents[1] / "preprocessed" / NAME / f"{PLANS}.json").exists()


def test_another_model_takes_the_place_of_the_first_only_before_a_training(raw, model, tmp_path):
    training = Training.of(601, model, "cpu")
    training.copy_model()
    training.plans_file.write_text("{}")
    training.copy_model()
    assert training.plans_file.is_file()  # the same model
    plans = json.loads((model / "plans.json").read_text())
    other = Training.of(601, write_model(tmp_path / "other", {**plans, "plans_name": "Other"}), "cpu")
    other.copy_model()
    assert not training.plans_file.exists()  # it was planned for the first one
    trained = training.fold_folder("3d_lowres", 0)
    trained.mkdir(parents=True)
    (trained / "checkpoint_latest.pth").touch()
    with pytest.raises(ValueError, match=r"fold_0 was trained from another model than .*__Theirs__.*with --from"):
        training.copy_model()
    other.copy_model()


@pytest.mark.long
def test_a_training_from_a_model_is_killed_goes_on_and_is_not_repeated(tmp_path, model, shared_phantom, forked):
    phantoms = tmp_path / "phantoms"
    shared_phantom.write(phantoms, n_cases=2, size="tiny")
    environment = {**os.environ, "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
    for name in ("raw", "preprocessed", "results"):
        environment[f"nnUNet_{name}"] = str(tmp_path / name)
        (tmp_path / name).mkdir()
    convert = ["nnunet_ext", "convert", str(phantoms), "-d", "601", "-n", "Tiny", "--no-n4", "--no-preview", "-np", "1"]
    subprocess.run([*forked, *convert], env=environment, check=True, capture_output=True)
    many, few = (["--epochs-localizer", n, "--epochs-segmenter", "1"] for n in ("40", "3"))
    command = ["nnunet_ext", "finetune", "-d", "601", "--from", str(model), "-f", "all", "-device", "cpu", "-np", "1"]

    # In a process group of its own: data loaders of a killed training live on.
    with (tmp_path / "first.log").open("w") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:], *many],
            env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    results = tmp_path / "results" / NAME
    fold = results / f"{TRAINER}__{PLANS}__3d_lowres" / "fold_all"
    for _ in range(9000):
        if (fold / "checkpoint_latest.pth").is_file() or process.poll() is not None:
            break
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = (tmp_path / "first.log").read_text()
    assert (fold / "checkpoint_latest.pth").is_file(), first[-4000:]
    assert f"$ nnUNetv2_train 601 3d_lowres all -tr {TRAINER} -p {PLANS} -device cpu\n" in first
    assert "The training begins with the weights of CascadeOARTrainer__Theirs__3d_lowres, fold all." in first
    assert "Inputs taken from the model by name: CT, T1, T2." in first
    assert "Organs of the model" not in first
    assert "Organs that the model does not have, begun with random weights: Lens_R, OpticNrv_L, OpticNrv_R" in first

    done = subprocess.run([*forked, *command, *few], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "nnUNetv2_plan_experiment" not in done.stdout
    assert f"$ nnUNetv2_train 601 3d_lowres all -tr {TRAINER} -p {PLANS} -device cpu --c\n" in done.stdout
    assert "weights of CascadeOARTrainer__Theirs__3d_lowres" not in done.stdout
    assert "weights of CascadeOARTrainer__Theirs__3d_cascade_fullres" in done.stdout
    for stage in ("3d_lowres", "3d_cascade_fullres"):
        folder = results / f"{TRAINER}__{PLANS}__{stage}" / "fold_all"
        assert (folder / "checkpoint_final.pth").is_file()
        assert (folder / "validation" / BOXES_FILE).is_file()

    again = subprocess.run([*forked, *command, *few], env=environment, capture_output=True, text=True)
    assert again.returncode == 0
    assert "$ nnUNetv2" not in again.stdout
    assert again.stdout.count("[done]") == 3
