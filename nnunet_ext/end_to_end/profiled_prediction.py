"""The process that `prediction_profile` measures. Until a prediction is imported, it imports nothing else."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nnunet_ext.steps import OTHER, Step, recorded_steps, step


def alone(options: Mapping) -> dict:
    """Steps and operations of each case, one after the other, in this thread alone."""
    from nnunet_ext.prediction import predicting
    from nnunet_ext.prediction.loading import choose_device

    once = {"import": {"wall_s": time.time() - options["started"], "cpu_s": sum(os.times()[:2])}}
    with recorded_steps() as steps, step("weights"):
        predictor = predicting.CascadePredictor(
            Path(options["model"]), device=choose_device(options["device"]), full_precision=options["full_precision"]
        )
    once["weights"] = _seconds(steps[0])

    from nnunet_ext.end_to_end.operations import counted, multiply_adds_per_s

    found = predicting.find_cases(
        Path(options["images"]),
        channels=predictor.channels,
        optional=predictor.optional,
        layout="files",
        show_progress=False,
    )
    folder = Path(options["result"]).with_suffix("")
    cases: list[dict[str, Any]] = []
    watched: dict[str, Any] = {}
    for name, case in found.cases.items():
        with ExitStack() as stack:
            networks = {"windows": predictor.segmenter, "localizer": predictor.localizer}
            watched = {k: stack.enter_context(counted(v.network)) for k, v in networks.items() if v is not None}
            steps = stack.enter_context(recorded_steps())
            with step(OTHER, case=name):
                prepared = predictor.prepare(case.read_images().hand_over())
                prediction = predictor.segment(prepared)
                predictor.write(prediction, prepared, folder / f"{name}{predictor.dataset_json['file_ending']}")
        cases.append(
            {
                "name": name,
                "steps": {one.name: _seconds(one) for one in steps},
                "regrown": prediction.regrown,
                "operations": {
                    k: {"n_windows": v.n_windows, "multiply_adds": v.multiply_adds} for k, v in watched.items()
                },
            }
        )
        del prepared, prediction
    network, most = max(watched.items(), key=lambda item: item[1].largest_multiply_adds)
    per_s = multiply_adds_per_s(
        most.largest,
        most.largest_shape,
        most.largest_multiply_adds,
        precision=predictor.precision,
        device=predictor.device,
    )
    where = {"network": "localizer" if network == "localizer" else "segmenter", "layer": most.largest_name}
    peak = {**where, "shape": most.largest_shape, "multiply_adds_per_s": per_s}
    return {"once": once, "cases": cases, "peak": peak, "precision": predictor.precision}


def together(options: Mapping) -> dict:
    """All cases as `nnunet_ext predict` predicts them, with the seconds from the first case on and the memory until each."""
    from nnunet_ext.prediction.predicting import MANIFEST, predict

    out = Path(options["out"])
    start_s, start_cpu_s = time.time(), sum(os.times()[:4])
    summary = predict(
        images=Path(options["images"]),
        out=out,
        model=Path(options["model"]),
        device=options["device"],
        full_precision=options["full_precision"],
        show_progress=False,
    )
    wall_s, cpu_s = time.time() - start_s, sum(os.times()[:4]) - start_cpu_s
    if summary.failed:
        raise RuntimeError(json.dumps(summary.failed))
    records = json.loads((out / MANIFEST).read_text())["cases"]
    first = min(file.stat().st_mtime for file in out.glob("*.nii.gz")) - start_s
    memory = [records[name]["peak_memory_mb"] for name in summary.written]
    return {"wall_s": wall_s, "cpu_s": cpu_s, "first_s": first, "peak_memory_mb": memory}


def _seconds(one: Step) -> dict[str, float]:
    return {"wall_s": one.wall_s, "cpu_s": one.cpu_s}


def main(argv: Sequence[str]) -> int:
    """Measure what the options, as JSON, say, and write it where they say."""
    options = json.loads(argv[0])
    measured = {"alone": alone, "together": together}[options["what"]](options)
    Path(options["result"]).write_text(json.dumps(measured))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
