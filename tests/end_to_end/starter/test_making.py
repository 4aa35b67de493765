"""The starter from label maps of two people to scores on both, with networks that hardly learn."""

from __future__ import annotations

import json

import pytest
import SimpleITK as sitk
from map_heads import head_map

from nnunet_ext.end_to_end.starter.judging import judge
from nnunet_ext.end_to_end.starter.making import DATASET, make_leg, prepare
from nnunet_ext.end_to_end.starter.models import STAGES, folder_name, n_parameters
from nnunet_ext.end_to_end.starter.plan import PLANS
from nnunet_ext.end_to_end.starter.renderings import Rendering
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER

EPOCHS = {LOCALIZER: 1, SEGMENTER: 1}
SPACING_MM = (3.0, 3.0, 4.0)


@pytest.mark.long
def test_legs_are_trained_packed_and_scored_and_the_next_one_goes_on(tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for person, offset_mm in (("a", 40.0), ("b", 0.0)):
        sitk.WriteImage(head_map(offset_mm=offset_mm), str(maps / f"{person}.nii.gz"))
    out = tmp_path / "out"
    renderings = (Rendering(1, SPACING_MM), Rendering(1, SPACING_MM, contrast="random", misalignment_mm=0.0))
    demo = prepare(out, maps, renderings, n_processes=1)
    splits = json.loads((out / "nnUNet_preprocessed" / DATASET / "splits_final.json").read_text())
    assert splits[0] == {"train": ["phantom_000", "phantom_002"], "val": ["phantom_001", "phantom_003"]}
    plans = json.loads((out / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json").read_text())
    for stage in STAGES:
        entry = plans["configurations"][stage]
        assert entry["recipe"]["dropout_spares"] == "any"
        assert max(entry["architecture"]["arch_kwargs"]["features_per_stage"]) <= 96
    make_leg(demo, ["0"], 1, earlier=None, at_a_time=1, epochs=EPOCHS)
    first = out / "models" / "leg_1" / "0"
    assert n_parameters(first) < 4.9e6
    assert sum(file.stat().st_size for file in first.rglob("*")) < 10e6
    costs = make_leg(demo, ["0"], 2, earlier=out / "models" / "leg_1", at_a_time=1, epochs=EPOCHS)
    assert costs["0"][SEGMENTER]["iterations"] == 25
    scores = judge(
        out / "models" / "leg_2" / "0" / folder_name(SEGMENTER),
        [out / "training" / "phantom_003"],
        ("T1",),
        tmp_path / "judged",
    )
    assert set(scores["phantom_003"]["organs"]) == set(ORGANS)
    assert scores["phantom_003"]["person"] == "b"
