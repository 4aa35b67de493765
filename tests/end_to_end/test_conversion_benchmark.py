"""The benchmark of the conversion: its table, and what the command measures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from reference_tables import check_file

from nnunet_ext.end_to_end.conversion_benchmark import table


def of(case: str, name: str, cpu_s: float, peak_mb: float | None = 100.0) -> dict:
    return {"case": case, "name": name, "cpu_s": cpu_s, "peak_mb": peak_mb}


RECORD = {
    "made": [],
    "converted": [of("a", "other", 0.5), of("a", "read", 1.0), of("a", "N4", 2.5), of("b", "other", 0.25, None)],
    "stock": [of("a", "fingerprint", 0.5), of("a", "preprocessing", 1.5)],
    "register": False,
    "processor": "p",
    "cores": 2,
    "import_cpu_s": 1.25,
    "no_stock": "",
}


def test_the_table_has_a_row_per_case_and_the_ratio_to_stock_nnunet():
    lines = table(RECORD).splitlines()
    assert lines[0] == (
        "| case | read | N4 | other | all | stock fingerprint | stock preprocessing | stock all (ratio) |"
    )
    assert lines[2] == "| a | 1.00 / 100 | 2.50 / 100 | 0.50 / 100 | 4.00 | 0.50 / 100 | 1.50 / 100 | 2.00 (2.0x) |"
    assert lines[3] == "| b |  |  | 0.25 | 0.25 |  |  |  |"
    assert "without registration" in lines[-1]
    assert "Imports take 1.2 s" in lines[-1]
    assert "Stock nnU-Net converts nothing" in lines[-1]


def test_the_table_says_why_stock_nnunet_is_not_in_it():
    record = {**RECORD, "stock": [], "no_stock": "left out", "made": [of("a", "make", 3.0)]}
    lines = table(record).splitlines()
    assert lines[:3] == ["| phantom | make | all |", "|---|---|---|", "| a | 3.00 / 100 | 3.00 |"]
    assert lines[4] == "| case | read | N4 | other | all |"
    assert lines[-1].endswith("Stock nnU-Net was not measured: left out.")


@pytest.mark.long
def test_the_command_measures_every_step_of_a_phantom_and_stock_nnunet_on_the_same_case(tmp_path):
    command = [sys.executable, "-m", "nnunet_ext", "benchmark", "convert", "--cases", "1", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "conversion.json").read_text())
    check_file(record, "conversion.json")
    assert (tmp_path / "conversion.md").read_text() in done.stdout + "\n"
    found = {kind: {step["name"]: step for step in record[kind]} for kind in ("made", "converted", "stock")}
    assert {step["case"] for steps in found.values() for step in steps.values()} == {"phantom_000"}
    assert set(found["made"]) == {"make", "write phantom"}
    assert set(found["converted"]) >= {"read", "labels", "clean CT", "N4", "write", "pictures", "other"}
    assert set(found["stock"]) == {"fingerprint", "preprocessing"}
    assert found["converted"]["clean CT"]["cpu_s"] > 0
    assert found["stock"]["preprocessing"]["cpu_s"] > 0
    assert all(step["peak_mb"] is None or step["peak_mb"] > 20 for steps in found.values() for step in steps.values())
