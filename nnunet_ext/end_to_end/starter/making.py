"""Makes the starter, from label maps to packed models and scores: `python -m nnunet_ext.end_to_end.starter.making OUT ...`.

A repeated command does only what is missing. Each leg starts from the packed models of the leg before, which are kept, so
that a leg can be trained on another machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nnunet_ext.end_to_end.demo import Demo
from nnunet_ext.end_to_end.learning.people import people_of
from nnunet_ext.end_to_end.learning.study import commit, machine
from nnunet_ext.end_to_end.starter import legs
from nnunet_ext.end_to_end.starter.judging import judge_all
from nnunet_ext.end_to_end.starter.models import STAGES, folder_name, pack
from nnunet_ext.end_to_end.starter.plan import PLANS, starter_plans
from nnunet_ext.end_to_end.starter.renderings import (
    GRID_MM,
    JUDGED,
    JUDGED_SEED,
    JUDGED_WITHOUT_CT,
    TRAINING,
    TRAINING_SEED,
    TURNED,
    Rendering,
    make_renderings,
)
from nnunet_ext.files import read_json, write_json
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.labels.pairs import left_right_pairs
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, WHOLE_VOLUME, read_dataset_json
from nnunet_ext.processes import KILL_WITH_PARENT

ID, NAME = 521, "Starter"
DATASET = f"Dataset{ID}_{NAME}"
#: Two models that are judged on the people whom they have not seen, and the one that is shipped.
JUDGED_MODELS, SHIPPED = ("0", "1"), "all"
#: Epochs of a leg.
EPOCHS = {LOCALIZER: 50, SEGMENTER: 110}


def prepare(out: Path, maps: Path, renderings: Sequence[Rendering] = TRAINING, *, n_processes: int) -> Demo:
    """Cases, data set, plan and splits: the first half of the people against the second."""
    people = [image_stem(file) for file in sorted(maps.iterdir()) if image_stem(file) is not None]
    make_renderings(
        out / "training", maps, renderings, n_people=len(people), seed=TRAINING_SEED, n_processes=n_processes
    )
    demo = Demo(out)
    demo.environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    processes = ["-np", str(n_processes)]
    demo.step(
        "Convert",
        [
            *("nnunet_ext", "convert", str(out / "training"), "-d", str(ID), "-n", NAME),
            *("--modalities", "CT", "T1", "T2", "--no-n4", "--no-preview", *processes),
        ],
    )
    demo.step(
        "Plan and preprocess",
        [
            *("nnUNetv2_plan_and_preprocess", "-d", str(ID), "-pl", "CascadeOARPlannerSmall"),
            *("-overwrite_target_spacing", *map(str, GRID_MM), "-overwrite_plans_name", PLANS),
            *("-npfp", str(n_processes), "-c", WHOLE_VOLUME, LOCALIZER, *processes, str(n_processes)),
        ],
    )
    preprocessed = out / "nnUNet_preprocessed" / DATASET
    plans = read_json(preprocessed / f"{PLANS}.json")
    if WHOLE_VOLUME in plans["configurations"]:  # as it was planned
        labels = read_dataset_json(preprocessed / "dataset.json")["labels"]
        write_json(starter_plans(plans, left_right_pairs(labels)), preprocessed / f"{PLANS}.json")
    of_person = people_of(out / "training")
    names = sorted(set(of_person.values()))
    first = names[: len(names) // 2]
    halves = [
        sorted(case for case, person in of_person.items() if (person in first) is wanted) for wanted in (True, False)
    ]
    splits = [{"train": here, "val": there} for here, there in (halves, halves[::-1])]
    write_json(splits, preprocessed / "splits_final.json")
    return demo


def train(
    demo: Demo, model: str, leg: int, earlier: Path | None, epochs: Mapping[str, int] = EPOCHS
) -> dict[str, dict]:
    """Both stages of a model for one leg, each in a process of its own. Returns what they cost."""
    results = demo.out / f"leg_{leg}"
    costs = {}
    for stage in STAGES:
        options = {
            "dataset": DATASET,
            "configuration": stage,
            "fold": model if model == SHIPPED else int(model),
            "n_epochs": epochs[stage],
            "start": earlier and str(earlier / folder_name(stage) / "fold_all" / "checkpoint_final.pth"),
            "seed": leg,
        }
        log = demo.logs / f"leg_{leg}_{model}_{stage}.log"
        with log.open("a") as stream:
            done = subprocess.run(
                [sys.executable, "-m", legs.__name__, json.dumps(options)],
                env={**demo.environment, "nnUNet_results": str(results), "nnUNet_n_proc_DA": "0"},
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                cwd=demo.out,
                check=False,
                preexec_fn=KILL_WITH_PARENT,
            )
            stream.write(done.stdout)
        if done.returncode:
            raise RuntimeError(f"{stage} of model {model} failed (exit code {done.returncode}); log: {log}")
        costs[stage] = json.loads(done.stdout.splitlines()[-1])
    return costs


def make_leg(
    demo: Demo,
    models: Sequence[str],
    leg: int,
    *,
    earlier: Path | None,
    at_a_time: int,
    epochs: Mapping[str, int] = EPOCHS,
) -> dict[str, dict[str, dict]]:
    """One leg of some models, packed into `OUT/models/leg_LEG/MODEL`. `earlier` holds those of the leg before."""

    def make(model: str) -> dict[str, dict]:
        costs = train(demo, model, leg, None if earlier is None else earlier / model, epochs)
        pack(demo.out / f"leg_{leg}" / DATASET, demo.out / "models" / f"leg_{leg}" / model, fold=model)
        record = {"leg": leg, "model": model, "stages": costs, "machine": machine(), "commit": commit()}
        write_json(record, demo.out / "models" / f"leg_{leg}" / model / "leg.json")
        print(json.dumps(record), flush=True)
        return costs

    with ThreadPoolExecutor(at_a_time) as pool:
        return dict(zip(models, pool.map(make, models), strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m nnunet_ext.end_to_end.starter.making", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for data, trainings and models")
    parser.add_argument("--maps", type=Path, required=True, metavar="FOLDER", help="label maps of the people")
    parser.add_argument("--leg", type=int, default=1, metavar="N", help="number of the leg")
    parser.add_argument("--earlier", type=Path, metavar="FOLDER", help="packed models of the leg before, MODEL/...")
    parser.add_argument("--models", nargs="+", default=[*JUDGED_MODELS, SHIPPED], metavar="MODEL")
    parser.add_argument("-np", type=int, default=2, dest="n_processes", metavar="N", help="trainings at a time")
    options = parser.parse_args(argv)
    out = options.out.resolve()
    demo = prepare(out, options.maps, n_processes=options.n_processes)
    make_leg(demo, options.models, options.leg, earlier=options.earlier, at_a_time=options.n_processes)
    people = sum(image_stem(file) is not None for file in options.maps.iterdir())
    make_renderings(
        out / "judged",
        options.maps,
        (*JUDGED, *JUDGED_WITHOUT_CT, *TURNED),
        n_people=people,
        seed=JUDGED_SEED,
        n_processes=options.n_processes,
    )
    judge_models(out, options.leg, [model for model in options.models if model in JUDGED_MODELS])
    return 0


def judge_models(out: Path, leg: int, models: Sequence[str]) -> None:
    """Score models on the people whom they have not seen. Writes `scores.json` beside each."""
    splits = read_json(out / "nnUNet_preprocessed" / DATASET / "splits_final.json")
    of_person = people_of(out / "training")
    for model in models:
        folder = out / "models" / f"leg_{leg}" / model
        if (folder / "scores.json").is_file():
            continue
        seen = {of_person[case] for case in splits[int(model)]["train"]}
        cases = [out / "judged" / case for case, person in people_of(out / "judged").items() if person not in seen]
        rows = judge_all(folder / folder_name(SEGMENTER), cases, out / "judging" / f"leg_{leg}_{model}")
        write_json(rows, folder / "scores.json", indent=1)


if __name__ == "__main__":
    raise SystemExit(main())
