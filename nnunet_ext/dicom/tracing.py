"""Masks to contours, along the edges of voxels."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.dicom.smoothing import smoothed_loop
from nnunet_ext.images.geometry import index_to_world


def trace_mask(mask: np.ndarray, image: sitk.Image, *, smooth: bool = False) -> list[np.ndarray]:
    """Polygons along the edges of a mask's voxels, slice by slice. `rasterise` gives the same mask back.

    Args:
        mask: Bool `(Z, Y, X)`.
        image: Its grid, in any orientation.
        smooth: Round the steps off, within half a voxel (`smoothed_loop`).

    Returns:
        Points `(N, 3)` in mm, LPS, one polygon per piece, straight runs with two points. Holes are cut by keyholes. The
        polygon runs inwards along one line between voxels, around the hole, and back along the same line.
    """
    matrix = index_to_world(image)
    polygons = []
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        for loop in _edge_loops(mask[k]):
            points = smoothed_loop(loop) if smooth else loop
            index = np.column_stack([points - 0.5, np.full(len(points), k)])
            polygons.append(index @ matrix[:3, :3].T + matrix[:3, 3])
    return polygons


def _edge_loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed loops around the pieces of a 2D mask, `(N, 2)` as `(x, y)` of pixel corners, the mask always to the right."""
    padded = np.pad(mask, 1)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(pixels: np.ndarray, begin: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in np.argwhere(pixels).tolist():
            edges.setdefault((x + begin[0], y + begin[1]), []).append((x + end[0], y + end[1]))

    inner = padded[1:-1, 1:-1]
    add(inner & ~padded[:-2, 1:-1], (0, 0), (1, 0))
    add(inner & ~padded[1:-1, 2:], (1, 0), (1, 1))
    add(inner & ~padded[2:, 1:-1], (1, 1), (0, 1))
    add(inner & ~padded[1:-1, :-2], (0, 1), (0, 0))
    # Keyholes: from the first pixel of a hole leftwards to the next background, along an edge and back. That background
    # is the outside or a hole that begins further up or left, so every hole is cut open and no piece is cut in two.
    background, _ = ndimage.label(~padded, np.ones((3, 3)))
    for hole, (rows, _) in enumerate(ndimage.find_objects(background)[1:], start=2):
        y, x = rows.start, int(np.argmax(background[rows.start] == hole))
        while padded[y - 1, x - 1] and padded[y, x - 1]:
            edges.setdefault((x - 1, y - 1), []).append((x - 2, y - 1))
            edges.setdefault((x - 2, y - 1), []).append((x - 1, y - 1))
            x -= 1
    loops = []
    while edges:
        start = next(iter(edges))
        loop, heading, here = [start], (0, 0), start
        while True:
            ends = edges[here]
            # Where several edges begin, the one furthest to the right, into the same pixel: loops touch and never cross.
            dx, dy = heading
            right_first = [(here[0] + a, here[1] + b) for a, b in ((-dy, dx), (dx, dy), (dy, -dx), (-dx, -dy))]
            end = next((end for end in right_first if end in ends), ends[0])
            ends.remove(end)
            if not ends:
                del edges[here]
            step = (end[0] - here[0], end[1] - here[1])
            if step == heading:
                loop[-1] = end
            else:
                loop.append(end)
            heading, here = step, end
            if here == start:
                break
        loops.append(np.asarray(loop[:-1], dtype=float))
    return loops
