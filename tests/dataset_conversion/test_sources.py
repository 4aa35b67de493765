"""Cases of a source, and their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from case_folders import run, write_case


def test_duplicate_case_names_fail_on_both_sides(tmp_path: Path):
    for name in ("Case1", "case1", "b 2", "b_2", "c"):
        write_case(tmp_path / "src" / name)
    summary = run(tmp_path / "src")
    assert summary.written == ["c"]
    assert set(summary.failed) == {"Case1", "case1", "b 2", "b_2"}
    assert summary.failed["Case1"] == "duplicate case name, 'case1' is the same; rename one"


def test_a_source_without_cases_raises(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        run(tmp_path / "none")
    with pytest.raises(ValueError, match="put each case into a folder of its own"):
        run(write_case(tmp_path / "src"))
