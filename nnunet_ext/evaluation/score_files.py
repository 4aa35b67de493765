"""`evaluation.json`, `evaluation.csv` and `evaluation.md`: written, and read again."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path

import numpy as np

from nnunet_ext._version import __version__
from nnunet_ext.evaluation.metrics import METRICS
from nnunet_ext.evaluation.statistics import Mean, Score, mean_of
from nnunet_ext.evaluation.summary import DEFINITIONS, EvaluationSummary, Pairs
from nnunet_ext.files import misfit, read_json, write_text
from nnunet_ext.labels.pairs import PAIRS_KEY

#: Metrics that evaluations of earlier versions lack. They are read as NaN.
_LATER = ("plain_hd95_mm",)
_NUMBERS = {f"{name}?" if name in _LATER else name: (float, None) for name in METRICS}
_EVALUATION_JSON = {
    "per_case": {str: {str: {**_NUMBERS, "tolerance_mm": float, "flag": str}}},
    "labels": {str: (int, [int])},
    "tolerance_mm": {str: float},
    "files": {str: [(str, None), str]},
    "failed": {str: str},
    "ignored": [str],
    "not_segmented": [str],
    "label_crop_pass_rate": {"cases": {str: float}},
    "channels": [str],
    "model": (str, None),
    "folds": [str],
    "localizer": bool,
    "fold_models?": int,
    "by_postprocessing?": bool,
}


def write_evaluation(summary: EvaluationSummary, out: Path) -> None:
    """Write `evaluation.csv`, `.json` and `.md`, each complete or not at all.

    The localizer's go to `localizer/`, those of single folds to `folds/1/`, `folds/2/`, ... Those of a model with its
    postprocessing go to `with_postprocessing/`, those of predictions without it to `without_postprocessing/`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number, scores in enumerate(summary.of_folds, start=1):
        write_evaluation(scores, out / "folds" / str(number))
    if summary.localizer is not None:
        write_evaluation(summary.localizer, out / "localizer")
    if summary.with_other_postprocessing is not None:
        write_evaluation(summary.with_other_postprocessing, out / _other_folder(summary.model))
    write_text(_csv(summary.rows), out / "evaluation.csv")
    write_text(_json(summary), out / "evaluation.json")
    write_text(summary.table_markdown, out / "evaluation.md")


def read_evaluation(folder: Path) -> EvaluationSummary:
    """The scores that `write_evaluation` wrote.

    Raises:
        FileNotFoundError: If there is no `evaluation.json`.
        ValueError: If it is not one of ours, or of an older version.
    """
    path = Path(folder) / "evaluation.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no evaluation.json. Run `nnunet_ext evaluate ... -o {folder}` first.")
    content = read_json(path, remedy="run `nnunet_ext evaluate` again")
    if wrong := misfit(content, _EVALUATION_JSON):
        raise ValueError(f"{path} is damaged or of an older version ({wrong}). Run `nnunet_ext evaluate` again.")
    model = content["model"] and Path(content["model"])
    other = read_evaluation(Path(folder) / _other_folder(model)) if content.get("by_postprocessing") else None
    rows = [
        _score(case, organ, values) for case, organs in content["per_case"].items() for organ, values in organs.items()
    ]
    return EvaluationSummary(
        labels=content["labels"],
        tolerance_mm=content["tolerance_mm"],
        rows=rows,
        files={
            case: (prediction and Path(prediction), Path(reference))
            for case, (prediction, reference) in content["files"].items()
        },
        failed=content["failed"],
        ignored=tuple(content["ignored"]),
        not_compared=tuple(content.get("not_compared", ())),  # older evaluations have none
        not_segmented=tuple(content["not_segmented"]),
        pass_rates=content["label_crop_pass_rate"]["cases"],
        channels=tuple(content["channels"]),
        model=model,
        folds=tuple(content["folds"]),
        localizer=read_evaluation(Path(folder) / "localizer") if content["localizer"] else None,
        of_folds=tuple(
            read_evaluation(Path(folder) / "folds" / str(number + 1)) for number in range(content.get("fold_models", 0))
        ),
        left_right_pairs=content.get(PAIRS_KEY) and [(left, right) for left, right in content[PAIRS_KEY]],
        with_other_postprocessing=other,
    )


def _other_folder(model: Path | None) -> str:
    """Of the scores with a model's postprocessing, or of those of predictions without."""
    return "without_postprocessing" if model is None else "with_postprocessing"


def _score(case: str, organ: str, values: Mapping) -> Score:
    found = {**dict.fromkeys(_LATER), **values}
    numbers = {name: float("nan" if found[name] is None else found[name]) for name in (*METRICS, "tolerance_mm")}
    return Score(case, organ, flag=values["flag"], **numbers)


def _csv(rows: Sequence[Score]) -> str:
    """One line per case and organ. NaN is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Score)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if _is_nan(value) else value for key, value in asdict(row).items()} for row in rows)
    return buffer.getvalue()


def _json(summary: EvaluationSummary) -> str:
    def pairs(found: Pairs) -> list[dict]:
        return [{"case": case, "organ": organ} for case, organ in found]

    per_case: dict[str, dict] = {case: {} for case in summary.cases}
    for row in summary.rows:
        per_case[row.case][row.organ] = {k: v for k, v in asdict(row).items() if k not in ("case", "organ")}
    content = {
        "definitions": DEFINITIONS,
        "versions": {
            "nnunet_ext": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("surface-distance", "SimpleITK", "numpy", "scipy")},
        },
        "model": summary.model and str(summary.model),
        "folds": summary.folds,
        "channels": summary.channels,
        "labels": summary.labels,
        PAIRS_KEY: summary.left_right_pairs,
        "tolerance_mm": summary.tolerance_mm,
        "n_cases": len(summary.cases),
        "per_organ": summary.per_organ,
        "all_organs": summary.all_organs,
        "missed": pairs(summary.missed),
        "invented": pairs(summary.invented),
        "left_out": pairs(summary.left_out),
        "failed": summary.failed,
        "ignored": summary.ignored,
        "not_compared": summary.not_compared,
        "not_segmented": summary.not_segmented,
        "label_crop_pass_rate": {
            "mean": mean_of(summary.pass_rates.values()).value,
            "cases": summary.pass_rates,
        },
        "localizer": summary.localizer is not None,
        "fold_models": len(summary.of_folds),
        "by_postprocessing": summary.with_other_postprocessing is not None,
        "files": {case: [path and str(path) for path in files] for case, files in summary.files.items()},
        "per_case": per_case,
    }
    return json.dumps(_nan_to_none(content), indent=1, allow_nan=False) + "\n"


def _nan_to_none(value: object) -> object:
    if isinstance(value, Mean):
        return _nan_to_none(value.as_json())
    if isinstance(value, Mapping):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(item) for item in value]
    return None if _is_nan(value) else value


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and np.isnan(value)
