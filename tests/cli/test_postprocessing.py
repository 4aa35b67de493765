from pathlib import Path
from types import SimpleNamespace

from verb_functions import run


def test_every_option_reaches_the_function_and_the_table_is_printed(calls, capsys):
    calls.summary = SimpleNamespace(table_markdown="| organ | steps |", failed={})
    assert run("postprocessing model labelsTr --held-out predicted labelsTs -np 3") == 0
    assert calls.args == (Path("model"), Path("labelsTr"))
    assert calls.kwargs == {"held_out": (Path("predicted"), Path("labelsTs")), "n_processes": 3}
    assert capsys.readouterr().out == "| organ | steps |\n"


def test_a_case_that_could_not_be_scored_is_named(calls, capsys):
    calls.summary = SimpleNamespace(table_markdown="", failed={"case_3": "no prediction"})
    assert run("postprocessing model") == 1
    assert "case 'case_3': no prediction" in capsys.readouterr().err
