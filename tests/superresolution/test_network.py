import torch

from nnunet_ext.superresolution.network import SliceNetwork, conditions_of


def random_network(n_channels: int = 2) -> SliceNetwork:
    torch.manual_seed(0)
    network = SliceNetwork(n_channels, features=4, hidden_layers=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def conditions(channels=(0,), thickness=4.0) -> torch.Tensor:
    return conditions_of(channels, 2, thickness=thickness, spacing=1.0, pixel=0.5)


def test_it_begins_as_cubic_interpolation():
    assert not SliceNetwork(2)(torch.randn(1, 1, 9, 7), conditions()).any()


def test_the_unit_of_the_values_does_not_matter():
    network, planes = random_network(), torch.randn(1, 1, 20, 13)
    difference = network(planes, conditions())
    assert difference.abs().max() > 0.01
    torch.testing.assert_close(network(350 * planes - 1000, conditions()), 350 * difference, rtol=1e-3, atol=0.05)


def test_channel_and_thickness_change_what_it_does():
    network, planes = random_network(), torch.randn(1, 1, 20, 13)
    one, other, thicker = (
        network(planes, c) for c in (conditions((0,)), conditions((1,)), conditions((0,), thickness=6.0))
    )
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, thicker)


def test_conditions_are_of_ratios_so_mm_and_voxels_are_the_same():
    made = conditions_of([1, 0], 3, thickness=8.0, spacing=2.0, pixel=0.5)
    assert made.tolist() == [[1, 1, 0, 1, 0], [1, 1, 1, 0, 0]]
    voxels = conditions_of([1, 0], 3, thickness=16.0, spacing=4.0, pixel=1.0)
    torch.testing.assert_close(voxels, made)
