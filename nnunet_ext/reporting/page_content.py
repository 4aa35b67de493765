"""The data of the page, as JSON. A text that differs between the languages stands in it in both."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from nnunet_ext._version import __version__
from nnunet_ext.evaluation.statistics import Mean, Score, mean_of
from nnunet_ext.labels.colours import colours
from nnunet_ext.labels.sides import chinese_name
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import read_predictions_json
from nnunet_ext.reporting.cells import shared_organs
from nnunet_ext.reporting.content import Experiment, Report, Table, Text
from nnunet_ext.reporting.costs import COLUMNS, COSTS
from nnunet_ext.reporting.page_reasons import (
    FAR_HD95_MM,
    LOW_DSC_PERCENT,
    OUTLIER_GAP_PERCENT,
    PageCase,
    Reason,
    case_reasons,
    low_dsc_percent,
)

#: Metrics that the page shows.
METRICS = ("dsc_percent", "hd95_mm", "surface_dice")
#: Decimals of the numbers in the page. More make the file larger and nobody reads them.
DECIMALS = 4
#: A path or an image file in a message can name a patient. A path goes from its first slash to the end of its last part.
_PATHS = re.compile(
    r"(?<![\w)])(?:[A-Za-z]:)?[\\/](?:.*[\\/])?[^\s'\",;:()]*|\S*\.(?:nii|nrrd|mha|mhd|dcm|json|csv)\b\S*",
    re.IGNORECASE,
)


def page_content(report: Report) -> dict:
    """All that the page says, without the volumes of its viewer."""
    colour = colours({organ: number for number, organ in enumerate(report.organs, start=1)})
    return {
        "version": __version__,
        "organs": [{"name": o, "chinese": chinese_name(o), "colour": colour[o]} for o in report.organs],
        "experiments": [_experiment(experiment, report.organs) for experiment in report.experiments],
        "side_by_side": _side_by_side(report),
        "tables": [_table(table) for table in report.tables],
        "pictures": _pictures(report),
        "remarks": [in_both_languages(_public(remark)) for remark in report.remarks],
        "thresholds": {"low": LOW_DSC_PERCENT, "gap": OUTLIER_GAP_PERCENT, "far": FAR_HD95_MM},
    }


# Texts ----------------------------------------------------------------------------------------------------------------


def in_both_languages(text: Text) -> str | dict[str, str]:
    """English and Chinese of a text, or a plain string if both are the same."""
    if isinstance(text, str):
        return text
    english, chinese = text.text("en"), text.text("zh", chinese_name)
    return english if english == chinese else {"en": english, "zh": chinese}


def without_paths(text: str) -> str:
    """A text in one line, with paths and image files replaced by an ellipsis."""
    return _PATHS.sub("…", " ".join(text.split()))


def _public(text: Text) -> Text:
    # In Chinese no blank ends a path, so paths are taken out of a message's values.
    return text.changed(without_paths) if isinstance(text, Message) else without_paths(text)


def warnings_of(record: Mapping) -> list[Text]:
    """The warnings of a case, from its entry in `predictions.json`.

    Earlier versions wrote no messages, and a message of a later version is not known. These warnings are plain text.
    """
    texts, messages = record.get("warnings", ()), record.get("messages", ())
    if len(texts) != len(messages):
        return list(texts)
    return [_message(content) or text for text, content in zip(texts, messages, strict=True)]


def _message(content: object) -> Message | None:
    try:
        return Message.from_json(content)
    except ValueError:
        return None


# Experiments ----------------------------------------------------------------------------------------------------------


def _experiment(experiment: Experiment, organs: Sequence[str]) -> dict:
    """An experiment as JSON for the page."""
    scores = experiment.scores
    cases = _cases(experiment, organs)
    return {
        "name": experiment.name,
        "has_scores": any(case.scores for case in cases),
        "cases": [_case(case) for case in sorted(cases, key=lambda case: case.severity)],
        "per_organ": {o: _means(scores.per_organ[o]) for o in scores.organs},
        "all_organs": _means(scores.all_organs),
        "not_segmented": [o for o in organs if o in scores.not_segmented or o not in scores.labels],
        "tolerance_mm": scores.tolerance_mm,
    }


def _cases(experiment: Experiment, organs: Sequence[str]) -> list[PageCase]:
    scores, manifest = experiment.scores, _manifest(experiment)
    rows: dict[str, dict[str, Score]] = {}
    for row in scores.rows:
        if row.organ in organs:
            rows.setdefault(row.case, {})[row.organ] = _as_shown(row)
    low = {o: low_dsc_percent([row[o].dsc_percent for row in rows.values() if o in row]) for o in organs}
    cases = []
    for name in dict.fromkeys([*rows, *scores.files]):
        record = manifest.get(name, {})
        texts = [scores.failed.get(name), record.get("failed"), *warnings_of(record)]
        warnings = tuple(_public(text) for text in texts if text)
        reasons = case_reasons(rows.get(name, {}), record, low, failed=name in scores.failed or "failed" in record)
        cases.append(PageCase(name, rows.get(name, {}), warnings, reasons))
    return cases


def _manifest(experiment: Experiment) -> dict[str, dict]:
    """Case -> its entry in the `predictions.json` beside the predictions."""
    records = {}
    for folder in dict.fromkeys(p.parent for p, _ in experiment.scores.files.values() if p is not None):
        if (file := folder / "predictions.json").is_file():
            records.update(read_predictions_json(file)["cases"])
    return records


def _as_shown(score: Score) -> Score:
    """The score with the decimals of the page, so that the reasons of a case agree with its printed scores."""
    return replace(
        score,
        dsc_percent=round(score.dsc_percent, DECIMALS),
        hd95_mm=round(score.hd95_mm, DECIMALS),
        surface_dice=round(score.surface_dice, DECIMALS),
    )


def _case(case: PageCase) -> dict:
    scores = {
        organ: {**{metric: _number(score.metric(metric)) for metric in METRICS}, "flag": score.flag}
        for organ, score in case.scores.items()
    }
    warnings = [in_both_languages(text) for text in case.warnings]
    reasons = [_reason(reason) for reason in case.reasons]
    return {"name": case.name, "scores": scores, "warnings": warnings, "reasons": reasons}


def _reason(reason: Reason) -> dict:
    organs = {"organs": list(reason.organs)} if reason.organs else {}
    count = {} if reason.count is None else {"count": reason.count}
    return {"kind": reason.kind, **organs, **count}


def _means(means: Mapping[str, Mean]) -> dict:
    return {metric: _mean(means[metric]) for metric in METRICS}


def _mean(mean: Mean) -> dict:
    return {key: _number(value) for key, value in mean.as_json().items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), DECIMALS)


# Experiments side by side -----------------------------------------------------------------------------------------------


def _side_by_side(report: Report) -> list[dict]:
    """Per experiment, over the cases and organs that all have: DSC of each case, its mean, organs missed, and what it took.

    It is empty for a single experiment, and without scores.
    """
    compared = {one.name: one.scores.only(report.cases) for one in report.experiments}
    shared = shared_organs(compared)
    if len(compared) < 2 or not report.cases or not shared:
        return []
    took = {row[0].text: row for table in report.tables if table.name == COSTS for row in table.rows}
    rows = []
    for name, scores in compared.items():
        per_case = {case: _mean_dsc([row for row in scores.rows if row.case == case], shared) for case in report.cases}
        row = {
            "name": name,
            "cases": {case: _number(mean) for case, mean in per_case.items()},
            "all_organs": _mean(mean_of(per_case.values())),
            "missed": sum(row.flag == "missed" for row in scores.rows if row.organ in shared),
        }
        texts = {key: took[name][column].text for key, column in COLUMNS.items()} if name in took else {}
        rows.append({**row, **{key: in_both_languages(text) for key, text in texts.items()}})
    return rows


def _mean_dsc(rows: Sequence[Score], organs: Collection[str]) -> float:
    return mean_of([row.dsc_percent for row in rows if row.organ in organs]).value


# Tables and pictures --------------------------------------------------------------------------------------------------


def _table(table: Table) -> dict:
    return {
        "title": in_both_languages(table.title),
        "header": [in_both_languages(head) for head in table.header],
        "rows": [[{"text": in_both_languages(cell.text), "best": cell.best} for cell in row] for row in table.rows],
        "notes": [in_both_languages(note) for note in table.notes],
    }


def _pictures(report: Report) -> list[dict]:
    """Figures as data URIs. Box plots and curves are vectors."""
    pictures = []
    for picture in report.pictures:
        file, kind = picture.png, "png"
        if picture.svg is not None and picture.kind in ("box", "curves"):
            file, kind = picture.svg, "svg+xml"
        text = base64.b64encode((report.out / file).read_bytes()).decode()
        title, source = in_both_languages(picture.title), f"data:image/{kind};base64,{text}"
        pictures.append({"title": title, "kind": picture.kind, "source": source})
    return pictures
