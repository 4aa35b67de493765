"""Runs of a study: what each needs, in which order, and how many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nnunet_ext.end_to_end.learning.courses import Costs, course
from nnunet_ext.end_to_end.learning.study import Study, branch_file, model_folder, training_name
from nnunet_ext.end_to_end.learning.systems import system_of
from nnunet_ext.nnunet_folders import BOXES_FILE, read_splits


@dataclass(frozen=True)
class Run:
    """One system, trained up to one mark with one seed, and scored."""

    name: str
    minutes: float
    seed: int


def runs_of(names: Sequence[str], marks_min: Sequence[float], seeds: Sequence[int]) -> list[Run]:
    """All runs, those of the shortest mark first, and of the first seed first."""
    return [Run(name, minutes, seed) for minutes in sorted(marks_min) for seed in seeds for name in names]


def run_all(
    study: Study,
    runs: Sequence[Run],
    *,
    at_a_time: int,
    true_boxes: bool,
    commit: str | None,
    say: Callable[[str], None] = print,
) -> None:
    """Train and score what has no record yet. A failed run does not keep the others from being run.

    Raises:
        RuntimeError: At the end, naming the runs that failed.
    """
    failed: dict[Run, str] = {}

    def do(run: Run) -> None:
        try:
            make_run(study, run, true_boxes=true_boxes, commit=commit, say=say)
        except (RuntimeError, ValueError, OSError) as error:
            failed[run] = str(error)
            say(f"{run.name}, {run.minutes:g} min, seed {run.seed}: FAILED")

    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(do, runs))
    if failed:
        lines = [f"{run.name}, {run.minutes:g} min, seed {run.seed}: {why}" for run, why in failed.items()]
        raise RuntimeError("\n".join([f"{len(failed)} of {len(runs)} runs failed:", *lines]))


def make_run(study: Study, run: Run, *, true_boxes: bool, commit: str | None, say: Callable[[str], None]) -> None:
    """Train what the run needs and score it, unless its record is there."""
    title = f"{run.name}, {run.minutes:g} min, seed {run.seed}"
    system = system_of(run.name)
    # With true boxes the network would be guided by the reference itself.
    wanted = [False, *([True] if true_boxes and system.localizer and not system.guided else [])]
    todo = [
        boxes for boxes in wanted if not study.record_file(run.name, run.minutes, run.seed, true_boxes=boxes).is_file()
    ]
    if not todo:
        say(f"{title}: done before")
        return
    say(f"{title} ...")
    marks = Costs.read(study.costs_file).marks_min
    if system.localizer is not None:
        for minutes in sorted({min(marks), run.minutes}):  # the trunk of the segmenter takes the first mark's
            trained(study, system.localizer, run.seed, minutes, marks)
    trained(study, run.name, run.seed, run.minutes, marks)
    for boxes in todo:
        with study.lock(f"score_{training_name(run.name, run.seed, run.minutes)}"):
            if not study.record_file(run.name, run.minutes, run.seed, true_boxes=boxes).is_file():
                study.apart("score", name=run.name, seed=run.seed, minutes=run.minutes, true_boxes=boxes, commit=commit)
    say(f"{title}: scored")


def trained(study: Study, name: str, seed: int, minutes: float, marks_min: Sequence[float]) -> None:
    """Train a mark's branch, and before it the trunk up to where it leaves, unless they are there."""
    folds = range(len(read_splits(study.splits_file()))) if system_of(name).all_folds else [0]
    with study.lock(training_name(name, seed, minutes)):
        for fold in folds:
            _fold_trained(study, name, seed, minutes, marks_min, fold)


def _fold_trained(study: Study, name: str, seed: int, minutes: float, marks_min: Sequence[float], fold: int) -> None:
    system = system_of(name)
    folder = model_folder(study, system, training_name(name, seed, minutes)) / f"fold_{fold}"
    last = folder / "validation" / BOXES_FILE if system.kind == "localizer" else folder / "checkpoint_final.pth"
    if last.is_file():
        return
    options: dict[str, object] = {"name": name, "seed": seed, "minutes": minutes, "marks_min": list(marks_min)}
    if fold:
        options["fold"] = fold
    if system.has_trunk:
        epoch = course(system, Costs.read(study.costs_file).of(name), minutes).branch_epoch
        trunk = training_name(name, seed, None)
        with study.lock(trunk):
            if not branch_file(model_folder(study, system, trunk) / f"fold_{fold}", epoch).is_file():
                study.apart("train", **options, trunk=True)
    study.apart("train", **options, trunk=False)
