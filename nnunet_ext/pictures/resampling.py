"""Channels of a case before and after resampling, with every voxel to be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_ext.pictures.contours import draw_marks, draw_picture
from nnunet_ext.pictures.views import PLANES, picture_spacing_mm, slice_picture

#: Width and height of what is shown around the point, in mm: near enough to see voxels, wide enough to know the place.
SHOWN_MM = (96.0, 72.0)
SHOWN_PLANES = ("sagittal", "axial")


@dataclass(frozen=True)
class Resampled:
    """A channel on two grids, both LPS images, and the grey values shown black and white."""

    before: sitk.Image
    after: sitk.Image
    window: tuple[float, float]


def draw_resampling(case: str, channels: Mapping[str, Resampled], point_mm: Sequence[float]) -> Figure:
    """A row per channel: sagittal slices before and after, where thick slices show, and axial ones.

    Args:
        case: Name in the title.
        channels: Channel -> its images.
        point_mm: World point (LPS) in the middle of every picture.
    """
    head_in, row_head_in, left_in, view_in = 0.8, 0.3, 0.55, (3.4, 2.55)
    size_in = left_in + 4 * view_in[0], head_in + len(channels) * (view_in[1] + row_head_in) + 0.05
    figure = Figure(figsize=size_in, dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    for row, (name, found) in enumerate(channels.items()):
        bottom_in = size_in[1] - head_in - (row + 1) * (view_in[1] + row_head_in)
        for column in range(4):
            plane, image = SHOWN_PLANES[column // 2], (found.before, found.after)[column % 2]
            left_share, width_share = (left_in + column * view_in[0]) / size_in[0], 0.98 * view_in[0] / size_in[0]
            axes = figure.add_axes((left_share, bottom_in / size_in[1], width_share, 0.98 * view_in[1] / size_in[1]))
            spacing_mm = image.GetSpacing()[::-1]
            index = image.TransformPhysicalPointToContinuousIndex([float(mm) for mm in point_mm])[::-1]
            at = int(np.clip(round(index[PLANES[plane][0]]), 0, image.GetSize()[2 - PLANES[plane][0]] - 1))
            picture = slice_picture(sitk.GetArrayViewFromImage(image), plane, at)
            pixel_mm = picture_spacing_mm(spacing_mm, plane)
            draw_picture(axes, picture, pixel_mm, found.window, interpolation="nearest")
            window_mm = _around(index, plane, picture.shape[0], pixel_mm)
            axes.set(xlim=window_mm[:2], ylim=window_mm[:1:-1])
            draw_marks(axes, plane, window_mm)
            voxel = " x ".join(f"{mm:.2f}" for mm in image.GetSpacing())
            heading = f"{('before', 'after')[column % 2]}, {voxel} mm"
            axes.set_title(heading, color="white", fontsize=10, pad=3)
        middle_in = bottom_in + view_in[1] / 2
        figure.text(
            0.2 / size_in[0], middle_in / size_in[1], name, color="white", fontsize=14, rotation=90, va="center"
        )
    figure.text(
        0.1 / size_in[0],
        1 - 0.1 / size_in[1],
        f"{case}: resampling to the network's grid",
        color="white",
        fontsize=15,
        va="top",
        ha="left",
    )
    text = "Voxel sizes are along x, y and z. Before and after show the same place: edges must stay where they are."
    figure.text(0.1 / size_in[0], 1 - 0.48 / size_in[1], text, color="white", fontsize=10.5, va="top", ha="left")
    return figure


def _around(
    index: Sequence[float], plane: str, n_rows: int, pixel_mm: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of a picture in mm, around a continuous index `(Z, Y, X)`."""
    row, column = (i for axis, i in enumerate(index) if axis != PLANES[plane][0])
    row = row if plane == "axial" else n_rows - 1 - row  # its first row is the last slice
    x_mm, y_mm = column * pixel_mm[1], row * pixel_mm[0]
    width_mm, height_mm = SHOWN_MM
    return x_mm - width_mm / 2, x_mm + width_mm / 2, y_mm - height_mm / 2, y_mm + height_mm / 2
