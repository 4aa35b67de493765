"""Measures what an iteration costs. Run in a process of its own, with one thread of the CPU."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.helpers import empty_cache

from nnunet_ext.end_to_end.learning.courses import Costs, Course, epoch_length
from nnunet_ext.end_to_end.learning.study import CPU, Study, device_name, machine
from nnunet_ext.end_to_end.learning.systems import (
    DEFAULT,
    LOCALIZERS,
    MOST_TIMES_OURS,
    SYSTEMS,
    system_of,
)
from nnunet_ext.end_to_end.learning.training import dataset_json, make_trainer, plans_of
from nnunet_ext.files import first_line, read_json, write_json
from nnunet_ext.training.recipe import TrainingRecipe
from nnunet_ext.training.schedule import TrainingSchedule

#: Iterations timed, after as many that warm up.
TIMED, WARM_UP = 4, 2
#: Iterations of systems whose augmentation takes long in few of them. Their mean is the cost, a median would miss it.
TIMED_UNEVEN = 24
#: On a GPU. The warm-up uses up the loader processes' head start.
TIMED_GPU = 25
#: GPU memory targets that stock with small patches may be planned for, in GB. Iterations of the least are timed first.
MEMORY_TARGETS_GB = (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
#: Of a training that is only timed.
TIMING = Course(num_epochs=10**6, branch_epoch=1, epoch_iterations=25, val_iterations=4)

Clock = Callable[[], float]


def in_turns(
    trainers: Sequence[nnUNetTrainer],
    *,
    timed: int = TIMED,
    warm_up: int = WARM_UP,
    clock: Clock = process_time,
    average: Callable[[Sequence[float]], float] = median,
) -> list[tuple[float, float]]:
    """Average seconds of an iteration and of a validation iteration, per trainer. The trainers take turns.

    So what else the machine does meets all of them.

    Args:
        trainers: Not initialised yet. They are not to be trained afterwards.
        timed, warm_up: Iterations of each.
        clock: Its seconds are those of the result.
        average: Of the seconds.
    """
    for trainer in trainers:
        trainer.disable_checkpointing = True
        trainer.on_train_start()
        trainer.on_train_epoch_start()
    train_s: list[list[float]] = [[] for _ in trainers]
    val_s: list[list[float]] = [[] for _ in trainers]
    for _ in range(warm_up + timed):
        for seconds, trainer in zip(train_s, trainers, strict=True):
            started = clock()
            trainer.train_step(next(trainer.dataloader_train))
            seconds.append(clock() - started)
    for trainer in trainers:
        trainer.network.eval()
    for _ in range(2):
        for seconds, trainer in zip(val_s, trainers, strict=True):
            started = clock()
            with torch.no_grad():
                trainer.validation_step(next(trainer.dataloader_val))
            seconds.append(clock() - started)
    for trainer in trainers:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()
    return [(average(t[warm_up:]), average(v[1:])) for t, v in zip(train_s, val_s, strict=True)]


def costs_of(
    study: Study, *trainers: Callable[[], nnUNetTrainer], timed: int, warm_up: int, uneven: bool = False
) -> list[tuple[float, float]]:
    """Seconds of an iteration and of a validation iteration, per trainer.

    On a CPU they take turns and processor time counts. On a GPU the clock counts, and each has the GPU to itself, because
    the loader processes of one would work during the steps of the other. They work in bursts, so it is the mean.

    Args:
        study: The study.
        trainers: Make them.
        timed, warm_up: Iterations of each on a CPU.
        uneven: Iterations differ in what they cost, so on a CPU it is the mean of `TIMED_UNEVEN` too.
    """
    if not study.on_gpu:
        timed, average = (TIMED_UNEVEN, mean) if uneven else (timed, median)
        return in_turns([make() for make in trainers], timed=timed, warm_up=warm_up, average=average)
    costs = []
    for make in trainers:
        costs += in_turns([make()], timed=TIMED_GPU, warm_up=TIMED_GPU, clock=perf_counter, average=mean)
        gc.collect()
        empty_cache(torch.device(study.settings.device))
    return costs


def measure(study: Study, *, names: Sequence[str], marks_min: Sequence[float]) -> None:
    """Add the costs of systems that are not in the file yet. Those that are there stay, because marks rest on them.

    A system's cost is measured together with the default's, and is given relative to the first measurement of that one.

    Args:
        study: The study.
        names: Of systems. Their localizers are measured too.
        marks_min: Core minutes. The shortest mark decides how long an epoch is.
    """
    torch.set_num_threads(1)
    content = _begun(study, marks_min)
    localizers = [system_of(name).localizer for name in names]
    wanted = list(dict.fromkeys([DEFAULT, *(name for name in localizers if name is not None), *names]))
    for name in wanted:
        entry = content["systems"].get(name)
        if entry is not None and "not_built" not in entry:
            continue
        if system_of(name).small_patches and content.get("stock_memory_gb") is None:
            content["stock_memory_gb"] = _memory_for_small_patches(study)
        if problem := problem_of(study, name, content.get("stock_memory_gb")):
            content["systems"][name] = {"not_built": problem}
        else:
            content["systems"][name] = _entry(study, name, content)
        print(f"{name}: {content['systems'][name]}", flush=True)
        write_json(content, study.costs_file)


def problem_of(study: Study, name: str, memory_gb: float | None) -> str | None:
    """Why the plan of a system can't be trained by this version, None if it can."""
    system = system_of(name)
    plans = plans_of(study, name, "problem", memory_gb)
    entry = plans["configurations"][system.configuration]
    try:
        if not system.stock_trainer:
            TrainingRecipe.from_plan(entry["recipe"])
            TrainingSchedule.from_plan(entry["training"])
        architecture = entry["architecture"]
        content = dataset_json(study, system)
        with torch.device("meta"):
            get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                len(content["channel_names"]),
                len(content["labels"]),
                allow_init=False,
                deep_supervision=bool(entry.get("deep_supervision", True)),  # as the trainer does
            )
    except (TypeError, ValueError, KeyError) as error:
        return first_line(error)
    return None


def _begun(study: Study, marks_min: Sequence[float]) -> dict:
    file = study.costs_file
    content = read_json(file) if file.is_file() else {}
    if content and content["data_sha256"] != study.data_sha256():
        raise ValueError(f"{file} is of other data named {study.data!r}; give these data another name (--name)")
    device = device_name(study.settings.device)
    if content and content.get("device", CPU) != device:
        raise ValueError(
            f"{file} holds costs on {content.get('device', CPU)}, this is {device}; give the data another name (--name)"
        )
    begun = {"data": study.data, "data_sha256": study.data_sha256(), "machine": machine(), "device": device}
    content = {**begun, "threads": 1, "systems": {}, **content}
    content["marks_min"] = sorted({*content.get("marks_min", []), *(float(mark) for mark in marks_min)})
    write_json(content, file)
    return content


def _entry(study: Study, name: str, content: dict) -> dict:
    reference = content["systems"].get(DEFAULT)
    memory_gb = content.get("stock_memory_gb")
    if reference is None:  # the default itself
        [(train_s, val_s)] = costs_of(
            study, partial(_trainer, study, name, memory_gb), timed=2 * TIMED, warm_up=WARM_UP
        )
        relative = 1.0
    else:
        both = [partial(_trainer, study, each, memory_gb) for each in (DEFAULT, name)]
        (ours_s, _), (own_train_s, own_val_s) = costs_of(
            study, *both, timed=TIMED, warm_up=WARM_UP, uneven=system_of(name).learned_resampling
        )
        relative = own_train_s / ours_s
        train_s = reference["train_s"] * relative
        val_s = train_s * own_val_s / own_train_s
    gc.collect()
    seconds = 60 * min(content["marks_min"]) * system_of(name).share
    return {
        "train_s": round(train_s, 4),
        "val_s": round(val_s, 4),
        "times_default": round(relative, 3),
        "epoch_iterations": epoch_length(train_s, val_s, seconds, Costs(content).longest_epoch),
    }


def _memory_for_small_patches(study: Study) -> float:
    """Largest GPU memory target of stock's plan with which an iteration costs at most `MOST_TIMES_OURS`."""
    name = next(name for name, system in SYSTEMS.items() if system.kind == "stock" and system.small_patches)
    best = MEMORY_TARGETS_GB[0]
    for memory_gb in MEMORY_TARGETS_GB:
        both = [partial(_trainer, study, DEFAULT, None), partial(_trainer, study, name, memory_gb)]
        (ours_s, _), (stock_s, _) = costs_of(study, *both, timed=2, warm_up=1)
        print(f"stock planned for {memory_gb:g} GB: {stock_s / ours_s:.2f} times ours", flush=True)
        if stock_s > MOST_TIMES_OURS * ours_s:
            break
        best = memory_gb
    return best


def _trainer(study: Study, name: str, memory_gb: float | None) -> nnUNetTrainer:
    made = make_trainer(
        study,
        name,
        f"timing_{'localizer' if name in LOCALIZERS else 'system'}",
        length=TIMING,
        constant_share=0.0,
        seed=0,
        memory_gb=memory_gb,
    )
    if system_of(name).guided:
        write_stand_ins(Path(made.preprocessed_dataset_folder), Path(made.folder_with_segs_from_previous_stage))
    return made


def write_stand_ins(preprocessed: Path, maps: Path) -> None:
    """Reference label maps in the place of the localizer's, which is not trained yet. They take as long to load.

    Args:
        preprocessed: Folder of the segmenter's cases.
        maps: Folder to write to. What was in it goes.
    """
    shutil.rmtree(maps, ignore_errors=True)
    maps.mkdir(parents=True)
    dataset = nnUNetDatasetBlosc2(str(preprocessed))
    for case in dataset.identifiers:
        reference = dataset.load_case(case)[1]
        dataset.save_seg(np.maximum(reference[0], 0).astype(np.uint8), str(maps / case))
