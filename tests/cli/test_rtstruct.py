from pathlib import Path

import pytest
from verb_functions import run

from nnunet_ext.messages import Message


def test_rtstruct_passes_its_options_on_and_warns_of_organs_without_a_voxel(calls, capsys):
    calls.summary = ["Lens_L"]
    assert run("rtstruct mask.nii.gz ct -o out.dcm --dataset-json dataset.json --smooth-contours") == 0
    assert calls.kwargs == {
        "mask": Path("mask.nii.gz"),
        "ct_series": Path("ct"),
        "out": Path("out.dcm"),
        "dataset_json": Path("dataset.json"),
        "smooth_contours": True,
        "notes": [Message("organ_without_contour", {"organ": "Lens_L", "file": "mask.nii.gz"})],
    }
    out, err = capsys.readouterr()
    assert out == "out.dcm\n"
    assert err == "warning: Lens_L has no voxel in mask.nii.gz: it has no contour\n"


def test_rtstruct_takes_the_labels_from_one_file_only(calls):
    with pytest.raises(SystemExit):
        run("rtstruct mask.nii.gz ct -o out.dcm --dataset-json dataset.json --labels labels.toml")
