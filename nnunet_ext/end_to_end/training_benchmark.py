"""Iterations per second of a training with real data and with one batch repeated.

The two numbers tell whether the network or the loading of data limits it.

    nnunet_ext benchmark train -d 501 -p CascadeOARPlans

Every configuration is measured in a process of its own, as `nnUNetv2_train` would set it up, next to stock nnU-Net's
`3d_fullres`. Nothing is written to `nnUNet_results`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from nnunet_ext.end_to_end.demo import PLANNER, TRAINER, Demo
from nnunet_ext.end_to_end.demo import PLANS as SMALL_PLANS
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.processes import memory_mb, run_command

CONFIGURATIONS = ("3d_lowres", "3d_cascade_fullres")
STOCK = ("nnUNetTrainer", "nnUNetPlans", "3d_fullres")
#: Of the phantoms that are measured if no data set is given.
PHANTOM_ID, PHANTOM_NAME, N_PHANTOMS = 505, "Benchmark", 5
#: Never fewer. The first compiles where nnU-Net compiles, and tries cuDNN's algorithms. That says nothing about the next.
WARM_UP_ITERATIONS = 3
#: A phase of slow iterations ends after the one that passes this.
LONGEST_PHASE_S = 60.0
#: The rate is the median over this many parts of a phase: a part holds whole waits for the loader, the median drops hiccups.
N_PARTS = 5


@holding(owned_folder, "out")
def benchmark_train(
    dataset_id: int | None = None,
    *,
    plans: str | None = None,
    configurations: Sequence[str] = CONFIGURATIONS,
    device: str | None = None,
    iterations: int = 20,
    n_threads: int | None = None,
    stock: bool = True,
    out: Path = Path("benchmark"),
) -> str:
    """Measure the training of some configurations and of stock nnU-Net. Returns the table, in Markdown.

    Args:
        dataset_id: A preprocessed data set. None makes phantoms in `out`, with the planner for small machines.
        plans: CascadeOARPlans if None, for phantoms CascadeOARPlansSmall.
        configurations: Trained by `CascadeOARTrainer`.
        device: `cuda`, `cpu` or `mps`. None takes the GPU if there is one.
        iterations: Timed with each of the two kinds of data, after a warm-up.
        n_threads: Torch's threads on the CPU. None takes one per core, as `nnUNetv2_train` does.
        stock: Also measure stock nnU-Net. It is planned and preprocessed into `nnUNet_preprocessed` if it is not yet.
        out: Folder for `training.md` and `training.json`.

    Raises:
        ValueError: If plans or preprocessed data are missing.
        RuntimeError: If a measurement fails, with its last lines.
    """
    import torch

    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    demo = Demo(out)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu":  # the demo spares small machines and short trainings, `nnUNetv2_train` does not
        for name in {"nnUNet_n_proc_DA", "nnUNet_compile"} - set(os.environ):
            del demo.environment[name]
    if dataset_id is None:
        dataset_id, plans = PHANTOM_ID, plans or SMALL_PLANS
        _make_phantoms(demo, dataset_id)
    else:
        demo.environment |= {k: v for k, v in os.environ.items() if k.startswith("nnUNet_")}
    plans = plans or "CascadeOARPlans"
    wanted = [(TRAINER, plans, configuration) for configuration in configurations]
    preprocessed = Path(demo.environment["nnUNet_preprocessed"])
    folder = next(iter(sorted(preprocessed.glob(f"Dataset{dataset_id:03d}_*"))), None)
    if folder is None or not (folder / f"{plans}.json").is_file():
        raise ValueError(
            f"no {plans}.json for data set {dataset_id} in {preprocessed}. First: nnUNetv2_plan_and_preprocess "
            f"-d {dataset_id} -pl {plans.replace('Plans', 'Planner')}"
        )
    if stock:
        if not (folder / f"{STOCK[1]}_{STOCK[2]}").is_dir():
            command = [
                "nnUNetv2_plan_and_preprocess",
                "-d",
                str(dataset_id),
                "-c",
                STOCK[2],
                "-pl",
                "ExperimentPlanner",
            ]
            command += ["-npfp", str(demo.n_processes), "-np", str(demo.n_processes)]
            demo.step("Plan and preprocess stock nnU-Net", command)
        wanted.append(STOCK)
    records = []
    for trainer, plan, configuration in wanted:
        print(f"{trainer} {plan} {configuration} ...", flush=True)
        records.append(
            _measure_apart(
                demo,
                dataset_id=dataset_id,
                trainer=trainer,
                plans=plan,
                configuration=configuration,
                device=device,
                iterations=iterations,
                n_threads=n_threads,
            )
        )
    text = table(records)
    (out / "training.md").write_text(text + "\n")
    (out / "training.json").write_text(json.dumps(records, indent=1) + "\n")
    return text


def _make_phantoms(demo: Demo, dataset_id: int) -> None:
    phantoms, n = str(demo.out / "phantoms"), str(min(2, demo.n_processes))
    make = ["nnunet_ext", "phantom", phantoms, "--cases", str(N_PHANTOMS), "--size", "tiny", "-np", n]
    demo.step(f"Make {N_PHANTOMS} phantoms", make)
    convert = ["nnunet_ext", "convert", phantoms, "-d", str(dataset_id), "-n", PHANTOM_NAME, "--no-preview", "-np", n]
    demo.step("Convert them", convert)
    plan = ["nnUNetv2_plan_and_preprocess", "-d", str(dataset_id), "-pl", PLANNER, "-npfp", n, "-np", n, n]
    demo.step("Plan and preprocess", [*plan, "-c", "3d_fullres", "3d_lowres"])


def _measure_apart(demo: Demo, **options: object) -> dict:
    """The record of one configuration, from a process of its own with a results folder that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "record.json")
        run_command(
            [sys.executable, "-m", "nnunet_ext.end_to_end.training_benchmark", json.dumps(options), str(result)],
            environment={**demo.environment, "nnUNet_results": scratch},
            folder=Path(scratch),
            failed=f"{options['trainer']} {options['plans']} {options['configuration']} failed",
        )
        return json.loads(result.read_text())


# ------------------------------------------------------------------------------------------ in a measurement's own process


def measure(
    *,
    dataset_id: int,
    trainer: str,
    plans: str,
    configuration: str,
    device: str,
    iterations: int,
    n_threads: int | None,
) -> dict:
    """Iterations per second, processor time and memory of one training."""
    import torch
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    chip = torch.device(device)
    set_up_torch(chip.type, n_threads, torch)
    split = Path(nnUNet_preprocessed, maybe_convert_to_dataset_name(dataset_id), "splits_final.json")
    fold = 0 if split.is_file() else "all"  # fold 0 would write the file
    training = get_trainer_from_args(str(dataset_id), configuration, fold, trainer, plans, device=chip)
    training.disable_checkpointing = True
    training.on_train_start()
    training.on_train_epoch_start()
    loader = training.dataloader_train
    workers = getattr(loader, "_processes", [])
    generator = loader.generator if workers else loader.data_loader

    def step(batch: dict) -> None:
        training.train_step(batch)
        if chip.type == "cuda":
            torch.cuda.synchronize()

    batch = next(loader)
    on_device = getattr(training, "device_transforms", None)
    if on_device is not None:
        from nnunet_ext.training.augmentation import augment_batch

        batch, training.device_transforms = augment_batch(batch, on_device, chip), None
    warm_up = timed_steps(lambda: step(batch), WARM_UP_ITERATIONS, at_least=WARM_UP_ITERATIONS)
    cpu = process_time()
    cached = timed_steps(lambda: step(batch), iterations)
    network_cpu_s = (process_time() - cpu) / len(cached)
    if on_device is not None:
        training.device_transforms = on_device
    for _ in range(2 * getattr(loader, "num_cached", 0)):  # batches made while the loader waited would flatter it
        next(loader)
    step(next(loader))
    real = timed_steps(lambda: step(next(loader)), iterations)
    others = [*workers, *getattr(training.dataloader_val, "_processes", [])]
    used_mb = memory_mb([os.getpid(), *(process.pid for process in others)])
    n_workers = len(workers)
    if workers:
        loader._finish()
    with torch.no_grad():
        next(generator)
        cpu = process_time()
        loading = timed_steps(lambda: next(generator), iterations)
    return {
        "trainer": trainer,
        "plans": plans,
        "configuration": configuration,
        "device": torch.cuda.get_device_name(chip) if chip.type == "cuda" else f"{chip.type}, {platform.processor()}",
        "augmentation": "device" if on_device is not None else "workers",
        "patch_size": [int(n) for n in training.configuration_manager.patch_size],
        "batch_size": training.batch_size,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "workers": n_workers,
        "iterations": [len(cached), len(real)],
        "cached_per_s": rate(cached),
        "real_per_s": rate(real),
        "ratio": rate(real) / rate(cached),
        "network_cpu_s": network_cpu_s,
        "loader_cpu_s": (process_time() - cpu) / len(loading),
        "memory_mb": used_mb,
        "first_step_s": warm_up[0],
        **(
            gpu_memory_mb(chip, torch.cuda)
            if chip.type == "cuda"
            else {"gpu_reserved_mb": None, "gpu_allocated_mb": None}
        ),
    }


def set_up_torch(device: str, n_threads: int | None, torch: Any) -> None:
    """Threads, and the choice of convolution algorithms, as `nnUNetv2_train` sets them (nnU-Net 2.8, `run_training.py`).

    Args:
        device: `cuda`, `cpu` or `mps`.
        n_threads: On the CPU, instead of one per core.
        torch: The module.
    """
    if device == "cpu":
        torch.set_num_threads(n_threads or os.cpu_count() or 1)
    elif device == "cuda":
        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True


def gpu_memory_mb(chip: Any, cuda: Any) -> dict[str, float]:
    """Most memory so far, in MB of 1,000,000 bytes: all that torch took from the GPU, and the part that tensors filled.

    The first must fit onto the GPU.
    """
    return {
        "gpu_reserved_mb": cuda.max_memory_reserved(chip) / 1e6,
        "gpu_allocated_mb": cuda.max_memory_allocated(chip) / 1e6,
    }


def timed_steps(
    do: Callable[[], object],
    iterations: int,
    *,
    longest_s: float = LONGEST_PHASE_S,
    at_least: int = 1,
    clock: Callable[[], float] = perf_counter,
) -> list[float]:
    """Seconds of each repetition. After `longest_s`, no further one is begun that goes beyond `at_least`."""
    seconds: list[float] = []
    while len(seconds) < iterations and (sum(seconds) < longest_s or len(seconds) < at_least):
        start = clock()
        do()
        seconds.append(clock() - start)
    return seconds


def rate(seconds: Sequence[float]) -> float:
    """Iterations per second, the median over `N_PARTS` parts of the run."""
    return median(len(part) / sum(part) for part in _parts(seconds))


def _parts(seconds: Sequence[float]) -> Iterator[Sequence[float]]:
    n = min(N_PARTS, len(seconds))
    for i in range(n):
        yield seconds[i * len(seconds) // n : (i + 1) * len(seconds) // n]


def table(records: Sequence[Mapping]) -> str:
    """Markdown with a row per configuration."""
    lines = [
        "| training | patch, batch | cached it/s | real it/s | real / cached | CPU s per iteration | CPU s to load a batch "
        "| memory MB | GPU memory MB |",
        "|---" * 9 + "|",
    ]
    for r in records:
        patch = "x".join(str(n) for n in r["patch_size"])
        memory = "" if r["memory_mb"] is None else f"{r['memory_mb']:.0f}"
        on_gpu = "" if r["gpu_reserved_mb"] is None else f"{r['gpu_reserved_mb']:.0f} ({r['gpu_allocated_mb']:.0f})"
        lines.append(
            f"| {r['trainer']} {r['configuration']} | {patch}, {r['batch_size']} | {r['cached_per_s']:.2f} | "
            f"{r['real_per_s']:.2f} | {r['ratio']:.2f} | {r['network_cpu_s']:.3f} | {r['loader_cpu_s']:.3f} | {memory} | "
            f"{on_gpu} |"
        )
    first = records[0]
    where = f"{first['cores']} cores, {first['threads']} threads, {first['workers']} loader processes"
    lines += [
        "",
        f"{first['device'].rstrip(', ')}; {where}. Cached: one batch repeated. CPU s: processor time, whatever else the "
        "machine does. Memory: the training and its loader processes, shared pages counted once, at the end. "
        "GPU memory: the most that torch took of it, in brackets the most that tensors filled.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one configuration, options as JSON, into a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("options", type=json.loads)
    parser.add_argument("result", type=Path)
    a = parser.parse_args(argv)
    a.result.write_text(json.dumps(measure(**a.options)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
