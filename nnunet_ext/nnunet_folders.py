"""Files that nnU-Net and we leave in nnU-Net's folders: `dataset.json`, `predictions.json`, plans, splits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_ext.files import Shape, misfit, read_json, shown

_LABELS_REMEDY = 'write name -> value, e.g. "labels": {"background": 0, "Eye_L": 1, "Eye_R": 2}'
_CHANNELS_REMEDY = 'write number -> name, e.g. "channel_names": {"0": "CT", "1": "T1"}'
_BOX = [[int, int]] * 3

DATASET_JSON: Shape = {
    "labels?": dict,
    "channel_names?": dict,
    "left_out_organs?": [str],
    "file_ending?": str,
    "nnunet_ext?": dict,
    "overwrite_image_reader_writer?": (str, None),
}
PREDICTIONS_JSON: Shape = {
    "cases": {
        str: {
            "box?": (None, list),
            "warnings?": [str],
            "missing?": [str],
            "failed?": str,
            "fallback_whole_volume?": bool,
        }
    },
    "models?": [str],
}
PREDICTIONS_REMEDY = "it is not what nnunet_ext predict writes: move it away to go on without it, or predict again"
SPLITS: Shape = [{"train": [str], "val": [str]}]


def read_dataset_json(path: Path) -> dict[str, Any]:
    """nnU-Net's `dataset.json`, with labels and channel names as nnU-Net v2 has them, where it has any.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or of nnU-Net v1; naming file, value and what to write.
    """
    path = Path(path)
    content = read_json(path, dict, remedy="copy the one of the data set again")
    labels = content.get("labels")
    if isinstance(labels, Mapping) and labels and all(map(_is_number, labels)) and _all_text(labels.values()):
        more = ', and "modality" is called "channel_names"' if "modality" in content else ""
        raise ValueError(
            f"{path}: this dataset.json is of nnU-Net v1: labels are value -> name ({shown(labels)}); "
            f"{_LABELS_REMEDY}{more}"
        )
    if "modality" in content and "channel_names" not in content:
        raise ValueError(
            f'{path}: this dataset.json is of nnU-Net v1: it has "modality" and no "channel_names"; {_CHANNELS_REMEDY}'
        )
    if wrong := misfit(content, DATASET_JSON):
        raise ValueError(f"{path}: {wrong}; {_CHANNELS_REMEDY if wrong.startswith('channel') else _LABELS_REMEDY}")
    if labels is not None:
        check_labels(labels, path)
    if "channel_names" in content:
        _check_channel_names(content["channel_names"], path)
    return content


def check_labels(labels: Mapping[str, Any], path: Path) -> None:
    """Refuse `labels` of a `dataset.json` that are no organs with whole numbers, or lists of these for regions.

    Raises:
        ValueError: Naming file, label, value and what to write.
    """
    if not isinstance(labels, Mapping):
        raise ValueError(f"{path}: labels is {shown(labels)}; {_LABELS_REMEDY}")
    if not labels:
        raise ValueError(f"{path} has no 'labels'; {_LABELS_REMEDY}")
    names: dict[int, str] = {}
    for name, value in labels.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if not name.strip():
            raise ValueError(f"{path}: a label of the value {shown(value)} has no name; {_LABELS_REMEDY}")
        if not values or not all(isinstance(one, int) and not isinstance(one, bool) for one in values):
            wanted = f"the number {value.strip()} without quotes" if isinstance(value, str) and _is_number(value) else (
                "a whole number, or a list of them for a region"
            )  # fmt: skip
            raise ValueError(f"{path}: the label '{name}' has the value {shown(value)}; write {wanted}")
        if min(values) < (0 if isinstance(value, int) else 1):
            least = (
                "label values are 0 or more" if isinstance(value, int) else "a region is made of labels of 1 or more"
            )
            raise ValueError(f"{path}: the label '{name}' has the value {shown(value)}; {least}")
        if isinstance(value, int) and value and names.setdefault(value, name) != name:
            raise ValueError(
                f"{path}: the labels '{names[value]}' and '{name}' both have the value {value}; give each its own"
            )
    if not set(labels) - {"background", "ignore"}:
        raise ValueError(f"{path}: the labels {shown(labels)} name no organ; {_LABELS_REMEDY}")


def _check_channel_names(names: Mapping[str, Any], path: Path) -> None:
    wrong = next((f"'{k}': {shown(v)}" for k, v in names.items() if not _is_number(k) or not isinstance(v, str)), None)
    if wrong or not names:
        raise ValueError(f"{path}: channel_names holds {wrong or 'nothing'}; {_CHANNELS_REMEDY}")


def _is_number(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"\s*[0-9]+\s*", text) is not None


def _all_text(values) -> bool:
    return all(isinstance(value, str) and not _is_number(value) for value in values)


def need(content: Mapping[str, Any], key: str, path: Path) -> Any:
    """An entry of a `dataset.json` that is needed.

    Raises:
        ValueError: If there is none.
    """
    if content.get(key):
        return content[key]
    remedies = {"labels": _LABELS_REMEDY, "channel_names": _CHANNELS_REMEDY}
    raise ValueError(f"{path} has no '{key}'; {remedies.get(key, 'copy the one of the data set again')}")


def read_predictions_json(path: Path) -> dict[str, Any]:
    """The `predictions.json` that `nnunet_ext predict` writes beside label maps.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or of another program.
    """
    content = read_json(path, PREDICTIONS_JSON, remedy=PREDICTIONS_REMEDY)
    for case, record in content["cases"].items():
        box = record.get("box") or ()
        if box and (misfit(box, _BOX) or not all(0 <= lower < upper for lower, upper in box)):
            raise ValueError(
                f"{path}: the box of case '{case}' is {shown(box)}, three pairs of voxels are needed; {PREDICTIONS_REMEDY}"
            )
    return content


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """nnU-Net's `splits_final.json`: training and validation cases of each fold.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or no such list.
    """
    try:
        return read_json(path, SPLITS)
    except ValueError as error:
        cause = str(error).removeprefix(f"{path} ").removeprefix("is not what it should be: ")
        raise ValueError(
            f"{path} is not a list of splits with 'train' and 'val' ({cause}). If nnU-Net made it, delete it: the next "
            "training makes the same splits again. If it is your own, put it back."
        ) from error


def folder_of_variable(variable: str, holds: str) -> Path:
    """The folder that one of nnU-Net's environment variables names.

    Args:
        variable: `nnUNet_raw`, `nnUNet_preprocessed` or `nnUNet_results`.
        holds: What it holds, for the message.

    Raises:
        FileNotFoundError, NotADirectoryError: If it is not set, not there, or a file.
    """
    root = os.environ.get(variable)
    if not root:
        raise FileNotFoundError(
            f"the environment variable {variable} is not set; it names the folder of the {holds}, "
            f"e.g. export {variable}=$HOME/{variable}"
        )
    if not Path(root).is_dir():
        problem = "is a file" if Path(root).exists() else "does not exist"
        kind = NotADirectoryError if Path(root).exists() else FileNotFoundError
        raise kind(
            f"the environment variable {variable} names {root}, which {problem}; it names the folder of the {holds}"
        )
    return Path(root)


def find_dataset(variable: str, dataset_id: int | str, holds: str) -> Path:
    """The folder of a data set, given by number or name, below the folder of one of nnU-Net's environment variables.

    Raises:
        FileNotFoundError: If there is none, naming those that are there.
        ValueError: If there are several of that number.
    """
    root = folder_of_variable(variable, holds)
    there = sorted(path.name for path in root.glob("Dataset[0-9][0-9][0-9]_*") if path.is_dir())
    text = str(dataset_id)
    found = [
        name for name in there if name == text or (_is_number(text) and name.startswith(f"Dataset{int(text):03d}_"))
    ]
    if not found:
        listed = ", ".join(there[:6]) + (", ..." if len(there) > 6 else "")
        raise FileNotFoundError(
            f"there is no data set {dataset_id} among the {holds} in {root} ({listed or 'it holds none'}); check the number "
            f"and the environment variable {variable}"
        )
    if len(found) > 1:
        raise ValueError(f"data set {dataset_id} is ambiguous: {root} holds {' and '.join(found)}; give the full name")
    return root / found[0]
