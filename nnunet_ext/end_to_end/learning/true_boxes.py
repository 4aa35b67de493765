"""The segmenter with boxes that the reference organs place, to see what locating costs."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_ext.cascade import roi
from nnunet_ext.end_to_end.learning.sides import merge_sides
from nnunet_ext.files import write_json
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.nnunet_folders import channel_files, read_dataset_json
from nnunet_ext.prediction.cascade_predictor import CascadePredictor, PreparedCase


class TrueBoxPredictor(CascadePredictor):
    """A cascade whose localizer's label map is the reference. The box follows from it by the plan's rule.

    A box may still grow if an organ touches it, as in every prediction.
    """

    #: Of the case that is predicted next, shape `(Z, Y, X)` in the axes of the training images.
    reference: np.ndarray

    def _locate(self, prepared: PreparedCase) -> Generator[Any, torch.Tensor, np.ndarray]:
        forward = self.segmenter.plans_manager.transpose_forward
        body = tuple(tuple(b) for b in prepared.properties["bbox_used_for_cropping"])
        return self.reference.transpose(forward)[roi.slices(body)][None]
        yield  # a generator, as its base, that asks for nothing


def predict_in_true_boxes(
    model: Path, images: Path, references: Path, out: Path, *, merged: bool, device: str = "cpu"
) -> None:
    """Label maps of all cases of an images folder, with boxes by their references.

    Args:
        model: Folder of the segmenter. Its localizer lies beside it and is not asked.
        images: With `<case>_0000.nii.gz` and so on.
        references: With `<case>.nii.gz`.
        out: Folder to write to.
        merged: Whether left and right organs are one label to the model.
        device: Of the networks.
    """
    predictor = TrueBoxPredictor(model, folds=(0,), device=torch.device(device))
    labels: Mapping[str, int] = read_dataset_json(references.parent / "dataset.json")["labels"]
    names = predictor.dataset_json["channel_names"]
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(references.glob("*.nii.gz")):
        if (out / file.name).is_file():
            continue
        label_map = sitk.DICOMOrient(read_label_map(file), predictor.orientation)
        array = sitk.GetArrayFromImage(label_map)
        predictor.reference = (merge_sides(array, labels) if merged else array).astype(np.int16)
        case = file.name.removesuffix(".nii.gz")
        predictor.predict_files(channel_files(images, case, names), out / file.name)
    write_json(predictor.dataset_json, out / "dataset.json", ensure_ascii=False)
