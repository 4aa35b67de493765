from pathlib import Path
from types import SimpleNamespace

import pytest
from verb_functions import run


def test_view_passes_its_options_on_and_says_what_is_in_the_page(calls, capsys):
    calls.summary = SimpleNamespace(path=Path("p.html"), case_bytes={"a": 5, "b": 6}, left_out={"c": "limit"})
    assert run("view pred -i imagesTs -o p.html --viewer-limit-mb 50") == 0
    assert calls.args == (Path("pred"), Path("imagesTs"), Path("p.html"))
    assert calls.kwargs == {"viewer_limit_mb": 50.0}
    assert capsys.readouterr().out == "p.html: 2 cases to look at, 1 listed without images\n"
    calls.summary.left_out["d"] = "failed"
    assert run("view pred -i imagesTs -o p.html") == 1


@pytest.mark.parametrize("limit", ["-1", "much", "nan"])
def test_a_viewer_limit_that_is_no_size_is_refused(calls, capsys, limit):
    with pytest.raises(SystemExit):
        run(f"view pred -i imagesTs -o p.html --viewer-limit-mb={limit}")
    assert f"{limit} is not a size in MB of 0 or more" in capsys.readouterr().err
