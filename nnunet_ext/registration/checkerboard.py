"""A chess board of both images, before and after registration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.cleaning.head import image_region
from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.pictures.views import PLANES, picture_spacing_mm, slice_picture
from nnunet_ext.registration.result import HEADER, LEVEL_NAMES, RegistrationResult
from nnunet_ext.registration.volumes import HEAD_MM, trunk_part

#: Squares of the checkerboard picture, the moving image's colour in it, and depths below the crown: what is shown, where
#: the eyes are.
SQUARE_MM = 25.0
AMBER = np.array([1.0, 0.75, 0.35])
SHOWN_MM, EYES_MM = 220.0, 105.0


def draw_checkerboard(
    result: RegistrationResult,
    fixed: sitk.Image,
    before: Mapping[str, sitk.Image],
    registered: Mapping[str, sitk.Image],
) -> Figure:
    """Fixed (grey) and moving (amber) image in turn on a checkerboard: two rows per moving image, before and after.

    Columns: the axial slice near the eyes' height, the same around the orbits in smaller squares, the middle coronal and
    sagittal slices. Of a trunk whose upper end no moving image shows, two axial slices, a coronal and a sagittal one through
    the part that they show. Radiological view: the patient's right is on the left of axial and coronal pictures. Titles give
    what was kept (red where it is the header's alignment) and the numbers of the report.
    """
    fixed_lps = to_canonical(fixed)
    array = sitk.GetArrayFromImage(fixed_lps).astype(np.float32)
    spacing = fixed_lps.GetSpacing()[::-1]
    body = body_mask_array(array, spacing_mm=spacing, is_ct=float(array.min()) <= -500)
    body = body if body.any() else np.ones_like(body)
    seen = np.logical_or.reduce(
        [image_region(sitk.GetArrayFromImage(to_canonical(one))) for one in registered.values()]
    )
    part = trunk_part(body, seen, np.asarray(spacing))
    views = _views(body, spacing) if part is None else _trunk_views(part)
    rows = []
    for name, found in result.channels.items():
        rows += [(name, found, "before", before[name]), (name, found, "after", registered[name])]
    figure = Figure(figsize=(3.4 * len(views) + 0.2, 3.5 * len(rows) + 0.2), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    board = figure.subplots(len(rows), len(views), squeeze=False)
    grey_fixed = _grey(array, body)
    for line, (name, found, when, image) in zip(board, rows, strict=True):
        grey_moving = _grey(sitk.GetArrayFromImage(to_canonical(image)).astype(np.float32), body)
        for axes, (plane, index, box, square_mm) in zip(line, views, strict=True):
            pixel_mm = picture_spacing_mm(spacing, plane)
            pair = [slice_picture(volume[box], plane, index) for volume in (grey_fixed, grey_moving)]
            rows_mm, columns_mm = (np.arange(n) * mm for n, mm in zip(pair[0].shape, pixel_mm, strict=True))
            odd = ((rows_mm[:, None] // square_mm + columns_mm[None] // square_mm) % 2).astype(bool)
            height, width = (n * mm for n, mm in zip(pair[0].shape, pixel_mm, strict=True))
            colours = np.where(odd[..., None], pair[1][..., None] * AMBER, pair[0][..., None])
            axes.imshow(colours, extent=(0, width, height, 0))
            axes.set(xticks=[], yticks=[])
            places = ((0.04, 0.5), (0.96, 0.5), (0.5, 0.96), (0.5, 0.04))
            for letter, (x, y) in zip(PLANES[plane][1], places, strict=True):
                axes.text(x, y, letter, color="yellow", ha="center", va="center", transform=axes.transAxes)
            scale_mm = 2 * square_mm
            axes.plot([0.03 * width, 0.03 * width + scale_mm], [0.97 * height] * 2, color="yellow", linewidth=2)
            axes.text(0.03 * width, 0.94 * height, f"{scale_mm:g} mm", color="yellow", fontsize=8)
        level = HEADER if when == "before" else found.kept
        line[0].set_title(
            f"{name} {when}: {LEVEL_NAMES[level]}{' kept' if when == 'after' else ''}; "
            f"mutual information {found.quality['mutual_information'][level]:.3f}, "
            f"edge overlap {found.quality['edge_overlap'][level]:.2f}, "
            f"moved by {found.quality['moved_mm']['mean'] if when == 'after' else 0:.1f} mm on average "
            f"(grey: fixed image, amber: {name})",
            color="tomato" if when == "after" and level == HEADER else "white",
            fontsize=11,
            loc="left",
        )
    # Not `tight_layout`: a title runs over all columns.
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.1 / len(rows), bottom=0.01, wspace=0.03, hspace=0.12)
    return figure


def _views(body: np.ndarray, spacing: Sequence[float]) -> list[tuple[str, int, tuple[slice, slice, slice], float]]:
    """Plane, index inside the box, box to show, edge of the squares in mm; from the body on a canonical grid.

    Only the upper part of the body counts: a CT may go down to the shoulders.
    """
    top = int(np.flatnonzero(body.any(axis=(1, 2)))[-1]) + 1
    depth = [max(0, top - round(mm / spacing[0])) for mm in (SHOWN_MM, HEAD_MM, EYES_MM)]
    head = ndimage.find_objects(body[depth[1] : top].view(np.uint8))[0]
    margin = [round(10.0 / mm) for mm in spacing]
    rows, columns = (
        slice(max(0, s.start - m), min(n, s.stop + m))
        for s, m, n in zip(head[1:], margin[1:], body.shape[1:], strict=True)
    )
    box = slice(depth[0], min(body.shape[0], top + margin[0])), rows, columns
    middle = [(s.start + s.stop) // 2 for s in head[1:]]
    rows_of_body = np.flatnonzero(body[depth[2], :, head[2]].any(axis=1))
    front = int(rows_of_body[0]) if rows_of_body.size else head[1].start
    half = round(60.0 / spacing[2])
    orbits = (
        slice(depth[2], depth[2] + 1),
        slice(max(0, front - margin[1] // 2), front + round(90.0 / spacing[1])),
        slice(max(0, middle[1] - half), middle[1] + half),
    )
    return [
        ("axial", depth[2] - box[0].start, box, SQUARE_MM),
        ("axial", 0, orbits, SQUARE_MM / 2),
        ("coronal", middle[0] - rows.start, box, SQUARE_MM),
        ("sagittal", middle[1] - columns.start, box, SQUARE_MM),
    ]


def _trunk_views(part: np.ndarray) -> list[tuple[str, int, tuple[slice, slice, slice], float]]:
    """As `_views`: two axial slices at thirds of the part, and the middle coronal and sagittal ones."""
    box = ndimage.find_objects(part.view(np.uint8))[0]
    z, y, x = (s.stop - s.start for s in box)
    return [
        ("axial", 2 * z // 3, box, SQUARE_MM),
        ("axial", z // 3, box, SQUARE_MM),
        ("coronal", y // 2, box, SQUARE_MM),
        ("sagittal", x // 2, box, SQUARE_MM),
    ]


def _grey(volume: np.ndarray, body: np.ndarray) -> np.ndarray:
    """0..1, with the tissue between its 5th and 98th percentile spread over it."""
    low, high = np.percentile(volume[body], (5, 98))
    return np.clip((volume - low) / max(float(high - low), 1e-6), 0, 1)
