"""The TOML file that names the DICOM series of each channel.

    [series]                       # for every patient: SeriesDescription or ProtocolName, `*` stands for anything
    T1 = ["*MPRAGE*", "ax t1"]
    ignore = ["*test*"]

    [case_003]                     # for one case: series number, description or SeriesInstanceUID
    T1 = 5
    RTSTRUCT = "approved"          # StructureSetLabel, or SOPInstanceUID

    [case_004]                     # one volume of a series that holds several: the series, a comma, and its words
    CT = "2, acquisition 1"
    T1 = "MEMPRAGE, echo 1"

The words are `echo`, `acquisition`, `time`, `type`, `inversion`, `b`, `kVp`, `flip`, `kernel`, `stack` and `part`.
`time` counts the phases of a dynamic series. `type` is a value of ImageType, for complex and Dixon images. `part` is
for images that only their order tells apart. Messages name every volume as the file has to.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ext.cases.key_file import CASE_NAME
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.traits import PART_WORDS
from nnunet_ext.files import read_toml
from nnunet_ext.labels.organs import normalise_name

_PART = re.compile(rf"(.+)[\s,;:]+(acq|{'|'.join(PART_WORDS)})(?![a-z])[\s=#:]*([^\s,;:].*)", re.IGNORECASE)


def load_series_rules(path: Path | None) -> dict[str, dict[str, list]]:
    """Sections `[series]` and `[case_001]` of the series file, which map a channel to names and numbers."""
    if path is None:
        return {}
    path = Path(path)
    content = read_toml(path, called=f"series file {path.name}")
    rules: dict[str, dict[str, list]] = {}
    for section, lines in content.items():
        if not isinstance(lines, dict) or not (section == "series" or CASE_NAME.fullmatch(section)):
            raise ValueError(f"series file {path.name}: {section!r} is not a section [series] or [case_001]")
        rules[section] = {}
        for channel, value in lines.items():
            values = value if isinstance(value, list) else [value]
            if not all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in values):
                raise ValueError(f'series file {path.name}: {channel} needs names or numbers, such as ["ax t1", 5]')
            rules[section][channel] = values
    return rules


def means(rule: str | int, series: Series) -> bool:
    """Whether a rule names a series, or a part of it. A description that ends like a part goes first."""
    return series.number == rule if isinstance(rule, int) else names_of(rule, series) or _means_part(rule, series)


def _means_part(rule: str | int, series: Series) -> bool:
    """Whether a rule such as `7, echo 1` names this part of a series."""
    own = {_plain_part(*part.split(" ", 1)) for part in series.part}
    asked: set[str] = set()
    while own and isinstance(rule, str) and (match := _PART.fullmatch(rule)):
        rule, word, value = match[1].rstrip(" \t,;:"), match[2], match[3]
        asked.add(_plain_part(word, value))
        if asked <= own and names_of(rule, series):
            return True
    return False


def _plain_part(word: str, value: str) -> str:
    """`Acq #02` as `acquisition 2`."""
    word = "acquisition" if word.lower() == "acq" else word.lower()
    number = re.fullmatch(r"\s*0*(\d+)(?:\.0*)?\s*", value)
    return f"{word} {number[1] if number else normalise_name(value)}"


def names_of(name: str, series: Series) -> bool:
    """Whether a name is the UID, the number or a description of a series. `*` stands for anything."""
    name = name.strip()
    if name == series.uid:
        return True
    number = re.fullmatch(r"(?:series\s*)?(\d+)", name, re.IGNORECASE)
    if number and series.number == int(number[1]):
        return True
    pattern = "*".join(normalise_name(part) for part in name.split("*"))
    return any(fnmatch.fnmatchcase(normalise_name(one), pattern) for one in series.names)


def ruled(images: Iterable[Series], rules: Mapping[str, Sequence]) -> list[Series]:
    """The series with the channels that the user's rules give them, in parts if a rule names a part."""
    ruled = [_with_rule(one, rules) for series in images for one in opened(series, rules)]
    chosen = {(one.patient.key, one.uid) for one in ruled if one.part and one.channel and one.by_rule}
    return [
        replace(one, channel="", reason="the series file chooses another part of it")
        if one.part and not one.by_rule and (one.patient.key, one.uid) in chosen
        else one
        for one in ruled
    ]


def opened(series: Series, rules: Mapping[str, Sequence]) -> list[Series]:
    """The parts of a series if a rule names one of them, else the series."""
    parts = [end for part in series.parts for end in opened(part, rules)]
    values = [value for channel, values in rules.items() if channel != "RTSTRUCT" for value in values]
    named = any(_means_part(value, part) and not _means_part(value, series) for value in values for part in parts)
    return parts if named else [series]


def _with_rule(series: Series, rules: Mapping[str, Sequence]) -> Series:
    """CT and MR studies may count their series alike, so a number is looked for among the series of its modality."""
    for channel, values in rules.items():
        fits = channel == "ignore" or (channel == "CT") == (series.modality == "CT")
        if channel != "RTSTRUCT" and fits and any(means(value, series) for value in values):
            channel = "" if channel == "ignore" else channel
            return replace(series, channel=channel, reason="by the series file", by_rule=True)
    return series
