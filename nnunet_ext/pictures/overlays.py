"""Pictures of reference and prediction contours on every channel: what a person who contours would look at first.

Radiological view: the patient's right is on the picture's left, anterior (or superior) is up. Images are turned to LPS
before a slice is taken, so rows and columns of an axial slice are (posterior, left) and need no flip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from nnunet_ext.images.geometry import resample_to, same_grid, to_canonical
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.colours import colours
from nnunet_ext.labels.pairs import pair_names
from nnunet_ext.labels.sides import side_of
from nnunet_ext.labels.values import organ_values

#: Plane -> (array axis it cuts, letters at the left, right, top and bottom edge of the picture).
PLANES = {"axial": (0, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (2, "APSI")}


CT_WINDOW_HU = (-135.0, 215.0)  # soft tissue: width 350, level 40
NEIGHBOURHOOD_MM = 15.0  # organs this near the one a slice is about are shown with it: the eye with its lens
MARGIN_MM = 6.0  # around these
SMALLEST_VIEW_MM = 56.0  # wide enough to recognise where a lone chiasm lies
VIEW_ASPECT = 4 / 3  # width / height of a picture


@dataclass(frozen=True)
class View:
    """One row of pictures: a slice of the LPS volume, by its voxel index along the axis the plane cuts."""

    plane: str
    index: int
    shows: str  # what the slice was chosen for
    organs: tuple[str, ...] = ()  # its left and right, or itself


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
    """Figure of one case: every channel with the contours of both label maps.

    Arrays have the shape `(Z, Y, X)` and lie on the LPS image `grid`.

    `pairs` are the left and right organs, which share slices; None: by name.
    """
    window_box = _box_around(reference, prediction, grid.GetSpacing()[::-1])
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
        predictions: Experiment -> label map, or None where it has none.
        labels: Organ -> label value.
        scores: Experiment -> organ -> DSC in percent, printed in the pictures.
        pairs: Left and right organs, which share slices; None: by name.
    """
    window = display_window(channel, volume, _box_around(reference, None, grid.GetSpacing()[::-1]))
    columns = [_Column(name, volume, window, found, scores.get(name, {})) for name, found in predictions.items()]
    return _draw(f"{case}, {channel}", grid, columns, reference, labels=labels, scores={}, pairs=pairs)


@dataclass(frozen=True)
class _Column:
    """One column of pictures: a title, the volume shown in a window, and the prediction drawn on it."""

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
) -> Figure:
    """Rows are slices near the smallest organs; a narrow first column shows where they lie."""
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
        # Around the reference, so that all columns show the same place; without one, around the prediction.
        about = [reference_masks, predicted[0] if len(columns) == 1 or reference is None else None]
        window_mm = _zoom_mm(about, view.organs, pixel_mm)
        for number, (column, masks) in enumerate(zip(columns, predicted, strict=True)):
            picture = slice_picture(column.volume, view.plane, view.index)
            if number == 0:
                whole = figure.add_subplot(grid_spec[row, 0])
                draw_picture(whole, picture, pixel_mm, column.window)
                _draw_frame(whole, window_mm)
                whole.set_anchor("N")
                position = _position(grid, view)
                whole.set_title(
                    f"{view.shows}\n{view.plane}, {position}", color="white", fontsize=10, loc="left", pad=3
                )
            axes = figure.add_subplot(grid_spec[row, 1 + number])
            draw_picture(axes, picture, pixel_mm, column.window)
            _draw_contours(axes, [reference_masks, masks], pixel_mm, colour)
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
                axes.set_title(column.title, color="white", fontsize=13, pad=4)
    figure.suptitle(title, color="white", fontsize=15, x=0.008, ha="left", y=1 - 0.1 / figure.get_figheight(), va="top")
    _draw_legend(figure, organs, colour, reference, first, scores, one_prediction=columns[0].scores is None)
    return figure


def slice_picture(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """A slice as it is shown, first row on top, from an LPS volume of shape `(Z, Y, X)`.

    Axial: anterior on top, the patient's right on the left. Coronal: superior on top, the patient's right on the left.
    Sagittal: superior on top, anterior on the left.
    """
    picture = np.take(volume, index, axis=PLANES[plane][0])
    return picture if plane == "axial" else picture[::-1]


def picture_spacing_mm(spacing_mm: Sequence[float], plane: str) -> tuple[float, float]:
    """Row and column spacing of a `slice_picture`, from the volume's spacing along `(Z, Y, X)`."""
    rows, columns = (s for axis, s in enumerate(spacing_mm) if axis != PLANES[plane][0])
    return float(rows), float(columns)


def choose_views(
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    labels: Mapping[str, int],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[View]:
    """Axial slices near the lenses and near the chiasm, and the coronal slice near the chiasm.

    Where no organ is called lens or chiasm, its place is taken by the smallest organ not yet shown. Left and right share
    a slice where one shows at least half the largest area of each; a tilted head gets one slice per side. Areas are
    those of the reference, or of the prediction for an organ the reference lacks. Without any organ: the middle of
    the volume.

    Args:
        reference: LPS label map, shape `(Z, Y, X)`, or None.
        prediction: The same for the prediction.
        labels: Organ -> label value.
        pairs: Left and right organs; None: by name.
    """
    pairs = pair_names(labels).pairs if pairs is None else pairs
    both = {organ: _both_sides(*pair) for pair in pairs for organ in pair}
    given = [m for m in (reference, prediction) if m is not None]
    masks: dict[str, dict[str, np.ndarray]] = {}  # lens -> {Lens_L: mask, Lens_R: mask}
    for organ, values in organ_values(labels).items():
        mask = next((found for found in (np.isin(m, values) for m in given) if found.any()), None)
        if mask is not None:
            masks.setdefault(both.get(organ, organ), {})[organ] = mask
    if not masks:
        return [View(plane, given[0].shape[PLANES[plane][0]] // 2, "no organ") for plane in ("axial", "coronal")]

    by_size = sorted(masks, key=lambda name: sum(int(mask.sum()) for mask in masks[name].values()))
    chosen = [name for word in ("lens", "chiasm") for name in by_size if word in name.lower()][:2]
    chosen += [name for name in by_size if name not in chosen][: 2 - len(chosen)]
    views = [view for name in chosen for view in _slices_through(masks[name], name, "axial")]
    return views + _slices_through(masks[chosen[-1]], chosen[-1], "coronal")


def _both_sides(left: str, right: str) -> str:
    """Name of a pair: that of the left one without its side."""
    side = side_of(left)
    return f"{left}, {right}" if side is None else side.stem or f"{left}, {right}"


def _slices_through(masks: Mapping[str, np.ndarray], name: str, plane: str) -> list[View]:
    """One slice that shows all the masks well, or one for each."""
    others = tuple(axis for axis in range(3) if axis != PLANES[plane][0])
    areas = {organ: mask.sum(axis=others) for organ, mask in masks.items()}
    shown = np.min(
        [area / area.max() for area in areas.values()], axis=0
    )  # share of its largest area, the worst organ's
    if shown.max() >= 0.5:
        return [View(plane, int(shown.argmax()), name, tuple(masks))]
    return [View(plane, int(area.argmax()), organ, (organ,)) for organ, area in areas.items()]


def display_window(channel: str, volume: np.ndarray, box: tuple[slice, ...]) -> tuple[float, float]:
    """Grey values shown black and white: a soft-tissue window for `CT`, percentiles inside `box` for anything else."""
    if channel.upper() == "CT":
        return CT_WINDOW_HU
    low, high = np.nanpercentile(volume[box], (1.0, 99.5))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


# Volumes --------------------------------------------------------------------------------------------------------------


def on_grid(image: sitk.Image, grid: sitk.Image, *, interpolation: str = "linear") -> sitk.Image:
    """An image, or by `nearest` a label map, on a grid; as it is where it lies on it already."""
    if same_grid(image, grid):
        return image
    return resample_to(
        image, grid, interpolation=interpolation, outside_value=0.0 if interpolation == "nearest" else None
    )


def _box_around(
    reference: np.ndarray | None, prediction: np.ndarray | None, spacing_mm: Sequence[float]
) -> tuple[slice, ...]:
    """Box of everything labelled, and `MARGIN_MM` around it; the whole volume where nothing is."""
    given = [m > 0 for m in (reference, prediction) if m is not None]
    labelled = np.logical_or.reduce(given)
    box = []
    for axis in range(3):
        filled = np.flatnonzero(labelled.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(MARGIN_MM / spacing_mm[axis]))
        box.append(slice(max(filled[0] - margin, 0), filled[-1] + margin + 1) if len(filled) else slice(None))
    return tuple(box)


def _position(grid: sitk.Image, view: View) -> str:
    """World coordinate (LPS) of a slice at its middle, and which slice of how many."""
    axis = PLANES[view.plane][0]
    size = grid.GetSize()
    index = [(n - 1) / 2 for n in size]
    index[2 - axis] = view.index
    point_mm = grid.TransformContinuousIndexToPhysicalPoint(index)
    return f"{'zyx'[axis]} = {point_mm[2 - axis]:.1f} mm\nslice {view.index + 1} of {size[2 - axis]}"


# Drawing, in mm from the centre of a picture's first pixel ------------------------------------------------------------


def draw_picture(axes: Axes, picture: np.ndarray, pixel_mm: tuple[float, float], window: tuple[float, float]) -> None:
    (rows, columns), (row_mm, column_mm) = picture.shape, pixel_mm
    extent = (-0.5 * column_mm, (columns - 0.5) * column_mm, (rows - 0.5) * row_mm, -0.5 * row_mm)
    axes.imshow(
        picture, cmap="gray", vmin=window[0], vmax=window[1], extent=extent, interpolation="bilinear", aspect="equal"
    )
    axes.set(facecolor="black", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _draw_contours(
    axes: Axes, masks: Sequence[dict[str, np.ndarray] | None], pixel_mm: tuple[float, float], colour: Mapping[str, str]
) -> None:
    """Reference solid and wide, prediction dashed and narrow on a dark line, so both show where they coincide."""
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
                lines = axes.contour(x_mm, y_mm, padded, levels=[0.5], colors=[colour[organ]], **style)
                if by_organ is masks[1]:
                    lines.set(path_effects=[patheffects.withStroke(linewidth=3.0, foreground="black")])


def _zoom_mm(
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
            ((filled[0] - 0.5) * pixel_mm[axis] - MARGIN_MM, (filled[-1] + 0.5) * pixel_mm[axis] + MARGIN_MM)
        )
    (left, right), (top, bottom) = edges_mm
    width_mm = max(right - left, (bottom - top) * VIEW_ASPECT, SMALLEST_VIEW_MM)
    x_mm, y_mm = (left + right) / 2, (top + bottom) / 2
    half_height_mm = width_mm / VIEW_ASPECT / 2
    return x_mm - width_mm / 2, x_mm + width_mm / 2, y_mm - half_height_mm, y_mm + half_height_mm


def _draw_frame(axes: Axes, window_mm: tuple[float, float, float, float]) -> None:
    left, right, top, bottom = window_mm
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=1.0))


def draw_marks(axes: Axes, plane: str, window_mm: tuple[float, float, float, float]) -> None:
    """Patient directions at the edges and a scale bar of about a fifth of the width."""
    style: dict[str, Any] = {
        "color": "white",
        "transform": axes.transAxes,
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


def _draw_scores(
    axes: Axes,
    organs: Sequence[str],
    scores: Mapping[str, float],
    found: Mapping[str, bool],
    colour: Mapping[str, str],
) -> None:
    """DSC of the organs a picture is about, in its upper left corner; `found` is empty where there is no prediction."""
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
    """Organs with their DSC, or what became of them; above, which line is whose."""
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
