from pathlib import Path

import pytest
from verb_functions import run


def test_evaluate_passes_its_options_on_and_prints_the_table(calls, capsys):
    assert run("evaluate pred ref -o out --tolerance-mm 1.5 -np 2 --without-postprocessing raw") == 0
    assert calls.args == (Path("pred"), Path("ref"), Path("out"))
    assert calls.kwargs == {"tolerance_mm": 1.5, "n_processes": 2, "without_postprocessing": Path("raw")}
    assert "| organ | DSC |" in capsys.readouterr().out


def test_evaluate_of_a_model_needs_no_references_and_tolerances_go_by_organ(calls):
    assert run("evaluate model -o out --localizer loc --tolerance-mm Lens_L=1 Eye_L=2.5") == 0
    assert calls.args == (Path("model"), None, Path("out"))
    assert calls.kwargs == {"localizer": Path("loc"), "tolerance_mm": {"Lens_L": 1.0, "Eye_L": 2.5}}


@pytest.mark.parametrize("tolerance", ["wide", "1 2", "Lens_L=x", "Lens_L=1 2"])
def test_tolerance_that_is_no_distance_is_refused(calls, capsys, tolerance):
    with pytest.raises(SystemExit):
        run(f"evaluate pred ref -o out --tolerance-mm {tolerance}")
    assert f"--tolerance-mm {tolerance}: give one distance in mm, or ORGAN=MM" in capsys.readouterr().err
