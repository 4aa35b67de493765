"""FocusNet: the paper's number of weights, parts trained one by one, and small organs that are what their crops say."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from nnunet_ext.rivals.focusnet import CROPS, LOCALISATION, PARTS, SEGMENTATION, FocusNet, SNet
from nnunet_ext.rivals.small_organs import CropOutput, HeatmapOutput, cut, merged, peaks

SMALL = (2, 3)


def network() -> FocusNet:
    torch.manual_seed(0)
    return FocusNet(2, 4, small_labels=SMALL, width=0.25)


@pytest.mark.parametrize(("images", "labels", "weights"), [(1, 10, 1_963_114), (3, 8, 1_963_624)])
def test_the_first_part_has_the_papers_number_of_weights(images, labels, weights):
    assert sum(parameter.numel() for parameter in SNet(images, labels).parameters()) == weights


@pytest.mark.parametrize("size", [(8, 68, 64), (9, 70, 67), (3, 10, 12)])
def test_every_part_gives_logits_on_the_images_own_voxels(size):
    net, image = network(), torch.rand(1, 2, *size)
    for part in PARTS:
        net.begin_part(part)
        with torch.no_grad():
            assert net.eval()(image).shape == (1, 4, *size)


def test_the_parts_give_what_their_losses_need_and_only_their_weights_learn():
    net, image, target = network().train(), torch.rand(2, 2, 8, 68, 64), torch.zeros(2, 1, 8, 68, 64)
    target[:, :, 3:5, 20:24, 30:33], target[:1, :, 2:4, 40:50, 10:15] = 2, 3
    for part, kind, learns in (
        (SEGMENTATION, torch.Tensor, "snet"),
        (LOCALISATION, HeatmapOutput, "centres"),
        (CROPS, CropOutput, "organs"),
    ):
        net.begin_part(part)
        before = deepcopy(net.state_dict())
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
        output = net(image)
        assert isinstance(output, kind)
        (output.mean() if part == SEGMENTATION else output.loss(target)).backward()
        optimizer.step()
        after = net.state_dict()
        changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
        assert changed == {learns}, part  # with the statistics of BatchNorm


def test_untrained_heads_find_next_to_nothing_whatever_the_network_begins_with():
    net, image = network(), torch.rand(1, 2, 8, 68, 64)
    net.apply(net.initialize)  # as nnU-Net does
    net.train()
    with torch.no_grad():
        net.begin_part(LOCALISATION)
        assert net(image).logits.sigmoid().mean() < 0.25
        net.begin_part(CROPS)
        assert net(image).logits.sigmoid().mean() < 0.1


def test_weights_remember_the_part_they_were_trained_in():
    net = network()
    net.begin_part(CROPS)
    other = network()
    other.load_state_dict(net.state_dict())
    image = torch.rand(1, 2, 8, 68, 64)
    with torch.no_grad():
        assert torch.equal(other.eval()(image), net.eval()(image))
        assert not torch.equal(network().eval()(image), net(image))


def test_without_small_organs_there_is_one_part():
    net = FocusNet(1, 2, width=0.25)
    assert net.parts == (SEGMENTATION,)
    with pytest.raises(ValueError, match="no part 'crops'"):
        net.begin_part(CROPS)


def test_a_map_of_centres_is_best_where_the_organ_is_and_empty_without_one():
    target = torch.zeros(1, 1, 12, 30, 30)
    target[:, :, 5:7, 10:13, 18:21] = 2  # around (5.5, 11, 19)

    def loss(at: tuple[float, float, float] | None) -> float:
        logits = torch.full((1, 1, 12, 30, 30), -12.0)
        if at is not None:
            axes = torch.meshgrid(*(torch.arange(n) for n in (12, 30, 30)), indexing="ij")
            height = torch.exp(-sum((axis - a) ** 2 for axis, a in zip(axes, at, strict=True)) / 50)
            logits[0, 0] = torch.logit(height.clamp(1e-5, 1 - 1e-5))
        return HeatmapOutput(logits, (2,)).loss(target).item()

    assert loss((5.5, 11, 19)) < 1e-3 < loss((5.5, 14, 19)) < loss((5.5, 25, 5))
    target.zero_()
    assert loss(None) < 1e-3 < loss((5.5, 11, 19))


def test_a_crop_lies_around_the_highest_value_inside_the_volume():
    maps = torch.zeros(1, 2, 12, 80, 70)
    maps[0, 0, 6, 40, 30], maps[0, 1, 11, 0, 69] = 1, 1
    assert peaks(maps, (8, 64, 64)).tolist() == [[[2, 8, 0], [4, 0, 6]]]
    assert peaks(torch.zeros(1, 1, 4, 10, 10), (8, 64, 64)).tolist() == [[[0, 0, 0]]]


def test_a_crop_reaches_beyond_a_smaller_volume_with_zeros():
    volume = torch.arange(24.0).reshape(1, 1, 2, 3, 4) + 1
    crop = cut(volume, torch.tensor([[1, 1, 2]]), (2, 2, 3))
    assert crop[0, 0].tolist() == [[[19, 20, 0], [23, 24, 0]], [[0, 0, 0], [0, 0, 0]]]


def test_a_small_organ_is_what_its_crop_says_and_nothing_beyond_it():
    logits = torch.zeros(1, 4, 4, 6, 6)
    logits[:, 1, :, :3] = 5.0  # a large organ
    logits[:, 2] = 9.0  # the whole-volume network sees the small one everywhere
    crops = torch.full((1, 2, 2, 2, 2), -1.0)
    crops[0, 0, 0], crops[0, 1, 0, 0] = 1.0, 2.0
    corners = torch.tensor([[[1, 2, 1], [1, 2, 1]]])
    labels = merged(logits, crops, corners, SMALL).argmax(1)[0]
    expected = torch.zeros(4, 6, 6, dtype=torch.long)
    expected[:, :3] = 1
    expected[1, 2:4, 1:3] = 2
    expected[1, 2, 1:3] = 3  # two claim it, and this one is surer
    assert torch.equal(labels, expected)


def test_the_loss_of_crops_falls_with_the_overlap():
    target = torch.zeros(1, 1, 8, 64, 64)
    target[:, :, 2:5, 10:20, 10:20] = 2
    corners = torch.zeros(1, 1, 3, dtype=torch.long)

    def loss(mask: torch.Tensor) -> float:
        return CropOutput((mask * 2 - 1) * 8, corners, (2,)).loss(target).item()

    right, shifted = (target == 2).float(), (target == 2).float().roll(5, -1)
    assert loss(right) < 0.02 < loss(shifted) < loss(torch.zeros_like(right))


def test_deep_supervision_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="set deep_supervision to false"):
        FocusNet(1, 2, deep_supervision=True)


def test_organs_that_have_changed_since_planning_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"hold \[7\], but the data set has the organs 1 to 3.*Plan it again"):
        FocusNet(1, 4, small_labels=[3, 7])
