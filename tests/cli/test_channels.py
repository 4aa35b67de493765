import pytest
from verb_functions import run


def test_channels_passes_its_options_on(calls, capsys):
    calls.summary = ("Dataset523_HeadT1T2", 7)
    assert run("channels 521 -d 523 -n HeadT1T2 --modalities T1 T2") == 0
    assert calls.args == ("521",)
    assert calls.kwargs == {"dataset_id": 523, "name": "HeadT1T2", "modalities": ["T1", "T2"]}
    assert capsys.readouterr().out == "Dataset523_HeadT1T2: 7 cases\n"
    with pytest.raises(SystemExit):
        run("channels 521 -d 523 -n HeadT1T2")
