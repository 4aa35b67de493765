"""Expected GPU memory of a training."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

from nnunet_ext.cascade.networks import CascadeUNet
from nnunet_ext.plans.cascade_oar_planner import CascadeOARPlanner
from nnunet_ext.plans.gpu_memory import expected_memory_gib, hours_on_a100, kept_for_backward

SEGMENTER = {
    "residual_blocks": True,
    "downsampling": "strided_convolution",
    "norm_op": nn.InstanceNorm3d,
    "dropout_op": nn.Dropout3d,
    "dropout_op_kwargs": {"p": 0.1},
    "nonlin": nn.LeakyReLU,
}
LOCALIZER = {
    "residual_blocks": False,
    "downsampling": "max_pooling",
    "norm_op": nn.BatchNorm3d,
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": nn.ReLU,
}
#: Image, with a batch of three, a size that no weight has.
SHAPE = (3, 2, 16, 32, 24)


def network(kind: dict) -> CascadeUNet:
    return CascadeUNet(
        2,
        5,
        n_stages=3,
        features_per_stage=[8, 16, 32],
        conv_op=nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        n_blocks_per_stage=[1, 2, 2],
        n_conv_per_stage_decoder=[1, 1],
        conv_bias=True,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **kind,
    )


def feature_maps_kept(net: nn.Module, image: torch.Tensor, context) -> Counter:
    """Bytes of the feature maps in 16 bits that a forward pass keeps, each storage once.

    Instance norms keep a view in which samples and channels are one axis.
    """
    sizes, alive = {}, []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        if tensor.ndim == 5 and tensor.shape[0] in (1, SHAPE[0]) and tensor.element_size() == 2:
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), context:
        net(image)
    return Counter(sizes.values())


@pytest.mark.parametrize("kind", [SEGMENTER, LOCALIZER], ids=["segmenter", "localizer"])
def test_the_feature_maps_counted_are_those_that_autocast_keeps(kind):
    real = feature_maps_kept(network(kind), torch.rand(SHAPE), torch.autocast("cpu", torch.bfloat16))
    with torch.device("meta"):
        counted_net, image = network(kind).half(), torch.empty(SHAPE, dtype=torch.half)
    counted = feature_maps_kept(counted_net, image, nullcontext())
    assert counted == real
    n_bytes, largest = kept_for_backward(counted_net, image)
    maps = sum(n * size for size, n in counted.items())
    assert maps <= n_bytes <= 1.2 * maps  # places of max pooling, noise of dropout, means of norms
    assert largest >= 2 * 8 * 3 * np.prod(SHAPE[2:])


def test_nnunets_network_m_at_its_reference_size_takes_what_nnunet_says():
    """9.1 GiB with SGD, which has one moment where AdamW has two (documentation/resenc_presets.md)."""
    patch = (96, 160, 160)
    kwargs = {
        "n_stages": 6,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
        "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
        "n_conv_per_stage_decoder": [1] * 5,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = f"{ResidualEncoderUNet.__module__}.ResidualEncoderUNet"
    imports = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    architecture = {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": imports}
    with_sgd = expected_memory_gib(architecture, patch, 2, n_channels=1, n_labels=14) - 4 * 102e6 / 2**30
    assert with_sgd == pytest.approx(9.1, rel=0.1)
    hours = hours_on_a100(architecture, patch, 2, n_channels=1, n_labels=14, n_epochs=1000)
    assert hours == pytest.approx(12, rel=0.02)
    sizes = [expected_memory_gib(architecture, patch, n, n_channels=1, n_labels=14) for n in (1, 2, 3)]
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=1e-3)


@pytest.mark.parametrize(("spacing_mm", "target_gb"), [((2.4, 0.464, 0.464), 8), ((1.25, 0.8, 0.8), 16)])
def test_batches_of_fifty_cases_are_even_and_within_the_memory_target(planned, spacing_mm, target_gb, monkeypatch):
    planner = None

    class Planner(CascadeOARPlanner):
        def __init__(self, *args, **options):
            nonlocal planner
            super().__init__(*args, **options)
            planner = self

        def batch_size(self, *args, **options):
            own, self.dataset = self.dataset, dict.fromkeys(range(50))
            try:
                return super().batch_size(*args, **options)
            finally:
                self.dataset = own

    plan = planned(Planner, overwrite_target_spacing=spacing_mm, gpu_memory_target_in_gb=target_gb)
    whole = plan["configurations"]["3d_fullres"]
    seen = set()
    for name, entries in plan["configurations"].items():
        c = {**whole, **entries}
        size = c["batch_size"]
        seen.add(size)
        assert size == 1 or size % 2 == 0, name
        if size > 1:
            assert planner.target_gb(c["patch_size"], c["architecture"], size) <= target_gb, name
    assert max(seen) >= 2
