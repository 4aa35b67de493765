from pathlib import Path
from types import SimpleNamespace

import pytest
from verb_functions import run


def test_preprocess_passes_its_options_on_and_names_what_failed(calls, capsys):
    done = {"folder": Path("P_lowres"), "written": ["a"], "skipped": ["b", "c"], "failed": {}}
    bad = {**done, "folder": Path("P_fullres"), "failed": {"d": "no image"}}
    calls.summary = [SimpleNamespace(configuration="3d_lowres", **done)]
    assert run("preprocess -d 501 -p A -c 3d_lowres 3d_fullres -num_parts 2 -part_id 1 -np 3") == 0
    assert calls.args == ("501",)
    assert calls.kwargs == {
        "plans": "A",
        "configurations": ["3d_lowres", "3d_fullres"],
        "num_parts": 2,
        "part_id": 1,
        "n_processes": 3,
    }
    calls.summary.append(SimpleNamespace(configuration="3d_fullres", **bad))
    assert run("preprocess -d 501 -c 3d_lowres 3d_fullres") == 1
    output = capsys.readouterr()
    assert output.out.splitlines()[-1] == "P_fullres: 1 written, 2 skipped (already there), 1 failed"
    assert output.err == "nnunet_ext preprocess: error: case 'd, 3d_fullres': no image\n"
    with pytest.raises(SystemExit):
        run("preprocess -d 501")
