"""Two experiments of two stages and two folds on phantoms, on a SLURM of one node, killed and gone on with.

`python tests/cluster_proof.py FOLDER results/cluster.md` takes about an hour of two cores. As root, with SLURM and the extra
`cluster` installed. It runs in this order:

1. Both experiments at once, as jobs of SLURM. A time limit of a minute is hit by their trainings.
2. SIGKILL of the first experiment's command and of its Snakemake while a fold trains. The same command at once.
3. SIGKILL of a training, which is a real error. The same command once the rest is finished.
4. The trainings of the first experiment once more, uninterrupted, on this machine without SLURM.

It compares the splits and the numbers of epochs, counts how often each training was begun, and writes the page.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
from nnunet_ext.end_to_end.workflow.planned_workflow import PlannedWorkflow, read_workflow
from nnunet_ext.end_to_end.workflow.slurm import jobs_of_user
from nnunet_ext.end_to_end.workflow.standing import DONE, RUNNING, standings
from nnunet_ext.processes import usable_cores

SCRIPT = Path(__file__).parent / "helpers" / "slurm_one_node.sh"
EPOCHS = 8
WHAT = ["-d", "531", "-pl", "CascadeOARPlannerSmall", "--epochs", str(EPOCHS), "--iterations", "2", "-f", "0", "1"]
#: Choosing one on the noise of such short trainings takes long.
WHERE = ["--no-postprocessing", "-device", "cpu", "-np", "1", "--memory-gb", "4"]
SLURM = ["--slurm", "--time-limit", "1", "--snakemake", "--slurm-init-seconds-before-status-checks 5"]
EXPERIMENTS = {"ours": (), "study": ("-tr", "CascadeOARTrainerReference")}


class Proof:
    """A run of the proof in a folder, which may be ended and gone on with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "proof.json"
        kept = json.loads(self.file.read_text()) if self.file.is_file() else {"start_s": time.time(), "lines": []}
        self.start_s: float = kept["start_s"]
        self.lines: list[str] = kept["lines"]

    def say(self, text: str) -> None:
        line = f"{(time.time() - self.start_s) / 60:5.1f} min  {text}"
        self.lines.append(line)
        self.file.write_text(json.dumps({"start_s": self.start_s, "lines": self.lines}))
        print(line, flush=True)

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def begin(self, root: Path, experiment: str, *more: str) -> subprocess.Popen:
        """`nnunet_ext workflow` of an experiment, with nnU-Net's folders below a root."""
        words = ["workflow", str(self.folder / "patients"), "-n", "Head", "--experiment", experiment, *WHAT, *WHERE]
        words += ["--convert", "--no-preview --no-n4 --test phantom_005", *EXPERIMENTS[experiment], *more]
        environment = {
            **os.environ,
            **{f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")},
            "nnUNet_compile": "f",
            "nnUNet_n_proc_DA": "1",
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        log = (root / f"{experiment}.log").open("a")
        command = [sys.executable, "-m", "nnunet_ext", *words, "-o", str(root / "workflow")]
        return subprocess.Popen(command, env=environment, cwd=root, stdout=log, stderr=subprocess.STDOUT)

    def until(self, met: Callable[[], bool], *, minutes: float = 40) -> None:
        end = time.monotonic() + 60 * minutes
        while not met():
            if time.monotonic() > end:
                raise SystemExit("waited in vain")
            hurry()
            time.sleep(2)


def hurry() -> None:
    """Spare requeued jobs the two minutes that SLURM waits."""
    for job in (jobs_of_user() or {}).values():
        if job.state == "PENDING":
            subprocess.run(
                ["scontrol", "update", f"JobId={job.number}", "StartTime=now"], capture_output=True, check=False
            )


def planned(root: Path, experiment: str) -> PlannedWorkflow | None:
    folder = root / "workflow" / experiment
    return read_workflow(folder) if (folder / "steps.json").is_file() else None


def training(root: Path, experiment: str) -> tuple[str, int] | None:
    """Name of a step of an experiment that trains and has had an epoch, and the number of its command's process."""
    workflow = planned(root, experiment)
    for one in standings(workflow, jobs_of_user()) if workflow else ():
        if one.state == RUNNING and one.step.name.startswith("train_") and one.epoch:
            process = workflow.flags(one.step).started(one.step).get("process")
            if process and workflow.experiment in experiments_of(one.step.name):
                return one.step.name, process["pid"]
    return None


def experiments_of(step: str) -> tuple[str, ...]:
    return ("study",) if "CascadeOARTrainerReference" in step else ("ours",)


def all_done(root: Path) -> bool:
    workflows = [planned(root, experiment) for experiment in EXPERIMENTS]
    return all(workflow and len(workflow.done()) == len(workflow.steps) for workflow in workflows)


def results(root: Path) -> dict[str, object]:
    """Splits, and the number of epochs of every training."""
    splits = json.loads((root / "preprocessed" / "Dataset531_Head" / "splits_final.json").read_text())
    found: dict[str, object] = {"splits": splits}
    for file in sorted((root / "results").rglob("progress.json")):
        found["/".join(file.parts[-3:-1])] = json.loads(file.read_text())["epoch"]
    return found


def begun(root: Path) -> dict[str, int]:
    """Trainings -> how often their command was begun."""
    logs = sorted((root / "preprocessed").glob("*/workflow/logs/train_*.log"))
    return {log.stem: len(re.findall(r"^\$ env ", log.read_text(errors="replace"), flags=re.MULTILINE)) for log in logs}


def prove(proof: Proof) -> None:
    """All of it, or what is missing of it."""
    killed, whole = proof.folder / "killed", proof.folder / "whole"
    for root in (killed, whole):
        root.mkdir(parents=True, exist_ok=True)
    if not proof.said("SIGKILL of the training"):
        kill(proof, killed)
    for _ in range(3):
        left = [experiment for experiment in EXPERIMENTS if not _whole(killed, experiment)]
        if not left:
            break
        proof.say(f"the same command again: {', '.join(left)}")
        runs = {experiment: proof.begin(killed, experiment, *SLURM) for experiment in left}
        proof.until(lambda runs=runs: all(run.poll() is not None for run in runs.values()), minutes=60)
        proof.say(f"exit codes: {', '.join(f'{name} {run.returncode}' for name, run in runs.items())}")
    if not all_done(killed):
        raise SystemExit("not all steps are done")
    if not proof.said("all steps of both"):
        proof.say("all steps of both experiments are done")
    run = proof.begin(whole, "ours")
    proof.until(lambda: _trained(whole, "ours") or run.poll() is not None)
    run.send_signal(signal.SIGINT)
    run.wait()
    if not _trained(whole, "ours"):
        raise SystemExit("the uninterrupted trainings failed")
    proof.say("all trainings of the first experiment uninterrupted, on this machine without SLURM")


def kill(proof: Proof, root: Path) -> None:
    """Begin both experiments, kill the command of one and a training of the other, and wait for their ends."""
    words = ["phantom", str(proof.folder / "patients"), "--cases", "6", "--seed", "20", "--size", "tiny", "-np", "1"]
    subprocess.run([sys.executable, "-m", "nnunet_ext", *words], check=True, capture_output=True)
    proof.say("6 phantoms")
    runs = {experiment: proof.begin(root, experiment, *SLURM) for experiment in EXPERIMENTS}
    proof.say("both experiments begun at once on one data set, as jobs of SLURM")

    proof.until(lambda: training(root, "ours") is not None)
    name = training(root, "ours")[0]
    snakemake = json.loads((root / "workflow" / "ours" / "snakemake.json").read_text())["pid"]
    os.kill(runs["ours"].pid, signal.SIGKILL)
    os.kill(snakemake, signal.SIGKILL)
    runs["ours"].wait()
    proof.say(f"SIGKILL of the command of `ours` and of its Snakemake while {name} trained")
    runs["ours"] = proof.begin(root, "ours", *SLURM)
    proof.until(lambda: "another run makes it, which is waited for" in (root / "ours.log").read_text())
    proof.say("the same command at once: it waits for what trains")

    proof.until(lambda: training(root, "study") is not None)
    name, pid = training(root, "study")
    os.kill(pid, signal.SIGKILL)
    proof.say(f"SIGKILL of the training {name}")
    proof.until(lambda: all(run.poll() is not None for run in runs.values()), minutes=90)
    proof.say(f"exit codes: {', '.join(f'{experiment} {run.returncode}' for experiment, run in runs.items())}")
    failed = re.findall(r"^FAILED: (.*)$", (root / "study.log").read_text(), flags=re.MULTILINE)
    proof.say(f"said of it: {failed[0] if failed else 'nothing'}"[:300])


def _trained(root: Path, experiment: str) -> bool:
    workflow = planned(root, experiment)
    return workflow is not None and workflow.done().issuperset(
        step.name for step in workflow.steps if step.name.startswith("train_")
    )


def _whole(root: Path, experiment: str) -> bool:
    workflow = planned(root, experiment)
    return workflow is not None and {one.state for one in standings(workflow)} == {DONE}


def page(proof: Proof) -> str:
    killed, whole = (results(proof.folder / name) for name in ("killed", "whole"))
    often = begun(proof.folder / "killed")
    rows = [
        f"| {name.removeprefix('train_')} | {often[name]} | {killed[_key(name)]} | {whole.get(_key(name), '')} |"
        for name in often
    ]
    version = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=False).stdout.strip()
    memory_gb = psutil.virtual_memory().total / 1e9
    return PAGE.format(
        machine=f"{usable_cores()} cores, {memory_gb:.0f} GB, Python {platform.python_version()}, {version}",
        log="\n".join(line.replace(str(proof.folder), "FOLDER") for line in proof.lines),
        splits="the same" if killed["splits"] == whole["splits"] else "NOT the same",
        rows="\n".join(rows),
        epochs=EPOCHS,
    )


def _key(step: str) -> str:
    model, _, fold = step.removeprefix("train_").rpartition("_fold_")
    return f"{model}/fold_{fold}"


PAGE = """# Experiments as jobs of a cluster, killed and gone on with

`python tests/cluster_proof.py FOLDER results/cluster.md`, on {machine}, shared with other
work. Two experiments of two stages and two folds on six tiny phantoms, by trainings of {epochs} epochs of two iterations.
They share the data set, its plan and its preprocessed data. A SLURM of one node runs the jobs, those of trainings for a
minute at most.

```text
{log}
```

Splits of the interrupted and of the uninterrupted experiment: {splits}. The uninterrupted one is `ours` alone.

| training | times begun | epochs, interrupted | epochs, uninterrupted |
|---|---|---|---|
{rows}

A training is begun again after its time limit, and after SIGKILL. Its lease keeps a second job from beginning it meanwhile.
"""


def main(argv: Sequence[str]) -> None:
    folder, file = Path(argv[0]).resolve(), Path(argv[1]).resolve()
    environment = {**os.environ, "SLURM_TEST_DIR": str(folder / "slurm")}
    folder.mkdir(parents=True, exist_ok=True)
    proof = Proof(folder)
    subprocess.run([SCRIPT, "start"], env=environment, check=True)
    try:
        prove(proof)
    finally:
        subprocess.run(["scancel", "--me"], check=False)
        subprocess.run([SCRIPT, "stop"], env=environment, check=False)
    file.write_text(page(proof), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
