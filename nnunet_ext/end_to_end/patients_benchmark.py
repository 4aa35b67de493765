"""What few patients teach, from scratch and from a model, in equal computing time.

    python -m nnunet_ext.end_to_end.patients_benchmark OUT --train HEADS --score OTHERS --from MODEL
    python -m nnunet_ext.end_to_end.patients_benchmark OUT --train HEADS --score OTHERS --from MODEL --patients 5 --seeds 1
    python -m nnunet_ext.end_to_end.patients_benchmark OUT --table results/patients.md

HEADS and OTHERS hold case folders, of other people each. Every number of patients is two studies of
`nnunet_ext benchmark learning`, planned from scratch and from the model, and trained for the same core minutes. A run is
one JSON file in `--runs`, and a repeated command does only what is missing. The first patients of a larger number are those
of a smaller one. As fold 0 trains, about a fifth of the patients are held out for its validation, either way.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from nnunet_ext.cascade.start_model import copy_folder
from nnunet_ext.end_to_end.demo import PLANNER as FROM_SCRATCH
from nnunet_ext.end_to_end.finetuning import PLANNER as FROM_MODEL
from nnunet_ext.end_to_end.finetuning import PLANS, stages_of
from nnunet_ext.end_to_end.learning.benchmark import benchmark_learning
from nnunet_ext.end_to_end.learning.people import people_of
from nnunet_ext.end_to_end.learning.records import RunRecord, read_records
from nnunet_ext.end_to_end.learning.study import Settings, Study
from nnunet_ext.files import write_text

PATIENTS = (3, 5, 10, 20)
MINUTES = 60.0
#: Start of a training -> its planner.
STARTS = {"scratch": FROM_SCRATCH, "model": FROM_MODEL}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, or write the table."""
    o = arguments().parse_args(argv)
    if o.table is None:
        run(
            o.out,
            train=o.train,
            score=o.score,
            model=o.model,
            name=o.name,
            patients=o.patients,
            seeds=o.seeds,
            minutes=o.minutes,
            modalities=o.modalities,
            n_processes=o.n_processes,
            runs=o.runs,
        )
    text = table(o.runs, o.name)
    if o.table is not None:
        write_text(text + "\n", o.table)
    print(text)
    return 0


def arguments() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(description="What few patients teach, from scratch and from a model.")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of data, trainings and predictions")
    parser.add_argument("--train", metavar="FOLDER", type=Path, help="cases to train on")
    parser.add_argument("--score", metavar="FOLDER", type=Path, help="cases to score, of other people")
    parser.add_argument("--from", dest="model", metavar="MODEL", type=Path, help="segmenter that has seen none of them")
    parser.add_argument("--name", default="heads", help="of the cases, in files: heads")
    parser.add_argument("--patients", nargs="+", type=int, default=PATIENTS, metavar="N", help="without: 3 5 10 20")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,), metavar="S", help="without: 0")
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="MIN", help="core minutes of a run: 60")
    parser.add_argument("--modalities", nargs="+", default=("CT", "T1", "T2"), metavar="M", help="without: CT T1 T2")
    parser.add_argument("-np", dest="n_processes", type=int, default=1, metavar="N", help="processes: 1")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="one JSON file per run: results/runs")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table of what was run, and end")
    return parser


def run(
    out: Path,
    *,
    train: Path,
    score: Path,
    model: Path,
    name: str,
    patients: Sequence[int],
    seeds: Sequence[int],
    minutes: float,
    modalities: Sequence[str],
    n_processes: int,
    runs: Path,
) -> None:
    """Train and score all numbers of patients, from scratch and from the model. See the options of `arguments`."""
    for n in patients:
        cases, n_score = gather(out / f"cases_{n:02d}", train, score, n)
        for start, planner in STARTS.items():
            folder = out / f"{n:02d}_{start}"
            data = data_name(name, n, start)
            settings = Settings(
                data, str(cases.resolve()), n_train=n, n_test=n_score, modalities=tuple(modalities), planner=planner
            )
            if start == "model":
                put_model(Study(folder, runs, settings), model)
            benchmark_learning(
                cases,
                out=folder,
                runs=runs,
                name=data,
                n_train=n,
                n_test=n_score,
                modalities=modalities,
                planner=planner,
                seeds=seeds,
                marks_min=(minutes,),
                n_processes=n_processes,
            )


def put_model(study: Study, model: Path) -> None:
    """Put the copy of the model where the planner of the study looks for it."""
    for stage, one in stages_of(model).items():
        folder = copy_folder(study.preprocessed(), PLANS, stage)
        if not one.is_copied_in(folder):
            one.copy_to(folder)


def gather(folder: Path, train: Path, score: Path, n: int) -> tuple[Path, int]:
    """A folder of links to the first `n` cases to train on and to all that are scored, and the number of these.

    The cases of several people take turns, so that few patients are of many people.

    Raises:
        ValueError: If there are fewer cases.
    """
    people = people_of(train)
    of_each = [[case for case in sorted(people) if people[case] == person] for person in sorted(set(people.values()))]
    ordered = [case for case in chain.from_iterable(zip_longest(*of_each)) if case is not None]
    if len(ordered) < n:
        raise ValueError(
            f"{train} holds {len(ordered)} cases, and {n} patients are to be trained on; leave that number out"
        )
    scored = sorted(people_of(score))
    folder.mkdir(parents=True, exist_ok=True)
    links = {f"patient_{at:03d}": train / case for at, case in enumerate(ordered[:n])}
    links |= {f"scored_{at:03d}": score / case for at, case in enumerate(scored)}
    for link, case in links.items():
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(case.resolve())
    return folder, len(scored)


def data_name(name: str, n: int, start: str) -> str:
    """Of a study, in its records."""
    return f"{name} {n:02d} from {start}"


def table(runs: Path, name: str) -> str:
    """A row per number of patients, start, mark and seed, in Markdown."""
    found = [
        (n, start, record)
        for n in range(1, 100)
        for start in STARTS
        for record in read_records(runs, data_name(name, n, start))
    ] if runs.is_dir() else []  # fmt: skip
    if not found:
        return "No run has been scored yet."
    organs = found[0][2].organs
    heads = [
        "patients",
        "from",
        "min",
        "seed",
        "iterations",
        "CPU min",
        *organs,
        "mean DSC %",
        "SD",
        "HD95 mm",
        "missed",
    ]
    rows = [_row(n, start, record) for n, start, record in found]
    n_cases = sorted({record.n_cases for *_, record in found})
    machines = sorted({record.machine for *_, record in found})
    note = (
        f"n = {' or '.join(map(str, n_cases))} scored cases of other people. Min: core minutes of both stages together, on "
        f"{' and '.join(machines)}, one thread. Of the patients, fold 0 holds about a fifth out. SD: over cases, of the "
        "mean over organs. HD95: mean over organs and cases. Missed: organs without a voxel."
    )
    return "\n".join([_line(heads), "|---" * len(heads) + "|", *rows, "", note])


def _row(n: int, start: str, record: RunRecord) -> str:
    iterations = " + ".join(str(record.iterations[stage]) for stage in ("localizer", "segmenter"))
    cpu_min = f"{sum(record.spent_s.values()) / 60:.1f}"
    organs = ["" if np.isnan(value) else f"{value:.1f}" for value in record.organ_dsc]
    sd = "" if np.isnan(record.dsc_sd) else f"{record.dsc_sd:.1f}"
    cells = [n, start, f"{record.mark_min:g}", record.seed, iterations, cpu_min, *organs]
    return _line([*cells, f"{record.dsc:.1f}", sd, f"{record.hd95:.2f}", record.missed])


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    raise SystemExit(main())
