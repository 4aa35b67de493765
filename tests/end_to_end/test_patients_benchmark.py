"""The smallest comparison of trainings from scratch and from a model, and its parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from start_models import MODEL_DATASET, write_model
from tiny_cases import rule

from nnunet_ext.end_to_end.patients_benchmark import gather, table
from nnunet_ext.labels.organs import ORGANS


def cases(folder: Path, people: dict[str, str]) -> Path:
    for case, person in people.items():
        (folder / case).mkdir(parents=True)
        (folder / case / "phantom.json").write_text(json.dumps({"person": person}))
    return folder


def test_the_first_patients_are_of_many_people_and_the_scored_ones_come_last(tmp_path):
    train = cases(tmp_path / "train", {"a0": "A", "a1": "A", "a2": "A", "b0": "B", "c0": "C", "c1": "C"})
    score = cases(tmp_path / "score", {"x": "X", "y": "X"})
    folder, n_score = gather(tmp_path / "out", train, score, 4)
    assert n_score == 2
    links = {link.name: link.resolve().name for link in sorted(folder.iterdir())}
    assert list(links.values()) == ["a0", "b0", "c0", "a1", "x", "y"]
    assert list(links) == ["patient_000", "patient_001", "patient_002", "patient_003", "scored_000", "scored_001"]
    with pytest.raises(ValueError, match="holds 6 cases, and 7 patients are to be trained on"):
        gather(tmp_path / "more", train, score, 7)


def test_without_runs_there_is_no_table(tmp_path):
    assert table(tmp_path / "nowhere", "heads") == "No run has been scored yet."


@pytest.mark.long
def test_three_patients_from_scratch_and_from_a_model_are_trained_scored_and_tabled(
    tmp_path, cascade_plans, shared_phantom
):
    channels = tuple(MODEL_DATASET["channel_names"].values())
    plans = cascade_plans(
        roi=rule().to_plan(), channels=channels, spacing_mm=(4.0,) * 3, localizer_spacing_mm=(8.0,) * 3
    )
    model = write_model(tmp_path / "models", {**plans, "plans_name": "Theirs"})
    shared_phantom.write(tmp_path / "train", n_cases=4, size="tiny")
    (tmp_path / "score").mkdir()
    (tmp_path / "train" / "phantom_003").rename(tmp_path / "score" / "phantom_003")
    command = [
        sys.executable,
        "-m",
        "nnunet_ext.end_to_end.patients_benchmark",
        "out",
        "--runs",
        "runs",
        "--minutes",
        "0.05",
    ]
    data = ["--train", "train", "--score", "score", "--from", str(model), "--patients", "3", "--minutes", "0.05"]
    done = subprocess.run([*command, *data], cwd=tmp_path, env={**os.environ, "nnUNet_n_proc_DA": "1"},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    text = table(tmp_path / "runs", "heads")
    assert text in done.stdout
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[:4] for row in rows[1:]] == [["3", "scratch", "0.05", "0"], ["3", "model", "0.05", "0"]]
    assert len(rows[0]) == 10 + len(ORGANS)
    logs = (tmp_path / "out" / "03_model").rglob("training_log_*.txt")
    assert any("The training begins with the weights of" in log.read_text() for log in logs)
