"""Files that nnU-Net and we leave in nnU-Net's folders: `dataset.json`, `predictions.json`, plans, splits."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnunet_ext.files import Shape, misfit, read_json, shown
from nnunet_ext.images.file_names import ENDINGS, image_stem
from nnunet_ext.images.source_files import is_system
from nnunet_ext.labels.table import LEFT_OUT_KEY

_LABELS_REMEDY = 'write name -> value, e.g. "labels": {"background": 0, "Eye_L": 1, "Eye_R": 2}'
_CHANNELS_REMEDY = 'write number -> name, e.g. "channel_names": {"0": "CT", "1": "T1"}'
_BOX = [[int, int]] * 3

DATASET_JSON: Shape = {
    "labels?": dict,
    "channel_names?": dict,
    "left_out_organs?": [str],
    "trained_with?": {"recipe": dict},
    "file_ending?": str,
    "nnunet_ext?": {"learned_resampling?": (str, None)},
    "one_intensity_range?": bool,
    "overwrite_image_reader_writer?": (str, None),
}
_CASE: Shape = {
    "box?": (None, list),
    "crops?": ({str: _BOX}, None),
    "warnings?": [str],
    "messages?": [dict],
    "missing?": [str],
    "postprocessed?": dict,
    "channels?": [str],
    "failed?": str,
    "fallback_whole_volume?": bool,
    "prepare_s?": float,
    "segment_s?": float,
    "write_s?": float,
    "device?": str,
    "peak_memory_mb?": float,
    "peak_device_memory_mb?": float,
}
PREDICTIONS_JSON: Shape = {
    "cases": {str: _CASE},
    "models?": [str],
    "model?": str,
    "postprocessing?": (dict, None),
    "atlases?": [str],
    "n_atlases?": int,
}
#: Folder beside `predictions.json` with a file per case, which counts instead of the case's entry there.
RECORDS = "records"
#: Folder in that of preprocessed cases with a record per case. Cases preprocessed by nnU-Net's own command have none.
PREPROCESSED_PARTS = ".parts"
PREDICTIONS_REMEDY = "it is not what nnunet_ext predict writes: move it away to go on without it, or predict again"
#: Key of `dataset.json` with lists of cases of one person, which planning keeps in one fold.
SAME_PERSON_KEY = "same_person"
#: Key of `dataset.json`: whether planning brings all channels to intensities from 0 to 1, as the reference study did.
ONE_RANGE_KEY = "one_intensity_range"
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


def check_labels(labels: object, path: Path) -> None:
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


def _all_text(values: Iterable[object]) -> bool:
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
    """The `predictions.json` that `nnunet_ext predict` writes beside label maps, with the records of cases beside it.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or of another program.
    """
    content = read_json(path, PREDICTIONS_JSON, remedy=PREDICTIONS_REMEDY)
    for case, record in content["cases"].items():
        _check_box(record, case, path)
    return {**content, "cases": with_records(content["cases"], path.parent)}


def with_records(cases: Mapping[str, Mapping], folder: Path) -> dict[str, Any]:
    """Entries of cases, with those of the records in a folder of predictions in their place.

    Each case has a file of its own, so no process ever writes what another one writes. An empty record takes a case out.

    Raises:
        ValueError: If a record is damaged.
    """
    found: dict[str, Any] = dict(cases)
    for file in sorted((folder / RECORDS).glob("*.json")):
        case = file.name.removesuffix(".json")
        record = read_json(file, (_CASE, None), remedy="delete it and the label map of its case, and predict again")
        found.pop(case, None)
        if record is not None:
            _check_box(record, case, file)
            found[case] = record
    return found


def _check_box(record: Mapping[str, Any], case: str, path: Path) -> None:
    box = record.get("box") or ()
    if box and (misfit(box, _BOX) or not all(0 <= lower < upper for lower, upper in box)):
        raise ValueError(
            f"{path}: the box of case '{case}' is {shown(box)}, three pairs of voxels are needed; {PREDICTIONS_REMEDY}"
        )


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


_PLANS_JSON = {"configurations": {str: {"inherits_from?": (str, None), "previous_stage?": (str, None)}}}


def find_label_maps(folder: Path) -> dict[str, Path]:
    """Case -> file for every label map in a folder (not below it); hidden files are skipped.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If two files are the same case, e.g. `case_1.nii.gz` and `case_1.nrrd`.
    """
    if not folder.is_dir():
        problem = "it is a file" if folder.exists() else "it does not exist"
        raise FileNotFoundError(f"{folder} is not a folder: {problem}. Name a folder of label maps.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        case = image_stem(path)
        if case is None or path.is_dir():
            continue
        if case in found:
            raise ValueError(
                f"case '{case}' is there twice in {folder}: {found[case].name} and {path.name}. Remove one."
            )
        found[case] = path
    return found


def channel_files(folder: Path, case: str, channel_names: Mapping[str, str]) -> dict[str, Path]:
    """Channel name -> image of a case in nnU-Net's `imagesTr` or `imagesTs`, in channel order.

    Args:
        folder: Holds `<case>_0000.nii.gz`, one file per channel.
        case: Its name.
        channel_names: As in `dataset.json`: number -> name.

    Raises:
        FileNotFoundError: If a channel is missing.
    """
    found = {}
    there = {p.name.lower(): p for p in folder.glob(f"{glob.escape(case)}_[0-9][0-9][0-9][0-9].*") if p.is_file()}
    for number, name in sorted(channel_names.items(), key=lambda item: int(item[0])):
        stem = f"{case}_{int(number):04d}"
        path = next((there[file] for file in (f"{stem}{ending}".lower() for ending in ENDINGS) if file in there), None)
        if path is None:
            raise FileNotFoundError(f"no image {stem}{ENDINGS[0]} (channel {name}) in {folder}")
        found[name if name not in found else f"{name} ({number})"] = path
    return found


def labels_from_dataset_json(predictions: Path, references: Path) -> dict[str, int]:
    """`labels` of the first `dataset.json` beside the predictions, beside the references, or one folder above these.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file found is damaged or has no usable `labels`.
    """
    looked = (predictions / "dataset.json", references / "dataset.json", references.parent / "dataset.json")
    for path in looked:
        if os.path.lexists(path):  # also a broken link, which is told
            return dict(need(read_dataset_json(path), "labels", path))
    raise FileNotFoundError(
        "No dataset.json says which label is which organ. Looked for "
        + ", ".join(str(path) for path in looked)
        + ". Copy the one of the dataset there, or name the labels yourself."
    )


def numbered_files(folder: Path) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Cases of an nnU-Net images folder with their files in channel order, and images named otherwise, with the reason.

    Every image that `read_image` reads counts, whatever the ending of the training images was.
    """
    cases: dict[str, list[Path]] = {}
    others = {}
    for file in sorted(folder.iterdir()):
        stem = image_stem(file)
        if not stem or is_system(file, folder) or file.is_dir():
            continue
        # macOS writes letters with accents in two parts.
        if match := re.fullmatch(r"(.+)_\d{4}", unicodedata.normalize("NFC", stem)):
            cases.setdefault(match[1], []).append(file)
        else:
            others[file.name] = f"not named <case>_0000{file.name[len(stem) :]}"
    return {case: sorted(files, key=channel_number) for case, files in cases.items()}, others


def channel_number(file: Path) -> str:
    return (image_stem(file) or "")[-4:]


def is_model(folder: Path) -> bool:
    """Whether a folder is a trained model of nnU-Net: `plans.json` and folds, no label maps."""
    return (folder / "plans.json").is_file() and any(path.is_dir() for path in folder.glob("fold_*"))


def planned(configurations: Mapping[str, Mapping], name: str, key: str) -> Any:
    """What a plan's configuration says under a key, or the one it inherits from; None where none of them says it."""
    entry = configurations.get(name, {})
    for _ in configurations:  # no more steps than there are configurations, should one inherit from itself
        if key not in entry and entry.get("inherits_from") in configurations:
            entry = configurations[entry["inherits_from"]]
    return entry.get(key)


def localizer_of(model: Path) -> Path | None:
    """The trained model of the previous stage, beside this one; None where the plan names none or it is not there."""
    trained_by, _, configuration = model.name.rpartition("__")
    remedy = "copy the model's plans.json again"
    configurations = read_json(model / "plans.json", _PLANS_JSON, remedy=remedy)["configurations"]
    previous = planned(configurations, configuration, "previous_stage")
    beside = model.with_name(f"{trained_by}__{previous}")
    return beside if previous and is_model(beside) else None


def dataset_folder(variable: str, name: str) -> Path | None:
    """A dataset's folder below the one that nnU-Net's environment variable names; None where that is not set."""
    root = os.environ.get(variable)
    return Path(root, name) if root else None


def model_folder(
    dataset_id: int | str | None,
    model: Path | None,
    *,
    configuration: str | None = None,
    trainer: str | None = None,
    plans: str | None = None,
) -> Path:
    """The trained configuration's folder: the one named, or the one in nnU-Net's results folder.

    Raises:
        ValueError: If a folder and anything else is named, or neither a folder nor a dataset.
        FileNotFoundError: If there is none.
    """
    if model is not None:
        if any(name is not None for name in (dataset_id, configuration, trainer, plans)):
            raise ValueError(
                f"the folder {model} says which model it is: leave out dataset, configuration, trainer, plans"
            )
        if not (Path(model) / "plans.json").is_file():
            inside = sorted(file.parent.name for file in Path(model).glob("*/plans.json"))
            raise FileNotFoundError(
                f"{model} {'' if Path(model).exists() else 'does not exist, so it '}is no model: it has no plans.json"
                + (f"; name one of the folders in it, {', '.join(inside)}" if inside else "")
            )
        return Path(model)
    if dataset_id is None:
        raise ValueError("neither a dataset nor a model's folder is named: give -d or -m")
    dataset = find_dataset("nnUNet_results", dataset_id, "models")
    name = f"{trainer or 'CascadeOARTrainer'}__{plans or 'CascadeOARPlans'}__{configuration or SEGMENTER}"
    return dataset / name


#: Configurations of the cascade, beside the whole-volume baseline.
LOCALIZER, WHOLE_VOLUME, SEGMENTER = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
#: Configurations of other groups' networks.
ANATOMYNET, FOCUSNET, DEEPLAB = "3d_anatomynet", "3d_focusnet", "2d_deeplab"
#: The reference study's, at full resolution.
STUDY_LOCALIZER = "3d_localizer_80x256x256"


_BOXES_JSON = {
    "cases": {
        str: {
            "label_crop_pass_rate": (float, None),
            "fallback_whole_volume?": bool,
            "error_mm?": ([float] * 3, None),
            "organ_error_mm?": {str: [float] * 3},
            "organ_pass_rates?": {str: float},
        }
    }
}
#: In `validation/`: per case, how the box was placed and which share of the organs it holds.
BOXES_FILE = "label_crop_pass_rate.json"


def read_boxes(path: Path) -> dict[str, dict]:
    """Case -> how its box was placed, from a fold's `label_crop_pass_rate.json`; empty where there is none.

    Raises:
        ValueError: If the file is damaged.
    """
    return read_json(path, _BOXES_JSON, remedy=VALIDATION_REMEDY)["cases"] if path.is_file() else {}


#: In a fold's folder: the device that it was trained on, and the memory that this took.
DEVICE_FILE = "training_device.json"
_DEVICE_JSON: Shape = {"device": str, "peak_memory_mb": float, "peak_device_memory_mb?": float}


def read_training_device(fold: Path) -> dict[str, Any]:
    """Device and memory of a fold's training. Empty for a training that has not ended, or of an earlier version.

    Raises:
        ValueError: If the file is damaged.
    """
    path = Path(fold, DEVICE_FILE)
    return (
        read_json(path, _DEVICE_JSON, remedy="delete it: it says what a training took, no more")
        if path.is_file()
        else {}
    )


VALIDATION_REMEDY = "repeat the validation: nnUNetv2_train ... --val"


def organs_not_segmented(predictions: Path, organs: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Those of the organs that the `dataset.json` beside the predictions says their model leaves out."""
    left_out = dataset_json_of(predictions).get(LEFT_OUT_KEY, ())
    return tuple(organ for organ in organs if organ in left_out)


def dataset_json_of(folder: Path) -> dict:
    """The `dataset.json` beside predictions or of a model; empty where there is none."""
    path = folder / "dataset.json"
    return read_dataset_json(path) if os.path.lexists(path) else {}
