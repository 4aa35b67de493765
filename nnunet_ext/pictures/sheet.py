"""A sheet of pictures side by side, with a title that says what to look for.

All pictures of a sheet are painted into one canvas and drawn at once. An `Axes` for each would take as long to make as all
the rest.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from PIL import Image

from nnunet_ext.pictures.contours import draw_marks, draw_outline

DPI = 72
#: A picture's height is at least and at most so much of its width.
ASPECTS = (0.5, 1.6)
#: Inches around the pictures: title above all, heading above each row, gap between columns.
_TITLE_IN, _HEADING_IN, _GAP_IN, _EDGE_IN = 0.8, 0.26, 0.05, 0.03


@dataclass
class Panel:
    """The place of one picture on a sheet, in pixels, and what is drawn there.

    Attributes:
        left, top, width, height: The place.
        picture: 8-bit grey or RGB values, one per pixel of the slice. None before `show`.
        outlines: Mask, pixel size, colour and width of the lines.
    """

    left: float
    top: float
    width: float
    height: float
    picture: np.ndarray | None = None
    plane: str = ""
    pixel_mm: tuple[float, float] = (1.0, 1.0)
    heading: str = ""
    outlines: list[tuple[np.ndarray, tuple[float, float], str, float]] = field(default_factory=list)

    def show(self, picture: np.ndarray, plane: str, pixel_mm: tuple[float, float], heading: str = "") -> None:
        """Put a slice here.

        Args:
            picture: 8 bits, `(rows, columns)` grey or `(rows, columns, 3)` RGB.
            plane: `axial`, `coronal` or `sagittal`, for the letters at the edges.
            pixel_mm: Height and width of a pixel.
            heading: Text above the picture.
        """
        self.picture, self.plane, self.pixel_mm, self.heading = picture, plane, pixel_mm, heading

    def outline(self, mask: np.ndarray, pixel_mm: tuple[float, float], colour: str, width: float = 0.9) -> None:
        """Draw the contour of a mask over the picture."""
        if mask.any() and not mask.all():
            self.outlines.append((mask, pixel_mm, colour, width))

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the picture."""
        assert self.picture is not None  # asked for what is shown only
        return self.picture.shape[0] * self.pixel_mm[0], self.picture.shape[1] * self.pixel_mm[1]

    @property
    def pixels_per_mm(self) -> float:
        height_mm, width_mm = self.size_mm
        return min(self.width / width_mm, self.height / height_mm)

    @property
    def shown_at(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the picture, which keeps its proportions in the middle of its place."""
        height, width = (max(1, round(mm * self.pixels_per_mm)) for mm in self.size_mm)
        return round(self.left + (self.width - width) / 2), round(self.top + (self.height - height) / 2), width, height


class Sheet:
    """Rows of pictures on black."""

    def __init__(
        self, case: str, title: str, n_columns: int, *, aspects: Sequence[float], width_in: float = 3.1
    ) -> None:
        """Make room for the pictures.

        Args:
            case: Name, in bold.
            title: What to look for.
            n_columns: Pictures side by side.
            aspects: Height divided by width of each row.
            width_in: Width of a picture in inches.
        """
        self.case, self.title = case, title
        heights_in = [width_in * min(max(aspect, ASPECTS[0]), ASPECTS[1]) for aspect in aspects]
        self.width_in = n_columns * width_in + (n_columns - 1) * _GAP_IN + 2 * _EDGE_IN
        self.height_in = _TITLE_IN + sum(heights_in) + len(heights_in) * _HEADING_IN + _EDGE_IN
        self.rows: list[list[Panel]] = []
        top_in = _TITLE_IN
        for height_in in heights_in:
            top_in += _HEADING_IN
            lefts_in = [_EDGE_IN + column * (width_in + _GAP_IN) for column in range(n_columns)]
            self.rows.append([Panel(left * DPI, top_in * DPI, width_in * DPI, height_in * DPI) for left in lefts_in])
            top_in += height_in

    def figure(self) -> Figure:
        """The sheet, drawn; at `DPI` a pixel of the canvas is one of the picture."""
        figure = Figure(figsize=(self.width_in, self.height_in), dpi=DPI, facecolor="black")
        FigureCanvasAgg(figure)
        n_rows, n_columns = (int(np.ceil(inches * DPI)) for inches in (self.height_in, self.width_in))
        canvas = np.zeros((n_rows, n_columns, 3), np.uint8)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        panels = [panel for row in self.rows for panel in row if panel.picture is not None]
        for panel in panels:
            left, top, width, height = panel.shown_at
            picture = Image.fromarray(np.ascontiguousarray(panel.picture)).convert("RGB")
            resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
            part = canvas[top : top + height, left : left + width]
            part[...] = resized[: part.shape[0], : part.shape[1]]
        axes.imshow(canvas, extent=(0, n_columns, n_rows, 0), interpolation="nearest", aspect="auto")
        axes.set(xlim=(0, self.width_in * DPI), ylim=(self.height_in * DPI, 0))
        for panel in panels:
            left, top, width, height = panel.shown_at
            for mask, pixel_mm, colour, line_width in panel.outlines:
                x, y = (
                    start + (np.arange(n) + 0.5) * mm * panel.pixels_per_mm
                    for start, n, mm in ((left, mask.shape[1], pixel_mm[1]), (top, mask.shape[0], pixel_mm[0]))
                )
                draw_outline(axes, x, y, mask, colors=[colour], linewidths=line_width)
            shares = Affine2D().scale(width, -height).translate(left, top + height) + axes.transData
            height_mm, width_mm = panel.size_mm
            draw_marks(axes, panel.plane, (0.0, width_mm, 0.0, height_mm), shares=shares)
            middle = panel.left + panel.width / 2
            axes.text(middle, panel.top - 4, panel.heading, color="white", fontsize=9.5, ha="center", va="baseline")
        style: dict[str, Any] = {"color": "white", "ha": "left", "va": "top"}
        axes.text(6, 0.06 * DPI, self.case, fontsize=12, fontweight="bold", **style)
        text = textwrap.fill(self.title, round(13.5 * self.width_in))
        axes.text(6, 0.3 * DPI, text, fontsize=10, **style)
        return figure


# ------------------------------------------------------------------------------------------------ slices as pictures


def grey(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """8-bit grey values of a slice: black at the window's lower end, white at its upper end."""
    low, high = window
    share = (np.asarray(values, np.float32) - np.float32(low)) / np.float32(high - low)
    return (255 * np.clip(np.nan_to_num(share), 0, 1) + 0.5).astype(np.uint8)


def tinted(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], share: float = 0.75) -> np.ndarray:
    """A grey picture in RGB, with a colour over the mask."""
    result = np.repeat(picture[..., None], 3, axis=-1)
    result[mask] = (1 - share) * result[mask] + share * np.asarray(colour)
    return result


def blue_to_red(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """RGB of a slice of factors: blue at the window's lower end, white in its middle, red at its upper end. NaN is black."""
    share = (values - window[0]) / (window[1] - window[0])
    colours = matplotlib.colormaps["coolwarm"](np.nan_to_num(share), bytes=True)[..., :3]
    return np.where(np.isnan(values)[..., None], np.uint8(0), colours)
