"""Augmentation: training samples as if their slices had been thicker, brought back by the learned resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunet_ext.superresolution.learning import THICKNESS_MM, thickness_range_mm
from nnunet_ext.superresolution.network import SliceNetwork
from nnunet_ext.superresolution.slice_profiles import PROFILES, interpolating_matrix, slices_of, thickening_matrix
from nnunet_ext.superresolution.thinning import EQUAL, lost, slice_axis
from nnunet_ext.superresolution.weights import LearnedResampling

#: Of a sample, and of each of its channels. Those of nnU-Net's simulation of low resolution.
PROBABILITY, PER_CHANNEL = 0.25, 0.5


class OtherThicknessTransform(ImageOnlyTransform):
    """Some channels of an image `(C, *axes)` as slices of another thickness show them, on the same grid.

    The sample's slices are averaged to thicker ones, and the learned resampling brings these back. Labels stay as they are.

    Args:
        network: Of the learned resampling.
        channels: For each channel of the image, its index in the network.
        spacing_mm: Along the image's three axes.
        axis: Across the slices.
        limits_mm: Thinnest and thickest slices. Each channel draws its own thickness and slice profile.
        per_channel: Probability of each channel.
    """

    def __init__(
        self,
        network: SliceNetwork,
        channels: Sequence[int],
        *,
        spacing_mm: Sequence[float],
        axis: int,
        limits_mm: tuple[float, float] = THICKNESS_MM,
        per_channel: float = PER_CHANNEL,
    ) -> None:
        super().__init__()
        self.network, self.channels, self.axis = network, tuple(channels), axis
        self.spacing_mm, self.limits_mm, self.per_channel = tuple(spacing_mm), limits_mm, per_channel

    def get_parameters(self, **_data_dict: object) -> dict[str, dict[int, tuple[float, str]]]:
        drawn = {}
        for channel in range(len(self.channels)):
            if np.random.uniform() < self.per_channel:
                profile = PROFILES[np.random.randint(len(PROFILES))]
                drawn[channel] = (float(np.random.uniform(*self.limits_mm)), profile)
        return {"drawn": drawn}

    def _apply_to_image(self, img: torch.Tensor, *, drawn: dict[int, tuple[float, str]]) -> torch.Tensor:
        if not drawn:
            return img
        img = img.clone()
        for channel, (thickness_mm, profile) in drawn.items():
            img[channel] = self._thickened(img[channel], channel, thickness_mm, profile)
        return img

    @torch.no_grad()
    def _thickened(self, volume: torch.Tensor, channel: int, thickness_mm: float, profile: str) -> torch.Tensor:
        n, spacing_mm = volume.shape[self.axis], self.spacing_mm[self.axis]
        thick_n = slices_of(n, spacing_mm, thickness_mm)
        if thick_n >= n:
            return volume
        slices = volume.float().movedim(self.axis, -1)
        thick = slices @ _as_tensor(thickening_matrix(n, thick_n, profile), volume.device).T
        cubic = (thick @ _as_tensor(interpolating_matrix(thick_n, n), volume.device).T).movedim(-1, self.axis)
        missing = lost(
            cubic,
            self.network.to(volume.device),
            channel=self.channels[channel],
            axis=self.axis,
            spacing_mm=self.spacing_mm,
            thickness_mm=n * spacing_mm / thick_n,
        )
        return (cubic + missing).clamp(thick.min(), thick.max()).to(volume.dtype)


def _as_tensor(matrix: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(matrix).to(device)


def other_thickness(
    learned: LearnedResampling,
    channel_names: Sequence[str],
    *,
    spacing_mm: Sequence[float],
    through_plane: int,
    where: str,
) -> RandomTransform:
    """The transform for a configuration, as often as nnU-Net simulates a low resolution.

    Args:
        learned: Of the data set.
        channel_names: In the order of the image's channels.
        spacing_mm: Along the axes of a patch.
        through_plane: Axis across the slices if all voxels are equally long. Else it is the axis of the longest.
        where: The configuration, for messages.

    Raises:
        ValueError: If the network does not know a channel, the patches are flat, or the grid's slices are too thick.
    """
    if len(spacing_mm) != 3 or through_plane < 0:
        raise ValueError(f"{where}: its patches are flat, so their slices have no other thickness")
    longest = slice_axis(spacing_mm)
    others = [mm for axis, mm in enumerate(spacing_mm) if axis != longest]
    axis = longest if spacing_mm[longest] > EQUAL * max(others) else through_plane
    limits_mm = thickness_range_mm(spacing_mm[axis])
    if limits_mm is None:
        raise ValueError(
            f"{where}: its slices of {spacing_mm[axis]:.3g} mm are too thick to be made thicker (to {THICKNESS_MM[1]:g} mm)"
        )
    channels = [learned.index(name) for name in channel_names]
    transform = OtherThicknessTransform(
        learned.network, channels, spacing_mm=spacing_mm, axis=axis, limits_mm=limits_mm
    )
    return RandomTransform(transform, apply_probability=PROBABILITY)
