"""The training of the network, on slices made thick along an axis of their own plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_ext.superresolution.network import SliceNetwork, conditions_of
from nnunet_ext.superresolution.slice_profiles import (
    LEAST_RATIO,
    PROFILES,
    interpolating_matrix,
    slices_of,
    thickening_matrix,
)

#: Thickness of slices in the planning images of the reference study, from thin CT to thick MR.
THICKNESS_MM = (2.5, 7.0)
#: Size of the crops: slices to make, and pixels across.
CROP = (48, 48)
BATCH_SIZE = 12
LEARNING_RATE = 3e-3
#: Thicknesses at which the error is told, in mm.
JUDGED_MM = (3.0, 5.0, 7.0)
#: A crop shows something if its values spread over this share of its volume's.
LEAST_SPREAD = 0.2


@dataclass(frozen=True)
class Slice:
    """One slice in its plane.

    Attributes:
        values: Shape `(rows, columns)`, float32.
        spacing_mm: Along rows and columns.
        channel: Index of its channel.
        spread: Standard deviation of the values of its volume, in their unit.
    """

    values: np.ndarray
    spacing_mm: tuple[float, float]
    channel: int
    spread: float


def thickness_range_mm(spacing_mm: float, wanted_mm: tuple[float, float] = THICKNESS_MM) -> tuple[float, float] | None:
    """Thicknesses that teach something on a grid of a spacing. None if there are none."""
    low, high = max(wanted_mm[0], LEAST_RATIO * spacing_mm), wanted_mm[1]
    return (low, high) if low < high else None


def learn(
    slices: Sequence[Slice],
    *,
    n_channels: int,
    iterations: int,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    say: Callable[[int, float], None] | None = None,
) -> SliceNetwork:
    """The network, trained on slices that are made thick along their rows or columns.

    The same slices, seed, device and number of threads give the same weights.

    Args:
        slices: Of all channels.
        n_channels: Number of channels.
        iterations: Batches.
        seed: Of weights and batches.
        batch_size: Crops in a batch.
        device: Where to train.
        say: Called with the number of iterations done and the share that is left of cubic interpolation's squared error,
            a mean over the last ones.

    Raises:
        ValueError: If no slice has pixels fine enough for `THICKNESS_MM`.
    """
    usable = [one for one in slices if thickness_range_mm(max(one.spacing_mm)) is not None]
    if not usable:
        raise ValueError(f"no slice has pixels below {THICKNESS_MM[1] / LEAST_RATIO:.3g} mm")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SliceNetwork(n_channels).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=iterations + 1, pct_start=0.1)
    left, before = 0.0, 0.0
    for iteration in range(iterations):
        inputs, targets, conditions = (tensor.to(device) for tensor in _batch(usable, n_channels, batch_size, rng))
        optimizer.zero_grad()
        loss = (inputs + network(inputs, conditions) - targets).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        left = 0.98 * left + 0.02 * loss.item()
        before = 0.98 * before + 0.02 * (inputs - targets).square().mean().item()
        if say is not None and (iteration + 1) % 20 == 0:
            say(iteration + 1, left / max(before, 1e-12))
    return network.eval()


def _batch(
    slices: Sequence[Slice], n_channels: int, batch_size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Interpolated planes, what they were before, both in spreads of their volumes, and conditions.

    All planes of a batch have the thickness in voxels of one of them.
    """
    first = slices[int(rng.integers(len(slices)))]
    spacing_mm = first.spacing_mm[int(rng.integers(2))]
    limits = thickness_range_mm(spacing_mm)
    assert limits is not None  # of all slices that are used
    thick = rng.uniform(*limits) / spacing_mm
    # Half of them are interpolated to voxels as long as they are wide, the others to slices as a CT's grid has them.
    thin = 1.0 if rng.random() < 0.5 else rng.uniform(1.0, thick / LEAST_RATIO)
    n = round(CROP[0] * thin)
    profile = PROFILES[int(rng.integers(len(PROFILES)))]
    crops, channels = [], []
    for _ in range(batch_size):
        crop, channel = _crop(slices, (n, CROP[1]), rng)
        crops.append(crop)
        channels.append(channel)
    new_n, thick_n = slices_of(n, 1.0, thin), slices_of(n, 1.0, thick)
    planes = np.stack(crops)
    thickened = thickening_matrix(n, thick_n, profile) @ planes
    inputs = interpolating_matrix(thick_n, new_n) @ thickened
    targets = thickening_matrix(n, new_n) @ planes
    conditions = conditions_of(channels, n_channels, thickness=n / thick_n, spacing=n / new_n, pixel=1.0)
    return torch.from_numpy(inputs)[:, None], torch.from_numpy(targets)[:, None], conditions


def _crop(slices: Sequence[Slice], size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A crop that shows something, in spreads of its volume, turned at random, and its channel."""
    crop, one = np.zeros(size, np.float32), slices[0]
    for _ in range(10):
        one = slices[int(rng.integers(len(slices)))]
        values = one.values.T if rng.random() < 0.5 else one.values
        start = [
            int(rng.integers(max(0, there - wanted) + 1)) for there, wanted in zip(values.shape, size, strict=True)
        ]
        crop = values[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
        if crop.std() > LEAST_SPREAD * one.spread:
            break
    short = [(0, wanted - there) for there, wanted in zip(crop.shape, size, strict=True)]
    crop = np.pad(crop, short, mode="edge")
    if rng.random() < 0.5:
        crop = crop[::-1]
    return ((crop - crop.mean()) / one.spread).astype(np.float32), one.channel


@dataclass(frozen=True)
class HeldOutError:
    """Error of slices made thin again, for one channel and thickness.

    Attributes:
        channel: Index of the channel.
        thickness_mm: Of the slices that were made thin.
        cubic, learned: Root mean square over all pixels of all slices, both axes and both profiles, in the channel's unit.
        n_slices: Number of slices.
    """

    channel: int
    thickness_mm: float
    cubic: float
    learned: float
    n_slices: int


def held_out_errors(network: SliceNetwork, slices: Sequence[Slice]) -> list[HeldOutError]:
    """Errors of cubic interpolation and of the network on slices that it has not seen, by channel and thickness.

    Each slice is made thick along its rows, and along its columns. Thicknesses of `JUDGED_MM` that a grid is too coarse for
    are left out.
    """
    found = []
    for channel in sorted({one.channel for one in slices}):
        for thickness_mm in JUDGED_MM:
            squares: list[tuple[float, float, int]] = []
            judged = set()
            for number, one in enumerate(slices):
                for axis in (0, 1):
                    if one.channel == channel and thickness_mm >= LEAST_RATIO * one.spacing_mm[axis]:
                        squares += [_squares(network, one, axis, thickness_mm, profile) for profile in PROFILES]
                        judged.add(number)
            if squares:
                cubic, learned, n = np.sum(squares, axis=0)
                found.append(
                    HeldOutError(
                        channel, thickness_mm, float(np.sqrt(cubic / n)), float(np.sqrt(learned / n)), len(judged)
                    )
                )
    return found


@torch.no_grad()
def _squares(
    network: SliceNetwork, one: Slice, axis: int, thickness_mm: float, profile: str
) -> tuple[float, float, int]:
    """Sums of squared errors of cubic interpolation and of the network, and the number of pixels."""
    plane = np.ascontiguousarray(one.values.T if axis else one.values)
    spacing_mm, pixel_mm = one.spacing_mm[axis], one.spacing_mm[1 - axis]
    n = len(plane)
    thick_n = slices_of(n, spacing_mm, thickness_mm)
    cubic = interpolating_matrix(thick_n, n) @ (thickening_matrix(n, thick_n, profile) @ plane)
    device = next(network.parameters()).device
    conditions = conditions_of(
        [one.channel], network.n_channels, thickness=n * spacing_mm / thick_n, spacing=spacing_mm, pixel=pixel_mm
    )
    difference = network(torch.from_numpy(cubic)[None, None].to(device), conditions.to(device))[0, 0].cpu().numpy()
    errors = [float(np.sum((values - plane) ** 2, dtype=np.float64)) for values in (cubic, cubic + difference)]
    return errors[0], errors[1], plane.size
