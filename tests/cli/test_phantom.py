from pathlib import Path

import pytest
from verb_functions import run

from nnunet_ext.phantom.from_maps.making import MadeHeads


def test_phantom_passes_its_options_on(calls, capsys):
    calls.summary = [Path("out/phantom_000")]
    assert run("phantom out --cases 3 --first-case 20 --seed 7 --size tiny --unregistered -np 2") == 0
    assert calls.args == (Path("out"),)
    assert calls.kwargs == {
        "n_cases": 3,
        "first_case": 20,
        "seed": 7,
        "size": "tiny",
        "unregistered": True,
        "n_processes": 2,
    }
    assert capsys.readouterr().out == "out: 1 cases\n"


def test_heads_of_label_maps_have_options_of_their_own(calls, capsys):
    calls.summary = MadeHeads((Path("out/phantom_000"),), {"head_07.nii.gz": "nothing of it is eyes"})
    words = "--from-maps maps --labels-file site.toml --spacing 1 1 2.5 --contrast random"
    assert run(f"phantom out --cases 3 {words} --immobilised --undeformed --misalignment 0") == 1
    assert (calls.name, calls.args) == ("make_phantoms_from_maps", (Path("out"), Path("maps")))
    assert calls.kwargs == {
        "n_cases": 3,
        "labels_file": Path("site.toml"),
        "spacing_mm": [1.0, 1.0, 2.5],
        "contrast": "random",
        "immobilised": True,
        "deformed": False,
        "misalignment_mm": 0.0,
    }
    printed = capsys.readouterr()
    assert printed.out == "out: 1 cases\n"
    assert printed.err == "nnunet_ext phantom: error: head_07.nii.gz: nothing of it is eyes\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--from-maps maps --size tiny", "--size cannot be used with --from-maps"),
        ("--contrast random --spacing 1 1 1", "--spacing and --contrast cannot be used without --from-maps"),
    ],
)
def test_options_of_the_other_kind_of_heads_are_refused(calls, capsys, words, complaint):
    assert run(f"phantom out --cases 3 {words}") == 1
    assert complaint in capsys.readouterr().err


def test_numbers_of_phantoms_are_whole(calls, capsys):
    for wrong in ("--cases 0", "--cases 1.5", "--cases 1 --seed -1"):
        with pytest.raises(SystemExit):
            run(f"phantom out {wrong}")
        assert "is not a whole number of" in capsys.readouterr().err
