"""Printed job arrays, executed by a stand-in for `sbatch` that runs each task at once, and by SLURM where it is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_node import slurm_node
from small_workflows import FOLDS, begun, small_workflow, until

from nnunet_ext.end_to_end.workflow.experiment import planned_experiment
from nnunet_ext.end_to_end.workflow.experiment_steps import Experiment
from nnunet_ext.end_to_end.workflow.job_arrays import job_arrays, sbatch_script
from nnunet_ext.end_to_end.workflow.standing import DONE, FAILED, TO_DO, standings
from nnunet_ext.end_to_end.workflow.status import workflow_status

#: Runs the tasks of an array, and again those that `scontrol` was asked to requeue. None runs if one before it failed.
SBATCH = f"""#!{sys.executable}
import os, re, subprocess, sys
from pathlib import Path
here = Path(__file__).parent
number = str(len(list(here.glob("*.job"))) + 1)
script = sys.stdin.read()
words = [*re.findall(r"^#SBATCH (.*)$", script, flags=re.MULTILINE), *sys.argv[1:]]
options = dict(word.lstrip("-").partition("=")[::2] for word in words)
first, last = map(int, options["array"].split("-"))
needed = re.findall(r"\\d+", options.get("dependency", ""))
codes = []
for task in range(first, last + 1):
    if any((here / f"{{one}}.job").read_text() == "failed" for one in needed):
        codes.append(1)
        continue
    mark = here / f"{{number}}_{{task}}.requeue"
    environment = {{**os.environ, "SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": number}}
    while True:
        code = subprocess.run(["bash"], input=script, text=True, env=environment, stdout=sys.stderr).returncode
        if not mark.exists():
            break
        mark.unlink()
    codes.append(code)
(here / f"{{number}}.job").write_text("failed" if any(codes) else "done")
print(f"{{number}};cluster")
"""
#: Ends the job that asks, as SLURM does.
SCONTROL = """#!/bin/bash
touch "$(dirname "$0")/$2.requeue"
kill $PPID
"""


@pytest.fixture
def made(tmp_path):
    workflow = small_workflow(tmp_path)
    workflow.write()
    return workflow


def executed(script: str, tmp_path: Path) -> subprocess.CompletedProcess:
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("squeue", "#!/bin/bash\nexit 1\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=False)


def test_the_arrays_run_all_steps_and_a_task_that_is_out_of_time_once_more(made, tmp_path):
    (tmp_path / "data" / f"late_{FOLDS[1]}").touch()
    done = executed(sbatch_script(made), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "submitted; nnunet_ext workflow status says how they stand\n"
    assert [one.state for one in standings(made)] == [DONE] * 4
    assert [name for name, _ in begun(tmp_path)] == ["plan", FOLDS[0], FOLDS[1], FOLDS[1], "report"]
    assert {gpu for name, gpu in begun(tmp_path) if name in FOLDS} == {os.environ.get("CUDA_VISIBLE_DEVICES", "-")}
    assert [path.read_text() for path in sorted((tmp_path / "bin").glob("*.job"))] == ["done"] * 3


def test_after_a_real_error_the_same_script_does_what_is_missing(made, tmp_path):
    (failing := tmp_path / "data" / f"fail_{FOLDS[0]}").touch()
    executed(sbatch_script(made), tmp_path)
    assert [one.state for one in standings(made)] == [DONE, FAILED, DONE, TO_DO]
    failing.unlink()
    executed(sbatch_script(made), tmp_path)
    assert [one.state for one in standings(made)] == [DONE] * 4
    assert [name for name, _ in begun(tmp_path)] == ["plan", *FOLDS, FOLDS[0], "report"]


def test_folds_are_tasks_of_one_array_and_validate_as_soon_as_they_are_trained(tmp_path):
    made = Experiment("ours", 521, "Dataset521_Head", tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")
    workflow = planned_experiment(made, tmp_path / "ours", time_limit_minutes=90)
    arrays = {array.name: array for array in job_arrays(workflow)}
    model = "CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres"
    assert len(arrays[f"train_{model}"].steps) == 5
    script = sbatch_script(workflow, partition="gpu", account="me")
    (train,) = re.findall(rf"^train_{model}=.*?^JOB$", script, flags=re.MULTILINE | re.DOTALL)
    for line in ("array=0-4", "time=90", "partition=gpu", "account=me", "gpus=1", "mem=16000M", "requeue"):
        assert f"#SBATCH --{line}\n" in train
    (validate,) = re.findall(rf"^validate_{model}=.*$", script, flags=re.MULTILINE)
    assert f"aftercorr:$train_{model}" in validate
    assert "afterok:$validate_CascadeOARTrainer__CascadeOARPlans__3d_lowres" in validate


def test_slurm_itself_runs_the_arrays_with_a_gpu_for_each_fold(made, tmp_path):
    with slurm_node(tmp_path / "slurm"):
        submitted = subprocess.run(["bash"], input=sbatch_script(made), capture_output=True, text=True, check=False)
        assert submitted.returncode == 0, submitted.stderr
        until(lambda: all(one.state == DONE for one in standings(made)), seconds=120)
        status = workflow_status(tmp_path / "workflow")
    assert [name for name, _ in begun(tmp_path)] == ["plan", *FOLDS, "report"]
    assert {gpu for name, gpu in begun(tmp_path) if name in FOLDS} == {"0"}  # SLURM's number, and no lease of ours
    assert status.in_slurm == 4
    assert (made.folder / "logs" / "sbatch").is_dir()
