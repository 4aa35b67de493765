from pathlib import Path

import pytest
from verb_functions import run

from nnunet_ext.end_to_end.workflow.running import Outcome

EVERYTHING = (
    "study patients -o out --test a b --systems whole ours --fewer-images CT -f 0 2 --each-fold --modalities CT T1 "
    "--no-register --convert '--labels l.toml' -d 7 -n Neck --spacing 1 2 3 --epochs 9 --fast -device cpu -j 2 -np 3 "
    "--dry-run"
)


def test_study_passes_its_options_on(calls):
    calls.summary = Outcome()
    assert run(EVERYTHING) == 0
    assert calls.kwargs == {
        "source": Path("patients"),
        "out": Path("out"),
        "test_cases": ["a", "b"],
        "systems": ["whole", "ours"],
        "fewer_images": ["CT"],
        "folds": [0, 2],
        "each_fold": True,
        "modalities": ["CT", "T1"],
        "register": False,
        "convert_options": "--labels l.toml",
        "dataset_id": 7,
        "name": "Neck",
        "spacing_mm": [1.0, 2.0, 3.0],
        "epochs": 9,
        "fast": True,
        "device": "cpu",
        "at_a_time": 2,
        "n_processes": 3,
        "dry_run": True,
    }
    assert run("study --fast") == 0
    assert calls.kwargs == {"source": None, "fast": True}


def test_study_names_the_steps_that_failed_and_those_that_wait_for_them(calls, capsys):
    calls.summary = Outcome(failed={"plan": "exit code 1, log plan.log: no space"}, waiting={"report": "plan"})
    assert run("study patients") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "nnunet_ext study: error: step plan: exit code 1, log plan.log: no space"
    assert said[1] == "not begun for want of these: report"
    assert "Repeat the command" in said[2]


def test_a_fold_is_a_number(calls):
    with pytest.raises(SystemExit):
        run("study patients -f all")
