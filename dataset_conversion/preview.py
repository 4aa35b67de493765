"""A picture of every step of the conversion, for the page that shows all cases, `conversion.html`.

Per case: couch and mask, bias field, window, alignment of the channels, labels. Each title names the thing to look for.
The pictures follow `pictures`: radiological view, directions at the edges, a scale in mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from nnunet_ext.cases.preparing import CANONICAL, CLEANED, CORRECTED, Channels
from nnunet_ext.cleaning.ct_body import FAINT_HU
from nnunet_ext.files import written_whole
from nnunet_ext.images.channels import is_ct
from nnunet_ext.images.geometry import resample_to, same_grid
from nnunet_ext.pictures.case_figure import draw_case
from nnunet_ext.pictures.sheet import DPI, Sheet, blue_to_red, grey, tinted
from nnunet_ext.pictures.views import PLANES, picture_spacing_mm, slice_picture
from nnunet_ext.pictures.volumes import CT_WINDOW_HU

#: Air, foam, mask and skin differ; bone need not.
WIDE_WINDOW_HU = (-1000.0, 300.0)
DRAWN_BONE_HU = 250.0
_GREEN, _YELLOW = "#5cff6a", "#fff04d"


# ------------------------------------------------------------------------------------------------- pictures of a case


def draw_previews(
    case: str,
    out: Path,
    *,
    channels: Channels,
    labels: np.ndarray | None = None,
    label_values: Mapping[str, int] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[str]:
    """Write one PNG per step of one case into a folder.

    Args:
        case: Name in the titles.
        out: Folder, made if needed.
        channels: Result of `prepare_channels`, with `keep_steps`.
        labels: Label map `(Z, Y, X)` on the grid of the channels, or None.
        label_values: Organ -> label value.
        pairs: Left and right organs, which share slices. None to pair them by name.

    Returns:
        Names of the files, in the order of the steps. Steps that were not done have no picture.
    """
    out.mkdir(parents=True, exist_ok=True)
    grid = next(iter(channels.images.values()))
    volumes = {name: sitk.GetArrayViewFromImage(image) for name, image in channels.images.items()}
    views = _views(channels.body, labels)
    ct = next((name for name in volumes if is_ct(name)), None)
    figures: dict[str, Figure] = {}
    if ct is not None:
        before = channels.done(ct, CANONICAL).array
        cleaned = channels.done(ct, CLEANED).array
        if channels.record[ct].get("couch_and_mask_removed_ml") is not None:
            taken = ~channels.body & (before > FAINT_HU) & (cleaned < before)
            figures["1_couch_and_mask"] = _draw_cleaning(case, grid, before, cleaned, taken, channels, ct, views)
        if (window_hu := channels.record[ct].get("window_hu")) is not None:
            figures["3_window"] = _draw_window(case, grid, cleaned, volumes[ct], window_hu, views)
    corrected = [name for name in volumes if channels.step(name, CORRECTED) is not None]
    if corrected:
        figures["2_bias_field"] = _draw_bias(case, channels, corrected)
    if len(volumes) > 1:
        figures["4_alignment"] = _draw_alignment(case, grid, channels, views)
    if labels is not None and label_values:
        present = {organ: value for organ, value in label_values.items() if (labels == value).any()}
        if present:
            figures["5_labels"] = draw_case(case, grid, volumes, labels, None, labels=dict(label_values), pairs=pairs)
    files = []
    for name, figure in sorted(figures.items()):
        _save(figure, out / f"{name}.png", dpi=50 if name == "5_labels" else DPI)
        files.append(f"{name}.png")
    return files


def _save(figure: Figure, path: Path, *, dpi: int) -> None:
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    with written_whole(path) as temporary:
        # 128 colours are a third of the size and look the same: nearly all of it is grey.
        picture.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(temporary, format="PNG")


def _views(body: np.ndarray, labels: np.ndarray | None) -> list[tuple[str, int]]:
    """An axial slice through the organs, or the upper third of the body, and the sagittal one through its middle."""
    solid = body if body.any() else np.ones(body.shape, bool)
    z = np.flatnonzero(solid.any(axis=(1, 2)))
    x = np.flatnonzero(solid.any(axis=(0, 1)))
    axial = int(z[len(z) // 2])
    if labels is not None and labels.any():
        axial = int(np.argmax(np.count_nonzero(labels, axis=(1, 2))))
    return [("axial", axial), ("sagittal", int((x[0] + x[-1]) // 2))]


def _aspect(shape: Sequence[int], spacing_mm: Sequence[float], plane: str) -> float:
    rows, columns = (
        n * mm for axis, (n, mm) in enumerate(zip(shape, spacing_mm, strict=True)) if axis != PLANES[plane][0]
    )
    return rows / columns


def _crop(body: np.ndarray, spacing_mm: Sequence[float], margin_mm: float) -> tuple[slice, ...]:
    """The body's box with a margin that shows couch and mask. A 512 x 512 picture is mostly air."""
    if not body.any():
        return (slice(None),) * 3
    box = []
    for axis in range(3):
        filled = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = round(margin_mm / spacing_mm[axis])
        box.append(slice(max(0, int(filled[0]) - margin), int(filled[-1]) + margin + 1))
    return tuple(box)


def _fullest(mask: np.ndarray, axis: int, box: tuple[slice, ...]) -> int:
    """Index, in the volume `box` was cut from, of the slice with most of a mask, of the middle half of the slices."""
    n = mask.shape[axis]
    area = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))[n // 4 : n - n // 4]
    return int(np.argmax(area)) + n // 4 + (box[axis].start or 0)


def _grey_window(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values[:: max(1, values.size // 200_000)], (1.0, 99.5)) if values.size else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def _draw_cleaning(
    case: str,
    grid: sitk.Image,
    before: np.ndarray,
    cleaned: np.ndarray,
    taken: np.ndarray,
    channels: Channels,
    ct: str,
    views: list,
) -> Figure:
    spacing_mm = grid.GetSpacing()[::-1]
    box = _crop(channels.body, spacing_mm, 60.0)
    taken = taken[box]
    views = [("axial", _fullest(taken, 0, box)) if taken.any() else views[0], views[1]]
    record = channels.record[ct]
    title = (
        f"Couch and mask: {record['couch_and_mask_removed_ml']:.0f} mL taken off (red). "
        "Nothing of the patient may be red. On the right, at most what touches the skin may be left."
    )
    shape = before[box].shape
    sheet = Sheet(case, title, 3, aspects=[_aspect(shape, spacing_mm, plane) for plane, _ in views])
    for row, (plane, index) in zip(sheet.rows, views, strict=True):
        at = index - (box[PLANES[plane][0]].start or 0)
        pixel_mm = picture_spacing_mm(spacing_mm, plane)
        old, new = (slice_picture(a[box], plane, at) for a in (before, cleaned))
        row[0].show(grey(old, WIDE_WINDOW_HU), plane, pixel_mm, f"before, {plane}")
        red = tinted(grey(old, WIDE_WINDOW_HU), slice_picture(taken, plane, at), (255, 64, 51))
        row[1].show(red, plane, pixel_mm, "taken off")
        row[2].show(grey(new, WIDE_WINDOW_HU), plane, pixel_mm, "after")
    return sheet.figure()


def _draw_window(
    case: str, grid: sitk.Image, cleaned: np.ndarray, after: np.ndarray, window_hu: Sequence[float], views: list
) -> Figure:
    low, high = (float(v) for v in window_hu)
    spacing_mm = grid.GetSpacing()[::-1]
    title = f"Window {low:g}..{high:g} HU: soft tissue keeps its contrast, everything beyond is cut off."
    sheet = Sheet(case, title, 2, aspects=[_aspect(after.shape, spacing_mm, "axial")])
    plane, index = views[0]
    pixel_mm = picture_spacing_mm(spacing_mm, plane)
    for panel, volume, window, text in zip(
        sheet.rows[0], (cleaned, after), (WIDE_WINDOW_HU, (low, high)), ("before", "after"), strict=True
    ):
        heading = f"{text}, grey scale {window[0]:g}..{window[1]:g} HU"
        panel.show(grey(slice_picture(volume, plane, index), window), plane, pixel_mm, heading)
    return sheet.figure()


def _draw_bias(case: str, channels: Channels, names: Sequence[str]) -> Figure:
    pairs = {name: (channels.done(name, CANONICAL), channels.done(name, CORRECTED)) for name in names}
    shapes = {name: old.array.shape for name, (old, _) in pairs.items()}
    spacings = {name: old.image.GetSpacing()[::-1] for name, (old, _) in pairs.items()}
    ranges = ", ".join(
        f"{name} {channels.record[name]['n4_field'][0]:.2f}..{channels.record[name]['n4_field'][1]:.2f}"
        for name in names
    )
    title = f"Bias field (factor {ranges}): smooth, no anatomy in it; one tissue must be equally bright everywhere."
    sheet = Sheet(case, title, 3, aspects=[_aspect(shapes[name], spacings[name], "axial") for name in names])
    for row, name in zip(sheet.rows, names, strict=True):
        before, after = (one.array for one in pairs[name])
        index = before.shape[0] // 2
        body = pairs[name][0].body
        old, new = (np.asarray(a[index], np.float32) for a in (before, after))
        window = _grey_window(before)
        pixel_mm = picture_spacing_mm(spacings[name], "axial")
        with np.errstate(divide="ignore", invalid="ignore"):
            field = np.where((new > 0) & (old > 0) & body[index], old / new, np.nan)
        row[0].show(grey(old, window), "axial", pixel_mm, f"{name} before")
        row[1].show(blue_to_red(field, (0.7, 1.3)), "axial", pixel_mm, "field, blue 0.7 .. red 1.3")
        row[2].show(grey(new, window), "axial", pixel_mm, f"{name} after")
    return sheet.figure()


def _draw_alignment(case: str, grid: sitk.Image, channels: Channels, views: list) -> Figure:
    """The reference, and beside it per channel its outlines and a chess board of both, before and after registration."""
    names = list(channels.images)
    reference = next((name for name in names if is_ct(name)), names[0])
    others = [name for name in names if name != reference]
    spacing_mm = grid.GetSpacing()[::-1]
    box = _crop(channels.body, spacing_mm, 10.0)
    fixed = sitk.GetArrayViewFromImage(channels.images[reference])[box]
    body = channels.body[box]
    window_hu = channels.record[reference].get("window_hu") or (-np.inf, np.inf)  # may end below bone
    bone = fixed >= min(DRAWN_BONE_HU, window_hu[1]) if is_ct(reference) else np.zeros(fixed.shape, bool)
    registered = [name for name in others if "registration" in channels.record[name]]
    title = (
        f"Alignment with {reference}: its skin (green) and bone (yellow) must lie on those of the MR; "
        "no steps in the chess boards."
    )
    lines = []  # per channel: image, heading, chess board
    for name in others:
        image, columns = channels.images[name], []
        if name in registered:
            before = channels.done(name, CANONICAL).image
            before = before if same_grid(before, grid) else resample_to(before, grid, interpolation="linear")
            columns.append((before, f"{name} before registration", False))
            columns.append((before, f"{reference} and {name} before, 25 mm squares", True))
        after = " after registration" if name in registered else ""
        columns.append((image, name + after, False))
        columns.append((image, f"{reference} and {name}{after[:6]}, 25 mm squares", True))
        lines.append(columns)
    if not registered:  # two columns per channel: side by side
        lines = [[column for columns in lines for column in columns]]
    lines = [[(channels.images[reference], reference, False), *columns] for columns in lines]
    n_columns = max(map(len, lines))
    rows = [(*view, line) for line in lines for view in views]
    aspects = [_aspect(fixed.shape, spacing_mm, plane) for plane, _, _ in rows]
    sheet = Sheet(case, title, n_columns, aspects=aspects, width_in=2.5)
    fixed_window = CT_WINDOW_HU if is_ct(reference) else _grey_window(fixed[body])
    moving = {id(image): sitk.GetArrayFromImage(image)[box] for line in lines for image, _, _ in line}
    windows = {key: _grey_window(array[body]) for key, array in moving.items()}
    windows[id(channels.images[reference])] = fixed_window
    for row, (plane, index, line) in zip(sheet.rows, rows, strict=True):
        at = index - (box[PLANES[plane][0]].start or 0)
        pixel_mm = picture_spacing_mm(spacing_mm, plane)
        here, skin, hard = (slice_picture(a, plane, at) for a in (fixed, body, bone))
        for panel, (image, heading, board) in zip(row, line, strict=False):
            there = grey(slice_picture(moving[id(image)], plane, at), windows[id(image)])
            if board:
                squares = [np.arange(n) * mm // 25.0 for n, mm in zip(here.shape, pixel_mm, strict=True)]
                odd = (squares[0][:, None] + squares[1][None]) % 2 == 0
                panel.show(np.where(odd, grey(here, fixed_window), there), plane, pixel_mm, heading)
            else:
                panel.show(there, plane, pixel_mm, heading)
                panel.outline(hard, pixel_mm, _YELLOW, 0.5)
                panel.outline(skin, pixel_mm, _GREEN)
    return sheet.figure()


# ------------------------------------------------------------------------------------------- the page of all cases
