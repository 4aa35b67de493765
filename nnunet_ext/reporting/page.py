"""The report as one HTML file that opens from disk: an overview, the comparison, and a viewer for every case.

The page is put together from `assets/`: HTML, style, scripts, the strings of both languages, and NiiVue. NiiVue draws
slices and surfaces. Everything is inside the file, and its content security policy forbids the browser any request.
Each case is compressed text (`volumes.pack_case`). The browser unpacks it when the case is opened.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import IO

from tqdm import tqdm

from nnunet_ext.files import written_whole
from nnunet_ext.labels.values import organ_values
from nnunet_ext.reporting.content import Report
from nnunet_ext.reporting.page_content import page_content
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
    """Write the page. It replaces an old one only when it is complete.

    Cases are packed one at a time, the worst first. So memory holds one case, and a limit leaves out the best.

    Args:
        report: The data to show. The page opens with the first experiment and its order of the cases.
        out: The HTML file.
        viewer_limit_mb: Largest size of the viewer's data, in MB of the page. Further cases are listed without a viewer.
            0 makes a page without viewer.
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
    content = page_content(report)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = PageSummary(out)
    before, after = _frame(content)
    cases = list(dict.fromkeys(case["name"] for e in content["experiments"] for case in e["cases"]))
    with written_whole(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as page:
        page.write(before)
        if viewer_limit_mb > 0:
            page.write(_inert("niivue-code", gzip.compress(_asset("niivue.umd.js").encode(), mtime=0)))
        for case in tqdm(cases, desc="Packing cases", unit="case", disable=not show_progress):
            _write_case(page, case, report, viewer_limit_mb * 1e6, summary)
        page.write(f'<script type="application/json" id="left-out">{_as_json(summary.left_out)}</script>\n')
        page.write(after)
    return summary


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


def _frame(content: Mapping) -> tuple[str, str]:
    """The page before and after its data."""
    parts = {
        "STYLE": _asset("page.css"),
        "LICENCE": html.escape(_asset("niivue.LICENSE.txt"), quote=False),
        "STRINGS": _as_json(json.loads(_asset("strings.json"))),
        "REPORT": _as_json(content),
        "SCRIPT": "\n".join(_asset(name) for name in ("contours.js", "viewer.js", "page.js")),
    }
    pieces = re.split(r"%([A-Z]+)%", _asset("page.html"))  # text, name, text, name, ..., text
    at = pieces.index("DATA")
    filled = [parts[piece] if i % 2 else piece for i, piece in enumerate(pieces) if i != at]
    return "".join(filled[:at]), "".join(filled[at:])


def _asset(name: str) -> str:
    return (resources.files("nnunet_ext.reporting") / "assets" / name).read_text(encoding="utf-8")


def _as_json(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _inert(name: str, data: bytes) -> str:
    """Bytes in base64 in a script element that the browser does not run."""
    text = base64.b64encode(data).decode("ascii")
    return f'<script type="text/plain" id="{html.escape(name)}">{text}</script>\n'
