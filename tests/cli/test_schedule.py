import pytest
from verb_functions import run


def test_schedule_passes_its_options_on(calls):
    assert run("schedule 501 -p A -o B --epochs 9 --iterations 5 -c 3d_lowres 3d_fullres") == 0
    assert calls.args == ("501", "B")
    assert calls.kwargs == {
        "plans": "A",
        "epochs": 9,
        "iterations": 5,
        "configurations": ["3d_lowres", "3d_fullres"],
    }
    with pytest.raises(SystemExit):
        run("schedule 501 --epochs 9")
