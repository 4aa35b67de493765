from pathlib import Path

import pytest
from verb_functions import run


def test_predict_passes_its_options_on_and_prints_warnings(calls, capsys):
    calls.summary.warnings = {"head_01": ["no organ found"]}
    assert run("predict -d 501 -i in -o out -c C -f 0 1 -tr T -p P -chk best.pth -device cpu --mirror") == 0
    assert calls.kwargs == {
        "dataset_id": 501,
        "images": Path("in"),
        "out": Path("out"),
        "configuration": "C",
        "folds": ["0", "1"],
        "trainer": "T",
        "plans": "P",
        "checkpoint": "best.pth",
        "device": "cpu",
        "use_mirroring": True,
    }
    assert "case 'head_01': no organ found" in capsys.readouterr().err


def test_predict_takes_a_model_by_its_folder_or_by_its_dataset_not_both(calls, capsys):
    rtstruct = "--rtstruct --smooth-contours --no-postprocessing"
    more = f"--register --series s.toml --key k.csv {rtstruct} --strict -num_parts 4 -part_id 0 --overwrite"
    assert run(f"predict -m T__P__C -i in -o out {more}") == 0
    assert calls.kwargs == {
        "model": Path("T__P__C"),
        "images": Path("in"),
        "out": Path("out"),
        "register": True,
        "series_file": Path("s.toml"),
        "key_file": Path("k.csv"),
        "rtstruct": True,
        "smooth_contours": True,
        "use_postprocessing": False,
        "strict": True,
        "num_parts": 4,
        "part_id": 0,
        "overwrite": True,
    }
    for which in ("-d 501 -m T__P__C", "-d 501 --starter S", "-m T__P__C --starter S"):
        with pytest.raises(SystemExit):
            run(f"predict {which} -i in -o out")


def test_predict_needs_no_model_and_can_refuse_the_starter(calls):
    folders = {"images": Path("in"), "out": Path("out")}
    assert run("predict -i in -o out") == 0
    assert calls.kwargs == folders
    assert run("predict -i in -o out --starter S") == 0
    assert calls.kwargs == {**folders, "starter": Path("S")}
    assert run("predict -d 501 -i in -o out --no-starter") == 0
    assert calls.kwargs == {**folders, "dataset_id": 501, "use_starter": False}


def test_a_scan_lists_the_cases_and_leaves_what_failed_to_the_parts(calls, capsys):
    calls.summary.listed, calls.summary.failed = ["a", "b"], {"c": "no CT"}
    assert run("predict -d 501 -i in -o out --scan") == 0
    assert calls.kwargs == {"dataset_id": 501, "images": Path("in"), "out": Path("out"), "scan": True}
    assert capsys.readouterr() == (f"c -> nothing: no CT\n2 cases to contour, 1 not\n{calls.summary.files}\n", "")
