"""A packed model holds each weight once, in 16 bits, and is read by the rules for foreign weights."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.end_to_end.starter.models import STAGES, folder_name, in_16_bits, n_parameters, pack, ship
from nnunet_ext.files import read_json, write_json
from nnunet_ext.postprocessing.choice import read_postprocessing
from nnunet_ext.postprocessing.steps import OWN_SIDE, Step
from nnunet_ext.starter.shipped import find_starter
from nnunet_ext.training.foreign_models import read_weights

DATASET_JSON = {
    "labels": {"background": 0, "Lens_R": 1, "OpticChiasm": 2, "Lens_L": 3},
    "channel_names": {"0": "CT"},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def results(tmp_path):
    """What two trainings leave. A weight has two names, as those of an encoder that a decoder refers to."""
    for stage in STAGES:
        folder = tmp_path / "results" / folder_name(stage)
        (folder / "fold_1").mkdir(parents=True)
        (folder / "plans.json").write_text(f'{{"of": "{stage}"}}')
        write_json(DATASET_JSON, folder / "dataset.json")
        shared = torch.randn(100, 50)
        checkpoint = {
            "network_weights": {"encoder.w": shared, "decoder.encoder.w": shared, "n": torch.tensor(3)},
            "optimizer_state": {"large": torch.zeros(10**6)},
            "trainer_name": "CascadeOARTrainer",
            "init_args": {"configuration": stage, "fold": 1, "plans": {}},
        }
        torch.save(checkpoint, folder / "fold_1" / "checkpoint_final.pth")
    return tmp_path / "results"


def test_weights_have_16_bits_and_are_held_once(results, tmp_path):
    out = pack(results, tmp_path / "model", fold=1)
    for stage in STAGES:
        file = out / folder_name(stage) / "fold_all" / "checkpoint_final.pth"
        weights = read_weights(file)["network_weights"]
        original = read_weights(results / folder_name(stage) / "fold_1" / "checkpoint_final.pth")["network_weights"]
        assert weights["encoder.w"].dtype is torch.float16
        assert weights["n"] == 3
        assert torch.allclose(weights["encoder.w"].float(), original["encoder.w"], rtol=1e-3)
        assert weights["encoder.w"].data_ptr() == weights["decoder.encoder.w"].data_ptr()
        assert 2 * 5000 < file.stat().st_size < 2 * 5000 + 4000
        assert (out / folder_name(stage) / "plans.json").read_text() == f'{{"of": "{stage}"}}'
    assert n_parameters(out) == 2 * 5000


def test_a_segmenter_brings_the_step_that_sets_sides_right_and_its_localizer_none(results, tmp_path):
    localizer, segmenter = (pack(results, tmp_path / "model", fold=1) / folder_name(stage) for stage in STAGES)
    assert read_json(localizer / "dataset.json") == DATASET_JSON
    brought = read_postprocessing(segmenter, read_json(segmenter / "dataset.json"))
    assert brought.steps == {"Lens_L": (Step(OWN_SIDE),), "Lens_R": (Step(OWN_SIDE),)}
    assert list(brought.pairs) == [("Lens_L", "Lens_R")]


def test_tensors_of_equal_values_stay_two():
    found = in_16_bits({"a": torch.ones(3), "b": torch.ones(3)})
    assert found["a"].data_ptr() != found["b"].data_ptr()


def test_what_is_shipped_is_found_and_its_hashes_are_right(results, tmp_path):
    ship(pack(results, tmp_path / "model", fold=1), tmp_path / "package", version="7")
    found = find_starter(tmp_path / "package")
    assert found.version == "7"
    assert (found.segmenter / "fold_all" / "checkpoint_final.pth").is_file()
