"""CPU seconds and peak memory of the conversion of a case, step by step, next to stock nnU-Net on the same case.

    nnunet_ext benchmark convert -i patients --register

Stock nnU-Net has no such conversion. It starts from the files that `convert` writes. The figure next to ours is all its own
work on such a case before a training, which is its fingerprint and its preprocessing for `3d_fullres`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from nnunet_ext.end_to_end.demo import Demo
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.processes import run_command, usable_cores
from nnunet_ext.steps import OTHER, recorded_steps, step

#: Of the data set that is made. The number matters only in `out`.
DATASET_ID, NAME = 511, "Conversion"
STOCK_PLANS, STOCK_CONFIGURATION = "nnUNetPlans", "3d_fullres"
#: As in the workers of `convert`: the cases run in parallel, not their steps.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")


@holding(owned_folder, "out")
def benchmark_convert(
    source: Path | None = None,
    *,
    modalities: Sequence[str] | None = None,
    size: str = "tiny",
    n_cases: int = 2,
    unregistered: bool = False,
    register: bool = False,
    preview: bool = True,
    stock: bool = True,
    out: Path = Path("benchmark"),
) -> str:
    """Measure the conversion of some cases, step by step. Returns the table, in Markdown.

    Args:
        source: Source of `convert`. None makes phantoms in `out` and measures that too.
        modalities: As for `convert`.
        size: Of phantoms.
        n_cases: How many phantoms.
        unregistered: Phantoms whose MR is on grids of its own, moved against the CT.
        register: Convert with registration.
        preview: Draw the pictures of the steps, as `convert` does.
        stock: Also measure stock nnU-Net on the same cases.
        out: Folder for `conversion.md`, `conversion.json` and all that is made on the way.

    Raises:
        RuntimeError: If a command fails or a case cannot be converted, with the last lines.
    """
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    demo = Demo(out)
    demo.environment |= ONE_THREAD
    dataset = f"Dataset{DATASET_ID}_{NAME}"
    for kind in ("raw", "preprocessed"):
        shutil.rmtree(Path(demo.environment[f"nnUNet_{kind}"], dataset), ignore_errors=True)
    made: dict = {"steps": []}
    if source is None:
        source = out / f"phantoms_{size}"
        shutil.rmtree(source, ignore_errors=True)
        options = {"out": str(source), "n_cases": n_cases, "size": size, "unregistered": unregistered}
        made = _apart(demo, "make", options)
    options = {
        "source": str(Path(source).resolve()),
        "modalities": modalities,
        "register": register,
        "preview": preview,
    }
    converted = _apart(demo, "convert", options)
    if converted["failed"]:
        raise RuntimeError("; ".join(f"case '{case}': {reason}" for case, reason in converted["failed"].items()))
    stock_steps, no_stock = [], "left out"
    if stock and not any(Path(demo.environment["nnUNet_raw"], dataset).glob("labelsTr/*")):
        no_stock = "it plans by labelled cases, and there is none"
    elif stock:
        _run(demo, [demo.executable("nnUNetv2_extract_fingerprint"), "-d", str(DATASET_ID), "-np", "1"])
        _run(demo, [demo.executable("nnUNetv2_plan_experiment"), "-d", str(DATASET_ID), "-pl", "ExperimentPlanner"])
        stock_steps = _apart(demo, "stock", {})["steps"]
    about = {
        "import_cpu_s": converted["import_cpu_s"],
        "versions": converted["versions"],
        "register": register,
        "processor": platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "no_stock": "" if stock_steps else no_stock,
    }
    record = {**about, "made": made["steps"], "converted": converted["steps"], "stock": stock_steps}
    text = table(record)
    (out / "conversion.md").write_text(text + "\n")
    (out / "conversion.json").write_text(json.dumps(record, indent=1) + "\n")
    return text


def table(record: Mapping) -> str:
    """Markdown with a row per case, a column per step with CPU seconds and peak memory, and the ratio to stock nnU-Net."""
    ours, stock = record["converted"], record["stock"]
    parts = []
    if record["made"]:
        parts += [*_rows(record["made"], "phantom", _steps(record["made"])), ""]
    steps = [name for name in _steps(ours) if name != OTHER] + [OTHER]
    stock_steps = _steps(stock)
    parts += _rows(ours, "case", steps, stock, stock_steps)
    which = "with" if record["register"] else "without"
    lines = [
        f"CPU seconds and, after the stroke, peak resident memory in MB; {which} registration. One process, one thread; "
        f"{record['processor']}, {record['cores']} cores. Imports take {record['import_cpu_s']:.1f} s once per process.",
    ]
    if stock:
        lines.append(
            "Stock nnU-Net converts nothing: it starts from the files that `convert` writes. Its figure is its fingerprint "
            f"of the same case and its preprocessing for `{STOCK_CONFIGURATION}`, without imports; in brackets our total "
            "divided by it."
        )
    else:
        lines.append(f"Stock nnU-Net was not measured: {record['no_stock']}.")
    return "\n".join([*parts, "", " ".join(lines)])


def _steps(records: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(record["name"] for record in records))


def _rows(
    records: Sequence[Mapping],
    what: str,
    steps: Sequence[str],
    stock: Sequence[Mapping] = (),
    stock_steps: Sequence[str] = (),
) -> list[str]:
    found = {(r["case"], r["name"]): r for r in (*records, *stock)}

    def cell(case: str, name: str) -> str:
        step = found.get((case, name))
        if step is None:
            return ""
        return f"{step['cpu_s']:.2f}" + ("" if step["peak_mb"] is None else f" / {step['peak_mb']:.0f}")

    def total(case: str, names: Sequence[str]) -> float:
        return sum(found[case, name]["cpu_s"] for name in names if (case, name) in found)

    heads = [what, *steps, "all", *(f"stock {name}" for name in stock_steps), *(["stock all (ratio)"] if stock else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in dict.fromkeys(r["case"] for r in records):
        ours, theirs = total(case, steps), total(case, stock_steps)
        cells = [
            case,
            *(cell(case, name) for name in steps),
            f"{ours:.2f}",
            *(cell(case, name) for name in stock_steps),
        ]
        if stock:
            cells.append(f"{theirs:.2f} ({ours / theirs:.1f}x)" if theirs else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _run(demo: Demo, command: Sequence[str]) -> None:
    failed = f"{Path(command[0]).name} failed"
    run_command(command, environment=demo.environment, folder=demo.out, failed=failed)


def _apart(demo: Demo, what: str, options: Mapping) -> dict:
    """The result of `MEASURES[what]`, measured in a process of its own."""
    print(f"{what} ...", flush=True)
    result = demo.out / f".{what}.json"
    module = "nnunet_ext.end_to_end.conversion_benchmark" if __name__ == "__main__" else __name__
    _run(demo, [demo.executable("python"), "-m", module, what, json.dumps(options), str(result)])
    try:
        return json.loads(result.read_text())
    finally:
        result.unlink()


# --------------------------------------------------------------------------------------------- in a process of its own


def make(options: Mapping) -> dict:
    """Steps of making phantoms."""
    from nnunet_ext.phantom.making import make_phantoms

    with recorded_steps() as steps:
        make_phantoms(Path(options["out"]), **{k: v for k, v in options.items() if k != "out"}, n_processes=1)
    return {"steps": [asdict(s) for s in steps]}


def convert(options: Mapping) -> dict:
    """Steps of converting a source, which cases failed, and CPU seconds of the imports."""
    from nnunet_ext.dataset_conversion.convert import convert as convert_source

    import_cpu_s = sum(os.times()[:2])
    with recorded_steps() as steps:
        summary = convert_source(
            **{**options, "source": Path(options["source"])},
            dataset_id=DATASET_ID,
            name=NAME,
            unlabelled=True,
            n_processes=1,
        )
    provenance = next(iter(sorted(summary.dataset_folder.glob("provenance/*.json"))), None)
    return {
        "steps": [asdict(s) for s in steps],
        "failed": summary.failed,
        "import_cpu_s": import_cpu_s,
        "versions": {} if provenance is None else json.loads(provenance.read_text())["versions"],
    }


def stock(options: Mapping) -> dict:
    """Steps of stock nnU-Net on every converted case. `options` are empty."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset = f"Dataset{DATASET_ID}_{NAME}"
    raw, out = Path(nnUNet_raw, dataset), Path(nnUNet_preprocessed, dataset)
    plans = PlansManager(str(out / f"{STOCK_PLANS}.json"))
    configuration = plans.get_configuration(STOCK_CONFIGURATION)
    preprocessor = configuration.preprocessor_class(verbose=False)
    (out / "stock").mkdir()
    with recorded_steps() as steps:
        for first in sorted(raw.glob("images*/*_0000.nii.gz")):
            case = first.name.removesuffix("_0000.nii.gz")
            images = [str(file) for file in sorted(first.parent.glob(f"{case}_[0-9][0-9][0-9][0-9].nii.gz"))]
            labels = first.parents[1] / first.parent.name.replace("images", "labels") / f"{case}.nii.gz"
            if labels.is_file():
                with step("fingerprint", case=case):
                    DatasetFingerprintExtractor.analyze_case(images, str(labels), plans.image_reader_writer_class)
            with step("preprocessing", case=case):
                preprocessor.run_case_save(
                    str(out / "stock" / case),
                    images,
                    str(labels) if labels.is_file() else None,
                    plans,
                    configuration,
                    str(raw / "dataset.json"),
                )
    return {"steps": [asdict(s) for s in steps]}


MEASURES = {"make": make, "convert": convert, "stock": stock}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one thing, options as JSON, into a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("options", type=json.loads)
    parser.add_argument("result", type=Path)
    a = parser.parse_args(argv)
    a.result.write_text(json.dumps(MEASURES[a.what](a.options)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
