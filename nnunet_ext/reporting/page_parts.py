"""Parts of the page: HTML, scripts and data as text."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import resources

from nnunet_ext.evaluation.statistics import Mean, Score
from nnunet_ext.labels.sides import chinese_name
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import read_predictions_json
from nnunet_ext.reporting.content import Experiment, Report, Table
from nnunet_ext.reporting.page_reasons import PageCase, Reason

#: Metrics that the page shows.
METRICS = ("dsc_percent", "hd95_mm", "surface_dice")
#: Decimals of the numbers in the page. More make the file larger and nobody reads them.
DECIMALS = 4
#: A path or an image file in a message can name a patient. A path goes from its first slash to the end of its last part.
_PATHS = re.compile(
    r"(?<![\w)])(?:[A-Za-z]:)?[\\/](?:.*[\\/])?[^\s'\",;:()]*|\S*\.(?:nii|nrrd|mha|mhd|dcm|json|csv)\b\S*",
    re.IGNORECASE,
)


def without_paths(text: str) -> str:
    """A message for the page: one line, paths and image files replaced by an ellipsis."""
    return _PATHS.sub("…", " ".join(text.split()))


def warnings_in_chinese(record: Mapping) -> dict[str, str]:
    """Warning of a case as the page shows it -> the same in Chinese, from the case's entry in `predictions.json`.

    Entries that earlier versions wrote hold no messages, and a kind of a later version is not known: these stay English.
    """
    texts, messages = record.get("warnings", ()), record.get("messages", ())
    found = {}
    if len(texts) == len(messages):
        for text, message in zip(texts, messages, strict=True):
            with suppress(ValueError):
                # In Chinese no blank ends a path, so paths are taken out of the values.
                said = Message.from_json(message).changed(without_paths)
                found[without_paths(text)] = said.text("zh", chinese_name)
    return found


def manifest_of(experiment: Experiment) -> dict[str, dict]:
    """What `predictions.json` beside the predictions says about each case."""
    records = {}
    for folder in dict.fromkeys(p.parent for p, _ in experiment.scores.files.values() if p is not None):
        if (file := folder / "predictions.json").is_file():
            records.update(read_predictions_json(file)["cases"])
    return records


def table_of(table: Table) -> dict:
    rows = [[{"text": cell.text, "best": cell.best} for cell in row] for row in table.rows]
    return {"title": table.title, "header": list(table.header), "rows": rows, "note": table.note}


def pictures_of(report: Report) -> list[dict]:
    """Figures as data URIs; plots, which are lines and letters, as vectors."""
    pictures = []
    for picture in report.pictures:
        file, kind = picture.png, "png"
        if picture.svg is not None and picture.kind in ("box", "curves"):
            file, kind = picture.svg, "svg+xml"
        text = base64.b64encode((report.out / file).read_bytes()).decode()
        pictures.append({"title": picture.title, "kind": picture.kind, "source": f"data:image/{kind};base64,{text}"})
    return pictures


def texts_of(content: Mapping) -> set[str]:
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


def as_shown(score: Score) -> Score:
    """The score with the decimals of the page, so that what the page says of a case follows from what it shows."""
    return replace(
        score,
        dsc_percent=round(score.dsc_percent, DECIMALS),
        hd95_mm=round(score.hd95_mm, DECIMALS),
        surface_dice=round(score.surface_dice, DECIMALS),
    )


def case_of(case: PageCase) -> dict:
    scores = {
        organ: {**{metric: _number(score.metric(metric)) for metric in METRICS}, "flag": score.flag}
        for organ, score in case.scores.items()
    }
    reasons = [_reason_of(reason) for reason in case.reasons]
    return {"name": case.name, "scores": scores, "warnings": list(case.warnings), "reasons": reasons}


def _reason_of(reason: Reason) -> dict:
    organs = {"organs": list(reason.organs)} if reason.organs else {}
    count = {} if reason.count is None else {"count": reason.count}
    return {"kind": reason.kind, **organs, **count}


def means_of(means: Mapping[str, Mean]) -> dict:
    return {metric: {key: _number(value) for key, value in means[metric].as_json().items()} for metric in METRICS}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), DECIMALS)


def frame(content: Mapping) -> tuple[str, str]:
    """The page before and after its data."""
    parts = {
        "STYLE": asset("page.css"),
        "LICENCE": html.escape(asset("niivue.LICENSE.txt"), quote=False),
        "STRINGS": as_json(json.loads(asset("strings.json"))),
        "REPORT": as_json(content),
        "SCRIPT": "\n".join(asset(name) for name in ("contours.js", "viewer.js", "page.js")),
    }
    pieces = re.split(r"%([A-Z]+)%", asset("page.html"))  # text, name, text, name, ..., text
    at = pieces.index("DATA")
    filled = [parts[piece] if i % 2 else piece for i, piece in enumerate(pieces) if i != at]
    return "".join(filled[:at]), "".join(filled[at:])


def asset(name: str) -> str:
    return (resources.files("nnunet_ext.reporting") / "assets" / name).read_text(encoding="utf-8")


def as_json(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def inert(name: str, data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    return f'<script type="text/plain" id="{html.escape(name)}">{text}</script>\n'
