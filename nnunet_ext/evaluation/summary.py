"""Scores per case and organ -> means over cases, the table papers print, and the files that keep them.

Mean, SD (sample SD, ddof = 1) and median are taken over cases; an organ in neither mask is in none of them and is listed.
"""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np

from nnunet_ext._version import __version__
from nnunet_ext.evaluation.metrics import METRICS
from nnunet_ext.files import misfit, read_json, write_text
from nnunet_ext.labels.table import PAIRS_KEY

#: Metrics that get a mean over cases, with the decimals of our tables.
SUMMARISED = {
    "dsc_percent": 2,
    "hd95_mm": 2,
    "surface_dice": 3,
    "mean_surface_distance_mm": 2,
    "volume_difference_ml": 3,
    "volume_difference_percent": 1,
}
#: Column heads of our tables.
HEADS = {
    "dsc_percent": "DSC %",
    "hd95_mm": "HD95 mm",
    "mean_surface_distance_mm": "mean surface distance mm",
    "surface_dice": "surface dice",
    "volume_difference_percent": "volume difference %",
}

DEFINITIONS = {
    "dsc_percent": "Dice similarity coefficient, in percent.",
    "hd95_mm": (
        "Larger of the two directed 95th percentiles of the surface distances, weighted by surface area "
        "(surface-distance library), in mm."
    ),
    "surface_dice": "Share of both surfaces, by area, within tolerance_mm of the other one, in [0, 1].",
    "mean_surface_distance_mm": "Mean distance of both surfaces to the other one, weighted by area, in mm.",
    "volume_difference_ml": "Volume of the prediction minus volume of the reference, in mL.",
    "volume_difference_percent": "The same in percent of the reference's volume; none where there is no reference.",
    "missed": (
        "Organ in the reference only: DSC 0, HD95 and mean surface distance = image diagonal, surface dice 0, volume "
        "-100 %; counted in the means."
    ),
    "invented": "Organ in the prediction only: scored like a missed organ, without volume in %; counted in the means.",
    "left_out": "Organ in neither mask: no score, not counted in the means.",
    "not_segmented": "Organ that the model leaves out: no score, not counted in the means.",
    "failed": (
        "Case that could not be scored: every organ of its reference counts as missed in the means, but for its volume. "
        "A case whose reference cannot be read is in no mean."
    ),
    "mean, sd, median": "Over cases; sd is the sample SD (ddof = 1), null for fewer than two cases; n = cases counted.",
    "all_organs": "Mean over the organs of a case first, then mean, sd and median of that over cases.",
    "label_crop_pass_rate": "Share of the reference's organ voxels inside the box that the segmenter saw, in [0, 1].",
}

_EVALUATION_JSON = {
    "per_case": {str: {str: {**dict.fromkeys(METRICS, (float, None)), "tolerance_mm": float, "flag": str}}},
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
}

Statistics = dict[str, float]  # mean, sd, median, n
Pairs = list[tuple[str, str]]  # (case, organ)


@dataclass(frozen=True)
class EvaluationSummary:
    """Scores of one folder of predictions, or of a model's cross-validation.

    Attributes:
        labels: Organ -> label value, as in `dataset.json`.
        tolerance_mm: Organ -> tolerance of the surface dice.
        rows: One dict per case and organ, with `case`, `organ`, `METRICS`, `tolerance_mm` and `flag` (empty, or one of
            missed, invented, left_out, not_segmented, failed). NaN where there is no number.
        files: Case -> prediction (None where there is none) and reference.
        failed: Case -> why it could not be scored.
        ignored: Predictions without a reference.
        not_compared: What else lies in the folders of predictions and references and is no label map, as `folder/name`.
        not_segmented: Organs that the model leaves out.
        pass_rates: Case -> label crop pass rate in [0, 1], where it is known.
        channels: Names of the images' channels, empty where unknown.
        model: The trained model, for a cross-validation.
        folds: Its folds that were scored.
        localizer: The localizer's scores on the same cases, or None.
        left_right_pairs: Left and right organs, for pictures; None where they are not known.
    """

    labels: dict[str, int]
    tolerance_mm: dict[str, float]
    rows: list[dict] = field(repr=False)
    files: dict[str, tuple[Path | None, Path]] = field(default_factory=dict, repr=False)
    failed: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
    not_segmented: tuple[str, ...] = ()
    pass_rates: dict[str, float] = field(default_factory=dict, repr=False)
    channels: tuple[str, ...] = ()
    model: Path | None = None
    folds: tuple[str, ...] = ()
    localizer: EvaluationSummary | None = field(default=None, repr=False)
    left_right_pairs: list[tuple[str, str]] | None = None

    @property
    def ok(self) -> bool:
        """Whether every case with a reference could be scored."""
        return not self.failed

    @property
    def kind(self) -> str:
        """What was scored, in words."""
        plural = "s" * (len(self.folds) > 1)
        return f"cross-validation, fold{plural} {', '.join(self.folds)}" if self.folds else "predictions"

    @property
    def organs(self) -> tuple[str, ...]:
        return tuple(self.tolerance_mm)

    @cached_property
    def cases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row["case"] for row in self.rows))

    @cached_property
    def per_organ(self) -> dict[str, dict[str, Statistics]]:
        """Organ -> metric -> `{"mean", "sd", "median", "n"}` over cases."""
        return {
            organ: {metric: statistics(self.values(organ, metric).values()) for metric in SUMMARISED}
            for organ in self.organs
        }

    @cached_property
    def all_organs(self) -> dict[str, Statistics]:
        """Metric -> statistics over cases of the mean over a case's organs."""
        return {metric: statistics(self.case_means(metric).values()) for metric in SUMMARISED}

    @property
    def missed(self) -> Pairs:
        return self._flagged("missed")

    @property
    def invented(self) -> Pairs:
        return self._flagged("invented")

    @property
    def left_out(self) -> Pairs:
        return self._flagged("left_out")

    @property
    def table_markdown(self) -> str:
        return to_markdown(self)

    def scores(self, case: str, metric: str = "dsc_percent") -> dict[str, float]:
        """One metric of one case: organ -> value (NaN where left out)."""
        return {row["organ"]: row[metric] for row in self.rows if row["case"] == case}

    def values(self, organ: str, metric: str = "dsc_percent") -> dict[str, float]:
        """One metric of one organ: case -> value (NaN where left out)."""
        return {row["case"]: row[metric] for row in self.rows if row["organ"] == organ}

    def case_means(self, metric: str = "dsc_percent") -> dict[str, float]:
        """Case -> mean of a metric over the case's organs; NaN where no organ has a value."""
        by_case: dict[str, list[float]] = {}
        for row in self.rows:
            by_case.setdefault(row["case"], []).append(row[metric])
        return {case: statistics(values)["mean"] for case, values in by_case.items()}

    def only(self, cases: Collection[str]) -> EvaluationSummary:
        """The same for some of the cases."""
        return replace(
            self,
            rows=[row for row in self.rows if row["case"] in cases],
            files={case: files for case, files in self.files.items() if case in cases},
            failed={case: reason for case, reason in self.failed.items() if case in cases},
            pass_rates={case: rate for case, rate in self.pass_rates.items() if case in cases},
            localizer=self.localizer and self.localizer.only(cases),
        )

    def _flagged(self, flag: str) -> Pairs:
        return [(row["case"], row["organ"]) for row in self.rows if row["flag"] == flag]


def statistics(values: Iterable[float]) -> Statistics:
    """Mean, sample SD (ddof = 1) and median of the values that are not NaN, and how many these are."""
    kept = [value for value in values if not np.isnan(value)]
    nan = float("nan")
    return {
        "mean": float(np.mean(kept)) if kept else nan,
        "sd": float(np.std(kept, ddof=1)) if len(kept) > 1 else nan,
        "median": float(np.median(kept)) if kept else nan,
        "n": len(kept),
    }


def plus_minus(found: Statistics, decimals: int) -> str:
    """`78.46 +- 6.23`; `-` where there is no value, and for the SD of a single one."""
    if not found["n"]:
        return "-"
    sd = "-" if np.isnan(found["sd"]) else f"{found['sd']:.{decimals}f}"
    return f"{found['mean']:.{decimals}f} +- {sd}"


# The table ------------------------------------------------------------------------------------------------------------


def to_markdown(summary: EvaluationSummary) -> str:
    """The table of `evaluation.md`, what was missed, invented and left out, and what the localizer reached."""
    header = ["organ", *HEADS.values(), "tolerance mm", "n"]
    lines = [
        [organ, *_cells(found), f"{summary.tolerance_mm[organ]:g}", str(found["dsc_percent"]["n"])]
        for organ, found in summary.per_organ.items()
    ]
    lines.append(["all organs", *_cells(summary.all_organs), "-", str(summary.all_organs["dsc_percent"]["n"])])
    reasons = "".join(f"\n  - {case}: {reason}" for case, reason in summary.failed.items()) or " none"
    n_cases = len(summary.cases)
    folds = f" {summary.kind.capitalize()}." if summary.folds else ""
    return f"""\
{_table(header, lines)}

{n_cases} case{"s" * (n_cases != 1)}.{folds} Mean +- SD (median) over n cases (sample SD); all organs: mean over the organs
of a case, then over cases. HD95: the larger of the two directed 95th percentiles of the surface distances, weighted by
area. Surface dice: share of both surfaces within the tolerance of the other. Volume difference: prediction minus reference.

- Missed (DSC 0, distances = image diagonal, counted): {_pairs(summary.missed)}
- Invented (no such organ in the reference; scored as missed, counted): {_pairs(summary.invented)}
- Left out (in neither mask, not counted): {_pairs(summary.left_out)}
- Not segmented by this model (no score, not counted): {", ".join(summary.not_segmented) or "none"}
- Failed cases (every organ counted as missed):{reasons}
- Predictions without a reference (ignored): {", ".join(summary.ignored) or "none"}
- Files and folders that are no label map (not compared): {", ".join(summary.not_compared) or "none"}
- Label crop pass rate: {_pass_rates(summary.pass_rates)}
{_localizer_markdown(summary)}"""


def _localizer_markdown(summary: EvaluationSummary) -> str:
    if summary.localizer is None:
        return ""
    both = [case for case in summary.localizer.cases if case in summary.cases]
    stages = summary.localizer.only(both), summary.only(both)
    metrics = ("dsc_percent", "hd95_mm")
    header = ["organ"] + [f"{stage} {HEADS[metric]}" for metric in metrics for stage in ("localizer", "segmenter")]
    found = [{**stage.per_organ, "all organs": stage.all_organs} for stage in stages]
    lines = [
        [organ] + [plus_minus(stage[organ][metric], SUMMARISED[metric]) for metric in metrics for stage in found]
        for organ in found[1]
        if organ in found[0]
    ]
    return f"""
Localizer against segmenter, mean +- SD over the {len(both)} cases of both:

{_table(header, lines)}

- Missed by the localizer: {_pairs(stages[0].missed)}
"""


def _pass_rates(rates: Mapping[str, float]) -> str:
    if not rates:
        return "unknown (no box was recorded)"
    short = {case: rate for case, rate in sorted(rates.items(), key=lambda item: item[1]) if rate < 1}
    listed = "; ".join(f"{case}: {100 * rate:.2f} %" for case, rate in short.items())
    mean = f"{100 * np.mean(list(rates.values())):.2f} % (mean over {len(rates)} cases)"
    return f"{mean}; below 100 %: {listed}" if short else f"{mean}; 100 % in each"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


def _cells(found: Mapping[str, Statistics]) -> list[str]:
    cells = []
    for metric in HEADS:
        decimals = SUMMARISED[metric]
        median = f" ({found[metric]['median']:.{decimals}f})" if found[metric]["n"] else ""
        cells.append(plus_minus(found[metric], decimals) + median)
    return cells


def _pairs(found: Pairs) -> str:
    by_case: dict[str, list[str]] = {}
    for case, organ in found:
        by_case.setdefault(case, []).append(organ)
    return "; ".join(f"{case}: {', '.join(organs)}" for case, organs in by_case.items()) or "none"


# Files ----------------------------------------------------------------------------------------------------------------


def write_evaluation(summary: EvaluationSummary, out: Path) -> None:
    """Write `evaluation.csv`, `.json` and `.md`, each complete or not at all; the localizer's into `localizer/`."""
    out.mkdir(parents=True, exist_ok=True)
    if summary.localizer is not None:
        write_evaluation(summary.localizer, out / "localizer")
    write_text(_csv(summary.rows), out / "evaluation.csv")
    write_text(_json(summary), out / "evaluation.json")
    write_text(summary.table_markdown, out / "evaluation.md")


def read_evaluation(folder: Path) -> EvaluationSummary:
    """What `write_evaluation` wrote.

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
    rows = [
        {
            "case": case,
            "organ": organ,
            **{k: v if isinstance(v, str) else float("nan" if v is None else v) for k, v in scores.items()},
        }
        for case, organs in content["per_case"].items()
        for organ, scores in organs.items()
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
        model=content["model"] and Path(content["model"]),
        folds=tuple(content["folds"]),
        localizer=read_evaluation(Path(folder) / "localizer") if content["localizer"] else None,
        left_right_pairs=content.get(PAIRS_KEY) and [(left, right) for left, right in content[PAIRS_KEY]],
    )


def _csv(rows: Sequence[Mapping]) -> str:
    """One line per case and organ; an empty field where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["case", "organ", *METRICS, "tolerance_mm", "flag"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if _is_nan(value) else value for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _json(summary: EvaluationSummary) -> str:
    def pairs(found: Pairs) -> list[dict]:
        return [{"case": case, "organ": organ} for case, organ in found]

    per_case: dict[str, dict] = {case: {} for case in summary.cases}
    for row in summary.rows:
        per_case[row["case"]][row["organ"]] = {k: v for k, v in row.items() if k not in ("case", "organ")}
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
            "mean": statistics(summary.pass_rates.values())["mean"],
            "cases": summary.pass_rates,
        },
        "localizer": summary.localizer is not None,
        "files": {case: [path and str(path) for path in files] for case, files in summary.files.items()},
        "per_case": per_case,
    }
    return json.dumps(_nan_to_none(content), indent=1, allow_nan=False) + "\n"


def _nan_to_none(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(item) for item in value]
    return None if _is_nan(value) else value


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and np.isnan(value)
