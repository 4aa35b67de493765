"""The organs' weight in the cross entropy of nnU-Net's loss."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunet_ext.training.losses import FocalCrossEntropyLoss, GatheredCrossEntropyLoss, weigh_organs


def nnunets_loss(ignore_label: int | None = None) -> DC_and_CE_loss:
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss)


def weigh(loss: torch.nn.Module, weight: float = 5.0, **more) -> torch.nn.Module:
    options = {"n_labels": 3, "ignore_label": None, "gathered": False, **more}
    weigh_organs(loss, weight, device=torch.device("cpu"), **options)
    return loss


def test_an_organs_voxel_weighs_as_much_as_said():
    # An organ voxel at p = 1/2 costs log 2, a background voxel whose logit is 2 above costs log(1 + exp(-2)).
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]], [[-50.0, -50.0]]]])  # (B, labels, Y, X)
    target = torch.tensor([[[[1, 0]]]])
    loss = weigh(nnunets_loss())
    organ, background = torch.log(torch.tensor(2.0)), torch.log1p(torch.exp(torch.tensor(-2.0)))
    assert loss.ce(logits, target).item() == pytest.approx(((5 * organ + background) / 6).item(), abs=1e-5)
    assert loss.weight_ce == 1


def test_deep_supervision_is_looked_through_and_dice_alone_has_no_cross_entropy():
    loss = nnunets_loss()
    weigh(DeepSupervisionWrapper(loss, (0.7, 0.3)), cross_entropy_weight=0.0)
    assert loss.ce.weight.tolist() == [1, 5, 5]
    assert loss.weight_ce == 0


def test_ignored_voxels_stay_ignored_even_with_several_processes():
    loss = weigh(nnunets_loss(ignore_label=2), n_labels=2, ignore_label=2, gathered=True)
    assert loss.ce.ignore_index == 2
    assert not isinstance(loss.ce, GatheredCrossEntropyLoss)
    assert isinstance(weigh(nnunets_loss(), gathered=True).ce, GatheredCrossEntropyLoss)


def test_another_loss_stays_as_it_is():
    loss = DC_and_BCE_loss({}, {"batch_dice": True}, dice_class=MemoryEfficientSoftDiceLoss)
    before = loss.ce
    assert weigh(loss).ce is before


def test_large_logits_in_16_bits_give_the_loss_of_32_bits():
    """Four million voxels: their number, and sums over them, are far above what 16 bits hold."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(1, 1, 128, 176, 184, dtype=torch.int16)
    target[:, :, 40:60, 60:90, 60:90], target[:, :, 70:75, 100:104, 100:106] = 1, 2
    logits = 30 * torch.randn((1, 3, *target.shape[2:]), generator=generator)
    logits.scatter_add_(1, target.long(), torch.full(target.shape, 60.0))
    logits[:, 0, :10], logits[:, 1, 50:55] = 3e4, -3e4
    half = logits.half().requires_grad_()
    expected = weigh(nnunets_loss())(half.detach().float(), target)
    with torch.autocast("cpu", torch.float16):
        loss = weigh(nnunets_loss())(half, target)
    assert torch.isfinite(loss)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert expected.abs() > 0.01
    (loss * 2.0**10).backward()
    assert torch.isfinite(half.grad).all()
    assert half.grad.abs().max() > 0


def test_the_focal_cross_entropy_counts_a_voxel_by_how_unsure_it_is():
    """Organ voxel at p = 1/2, background voxel at p = 1 / (1 + exp(-2)), and one that is ignored."""
    logits = torch.tensor([[[[0.0, 2.0, 9.0]], [[0.0, 0.0, 0.0]], [[-50.0, -50.0, -50.0]]]])
    target = torch.tensor([[[[1, 0, 2]]]])
    loss = weigh(nnunets_loss(ignore_label=2), ignore_label=2, focal=True)
    assert isinstance(loss.ce, FocalCrossEntropyLoss)
    p = 1 / (1 + torch.exp(torch.tensor(-2.0)))
    by_hand = (5 * 0.25 * torch.log(torch.tensor(2.0)) - (1 - p) ** 2 * torch.log(p)) / 6
    assert loss.ce(logits, target).item() == pytest.approx(by_hand.item(), abs=1e-5)
    plain = weigh(nnunets_loss(ignore_label=2), ignore_label=2)
    assert loss.ce(logits, target) < plain.ce(logits, target[:, 0])
    assert isinstance(weigh(nnunets_loss(), gathered=True, focal=True).ce, GatheredCrossEntropyLoss)
