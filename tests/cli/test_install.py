from pathlib import Path

from verb_functions import run


def test_install_says_where_each_model_is(calls, capsys):
    calls.summary = [Path("results/lowres"), Path("results/cascade")]
    assert run("install head.zip") == 0
    assert calls.kwargs == {"archive": Path("head.zip")}
    assert capsys.readouterr().out == "installed results/lowres\ninstalled results/cascade\n"
