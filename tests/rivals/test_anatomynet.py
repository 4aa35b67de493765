"""AnatomyNet is the paper's: its number of weights, what a voxel of its encoder sees, and any size of volume."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ext.rivals.anatomynet import AnatomyNet


@pytest.mark.parametrize(("images", "labels", "weights"), [(1, 10, 734_478), (3, 8, 736_744)])
def test_the_network_has_the_papers_number_of_weights(images, labels, weights):
    network = AnatomyNet(images, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights


def test_a_quarter_of_the_width_has_about_a_sixteenth_of_the_weights():
    whole, quarter = (sum(p.numel() for p in AnatomyNet(3, 8, width=w).parameters()) for w in (1.0, 0.25))
    assert 12 < whole / quarter < 18


def test_a_voxel_of_the_encoder_sees_51_voxels():
    network = AnatomyNet(1, 3, width=0.25)
    encoder = nn.Sequential(network.stem, *network.encoder).eval()
    for module in encoder.modules():  # what squeezes sees the whole volume
        if hasattr(module, "apply_se"):
            module.apply_se = False
    image = torch.rand(1, 1, 61, 3, 3, requires_grad=True)
    encoder(image)[0, :, 15].sum().backward()
    seen = image.grad[0, 0].abs().sum((1, 2)).nonzero().flatten()
    assert (seen.max() - seen.min() + 1).item() == 51


@pytest.mark.parametrize("size", [(8, 8, 8), (7, 10, 9), (1, 5, 4)])
def test_logits_lie_on_the_images_own_voxels(size):
    network = AnatomyNet(2, 4, width=0.25).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 2, *size)).shape == (1, 4, *size)


def test_the_counted_values_are_those_of_the_convolutions_and_nothing_is_computed():
    network = AnatomyNet(1, 2, width=1 / 34)  # one channel everywhere
    before = {name: value.clone() for name, value in network.state_dict().items()}
    half, full, squeezed = 4**3, 8**3, 12 * 2
    at_half = 1 + 3 * 4 + 3 * 5  # stem, two convolutions a block, and a shortcut for each concatenation
    at_full = 1 + 3 + 2  # transposed, block with shortcut, logits
    assert network.compute_conv_feature_map_size((8, 8, 8)) == at_half * half + at_full * full + squeezed
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_deep_supervision_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="set deep_supervision to false"):
        AnatomyNet(1, 2, deep_supervision=True)
