from pathlib import Path

import pytest
from verb_functions import run


def test_phantom_passes_its_options_on(calls, capsys):
    calls.summary = [Path("out/phantom_000")]
    assert run("phantom out --cases 3 --seed 7 --size tiny --unregistered -np 2") == 0
    assert calls.args == (Path("out"),)
    assert calls.kwargs == {"n_cases": 3, "seed": 7, "size": "tiny", "unregistered": True, "n_processes": 2}
    assert capsys.readouterr().out == "out: 1 cases\n"


def test_numbers_of_phantoms_are_whole(calls, capsys):
    for wrong in ("--cases 0", "--cases 1.5", "--cases 1 --seed -1"):
        with pytest.raises(SystemExit):
            run(f"phantom out {wrong}")
        assert "is not a whole number of" in capsys.readouterr().err
