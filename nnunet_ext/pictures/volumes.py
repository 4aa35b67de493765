"""Images and label maps of a case on one grid, and their grey windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.geometry import resample_to, same_grid, to_canonical
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.pictures.views import PLANES, View

CT_WINDOW_HU = (-135.0, 215.0)  # soft tissue: width 350, level 40

PICTURE_MARGIN_MM = 6.0  # around these


def read_case(
    images: Mapping[str, Path], label_maps: Sequence[Path | None]
) -> tuple[sitk.Image, dict[str, np.ndarray], list[np.ndarray | None]]:
    """Images and label maps of a case as arrays `(Z, Y, X)` on one LPS grid, that of the first image, which comes first."""
    grid: sitk.Image | None = None
    volumes = {}
    for name, path in images.items():
        image = to_canonical(read_image(path))
        grid = image if grid is None else grid
        volumes[name] = sitk.GetArrayFromImage(on_grid(image, grid))
    assert grid is not None  # of the first image
    maps = [
        None
        if path is None
        else sitk.GetArrayFromImage(on_grid(to_canonical(read_label_map(path)), grid, interpolation="nearest"))
        for path in label_maps
    ]
    return grid, volumes, maps


def display_window(channel: str, volume: np.ndarray, box: tuple[slice, ...]) -> tuple[float, float]:
    """Grey values shown black and white. `CT` has a soft-tissue window, any other channel percentiles inside `box`."""
    if channel.upper() == "CT":
        return CT_WINDOW_HU
    low, high = np.nanpercentile(volume[box], (1.0, 99.5))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def on_grid(image: sitk.Image, grid: sitk.Image, *, interpolation: str = "linear") -> sitk.Image:
    """An image on a grid, or with `nearest` a label map. It is returned as it is if it lies on that grid already."""
    if same_grid(image, grid):
        return image
    return resample_to(
        image, grid, interpolation=interpolation, outside_value=0.0 if interpolation == "nearest" else None
    )


def box_around(
    reference: np.ndarray | None, prediction: np.ndarray | None, spacing_mm: Sequence[float]
) -> tuple[slice, ...]:
    """Box of everything labelled with `PICTURE_MARGIN_MM` around it, or the whole volume if nothing is labelled."""
    given = [m > 0 for m in (reference, prediction) if m is not None]
    labelled = np.logical_or.reduce(given)
    box = []
    for axis in range(3):
        filled = np.flatnonzero(labelled.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(PICTURE_MARGIN_MM / spacing_mm[axis]))
        box.append(slice(max(filled[0] - margin, 0), filled[-1] + margin + 1) if len(filled) else slice(None))
    return tuple(box)


def position_of(grid: sitk.Image, view: View) -> str:
    """World coordinate (LPS) of a slice at its middle, and which slice of how many."""
    axis = PLANES[view.plane][0]
    size = grid.GetSize()
    index = [(n - 1) / 2 for n in size]
    index[2 - axis] = view.index
    point_mm = grid.TransformContinuousIndexToPhysicalPoint(index)
    return f"{'zyx'[axis]} = {point_mm[2 - axis]:.1f} mm\nslice {view.index + 1} of {size[2 - axis]}"
