"""Logits of left and right organs from organ and side."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from nnunet_ext.cascade.side_logits import SideLogits

#: Eye_L 1, Eye_R 4, chiasm 2, OpticNrv_L 5, OpticNrv_R 3: in no order.
PAIRS, N_LABELS = [[1, 4], [5, 3]], 6
SHAPE = (2, 6, 3, 4, 5)  # 4 organs with the background, 2 sides


def test_a_labels_probability_is_the_organs_times_the_sides():
    sides = SideLogits(N_LABELS, PAIRS)
    assert sides.n_maps == 6
    assert not list(sides.parameters())
    maps = 3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    labels = sides(maps).softmax(1)
    organs, side = maps[:, :4].softmax(1), maps[:, 4:].softmax(1)
    background, eye, chiasm, nerve = organs.unbind(1)
    left, right = side.unbind(1)
    expected = torch.stack([background, eye * left, chiasm, nerve * right, eye * right, nerve * left], 1)
    torch.testing.assert_close(labels, expected)


def test_exchanging_the_two_sides_exchanges_the_labels_of_each_pair_and_nothing_else():
    sides = SideLogits(N_LABELS, PAIRS)
    maps = torch.randn(SHAPE)
    other = sides(maps[:, [0, 1, 2, 3, 5, 4]])
    assert torch.equal(other, sides(maps)[:, [0, 4, 2, 5, 1, 3]])


def test_what_a_pair_learns_of_the_side_serves_the_other_pair():
    """Trained on eyes of both sides and on right nerves, the network has never seen a left nerve, and finds it."""
    torch.manual_seed(0)
    sides = SideLogits(N_LABELS, PAIRS)
    layer = torch.nn.Conv3d(3, sides.n_maps, 1)  # of an image that shows eye, nerve and side
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)

    def image(eye: float, nerve: float, x: float) -> torch.Tensor:
        return torch.tensor([eye, nerve, x], dtype=torch.float).reshape(1, 3, 1, 1, 1)

    cases = [(image(1, 0, -1), 1), (image(1, 0, 1), 4), (image(0, 1, 1), 3), (image(0, 0, 1), 0), (image(0, 0, -1), 0)]
    for _ in range(200):
        loss = sum(cross_entropy(sides(layer(x)), torch.full((1, 1, 1, 1), label)) for x, label in cases)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sides(layer(image(0, 1, -1))).argmax(1).item() == 5


def test_in_16_bits_the_logits_stay_finite():
    maps = torch.tensor([3e4, -3e4, 100.0, 0.0, 6e4, -6e4]).reshape(1, 6, 1, 1, 1).half()
    logits = SideLogits(N_LABELS, PAIRS)(maps)
    assert logits.dtype == torch.half
    assert torch.isfinite(logits.float().log_softmax(1)[:, [0, 1, 2]]).all()
    assert not torch.isnan(logits).any()


@pytest.mark.parametrize("pairs", [[[1, 1]], [[1, 2], [2, 3]], [[0, 1]], [[1, 6]], [[1, 2, 3, 4]], [[1]]])
def test_pairs_that_are_none_are_refused(pairs):
    with pytest.raises(
        ValueError, match=r"arch_kwargs.left_right_pairs is .* it must be pairs of different labels, from 1 to 5"
    ):
        SideLogits(N_LABELS, pairs)
