"""Channels of a case by name, and which of them is a CT."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
import SimpleITK as sitk

#: What CT shows of air.
AIR_HU = -1000.0


def voxel_ml(image: sitk.Image) -> float:
    """Volume of one voxel in mL."""
    return float(np.prod(image.GetSpacing())) / 1000.0


def is_ct(modality: str) -> bool:
    """Whether a channel of this name is a CT, as nnU-Net decides it."""
    return modality.casefold() == "ct"


def image_like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    """An array `(Z, Y, X)` as an image on the grid of another one."""
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def reference_channel(modalities: Sequence[str]) -> str:
    """The channel whose grid the others are brought to. It is the CT, or the first channel if there is no CT."""
    return next((modality for modality in modalities if is_ct(modality)), modalities[0])


def reference_of_case(modalities: Sequence[str], there: Container[str], optional: Container[str] = ()) -> str:
    """The reference channel of a case that may lack some channels.

    Args:
        modalities: Channels of a case.
        there: Those that it has.
        optional: Those that it may lack. The others count as there, for a message says that one is missing.
    """
    present = [modality for modality in modalities if modality in there or modality not in optional]
    return reference_channel(present or modalities)


def ct_channels(channel_names: Mapping[str, str]) -> list[int]:
    """Indices of the channels that nnU-Net treats as CT, which are those named `CT`."""
    return [int(k) for k, name in channel_names.items() if name.casefold() == "ct"]
