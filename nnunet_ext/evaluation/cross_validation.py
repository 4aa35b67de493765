"""The cross-validation of a trained model, as nnU-Net writes it: one folder of label maps per fold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.files import read_json
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.nnunet_folders import (
    BOXES_FILE,
    VALIDATION_REMEDY,
    dataset_folder,
    localizer_of,
    read_boxes,
    read_splits,
)

logger = logging.getLogger(__name__)

_SUMMARY_JSON = {"metric_per_case": [{"prediction_file": str}]}


@dataclass(frozen=True)
class CrossValidation:
    """Cases of the validated folds.

    Attributes:
        model: Folder such as `CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres`.
        folds: Validated folds.
        cases: Case -> fold that validated it, or should have.
        validation_folders: Fold -> folder of its label maps.
        pass_rates: Case -> label crop pass rate, for the cases in which the trainer measured it.
        localizer: Model of the stage before. None if the plan names none or it is not there.
    """

    model: Path
    folds: tuple[str, ...]
    cases: Mapping[str, str]
    validation_folders: Mapping[str, Path]
    pass_rates: Mapping[str, float] = field(default_factory=dict)
    localizer: Path | None = None


def read_cross_validation(model: Path) -> CrossValidation:
    """Which fold of a trained model validated which case.

    The cases of a fold come from `splits_final.json` in `$nnUNet_preprocessed`, so a case without a label map counts as
    failed. Without that file they are the cases with a label map. Fold `all` validates on its training cases, so it is left
    out.

    Raises:
        FileNotFoundError: If no fold has been validated.
        ValueError: If two folds validated the same case.
    """
    model = Path(model).resolve()
    folds = (path.name.removeprefix("fold_") for path in model.glob("fold_*"))
    validated = {fold: model / f"fold_{fold}" / "validation" for fold in sorted(filter(str.isdecimal, folds), key=int)}
    unfinished = [fold for fold, folder in validated.items() if not (folder / "summary.json").is_file()]
    folders = {fold: folder for fold, folder in validated.items() if fold not in unfinished}
    if not folders:
        only_all = "Fold all validates on its training cases, which says nothing about new ones. "
        raise FileNotFoundError(
            f"{model} has no validated fold (fold_N/validation/summary.json). "
            f"{only_all if (model / 'fold_all').is_dir() else ''}Train a fold of the cross-validation to its end, or "
            "repeat its validation: nnUNetv2_train ... --val"
        )
    if unfinished:
        logger.warning("%s: not validated yet, left out: fold %s", model.name, ", ".join(unfinished))

    splits = _splits(model)
    cases: dict[str, str] = {}
    for fold, folder in folders.items():
        expected = splits[int(fold)]["val"] if splits and int(fold) < len(splits) else ()
        summary = read_json(folder / "summary.json", _SUMMARY_JSON, remedy=VALIDATION_REMEDY)
        scored = {_case(entry["prediction_file"]) for entry in summary["metric_per_case"]}
        for case in sorted({*expected, *scored}):
            if case in cases:
                raise ValueError(
                    f"case '{case}' was validated by fold {cases[case]} and fold {fold} of {model}; every case belongs to "
                    "one fold. Were they trained with different splits_final.json? Train one of them again."
                )
            cases[case] = fold
    pass_rates = {}
    for folder in folders.values():
        found = {case: record["label_crop_pass_rate"] for case, record in read_boxes(folder / BOXES_FILE).items()}
        pass_rates.update({case: rate for case, rate in found.items() if rate is not None})
    return CrossValidation(model, tuple(folders), cases, folders, pass_rates, localizer_of(model))


def reference_folder(model: Path) -> Path:
    """Folder of the references of a model's training cases: `labelsTr` in nnUNet_raw, else `gt_segmentations`.

    Raises:
        FileNotFoundError: If neither is there.
    """
    looked = []
    for variable, name in (("nnUNet_raw", "labelsTr"), ("nnUNet_preprocessed", "gt_segmentations")):
        if folder := dataset_folder(variable, Path(model).resolve().parent.name):
            looked.append(folder / name)
            if looked[-1].is_dir():
                return looked[-1]
    where = ", ".join(map(str, looked)) or "nowhere: neither nnUNet_raw nor nnUNet_preprocessed is set"
    raise FileNotFoundError(
        f"No references for the cross-validation of {model}. Looked for {where}. Set nnUNet_raw, or name their folder."
    )


def _splits(model: Path) -> list[dict] | None:
    folder = dataset_folder("nnUNet_preprocessed", model.parent.name)
    path = folder and folder / "splits_final.json"
    return read_splits(path) if path and path.is_file() else None


def _case(file: str) -> str:
    """Case of a label map from its path, with the endings that nnU-Net's readers know."""
    name = file.replace("\\", "/").rpartition("/")[2]
    return image_stem(Path(name)) or name.rpartition(".")[0]
