import numpy as np
import pytest
import torch

from nnunet_ext.images.splines import along
from nnunet_ext.superresolution.network import SliceNetwork
from nnunet_ext.superresolution.other_thickness import OtherThicknessTransform, other_thickness
from nnunet_ext.superresolution.slice_profiles import BOX, interpolating_matrix, thickening_matrix
from nnunet_ext.superresolution.weights import LearnedResampling

SHAPE = (24, 13, 11)


def sharpening(n_channels: int = 2) -> SliceNetwork:
    torch.manual_seed(0)
    network = SliceNetwork(n_channels, features=4, hidden_layers=2)
    torch.nn.init.normal_(network.last.weight)
    return network


def transform(network: SliceNetwork | None = None, **options) -> OtherThicknessTransform:
    options = {"spacing_mm": (1.0, 0.8, 0.7), "axis": 0, "per_channel": 1.0, **options}
    return OtherThicknessTransform(network or SliceNetwork(2), (0, 1), **options)


def sample() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(2, *SHAPE)).astype(np.float32))
    return {"image": image, "segmentation": torch.from_numpy(rng.integers(0, 4, (1, *SHAPE)).astype(np.int16))}


def test_before_anything_is_learned_slices_are_averaged_and_interpolated():
    before = sample()["image"]
    made = transform()._apply_to_image(before, drawn={1: (4.0, BOX)})
    thick = along(before[1].numpy(), 0, thickening_matrix(24, 6, BOX))
    expected = np.clip(along(thick, 0, interpolating_matrix(6, 24)), thick.min(), thick.max())
    np.testing.assert_allclose(made[1], expected, atol=1e-5)
    assert torch.equal(made[0], before[0])


def test_the_network_changes_what_interpolation_gives():
    before, drawn = sample()["image"], {0: (4.0, BOX), 1: (4.0, BOX)}
    cubic, learned = (transform(network)._apply_to_image(before, drawn=drawn) for network in (None, sharpening()))
    assert (learned - cubic).abs().max() > 0.05


def test_labels_and_what_the_caller_holds_stay_as_they_are():
    before = sample()
    made = transform(sharpening())(**sample())
    assert torch.equal(made["segmentation"], before["segmentation"])
    assert not torch.equal(made["image"], before["image"])
    given = sample()
    transform(sharpening())(**given)
    assert torch.equal(given["image"], before["image"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_the_axis_across_the_slices_loses_detail(axis):
    values = torch.randn(SHAPE).mean(axis, keepdim=True).expand(SHAPE)  # the same in every slice
    image = torch.stack([values, values])
    spacing_mm = [1.0 if a == axis else 0.8 for a in range(3)]
    made = transform(axis=axis, spacing_mm=spacing_mm)._apply_to_image(image, drawn={0: (3.0, BOX)})
    torch.testing.assert_close(made, image, atol=1e-4, rtol=0)


def test_thickness_profile_and_channels_are_drawn_within_the_limits():
    np.random.seed(0)
    drawn = [transform(per_channel=0.5, limits_mm=(2.5, 7.0)).get_parameters()["drawn"] for _ in range(300)]
    thicknesses = [mm for one in drawn for mm, _ in one.values()]
    assert 2.5 <= min(thicknesses) < 2.7
    assert 6.8 < max(thicknesses) <= 7.0
    assert {profile for one in drawn for _, profile in one.values()} == {"box", "gaussian"}
    counts = [sum(channel in one for one in drawn) for channel in (0, 1)]
    assert all(115 < n < 185 for n in counts)
    assert 40 < sum(len(one) == 2 for one in drawn) < 110


def learned(*channels: str) -> LearnedResampling:
    return LearnedResampling(SliceNetwork(len(channels)), channels)


def made_for(spacing_mm, through_plane=0, names=("T1", "CT")) -> OtherThicknessTransform:
    made = other_thickness(
        learned("CT", "T1"), names, spacing_mm=spacing_mm, through_plane=through_plane, where="configuration 'x'"
    )
    assert made.apply_probability == 0.25
    return made.transform


def test_channels_are_matched_by_name_and_the_axis_is_that_of_the_longest_voxels():
    made = made_for((2.4, 0.5, 0.5), through_plane=1)
    assert (made.channels, made.axis) == ((1, 0), 0)
    assert made.limits_mm == pytest.approx((3.6, 7.0))
    made = made_for((1.0, 1.0, 1.05), through_plane=1)  # nearly isotropic: the planner's axis counts
    assert made.axis == 1
    assert made.limits_mm == (2.5, 7.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing_mm": (0.5, 0.5), "through_plane": -1}, "configuration 'x': its patches are flat"),
        ({"spacing_mm": (5.0, 0.5, 0.5)}, "configuration 'x': its slices of 5 mm are too thick to be made thicker"),
        ({"spacing_mm": (2.0, 0.5, 0.5), "names": ("PET",)}, "knows the channels CT, T1, and not PET"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_for(**options)
