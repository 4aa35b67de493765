from pathlib import Path
from types import SimpleNamespace

import pytest
from verb_functions import run


def test_options_reach_the_function_and_what_was_found_is_printed(calls, capsys):
    calls.summary = SimpleNamespace(
        table_markdown="| channel |", skipped={"a": "coarse"}, no_better=["T2"], file=Path("learned_resampling.npz")
    )
    assert run("learn-resampling -d 501 --iterations 7 --seed 3 -device cuda") == 0
    assert calls.args == (501,)
    assert calls.kwargs == {"iterations": 7, "seed": 3, "device": "cuda"}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "| channel |"
    assert said[1] == "case 'a' was left out: coarse"
    assert said[2].startswith("T2: no better than cubic interpolation")
    assert said[3] == "written: learned_resampling.npz"


def test_the_data_set_is_needed():
    with pytest.raises(SystemExit):
        run("learn-resampling")
