from pathlib import Path

import pytest
from verb_functions import run


def test_finetune_passes_its_options_on(calls):
    more = "--from T__P__C -f 0 all --device cpu -np 3 --epochs-localizer 4 --epochs-segmenter 5"
    assert run(f"finetune -d 511 {more}") == 0
    assert calls.args == (511,)
    assert calls.kwargs == {
        "model": Path("T__P__C"),
        "folds": ["0", "all"],
        "device": "cpu",
        "n_processes": 3,
        "epochs_localizer": 4,
        "epochs_segmenter": 5,
    }


def test_finetune_needs_a_data_set_and_no_more(calls):
    assert run("finetune -d 511") == 0
    assert calls.kwargs == {}
    with pytest.raises(SystemExit):
        run("finetune --from T__P__C")
