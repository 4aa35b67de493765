"""Fixtures: trainers on a data set of four tiny cases."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tiny_cases import CASES, DATASET, LABELS, ORGANS, PATCH, SHAPE, SPACING_MM, label_map, rule

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.preprocessor import PROPERTIES_KEY
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """nnU-Net's folders with the preprocessed data of both stages."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    base = tmp_path / "preprocessed" / "Dataset501_Test"
    rng = np.random.default_rng(0)
    for stage in ("3d_lowres", "3d_fullres"):
        folder = base / f"CascadeOARPlans_{stage}"
        folder.mkdir(parents=True)
        for case in CASES:
            seg = label_map()
            data = rng.standard_normal((3, *SHAPE)).astype(np.float32) * 0.1 + seg
            properties = {
                "spacing": list(SPACING_MM),
                "shape_before_cropping": SHAPE,
                "bbox_used_for_cropping": [[0, n] for n in SHAPE],
                "shape_after_cropping_and_before_resampling": SHAPE,
                "class_locations": {v: np.argwhere(seg == v) for v in ORGANS},
                PROPERTIES_KEY: {"organ_extents": roi.organ_extents(seg[0], spacing_mm=SPACING_MM)},
            }
            blocks = {"chunks": data.shape, "blocks": (1, 8, 8, 8), "chunks_seg": seg.shape, "blocks_seg": (1, 8, 8, 8)}
            nnUNetDatasetBlosc2.save_case(data, seg, properties, str(folder / case), **blocks)
    splits = [{"train": CASES[:3], "val": CASES[3:]}]
    (base / "splits_final.json").write_text(json.dumps(splits))
    (base / "dataset_fingerprint.json").write_text("{}")
    return tmp_path


def give_crops(configurations: dict, crop_size: Sequence[int]) -> None:
    """Make the segmenter of a plan one with one crop per organ."""
    architecture = copy.deepcopy(configurations["3d_fullres"]["architecture"])
    architecture["network_class_name"] = "nnunet_ext.cascade.organ_crops.OrganCropUNet"
    architecture["arch_kwargs"]["crop_size"] = list(crop_size)
    configurations["3d_cascade_fullres"]["architecture"] = architecture


@pytest.fixture
def make(folders, cascade_plans) -> Callable[..., CascadeOARTrainer]:
    """A trainer; options go into the configurations' `training` entry, `recipe` into that of all.

    `start_from` is that entry of its configuration, `previous_stage` that of the segmenter, and `entries` are others. With a
    `crop_size`, the segmenter has one crop per organ, and `patch` is the window that holds them.
    """

    def trainer(
        cls=CascadeOARTrainer,
        configuration="3d_cascade_fullres",
        *,
        forward=(0, 1, 2),
        labels=LABELS,
        patch=PATCH,
        fold=0,
        recipe=None,
        left_out=(),
        device="cpu",
        start_from=None,
        entries=None,
        previous_stage="3d_lowres",
        crop_size=None,
        **training,
    ):
        plans = cascade_plans(
            spacing_mm=SPACING_MM, roi=rule(left_out).to_plan(), patch_size=patch, transpose_forward=forward
        )
        plans["configurations"]["3d_lowres"]["recipe"] = plans["configurations"]["3d_fullres"]["recipe"] = recipe
        for c in plans["configurations"].values():
            if "training" in c:
                c["training"] = {**c["training"], **training}
        plans["configurations"]["3d_cascade_fullres"]["previous_stage"] = previous_stage
        if crop_size is not None:
            give_crops(plans["configurations"], crop_size)
        if start_from is not None:
            plans["configurations"][configuration]["start_from"] = start_from
        plans["configurations"][configuration].update(entries or {})
        plans["continue_training"] = False
        torch.manual_seed(0)
        return cls(plans, configuration, fold, {**DATASET, "labels": labels}, torch.device(device))

    return trainer
