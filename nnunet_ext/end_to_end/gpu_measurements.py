"""Ten measurements of training and prediction on a GPU, each with what would be good, then a comparison with stock nnU-Net.

    python -m nnunet_ext.end_to_end.gpu_measurements OUT --minutes 9 --then-minutes 5
    python -m nnunet_ext.end_to_end.gpu_measurements OUT --device cpu --smallest        does it run? The figures say nothing

Every step is a command that a user would type. One that fails, or for which no time is left, says so in its row, and the
next is run. `OUT/gpu.md` and `OUT/gpu.json` hold the figures so far, `OUT/log.txt` what the commands said.
`results/gpu/run.sh` sets up a machine that has torch and no network, and starts this.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import MappingProxyType

import numpy as np
import SimpleITK as sitk

from nnunet_ext.end_to_end.demo import TRAINER, Demo
from nnunet_ext.files import read_json, write_json, written_whole
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER
from nnunet_ext.processes import KILL_WITH_PARENT

ID, NAME = 504, "GPU"
DATASET = f"Dataset{ID}_{NAME}"
#: Voxels of a planning CT, which give patches near 24 x 192 x 256.
SPACING_MM = (2.4, 0.464, 0.464)
PLANS, SHORT = "CascadeOARPlans", "Short"
N_TRAINING, N_TEST = 7, 3
LOCALIZER_BATCH = 4
#: What a GPU of 8 GB leaves to torch.
SMALL_GPU_GIB = 7.3
#: Seconds for all of the comparison but its trainings: conversion, plans, costs, starts of processes, scores. Estimated.
COMPARISON_SET_UP_S = 240.0
#: Less for each of the two says nothing.
COMPARISON_LEAST_S = 30.0
SMALLEST_MARK_MIN = 0.05
LAST_LINES = 5


@dataclass
class Figure:
    """A row of the table.

    Attributes:
        number: Of the measurement.
        what: Is measured.
        value: With its unit.
        good: What would be good.
        is_good: Whether it is. None if that was not asked for.
    """

    number: int
    what: str
    value: str
    good: str = ""
    is_good: bool | None = None


@dataclass
class Measuring:
    """One run: its folders, what it is run on, the figures so far, and the clock."""

    out: Path
    device: str
    smallest: bool
    #: The project's tests.
    tests: Path | None = None
    figures: list[Figure] = field(default_factory=list)
    #: Iterations per second of the segmenter, from measurement 2 on.
    segmenter_per_s: float | None = None

    def __post_init__(self) -> None:
        self.out = self.out.resolve()
        self.demo = Demo(self.out / "work")
        self.environment = {**self.demo.environment, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        if self.device == "cuda":  # as users train there, not as the demo does
            for name in {"nnUNet_n_proc_DA", "nnUNet_compile"} - set(os.environ):
                del self.environment[name]
        self.planner = "CascadeOARPlannerSmall" if self.smallest else "CascadeOARPlanner"
        self.iterations = 2 if self.smallest else 100
        self.preprocessed = Path(self.environment["nnUNet_preprocessed"], DATASET)
        self.results = Path(self.environment["nnUNet_results"], DATASET)
        self.raw = Path(self.environment["nnUNet_raw"], DATASET)

    def run(
        self, command: Sequence[str], *, timeout_s: float = 600.0, environment: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        """Run a command and return its output, which also goes to the log.

        Raises:
            RuntimeError: If it fails or takes too long, with its last lines.
        """
        try:
            done = subprocess.run(
                [self.demo.executable(command[0]), *command[1:]],
                cwd=self.out,
                env={**self.environment, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                preexec_fn=KILL_WITH_PARENT,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{' '.join(command)}: not done after {timeout_s:.0f} s") from error
        with (self.out / "log.txt").open("a") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}\n")
        if done.returncode:
            last = " / ".join(line.strip() for line in done.stdout.splitlines()[-LAST_LINES:])
            raise RuntimeError(f"{' '.join(command[:3])}: exit code {done.returncode}: {last}")
        return done.stdout

    def module(self, *arguments: str) -> list[str]:
        """The command of a part of this module in a process of its own."""
        return [sys.executable, "-m", "nnunet_ext.end_to_end.gpu_measurements", str(self.out), *arguments]

    def add(self, number: int, what: str, value: str, good: str = "", is_good: bool | None = None) -> None:
        """Note a figure, and write all of them."""
        self.figures.append(Figure(number, what, value, good, is_good))
        print(f"{number}. {what}: {value}{f'   (good: {good})' if good else ''}", flush=True)
        self.write()

    def write(self) -> None:
        """Write `gpu.md` and `gpu.json`."""
        write_json([asdict(figure) for figure in self.figures], self.out / "gpu.json")
        with written_whole(self.out / "gpu.md") as temporary:
            temporary.write_text(table(self.figures))

    def benchmark_train(self, configuration: str, plans: str = PLANS, **environment: str) -> dict:
        """The record of one configuration from `nnunet_ext benchmark train`."""
        folder = self.out / "work" / "benchmark"
        command = ["nnunet_ext", "benchmark", "train", "-d", str(ID), "-p", plans]
        command += ["-c", configuration, "-device", self.device, "--iterations", str(self.iterations), "--no-stock"]
        self.run([*command, "-o", str(folder)], environment=environment)
        return read_json(folder / "training.json")[0]

    def edited_plans(self, name: str, configuration: str, **entries: dict | int) -> None:
        """A plans file of another name in which a configuration's entries differ. Its data are those of `PLANS`."""
        file = self.preprocessed / f"{name}.json"
        plans = read_json(file if file.is_file() else self.preprocessed / f"{PLANS}.json")
        plans["plans_name"] = name
        entry = plans["configurations"][configuration]
        for key, value in entries.items():
            entry[key] = {**entry.get(key, {}), **value} if isinstance(value, dict) else value
        write_json(plans, file)


# ------------------------------------------------------------------------------------------ the measurements, in their order


def set_up(m: Measuring) -> None:
    """Ten phantoms through convert, plan and preprocess."""
    started = monotonic()
    cases, n = m.out / "work" / "cases", str(m.demo.n_processes)
    size = "tiny" if m.smallest else "small"
    n_cases = N_TRAINING + N_TEST
    m.run(["nnunet_ext", "phantom", str(cases), "--cases", str(n_cases), "--size", size, "-np", n])
    test = sorted(folder.name for folder in cases.iterdir() if folder.is_dir())[N_TRAINING:]
    convert = ["nnunet_ext", "convert", str(cases), "-d", str(ID), "-n", NAME, "--no-preview", "-np", n]
    m.run([*convert, "--test", *test])
    plan = ["nnUNetv2_plan_and_preprocess", "-d", str(ID), "-pl", m.planner, "-overwrite_plans_name", PLANS]
    plan += ["-c", "3d_lowres", "3d_fullres", "-npfp", n, "-np", n, n]
    m.run([*plan, *([] if m.smallest else ["-overwrite_target_spacing", *map(str, SPACING_MM)])])
    m.edited_plans(PLANS, LOCALIZER, batch_size=LOCALIZER_BATCH)
    m.add(
        1,
        "phantoms, convert, plan, preprocess",
        f"{monotonic() - started:.0f} s",
        "<= 120 s",
        monotonic() - started <= 120,
    )
    segmenter = read_json(m.preprocessed / f"{PLANS}.json")["configurations"][SEGMENTER]
    patch = " x ".join(map(str, segmenter["patch_size"]))
    m.add(1, "segmenter's patch and batch", f"{patch}, {segmenter['batch_size']}", "near 24 x 192 x 256")


def segmenter(m: Measuring) -> None:
    """Iterations per second without compilation."""
    record = m.benchmark_train(SEGMENTER, nnUNet_compile="f")
    m.segmenter_per_s = record["cached_per_s"]
    m.add(
        2,
        "segmenter, one batch repeated",
        f"{record['cached_per_s']:.2f} it/s",
        ">= 6 it/s",
        record["cached_per_s"] >= 6,
    )
    m.add(2, "segmenter, real data over that", f"{record['ratio']:.2f}", ">= 0.9", record["ratio"] >= 0.9)
    memory = [record[key] for key in ("gpu_reserved_mb", "gpu_allocated_mb")]
    if None not in memory:
        m.add(2, "segmenter, memory reserved and allocated", " and ".join(f"{mb / 1e3:.1f} GB" for mb in memory))


def compiled(m: Measuring) -> None:
    """The same with compilation."""
    before = (m.out / "log.txt").stat().st_size
    record = m.benchmark_train(SEGMENTER, nnUNet_compile="t", TORCH_LOGS="recompiles,graph_breaks")
    said = (m.out / "log.txt").read_bytes()[before:].decode(errors="replace")
    breaks = len(re.findall(r"Graph break", said))
    if m.segmenter_per_s:
        gain = record["cached_per_s"] / m.segmenter_per_s
        m.add(3, "compiled over not compiled", f"{gain:.2f}", ">= 1.2", gain >= 1.2)
    m.add(3, "graph breaks", str(breaks), "0", breaks == 0)
    m.add(3, "first step", f"{record['first_step_s']:.0f} s", "< 120 s", record["first_step_s"] < 120)


def workers(m: Measuring) -> None:
    """The same with all augmentation in the loader's processes."""
    m.edited_plans("Workers", SEGMENTER, recipe={"augmentation": "workers"})
    record = m.benchmark_train(SEGMENTER, plans="Workers", nnUNet_compile="f")
    m.add(
        4,
        "augmentation in the workers, real data",
        f"{record['real_per_s']:.2f} it/s",
        "above 1.1 times that of 2: workers",
    )


def small_gpu(m: Measuring) -> None:
    """Five steps with the memory of a GPU of 8 GB."""
    for batch in (3, 2):
        m.edited_plans(f"Batch{batch}", SEGMENTER, batch_size=batch)
        said = m.run(m.module("--device", m.device, "--steps", f"Batch{batch}"), environment={"nnUNet_compile": "f"})
        value = said.strip().splitlines()[-1]
        m.add(5, f"{SMALL_GPU_GIB} GiB, batch {batch}", value, "no out of memory", "out of memory" not in value)


def localizer(m: Measuring) -> None:
    """Iterations per second and memory of the localizer."""
    record = m.benchmark_train(LOCALIZER, nnUNet_compile="f")
    m.add(
        6,
        "localizer, one batch repeated",
        f"{record['cached_per_s']:.1f} it/s",
        ">= 12 it/s",
        record["cached_per_s"] >= 12,
    )
    if record["gpu_reserved_mb"] is not None:
        gb = record["gpu_reserved_mb"] / 1e3
        m.add(6, "localizer, memory reserved", f"{gb:.1f} GB", "< 5 GB", gb < 5)


def two_epochs(m: Measuring) -> None:
    """Both stages as a user trains them, for two short epochs, and their validation."""
    short = {"num_epochs": 2, "iterations_per_epoch": 2 if m.smallest else 60, "val_iterations_per_epoch": 2}
    for configuration in (LOCALIZER, SEGMENTER):
        m.edited_plans(SHORT, configuration, training=short)
    for configuration in (LOCALIZER, SEGMENTER):
        command = ["nnUNetv2_train", str(ID), configuration, "0", "-tr", TRAINER, "-p", SHORT, "-device", m.device]
        m.run(command, environment={"nnUNet_compile": "f"})
        folder = m.results / f"{TRAINER}__{SHORT}__{configuration}" / "fold_0"
        log = max(folder.glob("training_log*.txt")).read_text()
        times = log_times(log)
        if m.segmenter_per_s and configuration == SEGMENTER:
            share = times["between_epochs_s"] / (250 / m.segmenter_per_s)
            m.add(7, "between two epochs, of 250 iterations", f"{100 * share:.0f} %", "< 10 %", share < 0.1)
        each = times["validation_s"] / max(1, times["validated"])
        m.add(7, f"{configuration}, validation", f"{each:.1f} s a case", "< 5 s", each < 5)


def prediction(m: Measuring) -> None:
    """Seconds a case."""
    folder = m.out / "work" / "prediction"
    command = ["nnunet_ext", "benchmark", "predict", "-d", str(ID), "-p", SHORT, "-f", "0", "-device", m.device]
    m.run([*command, "--cases", "2" if m.smallest else "3", "--no-stock", "-o", str(folder)])
    ours = next(s for s in read_json(folder / "prediction.json")["systems"] if s["system"].startswith("nnunet_ext"))
    m.add(8, "predict, each later case", f"{ours['later_s']:.1f} s", "< 3 s", ours["later_s"] < 3)
    records = read_json(folder / "predicted" / "0" / "predictions.json")["cases"]
    networks = float(np.mean([records[case]["segment_s"] for case in sorted(records)[1:]]))
    m.add(8, "networks of a later case", f"{networks:.2f} s", "< 1.5 s", networks < 1.5)


def against_cpu(m: Measuring) -> None:
    """One case on this device and on the CPU in 32 bits."""
    images = m.out / "work" / "one_case"
    images.mkdir(exist_ok=True)
    case = sorted((m.raw / "imagesTs").glob("*_0000.nii.gz"))[0].name.removesuffix("_0000.nii.gz")
    for file in (m.raw / "imagesTs").glob(f"{case}_*"):
        (images / file.name).unlink(missing_ok=True)
        (images / file.name).symlink_to(file)
    command = ["nnunet_ext", "predict", "-d", str(ID), "-p", SHORT, "-f", "0", "-i", str(images)]
    masks = []
    for name, options in (("here", ["-device", m.device]), ("cpu", ["-device", "cpu", "--full-precision"])):
        out = m.out / "work" / f"masks_{name}"
        m.run([*command, "-o", str(out), "--overwrite", *options], environment={"OMP_NUM_THREADS": str(os.cpu_count())})
        masks.append(out / f"{case}.nii.gz")
    here, cpu = (sitk.GetArrayFromImage(read_label_map(file)) for file in masks)
    organ = int((here > 0).sum() + (cpu > 0).sum())
    dsc = 200 * int(((here == cpu) & (here > 0)).sum()) / organ if organ else float("nan")
    m.add(
        9,
        f"same case on {m.device} and on the CPU in 32 bits, {organ // 2} organ voxels",
        f"DSC {dsc:.2f} %",
        ">= 99.5 %",
        dsc >= 99.5,
    )


def gpu_tests(m: Measuring) -> None:
    """The tests that need a GPU."""
    if m.tests is None:
        m.add(10, "tests for GPUs", "not run: --tests names no folder")
        return
    command = [sys.executable, "-m", "pytest", "-q", str(m.tests / "trainers"), "-p", "no:cacheprovider"]
    last = m.run([*command, "-k", "GPU or NCCL or on_a_gpu_augments"]).strip().splitlines()[-1]
    m.add(10, "tests for GPUs", last, "none fails", "failed" not in last)


#: Number, what it is, seconds that must be left, and the measurement.
MEASUREMENTS: tuple[tuple[int, str, float, Callable[[Measuring], None]], ...] = (
    (1, "set-up", 0.0, set_up),
    (2, "segmenter", 45.0, segmenter),
    (3, "segmenter, compiled", 90.0, compiled),
    (4, "augmentation in the workers", 40.0, workers),
    (5, "memory of a GPU of 8 GB", 40.0, small_gpu),
    (6, "localizer", 40.0, localizer),
    (7, "two epochs and the validation", 90.0, two_epochs),
    (8, "prediction", 45.0, prediction),
    (9, "against the CPU", 60.0, against_cpu),
    (10, "tests for GPUs", 60.0, gpu_tests),
)


def measure(m: Measuring, seconds: float) -> None:
    """All measurements in their order, as far as the time reaches."""
    started = monotonic()
    for number, title, needed_s, measurement in MEASUREMENTS:
        left_s = seconds - (monotonic() - started)
        if left_s < needed_s:
            m.add(number, title, f"not run: {max(0.0, left_s):.0f} s were left, it may take {needed_s:.0f}")
            continue
        try:
            measurement(m)
        except Exception as error:  # the others are measured
            m.add(number, title, f"failed: {error}".replace("\n", " ").replace("|", "/"), is_good=False)
            if number == 1:
                return


def compare(m: Measuring, seconds: float) -> None:
    """The planner's cascade and stock nnU-Net, trained for equal time on the phantoms of measurement 1."""
    title = "cascade and stock nnU-Net at equal time"
    each_s = (seconds - COMPARISON_SET_UP_S) / 2
    if each_s < COMPARISON_LEAST_S:
        m.add(11, title, f"not run: {max(0.0, seconds):.0f} s were left")
        return
    mark_min = SMALLEST_MARK_MIN if m.smallest else round(each_s / 60, 2)
    folder = m.out / "work" / "comparison"
    command = ["nnunet_ext", "benchmark", "learning", "-i", str(m.out / "work" / "cases"), "--name", "phantoms"]
    command += ["--train", str(N_TRAINING), "--test", str(N_TEST), "--device", m.device, "--planner", m.planner]
    command += ["--only", "default", "stock", "--marks", f"{mark_min:g}", "-np", str(m.demo.n_processes)]
    try:
        said = m.run([*command, "-o", str(folder), "--runs", str(folder / "runs")], timeout_s=seconds)
    except RuntimeError as error:
        m.add(11, title, f"failed: {error}".replace("\n", " ").replace("|", "/"), is_good=False)
        return
    rows = [line for line in said.splitlines() if line.startswith(("|", "n = "))]
    (m.out / "comparison.md").write_text("\n".join(rows) + "\n")
    m.add(11, title, f"{mark_min:g} min each: comparison.md")


# ------------------------------------------------------------------------------------------ parts


def steps_within(out: Path, plans: str, device: str) -> str:
    """Five training steps of the segmenter with no more memory than `SMALL_GPU_GIB`. Run in a process of its own."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    chip = torch.device(device)
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, SMALL_GPU_GIB * 2**30 / total))
    trainer = get_trainer_from_args(str(ID), SEGMENTER, 0, TRAINER, plans, device=chip)
    trainer.disable_checkpointing = True
    try:
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        for _ in range(5):
            trainer.train_step(next(trainer.dataloader_train))
    except torch.OutOfMemoryError:
        return "out of memory"
    finally:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()
    if device != "cuda":
        return "five steps"
    return f"five steps, {torch.cuda.max_memory_reserved() / 2**30:.2f} GiB reserved"


def log_times(log: str) -> dict[str, float]:
    """Seconds between two epochs (checkpoints, pictures) and of the final validation, from a training's log.

    Args:
        log: Text of nnU-Net's `training_log_*.txt`.
    """
    between, validated, ended = 0.0, [], None
    epoch_ended = None
    for line in log.splitlines():
        at, _, text = line.partition(": ")
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            continue
        if text.startswith("train_loss"):
            epoch_ended = moment
        elif text.startswith("Epoch ") and not text.startswith("Epoch time") and epoch_ended is not None:
            between, epoch_ended = (moment - epoch_ended).total_seconds(), None
        elif text.startswith("predicting "):
            validated.append(moment)
        elif text.startswith("Validation complete"):
            ended = moment
    seconds = (ended - validated[0]).total_seconds() if ended and validated else float("nan")
    return {"between_epochs_s": between, "validation_s": seconds, "validated": len(validated)}


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown."""
    words = {None: "", True: "yes", False: "**no**"}
    lines = ["| | what | value | good | |", "|---|---|---|---|---|"]
    lines += [f"| {f.number} | {f.what} | {f.value} | {f.good} | {words[f.is_good]} |" for f in figures]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--smallest", action="store_true", help="tiny phantoms and networks, two iterations")
    parser.add_argument("--minutes", type=float, default=9.0, metavar="M", help="for the measurements (default 9)")
    parser.add_argument(
        "--then-minutes", type=float, default=0.0, metavar="M", help="for the comparison with stock nnU-Net"
    )
    parser.add_argument("--tests", type=lambda text: Path(text).resolve(), metavar="DIR", help="the project's tests")
    parser.add_argument("--steps", metavar="PLANS", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    if a.steps:
        print(steps_within(a.out, a.steps, a.device))
        return 0
    a.out.mkdir(parents=True, exist_ok=True)
    m = Measuring(a.out, a.device, a.smallest, a.tests)
    started = monotonic()
    measure(m, 60 * a.minutes)
    set_up_failed = m.figures[0].value.startswith("failed")
    if a.then_minutes and not set_up_failed:  # the time that the measurements have left over is used, too
        compare(m, 60 * (a.minutes + a.then_minutes) - (monotonic() - started))
    print(json.dumps({"figures": len(m.figures), "not good": sum(f.is_good is False for f in m.figures)}))
    return int(any(f.value.startswith("failed") for f in m.figures))


if __name__ == "__main__":
    sys.exit(main())
