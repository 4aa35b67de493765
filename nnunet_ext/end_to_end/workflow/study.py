"""The reference study by one command: convert, plan, train, predict, score, report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ext.end_to_end.workflow.flags import Flags
from nnunet_ext.end_to_end.workflow.running import Outcome, nnunet_environment, run_steps
from nnunet_ext.end_to_end.workflow.step import Step, absolute_words
from nnunet_ext.end_to_end.workflow.study_steps import (
    PREPROCESSED,
    RAW,
    RESULTS,
    STUDY_SPACING_MM,
    TABLES,
    StudyOptions,
    study_steps,
)
from nnunet_ext.end_to_end.workflow.systems import OF_CHANNELS, OF_THE_STUDY, OUR_TRAINER, SLIDING, SLIDING_OF_CHANNELS
from nnunet_ext.files import check_folder, check_output_folder
from nnunet_ext.processes import usable_cores

#: A quarter for the test, as the study's 15 of 60, by a seed. The study does not give its window, this one is usual.
TEST_SPLIT, STUDY_WINDOW_HU = ("0.25", "--seed", "1"), ("-160", "240")
#: Phantoms of `--fast`. Six test cases are the fewest with a p-value.
FAST_TRAINING, FAST_TEST = 8, 6
#: Of `--fast`: small networks, few steps and our recipe, whose learning rate suits so few. Voxels `(Z, Y, X)` in mm.
FAST_PLANNER, FAST_PLANS = "CascadeOARPlannerSmall", "CascadeOARPlansSmall"
FAST_EPOCHS, FAST_ITERATIONS, FAST_SPACING_MM = 8, 25, (4.0, 4.0, 4.0)
FAST_MINUTES = 2.0


def study(
    source: Path | None = None,
    out: Path = Path("study"),
    *,
    test_cases: Sequence[str] = (),
    systems: Sequence[str] | None = None,
    fewer_images: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    each_fold: bool = False,
    modalities: Sequence[str] = ("CT", "T1", "T2"),
    register: bool = True,
    convert_options: str = "",
    dataset_id: int = 521,
    name: str = "HeadMR",
    spacing_mm: Sequence[float] = STUDY_SPACING_MM,
    epochs: int | None = None,
    fast: bool = False,
    device: str | None = None,
    n_processes: int | None = None,
    at_a_time: int | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Make the tables of the reference study on other patients, or on phantoms, or go on with it.

    Every step is a command that a user could type, in `out`. A repeated call does only what is missing. A step that fails
    is named with its log, and the steps that do not need it are finished.

    Args:
        source: Patients, as `convert` takes them. None are phantoms, with `fast` only.
        out: Folder of the study. The tables are in `out/tables` in the end.
        test_cases: Cases that no network is trained on. None are a quarter of the patients, drawn at random by seed 1.
        systems: Names of the systems (`workflow.systems`). None are the study's, with `fast` those that learn in minutes.
        fewer_images: Sets of images that are compared with all of them at 32x96x96, such as `T1+T2`. None are
            the CT, and T1 and T2, where there are more images.
        folds: Of the cross-validation. None are all five, with `fast` the first.
        each_fold: Score the models of single folds too.
        modalities: All images, in nnU-Net's order.
        register: Register the MR to the CT. Phantoms are not.
        convert_options: More options of `nnunet_ext convert`, in one text. Without `fast`, the CT is clipped to
            `STUDY_WINDOW_HU` and all images have one range, unless they say otherwise.
        dataset_id: Of all images. The sets of fewer images have the numbers after it.
        name: Of the data set with all images.
        spacing_mm: Of the grid, `(Z, Y, X)`.
        epochs: Of each training at most, instead of the plan's.
        fast: Small networks, few epochs, and our recipe instead of the study's. It shows that all works, and no more.
        device: `cuda`, `cpu` or `mps`. None is the GPU if there is one.
        n_processes: Of each step that has several. None are up to 8.
        at_a_time: Steps that run at the same time, each on a GPU of its own. None are one per GPU, and on a CPU one, with
            `fast` two.
        dry_run: Say the steps and their commands, and run none.

    Raises:
        FileNotFoundError: If the source is not there.
        ValueError: If options contradict each other, or `out` holds another study.
    """
    out = check_output_folder(Path(out).resolve())
    if source is None and not fast:
        raise ValueError("name the folder of the patients, or give --fast to make phantoms")
    if source is not None:
        check_folder(Path(source), "folder of the patients")
    device = device if device and dry_run else _device(device)  # a script may be for another machine
    gpus = _gpus() if device == "cuda" and not dry_run else []
    at_a_time = at_a_time or max(len(gpus), min(2, usable_cores()) if fast and device == "cpu" else 1)
    n_processes = n_processes or max(1, min(8, usable_cores() // at_a_time))
    options = StudyOptions(
        source=None if source is None else Path(source).resolve(),
        convert=_convert_words(
            shlex.split(convert_options), modalities, drawn=source is not None and not test_cases, fast=fast
        ),
        test=tuple(test_cases),
        dataset_id=dataset_id,
        name=name,
        modalities=tuple(modalities),
        fewer=_fewer(modalities, fewer_images),
        systems=tuple(systems or (SLIDING if fast else OF_THE_STUDY)),
        of_channels=SLIDING_OF_CHANNELS if fast else OF_CHANNELS,
        folds=tuple(folds) if folds else StudyOptions.folds,
        each_fold=each_fold,
        register=register and len(modalities) > 1,
        spacing_mm=tuple(spacing_mm),
        epochs=epochs,
        device=device,
        n_processes=n_processes,
    )
    if fast:
        options = _fast(options, folds)
    steps = study_steps(options)
    if dry_run:
        print(described(steps, out), flush=True)
        return Outcome()
    for folder in (RAW, PREPROCESSED, RESULTS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    environment = nnunet_environment(
        *(out / folder for folder in (RAW, PREPROCESSED, RESULTS)), n_processes=n_processes
    )
    if device == "cpu":  # one step shall not take the cores of the others
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // at_a_time)))
        environment.setdefault("nnUNet_n_proc_DA", str(max(1, n_processes // 2)))
    if fast:
        environment["nnUNet_compile"] = "f"  # it takes longer than such a training
    outcome = run_steps(steps, out, environment=environment, at_a_time=at_a_time, gpus=gpus, say=_say)
    minutes = sum(outcome.seconds.values()) / 60
    if not outcome.failed:
        _say(
            f"\nAll {len(steps)} steps are done, in {minutes:.1f} min of computing. Tables: {out / TABLES / 'report.html'}"
        )
    return outcome


def described(steps: Sequence[Step], out: Path) -> str:
    """The steps as a script of a shell, each with its title and whether it is done."""
    flags = Flags(out, steps)
    lines = [
        f"mkdir -p {shlex.quote(str(out))} && cd {shlex.quote(str(out))} && mkdir -p {RAW} {PREPROCESSED} {RESULTS}"
    ]
    variables = {"nnUNet_raw": RAW, "nnUNet_preprocessed": PREPROCESSED, "nnUNet_results": RESULTS}
    lines.append("export " + " ".join(f"{variable}=$PWD/{folder}" for variable, folder in variables.items()))
    for step in steps:
        needs = step.resources
        gpu = f", {needs.gpus} GPU" if needs.gpus else ""
        lines.append(
            f"# {step.name}{' (done)' if flags.is_done(step) else ''}: {step.title}; {needs.processes} processes, "
            f"{needs.memory_gb:g} GB{gpu}, about {needs.minutes:g} min"
        )
        lines.append(step.line)
    return "\n".join(lines)


def _fast(options: StudyOptions, folds: Sequence[int] | None) -> StudyOptions:
    n = FAST_TRAINING + FAST_TEST
    phantoms = tuple(f"phantom_{at:03d}" for at in range(FAST_TRAINING, n)) if options.source is None else ()
    return replace(
        options,
        test=options.test or phantoms,
        shown=phantoms[:1],  # surfaces of noise, as so short a training draws it, take minutes
        n_phantoms=n,
        folds=tuple(folds) if folds else (0,),
        register=options.register and options.source is not None,
        convert=(*options.convert, "--no-preview"),
        planner=FAST_PLANNER,
        plans=FAST_PLANS,
        trainer=OUR_TRAINER,
        spacing_mm=FAST_SPACING_MM if options.spacing_mm == STUDY_SPACING_MM else options.spacing_mm,
        epochs=options.epochs or FAST_EPOCHS,
        iterations=FAST_ITERATIONS,
        minutes=FAST_MINUTES,
    )


def _fewer(modalities: Sequence[str], named: Sequence[str] | None) -> tuple[tuple[str, ...], ...]:
    if named is None:
        return tuple(images for images in StudyOptions.fewer if set(images) < set(modalities))
    return tuple(tuple(images.split("+")) for images in named)


def _convert_words(words: Sequence[str], modalities: Sequence[str], *, drawn: bool, fast: bool) -> tuple[str, ...]:
    """Options of `convert`: those given, and the study's split, window and range where they are not."""
    more: tuple[str, ...] = ()
    if drawn and "--test" not in words:
        more += ("--test", *TEST_SPLIT)
    if not fast and "--one-range" not in words:
        if "--window-hu" not in words and "CT" in modalities:
            more += ("--window-hu", *STUDY_WINDOW_HU)
        more += ("--one-range",)
    return (*more, *absolute_words(words))


def _device(device: str | None) -> str:
    if device == "cpu":
        return device  # torch takes seconds to import
    from nnunet_ext.prediction.loading import choose_device

    return choose_device(device).type


def _gpus() -> list[str]:
    """Numbers of the GPUs that this process may use, in CUDA's words."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def _say(line: str) -> None:
    print(line, flush=True)
