"""The report as one HTML file that opens from disk: an overview, the comparison, and a viewer for every case.

The page is put together from `assets/`: HTML, style and scripts, the strings of both languages, and NiiVue, which
draws slices and surfaces. Everything is inside the file, and its content security policy forbids the browser any request.
Cases lie in it as compressed text that the browser leaves alone until one is opened (`report_volumes.pack_case`).
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from nnunet_ext._version import __version__
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.files import check_folder, check_output_file, written_whole
from nnunet_ext.folder_lock import holding, owned_file
from nnunet_ext.images.reading import broken_link
from nnunet_ext.labels.colours import colours
from nnunet_ext.labels.table import chinese_name
from nnunet_ext.labels.values import organ_values
from nnunet_ext.nnunet_folders import (
    channel_files,
    find_label_maps,
    need,
    organs_not_segmented,
    read_dataset_json,
    read_predictions_json,
)
from nnunet_ext.reporting.chinese import in_chinese
from nnunet_ext.reporting.content import Experiment, Report, Table
from nnunet_ext.reporting.volumes import LabelMap, pack_case

logger = logging.getLogger(__name__)

#: What makes a reader look at a case first.
LOW_DSC_PERCENT = 50.0
OUTLIER_GAP_PERCENT = (
    5.0  # an outlier is also this far below the median: where all cases agree, a hair's breadth is none
)
OUTLIER_MIN_CASES = 5  # fewer have no quartiles to speak of
FAR_HD95_MM = 10.0

#: The viewer's data in a page, unless told otherwise: what a browser opens without a long wait.
VIEWER_LIMIT_MB = 400.0

#: Name of the reference's label map in the viewer, beside those of the experiments.
REFERENCE = "reference"

#: Metrics that the page shows.
METRICS = ("dsc_percent", "hd95_mm", "surface_dice")

#: Paths and image files in messages: they can name a patient. From the first slash of a path to the end of its last part.
_PATHS = re.compile(
    r"(?<![\w)])(?:[A-Za-z]:)?[\\/](?:.*[\\/])?[^\s'\",;:()]*|\S*\.(?:nii|nrrd|mha|mhd|dcm|json|csv)\b\S*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class PageSummary:
    """The page, the bytes its cases take for the viewer, and the cases without viewer: `limit`, `images` or `failed`."""

    path: Path
    case_bytes: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def write_report_page(
    report: Report, out: Path, *, viewer_limit_mb: float = VIEWER_LIMIT_MB, show_progress: bool = True
) -> PageSummary:
    """Write the page; it replaces an old one only when it is complete.

    Cases are packed one at a time, worst first, so memory holds one and a limit leaves out the best.

    Args:
        report: What to show. The first experiment is shown first; its order of the cases counts.
        out: The HTML file.
        viewer_limit_mb: Size of the viewer's data, in MB of the page, from which on cases are listed without a viewer;
            0 for a page without viewer.
        show_progress: Draw a progress bar.

    Raises:
        ValueError: If the report has no experiment, or one called `reference`.
    """
    if not report.experiments:
        raise ValueError("the report has no experiment to show.")
    if any(e.name == REFERENCE for e in report.experiments):
        raise ValueError(
            f"an experiment is called '{REFERENCE}', as the reference contours are in the viewer; rename it."
        )
    experiments = [_experiment(e, report.organs) for e in report.experiments]
    colour = colours({organ: number for number, organ in enumerate(report.organs, start=1)})
    content = {
        "version": __version__,
        "organs": [{"name": o, "chinese": chinese_name(o), "colour": colour[o]} for o in report.organs],
        "experiments": experiments,
        "tables": [_table(table) for table in report.tables],
        "pictures": _pictures(report),
        "remarks": [without_paths(text) for text in report.remarks],
        "thresholds": {"low": LOW_DSC_PERCENT, "gap": OUTLIER_GAP_PERCENT, "far": FAR_HD95_MM},
    }
    content["chinese"] = {text: chinese for text in _texts(content) if (chinese := in_chinese(text))}
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = PageSummary(out)
    before, after = _frame(content)
    cases = list(dict.fromkeys(case["name"] for e in experiments for case in e["cases"]))
    with written_whole(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as page:
        page.write(before)
        if viewer_limit_mb > 0:
            page.write(_inert("niivue-code", gzip.compress(_asset("niivue.umd.js").encode(), mtime=0)))
        for case in tqdm(cases, desc="Packing cases", unit="case", disable=not show_progress):
            _write_case(page, case, report, viewer_limit_mb * 1e6, summary)
        page.write(f'<script type="application/json" id="left-out">{_json(summary.left_out)}</script>\n')
        page.write(after)
    return summary


@holding(owned_file, "out")
def write_predictions_page(
    predictions: Path,
    images: Path,
    out: Path,
    *,
    viewer_limit_mb: float = VIEWER_LIMIT_MB,
    show_progress: bool = True,
) -> PageSummary:
    """The page for predictions that have no references: no scores, the cases with warnings first.

    Args:
        predictions: Folder of label maps with the `dataset.json` that nnU-Net and `predict` write beside them.
        images: nnU-Net's `<case>_0000.nii.gz`, ...; cases without images are listed without a viewer.
        out, viewer_limit_mb, show_progress: As for `write_report_page`.

    Raises:
        FileNotFoundError: If a folder, a label map or the `dataset.json` is not there.
    """
    predictions, images = Path(predictions), Path(images)
    check_output_file(out, "predictions.html")
    check_folder(images, "images folder")
    files = find_label_maps(predictions)
    dataset_json = predictions / "dataset.json"
    if not files or not dataset_json.is_file():
        missing = "label map" if not files else "dataset.json"
        raise FileNotFoundError(f"no {missing} in {predictions}; name the folder that a prediction was written to.")
    dataset = read_dataset_json(dataset_json)
    organs = organ_values(need(dataset, "labels", dataset_json))
    channel_names = need(dataset, "channel_names", dataset_json)
    left_out = organs_not_segmented(predictions, organs)
    found = {}
    for case, file in files.items():
        if not file.is_file():  # without its organs, the images would look as if nothing was found
            logger.warning("case '%s' has no viewer: %s", case, broken_link(file))
            continue
        with suppress(FileNotFoundError):
            found[case] = channel_files(images, case, channel_names)
    scores = EvaluationSummary(
        labels=dataset["labels"],
        tolerance_mm={},
        rows=[],
        files={case: (file, None) for case, file in files.items()},
        not_segmented=left_out,
    )
    experiment = Experiment("prediction", predictions, scores, found)
    report = Report(Path(out).parent, (experiment,), tuple(organs), tuple(files), (), box_organ="")
    return write_report_page(report, out, viewer_limit_mb=viewer_limit_mb, show_progress=show_progress)


def _write_case(page: IO[str], case: str, report: Report, limit_bytes: float, summary: PageSummary) -> None:
    """Append one case's data for the viewer, or say in `summary` why there is none."""
    images = next((e.images[case] for e in report.experiments if e.images.get(case)), {})
    used_bytes = sum(summary.case_bytes.values())
    if used_bytes >= limit_bytes:
        summary.left_out[case] = "limit"
    elif not images:
        summary.left_out[case] = "images"
    else:
        try:
            data = _inert(f"case:{case}", pack_case(case, images, _label_maps(case, report)))
        except ValueError as error:
            logger.warning("no viewer: %s", error)
            summary.left_out[case] = "failed"
            return
        if used_bytes + len(data) > limit_bytes:
            summary.left_out[case] = "limit"
            return
        page.write(data)
        summary.case_bytes[case] = len(data)


def _label_maps(case: str, report: Report) -> dict[str, LabelMap]:
    """`reference` and each experiment's prediction, as far as they are there."""
    maps = {}
    for experiment in report.experiments:
        organs = {o: v for o, v in organ_values(experiment.scores.labels).items() if o in report.organs}
        prediction, reference = experiment.scores.files.get(case, (None, None))
        for name, path in ((REFERENCE, reference), (experiment.name, prediction)):
            if path is not None and path.is_file() and name not in maps:
                maps[name] = LabelMap(path, organs)
    return maps


# Content --------------------------------------------------------------------------------------------------------------


def _experiment(experiment: Experiment, organs: Sequence[str]) -> dict:
    scores, manifest = experiment.scores, _manifest(experiment)
    rows: dict[str, dict[str, dict]] = {}
    for row in scores.rows:
        if row["organ"] in organs:
            rows.setdefault(row["case"], {})[row["organ"]] = {
                **{m: _number(row[m]) for m in METRICS},
                "flag": row["flag"],
            }
    low = {o: low_dsc_percent([r[o]["dsc_percent"] for r in rows.values() if o in r]) for o in organs}
    cases = []
    for name in dict.fromkeys([*rows, *scores.files]):
        record = manifest.get(name, {})
        texts = [scores.failed.get(name), record.get("failed"), *record.get("warnings", ())]
        warnings = [without_paths(text) for text in texts if text]
        reasons = case_reasons(rows.get(name, {}), record, low, failed=name in scores.failed or "failed" in record)
        cases.append({"name": name, "scores": rows.get(name, {}), "warnings": warnings, "reasons": reasons})
    return {
        "name": experiment.name,
        "has_scores": bool(rows),
        "cases": sorted(cases, key=_severity),
        "per_organ": {o: {m: _statistics(scores.per_organ[o][m]) for m in METRICS} for o in scores.organs},
        "all_organs": {m: _statistics(scores.all_organs[m]) for m in METRICS},
        "not_segmented": [o for o in organs if o in scores.not_segmented or o not in scores.labels],
        "tolerance_mm": scores.tolerance_mm,
    }


def low_dsc_percent(values: Sequence[float | None]) -> float:
    """DSC below which a case is low for an organ: `LOW_DSC_PERCENT`, or what makes it an outlier among the cases.

    An outlier lies more than 1.5 interquartile ranges below the lower quartile (Tukey's fence, as in a box plot) and
    `OUTLIER_GAP_PERCENT` below the median.
    """
    known = [v for v in values if v is not None]
    if len(known) < OUTLIER_MIN_CASES:
        return LOW_DSC_PERCENT
    lower, median, upper = np.percentile(known, (25, 50, 75))
    return max(LOW_DSC_PERCENT, min(lower - 1.5 * (upper - lower), median - OUTLIER_GAP_PERCENT))


def case_reasons(
    scores: Mapping[str, Mapping], record: Mapping, low: Mapping[str, float], *, failed: bool
) -> list[dict]:
    """Why a case deserves a look, most urgent first; empty where nothing is conspicuous.

    Args:
        scores: Organ -> `METRICS` and `flag`, as `evaluation` gives them (None for NaN); empty without a reference.
        record: The case's entry in `predictions.json`.
        low: Organ -> DSC in percent below which it is low.
        failed: The case could not be predicted or scored.
    """
    missed = [o for o, s in scores.items() if s["flag"] == "missed"] if scores else list(record.get("missing", ()))
    found = {
        "missed": [] if failed else missed,
        "invented": [o for o, s in scores.items() if s["flag"] == "invented"],
        "low": [
            o for o, s in scores.items() if not s["flag"] and s["dsc_percent"] is not None and s["dsc_percent"] < low[o]
        ],
        "far": [
            o for o, s in scores.items() if not s["flag"] and s["hd95_mm"] is not None and s["hd95_mm"] > FAR_HD95_MM
        ],
    }
    reasons = [{"kind": "failed"}] if failed else []
    reasons += [{"kind": kind, "organs": found[kind]} for kind in ("missed", "invented") if found[kind]]
    reasons += [{"kind": "fallback"}] if record.get("fallback_whole_volume") else []
    reasons += [{"kind": kind, "organs": found[kind]} for kind in ("low", "far") if found[kind]]
    reasons += [{"kind": "warnings", "count": len(record["warnings"])}] if record.get("warnings") else []
    return reasons


def _severity(case: Mapping) -> tuple:
    """Sorts the worst case first."""
    weight = {reason["kind"]: len(reason.get("organs", ())) or reason.get("count", 1) for reason in case["reasons"]}
    lowest = min((s["dsc_percent"] for s in case["scores"].values() if s["dsc_percent"] is not None), default=100.0)
    order = ("failed", ("missed", "invented"), "fallback", ("low", "far"), "warnings")
    counts = (sum(weight.get(k, 0) for k in ((kinds,) if isinstance(kinds, str) else kinds)) for kinds in order)
    return (*(-count for count in counts), lowest, case["name"])


def without_paths(text: str) -> str:
    """A message for the page: one line, paths and image files replaced by an ellipsis."""
    return _PATHS.sub("…", " ".join(text.split()))


def _manifest(experiment: Experiment) -> dict[str, dict]:
    """What `predictions.json` beside the predictions says about each case."""
    records = {}
    for folder in dict.fromkeys(p.parent for p, _ in experiment.scores.files.values() if p is not None):
        if (file := folder / "predictions.json").is_file():
            records.update(read_predictions_json(file)["cases"])
    return records


def _table(table: Table) -> dict:
    rows = [[{"text": cell.text, "best": cell.best} for cell in row] for row in table.rows]
    return {"title": table.title, "header": list(table.header), "rows": rows, "note": table.note}


def _pictures(report: Report) -> list[dict]:
    """Figures as data URIs; plots, which are lines and letters, as vectors."""
    pictures = []
    for picture in report.pictures:
        vector = picture.svg is not None and picture.kind in ("box", "curves")
        file, kind = (picture.svg, "svg+xml") if vector else (picture.png, "png")
        text = base64.b64encode((report.out / file).read_bytes()).decode()
        pictures.append({"title": picture.title, "kind": picture.kind, "source": f"data:image/{kind};base64,{text}"})
    return pictures


def _texts(content: Mapping) -> set[str]:
    """All sentences and heads that stand in the content in English."""
    texts = {*content["remarks"], *(picture["title"] for picture in content["pictures"])}
    texts.update(line for e in content["experiments"] for case in e["cases"] for line in case["warnings"])
    for table in content["tables"]:
        texts |= {
            table["title"],
            table["note"],
            *table["header"],
            *(cell["text"] for row in table["rows"] for cell in row),
        }
    return texts


def _statistics(statistics: Mapping[str, float]) -> dict:
    return {key: _number(value) for key, value in statistics.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)


# Page -----------------------------------------------------------------------------------------------------------------


def _frame(content: Mapping) -> tuple[str, str]:
    """The page before and after its data."""
    parts = {
        "STYLE": _asset("page.css"),
        "LICENCE": html.escape(_asset("niivue.LICENSE.txt"), quote=False),
        "STRINGS": _json(json.loads(_asset("strings.json"))),
        "REPORT": _json(content),
        "SCRIPT": "\n".join(_asset(name) for name in ("contours.js", "viewer.js", "page.js")),
    }
    pieces = re.split(r"%([A-Z]+)%", _asset("page.html"))  # text, name, text, name, ..., text
    at = pieces.index("DATA")
    filled = [parts[piece] if i % 2 else piece for i, piece in enumerate(pieces) if i != at]
    return "".join(filled[:at]), "".join(filled[at:])


def _asset(name: str) -> str:
    return (resources.files("nnunet_ext.reporting") / "assets" / name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _inert(name: str, data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    return f'<script type="text/plain" id="{html.escape(name)}">{text}</script>\n'
