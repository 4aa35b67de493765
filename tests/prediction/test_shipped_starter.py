"""The starter of the package: one command contours a head, and its preprocessing stays what it learned with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.prediction.cascade_predictor import CascadePredictor
from nnunet_ext.starter.shipped import FOLDER, find_starter

#: What the networks were given of one phantom when the starter was trained. Made anew with each starter by
#: `python tests/prediction/test_shipped_starter.py`.
PINNED = Path(__file__).parent / "starter_preprocessing.json"
VALUE = {organ: value for value, organ in enumerate(ORGANS, 1)}

pytestmark = pytest.mark.skipif(not (FOLDER / "model").is_dir(), reason="the checkout holds no starter")


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 200.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("channels", [("CT", "T1", "T2"), ("T1",)])
def test_one_command_contours_a_head_with_its_left_on_the_left(shared_phantom, tmp_path, channels):
    (whole,) = shared_phantom.write(tmp_path / "whole", n_cases=1, size="small")
    case = tmp_path / "heads" / "head"
    case.mkdir(parents=True)
    for channel in channels:
        (case / f"{channel}.nii.gz").symlink_to(whole / f"{channel}.nii.gz")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    done = subprocess.run(
        [sys.executable, "-m", "nnunet_ext", "predict", "-i", "heads", "-o", "contours"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "contours" / "head.nii.gz")))
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(whole / "label.nii.gz")))
    for eye in ("Eye_L", "Eye_R"):
        assert dsc(found == VALUE[eye], truth == VALUE[eye]) > 70
    left, right = (np.argwhere(found == VALUE[eye])[:, 2].mean() for eye in ("Eye_L", "Eye_R"))
    true_left, true_right = (np.argwhere(truth == VALUE[eye])[:, 2].mean() for eye in ("Eye_L", "Eye_R"))
    assert (left > right) is (true_left > true_right)
    record = json.loads((tmp_path / "contours" / "predictions.json").read_text())
    assert record["model"].startswith(f"starter {find_starter().version}, sha256 ")


def seen_by_the_networks() -> dict:
    """Shapes, and some values, of what both networks get of one phantom: all images, then T1 alone."""
    from nnunet_ext.phantom.one_case import make_phantom

    phantom = make_phantom(7, 0, size="tiny")
    predictor = CascadePredictor(find_starter().segmenter, folds=("all",), device=torch.device("cpu"))
    images = {"CT": phantom.ct, "T1": phantom.t1, "T2": phantom.t2}
    rng = np.random.default_rng(0)
    result = {}
    for name, some in (("all", images), ("T1", {"T1": phantom.t1})):
        prepared = predictor.prepare(some, options=predictor.recorded_options())
        for stage, array in (("segmenter", prepared.images), ("localizer", prepared.localizer_images)):
            places = rng.integers(0, array.shape, (60, 4))
            values = array[tuple(places.T)]
            result[f"{name}, {stage}"] = {"shape": list(array.shape), "values": [round(float(v), 3) for v in values]}
    return result


def test_the_networks_get_what_they_were_trained_with():
    pinned, found = json.loads(PINNED.read_text()), seen_by_the_networks()
    assert set(pinned) == set(found)
    for name, entry in pinned.items():
        assert found[name]["shape"] == entry["shape"], name
        np.testing.assert_allclose(found[name]["values"], entry["values"], atol=0.02, err_msg=name)


if __name__ == "__main__":
    PINNED.write_text(json.dumps(seen_by_the_networks()) + "\n")
