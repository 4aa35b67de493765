import json
import subprocess
from dataclasses import asdict, replace
from threading import Thread

import pytest

from nnunet_ext.end_to_end.learning.study import Settings, Study, commit, trainer_name, training_name
from nnunet_ext.end_to_end.learning.systems import SYSTEMS
from nnunet_ext.end_to_end.learning.trainers import TRAINERS

SETTINGS = Settings("heads", "/cases", train_people=("01", "02"), test_people=("03",))


def test_a_folder_holds_one_study_and_remembers_it(tmp_path):
    Study(tmp_path / "out", tmp_path / "runs", SETTINGS)
    assert Study(tmp_path / "out", tmp_path / "runs").settings == SETTINGS
    assert Study(tmp_path / "out", tmp_path / "runs", SETTINGS).data == "heads"
    with pytest.raises(ValueError, match="holds a study with another test_people, modalities"):
        Study(tmp_path / "out", tmp_path / "runs", replace(SETTINGS, test_people=("04",), modalities=("CT",)))


def test_a_folder_without_a_study_says_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match="holds no study yet"):
        Study(tmp_path / "out", tmp_path / "runs")


def test_a_study_of_before_there_was_a_device_is_one_on_the_cpu(tmp_path):
    (tmp_path / "out").mkdir()
    content = {key: value for key, value in asdict(SETTINGS).items() if key != "device"}
    (tmp_path / "out" / "study.json").write_text(json.dumps(content))
    assert Study(tmp_path / "out", tmp_path / "runs", SETTINGS).settings.device == "cpu"
    with pytest.raises(ValueError, match="holds a study with another device"):
        Study(tmp_path / "out", tmp_path / "runs", replace(SETTINGS, device="cuda"))


def test_on_a_gpu_loaders_have_the_processes_that_users_give_them(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "7")
    studies = [Study(tmp_path / d, tmp_path / "runs", replace(SETTINGS, device=d)) for d in ("cpu", "cuda")]
    assert [study.environment()["nnUNet_n_proc_DA"] for study in studies] == ["0", "7"]
    monkeypatch.delenv("nnUNet_n_proc_DA")
    assert studies[0].environment()["nnUNet_n_proc_DA"] == "0"
    assert "nnUNet_n_proc_DA" not in studies[1].environment()


def test_steps_take_turns_on_a_gpu(tmp_path):
    study = Study(tmp_path / "out", tmp_path / "runs", replace(SETTINGS, device="cuda"))
    failed: list[str] = []

    def step() -> None:
        try:
            study.apart("no such task")
        except RuntimeError as error:
            failed.append(str(error))

    with study.lock("device"):
        thread = Thread(target=step)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert not list((tmp_path / "out" / "logs").iterdir())
    thread.join()
    assert "no such task {} failed" in failed[0]


def test_runs_have_files_of_their_own(tmp_path):
    study = Study(tmp_path / "out", tmp_path / "runs", SETTINGS)
    files = {
        study.record_file(name, mark, seed, true_boxes=boxes)
        for name in SYSTEMS
        for mark in (2.5, 10.0)
        for seed in (0, 1)
        for boxes in (False, True)
    }
    assert len(files) == 8 * len(SYSTEMS)
    assert study.record_file("merged sides", 10.0, 1).name == "heads_merged_sides_10_seed1.json"
    assert study.costs_file.name == "costs_heads.json"


def test_a_trunk_and_its_branches_have_names_of_their_own():
    assert training_name("AdamW 3e-3", 1, None) == "AdamW_3e_3_seed1_trunk"
    assert training_name("AdamW 3e-3", 1, 2.5) == "AdamW_3e_3_seed1_2_5min"


@pytest.mark.parametrize(
    ("name", "trainer"),
    [
        ("default", "CascadeOARTrainer"),
        ("reference recipe", "CascadeOARTrainerReference"),
        ("stock's plan, our recipe", "CascadeOARTrainer"),
        ("stock recipe, our 3d_fullres", "StockTrainer"),
        ("stock, small patches, mirrored", "StockTrainerMirroring"),
    ],
)
def test_a_system_is_trained_by_a_class_that_predictions_find(name, trainer):
    assert trainer_name(SYSTEMS[name]) == trainer
    assert TRAINERS[trainer].__name__ == trainer


def test_the_commit_is_that_of_the_checkout(tmp_path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    made = git("rev-parse", "HEAD").strip()
    assert commit(tmp_path) == made[:12]
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == f"{made[:12]}-dirty"
