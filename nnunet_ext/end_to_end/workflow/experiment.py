"""One experiment by one command: its steps as jobs of this machine or of a cluster."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from nnunet_ext.end_to_end.workflow.by_snakemake import (
    SLURM,
    WORKSTATION,
    Ran,
    check_snakemake,
    run_by_snakemake,
    write_for_snakemake,
)
from nnunet_ext.end_to_end.workflow.experiment_steps import (
    PLANNER,
    TRAINER,
    Experiment,
    experiment_steps,
    localizer_of,
    training_memory_gb,
)
from nnunet_ext.end_to_end.workflow.job_arrays import sbatch_script
from nnunet_ext.end_to_end.workflow.parts import begun_in_parts, look_again_after_a_failure, numbers_of_parts
from nnunet_ext.end_to_end.workflow.planned_workflow import SHARED, PlannedWorkflow
from nnunet_ext.end_to_end.workflow.step import absolute_words
from nnunet_ext.files import check_folder
from nnunet_ext.folder_lock import owned_folder
from nnunet_ext.nnunet_folders import SEGMENTER, find_dataset
from nnunet_ext.processes import usable_cores

#: Time limit of a training's job, if nobody says. Most clusters allow a day.
TIME_LIMIT_MINUTES = 1440.0
#: Of any other job at least.
LEAST_LIMIT_MINUTES = 60.0
#: Of SLURM, `MaxArraySize` is 1001 unless a site says otherwise.
MOST_PARTS = 1000
#: Name that the report has for the reference contours.
RESERVED = "reference"


def workflow(
    source: Path | None = None,
    out: Path = Path("workflow"),
    *,
    dataset_id: int | None = None,
    experiment: str | None = None,
    name: str | None = None,
    convert_options: str = "",
    configuration: str = SEGMENTER,
    planner: str = PLANNER,
    plans: str | None = None,
    trainer: str = TRAINER,
    epochs: int | None = None,
    iterations: int | None = None,
    folds: Sequence[int] = (0, 1, 2, 3, 4),
    jitter: str | None = None,
    use_postprocessing: bool = True,
    compare: Sequence[str] = (),
    device: str = "cuda",
    n_processes: int | None = None,
    parts: int = 1,
    gpus: Sequence[str] | None = None,
    slurm: bool = False,
    time_limit_minutes: float = TIME_LIMIT_MINUTES,
    memory_gb: float | None = None,
    partition: str | None = None,
    account: str | None = None,
    snakemake_options: str = "",
    dry_run: bool = False,
    print_sbatch: bool = False,
) -> Ran:
    """Make an experiment, or go on with it: convert, plan, train and validate its folds, predict, score, report.

    nnU-Net's folders are those of its environment variables. Steps that another experiment on the data set has made, or
    makes now, are not made again. The folder `out/experiment` gets a Snakefile, its configuration and profiles. A step that
    fails is named with its last line, and what does not need it is finished.

    Args:
        source: Patients, as `convert` takes them. None if the data set is there.
        out: Folder of all experiments.
        dataset_id: Of nnU-Net. It is needed.
        experiment: Name of the experiment, and of its folder. It is needed.
        name: Of the data set, if it is not there yet.
        convert_options: More options of `nnunet_ext convert`, in one text.
        configuration: That is trained and scored, after its localizer.
        planner, plans, trainer: Names, as nnU-Net's commands take them. Without plans, they are called after the planner.
        epochs, iterations: Of each training, instead of the plan's. Such models go to a folder of their own.
        folds: Of the cross-validation.
        jitter: How far the segmenter's box is moved in training. `planned` trains it beside the localizer. `measured` takes
            the errors of the localizer's folds of this experiment. None leaves it to the plan.
        use_postprocessing: Choose a postprocessing on the cross-validation, and apply it to the test cases.
        compare: Other experiments of `out` that the report compares with this one.
        device: `cuda`, `cpu` or `mps`.
        n_processes: Of each step that has several. None are up to 8.
        parts: Jobs that share the cases of the conversion, of each preprocessing and of the prediction. A job before them
            finds the cases, and one after them ends the step. The files are those of one job. Another number later goes on
            with the cases that are left.
        gpus: Numbers of this machine's GPUs. None are those that it has.
        slurm: Run the steps as jobs of SLURM.
        time_limit_minutes: Of the job of a training. A training that needs longer goes on in the next job.
        memory_gb: Of a training's job. None is what the plan lets it hold, and some more.
        partition, account: Of SLURM.
        snakemake_options: More options of Snakemake, in one text.
        dry_run: Say the steps and their commands, and whether they are done. Nothing is written or run.
        print_sbatch: Print job arrays for SLURM, and run none.

    Raises:
        NoSnakemake: If it is needed and not installed.
        OSError: If a folder is missing, or another run works on this experiment.
        ValueError: If options contradict each other, the data set holds what other options made, or jobs of another number
            of parts run.
        RuntimeError: If Snakemake itself fails.
    """
    if dataset_id is None or experiment is None:
        raise ValueError("name the data set and the experiment: -d 521 --experiment ours")
    folder = _folder(Path(out), experiment)
    executor = SLURM if slurm else WORKSTATION
    if not (dry_run or print_sbatch):
        check_snakemake(executor)
    made = _experiment(
        Experiment(
            experiment,
            dataset_id,
            _dataset(dataset_id, name, source),
            _nnunet_folder("nnUNet_raw"),
            _nnunet_folder("nnUNet_preprocessed"),
            _nnunet_folder("nnUNet_results"),
            source=None if source is None else check_folder(Path(source), "folder of the patients").resolve(),
            convert=tuple(absolute_words(shlex.split(convert_options))),
            configuration=configuration,
            planner=planner,
            plans=plans or planner.replace("Planner", "Plans"),
            trainer=trainer,
            epochs=epochs,
            iterations=iterations,
            folds=tuple(folds),
            jitter=jitter,
            postprocessing=use_postprocessing,
            compare=tuple(compare),
            device=device,
            n_processes=n_processes or max(1, min(8, usable_cores())),
        ),
        memory_gb,
    )
    if not 1 <= parts <= MOST_PARTS:
        raise ValueError(f"{parts} parts: give 1 to {MOST_PARTS}, for SLURM refuses larger arrays by default")
    plan = partial(
        planned_experiment,
        made,
        folder,
        time_limit_minutes=time_limit_minutes,
        gpus=_gpus(gpus) if device == "cuda" else (),
    )
    whole = plan()
    # A shell takes what is said beside a script for part of it.
    say = _say_beside_a_script if dry_run or print_sbatch else _say

    def divided() -> PlannedWorkflow:
        planned = plan(parts=numbers_of_parts(whole, parts, say))
        for step in planned.steps:
            planned.flags(step).check(step)
        return planned

    if dry_run:
        print(_described(divided()), flush=True)
        return Ran()
    for place in (made.raw, made.preprocessed, made.results, folder.parent):
        place.mkdir(parents=True, exist_ok=True)
    with owned_folder(folder):
        _adopt(whole, made, say)
        planned = divided()
        planned.write()
        for name in look_again_after_a_failure(planned):
            say(f"{name}: a part of it failed, so the cases are found anew; those that are done are not repeated")
        options = {
            "source": made.source, "dataset_id": dataset_id, "experiment": experiment, "dataset": made.dataset,
            "convert_options": convert_options, "configuration": configuration, "localizer": made.localizer,
            "planner": planner, "plans": made.trained_plans, "trainer": trainer, "folds": list(folds),
            "use_postprocessing": use_postprocessing, "jitter": jitter,
            "compare": list(compare), "device": device, "n_processes": made.n_processes, "parts": parts,
            "gpus": list(planned.gpus),
            "time_limit_minutes": time_limit_minutes, "memory_gb": made.training_gb,
        }  # fmt: skip
        write_for_snakemake(planned, options, partition=partition, account=account)
        if print_sbatch:
            print(sbatch_script(planned, partition=partition, account=account), flush=True)
            return Ran()
        ran = run_by_snakemake(planned, executor=executor, more=shlex.split(snakemake_options), say=_say)
    if not ran.failed:
        _say(f"All {len(planned.steps)} steps are done: {folder / 'report' / 'report.html'}")
    return ran


def planned_experiment(
    made: Experiment,
    folder: Path,
    *,
    time_limit_minutes: float = TIME_LIMIT_MINUTES,
    gpus: Sequence[str] = (),
    parts: Mapping[str, int] = MappingProxyType({}),
) -> PlannedWorkflow:
    """The steps of an experiment in its folder.

    Args:
        made: The experiment.
        folder: Of the workflow.
        time_limit_minutes: Of a training's job, and of any other if it is an hour or more.
        gpus: Numbers of this machine's GPUs.
        parts: Name of a step -> number of jobs that share its cases.
    """
    steps = experiment_steps(made, parts)
    # The fingerprint of 10,000 cases takes an hour or more, and begins anew if it is ended.
    most = max(LEAST_LIMIT_MINUTES, time_limit_minutes)
    limits = {}
    for step in steps:
        limits[step.name] = time_limit_minutes if step.name.startswith("train_") else most
    environment = {
        "nnUNet_raw": str(made.raw),
        "nnUNet_preprocessed": str(made.preprocessed),
        "nnUNet_results": str(made.results),
        "nnUNet_def_n_proc": str(made.n_processes),
    }
    shared = made.preprocessed / made.dataset / SHARED
    return PlannedWorkflow(folder, made.name, shared, steps, environment, tuple(gpus), limits)


def _nnunet_folder(variable: str) -> Path:
    if not os.environ.get(variable):
        raise FileNotFoundError(f"the environment variable {variable} is not set; it names a folder of nnU-Net's")
    return Path(os.environ[variable]).resolve()


def _folder(out: Path, experiment: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", experiment):
        raise ValueError(f"experiment {experiment!r}: use letters, digits, '.', '_' and '-' for its name")
    if experiment == RESERVED:
        raise ValueError(f"experiment {experiment!r}: the report calls the reference contours so; choose another name")
    return out.resolve() / experiment


def _dataset(dataset_id: int, name: str | None, source: Path | None) -> str:
    """Folder's name of the data set, which need not be there if there are patients to make it of."""
    try:
        return find_dataset("nnUNet_raw", dataset_id, "data sets").name
    except FileNotFoundError:
        if source is None:
            raise
    if name is None:
        raise ValueError(f"data set {dataset_id} is not there yet; name it with -n")
    return f"Dataset{dataset_id:03d}_{name}"


def _experiment(made: Experiment, memory_gb: float | None) -> Experiment:
    """With what the plan and the data set say, as far as they are there."""
    plans_file = made.plans_file(made.plans)
    localizer = localizer_of(made.configuration, plans_file)
    training_gb = memory_gb or training_memory_gb((localizer, made.configuration), plans_file)
    test_images = made.raw / made.dataset / "imagesTs"
    tests = "--test" in made.convert if made.source else test_images.is_dir() and any(test_images.iterdir())
    return replace(made, localizer=localizer, training_gb=training_gb, tests=tests)


def _adopt(planned: PlannedWorkflow, made: Experiment, say: Callable[[str], None]) -> None:
    """Take for done what nnU-Net's commands made before. Preprocessed data must hold all cases."""
    for step in planned.steps:
        if planned.place(step) != planned.shared or begun_in_parts(planned, step):
            continue
        if step.name.startswith("preprocess_") and not _whole(Path(step.outputs[0]), made):
            continue
        if planned.flags(step).adopt(step):
            say(f"{step.name}: it was done before")


def _whole(data: Path, made: Experiment) -> bool:
    labels = made.raw / made.dataset / "labelsTr"
    return data.is_dir() and labels.is_dir() and len(list(data.glob("*.pkl"))) >= len(list(labels.iterdir()))


def _described(planned: PlannedWorkflow) -> str:
    """What is to do as a script of a shell, each step with its title."""
    done = planned.done()
    lines = [f"export {name}={shlex.quote(value)}" for name, value in planned.environment.items()]
    lines.append(f"# {len(done)} of {len(planned.steps)} steps are done. To do in {planned.folder}:")
    for step in planned.steps:
        if step.name not in done:
            needs = step.resources
            gpu = f", {needs.gpus} GPU" if needs.gpus else ""
            lines.append(f"# {step.name}: {step.title}; {needs.processes} processes, {needs.memory_gb:g} GB{gpu}")
            lines.append(step.line)
    return "\n".join(lines)


def _gpus(named: Sequence[str] | None) -> tuple[str, ...]:
    """Numbers of the GPUs that this process may use, without torch, which takes seconds to import."""
    if named is not None:
        return tuple(named)
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return tuple(visible.split(","))
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return tuple(str(number) for number, _ in enumerate(re.findall(r"^GPU \d+:", listed, flags=re.MULTILINE)))


def _say(line: str) -> None:
    print(line, flush=True)


def _say_beside_a_script(line: str) -> None:
    _say(f"# {line}")
