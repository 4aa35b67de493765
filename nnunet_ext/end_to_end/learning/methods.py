"""`nnunet_ext benchmark methods`: every method of the guide to other methods on the same people, in equal computing time.

The networks are systems of `benchmark learning`, with its runs and records. Atlases are not trained, and their time is that
of contouring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_ext.atlas.contouring import FUSIONS, contour_by_atlases
from nnunet_ext.end_to_end.learning.benchmark import benchmark_learning
from nnunet_ext.end_to_end.learning.courses import Costs
from nnunet_ext.end_to_end.learning.records import END_GAIN, RunRecord, read_records
from nnunet_ext.end_to_end.learning.scoring import about, case_scores, spent_by
from nnunet_ext.end_to_end.learning.study import CPU, ID, Study, commit
from nnunet_ext.end_to_end.learning.systems import DEFAULT, slug
from nnunet_ext.end_to_end.learning.table import end_of, line_of, organ_heads
from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.files import write_json, write_text
from nnunet_ext.nnunet_folders import read_dataset_json

#: Systems of `systems.SYSTEMS`. nnU-Net's patch is one that the memory of the study's plan allows.
NETWORKS = (DEFAULT, "AnatomyNet", "FocusNet", "DeepLabv3+", "stock, small patches", "stock, small patches, mirrored")
#: Names in the records of what is not trained, and how the labels are fused.
ATLASES = {f"atlas, {fusion}": fusion for fusion in FUSIONS}
#: Core minutes. Two hours are the longest.
MARKS_MIN = (10.0, 40.0, 120.0)


def benchmark_methods(
    cases: Path | None = None,
    *,
    out: Path = Path("learning"),
    runs: Path = Path("results/runs"),
    name: str = "heads",
    train_people: Sequence[str] = (),
    test_people: Sequence[str] = (),
    n_train: int | None = None,
    n_test: int | None = None,
    device: str = CPU,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    marks_min: Sequence[float] = MARKS_MIN,
    n_processes: int = 1,
    table_file: Path | None = None,
) -> str:
    """Train every method for equal computing time, score it on other people. Returns the table, in Markdown.

    A repeated command does only what is missing, after a kill too.

    Args:
        cases, out, runs, name, train_people, test_people, n_train, n_test, device, seeds, marks_min, n_processes: As for
            `benchmark_learning`.
        only: Methods, of `NETWORKS` and `ATLASES`. All of them if empty.
        table_file: Write the table of what is in `runs`, and do nothing else.

    Raises:
        ValueError: If a method is unknown, or see `benchmark_learning`.
        RuntimeError: If runs failed.
    """
    known = (*NETWORKS, *ATLASES)
    if unknown := [method for method in only if method not in known]:
        raise ValueError(f"there is no method {unknown[0]!r}; known: {', '.join(known)}")
    wanted = [method for method in known if not only or method in only]
    if table_file is None:
        benchmark_learning(
            cases,
            out=out,
            runs=runs,
            name=name,
            train_people=train_people,
            test_people=test_people,
            n_train=n_train,
            n_test=n_test,
            device=device,
            only=[method for method in wanted if method in NETWORKS] or [DEFAULT],
            seeds=seeds,
            marks_min=marks_min,
            costs_only=not any(method in NETWORKS for method in wanted),
            n_processes=n_processes,
        )
        study = Study(out, runs)
        name = study.data
        todo = {method: fusion for method, fusion in ATLASES.items() if method in wanted}
        if any(not study.record_file(method, 0, 0).is_file() for method in todo):
            with study.lock("atlas"):
                print("atlas ...", flush=True)
                study.apart("atlas", commit=commit())
    costs_file = Path(runs) / f"costs_{slug(name)}.json"
    text = methods_table(
        [record for record in read_records(Path(runs), name) if record.system in known and not record.true_boxes],
        not_built=Costs.read(costs_file).not_built if costs_file.is_file() else {},
    )
    if table_file is not None:
        write_text(text + "\n", table_file)
    return text


def score_atlases(study: Study, *, commit: str | None) -> None:
    """Contour the test cases by the training cases, and write a record for each way to fuse. In a process of its own."""
    out = study.out / "predictions" / "atlas"
    done, spent_s = spent_by(
        lambda: contour_by_atlases(
            images=study.raw() / "imagesTs", out=out, dataset_id=ID, n_threads=1, show_progress=False
        )
    )
    if done.failed:
        raise RuntimeError(f"cases without contours: {done.failed}")
    labels = read_dataset_json(study.raw() / "dataset.json")["labels"]
    for method, fusion in ATLASES.items():
        summary = evaluate(
            out / fusion, study.raw() / "labelsTs", out / "scores" / fusion, labels=labels, show_progress=False
        )
        if summary.failed:
            raise RuntimeError(f"cases that could not be scored: {summary.failed}")
        record = {
            **about(study, method, seed=0, minutes=0.0, commit=commit),
            "iterations": {},
            "clock_s" if study.on_gpu else "cpu_s": {},
            # Of a run that goes on after a kill, only what was left to do.
            **({"predict_cpu_s_per_case": round(spent_s / len(done.written), 2)} if not done.skipped else {}),
            "boxes": None,
            "cases": case_scores(summary),
        }
        write_json(record, study.record_file(method, 0, 0), indent=1)


def methods_table(records: Sequence[RunRecord], *, not_built: Mapping[str, str]) -> str:
    """A row per method, mark and seed, in Markdown.

    Args:
        records: Of one data set.
        not_built: Method -> why it can't be trained here.
    """
    if not records:
        return "No run has been scored yet."
    measures = ["mean DSC %", "SD", "HD95 mm", "missed", "CPU s per case", "at its end"]
    heads = ["method", "weights", "trained min", "seed", *organ_heads(records[0].organs), *measures]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    order = {method: at for at, method in enumerate((*NETWORKS, *ATLASES))}
    ordered = sorted(records, key=lambda r: (order[r.system], r.seed, r.mark_min))
    lines += [_row(record, [r for r in ordered if line_of(r) == line_of(record)]) for record in ordered]
    n_cases = " or ".join(map(str, sorted({record.n_cases for record in records})))
    lines += [
        "",
        f"n = {n_cases} cases of other people, on {' and '.join(sorted({record.machine for record in records}))}, one "
        "thread. Weights: localizer + segmenter, or of the only network. Trained: core minutes of all stages together. SD: "
        "over cases, of the mean over organs. HD95: mean over organs and cases, a missed organ counts with the image's "
        "diagonal. Missed: organs without a voxel. CPU s per case: of contouring, with loading the model once. At its end: "
        f"the last doubling of time gained less than {END_GAIN:g} point of DSC.",
    ]
    run = {record.system for record in records}
    lacking = [
        f"- {method}: {f'not built ({not_built[method]})' if method in not_built else 'not run'}"
        for method in order
        if method not in run
    ]
    return "\n".join([*lines, *(["", "Not run:", "", *lacking] if lacking else [])])


def _row(record: RunRecord, curve: Sequence[RunRecord]) -> str:
    stages = [stage for stage in ("localizer", "segmenter") if stage in record.weights]
    trained = record.system not in ATLASES
    cells = [
        record.system,
        " + ".join(f"{record.weights[stage]:,}" for stage in stages) or ("" if trained else "none"),
        f"{record.mark_min:g}" if trained else "not trained",
        str(record.seed) if trained else "",
        *("" if np.isnan(value) else f"{value:.1f}" for value in record.organ_dsc),
        f"{record.dsc:.1f}",
        "" if np.isnan(record.dsc_sd) else f"{record.dsc_sd:.1f}",
        f"{record.hd95:.2f}",
        str(record.missed),
        "" if record.predict_s is None else f"{record.predict_s:.1f}",
        end_of(record, curve) if trained else "",
    ]
    return f"| {' | '.join(cells)} |"
