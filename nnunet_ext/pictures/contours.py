"""One slice drawn: grey values, contours, marks of sides and scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from contourpy import LineType, contour_generator
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.transforms import Transform

from nnunet_ext.pictures.views import PLANES
from nnunet_ext.pictures.volumes import PICTURE_MARGIN_MM

NEIGHBOURHOOD_MM = 15.0  # organs this near the one a slice is about are shown with it: the eye with its lens
SMALLEST_VIEW_MM = 56.0  # wide enough to recognise the place of a lone chiasm
VIEW_ASPECT = 4 / 3  # width / height of a picture


def draw_picture(
    axes: Axes,
    picture: np.ndarray,
    pixel_mm: tuple[float, float],
    window: tuple[float, float],
    *,
    interpolation: str = "bilinear",
) -> None:
    (rows, columns), (row_mm, column_mm) = picture.shape, pixel_mm
    extent = (-0.5 * column_mm, (columns - 0.5) * column_mm, (rows - 0.5) * row_mm, -0.5 * row_mm)
    axes.imshow(
        picture, cmap="gray", vmin=window[0], vmax=window[1], extent=extent, interpolation=interpolation, aspect="equal"
    )
    axes.set_axis_off()


def draw_contours(
    axes: Axes, masks: Sequence[dict[str, np.ndarray] | None], pixel_mm: tuple[float, float], colour: Mapping[str, str]
) -> None:
    """Reference solid and wide, prediction dashed and narrow on a dark line. Both can be seen when they coincide."""
    styles: tuple[dict[str, Any], ...] = (
        {"linewidths": 2.2, "linestyles": "solid", "alpha": 0.85},
        {"linewidths": 1.5, "linestyles": [(0, (3.0, 2.0))]},
    )
    for by_organ, style in zip(masks, styles, strict=True):
        for organ, mask in (by_organ or {}).items():
            if mask.any():
                padded = np.pad(mask, 1).astype(float)  # closes contours at the image border
                x_mm = (np.arange(padded.shape[1]) - 1) * pixel_mm[1]
                y_mm = (np.arange(padded.shape[0]) - 1) * pixel_mm[0]
                lines = draw_outline(axes, x_mm, y_mm, padded, colors=[colour[organ]], **style)
                if by_organ is masks[1]:
                    lines.set(path_effects=[patheffects.withStroke(linewidth=3.0, foreground="black")])


def zoom_mm(
    masks: Sequence[dict[str, np.ndarray] | None], organs: Sequence[str], pixel_mm: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of the part of a slice around the organs it is about, with the aspect of a picture."""
    drawn = [(organ, mask) for by_organ in masks for organ, mask in (by_organ or {}).items()]
    everything = np.logical_or.reduce([mask for _, mask in drawn])
    wanted = np.logical_or.reduce([mask for organ, mask in drawn if organ in organs] or [everything])
    if not everything.any():
        everything, wanted = ~everything, ~everything
    near = np.zeros_like(everything)
    neighbourhood = tuple(
        slice(max(filled[0] - margin, 0), filled[-1] + margin + 1)
        for filled, margin in (
            (np.flatnonzero(wanted.any(axis=1 - axis)), round(NEIGHBOURHOOD_MM / pixel_mm[axis])) for axis in (0, 1)
        )
    )
    near[neighbourhood] = everything[neighbourhood]
    edges_mm = []
    for axis in (1, 0):
        filled = np.flatnonzero(near.any(axis=1 - axis))
        edges_mm.append(
            (
                (filled[0] - 0.5) * pixel_mm[axis] - PICTURE_MARGIN_MM,
                (filled[-1] + 0.5) * pixel_mm[axis] + PICTURE_MARGIN_MM,
            )
        )
    (left, right), (top, bottom) = edges_mm
    width_mm = max(right - left, (bottom - top) * VIEW_ASPECT, SMALLEST_VIEW_MM)
    x_mm, y_mm = (left + right) / 2, (top + bottom) / 2
    half_height_mm = width_mm / VIEW_ASPECT / 2
    return x_mm - width_mm / 2, x_mm + width_mm / 2, y_mm - half_height_mm, y_mm + half_height_mm


def box_mm(
    box: tuple[slice, ...], plane: str, shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of a box on a slice of a volume. Box, shape and spacing go along `(Z, Y, X)`."""
    rows, columns = (axis for axis in range(3) if axis != PLANES[plane][0])
    (top, bottom), (left, right) = ((box[axis].start - 0.5, box[axis].stop - 0.5) for axis in (rows, columns))
    if plane != "axial":  # its first row is the last slice
        top, bottom = shape[rows] - 1 - bottom, shape[rows] - 1 - top
    return left * spacing_mm[columns], right * spacing_mm[columns], top * spacing_mm[rows], bottom * spacing_mm[rows]


def draw_frame(axes: Axes, window_mm: tuple[float, float, float, float]) -> None:
    left, right, top, bottom = window_mm
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=1.0))


def draw_marks(
    axes: Axes, plane: str, window_mm: tuple[float, float, float, float], *, shares: Transform | None = None
) -> None:
    """Patient directions at the edges and a scale bar of about a fifth of the width.

    Args:
        axes: Where to draw.
        plane: `axial`, `coronal` or `sagittal`.
        window_mm: Left, right, top and bottom of what is shown.
        shares: From shares of the picture's width and height, upwards, to the screen. None if it fills the axes.
    """
    style: dict[str, Any] = {
        "color": "white",
        "transform": axes.transAxes if shares is None else shares,
        "path_effects": [patheffects.withStroke(linewidth=2.5, foreground="black")],
    }
    places = [(0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center")]
    places += [(0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom")]
    for letter, (x, y, ha, va) in zip(PLANES[plane][1], places, strict=True):
        axes.text(x, y, letter, ha=ha, va=va, fontsize=12, fontweight="bold", **style)
    width_mm = window_mm[1] - window_mm[0]
    bar_mm = max((b for b in (1, 2, 5, 10, 20, 50, 100) if b <= 0.22 * width_mm), default=1)
    start, share = 0.03, bar_mm / width_mm
    axes.plot([start, start + share], [0.045, 0.045], linewidth=3.0, solid_capstyle="butt", **style)
    axes.text(start + share / 2, 0.06, f"{bar_mm} mm", ha="center", va="bottom", fontsize=9, **style)


def draw_outline(axes: Axes, x_mm: np.ndarray, y_mm: np.ndarray, mask: np.ndarray, **style: Any) -> LineCollection:
    """Contour of a mask at one half, as `Axes.contour` draws it, without its search for levels, colours and limits."""
    found = contour_generator(x_mm, y_mm, mask.astype(np.float32), line_type=LineType.Separate).lines(0.5)
    lines = [np.asarray(line) for line in found]  # `Separate`: one array per line
    collection = LineCollection(lines, **style)
    axes.add_collection(collection, autolim=False)
    return collection
