"""Predictions against references: per-case scores, means over cases, and a table laid out as papers print it.

What counts, for each case that has a reference:

- every organ gets the metrics of `nnunet_ext.metrics`, whose module text says what an empty mask is worth;
- a FAILED case (no prediction, an unreadable file, another grid, an unknown label) scores as if every organ of its
  reference were missed: DSC 0, HD95 = image diagonal, surface dice 0. A lost case must not improve the mean. Only a
  reference that cannot be read stays out of the means: nobody knows which organs it holds;
- mean, SD (sample SD, ddof = 1) and median are taken over cases; an organ in neither mask is left out and listed;
- an organ that the model does not segment, because its crop is too small for it, has no score in any case: `left_out_organs`
  of the `dataset.json` beside the predictions names them.

Label maps of one case are compared voxel by voxel, so their grids are compared first. A prediction on the reference's
grid with other axis order or flips (another writer's orientation) is reoriented; any other difference fails the case.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import multiprocessing
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from tqdm import tqdm

from nnunet_ext import __version__
from nnunet_ext.labels import LEFT_OUT_KEY
from nnunet_ext.metrics import METRICS, image_diagonal_mm, presence, score_organ

logger = logging.getLogger(__name__)

FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")

#: Corners of two grids may lie this far apart, in voxels (of the shortest edge). NIfTI keeps directions as float32
#: quaternions, good to a few hundredths of a voxel at the far corner; a shift that moves a score is far larger.
GRID_TOLERANCE_VOXELS = 0.05

KILLED = "a scoring process ended (out of memory? a script without `if __name__ == '__main__'`?); use n_processes=1"

#: Metrics that get a mean over cases, with the decimals of our tables.
SUMMARISED = {
    "dsc_percent": 2,
    "hd95_mm": 2,
    "surface_dice": 3,
    "mean_surface_distance_mm": 2,
    "volume_difference_ml": 3,
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
    "missed": "Organ in the reference only: DSC 0, HD95 = image diagonal, surface dice 0; counted in the means.",
    "invented": "Organ in the prediction only: scored like a missed organ; counted in the means.",
    "left_out": "Organ in neither mask: no score, not counted in the means.",
    "not_segmented": "Organ that the model leaves out: no score, not counted in the means.",
    "failed": (
        "Case that could not be scored: every organ of its reference counts as missed in the means. "
        "A case whose reference cannot be read is in no mean."
    ),
    "mean, sd, median": "Over cases; sd is the sample SD (ddof = 1), null for fewer than two cases; n = cases counted.",
    "all_organs": "Mean over the organs of a case first, then mean, sd and median of that over cases.",
}


@dataclass(frozen=True)
class EvaluationSummary:
    """Scores of one folder of predictions.

    `rows` is the CSV: one dict per case and organ, with `case`, `organ`, `METRICS`, `tolerance_mm` and `flag` (empty,
    or one of missed, invented, left_out, not_segmented, failed). Statistics are `{"mean", "sd", "median", "n"}` per metric.
    """

    labels: dict[str, int]
    tolerance_mm: dict[str, float]
    cases: tuple[str, ...]
    rows: list[dict] = field(repr=False)
    per_organ: dict[str, dict[str, dict[str, float]]]
    all_organs: dict[str, dict[str, float]]
    missed: list[tuple[str, str]]
    invented: list[tuple[str, str]]
    left_out: list[tuple[str, str]]
    failed: dict[str, str]
    ignored: tuple[str, ...]
    not_segmented: tuple[str, ...]
    table_markdown: str = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every case with a reference could be scored."""
        return not self.failed

    def scores(self, case: str, metric: str = "dsc_percent") -> dict[str, float]:
        """One metric of one case: organ -> value (NaN where left out)."""
        return {row["organ"]: row[metric] for row in self.rows if row["case"] == case}


def evaluate(
    predictions: Path,
    references: Path,
    out: Path,
    *,
    labels: Mapping[str, int] | None = None,
    tolerance_mm: float | Mapping[str, float] = 1.0,
    n_processes: int = 2,
    show_progress: bool = True,
) -> EvaluationSummary:
    """Score every prediction that has a reference; write `evaluation.csv`, `evaluation.json` and `evaluation.md`.

    Args:
        predictions: Folder with one label map per case; the file name without its ending is the case.
        references: Folder with the reference label maps, same names; the file ending may differ.
        out: Folder for the three files; made if missing. Each replaces an old one only when it is complete.
        labels: Organ -> label value, or a list of values for a region. Default: `labels` of the `dataset.json` in
            `predictions`, `references` or the folder above `references`. `background` is skipped; voxels that the
            reference marks `ignore` count as background in both.
        tolerance_mm: Tolerance of the surface dice, for all organs or by organ.
        n_processes: Processes that read and score cases; 1 stays in this process.
        show_progress: Draw a progress bar.

    Returns:
        The scores. Cases that failed are in `.failed` with their reason, the others are scored all the same.

    Raises:
        FileNotFoundError: If a folder does not exist, there is no reference, or no `dataset.json` names the labels.
        ValueError: If two files of a folder are the same case, a label or tolerance is unusable.
    """
    predictions, references, out = Path(predictions), Path(references), Path(out)
    prediction_of, reference_of = find_label_maps(predictions), find_label_maps(references)
    if not reference_of:
        raise FileNotFoundError(f"No label map ({', '.join(FILE_ENDINGS)}) in the references folder {references}.")
    labels = dict(labels) if labels is not None else labels_from_dataset_json(predictions, references)
    organs = organ_values(labels)
    tolerances_mm = _tolerances(organs, tolerance_mm)
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}; give 1 or more.")

    jobs = [
        (case, prediction_of.get(case), reference_of[case], organs, _values(labels.get("ignore", ())), tolerances_mm)
        for case in sorted(reference_of)
    ]
    results = dict(tqdm(_run(jobs, n_processes), total=len(jobs), desc="Scoring", disable=not show_progress))

    not_segmented = organs_not_segmented(predictions, organs)
    rows = [row for case in sorted(results) for row in results[case][0]]
    for row in rows:
        if row["organ"] in not_segmented:
            row.update(dict.fromkeys(METRICS, float("nan")), flag="not_segmented")
    failed = {case: results[case][1] for case in sorted(results) if results[case][1]}
    ignored = tuple(sorted(set(prediction_of) - set(reference_of)))
    if ignored:
        logger.warning("No reference for %d prediction(s), ignored: %s", len(ignored), ", ".join(ignored))
    summary = summarise(
        rows,
        labels=labels,
        tolerance_mm=tolerances_mm,
        failed=failed,
        ignored=ignored,
        not_segmented=not_segmented,
    )

    out.mkdir(parents=True, exist_ok=True)
    _write(out / "evaluation.csv", _csv(summary.rows))
    _write(out / "evaluation.json", _json(summary, predictions, references))
    _write(out / "evaluation.md", summary.table_markdown)
    return summary


def find_label_maps(folder: Path) -> dict[str, Path]:
    """Case -> file for every label map in a folder (not below it); hidden files are skipped.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If two files are the same case, e.g. `case_1.nii.gz` and `case_1.nrrd`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((e for e in FILE_ENDINGS if path.name.endswith(e)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        case = path.name[: -len(ending)]
        if case in found:
            raise ValueError(
                f"case '{case}' is there twice in {folder}: {found[case].name} and {path.name}. Remove one."
            )
        found[case] = path
    return found


def labels_from_dataset_json(predictions: Path, references: Path) -> dict[str, int]:
    """`labels` of the first `dataset.json` beside the predictions, beside the references, or one folder above these.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file found has no `labels`.
    """
    looked = (predictions / "dataset.json", references / "dataset.json", references.parent / "dataset.json")
    for path in looked:
        if path.is_file():
            labels = json.loads(path.read_text(encoding="utf-8")).get("labels")
            if not labels:
                raise ValueError(f"{path} has no 'labels'. Add them, or name the labels yourself.")
            return dict(labels)
    raise FileNotFoundError(
        "No dataset.json says which label is which organ. Looked for "
        + ", ".join(str(path) for path in looked)
        + ". Copy the one of the dataset there, or name the labels yourself."
    )


def organs_not_segmented(predictions: Path, organs: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Those of the organs that the `dataset.json` beside the predictions says their model leaves out."""
    path = predictions / "dataset.json"
    left_out = json.loads(path.read_text(encoding="utf-8")).get(LEFT_OUT_KEY, ()) if path.is_file() else ()
    return tuple(organ for organ in organs if organ in left_out)


def organ_values(labels: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Organ -> its label values (several for a region), without `background` and `ignore`.

    Raises:
        ValueError: If no organ remains or one has a value below 1.
    """
    organs = {name: _values(label) for name, label in labels.items() if name not in ("background", "ignore")}
    organs = {name: values for name, values in organs.items() if values != (0,)}
    if not organs:
        raise ValueError(f"the labels {dict(labels)} name no organ. Give at least one, e.g. {{'Eye_L': 1}}.")
    for name, values in organs.items():
        if not values or min(values) < 1:
            raise ValueError(f"organ '{name}' has label {labels[name]}; organs need label values of 1 or more.")
    return organs


def grid_difference(prediction: sitk.Image, reference: sitk.Image) -> str | None:
    """What keeps two images from lying on one voxel grid, in words; None if they do, to `GRID_TOLERANCE_VOXELS`."""
    if prediction.GetSize() != reference.GetSize():
        return f"size differs: prediction {prediction.GetSize()}, reference {reference.GetSize()} voxels (X, Y, Z)"
    tolerance_mm = GRID_TOLERANCE_VOXELS * min(reference.GetSpacing())
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in reference.GetSize()])).reshape(3, -1)
    apart_mm = np.linalg.norm(_corners_lps_mm(prediction, corners) - _corners_lps_mm(reference, corners), axis=0).max()
    if apart_mm <= tolerance_mm:
        return None
    # Name the property that explains most of it, measured as the shift it causes at the far corner.
    size = np.subtract(reference.GetSize(), 1)
    extent_mm = np.multiply(size, reference.GetSpacing())
    p_direction, r_direction = (np.reshape(i.GetDirection(), (3, 3)) for i in (prediction, reference))
    shifts_mm = {
        "spacing": np.linalg.norm(np.subtract(prediction.GetSpacing(), reference.GetSpacing()) * size),
        "origin": np.linalg.norm(np.subtract(prediction.GetOrigin(), reference.GetOrigin())),
        "direction": np.linalg.norm(np.abs(p_direction - r_direction) @ extent_mm),
    }
    name = max(shifts_mm, key=shifts_mm.get)
    values = [tuple(round(v, 4) for v in getattr(i, f"Get{name.capitalize()}")()) for i in (prediction, reference)]
    return f"{name} differs: prediction {values[0]}, reference {values[1]}; corners lie {apart_mm:.3g} mm apart"


def on_grid_of(prediction: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """The prediction with axes ordered and flipped as the reference's; the voxels themselves stay what they are.

    Raises:
        ValueError: If the two grids are not the same voxels; the message names the difference.
    """
    if grid_difference(prediction, reference) is None:
        return prediction
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(reference.GetDirection())
    reoriented = sitk.DICOMOrient(prediction, code)
    difference = grid_difference(reoriented, reference)
    if difference is not None:
        raise ValueError(f"prediction and reference lie on different grids: {difference}")
    return reoriented


def summarise(
    rows: Sequence[Mapping],
    *,
    labels: Mapping[str, int],
    tolerance_mm: Mapping[str, float],
    failed: Mapping[str, str],
    ignored: Sequence[str] = (),
    not_segmented: Sequence[str] = (),
) -> EvaluationSummary:
    """Means over cases, lists of what went wrong, and the table, from the rows of `evaluate`."""
    organs = list(tolerance_mm)
    cases = tuple(dict.fromkeys(row["case"] for row in rows))
    per_organ = {
        organ: {metric: _statistics(row[metric] for row in rows if row["organ"] == organ) for metric in SUMMARISED}
        for organ in organs
    }
    all_organs = {
        metric: _statistics(_mean(row[metric] for row in rows if row["case"] == case) for case in cases)
        for metric in SUMMARISED
    }
    named = {
        flag: [(row["case"], row["organ"]) for row in rows if row["flag"] == flag]
        for flag in ("missed", "invented", "left_out")
    }
    return EvaluationSummary(
        labels=dict(labels),
        tolerance_mm=dict(tolerance_mm),
        cases=cases,
        rows=[dict(row) for row in rows],
        per_organ=per_organ,
        all_organs=all_organs,
        failed=dict(failed),
        ignored=tuple(ignored),
        not_segmented=tuple(not_segmented),
        table_markdown=_markdown(
            per_organ, all_organs, tolerance_mm, len(cases), failed, ignored, not_segmented, **named
        ),
        **named,
    )


# One case -------------------------------------------------------------------------------------------------------------


def _run(jobs: list[tuple], n_processes: int) -> Iterator[tuple[str, tuple[list[dict], str]]]:
    """Yield `(case, (rows, reason it failed or ""))` in the order the cases finish."""
    n_processes = min(n_processes, len(jobs))
    if n_processes == 1:
        for job in jobs:
            yield job[0], _score_case(*job)
        return
    # Not fork: a forked child inherits ITK's thread pool without its threads and can wait for them forever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=context, initializer=_single_threaded) as pool:
        futures = {pool.submit(_score_case, *job): job for job in jobs}
        for future in as_completed(futures):
            job = futures[future]
            try:
                yield job[0], future.result()
            except BrokenProcessPool:
                yield job[0], _failed_case(*job, KILLED)


def _single_threaded() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # one case per process already fills the cores


def _score_case(
    case: str,
    prediction_path: Path | None,
    reference_path: Path,
    organs: Mapping[str, tuple[int, ...]],
    ignore: tuple[int, ...],
    tolerances_mm: Mapping[str, float],
) -> tuple[list[dict], str]:
    """Rows of one case and the reason it failed, or an empty string."""
    job = (case, prediction_path, reference_path, organs, ignore, tolerances_mm)
    try:
        if prediction_path is None:
            raise FileNotFoundError("no prediction")
        reference_image = _read(reference_path)
        prediction_image = on_grid_of(_read(prediction_path), reference_image)
        known = {value for values in organs.values() for value in values} | set(ignore)
        reference, reference_boxes = _label_boxes(reference_image, known, reference_path)
        prediction, prediction_boxes = _label_boxes(prediction_image, known, prediction_path)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:  # SimpleITK: RuntimeError
        return _failed_case(*job, _one_line(error))

    if any(value in reference_boxes for value in ignore):
        ignored = np.isin(reference, ignore)
        reference, prediction = np.where(ignored, 0, reference), np.where(ignored, 0, prediction)
    spacing_mm = reference_image.GetSpacing()[::-1]
    worst_mm = image_diagonal_mm(reference.shape, spacing_mm)
    rows = []
    for organ, values in organs.items():
        box = _union([boxes[v] for boxes in (reference_boxes, prediction_boxes) for v in values if v in boxes])
        masks = _mask(reference[box], values), _mask(prediction[box], values)
        scores = score_organ(*masks, spacing_mm=spacing_mm, tolerance_mm=tolerances_mm[organ], worst_mm=worst_mm)
        flag = presence(*masks)
        rows.append(_row(case, organ, scores, tolerances_mm[organ], "" if flag == "scored" else flag))
    return rows, ""


def _failed_case(
    case: str,
    prediction_path: Path | None,
    reference_path: Path,
    organs: Mapping[str, tuple[int, ...]],
    ignore: tuple[int, ...],
    tolerances_mm: Mapping[str, float],
    reason: str,
) -> tuple[list[dict], str]:
    """Rows of a case that could not be scored: every organ of its reference counts as missed."""
    try:
        image = _read(reference_path)
        reference = sitk.GetArrayViewFromImage(image)
        spacing_mm = image.GetSpacing()[::-1]
        masks = {organ: _mask(reference, values) for organ, values in organs.items()}
        scores = {
            organ: score_organ(mask, np.zeros_like(mask), spacing_mm=spacing_mm, tolerance_mm=tolerances_mm[organ])
            for organ, mask in masks.items()
        }
    except (OSError, RuntimeError, ValueError):  # unreadable reference: no organ to count as missed
        nothing = np.zeros((1, 1, 1), bool)
        scores = {organ: score_organ(nothing, nothing, spacing_mm=(1, 1, 1)) for organ in organs}
        scores = {organ: dict.fromkeys(found, float("nan")) for organ, found in scores.items()}
    unknown = {"prediction_ml": float("nan"), "volume_difference_ml": float("nan")}
    return [_row(case, organ, scores[organ] | unknown, tolerances_mm[organ], "failed") for organ in organs], reason


def _row(case: str, organ: str, scores: Mapping[str, float], tolerance_mm: float, flag: str) -> dict:
    return {"case": case, "organ": organ, **scores, "tolerance_mm": tolerance_mm, "flag": flag}


def _read(path: Path) -> sitk.Image:
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path.name} cannot be read as an image ({path.parent})") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(
            f"{path.name} is not a 3D label map: {image.GetDimension()} dimensions, "
            f"{image.GetNumberOfComponentsPerPixel()} values per voxel ({path.parent})"
        )
    return image


def _label_boxes(image: sitk.Image, known: set[int], path: Path) -> tuple[np.ndarray, dict[int, tuple[slice, ...]]]:
    """The voxels, and label value -> bounding box for every label present. One pass for all labels.

    Raises:
        ValueError: If a voxel holds a value that is neither 0 nor in `known`.
    """
    array = sitk.GetArrayFromImage(image)
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" or low < 0 or high > max(known, default=0):
        present = {value.item() for value in np.unique(array)} - {0}
        _refuse_unknown(present, known, path)
        array = array.astype(np.int32)
    boxes = {value: box for value, box in enumerate(ndimage.find_objects(array), start=1) if box is not None}
    _refuse_unknown(set(boxes), known, path)
    return array, boxes


def _refuse_unknown(present: set[float], known: set[int], path: Path) -> None:
    unknown = sorted(present - known)
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"{path.name} holds label {shown}, which is not in the mapping {sorted(known)} ({path.parent})"
        )


def _mask(array: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    return array == values[0] if len(values) == 1 else np.isin(array, values)


def _union(boxes: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    if not boxes:
        return (slice(0, 1),) * 3  # neither mask holds the organ: any voxel shows that
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _corners_lps_mm(image: sitk.Image, corners: np.ndarray) -> np.ndarray:
    axes = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    return np.asarray(image.GetOrigin())[:, None] + axes @ corners


# Settings -------------------------------------------------------------------------------------------------------------


def _values(label: int | Sequence[int]) -> tuple[int, ...]:
    return (int(label),) if np.isscalar(label) else tuple(int(v) for v in label)


def _tolerances(organs: Mapping[str, tuple[int, ...]], tolerance_mm: float | Mapping[str, float]) -> dict[str, float]:
    if not isinstance(tolerance_mm, Mapping):
        tolerance_mm = dict.fromkeys(organs, tolerance_mm)
    missing = [organ for organ in organs if organ not in tolerance_mm]
    if missing:
        raise ValueError(f"tolerance_mm names no tolerance for {', '.join(missing)}. Add one, in mm.")
    for organ in organs:
        if not 0 <= tolerance_mm[organ] < np.inf:
            raise ValueError(f"tolerance_mm of '{organ}' is {tolerance_mm[organ]}; give a distance of 0 mm or more.")
    return {organ: float(tolerance_mm[organ]) for organ in organs}


# Means and files ------------------------------------------------------------------------------------------------------


def _statistics(values: Iterator[float]) -> dict[str, float]:
    """Mean, sample SD (ddof = 1) and median of the values that are not NaN, and how many these are."""
    kept = [value for value in values if not np.isnan(value)]
    nan = float("nan")
    return {
        "mean": float(np.mean(kept)) if kept else nan,
        "sd": float(np.std(kept, ddof=1)) if len(kept) > 1 else nan,
        "median": float(np.median(kept)) if kept else nan,
        "n": len(kept),
    }


def _mean(values: Iterator[float]) -> float:
    return _statistics(values)["mean"]


def _markdown(
    per_organ: Mapping[str, Mapping],
    all_organs: Mapping[str, Mapping],
    tolerance_mm: Mapping[str, float],
    n_cases: int,
    failed: Mapping[str, str],
    ignored: Sequence[str],
    not_segmented: Sequence[str],
    *,
    missed: Sequence[tuple[str, str]],
    invented: Sequence[tuple[str, str]],
    left_out: Sequence[tuple[str, str]],
) -> str:
    one_tolerance = len(set(tolerance_mm.values())) == 1
    at = f" at {next(iter(tolerance_mm.values())):g} mm" if one_tolerance else ""
    header = ["organ", "DSC %", "HD95 mm", f"surface dice{at}", "n"]
    lines = [[organ, *_cells(found), str(found["dsc_percent"]["n"])] for organ, found in per_organ.items()]
    lines.append(["all organs", *_cells(all_organs), str(all_organs["dsc_percent"]["n"])])
    if not one_tolerance:
        header.insert(4, "tolerance mm")
        for line in lines:
            line.insert(4, f"{tolerance_mm[line[0]]:g}" if line[0] in tolerance_mm else "-")
    table = "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])

    def pairs(found: Sequence[tuple[str, str]]) -> str:
        by_case: dict[str, list[str]] = {}
        for case, organ in found:
            by_case.setdefault(case, []).append(organ)
        return "; ".join(f"{case}: {', '.join(organs)}" for case, organs in by_case.items()) or "none"

    reasons = "".join(f"\n  - {case}: {reason}" for case, reason in failed.items()) or " none"
    return f"""\
{table}

{n_cases} case{"s" * (n_cases != 1)}. Mean +- SD over n cases (sample SD); all organs: mean over the organs of a case,
then over cases.
HD95: the larger of the two directed 95th percentiles of the surface distances, weighted by area.

- Missed (DSC 0, HD95 = image diagonal, counted): {pairs(missed)}
- Invented (no such organ in the reference; DSC 0, HD95 = image diagonal, counted): {pairs(invented)}
- Left out (in neither mask, not counted): {pairs(left_out)}
- Not segmented by this model (no score, not counted): {", ".join(not_segmented) or "none"}
- Failed cases (every organ counted as missed):{reasons}
- Predictions without a reference (ignored): {", ".join(ignored) or "none"}
"""


def _cells(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [_plus_minus(found[metric], SUMMARISED[metric]) for metric in ("dsc_percent", "hd95_mm", "surface_dice")]


def _plus_minus(statistics: Mapping[str, float], decimals: int) -> str:
    if not statistics["n"]:
        return "-"
    sd = "-" if np.isnan(statistics["sd"]) else f"{statistics['sd']:.{decimals}f}"
    return f"{statistics['mean']:.{decimals}f} +- {sd}"


def _csv(rows: Sequence[Mapping]) -> str:
    """One line per case and organ; an empty field where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["case", "organ", *METRICS, "tolerance_mm", "flag"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if _is_nan(value) else value for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _json(summary: EvaluationSummary, predictions: Path, references: Path) -> str:
    def pairs(found: Sequence[tuple[str, str]]) -> list[dict]:
        return [{"case": case, "organ": organ} for case, organ in found]

    per_case: dict[str, dict] = {case: {} for case in summary.cases}
    for row in summary.rows:
        per_case[row["case"]][row["organ"]] = {k: v for k, v in row.items() if k not in ("case", "organ")}
    content = {
        "predictions": str(predictions),
        "references": str(references),
        "definitions": DEFINITIONS,
        "versions": {
            "nnunet_ext": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("surface-distance", "SimpleITK", "numpy", "scipy")},
        },
        "labels": summary.labels,
        "tolerance_mm": summary.tolerance_mm,
        "n_cases": len(summary.cases),
        "per_organ": summary.per_organ,
        "all_organs": summary.all_organs,
        "missed": pairs(summary.missed),
        "invented": pairs(summary.invented),
        "left_out": pairs(summary.left_out),
        "failed": summary.failed,
        "ignored": list(summary.ignored),
        "not_segmented": list(summary.not_segmented),
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


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
