"""Augmentation: the same samples as nnU-Net's, cheaper, and on any device."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from nnunet_ext.training.augmentation import (
    ImageDeviceBlurTransform,
    SparseSpatialTransform,
    augment_batch,
    replace_transforms,
    split_after_the_cut,
    with_low_resolution,
)

SHAPE, PATCH = (13, 20, 26), (12, 18, 22)
OPTIONS = {
    "patch_center_dist_from_border": 0,
    "random_crop": False,
    "p_rotation": 1,
    "rotation": (-0.26, 0.26),
    "p_scaling": 1,
    "scaling": (0.7, 1.4),
    "p_synchronize_scaling_across_axes": 1,
    "border_mode_seg": "constant",
    "padding_value_seg": -1,
}


def sample() -> dict[str, torch.Tensor]:
    """Random image, and a label map in which organs touch each other and the border, one a single voxel."""
    seg = torch.zeros(1, *SHAPE, dtype=torch.int16)
    seg[0, 2:7, 4:9, 5:11] = 1
    seg[0, 4:9, 9:13, 8:14] = 2
    seg[0, 9:, 14:, 20:] = 5
    seg[0, 10, 3, 17] = 3
    seg[0, :2, :3, :4] = -1
    return {"image": torch.rand(2, *SHAPE), "segmentation": seg}


def stock_transforms(rotation=(-0.26, 0.26)):
    """What nnU-Net trains with."""
    return nnUNetTrainer.get_training_transforms(PATCH, rotation, [[1, 1, 1], [0.5, 0.5, 0.5]], (), False)


def seed(value: int) -> None:
    np.random.seed(value)
    torch.manual_seed(value)


def test_rotated_and_scaled_samples_are_those_of_nnunets_transform():
    stock, ours = SpatialTransform(PATCH, **OPTIONS), SparseSpatialTransform(PATCH, **OPTIONS)
    differing = 0
    for i in range(12):
        results = []
        for transform in (stock, ours):
            seed(i)
            results.append(RemoveLabelTansform(-1, 0)(**transform(**sample())))
        torch.testing.assert_close(results[1]["image"], results[0]["image"], atol=1e-4, rtol=0)
        assert results[1]["segmentation"].dtype == torch.int16
        differing += int((results[1]["segmentation"] != results[0]["segmentation"]).sum())
        assert set(results[1]["segmentation"].unique().tolist()) <= {0, 1, 2, 3, 5}
    # nnU-Net rounds the shares to float16, so a voxel on the border between two labels may fall to either.
    assert differing <= 12 * np.prod(PATCH) * 1e-3


def test_an_empty_label_map_stays_empty_and_several_channels_are_kept_apart():
    transform = SparseSpatialTransform(PATCH, **OPTIONS)
    seg = torch.cat([torch.zeros_like(sample()["segmentation"]), sample()["segmentation"]])
    seed(0)
    both = transform(image=torch.rand(1, *SHAPE), segmentation=seg)["segmentation"]
    seed(0)
    second = transform(image=torch.rand(1, *SHAPE), segmentation=seg[1:])["segmentation"]
    assert both.shape == (2, *PATCH)
    assert both[0].eq(0).all()
    assert torch.equal(both[1:], second)


def test_only_spatial_transform_and_blur_are_replaced_and_the_input_is_left_as_it_is():
    stock = stock_transforms()
    ours = replace_transforms(stock)
    kinds = [[type(getattr(t, "transform", t)) for t in transforms.transforms] for transforms in (stock, ours)]
    swap = {SpatialTransform: SparseSpatialTransform, GaussianBlurTransform: ImageDeviceBlurTransform}
    assert SpatialTransform in kinds[0]
    assert GaussianBlurTransform in kinds[0]
    assert kinds[1] == [swap.get(kind, kind) for kind in kinds[0]]
    chances = [[getattr(t, "apply_probability", None) for t in transforms.transforms] for transforms in (stock, ours)]
    assert chances[0] == chances[1]


def test_a_batch_is_augmented_like_its_samples_and_left_as_it_is():
    transforms = replace_transforms(stock_transforms())
    samples = [sample(), sample()]
    batch = {
        "data": torch.stack([s["image"] for s in samples]),
        "target": torch.stack([s["segmentation"] for s in samples]),
        "keys": ["a", "b"],
    }
    before = batch["data"].clone()
    for i in range(8):
        seed(i)
        augmented = augment_batch(batch, transforms, torch.device("cpu"))
        seed(i)
        expected = [transforms(**{k: v.clone() for k, v in s.items()}) for s in samples]
        assert augmented["keys"] == ["a", "b"]
        assert torch.equal(augmented["data"], torch.stack([e["image"] for e in expected]))
        assert [tuple(t.shape) for t in augmented["target"]] == [(2, 1, 12, 18, 22), (2, 1, 6, 9, 11)]
        for k in range(2):
            assert torch.equal(augmented["target"][k], torch.stack([e["segmentation"][k] for e in expected]))
        assert torch.equal(batch["data"], before)
        assert batch["target"].min() == -1


# ------------------------------------------------------------------------------------------- flat patches, slice by slice

FLAT_SHAPE, FLAT_PATCH = (24, 40, 48), (24, 28, 32)


def flat_transforms():
    """What nnU-Net trains flat patches with: it turns their slices into channels."""
    stock = nnUNetTrainer.get_training_transforms(FLAT_PATCH, (-0.26, 0.26), [[1, 1, 1], [1, 0.5, 0.5]], (), True)
    return replace_transforms(stock)


def flat_sample(n_slices: int = 24) -> dict[str, torch.Tensor]:
    """Another organ in every slice, somewhere else, and slices without any."""
    seg = torch.zeros(1, n_slices, *FLAT_SHAPE[1:], dtype=torch.int16)
    for z in range(2, n_slices - 2):
        if z % 4:
            y, x = (5 * z) % 28, (7 * z) % 36
            seg[0, z, y : y + 8, x : x + 6] = 1 + z % 7
    return {"image": torch.rand(2, n_slices, *FLAT_SHAPE[1:]), "segmentation": seg}


def test_the_slices_of_a_flat_patch_are_sampled_together_as_one_by_one():
    transform = SparseSpatialTransform(FLAT_PATCH[1:], **OPTIONS)
    slices = {k: v.flatten(0, 1) for k, v in flat_sample().items()}
    differing = n_organ = 0
    for i in range(12):
        seed(i)
        together = transform(**{k: v.clone() for k, v in slices.items()})["segmentation"]
        for z in range(24):
            seed(i)
            alone = transform(image=slices["image"][:1].clone(), segmentation=slices["segmentation"][z : z + 1].clone())
            differing += int((together[z] != alone["segmentation"][0]).sum())
        n_organ += int((together > 0).sum())
    assert n_organ > 5_000
    assert differing <= n_organ * 1e-4  # another box rounds its points differently


class _Waits(TorchDispatchMode):
    """Counts what a GPU's host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.n += by_mask or name in ("nonzero", "_local_scalar_dense", "_unique2", "unique_dim")
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Counts values that become Python's, which the dispatcher does not see on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.n += func is torch.Tensor.tolist
        return func(*args, **(kwargs or {}))


def test_a_gpu_is_waited_for_as_often_for_many_slices_as_for_few():
    transform = SparseSpatialTransform(FLAT_PATCH[1:], **OPTIONS)
    waits = []
    for n_slices in (6, 24):
        slices = {k: v.flatten(0, 1) for k, v in flat_sample(n_slices).items()}
        seed(1)
        with _Waits() as operations, _Lists() as lists:
            transform(**slices)
        waits.append(operations.n + lists.n)
    assert waits[0] == waits[1]
    assert 3 <= waits[1] <= 20


def test_what_cuts_the_patch_is_split_from_the_rest_and_both_together_give_the_same_samples():
    for transforms, make_sample, patch in (
        (replace_transforms(stock_transforms()), sample, PATCH),
        (flat_transforms(), flat_sample, FLAT_PATCH),
    ):
        first, rest = split_after_the_cut(transforms)
        assert [*first.transforms, *rest.transforms] == transforms.transforms
        for i in range(8):
            seed(i)
            image = make_sample()
            seed(i)
            whole = transforms(**{k: v.clone() for k, v in image.items()})
            seed(i)
            cut = first(**image)
            assert cut["image"].shape == (2, *patch)
            assert cut["segmentation"].shape == (1, *patch)
            parts = rest(**cut)
            assert torch.equal(whole["image"], parts["image"])
            assert all(torch.equal(a, b) for a, b in zip(whole["segmentation"], parts["segmentation"], strict=True))


# ------------------------------------------------------------------------------------------- a device other than the CPU

DEVICE = torch.device("meta")  # torch has this name everywhere and needs no hardware for it


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on `DEVICE`; its values lie in `inner`, on the CPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=DEVICE
        )
        wrapper.inner = inner
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})

    def tolist(self) -> list:
        return self.inner.tolist()  # torch copies to the CPU first, but not for subclasses


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class _Constructors(TorchFunctionMode):
    """`torch.tensor` and `torch.as_tensor` of numbers: what they make is no operation yet."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return Elsewhere(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


@contextmanager
def pretend_device():
    """Tensors made on `DEVICE` are `Elsewhere`."""
    with _Operations(), _Constructors():
        yield


def _computed(func, args, kwargs):
    """Compute on the CPU what a device would; refuse to mix tensors of both, except single values, as CUDA does."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    elsewhere = [isinstance(x, Elsewhere) for x in tensors]
    moves = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    here = [x for x, away in zip(tensors, elsewhere, strict=True) if not away and x.ndim > 0]
    if any(elsewhere) and here and not moves:
        raise RuntimeError(f"{func}: tensors on two devices")
    target = kwargs.get("device")
    away = any(elsewhere) if target is None else torch.device(target) == DEVICE
    if target is not None and away:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is torch.ops.aten.copy_.default:
        away = elsewhere[0]
    args_here, kwargs_here = tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, (args, kwargs))
    result = func(*args_here, **kwargs_here)
    if func._schema.name.endswith("_"):  # in place
        return args[0]
    return tree_map(lambda x: Elsewhere(x) if away and isinstance(x, torch.Tensor) else x, result)


def test_the_pretend_device_refuses_what_a_gpu_would():
    with pretend_device():
        image = torch.rand(2, 3, device=DEVICE)
        assert image.device == DEVICE
        assert 0 < image.sum().item() < 6
        with pytest.raises(RuntimeError, match="two devices"):
            image + torch.rand(2, 3)
        with pytest.raises((RuntimeError, TypeError)):
            image.numpy()


def test_nnunets_own_spatial_transform_and_blur_need_the_cpu():
    for transform in (SpatialTransform(PATCH, **OPTIONS), GaussianBlurTransform((0.5, 1.0))):
        with pretend_device(), pytest.raises((RuntimeError, TypeError)):
            transform(**{k: Elsewhere(v) for k, v in sample().items()})


def test_our_augmentation_runs_on_another_device_with_the_results_of_the_cpu():
    for transform in (SparseSpatialTransform(PATCH, **OPTIONS), ImageDeviceBlurTransform((0.5, 1.0))):
        seed(3)
        image = sample()
        seed(4)
        here = transform(**{k: v.clone() for k, v in image.items()})
        seed(4)
        with pretend_device():
            there = transform(**{k: Elsewhere(v.clone()) for k, v in image.items()})
        for key in ("image", "segmentation"):
            assert isinstance(there[key], Elsewhere)
            torch.testing.assert_close(there[key].inner, here[key], atol=1e-5, rtol=0)


def test_every_transform_of_the_training_runs_on_another_device():
    transforms = replace_transforms(stock_transforms()).transforms
    for transform in transforms:
        if hasattr(transform, "apply_probability"):
            transform.apply_probability = 1.0
        if isinstance(transform, SpatialTransform):
            transform.p_rotation = transform.p_scaling = 1.0
    seed(0)
    with pretend_device():
        there = {k: Elsewhere(v) for k, v in sample().items()}
        for transform in transforms:
            there = transform(**there)
    assert isinstance(there["image"], Elsewhere)
    assert there["image"].shape == (2, *PATCH)
    assert all(isinstance(t, Elsewhere) for t in there["segmentation"])


def test_ours_takes_the_place_of_nnunets_low_resolution_or_follows_it():
    stock, ours = stock_transforms(), RemoveLabelTansform(7, 0)
    before = list(stock.transforms)
    (at,) = (
        i for i, one in enumerate(before) if isinstance(getattr(one, "transform", None), SimulateLowResolutionTransform)
    )
    assert with_low_resolution(stock, keep=False).transforms == before[:at] + before[at + 1 :]
    assert with_low_resolution(stock, keep=False, ours=ours).transforms == [*before[:at], ours, *before[at + 1 :]]
    assert with_low_resolution(stock, keep=True, ours=ours).transforms == [*before[: at + 1], ours, *before[at + 1 :]]
    assert stock.transforms == before


def test_an_augmentation_without_low_resolution_has_no_place_for_ours():
    without = with_low_resolution(stock_transforms(), keep=False)
    with pytest.raises(ValueError, match="does not simulate low resolution once"):
        with_low_resolution(without, keep=False)
