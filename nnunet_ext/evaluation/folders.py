"""The pairs of label maps to compare, from two folders or from a trained model's cross-validation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.cascade import roi
from nnunet_ext.evaluation.cross_validation import read_cross_validation, reference_folder
from nnunet_ext.images.file_names import ENDINGS, image_files, image_stem
from nnunet_ext.nnunet_folders import dataset_json_of, find_label_maps, is_model, read_predictions_json

#: Direction of an axis -> the other way along it.
OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}
#: Endings of the files that nnU-Net and this package write beside label maps. They are not listed as left over.
COMPANIONS = (".json", ".npz", ".pkl")


@dataclass(frozen=True)
class PlacedBox:
    """The box that the segmenter saw of a case.

    Attributes:
        voxels: Along `(Z, Y, X)` of the case's grid.
        axes: Directions of that grid's axes `(x, y, z)`, such as `RAS`.
        crops: Organ -> its own crop within the box, as `voxels`. None if the segmenter has not one crop per organ.
    """

    voxels: roi.Box
    axes: str
    crops: Mapping[str, roi.Box] | None = None

    def on(self, shape: Sequence[int], axes: str) -> tuple[slice, ...]:
        """The box along `(Z, Y, X)` of the same case with other directions of its axes, which has this shape.

        Raises:
            ValueError: If the box reaches beyond the shape, or the axes have another order.
        """
        box = []
        for (lower, upper), n, own, other in zip(self.voxels, shape, self.axes[::-1], axes[::-1], strict=True):
            if upper > n or own not in OPPOSITE[other] + other:
                raise ValueError(
                    f"the box {self.voxels} on axes {self.axes} does not fit a shape of {tuple(shape)} on {axes}."
                )
            box.append(slice(lower, upper) if own == other else slice(n - upper, n - lower))
        return tuple(box)


@dataclass(frozen=True)
class Folders:
    """The label maps to score, by case, and all that is known about the predictions."""

    dataset: Path  # folder of the predictions, which may hold a dataset.json
    references: Path
    prediction_of: Mapping[str, Path]
    reference_of: Mapping[str, Path]
    boxes: Mapping[str, PlacedBox] = field(default_factory=dict)
    pass_rates: Mapping[str, float] = field(default_factory=dict)
    model: Path | None = None
    folds: tuple[str, ...] = ()
    localizer: Path | None = None
    others: tuple[str, ...] = ()  # other files in the two folders, that are no label maps


def find_folders(predictions: Path, references: Path | None) -> Folders:
    """Files of both folders, or those of a trained model's validated folds. None for its own references."""
    if is_model(predictions):
        references = reference_folder(predictions) if references is None else Path(references)
        found = read_cross_validation(predictions)
        reference_of = _references(references)
        if missing := sorted(set(found.cases) - set(reference_of)):
            raise FileNotFoundError(
                f"No reference for {len(missing)} of the {len(found.cases)} validated cases, e.g. '{missing[0]}', in "
                f"{references}. Is it the dataset this model was trained on?"
            )
        validated = {fold: find_label_maps(folder) for fold, folder in found.validation_folders.items()}
        return Folders(
            predictions,
            references,
            {case: validated[fold][case] for case, fold in found.cases.items() if case in validated[fold]},
            {case: reference_of[case] for case in found.cases},
            pass_rates=found.pass_rates,
            model=found.model,
            folds=found.folds,
            localizer=found.localizer,
        )
    prediction_of = find_label_maps(predictions)
    if references is None:
        raise FileNotFoundError(
            f"{predictions} is no trained model (plans.json, fold_*), so name the folder of the references too."
        )
    references = Path(references)
    reference_of = _references(references)
    others = (*_others(predictions, prediction_of), *_others(references, reference_of))
    return Folders(predictions, references, prediction_of, reference_of, placed_boxes(predictions), others=others)


def _references(folder: Path) -> dict[str, Path]:
    found = find_label_maps(folder)
    if not found:
        raise FileNotFoundError(f"No label map ({', '.join(ENDINGS)}) in the references folder {folder}.")
    return found


def _others(folder: Path, label_maps: Mapping[str, Path]) -> list[str]:
    """Files and folders beside label maps that are no part of one and that nnU-Net and this package do not write there."""
    parts = set()
    for path in label_maps.values():
        with suppress(OSError, ValueError):  # said when the label map is read
            parts.update(image_files(path))
    found = [path for path in sorted(folder.iterdir()) if path not in parts and not path.name.startswith(".")]
    return [
        f"{folder.name}/{path.name}{' (a folder)' if path.is_dir() else ''}"
        for path in found
        if path.is_dir() or (image_stem(path) is None and not path.name.lower().endswith(COMPANIONS))
    ]


def example_of(files: Mapping[str, Path]) -> str:
    return f"{min(path.name for path in files.values())}{', ...' * (len(files) > 1)}" if files else "no label map"


def placed_boxes(predictions: Path) -> dict[str, PlacedBox]:
    """Case -> box of the segmenter, from the `predictions.json` that `nnunet_ext predict` writes beside label maps."""
    path = predictions / "predictions.json"
    if not os.path.lexists(path):
        return {}
    cases = read_predictions_json(path)["cases"]
    dataset = dataset_json_of(predictions)
    reader = dataset.get("overwrite_image_reader_writer", "None")
    # The planner chooses nnU-Net's reorienting reader for NIfTI. Other readers get images whose axes are in LPS order.
    reorients = reader == "NibabelIOWithReorient" or (
        reader == "None" and dataset.get("file_ending", "").startswith(".nii")
    )
    axes = "RAS" if reorients else "LPS"

    def placed(record: Mapping) -> PlacedBox:
        crops = record.get("crops")
        of_organs = None if crops is None else {organ: tuple(map(tuple, crop)) for organ, crop in crops.items()}
        return PlacedBox(tuple(map(tuple, record["box"])), axes, of_organs)

    return {case: placed(record) for case, record in cases.items() if record.get("box")}


def has_localizer(predictions: Path) -> bool:
    """Whether `nnunet_ext predict` made these with two stages. With one, the recorded boxes are those of the body."""
    path = predictions / "predictions.json"
    return os.path.lexists(path) and len(read_predictions_json(path).get("models", ())) > 1
