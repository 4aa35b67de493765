"""The dry run of a conversion of case folders."""

from __future__ import annotations

from pathlib import Path

from case_folders import write_case

from nnunet_ext.dataset_conversion.listing import list_cases


def test_a_dry_run_names_the_files_of_each_case_and_writes_nothing(tmp_path: Path):
    write_case(tmp_path / "src" / "p1")
    write_case(tmp_path / "src" / "p2", skip=("label",))
    write_case(tmp_path / "src" / "p3", skip=("T2",))
    (tmp_path / "src" / "p1" / "notes.txt").write_text("x")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    listing = list_cases(tmp_path / "src", show_progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert listing.lines[0] == "p1 -> imagesTr + labelsTr"
    assert "p2 -> imagesTs" in listing.lines
    assert list(listing.failed) == ["p3"]
    assert "T2" in listing.failed["p3"]
    assert listing.lines[-1] == "3 cases (folders): 2 to convert, 1 not"
    assert (listing.files.channels, listing.files.labels) == (6, 1)  # p3 has none that are used
