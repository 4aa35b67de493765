"""Reference and prediction side by side on axial slices, filled with the colours of the organs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_ext.labels.colours import colours
from nnunet_ext.labels.values import organ_values
from nnunet_ext.pictures.contours import draw_marks, draw_outline, draw_picture, zoom_mm
from nnunet_ext.pictures.views import choose_views, picture_spacing_mm, slice_picture
from nnunet_ext.pictures.volumes import box_around, display_window, position_of

FILL_ALPHA = 0.42  # the image stays visible below


def draw_pairs(
    case: str,
    experiment: str,
    grid: sitk.Image,
    channel: str,
    volume: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    *,
    labels: Mapping[str, int],
    scores: Mapping[str, float] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Figure:
    """The axial slices near lenses and chiasm, with the reference on the left and the prediction on the right.

    Args:
        case: Name in the title.
        experiment: Name of the prediction.
        grid: LPS image on which all arrays, of shape `(Z, Y, X)`, lie.
        channel: Name of the channel `volume`, for its window.
        volume: The channel.
        reference, prediction: Label maps.
        labels: Organ -> label value.
        scores: Organ -> DSC in percent.
        pairs: Left and right organs, which share slices. None finds them by name.
    """
    organs, colour, scores = organ_values(labels), colours(labels), scores or {}
    spacing_mm = grid.GetSpacing()[::-1]
    window = display_window(channel, volume, box_around(reference, prediction, spacing_mm))
    views = [view for view in choose_views(reference, prediction, labels, pairs=pairs) if view.plane == "axial"]
    head_in, foot_in, left_in, view_in = 0.85, 0.6, 1.55, (4.6, 3.45)
    size_in = left_in + 2 * view_in[0], head_in + len(views) * view_in[1] + foot_in
    figure = Figure(figsize=size_in, dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    for row, view in enumerate(views):
        pixel_mm = picture_spacing_mm(spacing_mm, view.plane)
        masks = [
            {organ: np.isin(slice_picture(m, view.plane, view.index), v) for organ, v in organs.items()}
            for m in (reference, prediction)
        ]
        window_mm = zoom_mm(masks[:1], view.organs, pixel_mm)
        bottom = (foot_in + (len(views) - 1 - row) * view_in[1]) / size_in[1]
        for column, by_organ in enumerate(masks):
            left = (left_in + column * view_in[0]) / size_in[0]
            axes = figure.add_axes((left, bottom, 0.985 * view_in[0] / size_in[0], 0.98 * view_in[1] / size_in[1]))
            draw_picture(axes, slice_picture(volume, view.plane, view.index), pixel_mm, window)
            _fill(axes, by_organ, pixel_mm, colour)
            axes.set(xlim=window_mm[:2], ylim=window_mm[:1:-1])
            draw_marks(axes, view.plane, window_mm)
            if row == 0:
                axes.set_title(("reference", f"prediction: {experiment}")[column], color="white", fontsize=13, pad=4)
        text = f"{view.shows}\n{view.plane}\n{position_of(grid, view)}"
        top = bottom + 0.97 * view_in[1] / size_in[1]
        figure.text(0.1 / size_in[0], top, text, color="white", fontsize=10, va="top", linespacing=1.3)
    figure.text(0.1 / size_in[0], 1 - 0.1 / size_in[1], f"{case}, {channel}", color="white", fontsize=15, va="top")
    handles = []
    for organ in organs:
        dsc = scores.get(organ, float("nan"))
        handles.append(Patch(facecolor=colour[organ], label=organ if np.isnan(dsc) else f"{organ}  DSC {dsc:.1f}"))
    columns = min(len(handles), round(size_in[0] / 2.4))
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        frameon=False,
        labelcolor="white",
        fontsize=9,
        handlelength=1.2,
    )
    return figure


def _fill(
    axes: Axes, masks: Mapping[str, np.ndarray], pixel_mm: tuple[float, float], colour: Mapping[str, str]
) -> None:
    """Every organ filled, with its outline."""
    for organ, mask in masks.items():
        if not mask.any():
            continue
        padded = np.pad(mask, 1).astype(float)  # closes contours at the image border
        x_mm, y_mm = ((np.arange(n) - 1) * mm for n, mm in zip(padded.shape[::-1], pixel_mm[::-1], strict=True))
        axes.contourf(x_mm, y_mm, padded, levels=[0.5, 1.5], colors=[colour[organ]], alpha=FILL_ALPHA)
        draw_outline(axes, x_mm, y_mm, padded, colors=[colour[organ]], linewidths=1.6)
