from pathlib import Path
from types import SimpleNamespace

from verb_functions import run


def test_register_passes_its_options_on_and_says_what_was_kept(calls, capsys):
    kept = SimpleNamespace(kept="rigid", reason="the elastic step gained nothing")
    calls.summary = SimpleNamespace(warnings=["T1: little overlap"], channels={"T1": kept})
    options = "--rigid-only --backend elastix --separate --fixed-mr --seed 3"
    assert run(f"register CT.nii.gz T1.nii.gz T2.nii.gz -o out {options}") == 0
    assert calls.kwargs == {
        "fixed": Path("CT.nii.gz"),
        "moving": [Path("T1.nii.gz"), Path("T2.nii.gz")],
        "out": Path("out"),
        "rigid_only": True,
        "backend": "elastix",
        "separate": True,
        "fixed_is_ct": False,
        "seed": 3,
    }
    out, err = capsys.readouterr()
    assert out == "out: T1: kept rigid; the elastic step gained nothing\n"
    assert err == "warning: T1: little overlap\n"
