"""A mirrored left eye is a right eye."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ext.training.mirroring import LeftRightMirrorTransform, swap_channels, swap_labels

EYE_L, EYE_R, CHIASM = 1, 2, 7
PAIRS = [(EYE_L, EYE_R)]
SHAPE = (5, 7, 11)


def sample(dtype: torch.dtype = torch.int16) -> dict:
    """One left-eye voxel at (1, 2, 3), a chiasm voxel at (4, 4, 5), unannotated voxels (-1) in the first plane."""
    seg = torch.zeros((1, *SHAPE), dtype=dtype)
    seg[0, 0] = -1
    seg[0, 1, 2, 3] = EYE_L
    seg[0, 4, 4, 5] = CHIASM
    return {"image": torch.arange(2 * np.prod(SHAPE), dtype=torch.float32).reshape(2, *SHAPE), "segmentation": seg}


def mirrored(transform: LeftRightMirrorTransform, axes: tuple[int, ...], data: dict | None = None) -> dict:
    data = data or sample()
    return {
        "image": transform._apply_to_image(data["image"], axes=list(axes)),
        "segmentation": transform._apply_to_segmentation(data["segmentation"], axes=list(axes)),
    }


@pytest.fixture
def transform() -> LeftRightMirrorTransform:
    return LeftRightMirrorTransform((0, 1, 2), 2, PAIRS)


def test_swap_labels_exchanges_pairs_and_leaves_its_input():
    label_map = torch.tensor([0, -1, EYE_L, EYE_R, EYE_R, CHIASM], dtype=torch.int16)
    swapped = swap_labels(label_map, PAIRS)
    assert swapped.tolist() == [0, -1, EYE_R, EYE_L, EYE_L, CHIASM]
    assert swapped.dtype == torch.int16
    assert label_map.tolist() == [0, -1, EYE_L, EYE_R, EYE_R, CHIASM]


@pytest.mark.parametrize("axis", [0, 1])
def test_swap_channels_exchanges_the_channels_of_pairs(axis):
    logits = torch.arange(8.0).reshape(8, 1) * torch.ones(8, 3)
    logits = logits if axis == 0 else logits.T
    swapped = swap_channels(logits, PAIRS, channel_axis=axis)
    assert swapped.select(1 - axis, 0).tolist() == [0, 2, 1, 3, 4, 5, 6, 7]
    assert torch.equal(swap_channels(swapped, PAIRS, channel_axis=axis), logits)


def test_swap_channels_and_swap_labels_agree():
    label_map = torch.from_numpy(np.random.default_rng(0).integers(0, 8, SHAPE))
    logits = torch.nn.functional.one_hot(label_map, 8).permute(3, 0, 1, 2)
    assert torch.equal(swap_channels(logits, [(1, 2), (3, 4)]).argmax(0), swap_labels(label_map, [(1, 2), (3, 4)]))


def test_a_left_eye_becomes_a_right_eye_at_the_mirrored_place(transform):
    after = mirrored(transform, (2,))
    seg = after["segmentation"][0]
    assert seg[1, 2, 11 - 1 - 3] == EYE_R
    assert seg[4, 4, 11 - 1 - 5] == CHIASM
    assert (seg[0] == -1).all()
    assert sorted(seg.unique().tolist()) == [-1, 0, EYE_R, CHIASM]
    assert seg.dtype == torch.int16
    assert torch.equal(after["image"], sample()["image"].flip(3))


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_other_axes_keep_left_and_right(transform, axes):
    seg = mirrored(transform, axes)["segmentation"]
    assert torch.equal(seg, sample()["segmentation"].flip([a + 1 for a in axes]))


@pytest.mark.parametrize("axes", [(), (2,), (0, 2), (0, 1, 2)])
def test_mirrored_twice_is_the_original(transform, axes):
    twice = mirrored(transform, axes, mirrored(transform, axes))
    assert torch.equal(twice["segmentation"], sample()["segmentation"])
    assert torch.equal(twice["image"], sample()["image"])


def test_the_left_right_axis_need_not_be_the_last():
    seg = mirrored(LeftRightMirrorTransform((1,), 1, PAIRS), (1,))["segmentation"][0]
    assert seg[1, 7 - 1 - 2, 3] == EYE_R


def test_drawn_at_random_image_and_labels_are_mirrored_together():
    transform = LeftRightMirrorTransform((2,), 2, PAIRS)
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        after = transform(**sample())
        flipped = torch.equal(after["image"], sample()["image"].flip(3))
        expected = mirrored(transform, (2,) if flipped else ())
        assert torch.equal(after["segmentation"], expected["segmentation"])
        seen.add(flipped)
    assert seen == {True, False}
