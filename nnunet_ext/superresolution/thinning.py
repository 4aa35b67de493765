"""A volume of thick slices on thin ones: cubic splines, and what the network says they lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_ext.images.splines import along
from nnunet_ext.superresolution.network import SliceNetwork, conditions_of
from nnunet_ext.superresolution.slice_profiles import LEAST_RATIO, interpolating_matrix, slices_of
from nnunet_ext.superresolution.weights import LearnedResampling

#: Pixels that the network sees at a time. A layer of them takes 32 MB.
PIXELS_AT_A_TIME = 1 << 19
#: Voxels whose sides differ by less than this factor are equally long.
EQUAL = 1.1


def thin_slices(
    volume: np.ndarray,
    network: SliceNetwork,
    *,
    channel: int,
    spacing_mm: Sequence[float],
    new_n: int,
    axis: int = 0,
) -> np.ndarray:
    """A volume with more slices along one axis, its edges kept in place.

    Args:
        volume: Three axes, any unit.
        network: See `SliceNetwork`.
        channel: Index of the volume's channel.
        spacing_mm: Along the volume's axes.
        new_n: Number of slices of the result.
        axis: Across the slices.

    Returns:
        float32. No value lies outside the volume's range, as after cubic interpolation.
    """
    volume = np.asarray(volume, np.float32)
    n = volume.shape[axis]
    cubic = along(volume, axis, interpolating_matrix(n, new_n))
    made = torch.from_numpy(cubic)
    new_mm = spacing_mm[axis] * n / new_n
    spacing = [new_mm if a == axis else mm for a, mm in enumerate(spacing_mm)]
    made = made + lost(made, network, channel=channel, axis=axis, spacing_mm=spacing, thickness_mm=spacing_mm[axis])
    return np.clip(made.numpy(), volume.min(), volume.max())


@torch.no_grad()
def lost(
    cubic: torch.Tensor,
    network: SliceNetwork,
    *,
    channel: int,
    axis: int,
    spacing_mm: Sequence[float],
    thickness_mm: float,
) -> torch.Tensor:
    """What an interpolated volume lacks, the mean of both directions across the slices.

    Args:
        cubic: Three axes, on the network's device.
        network: See `SliceNetwork`.
        channel: Index of the channel.
        axis: Across the slices.
        spacing_mm: Along the axes.
        thickness_mm: Of the slices that were interpolated.

    Returns:
        Shape of `cubic`, to be added to it.
    """
    others = [a for a in range(3) if a != axis]
    result = torch.zeros_like(cubic)
    for across in others:
        (stacked,) = (a for a in others if a != across)
        planes = cubic.permute(stacked, axis, across)
        conditions = conditions_of(
            [channel],
            network.n_channels,
            thickness=thickness_mm,
            spacing=spacing_mm[axis],
            pixel=spacing_mm[across],
        ).to(cubic.device)
        into = result.permute(stacked, axis, across)
        step = max(1, PIXELS_AT_A_TIME // planes[0].numel())
        for start in range(0, len(planes), step):
            part = planes[start : start + step, None].contiguous()
            into[start : start + step] += network(part, conditions.expand(len(part), -1))[:, 0] / len(others)
    return result


def slice_axis(spacing_mm: Sequence[float]) -> int:
    """The axis across the slices, which is the one with the longest voxels."""
    return int(np.argmax(spacing_mm))


def thin_image(image: sitk.Image, learned: LearnedResampling, channel: str, *, thinnest_mm: float) -> sitk.Image:
    """An image with thin slices in place of thick ones, at the same place in space, float32.

    Args:
        image: Any axes, also oblique ones.
        learned: The network.
        channel: Name of the image's channel.
        thinnest_mm: Slices become as thin as this, or as the pixels are long if that is more.

    Returns:
        The image itself if its slices are not at least `LEAST_RATIO` times as thick as that.

    Raises:
        ValueError: If the network does not know the channel.
    """
    index = learned.index(channel)
    spacing_mm = image.GetSpacing()[::-1]
    axis = slice_axis(spacing_mm)
    pixel_mm = max(mm for a, mm in enumerate(spacing_mm) if a != axis)
    thin_mm = max(thinnest_mm, pixel_mm)
    n = image.GetSize()[::-1][axis]
    if n < 2 or spacing_mm[axis] < LEAST_RATIO * thin_mm:
        return image
    new_n = slices_of(n, spacing_mm[axis], thin_mm)
    values = thin_slices(
        sitk.GetArrayViewFromImage(image),
        learned.network,
        channel=index,
        spacing_mm=spacing_mm,
        new_n=new_n,
        axis=axis,
    )
    made = sitk.GetImageFromArray(values)
    new_mm = list(image.GetSpacing())
    new_mm[2 - axis] *= n / new_n
    # The edge of the first voxel stays where it is, so the centre of the first slice moves.
    first = [0.0, 0.0, 0.0]
    first[2 - axis] = (n / new_n - 1) / 2
    made.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first))
    made.SetSpacing(new_mm)
    made.SetDirection(image.GetDirection())
    return made
