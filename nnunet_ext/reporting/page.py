"""The report as one HTML file that opens from disk: an overview, the comparison, and a viewer for every case.

The page is put together from `assets/`: HTML, style and scripts, the strings of both languages, and NiiVue, which
draws slices and surfaces. Everything is inside the file, and its content security policy forbids the browser any request.
Each case is compressed text (`volumes.pack_case`). The browser unpacks it when the case is opened.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tqdm import tqdm

from nnunet_ext._version import __version__
from nnunet_ext.evaluation.statistics import Score
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.files import check_folder, check_output_file, written_whole
from nnunet_ext.folder_lock import holding, owned_file
from nnunet_ext.images.file_names import broken_link
from nnunet_ext.labels.colours import colours
from nnunet_ext.labels.sides import chinese_name
from nnunet_ext.labels.values import organ_values
from nnunet_ext.nnunet_folders import channel_files, find_label_maps, need, organs_not_segmented, read_dataset_json
from nnunet_ext.reporting.chinese import in_chinese
from nnunet_ext.reporting.content import Experiment, Report
from nnunet_ext.reporting.page_parts import (
    as_json,
    as_shown,
    asset,
    case_of,
    frame,
    inert,
    manifest_of,
    means_of,
    pictures_of,
    table_of,
    texts_of,
    warnings_in_chinese,
    without_paths,
)
from nnunet_ext.reporting.page_reasons import (
    FAR_HD95_MM,
    LOW_DSC_PERCENT,
    OUTLIER_GAP_PERCENT,
    PageCase,
    case_reasons,
    low_dsc_percent,
)
from nnunet_ext.reporting.volumes import LabelMap, pack_case

logger = logging.getLogger(__name__)


#: Default size of the viewer's data in a page. A browser opens it without a long wait.
VIEWER_LIMIT_MB = 400.0

#: Name of the reference's label map in the viewer, beside those of the experiments.
REFERENCE = "reference"


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
        "tables": [table_of(table) for table in report.tables],
        "pictures": pictures_of(report),
        "remarks": [without_paths(text) for text in report.remarks],
        "thresholds": {"low": LOW_DSC_PERCENT, "gap": OUTLIER_GAP_PERCENT, "far": FAR_HD95_MM},
    }
    chinese_of = {text: chinese for text in sorted(texts_of(content)) if (chinese := in_chinese(text))}
    for experiment in report.experiments:
        for record in manifest_of(experiment).values():
            chinese_of |= warnings_in_chinese(record)
    content["chinese"] = chinese_of
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = PageSummary(out)
    before, after = frame(content)
    cases = list(dict.fromkeys(case["name"] for e in experiments for case in e["cases"]))
    with written_whole(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as page:
        page.write(before)
        if viewer_limit_mb > 0:
            page.write(inert("niivue-code", gzip.compress(asset("niivue.umd.js").encode(), mtime=0)))
        for case in tqdm(cases, desc="Packing cases", unit="case", disable=not show_progress):
            _write_case(page, case, report, viewer_limit_mb * 1e6, summary)
        page.write(f'<script type="application/json" id="left-out">{as_json(summary.left_out)}</script>\n')
        page.write(after)
    return summary


@holding(owned_file, "out")
def view(
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
    """Append one case's data for the viewer. If there is none, `summary` gets the reason."""
    images = next((e.images[case] for e in report.experiments if e.images.get(case)), {})
    used_bytes = sum(summary.case_bytes.values())
    if used_bytes >= limit_bytes:
        summary.left_out[case] = "limit"
    elif not images:
        summary.left_out[case] = "images"
    else:
        try:
            data = inert(f"case:{case}", pack_case(case, images, _label_maps(case, report)))
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
    """An experiment as JSON for the page."""
    scores = experiment.scores
    cases = _cases(experiment, organs)
    return {
        "name": experiment.name,
        "has_scores": any(case.scores for case in cases),
        "cases": [case_of(case) for case in sorted(cases, key=lambda case: case.severity)],
        "per_organ": {o: means_of(scores.per_organ[o]) for o in scores.organs},
        "all_organs": means_of(scores.all_organs),
        "not_segmented": [o for o in organs if o in scores.not_segmented or o not in scores.labels],
        "tolerance_mm": scores.tolerance_mm,
    }


def _cases(experiment: Experiment, organs: Sequence[str]) -> list[PageCase]:
    scores, manifest = experiment.scores, manifest_of(experiment)
    rows: dict[str, dict[str, Score]] = {}
    for row in scores.rows:
        if row.organ in organs:
            rows.setdefault(row.case, {})[row.organ] = as_shown(row)
    low = {o: low_dsc_percent([row[o].dsc_percent for row in rows.values() if o in row]) for o in organs}
    cases = []
    for name in dict.fromkeys([*rows, *scores.files]):
        record = manifest.get(name, {})
        texts = [scores.failed.get(name), record.get("failed"), *record.get("warnings", ())]
        warnings = tuple(without_paths(text) for text in texts if text)
        reasons = case_reasons(rows.get(name, {}), record, low, failed=name in scores.failed or "failed" in record)
        cases.append(PageCase(name, rows.get(name, {}), warnings, reasons))
    return cases
