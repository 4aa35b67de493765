"""`nnunet_ext study`: what it says before it runs, how it fails, and all of it killed and gone on with (`make long`)."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_ext.cli.main import main
from nnunet_ext.end_to_end.workflow.study import FAST_TEST, study

FAST = ["study", "--fast", "-device", "cpu", "-np", "1", "-j", "1"]


def test_a_dry_run_prints_a_script_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "study"
    assert main([*FAST, "-o", str(out), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not out.exists()
    assert lines[0] == f"mkdir -p {out} && cd {out} && mkdir -p raw preprocessed results"
    assert lines[1].startswith("export nnUNet_raw=$PWD/raw nnUNet_preprocessed=$PWD/preprocessed nnUNet_results=$PWD/")
    assert lines[2].startswith("# phantoms: Make 14 head phantoms (CT, T1, T2, label); 1 processes, 1 GB, about 2 min")
    assert lines[3] == "nnunet_ext phantom phantoms --cases 14 --seed 20 --size tiny -np 1"
    (convert,) = [line for line in lines if line.startswith("nnunet_ext convert")]
    assert len(re.findall(r"phantom_\d+", convert)) == FAST_TEST
    assert lines[-1].startswith("nnunet_ext report whole=scores/whole coarse-localizer=scores/coarse-localizer ")
    assert lines[-1].endswith("-o tables --reference-study --cases phantom_008 -np 1")
    assert sum(line.startswith("nnUNetv2_train ") for line in lines) == 9


def test_options_reach_the_steps(tmp_path, monkeypatch, capsys):
    (tmp_path / "patients").mkdir()
    (tmp_path / "labels.toml").touch()
    monkeypatch.chdir(tmp_path)
    study(
        Path("patients"),
        tmp_path / "study",
        test_cases=["case_41"],
        systems=["32x96x96"],
        fewer_images=[],
        convert_options="--labels labels.toml --no-n4",
        folds=[3],
        device="cuda",  # of another machine, for which the script is
        dry_run=True,
    )
    said = capsys.readouterr().out
    window = "--window-hu -160 240 --one-range"
    assert f"--test case_41 --register {window} --labels {tmp_path / 'labels.toml'} --no-n4 -np " in said
    assert "-overwrite_target_spacing 1.25 0.8 0.8" in said
    assert [line.split()[3] for line in said.splitlines() if line.startswith("nnUNetv2_train")] == ["3", "3"]
    assert "-tr CascadeOARTrainerReference -p CascadeOARPlans --c -device cuda" in said


def test_a_quarter_of_the_patients_is_drawn_for_the_test_and_the_studys_range_can_be_refused(tmp_path, capsys):
    (tmp_path / "patients").mkdir()
    options = {"device": "cuda", "dry_run": True, "systems": ["whole"], "fewer_images": []}
    study(tmp_path / "patients", tmp_path / "study", **options)
    assert "--register --test 0.25 --seed 1 --window-hu -160 240 --one-range -np " in capsys.readouterr().out
    study(tmp_path / "patients", tmp_path / "study", convert_options="--window-hu -200 300 --one-range", **options)
    assert "--register --test 0.25 --seed 1 --window-hu -200 300 --one-range -np " in capsys.readouterr().out
    study(tmp_path / "patients", tmp_path / "study", modalities=["T1", "T2"], **options)
    assert "--register --test 0.25 --seed 1 --one-range -np " in capsys.readouterr().out


def test_without_t2_only_the_ct_is_compared_with_all_images(tmp_path, capsys):
    study(None, tmp_path, modalities=["CT", "T1"], fast=True, device="cpu", dry_run=True)
    channels = [line for line in capsys.readouterr().out.splitlines() if line.startswith("nnunet_ext channels")]
    assert channels == ["nnunet_ext channels 521 -d 522 -n HeadMR_CT --modalities CT"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "name the folder of the patients, or give --fast to make phantoms"),
        ({"source": Path(), "test_cases": ["a"], "systems": ["eyes"]}, "there is no system 'eyes'"),
    ],
)
def test_a_study_of_nothing_is_refused_before_anything_is_written(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        study(out=tmp_path / "study", device="cpu", **options)
    assert not (tmp_path / "study").exists()


def test_a_failed_step_names_its_log_and_its_last_line_and_the_exit_code_is_1(tmp_path, capsys):
    (tmp_path / "patients").mkdir()
    out = tmp_path / "study"
    options = ["--systems", "whole", "--fewer-images", "--test", "a"]
    assert main([*FAST[:1], str(tmp_path / "patients"), *FAST[1:], "-o", str(out), *options]) == 1
    said = capsys.readouterr().err.splitlines()
    log = out / "logs" / "convert.log"
    assert said[0].startswith(
        f"nnunet_ext study: error: step convert: exit code 1, log {log}: nnunet_ext convert: error: "
    )
    assert log.read_text().splitlines()[-1] in said[0]
    waiting = "plan_all, schedule_all, train_all_3d_fullres_80x256x256_fold_0, predict_whole, evaluate_whole, report"
    assert said[1] == f"not begun for want of these: {waiting}"


# --- all of it ---------------------------------------------------------------------------------------------------------


class Study:
    """A small study of one crop with all images and with CT alone, in processes of its own."""

    def __init__(self, patients: Path, out: Path) -> None:
        self.out, self.log = out, out.with_suffix(".log")
        options = [
            "--systems",
            "sliding-32x96x96",
            "--fewer-images",
            "CT",
            "--epochs",
            "2",
            "--test",
            "phantom_005",
            "phantom_006",
        ]
        self.command = [
            *(str(Path(sys.executable).parent / "nnunet_ext"), "study", str(patients), *FAST[1:]),
            *("--no-register", "-o", str(out), *options),
        ]

    def killed_in(self, step: str, sign: str) -> None:
        """Run until a step's log or a file says so, then kill the command. What it started ends by itself."""
        with self.log.open("a") as log:
            running = subprocess.Popen(self.command, stdout=log, stderr=log)
        log_file = self.out / "logs" / f"{step}.log"
        end = time.monotonic() + 1800
        while time.monotonic() < end and running.poll() is None:
            if (log_file.is_file() and re.search(sign, log_file.read_text(errors="replace"))) or any(
                self.out.glob(sign)
            ):
                break
            time.sleep(0.05)
        assert running.poll() is None, f"{step} could not be killed:\n{self.log.read_text()[-3000:]}"
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert not (self.out / "steps" / f"{step}.done.json").exists()

    def run(self) -> str:
        done = subprocess.run(self.command, capture_output=True, text=True, check=False, timeout=3600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def tables(self) -> dict[str, str]:
        """Name -> text of each table of scores. What a training cost differs."""
        files = sorted((self.out / "tables" / "tables").glob("*.md"))
        return {file.name: file.read_text() for file in files if file.stem != "costs"}


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends the commands of a killed process")
def test_a_study_killed_at_three_steps_goes_on_and_its_tables_are_those_of_a_run_without_a_kill(
    tmp_path, shared_phantom
):
    shared_phantom.write(tmp_path / "phantoms", n_cases=7, size="tiny")
    killed = Study(tmp_path / "phantoms", tmp_path / "study")
    killed.killed_in("convert", "raw/*/imagesTr/*")
    killed.killed_in("train_all_3d_cascade_32x96x96_fold_0", r"Epoch 0\b")
    killed.killed_in("predict_sliding-32x96x96", "predicted/sliding-32x96x96/*.nii.gz")
    assert "steps were done before" in killed.run()
    tables = killed.tables()
    assert {"study_3_2.md", "study_3_3.md", "study_3_7.md"} <= set(tables)
    assert "CT+T1+T2" in tables["study_3_7.md"]

    # The networks of two trainings differ, so the run without a kill has those of the first.
    for folder in ("predicted", "scores", "tables"):
        (killed.out / folder).rename(tmp_path / folder)
    said = killed.run()
    assert "Train " not in said
    assert killed.tables() == tables
    assert "All 15 steps are done" in said
