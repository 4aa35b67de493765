from pathlib import Path
from types import SimpleNamespace

from verb_functions import run

from nnunet_ext.end_to_end.workflow.by_snakemake import Ran

EVERYTHING = (
    "workflow patients -o out --experiment ours -d 7 -n Neck --convert '--test a' -c 3d_fullres -pl Planner -p Plans "
    "-tr Trainer --epochs 9 --iterations 5 -f 0 2 --jitter planned --no-postprocessing "
    "--compare whole -device cpu --gpus 1 3 -np 3 --parts 4 --slurm --time-limit 60 "
    "--memory-gb 20 --partition gpu --account me --snakemake '-j 5' --dry-run --print-sbatch"
)


def test_workflow_passes_its_options_on(calls):
    calls.summary = Ran()
    assert run(EVERYTHING) == 0
    assert calls.name == "workflow"
    assert calls.kwargs == {
        "source": Path("patients"),
        "out": Path("out"),
        "experiment": "ours",
        "dataset_id": 7,
        "name": "Neck",
        "convert_options": "--test a",
        "configuration": "3d_fullres",
        "planner": "Planner",
        "plans": "Plans",
        "trainer": "Trainer",
        "epochs": 9,
        "iterations": 5,
        "folds": [0, 2],
        "jitter": "planned",
        "use_postprocessing": False,
        "compare": ["whole"],
        "device": "cpu",
        "gpus": ["1", "3"],
        "n_processes": 3,
        "parts": 4,
        "slurm": True,
        "time_limit_minutes": 60,
        "memory_gb": 20,
        "partition": "gpu",
        "account": "me",
        "snakemake_options": "-j 5",
        "dry_run": True,
        "print_sbatch": True,
    }
    assert run("workflow -d 7 --experiment ours") == 0
    assert calls.kwargs == {"source": None, "dataset_id": 7, "experiment": "ours"}


def test_workflow_names_the_steps_that_failed_and_those_that_wait_for_them(calls, capsys):
    calls.summary = Ran(failed={"plan": "exit code 1: no space"}, waiting={"report": "plan"})
    assert run("workflow -d 7 --experiment ours") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "nnunet_ext workflow: error: step plan: exit code 1: no space"
    assert said[1] == "not begun for want of these: report"
    assert "Repeat the command" in said[2]


def test_status_is_asked_for_by_its_word(calls, capsys):
    calls.summary = SimpleNamespace(text="ours: 3 done")
    assert run("workflow status -o out --experiment ours --page status.html") == 0
    assert calls.name == "workflow_status"
    assert calls.kwargs == {"out": Path("out"), "experiment": "ours", "page": Path("status.html")}
    assert capsys.readouterr().out == "ours: 3 done\n"
