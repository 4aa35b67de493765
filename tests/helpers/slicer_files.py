"""Segmentations as 3D Slicer writes them: `.seg.nrrd` with a header field per segment, cropped or in layers."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def write_segmentation(
    path: Path,
    layers: Sequence[np.ndarray],
    grid: sitk.Image,
    segments: Sequence[Mapping[str, object]],
    *,
    crop: tuple[slice, slice, slice] | None = None,
) -> Path:
    """Layers `(Z, Y, X)` on a grid, as one 3D file or, if there are several, with a first axis of kind `list`.

    `segments` are the fields of each, such as `{"Name": "left eye", "LabelValue": 3, "Layer": 0}`; `crop` is the part that
    is written.
    """
    start = [0, 0, 0] if crop is None else [part.start for part in crop][::-1]
    stack = np.stack([layer if crop is None else layer[crop] for layer in layers], axis=-1).astype(np.uint8)
    axes = np.reshape(grid.GetDirection(), (3, 3)) * np.asarray(grid.GetSpacing())
    directions = [f"({','.join(repr(float(mm)) for mm in axes[:, axis])})" for axis in range(3)]
    origin = ",".join(repr(float(mm)) for mm in grid.TransformIndexToPhysicalPoint(start))
    sizes, kinds = [*stack.shape[2::-1]], ["domain"] * 3
    if len(layers) > 1:
        sizes, kinds, directions = [len(layers), *sizes], ["list", *kinds], ["none", *directions]
    header = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {' '.join(kinds)}",
        "encoding: gzip",
        f"space origin: ({origin})",
        *(f"Segment{n}_{key}:={value}" for n, fields in enumerate(segments) for key, value in fields.items()),
        f"Segmentation_ReferenceImageExtentOffset:={' '.join(map(str, start))}",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(header) + "\n\n").encode() + gzip.compress(stack.tobytes()))
    return path
