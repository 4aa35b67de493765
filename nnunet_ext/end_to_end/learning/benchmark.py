"""`nnunet_ext benchmark learning`: systems trained for equal computing time, scored on other people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.end_to_end.demo import MODALITIES, PLANNER
from nnunet_ext.end_to_end.learning.courses import Costs
from nnunet_ext.end_to_end.learning.curves import draw_curves
from nnunet_ext.end_to_end.learning.data import prepare
from nnunet_ext.end_to_end.learning.records import read_records
from nnunet_ext.end_to_end.learning.running import run_all, runs_of
from nnunet_ext.end_to_end.learning.study import CPU, Settings, Study, commit, device_name
from nnunet_ext.end_to_end.learning.systems import DEFAULT, SYSTEMS, slug, system_of
from nnunet_ext.end_to_end.learning.table import table
from nnunet_ext.files import write_text

#: Core minutes.
MARKS_MIN = (10.0, 40.0, 120.0)


def benchmark_learning(
    cases: Path | None = None,
    *,
    out: Path = Path("learning"),
    runs: Path = Path("results/runs"),
    name: str = "heads",
    train_people: Sequence[str] = (),
    test_people: Sequence[str] = (),
    n_train: int | None = None,
    n_test: int | None = None,
    modalities: Sequence[str] = MODALITIES,
    planner: str = PLANNER,
    device: str = CPU,
    only: Sequence[str] = (DEFAULT,),
    seeds: Sequence[int] = (0,),
    marks_min: Sequence[float] = MARKS_MIN,
    true_boxes: bool = False,
    costs_only: bool = False,
    n_processes: int = 1,
    table_file: Path | None = None,
    curves_file: Path | None = None,
    list_systems: bool = False,
) -> str:
    """Train systems for equal computing time on one thread, score them end to end. Returns the table, in Markdown.

    What an iteration costs is measured once per system, in turns with the default. That fixes how many iterations a mark
    is, so nothing else depends on a clock. Our systems are trained at a constant rate after the warm-up. Before each mark a
    branch leaves this trunk after four fifths of the time, and its rate is annealed. Stock nnU-Net is trained anew for
    each mark, with its own decay. One run is one JSON file in `runs`. A repeated command does only what is missing, after a
    kill too, and several commands may share a folder.

    Args:
        cases: Folder of case folders. `phantom.json` in them names the person. Without, the study in `out` goes on.
        out: Folder of data, trainings and predictions.
        runs: Folder of the records and costs.
        name: Of the data.
        train_people, test_people: People to train on and to score.
        n_train, n_test: Numbers of cases to train on and to score, instead of people.
        modalities: Channels.
        planner: Of the cascade.
        device: `cpu` or `cuda`, part of the study as the data are. On a GPU the marks are minutes of the clock, loaders
            have processes, epochs may be longer, and one training at a time has the GPU.
        only: Systems, see `systems.SYSTEMS`.
        seeds: Of weights and augmentation.
        marks_min: Core minutes, of localizer and segmenter together. Give all of them, or the shortest first, because a
            trunk does not go back to a branch point that it has passed.
        true_boxes: Also score the cascades with boxes that the reference organs place.
        costs_only: Only prepare the data and measure the costs.
        n_processes: Trainings at a time.
        table_file, curves_file: Write the table and a picture of what is in `runs`, and do nothing else.
        list_systems: Only return the names of the systems.

    Raises:
        ValueError: If a system is unknown, the folder holds another study, or there is no GPU to use.
        RuntimeError: If runs failed.
    """
    if list_systems:
        return "\n".join(SYSTEMS)
    if table_file is None and curves_file is None:
        for system in only:
            system_of(system)
        settings = None
        if cases is not None:
            device_name(device)
            settings = Settings(
                name,
                str(Path(cases).resolve()),
                tuple(train_people),
                tuple(test_people),
                n_train,
                n_test,
                tuple(modalities),
                planner,
                device,
            )
        study = Study(out, runs, settings)
        if device not in (CPU, study.settings.device):
            raise ValueError(f"{study.out} holds a study on {study.settings.device}; use another folder (-o)")
        device_name(study.settings.device)
        name = study.data
        _run(study, only, seeds, marks_min, true_boxes=true_boxes, costs_only=costs_only, n_processes=n_processes)
    runs = Path(runs)
    every = read_records(runs, name) if runs.is_dir() else []
    records = [record for record in every if record.system in SYSTEMS]
    costs_file = runs / f"costs_{slug(name)}.json"
    costs = Costs.read(costs_file) if costs_file.is_file() else None
    text = table(
        records,
        systems=list(SYSTEMS),
        marks_min=costs.marks_min if costs else (),
        not_built=costs.not_built if costs else {},
    )
    if table_file is not None:
        write_text(text + "\n", table_file)
    if curves_file is not None and records:
        draw_curves(records, curves_file, systems=list(SYSTEMS))
    return text


def _run(
    study: Study,
    only: Sequence[str],
    seeds: Sequence[int],
    marks_min: Sequence[float],
    *,
    true_boxes: bool,
    costs_only: bool,
    n_processes: int,
) -> None:
    systems = [system_of(system) for system in only]
    prepare(
        study,
        merged=any(system.merged for system in systems),
        stock=any(system.stock_plan for system in systems),
        finer=any(system.finer for system in systems),
        learned_resampling=any(system.learned_resampling for system in systems),
        n_processes=n_processes,
    )
    with study.lock("costs"):
        study.apart("costs", names=list(only), marks_min=list(marks_min))
    not_built = Costs.read(study.costs_file).not_built
    for system in [system for system in only if system in not_built]:
        print(f"{system}: not built ({not_built[system]})", flush=True)
    if not costs_only:
        run_all(
            study,
            runs_of([system for system in only if system not in not_built], marks_min, seeds),
            at_a_time=n_processes,
            true_boxes=true_boxes,
            commit=commit(),
        )
