"""An image on the grid that a trained network sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.files import read_json


@dataclass(frozen=True)
class NetworkGrid:
    """How a plan resamples images.

    Attributes:
        spacing_mm: Voxel size along `(Z, Y, X)`.
        force_separate_z: nnU-Net's option, as for `resample_image`.
        ranges: Of each channel the values that are kept, before resampling. None for a channel that is not clipped.
    """

    spacing_mm: tuple[float, float, float]
    force_separate_z: bool | None = False
    ranges: tuple[tuple[float, float] | None, ...] = ()

    def range_of(self, channel: int) -> tuple[float, float] | None:
        """Values of a channel that are kept, or None."""
        return self.ranges[channel] if channel < len(self.ranges) else None


def network_grid(model: Path) -> NetworkGrid:
    """The grid of the configuration that a trained model is of.

    Raises:
        OSError, ValueError: If its plan cannot be read, or lacks the configuration.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # imports torch, which few reports need

    path = Path(model, "plans.json")
    plans = read_json(path, dict, remedy="copy the model's plans.json again")
    name = model.name.rpartition("__")[2]
    try:
        manager = PlansManager(plans)
        configuration, forward = manager.get_configuration(name), manager.transpose_forward
        z, y, x = (float(configuration.spacing[forward.index(axis)]) for axis in range(3))
        separate_z = configuration.configuration["resampling_fn_data_kwargs"].get("force_separate_z")
        values = manager.foreground_intensity_properties_per_channel
        ranges = tuple(
            (float(values[str(n)]["percentile_00_5"]), float(values[str(n)]["percentile_99_5"])) if clipped else None
            for n, clipped in enumerate(scheme == "CTNormalization" for scheme in configuration.normalization_schemes)
        )
    except (KeyError, IndexError, RuntimeError) as error:  # IndexError: of slices, which nnU-Net's `2d` sees
        raise ValueError(f"{path} says not how the configuration {name} resamples: {error}") from error
    return NetworkGrid((z, y, x), separate_z, ranges)


def on_network_grid(image: sitk.Image, grid: NetworkGrid, *, channel: int = 0) -> sitk.Image:
    """A 3D image of a channel, clipped and resampled as before training. Its outer edges stay in place.

    Returns:
        Float image. Its voxel size differs from the plan's by what makes a whole number of voxels.
    """
    from nnunet_ext.cascade.resampling import resample_image

    spacing_mm = grid.spacing_mm
    own_mm, shape = np.array(image.GetSpacing()[::-1]), np.array(image.GetSize()[::-1])
    new_shape = np.maximum(np.rint(shape * own_mm / spacing_mm).astype(int), 1)  # as nnU-Net counts them
    values = sitk.GetArrayFromImage(image).astype(np.float32)[None]
    kept = grid.range_of(channel)
    values = values if kept is None else np.clip(values, *kept)
    spacings_mm = own_mm.tolist(), list(spacing_mm)
    resampled = resample_image(values, new_shape.tolist(), *spacings_mm, force_separate_z=grid.force_separate_z)[0]
    steps = shape / new_shape  # a new voxel in old ones
    result = sitk.GetImageFromArray(resampled)
    result.SetSpacing([float(mm) for mm in (own_mm * steps)[::-1]])
    result.SetDirection(image.GetDirection())
    result.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([float(v) for v in ((steps - 1) / 2)[::-1]]))
    return result
