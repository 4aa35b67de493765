from pathlib import Path
from types import SimpleNamespace

from verb_functions import run


def test_convert_passes_its_options_on(calls, capsys):
    command = "convert src -d 501 -n Head --modalities CT T2 --labels organs.toml --test c1 c2 --allow-non-hu"
    assert run(command + " --window-hu -100 300 --no-clean --no-n4 -np 2") == 0
    assert calls.args == (Path("src"),)
    assert calls.kwargs == {
        "dataset_id": 501,
        "name": "Head",
        "modalities": ["CT", "T2"],
        "labels_file": Path("organs.toml"),
        "test_cases": ["c1", "c2"],
        "allow_non_hu": True,
        "window_hu": (-100.0, 300.0),
        "clean_ct": False,
        "n4": False,
        "n_processes": 2,
    }
    assert capsys.readouterr().out == (
        f"Dataset501_Head: 1 written, 0 skipped (already there), 0 failed\n{calls.summary.files}\n"
    )


def test_convert_lists_the_cases_and_exits_1_if_one_would_fail(calls, capsys):
    calls.summary = SimpleNamespace(listing=["head_01: CT T1", "head_02: no CT"], failed={})
    assert run("convert src -d 501 -n Head --list") == 0
    assert calls.kwargs == {"dataset_id": 501, "name": "Head", "dry_run": True}
    calls.summary.failed["head_02"] = "no CT"
    assert run("convert src -d 501 -n Head --list") == 1
    assert capsys.readouterr() == ("head_01: CT T1\nhead_02: no CT\n" * 2, "")


def test_convert_passes_on_what_dicom_needs(calls):
    dicom = "--layout dicom --series s.toml --key k.csv --register --register-backend elastix"
    assert run(f"convert src -d 501 -n Head --unlabelled --no-preview {dicom}") == 0
    assert calls.kwargs == {
        "dataset_id": 501,
        "name": "Head",
        "unlabelled": True,
        "preview": False,
        "layout": "dicom",
        "series_file": Path("s.toml"),
        "key_file": Path("k.csv"),
        "register": True,
        "register_backend": "elastix",
    }


def test_a_share_for_the_test_set_is_no_case(calls):
    assert run("convert src -d 501 -n Head --test 0.25 --seed 1") == 0
    assert calls.kwargs == {"dataset_id": 501, "name": "Head", "test_share": 0.25, "seed": 1}
    assert run("convert src -d 501 -n Head --test 25") == 0
    assert calls.kwargs == {"dataset_id": 501, "name": "Head", "test_cases": ["25"]}


def test_convert_in_parts_scans_converts_and_finishes(calls, capsys):
    assert run("convert src -d 501 -n Head -num_parts 4 -part_id 3") == 0
    assert calls.kwargs == {"dataset_id": 501, "name": "Head", "num_parts": 4, "part_id": 3}
    assert run("convert src -d 501 -n Head --finish") == 0
    assert calls.kwargs == {"dataset_id": 501, "name": "Head", "finish": True}
    capsys.readouterr()
    calls.summary = SimpleNamespace(listing=["c -> nothing: no CT", "2 cases"], failed={"c": "no CT"}, files="9 files")
    assert run("convert src -d 501 -n Head --scan") == 0  # what failed is reported in the end
    assert calls.kwargs == {"dataset_id": 501, "name": "Head", "scan": True}
    assert capsys.readouterr() == ("c -> nothing: no CT\n2 cases\n9 files\n", "")
