"""DeepLabv3+ of segmentation-models-pytorch, and what is said where the library can't be used."""

from __future__ import annotations

import sys

import pytest
import torch

from nnunet_ext.rivals import deeplab

needs_library = pytest.mark.skipif(
    (problem := deeplab.library_problem()) is not None, reason=str(problem).partition("\n")[0]
)


@needs_library
@pytest.mark.parametrize("size", [(64, 48), (50, 35)])
def test_logits_lie_on_the_slices_own_pixels(size):
    network = deeplab.DeepLabV3Plus(3, 5, encoder="resnet18", decoder_channels=64).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, *size)).shape == (2, 5, *size)
    assert network.compute_conv_feature_map_size(size) > 0


@needs_library
def test_the_published_width_is_that_of_resnet_101():
    network = deeplab.DeepLabV3Plus(3, 8)
    stages = [len(getattr(network.network.encoder, f"layer{number}")) for number in (1, 2, 3, 4)]
    assert stages == [3, 4, 23, 3]
    rates = {m.dilation for m in network.network.decoder.modules() if isinstance(m, torch.nn.Conv2d)}
    assert {(rate, rate) for rate in deeplab.RATES} <= rates


@needs_library
def test_deep_supervision_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="set deep_supervision to false"):
        deeplab.DeepLabV3Plus(1, 2, deep_supervision=True)


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    assert "pip install 'nnunet_ext[rivals]'" in str(deeplab.library_problem())
    with pytest.raises(ImportError, match=r"nnunet_ext\[rivals\]"):
        deeplab.DeepLabV3Plus(1, 2)


def test_a_torchvision_that_does_not_fit_is_named(monkeypatch):
    class Broken:
        def find_spec(self, name, *_):
            if name == "segmentation_models_pytorch":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "segmentation_models_pytorch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert "install a torchvision that fits" in str(deeplab.library_problem())
