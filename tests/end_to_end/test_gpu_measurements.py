"""The script of measurements for one GPU, on a CPU: that it runs, not what it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ext.end_to_end import gpu_measurements
from nnunet_ext.end_to_end.gpu_measurements import MEASUREMENTS, Measuring, compare, log_times, measure, table

SCRIPT = Path(__file__).parents[2] / "results" / "gpu" / "run.sh"
LOG = """\
2026-11-30 12:00:00.000000: Epoch 0
2026-11-30 12:00:20.000000: train_loss 0.5
2026-11-30 12:00:20.000100: Epoch time: 20.0 s
2026-11-30 12:00:23.500000: Epoch 1
2026-11-30 12:00:43.000000: train_loss 0.4
2026-11-30 12:01:00.000000: predicting head_01
2026-11-30 12:01:02.000000: predicting head_02
no time: predicting
2026-11-30 12:01:07.000000: Validation complete
"""


def test_the_log_tells_the_time_between_epochs_and_of_the_validation():
    assert log_times(LOG) == {"between_epochs_s": 3.5, "validation_s": 7.0, "validated": 2}
    assert log_times("")["validated"] == 0


def measuring(tmp_path: Path) -> Measuring:
    return Measuring(tmp_path, "cpu", smallest=True)


def test_a_measurement_that_fails_or_has_no_time_says_so_and_the_next_is_made(tmp_path, monkeypatch):
    def failing(m: Measuring) -> None:
        raise RuntimeError("nnUNetv2_train 504: exit code 1: out | of\nmemory")

    def good(m: Measuring) -> None:
        m.add(m.figures[-1].number + 1, "it/s", "7.00 it/s", ">= 6 it/s", is_good=True)

    rows = ((1, "set-up", 0.0, good_first := lambda m: m.add(1, "set-up", "3 s")), (2, "segmenter", 5.0, failing))
    assert good_first
    monkeypatch.setattr(gpu_measurements, "MEASUREMENTS", (*rows, (3, "next", 5.0, good), (4, "long", 1e6, good)))
    m = measuring(tmp_path)
    measure(m, 600)
    assert [f.is_good for f in m.figures] == [None, False, True, None]
    assert "failed: nnUNetv2_train 504: exit code 1: out / of memory" in m.figures[1].value
    assert m.figures[3].value.startswith("not run: 600 s were left, it may take 1000000")
    assert json.loads((tmp_path / "gpu.json").read_text())[2]["good"] == ">= 6 it/s"
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert lines == table(m.figures).splitlines()
    assert {line.count("|") for line in lines} == {6}


def test_without_a_set_up_nothing_else_is_tried(tmp_path, monkeypatch):
    def failing(m: Measuring) -> None:
        raise RuntimeError("no phantoms")

    monkeypatch.setattr(gpu_measurements, "MEASUREMENTS", tuple((n, "x", 0.0, failing) for n in (1, 2, 3)))
    m = measuring(tmp_path)
    measure(m, 600)
    assert len(m.figures) == 1


def test_a_command_that_fails_is_named_with_its_last_lines(tmp_path):
    m = measuring(tmp_path)
    with pytest.raises(RuntimeError, match="exit code 3: last words"):
        m.run([sys.executable, "-c", "print('last words'); raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="not done after 1 s"):
        m.run([sys.executable, "-c", "import time; time.sleep(30)"], timeout_s=1)
    assert "last words" in (tmp_path / "log.txt").read_text()


def test_the_comparison_is_not_begun_without_time_for_it(tmp_path):
    m = measuring(tmp_path)
    compare(m, 280)
    assert [(f.number, f.value) for f in m.figures] == [(11, "not run: 280 s were left")]
    assert not (tmp_path / "comparison.md").exists()


@pytest.mark.long
def test_the_script_makes_every_measurement_on_a_cpu_in_its_smallest_form(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [str(SCRIPT), str(tmp_path / "out"), "60", "60", "--device", "cpu", "--smallest"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=7200)
    figures = json.loads((tmp_path / "out" / "gpu.json").read_text())
    said = [f"{f['number']}. {f['what']}: {f['value']}" for f in figures]
    assert done.returncode == 0, (said, done.stderr[-2000:])
    assert {f["number"] for f in figures} == {*(number for number, *_ in MEASUREMENTS), 11}
    assert not [line for line in said if "failed" in line or "not run" in line]
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"comparison.md", "gpu.json", "gpu.md", "log.txt"}
    rows = [line.split("|")[1].strip() for line in (tmp_path / "out" / "comparison.md").read_text().splitlines()[:4]]
    assert rows[2:] == ["default", "stock"]
    assert len(files) <= 8
