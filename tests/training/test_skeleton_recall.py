"""Recall of thin organs' skeletons."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from nnunet_ext.training.skeleton_recall import SkeletonRecallLoss, thin_labels, tubed_skeleton


def tube(shape=(20, 24, 32), radius: float = 3.0) -> torch.Tensor:
    """A bent tube, as an optic nerve is one, as a mask `(1, 1, Z, Y, X)`."""
    z, y, x = np.indices(shape)
    distance = np.hypot(z - 10 - 2 * np.sin(x / 8), y - 12 - 3 * np.cos(x / 10))
    return torch.from_numpy((distance <= radius) & (x >= 3) & (x < 29))[None, None]


class Nothing(nn.Module):
    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return logits.sum() * 0.0


def sure(target: torch.Tensor, n_labels: int = 3) -> torch.Tensor:
    """Logits of a network that is sure of these labels."""
    return 40.0 * torch.nn.functional.one_hot(target[:, 0].long(), n_labels).movedim(-1, 1)


def test_the_skeleton_of_a_tube_lies_inside_runs_along_all_of_it_and_is_thinner():
    organ = tube()
    skeleton = tubed_skeleton(organ)
    assert not (skeleton & ~organ).any()
    assert 0.05 < skeleton.sum() / organ.sum() < 0.9
    along = skeleton[0, 0].any(0).any(0)
    assert along[4:28].all()
    depth = ndimage.distance_transform_edt(organ[0, 0].numpy())
    middle = depth >= 3.0
    assert (skeleton[0, 0].numpy() & middle).sum() > 0.9 * middle.sum()


def test_an_organ_of_one_voxel_and_a_thick_one_keep_a_skeleton_and_nothing_has_none():
    organ = torch.zeros(1, 1, 9, 9, 9, dtype=torch.bool)
    assert not tubed_skeleton(organ).any()
    organ[0, 0, 4, 4, 4] = True
    assert tubed_skeleton(organ).sum() == 1
    thick = torch.zeros(1, 1, 31, 31, 31, dtype=torch.bool)
    thick[0, 0, 1:30, 1:30, 1:30] = True
    assert tubed_skeleton(thick).any()


def test_a_gap_costs_its_share_of_the_length_and_a_nerve_that_is_not_there_nothing():
    target = tube().to(torch.int16)
    loss = SkeletonRecallLoss(Nothing(), [1, 2], weight=2.0)
    assert loss(sure(target), target).item() == pytest.approx(0, abs=1e-4)
    with_gap = target.clone()
    with_gap[..., 10:16] = 0  # 6 of 26 voxels of its length
    assert loss(sure(with_gap), target).item() == pytest.approx(2 * 6 / 26, rel=0.2)
    assert loss(sure(torch.zeros_like(target)), target).item() == pytest.approx(2, rel=1e-3)
    two = torch.cat([target, torch.zeros_like(target)])  # none in the second sample
    assert loss(sure(two), two).item() == pytest.approx(0, abs=1e-4)
    nothing = torch.zeros_like(target)
    assert loss(sure(nothing), nothing).item() == 0


def test_the_missing_part_gets_a_gradient_also_in_16_bits():
    target = tube().to(torch.int16)
    logits = sure(torch.zeros_like(target)).half().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        loss = SkeletonRecallLoss(Nothing(), [1], weight=1.0)(logits * 0.1, target)
    loss.backward()
    gradient = logits.grad[:, 1:2].float()
    assert torch.isfinite(gradient).all()
    assert (gradient[tubed_skeleton(target > 0)] < 0).all()


def test_thin_organs_are_known_by_the_names_that_converters_know():
    assert thin_labels({"background": 0, "Eye_L": 1, "OpticNrv_L": 2, "OpticChiasm": 5, "OpticNrv_R": 3}) == [2, 3, 5]
    assert thin_labels({"background": 0, "Sehnerv_links": 1, "右视神经": 2, "Brain": 3, "chiasma": 4}) == [1, 2, 4]
    assert thin_labels({"background": 0, "Lens_L": 1}) == []
