"""A site without a head is learned: two glands and the thin duct between them, through the commands that a user types.

The guide to other sites is run by `test_guides.py`, without learning and with DICOM.
"""

from __future__ import annotations

import json
import re

import pytest
from typed_commands import TypedCommands

from nnunet_ext.phantom.torso import TORSO_ORGANS

DATASET, PLANS = "Dataset604_Torso", "CascadeOARPlansSmall"
MODEL = ["-tr", "CascadeOARTrainer", "-p", PLANS, "-device", "cpu"]
#: Epochs of 25 iterations, about five minutes of one core.
EPOCHS = {"3d_lowres": 10, "3d_cascade_fullres": 12}


@pytest.mark.long
def test_glands_and_duct_of_a_torso_are_learned_and_no_message_speaks_of_a_head(tmp_path, forked):
    run = TypedCommands(tmp_path, forked, timeout_s=3600)
    (tmp_path / "torso.toml").write_text(
        "mirror_left_right = false\n\n[labels]\n" + "".join(f"{organ} = []\n" for organ in TORSO_ORGANS)
    )
    printed = [
        run("nnunet_ext", "phantom", "torsos", "--site", "torso", "--cases", "10", "--size", "tiny", "-np", "1"),
        run("nnunet_ext", "convert", "torsos", "-d", "604", "-n", "Torso", "--modalities", "CT", "T2", "--labels",
            "torso.toml", "--test", "phantom_008", "phantom_009", "-np", "1"),
        run("nnUNetv2_plan_and_preprocess", "-d", "604", "-pl", "CascadeOARPlannerSmall", "-npfp", "1", "-np", "1"),
    ]  # fmt: skip
    file = tmp_path / "preprocessed" / DATASET / f"{PLANS}.json"
    plans = json.loads(file.read_text())
    assert plans["whole_body"] is True
    assert "head_crop" not in plans
    assert plans["left_right_pairs"] == []
    for name, epochs in EPOCHS.items():
        plans["configurations"][name]["training"].update(num_epochs=epochs, val_iterations_per_epoch=1)
        assert plans["configurations"][name]["recipe"]["mirror_left_right"] is False
    file.write_text(json.dumps(plans))
    printed += [run("nnUNetv2_train", "604", name, "all", *MODEL) for name in EPOCHS]
    printed += [
        run(
            "nnunet_ext", "predict", "-d", "604", "-f", "all", *MODEL, "-i", f"raw/{DATASET}/imagesTs", "-o", "contours"
        ),
        run("nnunet_ext", "evaluate", "contours", f"raw/{DATASET}/labelsTs", "-o", "scores", "-np", "1"),
    ]
    assert re.findall(r".*(?:\bhead|_head\b|crown|skull|\borbit).*", "\n".join(printed), flags=re.IGNORECASE) == []
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    dsc = {organ: scores["per_organ"][organ]["dsc_percent"]["mean"] for organ in TORSO_ORGANS}
    assert min(dsc.values()) > 60, dsc
