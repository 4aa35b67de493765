"""Contact sheet of heads from label maps: `python results/heads_of_real_shape.py HEADS PICTURE.jpg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

COLOURS = ("#2ca02c", "#ff7f0e", "#9467bd", "#d62728", "#e377c2", "#bcbd22", "#17becf")
#: Half of the width, and depth, of the pictures of the orbits.
HALF_MM, FRONT_MM, BACK_MM = 50, 85, 15
PICTURES = 5


def grey(values: np.ndarray, whole: np.ndarray, channel: str) -> np.ndarray:
    """Values of a slice as 0 to 1. CT has a window of 400 HU around 40."""
    if channel == "CT":
        return np.clip((values + 160) / 400, 0, 1)
    return np.clip(values / np.percentile(whole[whole > whole.mean()], 97), 0, 1)


def draw_case(axes: list, folder: Path) -> None:
    """Five pictures: CT, T1 and T2 of the orbits from below, and CT of an eye and of the middle from the side."""
    images = {name: sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("CT", "T1", "T2", "label")}
    x_mm, y_mm, z_mm = images["CT"].GetSpacing()
    arrays = {name: sitk.GetArrayFromImage(image) for name, image in images.items()}
    label = arrays.pop("label")
    eye = label == (1 if (label == 1).any() else 2)
    at_eye, at_chiasm = (np.rint(np.argwhere(mask).mean(axis=0)).astype(int) for mask in (eye, label == 7))
    nerves = np.isin(label, (5, 6)).sum(axis=(1, 2))
    _, y, x = at_chiasm
    rows = slice(max(int(y - FRONT_MM / y_mm), 0), int(y + BACK_MM / y_mm))
    columns = slice(max(int(x - HALF_MM / x_mm), 0), int(x + HALF_MM / x_mm))
    from_below = slice(
        min(int(at_eye[0] + HALF_MM / z_mm), len(label) - 1), max(int(at_eye[0] - HALF_MM / z_mm), 0), -1
    )
    pictures = [
        ("CT", (at_eye[0], rows, columns), y_mm / x_mm),
        ("T1", (int(nerves.argmax()), rows, columns), y_mm / x_mm),
        ("T2", (at_chiasm[0], rows, columns), y_mm / x_mm),
        ("T2", (from_below, rows, at_eye[2]), z_mm / y_mm),
        ("CT", (slice(None, None, -1), slice(None), x), z_mm / y_mm),
    ]
    record = json.loads((folder / "phantom.json").read_text())
    for axis, (channel, part, aspect) in zip(axes, pictures, strict=True):
        picture, organs = grey(arrays[channel][part], arrays[channel], channel), label[part]
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="bilinear")
        for value, colour in enumerate(COLOURS, start=1):
            if (organs == value).any():
                axis.contour(organs == value, [0.5], colors=[colour], linewidths=0.5)
        axis.set_axis_off()
    head = record["head"]
    finding = "".join(
        f", {head[key]} {word}"
        for key, word in (("missing_eye", "eye missing"), ("prosthesis", "prosthesis"))
        if head[key]
    )
    axes[0].text(2, 2, f"{record['person']}{finding}", color="yellow", fontsize=5, va="top")


def main(heads: Path, picture: Path) -> None:
    folders = sorted(path.parent for path in heads.glob("*/phantom.json"))
    n_rows = (len(folders) + 1) // 2
    figure = Figure((2 * PICTURES * 1.3, n_rows * 1.3), dpi=110, facecolor="black")
    axes = figure.subplots(n_rows, 2 * PICTURES, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for k, folder in enumerate(folders):
        row, side = k % n_rows, k // n_rows
        draw_case(list(axes[row, side * PICTURES : (side + 1) * PICTURES]), folder)
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0.01)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(picture, quality=80, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
