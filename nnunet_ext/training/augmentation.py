"""nnU-Net's augmentation, made cheap for small organs and able to run on the network's device.

What cuts the patch out of the larger sample runs in the workers that load it, see `split_after_the_cut`. So only what the
network sees travels to a GPU.

Checked against batchgeneratorsv2 0.3.6. Of the transforms nnU-Net trains with, `SpatialTransform` makes its grid and
samples label maps on the CPU. `GaussianBlurTransform` makes its kernel there. The two classes below take their place.
The others follow the image they are given, except those of a cascade with guidance, which need NumPy.
"""

from __future__ import annotations

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import (
    SpatialTransform,
    _convert_my_grid_to_grid_sample_grid,
    _create_centered_identity_grid2,
)
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch.nn.functional import grid_sample


class SparseSpatialTransform(SpatialTransform):
    """Rotation and scaling of an image and of a label map that is nearly all background, on the image's device.

    The label is the one with the largest linearly interpolated share, as in the base class. That samples every label at
    every voxel. Here it is done only at the voxels some label can reach.

    There are two differences. Outside the label map is background, not -1, as after nnU-Net's next transform for the
    label map. On a tie, which a rotated grid hardly has, the smaller label wins.
    """

    def _get_base_grid_clone(self) -> torch.Tensor:
        """One point, so that the base class makes no grid on the CPU, see `get_parameters`."""
        n_axes = len(self.patch_size)
        return torch.zeros(*[1] * n_axes, n_axes)

    def get_parameters(self, *, image: torch.Tensor, **data_dict: object) -> dict:
        params = super().get_parameters(image=image, **data_dict)
        if params["affine"] is None:
            return params
        with image.device:  # what torch creates in here lies there
            grid = _create_centered_identity_grid2(self.patch_size)
        affine = torch.as_tensor(params["affine"].T, dtype=grid.dtype, device=image.device)
        return {**params, "grid": _convert_my_grid_to_grid_sample_grid(grid @ affine, image.shape[1:])}

    def _apply_to_segmentation(
        self, segmentation: torch.Tensor, *, grid: torch.Tensor | None, **params: object
    ) -> torch.Tensor:
        if grid is None or self.align_corners:
            return super()._apply_to_segmentation(segmentation, grid=grid, **params)
        sampled = torch.zeros(
            (len(segmentation), *grid.shape[:-1]), dtype=segmentation.dtype, device=segmentation.device
        )
        where = (segmentation > 0).nonzero()
        if len(where):
            self._sample_organs(segmentation, where, grid, sampled)
        return sampled

    @staticmethod
    def _sample_organs(
        segmentation: torch.Tensor, where: torch.Tensor, grid: torch.Tensor, result: torch.Tensor
    ) -> None:
        """Fill `result` at voxels whose grid points come within a voxel of the box of all organs.

        Channels are sampled together: nnU-Net turns the slices of flat patches into channels. Beyond the box all is
        background, as `grid_sample` takes it to be around a volume. On a GPU each of the few values that Python asks for
        waits for all that is under way.

        Args:
            segmentation: Shape `(C, *axes)`.
            where: Channel and place of every organ voxel.
            grid: Points for `grid_sample`, shape `(*patch, n_axes)`.
            result: Shape `(C, *patch)`, zeros.
        """
        channels = torch.unique(where[:, 0])
        first, last = (limit.tolist() for limit in (where[:, 1:].amin(0), where[:, 1:].amax(0)))
        shape = segmentation.shape[1:]
        near = segmentation[(channels, *(slice(a, b + 1) for a, b in zip(first, last, strict=True)))]
        labels = torch.unique(near[near > 0])
        # The grid counts from -1 to 1 between the outer faces of a volume, last axis first.
        whole, lower, size = (
            torch.tensor(n[::-1], device=grid.device) for n in (tuple(shape), first, list(near.shape[1:]))
        )
        start, end = ((2 * at + 1) / whole - 1 for at in (lower - 1, lower + size))
        reached = ((grid > start) & (grid < end)).all(-1).nonzero(as_tuple=True)
        points = ((grid[reached] + 1) * whole - 2 * lower) / size - 1
        if not len(points):
            return
        organs = grid_sample(
            torch.stack([near == value for value in labels.tolist()]).flatten(0, 1)[None].float(),
            points.reshape(1, *[1] * (len(shape) - 1), -1, len(shape)),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        ).reshape(len(labels), len(channels), -1)
        scores = torch.cat([1 - organs.sum(0, keepdim=True), organs])
        values = torch.cat([labels.new_zeros(1), labels])[scores.argmax(0)]
        result[(channels[:, None], *(index[None] for index in reached))] = values


class ImageDeviceBlurTransform(GaussianBlurTransform):
    """Gaussian blur whose kernels are made on the image's device."""

    def _apply_to_image(self, img: torch.Tensor, **params: object) -> torch.Tensor:
        with img.device:
            return super()._apply_to_image(img, **params)


def replace_transforms(transforms: ComposeTransforms) -> ComposeTransforms:
    """The same augmentation with the classes of this module. The input is left as it is."""
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


def with_low_resolution(
    transforms: ComposeTransforms, *, keep: bool, ours: BasicTransform | None = None
) -> ComposeTransforms:
    """The same augmentation with another simulation of low resolution. The input is left as it is.

    Args:
        transforms: nnU-Net's.
        keep: Whether nnU-Net's simulation stays.
        ours: Comes at its place, after it if it stays.

    Raises:
        ValueError: If nnU-Net's simulation is not there.
    """
    result: list[BasicTransform] = []
    for transform in transforms.transforms:
        inner = transform.transform if isinstance(transform, RandomTransform) else transform
        if not isinstance(inner, SimulateLowResolutionTransform):
            result.append(transform)
            continue
        result += [transform] if keep else []
        result += [] if ours is None else [ours]
    if len(result) == len(transforms.transforms) - (not keep) + (ours is not None):
        return ComposeTransforms(result)
    raise ValueError("nnU-Net's augmentation does not simulate low resolution once, so nothing can take its place")


def split_after_the_cut(transforms: ComposeTransforms) -> tuple[ComposeTransforms, ComposeTransforms]:
    """Mirroring, rotation, scaling and the cut to the patch, and all that comes after them."""
    cuts = (SpatialTransform, Convert2DTo3DTransform)
    n = max((i + 1 for i, t in enumerate(transforms.transforms) if isinstance(t, cuts)), default=0)
    return ComposeTransforms(transforms.transforms[:n]), ComposeTransforms(transforms.transforms[n:])


def augment_batch(batch: dict, transforms: BasicTransform, device: torch.device) -> dict:
    """A batch as the loader's workers would have augmented it, made on `device`.

    Args:
        batch: Batch of nnU-Net's loader, with `data` `(B, C, *axes)` and `target` `(B, 1, *axes)`. It is not changed.
        transforms: As for one sample of the loader.
        device: Device of the transforms.

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
