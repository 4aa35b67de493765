"""A case as a figure: every channel, or every experiment, with contours and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_ext.labels.colours import colours
from nnunet_ext.labels.values import organ_values
from nnunet_ext.pictures.contours import box_mm, draw_contours, draw_frame, draw_marks, draw_picture, zoom_mm
from nnunet_ext.pictures.views import choose_views, picture_spacing_mm, slice_picture
from nnunet_ext.pictures.volumes import box_around, display_window, position_of


def draw_case(
    case: str,
    grid: sitk.Image,
    volumes: Mapping[str, np.ndarray],
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    *,
    labels: Mapping[str, int],
    scores: Mapping[str, float] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Figure:
    """Figure of one case with the contours of both label maps on every channel.

    Arrays have the shape `(Z, Y, X)` and lie on the LPS image `grid`.

    `pairs` are the left and right organs, which share slices. None finds them by name.
    """
    window_box = box_around(reference, prediction, grid.GetSpacing()[::-1])
    columns = [
        _Column(name, volume, display_window(name, volume, window_box), prediction) for name, volume in volumes.items()
    ]
    return _draw(case, grid, columns, reference, labels=labels, scores=scores or {}, pairs=pairs)


def draw_comparison(
    case: str,
    grid: sitk.Image,
    channel: str,
    volume: np.ndarray,
    reference: np.ndarray,
    predictions: Mapping[str, np.ndarray | None],
    *,
    labels: Mapping[str, int],
    scores: Mapping[str, Mapping[str, float]],
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Figure:
    """The same slices of one channel with the prediction of every experiment, side by side.

    Args:
        case: Name in the title.
        grid: LPS image on which all arrays, of shape `(Z, Y, X)`, lie.
        channel: Name of the channel `volume`, for its window.
        volume: The channel.
        reference: Label map.
        predictions: Experiment -> label map, or None if it has none.
        labels: Organ -> label value.
        scores: Experiment -> organ -> DSC in percent, printed in the pictures.
        pairs: Left and right organs, which share slices. None finds them by name.
    """
    window = display_window(channel, volume, box_around(reference, None, grid.GetSpacing()[::-1]))
    columns = [_Column(name, volume, window, found, scores.get(name, {})) for name, found in predictions.items()]
    return _draw(f"{case}, {channel}", grid, columns, reference, labels=labels, scores={}, pairs=pairs)


def draw_crop(
    case: str,
    grid: sitk.Image,
    volumes: Mapping[str, np.ndarray],
    box: tuple[slice, ...],
    reference: np.ndarray | None,
    *,
    labels: Mapping[str, int],
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Figure:
    """The box that the segmenter saw, whole, in every channel, with the reference's contours.

    Args:
        case: Name in the title.
        grid: LPS image on which all arrays, of shape `(Z, Y, X)`, lie.
        volumes: Channel -> values.
        box: Along `(Z, Y, X)`.
        reference: Label map, or None.
        labels: Organ -> label value.
        pairs: Left and right organs, which share slices. None finds them by name.
    """
    columns = [_Column(name, volume, display_window(name, volume, box), None) for name, volume in volumes.items()]
    size_mm = [(s.stop - s.start) * mm for s, mm in zip(box, grid.GetSpacing()[::-1], strict=True)][::-1]
    title = f"{case}: the crop that the segmenter sees, {size_mm[0]:.0f} x {size_mm[1]:.0f} x {size_mm[2]:.0f} mm"
    return _draw(title, grid, columns, reference, labels=labels, scores={}, pairs=pairs, box=box)


@dataclass(frozen=True)
class _Column:
    """One column of pictures. The volume is shown in a window, with the prediction drawn on it."""

    title: str
    volume: np.ndarray
    window: tuple[float, float]
    prediction: np.ndarray | None
    scores: Mapping[str, float] | None = None  # organ -> DSC in percent, printed in the pictures


def _draw(
    title: str,
    grid: sitk.Image,
    columns: Sequence[_Column],
    reference: np.ndarray | None,
    *,
    labels: Mapping[str, int],
    scores: Mapping[str, float],
    pairs: Sequence[tuple[str, str]] | None,
    box: tuple[slice, ...] | None = None,
) -> Figure:
    """Rows are slices near the smallest organs. A narrow first column shows the position of each slice.

    Pictures show what is around the organs, or a box.
    """
    organs, colour = organ_values(labels), colours(labels)
    spacing_mm = grid.GetSpacing()[::-1]
    first = columns[0].prediction
    views = choose_views(reference, first, labels, pairs=pairs)
    figure = Figure(figsize=(2.9 + 4.1 * len(columns), 3.12 * len(views) + 1.45), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    grid_spec = figure.add_gridspec(
        len(views),
        1 + len(columns),
        width_ratios=[0.66] + [1.0] * len(columns),
        left=0.008,
        right=0.992,
        top=1 - 0.92 / figure.get_figheight(),
        bottom=0.62 / figure.get_figheight(),
        wspace=0.02,
        hspace=0.03,
    )
    for row, view in enumerate(views):
        reference_masks, *predicted = (
            None if m is None else {o: np.isin(slice_picture(m, view.plane, view.index), v) for o, v in organs.items()}
            for m in (reference, *(column.prediction for column in columns))
        )
        pixel_mm = picture_spacing_mm(spacing_mm, view.plane)
        # Around the reference, so that all columns show the same place. Without one, around the prediction.
        about = [reference_masks, predicted[0] if len(columns) == 1 or reference is None else None]
        window_mm = (
            zoom_mm(about, view.organs, pixel_mm)
            if box is None
            else box_mm(box, view.plane, columns[0].volume.shape, spacing_mm)
        )
        for number, (column, masks) in enumerate(zip(columns, predicted, strict=True)):
            picture = slice_picture(column.volume, view.plane, view.index)
            if number == 0:
                whole = figure.add_subplot(grid_spec[row, 0])
                draw_picture(whole, picture, pixel_mm, column.window)
                draw_frame(whole, window_mm)
                whole.set_anchor("N")
                position = position_of(grid, view)
                whole.set_title(
                    f"{view.shows}\n{view.plane}, {position}", color="white", fontsize=10, loc="left", pad=3, y=1.0
                )
            axes = figure.add_subplot(grid_spec[row, 1 + number])
            draw_picture(axes, picture, pixel_mm, column.window)
            draw_contours(axes, [reference_masks, masks], pixel_mm, colour)
            axes.set(xlim=window_mm[:2], ylim=window_mm[:1:-1])
            draw_marks(axes, view.plane, window_mm)
            if column.scores is not None:
                found = (
                    {}
                    if column.prediction is None
                    else {o: bool(np.isin(column.prediction, organs[o]).any()) for o in organs}
                )
                _draw_scores(axes, [organ for organ in view.organs if organ in organs], column.scores, found, colour)
            if row == 0:
                axes.set_title(column.title, color="white", fontsize=13, pad=4, y=1.0)
    figure.suptitle(title, color="white", fontsize=15, x=0.008, ha="left", y=1 - 0.1 / figure.get_figheight(), va="top")
    _draw_legend(figure, organs, colour, reference, first, scores, one_prediction=columns[0].scores is None)
    return figure


def _draw_scores(
    axes: Axes,
    organs: Sequence[str],
    scores: Mapping[str, float],
    found: Mapping[str, bool],
    colour: Mapping[str, str],
) -> None:
    """DSC of the organs of a picture, in its upper left corner. `found` is empty if there is no prediction."""
    texts = []
    for organ in organs:
        dsc = scores.get(organ, float("nan"))
        value = "not scored" if np.isnan(dsc) else f"DSC {dsc:.1f}" if found.get(organ) else "missed"
        texts.append((colour[organ], f"{organ}  {value}"))
    if not found:
        texts = [("white", "no prediction")]
    for number, (text_colour, text) in enumerate(texts):
        axes.text(
            0.015,
            0.975 - 0.075 * number,
            text,
            transform=axes.transAxes,
            ha="left",
            va="top",
            fontsize=10,
            color=text_colour,
            path_effects=[patheffects.withStroke(linewidth=1.5, foreground="black")],
        )


def _draw_legend(
    figure: Figure,
    organs: Mapping[str, tuple[int, ...]],
    colour: Mapping[str, str],
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    scores: Mapping[str, float],
    *,
    one_prediction: bool,
) -> None:
    """Line styles of reference and prediction, and organs with their DSC. Missed, invented and absent organs are marked."""
    handles = []
    for organ, values in organs.items():
        found = tuple(None if m is None else bool(np.isin(m, values).any()) for m in (reference, prediction))
        notes: dict[tuple[bool | None, ...], str] = {
            (True, False): "  missed",
            (False, True): "  invented",
            (False, False): "  absent",
        }
        note = notes.get(found, "") if one_prediction else ""
        dsc = scores.get(organ, float("nan"))
        text = f"{organ}  DSC {dsc:.1f}" if not np.isnan(dsc) else organ
        handles.append(Line2D([], [], color=colour[organ], linewidth=3.0, label=text + note))
    options = {"frameon": False, "labelcolor": "white", "handletextpad": 0.5, "borderaxespad": 0.2}
    lines = []
    if reference is not None:
        lines.append(Line2D([], [], color="white", linewidth=2.2, label="reference"))
    if prediction is not None or not one_prediction:
        lines.append(Line2D([], [], color="white", linewidth=1.5, linestyle=(0, (3.0, 2.0)), label="prediction"))
    figure.legend(handles=lines, loc="upper right", ncols=2, fontsize=11, handlelength=3.2, **options)
    columns = min(len(handles), max(2, round(figure.get_figwidth() / 2.1)))
    figure.legend(handles=handles, loc="lower center", ncols=columns, fontsize=10, columnspacing=1.6, **options)
