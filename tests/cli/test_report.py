from pathlib import Path
from types import SimpleNamespace

from verb_functions import run


def test_report_names_its_runs_and_passes_its_options_on(calls, capsys):
    content = {"out": Path("out"), "experiments": [1, 2, 3], "cases": ["a"], "tables": [], "pictures": [1]}
    calls.summary = SimpleNamespace(**content, remarks=["No p-value."], failed={})
    options = "--references ref --images in --models m1 crop=m2 --box-organ Lens_L --cases a --reference-study -np 2"
    assert run(f"report CT=eval/ct a/T__P__3d_lowres 'a=b=c' -o out {options}") == 0
    runs = [("CT", Path("eval/ct")), ("3d_lowres", Path("a/T__P__3d_lowres")), ("a=b", Path("c"))]
    assert calls.args == (runs, Path("out"))
    assert calls.kwargs == {
        "references": Path("ref"),
        "images": Path("in"),
        "models": [Path("m1"), ("crop", Path("m2"))],
        "box_organ": "Lens_L",
        "cases": ["a"],
        "reference_study": True,
        "n_processes": 2,
    }
    out, err = capsys.readouterr()
    assert out == "out/report.html: 3 experiments, 1 cases, 0 tables, 1 figures\n"
    assert err == "note: No p-value.\n"


def test_report_names_failed_cases_and_exits_1(calls, capsys):
    content = {"out": Path("out"), "experiments": [1], "cases": ["a"], "tables": [], "pictures": [], "remarks": []}
    calls.summary = SimpleNamespace(**content, failed={"a (CT)": "a.nii.gz is cut off"})
    assert run("report CT=eval/ct -o out") == 1
    assert "nnunet_ext report: error: case 'a (CT)': a.nii.gz is cut off\n" in capsys.readouterr().err
