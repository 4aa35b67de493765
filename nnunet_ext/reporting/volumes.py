"""One case for the page's viewer: grey values, label maps and surfaces around the organs.

Everything lies on the grid of the case's first image, with axes to the patient's right, anterior and superior (RAS), as
NiiVue expects. It is cropped to the organs with `SHOWN_MARGIN_MM` around them. Grey values have 8 bit over twice the width
of their display window. Label maps keep every voxel. No header and no path leaves this module, because they can name a
patient.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.measure import marching_cubes

from nnunet_ext.images.geometry import index_to_world
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.pictures.volumes import display_window, on_grid

SHOWN_MARGIN_MM = 15.0  # around the organs, enough to see their place in the head
SURFACE_SPACING_MM = 1.0  # surfaces are made on a cubic grid of this size
VERTEX_STEP_MM = 0.02  # vertices are whole numbers of this
AXES = "RAS"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class LabelMap:
    """A file, and organ -> label values in it. A voxel may belong to several organs (regions)."""

    path: Path
    organs: Mapping[str, tuple[int, ...]]


def pack_case(case: str, images: Mapping[str, Path], label_maps: Mapping[str, LabelMap]) -> bytes:
    """One case for the viewer, gzip-compressed.

    The content is the length of a JSON header (uint32), the header, the volumes and the surfaces. A volume is a channel or
    a label map and has one byte per voxel, x fastest. A surface is its vertices (int16, RAS) and triangles (uint32).
    Vertices are in `VERTEX_STEP_MM` from the centre of the crop. Numbers are little-endian. The header says which values
    of a packed label map are which organ.

    Args:
        case: Name for messages. It is not packed.
        images: Channel name -> image. Those on another grid than the first one are resampled to it.
        label_maps: Name (`reference` or an experiment's) -> label map. Those on another grid are resampled by nearest
            neighbour.

    Raises:
        ValueError: If there is no image, a file is damaged, or a map has more than 255 labels. The message names the case.
    """
    if not images:
        raise ValueError(f"case '{case}': no image to look at.")
    try:
        return _pack(images, label_maps)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"case '{case}': {error}") from error


def _pack(images: Mapping[str, Path], label_maps: Mapping[str, LabelMap]) -> bytes:
    grid: sitk.Image | None = None
    volumes = {}
    for name, path in images.items():
        image = sitk.DICOMOrient(read_image(path), AXES)
        grid = image if grid is None else grid
        volumes[name] = sitk.GetArrayFromImage(on_grid(image, grid))
    assert grid is not None  # `pack_case` refuses a case without images
    maps, meanings = {}, {}
    for name, label_map in label_maps.items():
        labels = on_grid(sitk.DICOMOrient(read_label_map(label_map.path), AXES), grid, interpolation="nearest")
        maps[name], meanings[name] = _in_bytes(sitk.GetArrayViewFromImage(labels), label_map.organs)

    spacing_mm = grid.GetSpacing()[::-1]
    organ_box = _box(maps.values(), grid.GetSize()[::-1])
    margins = [int(np.ceil(SHOWN_MARGIN_MM / mm)) for mm in spacing_mm]
    crop = tuple(
        slice(max(s.start - m, 0), min(s.stop + m, n))
        for s, m, n in zip(organ_box, margins, grid.GetSize()[::-1], strict=True)
    )
    affine = _LPS_TO_RAS @ index_to_world(grid)
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in crop[::-1]]
    shape = tuple(s.stop - s.start for s in crop)
    centre_mm = affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2) + affine[:3, 3]

    channels, surfaces, parts = [], [], []
    for name, volume in volumes.items():
        greys, window = _greys(volume[crop], display_window(name, volume, organ_box))
        channels.append({"name": name, "window": window})
        parts.append(greys.tobytes())
    for packed in maps.values():
        parts.append(packed[crop].tobytes())
    for name, packed in maps.items():
        for organ, values in meanings[name].items():
            mask = np.isin(packed[crop], values)
            if mask.any():
                vertices_mm, triangles = organ_surface(mask, affine)
                steps = np.rint((vertices_mm - centre_mm) / VERTEX_STEP_MM).astype("<i2")
                surfaces.append({"map": name, "organ": organ, "n_vertices": len(steps), "n_triangles": len(triangles)})
                parts += [steps.tobytes(), triangles.astype("<u4").tobytes()]
    header = {
        "size": shape[::-1],
        "spacing_mm": [round(mm, 6) for mm in grid.GetSpacing()],
        "affine": [[round(float(v), 6) for v in row] for row in affine],
        "channels": channels,
        "maps": [{"name": name, "organs": meanings[name]} for name in maps],
        "surfaces": surfaces,
        "vertex_step_mm": VERTEX_STEP_MM,
        "centre_mm": [round(float(v), 6) for v in centre_mm],
    }
    head = json.dumps(header).encode()
    return gzip.compress(b"".join([len(head).to_bytes(4, "little"), head, *parts]), compresslevel=6, mtime=0)


def _in_bytes(labels: np.ndarray, organs: Mapping[str, tuple[int, ...]]) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The labels of organs as 1, 2, ... in one byte, all others as 0, and organ -> its values in it."""
    values = sorted({value for of_organ in organs.values() for value in of_organ})
    if len(values) > 255:
        raise ValueError(f"the viewer shows up to 255 labels; there are {len(values)}.")
    packed = np.zeros(labels.shape, np.uint8)
    for small, value in enumerate(values, start=1):
        packed[labels == value] = small
    return packed, {organ: [values.index(v) + 1 for v in of_organ] for organ, of_organ in organs.items()}


def _box(maps: Iterable[np.ndarray], shape: Sequence[int]) -> tuple[slice, ...]:
    """Box of everything labelled in any of the maps, or the whole volume if nothing is labelled."""
    labelled = np.zeros(shape, np.uint8)
    for label_map in maps:
        labelled |= label_map > 0
    return (ndimage.find_objects(labelled) or [tuple(slice(0, n) for n in shape)])[0]


def _greys(volume: np.ndarray, window: tuple[float, float]) -> tuple[np.ndarray, list[float]]:
    """The volume in 8 bit, and the display window in these values.

    The 8 bit span the window and half its width on each side, as far as the volume has such values. So a reader can
    widen the window.
    """
    half = (window[1] - window[0]) / 2
    low, high = max(window[0] - half, float(volume.min())), min(window[1] + half, float(volume.max()))
    scale = 255.0 / max(high - low, 1e-6)
    greys = np.rint(np.clip((volume.astype(np.float32) - low) * scale, 0, 255)).astype(np.uint8)
    return greys, [round((value - low) * scale, 2) for value in window]


def organ_surface(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Closed surface of a mask. It follows the distance to the outline between slices, so thick slices make no steps.

    Args:
        mask: Bool, `(Z, Y, X)`.
        affine: 4x4 matrix from voxel index `(x, y, z)` to mm.

    Returns:
        Vertices `(N, 3)` in mm in the affine's frame, and triangles `(M, 3)` of vertex numbers.
    """
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    padded = np.pad(mask[box], 2)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    inside_mm, outside_mm = (ndimage.distance_transform_edt(m, sampling=spacing_mm) for m in (padded, ~padded))
    distance_mm = (inside_mm - outside_mm).astype(np.float32)
    shape = np.maximum(np.rint((np.array(padded.shape) - 1) * spacing_mm / SURFACE_SPACING_MM).astype(int) + 1, 2)
    step = (np.array(padded.shape) - 1) / (shape - 1)  # voxels from one sample to the next
    samples = ndimage.affine_transform(distance_mm, step, output_shape=tuple(shape), order=1, mode="nearest")
    if samples.max() <= 0:  # thinner than the samples are apart
        samples, step = distance_mm, np.ones(3)
    vertices, triangles, _, _ = marching_cubes(samples, 0.0)
    voxels = vertices * step - 2 + [s.start for s in box]
    return voxels[:, ::-1] @ affine[:3, :3].T + affine[:3, 3], triangles
