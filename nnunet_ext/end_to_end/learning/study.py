"""Folders, settings and processes of one study of learning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from nnunet_ext.end_to_end.demo import PLANNER, Demo
from nnunet_ext.end_to_end.learning.systems import System, slug
from nnunet_ext.files import read_json, write_json
from nnunet_ext.processes import KILL_WITH_PARENT, processor_name

#: nnU-Net's number and name of the data, and of those with left and right as one label.
ID, MERGED_ID, NAME, MERGED_NAME = 511, 512, "Learning", "LearningMerged"
CPU = "cpu"
#: nnU-Net's variable for the number of loader processes.
LOADERS = "nnUNet_n_proc_DA"
SETTINGS_FILE, DATA_FILE = "study.json", "data.json"


@dataclass(frozen=True)
class Settings:
    """The data of a study. A folder holds one study, and a later command must say the same.

    Attributes:
        data: Name of the data, for files and tables.
        cases: Folder of case folders.
        train_people, test_people: People to train on and to score. Empty if cases are counted.
        n_train, n_test: Numbers of cases instead.
        modalities: Channels.
        planner: Of the cascade.
        device: `cpu` or `cuda`. On a GPU costs are seconds of the clock, and one training at a time has it to itself.
    """

    data: str
    cases: str
    train_people: tuple[str, ...] = ()
    test_people: tuple[str, ...] = ()
    n_train: int | None = None
    n_test: int | None = None
    modalities: tuple[str, ...] = ("CT", "T1", "T2")
    planner: str = PLANNER
    device: str = CPU


class Study:
    """Where everything lies, and how a step is run in a process of its own with one thread.

    Args:
        out: Folder of data, trainings and predictions.
        runs: Folder of the records, which are kept.
        settings: None reads those of an earlier command.
    """

    def __init__(self, out: Path, runs: Path, settings: Settings | None = None) -> None:
        self.out, self.runs = Path(out).resolve(), Path(runs).resolve()
        for folder in (self.out, self.runs, self.out / "locks", self.out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.settings = self._agreed(settings)
        self.data = self.settings.data
        self.plans_name = self.settings.planner.replace("Planner", "Plans")
        self.finer_plans_name = f"{self.plans_name}Finer"

    def _agreed(self, settings: Settings | None) -> Settings:
        file = self.out / SETTINGS_FILE
        with FileLock(self.out / "locks" / "settings.lock"):
            if not file.is_file():
                if settings is None:
                    raise ValueError(f"{self.out} holds no study yet: say which cases are to be trained on and scored")
                write_json(asdict(settings), file)
            content = read_json(file)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        there = Settings(**values)
        if settings is not None and settings != there:
            wrong = [k for k, v in asdict(settings).items() if v != getattr(there, k)]
            raise ValueError(f"{self.out} holds a study with another {', '.join(wrong)}; use another folder (-o)")
        return there

    # --- folders -----------------------------------------------------------------------------------------------------

    def dataset(self, merged: bool = False) -> str:
        return f"Dataset{MERGED_ID}_{MERGED_NAME}" if merged else f"Dataset{ID}_{NAME}"

    def raw(self, merged: bool = False) -> Path:
        return self.out / "nnUNet_raw" / self.dataset(merged)

    def preprocessed(self, merged: bool = False) -> Path:
        return self.out / "nnUNet_preprocessed" / self.dataset(merged)

    def results(self, merged: bool = False) -> Path:
        return self.out / "nnUNet_results" / self.dataset(merged)

    def splits_file(self, merged: bool = False) -> Path:
        return self.preprocessed(merged) / "splits_final.json"

    def lock(self, name: str) -> FileLock:
        """Held while something is made, so that commands in one folder may run side by side."""
        return FileLock(self.out / "locks" / f"{name}.lock")

    @property
    def costs_file(self) -> Path:
        return self.runs / f"costs_{slug(self.data)}.json"

    def record_file(self, name: str, minutes: float, seed: int, *, true_boxes: bool = False) -> Path:
        boxes = "_true_boxes" if true_boxes else ""
        return self.runs / f"{slug(self.data)}_{slug(name)}_{minutes:g}_seed{seed}{boxes}.json"

    def data_sha256(self) -> str:
        return read_json(self.out / DATA_FILE)["sha256"]

    # --- processes ---------------------------------------------------------------------------------------------------

    @property
    def on_gpu(self) -> bool:
        return self.settings.device != CPU

    def environment(self) -> dict[str, str]:
        """Of all steps. On a CPU the one thread of a training also augments, so that its time counts.

        On a GPU a training has as many loader processes as nnU-Net gives it, or as the user's `nnUNet_n_proc_DA` says. No
        network is compiled, which would take longer than a short mark.
        """
        environment = {
            **Demo(self.out).environment,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
            LOADERS: "0",
            "MPLBACKEND": "Agg",
        }
        if self.on_gpu:
            del environment[LOADERS]
            environment |= {name: value for name, value in os.environ.items() if name == LOADERS}
        return environment

    def apart(self, task: str, **options: object) -> None:
        """Run a task of `worker.TASKS` in a process of its own.

        Raises:
            RuntimeError: If it fails, with its last lines and its log.
        """
        name = "_".join([task, *(slug(f"{value}") for value in options.values() if value is not None)])[:100]
        log = self.out / "logs" / f"{name}.log"
        module = [sys.executable, "-m", "nnunet_ext.end_to_end.learning.worker"]
        # On a GPU the clock counts, so nothing else of the study runs there meanwhile.
        with self.lock("device") if self.on_gpu else nullcontext(), log.open("a") as stream:
            done = subprocess.run(
                [*module, str(self.out), str(self.runs), task, json.dumps(options)],
                env=self.environment(),
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=self.out,
                check=False,
                preexec_fn=KILL_WITH_PARENT,
            )
        if done.returncode:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise RuntimeError(f"{task} {options} failed (exit code {done.returncode}); log: {log}\n{last}")


def training_name(name: str, seed: int, minutes: float | None) -> str:
    """Name of a training, and of its plans: the trunk without minutes, else the branch or the run of a mark."""
    return f"{slug(name)}_seed{seed}_{'trunk' if minutes is None else f'{minutes:g}min'.replace('.', '_')}"


def model_folder(study: Study, system: System, training: str) -> Path:
    """nnU-Net's folder of a training."""
    return study.results(system.merged) / f"{trainer_name(system)}__{training}__{system.configuration}"


def branch_file(folder: Path, epoch: int) -> Path:
    """Checkpoint of a trunk after so many epochs. `folder` is that of the fold."""
    return folder / f"branch_{epoch}.pth"


def trainer_name(system: System) -> str:
    """Name of the class in `trainers`."""
    if system.stock_trainer:
        return "StockTrainerMirroring" if system.mirrors else "StockTrainer"
    return "CascadeOARTrainerReference" if system.reference else "CascadeOARTrainer"


def machine() -> str:
    """Processor and number of cores."""
    return f"{processor_name()}, {os.cpu_count()} cores"


def device_name(device: str) -> str:
    """`cpu`, or the name of the GPU. It stands in records, because times of two devices can't be compared.

    Raises:
        ValueError: If there is no GPU that torch can use.
    """
    if device == CPU:
        return CPU
    import torch

    if not torch.cuda.is_available():
        raise ValueError("there is no GPU that torch can use; without --device the study runs on the CPU")
    return torch.cuda.get_device_name()


def commit(folder: Path | None = None) -> str | None:
    """Commit of the checkout that a command is run in, with `-dirty` if files differ. None outside of a checkout."""
    command: Sequence[str] = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
