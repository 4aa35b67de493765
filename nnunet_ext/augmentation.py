"""nnU-Net's augmentation made cheap for small organs, and able to run where the network runs.

Checked against batchgeneratorsv2 0.3: of the transforms nnU-Net trains with, `SpatialTransform` makes its grid and samples
label maps on the CPU, and `GaussianBlurTransform` makes its kernel there; the two classes below take their place. The
others follow the image they are given, except those of a cascade with guidance, which need NumPy.
"""

from __future__ import annotations

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.spatial import (
    SpatialTransform,
    _convert_my_grid_to_grid_sample_grid,
    _create_centered_identity_grid2,
)
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch.nn.functional import grid_sample


class SparseSpatialTransform(SpatialTransform):
    """Rotation and scaling of an image and of a label map that is nearly all background, on the image's device.

    The label is the one with the largest linearly interpolated share, as in the base class, which samples every label at
    every voxel; here that is done only at the voxels some label reaches. Two differences: outside the label map is
    background, not -1 (nnU-Net's next transform for the label map does that anyway), and on a tie, which a rotated grid
    hardly has, the smaller label wins.
    """

    def _get_base_grid_clone(self) -> torch.Tensor:
        """One point: the base class then makes no grid on the CPU, see `get_parameters`."""
        n_axes = len(self.patch_size)
        return torch.zeros(*[1] * n_axes, n_axes)

    def get_parameters(self, **data_dict) -> dict:
        params = super().get_parameters(**data_dict)
        if params["affine"] is None:
            return params
        image = data_dict["image"]
        with image.device:  # what torch creates in here lies there
            grid = _create_centered_identity_grid2(self.patch_size)
        affine = torch.as_tensor(params["affine"].T, dtype=grid.dtype, device=image.device)
        return {**params, "grid": _convert_my_grid_to_grid_sample_grid(grid @ affine, image.shape[1:])}

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params) -> torch.Tensor:
        grid = params["grid"]
        if grid is None:
            return super()._apply_to_segmentation(segmentation, **params)
        sampled = torch.zeros(
            (len(segmentation), *grid.shape[:-1]), dtype=segmentation.dtype, device=segmentation.device
        )
        for label_map, result in zip(segmentation, sampled, strict=True):
            labels = [value for value in torch.unique(label_map).tolist() if value > 0]
            reached = self._sample((label_map > 0)[None], grid)[0] > 0
            points = grid[reached].reshape(*[1] * (grid.ndim - 2), -1, grid.shape[-1])
            if not labels or points.numel() == 0:
                continue
            organs = self._sample(torch.stack([label_map == value for value in labels]), points)
            organs = organs.reshape(len(labels), -1)
            scores = torch.cat([1 - organs.sum(0, keepdim=True), organs])
            values = torch.tensor([0, *labels], dtype=sampled.dtype, device=sampled.device)
            result[reached] = values[scores.argmax(0)]
        return sampled

    def _sample(self, masks: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        return grid_sample(
            masks[None].float(), grid[None], mode="bilinear", padding_mode="zeros", align_corners=self.align_corners
        )[0]


class ImageDeviceBlurTransform(GaussianBlurTransform):
    """Gaussian blur whose kernels are made where the image lies."""

    def _apply_to_image(self, img: torch.Tensor, **params) -> torch.Tensor:
        with img.device:
            return super()._apply_to_image(img, **params)


def replace_transforms(transforms: ComposeTransforms) -> ComposeTransforms:
    """The same augmentation with the classes of this module; the input is left as it is."""
    return ComposeTransforms([_replaced(transform) for transform in transforms.transforms])


def _replaced(transform: BasicTransform) -> BasicTransform:
    if isinstance(transform, RandomTransform):
        return RandomTransform(_replaced(transform.transform), transform.apply_probability)
    for stock, ours in ((SpatialTransform, SparseSpatialTransform), (GaussianBlurTransform, ImageDeviceBlurTransform)):
        if type(transform) is stock:
            new = ours.__new__(ours)
            vars(new).update(vars(transform))
            return new
    return transform


def augment_batch(batch: dict, transforms: BasicTransform, device: torch.device) -> dict:
    """A batch as the loader's workers would have augmented it, made on `device`.

    Args:
        batch: What nnU-Net's loader gives without transforms: `data` `(B, C, *axes)` and `target` `(B, 1, *axes)`, of the
            size the transforms cut the patch from. It is not changed.
        transforms: As for one sample of the loader.
        device: Where the transforms run.

    Returns:
        The batch with `data` and `target`, or a `target` per output of the network, on `device`.
    """
    images, targets = (batch[key].to(device, non_blocking=True) for key in ("data", "target"))
    if device.type == "cpu":  # there `to` copies nothing, and the transforms work in place
        images, targets = images.clone(), targets.clone()
    samples = [transforms(image=image, segmentation=target) for image, target in zip(images, targets, strict=True)]
    targets = [sample["segmentation"] for sample in samples]
    stacked = (
        [torch.stack(t) for t in zip(*targets, strict=True)] if isinstance(targets[0], list) else torch.stack(targets)
    )
    return {**batch, "data": torch.stack([sample["image"] for sample in samples]), "target": stacked}
