"""Predicts and scores the test cases of one run, and writes its record. Run in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_ext._version import __version__
from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.end_to_end.learning.courses import Costs, course
from nnunet_ext.end_to_end.learning.sides import middle_of, split_sides
from nnunet_ext.end_to_end.learning.stock_prediction import predict_by_stock
from nnunet_ext.end_to_end.learning.study import Study, device_name, machine, model_folder, training_name
from nnunet_ext.end_to_end.learning.systems import system_of
from nnunet_ext.end_to_end.learning.trainers import epoch_seconds, go_on
from nnunet_ext.end_to_end.learning.training import make_trainer
from nnunet_ext.end_to_end.learning.true_boxes import predict_in_true_boxes
from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.files import read_json, write_json
from nnunet_ext.images.channels import is_ct, reference_channel
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.nnunet_folders import channel_files, read_dataset_json
from nnunet_ext.prediction.predicting import predict
from nnunet_ext.reporting.costs import network_size

Found = TypeVar("Found")


def score(
    study: Study, *, name: str, seed: int, minutes: float, true_boxes: bool, commit: str | None, n_threads: int = 1
) -> None:
    """Contour the test cases by a trained system, score all organs, and write the record of the run.

    Args:
        study: The study.
        name: Of the system.
        seed: Of its training.
        minutes: The mark.
        true_boxes: Place the box by the reference organs, not by the localizer.
        commit: Of the program.
        n_threads: Of the prediction.
    """
    torch.set_num_threads(n_threads)
    system = system_of(name)
    training = training_name(name, seed, minutes)
    predictions = study.out / "predictions" / (f"{training}_true_boxes" if true_boxes else training)
    model = model_folder(study, system, training)
    images, device = study.raw() / "imagesTs", study.settings.device
    out = predictions / "merged" if system.merged else predictions

    def contour() -> None:
        if system.stock_prediction:
            predict_stock(study, name, seed, minutes, out)
        elif true_boxes:
            predict_in_true_boxes(model, images, study.raw() / "labelsTs", out, merged=system.merged, device=device)
        else:
            done = predict(
                images=images, out=out, model=model, folds=(0,), device=device, overwrite=True, show_progress=False
            )
            if done.failed:
                raise RuntimeError(f"cases without contours: {done.failed}")
        if system.merged:
            split_predictions(study, out, predictions)

    _, spent_s = spent_by(contour)
    labels = read_dataset_json(study.raw() / "dataset.json")["labels"]
    summary = evaluate(
        predictions, study.raw() / "labelsTs", predictions / "scores", labels=labels, show_progress=False
    )
    if summary.failed:
        raise RuntimeError(f"cases that could not be scored: {summary.failed}")
    record = _about(study, name, seed, minutes, commit) | {
        "predict_cpu_s_per_case": round(spent_s / len(summary.cases), 2),
        "boxes": ("true" if true_boxes else "localizer") if system.localizer else None,
        "cases": case_scores(summary),
    }
    write_json(record, study.record_file(name, minutes, seed, true_boxes=true_boxes), indent=1)


def spent_by(function: Callable[[], Found]) -> tuple[Found, float]:
    """What a function returns, and the CPU seconds of this process and its ended children."""
    before = sum(os.times()[:4])
    found = function()
    return found, sum(os.times()[:4]) - before


def case_scores(summary: EvaluationSummary) -> dict[str, dict[str, dict[str, float | str | None]]]:
    """Case -> organ -> DSC in percent, HD95 in mm, and whether the organ was missed or invented."""
    scores: dict[str, dict[str, dict[str, float | str | None]]] = {}
    for row in summary.rows:
        scores.setdefault(row.case, {})[row.organ] = {
            "dsc_percent": _number(row.dsc_percent),
            "hd95_mm": _number(row.hd95_mm),
            "flag": row.flag,
        }
    return scores


def predict_stock(study: Study, name: str, seed: int, minutes: float, out: Path) -> None:
    """Contours by nnU-Net's own predictor, without mirroring unless the training mirrored."""
    system, costs = system_of(name), Costs.read(study.costs_file)
    trainer = make_trainer(
        study,
        name,
        training_name(name, seed, minutes),
        length=course(system, costs.of(name), minutes),
        constant_share=0.0,
        seed=seed,
        memory_gb=costs.stock_memory_gb,
    )
    go_on(trainer)
    predict_by_stock(trainer, study.raw() / "imagesTs", out, mirrors=system.mirrors)


def split_predictions(study: Study, merged: Path, out: Path) -> None:
    """Label maps of `merged` with left and right organs, in `out`."""
    content = read_dataset_json(study.raw() / "dataset.json")
    for file in sorted(merged.glob("*.nii.gz")):
        case = file.name.removesuffix(".nii.gz")
        channels = channel_files(study.raw() / "imagesTs", case, content["channel_names"])
        channel = reference_channel(list(channels))
        image = read_image(channels[channel])
        body = body_mask_array(
            sitk.GetArrayFromImage(image).astype(np.float32),
            spacing_mm=image.GetSpacing()[::-1],
            is_ct=is_ct(channel),
        )
        split = split_sides(read_label_map(file), content["labels"], middle_mm=middle_of(body, image))
        write_image(split, out / file.name)
    shutil.copyfile(study.raw() / "dataset.json", out / "dataset.json")


def _about(study: Study, name: str, seed: int, minutes: float, commit: str | None) -> dict:
    """All of a record but the scores."""
    system, costs = system_of(name), Costs.read(study.costs_file)
    stages = {"segmenter": name} | ({"localizer": system.localizer} if system.localizer else {})
    folders = {
        stage: model_folder(study, system_of(of), training_name(of, seed, minutes)) / "fold_0"
        for stage, of in stages.items()
    }
    plans = read_json(folders["segmenter"].parent / "plans.json")["configurations"][system.configuration]
    return {
        **about(study, name, seed=seed, minutes=minutes, commit=commit),
        "weights": {
            stage: size.parameters for stage, folder in folders.items() if (size := network_size(folder.parent))
        },
        "iterations": {stage: course(system_of(of), costs.of(of), minutes).iterations for stage, of in stages.items()},
        "clock_s" if study.on_gpu else "cpu_s": {
            stage: round(sum(epoch_seconds(folder)), 1) for stage, folder in folders.items()
        },
        "patch_size": plans["patch_size"],
        "batch_size": plans["batch_size"],
    }


def about(study: Study, name: str, *, seed: int, minutes: float, commit: str | None) -> dict[str, Any]:
    """What the record of every method holds."""
    return {
        "system": name,
        "data": study.data,
        "data_sha256": study.data_sha256(),
        "seed": seed,
        "mark_min": minutes,
        "machine": machine(),
        "device": device_name(study.settings.device),
        "threads": 1,
        "commit": commit,
        "versions": {"nnunet_ext": __version__, **{package: version(package) for package in ("nnunetv2", "torch")}},
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)
