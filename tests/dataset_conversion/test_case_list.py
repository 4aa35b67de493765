"""A conversion in parts: one process finds the cases, several convert them, and one writes what concerns all."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import dicom_patients
import pytest
from case_folders import run, truncate, write_case
from dicom_patients import PERSONAL, ct_files, write_patient
from late_files import late_files
from reference_tables import check_file

from nnunet_ext.cases import case_list
from nnunet_ext.cases.key_file import read_key


def contents(dataset: Path) -> dict[str, bytes]:
    """Every file of a dataset by its name, and what it holds."""
    return {path.relative_to(dataset).as_posix(): path.read_bytes() for path in dataset.rglob("*") if path.is_file()}


def in_parts(source: Path, num_parts: int = 2, *, convert=run, **options):
    """Scan, all parts, the last part first, and the end. Their summaries."""
    scanned = convert(source, scan=True, **options)
    parts = [convert(source, num_parts=num_parts, part_id=k, **options) for k in reversed(range(num_parts))]
    return scanned, parts, convert(source, finish=True, **options)


def parts_folder(source: Path) -> Path:
    return source.parent / "raw" / ".Dataset501_Heads.parts"


def test_parts_give_the_files_of_one_conversion(tmp_path: Path):
    for seed, name in enumerate("abcde"):
        write_case(tmp_path / "one" / "src" / name, seed=seed, skip=("label",) if name == "e" else ())
    write_case(tmp_path / "one" / "src" / "no T2", skip=("T2",))
    truncate(tmp_path / "one" / "src" / "b" / "T1.nii.gz")
    (tmp_path / "group.csv").write_text("case,person\na,P\nc,P\n")
    shutil.copytree(tmp_path / "one", tmp_path / "two", symlinks=True)
    options = {"group_file": tmp_path / "group.csv", "test_cases": ["d"]}
    whole = run(tmp_path / "one" / "src", **options)
    scanned, parts, finished = in_parts(tmp_path / "two" / "src", **options)
    assert list(scanned.failed) == ["no T2"]
    assert scanned.listing[-1] == "6 cases (folders): 5 to convert, 1 not"
    assert [part.written for part in parts] == [["d"], ["a", "c", "e"]]
    assert [list(part.failed) for part in parts] == [["b"], []]
    assert (finished.written, finished.failed) == (whole.written, whole.failed)
    assert list(finished.failed) == ["b", "no T2"]
    assert finished.files == whole.files
    ours, stock = contents(finished.dataset_folder), contents(whole.dataset_folder)
    assert set(ours) == set(stock)
    for name, content in stock.items():
        if name.startswith("provenance/"):  # which folder it was is not the same, nor told
            one, two = json.loads(content), json.loads(ours[name])
            assert one.pop("source") != two.pop("source")
            assert one == two
        else:
            assert ours[name] == content, name
    assert json.loads(ours["dataset.json"])["numTraining"] == 2
    folder = parts_folder(tmp_path / "two" / "src")
    check_file(json.loads((folder / "list.json").read_text()), "list.json")
    for name in "ab":
        check_file(json.loads((folder / "outcomes" / f"{name}.json").read_text()), "outcomes/CASE.json")


def test_a_part_that_is_repeated_does_what_is_missing(tmp_path: Path):
    source = tmp_path / "src"
    for seed, name in enumerate("abc"):
        write_case(source / name, seed=seed)
    (source / "b" / "note.txt").write_text("fine")
    run(source, scan=True)
    assert "[b/note.txt]" in str(run(source, num_parts=2, part_id=1).files)
    with pytest.raises(ValueError, match=r"2 of 3 cases are not converted yet: a, c; run the parts"):
        run(source, finish=True)
    dataset = run(source, num_parts=2, part_id=0).dataset_folder
    (dataset / "labelsTr" / "c.nii.gz").unlink()
    again = run(source, num_parts=2, part_id=0)
    assert run(source, num_parts=9, part_id=8).written == []  # more parts than cases
    assert (again.written, again.skipped) == (["c"], ["a"])
    finished = run(source, finish=True)
    assert (finished.written, finished.skipped) == (["b", "c"], ["a"])
    before = contents(dataset)
    assert run(source, finish=True).failed == {}  # killed before anybody knew that it had ended, it can be repeated
    assert contents(dataset) == before


def test_a_part_reads_its_own_cases_only_and_never_the_tree(tmp_path: Path):
    source = tmp_path / "src"
    for seed, name in enumerate("ab"):
        write_case(source / name, seed=seed)
    run(source, scan=True)
    shutil.rmtree(source / "b")
    write_case(source / "aa")  # came after the scan
    (parts_folder(source) / "cases" / "b.json").write_text("{")
    assert run(source, num_parts=2, part_id=0).written == ["a"]
    with pytest.raises(ValueError, match="no readable case 'b'; write it again: the same command with --scan"):
        run(source, num_parts=2, part_id=1)


def test_a_case_whose_files_are_gone_since_the_scan_is_named_and_the_others_finish(tmp_path: Path):
    source = tmp_path / "src"
    for seed, name in enumerate("abc"):
        write_case(source / name, seed=seed)
    run(source, scan=True)
    shutil.rmtree(source / "b")
    part = run(source, num_parts=1, part_id=0)
    assert part.written == ["a", "c"]
    assert list(part.failed) == ["b"]
    assert list(run(source, finish=True).failed) == ["b"]


def test_a_part_with_other_options_than_the_scan_is_refused_with_the_remedy(tmp_path: Path):
    source = tmp_path / "src"
    write_case(source / "a")
    with pytest.raises(FileNotFoundError, match=r"no case list in .*; first, in one process: .* with --scan instead"):
        run(source, num_parts=2, part_id=0)
    run(source, scan=True)
    with pytest.raises(ValueError, match="--test, --window-hu: not as when the case list was written"):
        run(source, num_parts=2, part_id=0, window_hu=(-100, 300), test_cases=["a"])
    write_case(tmp_path / "other" / "a")
    with pytest.raises(ValueError, match=r"^SRC: not as when the case list was written"):
        run(tmp_path / "other", num_parts=2, part_id=0)
    with pytest.raises(ValueError, match=r"^--no-clean: not as"):
        run(source, finish=True, clean_ct=False)
    assert not (tmp_path / "raw" / "Dataset501_Heads").exists()


def test_outcomes_of_an_earlier_scan_do_not_count(tmp_path: Path):
    source = tmp_path / "src"
    write_case(source / "a")
    run(source, scan=True)
    run(source, num_parts=1, part_id=0)
    outcome = (parts_folder(source) / "outcomes" / "a.json").read_bytes()
    run(source, scan=True)
    (parts_folder(source) / "outcomes" / "a.json").write_bytes(outcome)  # by a part that nobody knew of
    with pytest.raises(ValueError, match="1 of 1 cases are not converted yet: a;"):
        run(source, finish=True)


def test_a_conversion_of_all_cases_takes_the_list_away(tmp_path: Path):
    source = tmp_path / "src"
    write_case(source / "a")
    in_parts(source, 1)
    assert parts_folder(source).is_dir()
    assert run(source).skipped == ["a"]
    assert not parts_folder(source).exists()


def test_a_list_of_another_version_or_a_damaged_one_is_refused(tmp_path: Path):
    source = tmp_path / "src"
    write_case(source / "a")
    run(source, scan=True)
    file = parts_folder(source) / case_list.LIST
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "version": "0.0.1"}))
    with pytest.raises(ValueError, match=r"nnunet_ext 0\.0\.1 wrote the case list, and this is .*--scan"):
        run(source, num_parts=1, part_id=0)
    file.write_text(json.dumps(content)[:100])
    with pytest.raises(ValueError, match=r"the case list is damaged: it is cut off .*--scan"):
        run(source, num_parts=1, part_id=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_parts": 2}, "give both, -num_parts N and -part_id K"),
        ({"num_parts": 2, "part_id": 2}, "part_id is 2; with num_parts 2 it is 0 to 1"),
        ({"num_parts": 2, "part_id": 0, "scan": True}, "--scan and -num_parts are steps of their own"),
        ({"dry_run": True, "finish": True}, "--list and --finish are steps of their own"),
    ],
)
def test_steps_that_contradict_each_other_are_refused(tmp_path: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **options)


def test_parts_of_a_dicom_tree_take_their_numbers_from_the_scan(tmp_path: Path):
    source = tmp_path / "src"
    write_patient(source / "second", number=2)
    write_patient(source / "first", number=1)
    dicom_patients.run(source, scan=True)
    rows = read_key(tmp_path / "raw" / "Dataset501_Heads.key.csv")
    assert [row["case"] for row in rows] == ["case_001", "case_002"]
    folder = parts_folder(source)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700  # it names patients
    assert any(word.encode() in (folder / "cases" / "case_001.json").read_bytes().lower() for word in PERSONAL)
    write_patient(source / "0", number=3)  # came after the scan, and would come first
    parts = [dicom_patients.run(source, num_parts=2, part_id=k) for k in (1, 0)]
    assert [part.written for part in parts] == [["case_002"], ["case_001"]]
    finished = dicom_patients.run(source, finish=True)
    assert finished.written == ["case_001", "case_002"]
    dicom_patients.assert_nothing_personal(finished.dataset_folder, texts=[str(finished.files)])
    assert read_key(tmp_path / "raw" / "Dataset501_Heads.key.csv") == rows
    ct_files(source / "first")[0].unlink()
    part = dicom_patients.run(source, num_parts=2, part_id=0)
    assert list(part.failed) == ["case_001"]
    dicom_patients.assert_nothing_personal(texts=part.failed.values())


#: A part, or the end if there is no part.
STEP = """
import sys
from pathlib import Path
from nnunet_ext import convert
part = {"num_parts": 2, "part_id": int(sys.argv[2])} if len(sys.argv) > 2 else {"finish": True}
quick = {"n4": False, "preview": False, "n_processes": 1, "show_progress": False}
source = Path(sys.argv[1])
summary = convert(source, dataset_id=501, name="Heads", raw_folder=source.parent / "raw", **quick, **part)
print(*sorted(summary.written))
"""


def test_where_locks_keep_nobody_out_and_files_are_seen_late_the_end_counts_all_cases(tmp_path: Path):
    source = tmp_path / "src"
    for seed, name in enumerate("abcd"):
        write_case(source / name, seed=seed)
    run(source, scan=True)
    there = {"env": late_files(tmp_path / "raw", tmp_path), "cwd": tmp_path, "text": True}
    command = [sys.executable, "-c", STEP, str(source)]
    # The second of them works on the same part, as after a node that was thought dead.
    parts = [
        subprocess.Popen([*command, part], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **there)
        for part in ("0", "0", "1")
    ]
    said = [part.communicate(timeout=120)[0].split() for part in parts]
    assert said[2] == ["b", "d"]
    assert ["a", "c"] in said[:2]
    end = subprocess.run(command, capture_output=True, check=True, **there)
    assert end.stdout.split() == ["a", "b", "c", "d"]
    dataset = tmp_path / "raw" / "Dataset501_Heads"
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 4
    assert len(list((dataset / "imagesTr").iterdir())) == 12
