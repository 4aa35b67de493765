"""Evaluations that the tests of the report share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_experiments import CASES, LABELS, SHAPE, label_map, run, write

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.reporting.content import Report


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw dataset of seven cases with one preview, `good` and `poor` predictions, and their evaluations."""
    root = tmp_path_factory.mktemp("data")
    raw = root / "Dataset501_Head"
    rng = np.random.default_rng(0)
    for number, case in enumerate(CASES):
        write(raw / "labelsTs", case, label_map())
        for channel in (0, 1):
            write(raw / "imagesTs", f"{case}_000{channel}", rng.normal(40, 60, SHAPE).astype(np.int16))
        write(root / "good", case, label_map(1 if number == 2 else 0))
        poor = label_map(2 if number < 6 else 3)
        write(root / "poor", case, np.where(poor == 2, 0, poor) if number == 4 else poor)  # chiasm missed
    (raw / "dataset.json").write_text(json.dumps({"labels": LABELS, "channel_names": {"0": "CT", "1": "T1"}}))
    (raw / "preview" / "case_4").mkdir(parents=True)
    (raw / "preview" / "case_4" / "1_couch_and_mask.png").write_bytes(b"picture")
    for name in ("good", "poor"):
        evaluate(root / name, raw / "labelsTs", root / f"evaluation_{name}", n_processes=1, show_progress=False)
    return root


@pytest.fixture(scope="session")
def compared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run(data, tmp_path_factory.mktemp("report"), "good", "poor")
