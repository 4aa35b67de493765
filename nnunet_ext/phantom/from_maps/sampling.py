"""The tissue at any point of a case: that of the warped map, with fat and muscle divided and the organs drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.ndimage import label as label_pieces

from nnunet_ext.phantom.from_maps.organs import VALUE, OrganShapes
from nnunet_ext.phantom.from_maps.person import Person
from nnunet_ext.phantom.from_maps.tissues import CODE
from nnunet_ext.phantom.from_maps.warp import Warp
from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.sampling import Samples, Slab, part_centres, slabs
from nnunet_ext.phantom.waves import Waves

#: Sampling inside voxels, at least this fine, in the head and around the organs.
SAMPLE_MM, ORGAN_SAMPLE_MM = 1.1, 0.65
#: The warp is evaluated at nodes this far apart and interpolated between them, to about 0.1 mm.
LATTICE_MM = 4.0
#: Fat lies this deep under the skin on average, and how much that varies.
FAT_MM, FAT_SPREAD_MM = 3.0, 2.0
#: Sheets of fat between muscles: where a random function of unit variance is this near to zero.
FAT_SHEET = 0.1


def divided(person: Person, rng: np.random.Generator) -> np.ndarray:
    """The tissue codes of a person's map, in which fat and muscle are told apart.

    Fat lies under the skin, with muscle below, and in thin sheets between muscles. The map does not say where.
    """
    codes = person.tissues.copy()
    if not len(person.mixed):
        return codes
    axes = [np.arange(n, dtype=np.float32) * np.float32(person.frame.spacing_mm) for n in codes.shape]
    places = np.unravel_index(person.mixed, codes.shape)
    fields = []
    for wavelength_mm in ((15.0, 50.0), (25.0, 60.0)):
        fields.append(Waves.draw(rng, wavelength_mm, 8).on_grid(*axes)[places])
    muscle = (person.depth_mm > FAT_MM + FAT_SPREAD_MM * fields[0]) & (np.abs(fields[1]) > FAT_SHEET)
    codes.ravel()[person.mixed] = np.where(muscle, CODE["muscle"], CODE["fat"]).astype(np.uint8)
    return codes


@dataclass(frozen=True)
class Scene:
    """All that an image of one case shows.

    Attributes:
        person: The head.
        codes: Its tissues, fat and muscle divided.
        warp: From the image to the head.
        organs: Drawn over the tissues.
    """

    person: Person
    codes: np.ndarray
    warp: Warp
    organs: OrganShapes


class TissueSampler:
    """Tissues of a scene at samples of a grid.

    Args:
        scene: The case.
        grid: Grid of the image.
        to_ct_mm: From a point of this image to the point of the CT that shows there. None for the CT itself.
    """

    def __init__(self, scene: Scene, grid: Grid, to_ct_mm: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.scene, self.grid = scene, grid
        self.to_ct_mm = (lambda points: points) if to_ct_mm is None else to_ct_mm
        spacing = np.asarray(grid.spacing_mm)[::-1]
        low, high = np.asarray(grid.origin_mm)[::-1], grid.end_mm[::-1]
        self.origin = low - 1.5 * LATTICE_MM - spacing / 2
        counts = np.ceil((high - low + spacing) / LATTICE_MM).astype(int) + 4
        axes = [o + LATTICE_MM * np.arange(n) for o, n in zip(self.origin, counts, strict=True)]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]
        index = scene.person.frame.to_index(scene.warp.to_head_mm(self.to_ct_mm(nodes)))
        self.index = np.ascontiguousarray(np.moveaxis(index, -1, 0), np.float32)

    def slab(self, z_mm: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> Slab:
        """Samples at some heights, rows and columns."""
        n_nodes = self.index.shape[1:]
        z, y, x = (Samples(mm, self.origin[a], LATTICE_MM, n_nodes[a]) for a, mm in enumerate((z_mm, y_mm, x_mm)))
        return Slab((z, y, x), self.grid.spacing_mm[0])

    def tissues(self, slab: Slab) -> np.ndarray:
        """Codes of the map, uint8 `(Z, Y, X)`, without the organs."""
        codes, nodes = self.scene.codes, slab.nodes
        flat: np.ndarray | None = None
        for axis, values in enumerate(self.index):
            at = slab.interpolate(values[nodes], nodes)
            np.rint(at, out=at)
            np.clip(at, 0, codes.shape[axis] - 1, out=at)
            at = at.astype(np.int32)
            flat = at if flat is None else flat * np.int32(codes.shape[axis]) + at
        assert flat is not None
        return codes.ravel()[flat]

    def with_organs(self, z_mm: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> np.ndarray:
        """Codes with the organs, uint8 `(Z, Y, X)`."""
        codes = self.tissues(self.slab(z_mm, y_mm, x_mm))
        points = np.stack(np.meshgrid(z_mm, y_mm, x_mm, indexing="ij"), axis=-1)[..., ::-1].reshape(-1, 3)
        return self.scene.organs.paint(codes.ravel(), self.to_ct_mm(points)).reshape(codes.shape)

    def organ_box(self) -> tuple[slice, slice, slice] | None:
        """Voxels `(z, y, x)` that hold the organs. None if the grid misses them."""
        low, high = self.scene.organs.box_mm
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
        reach = np.abs(self.to_ct_mm(corners) - corners).max() + 1
        spacing, origin = np.asarray(self.grid.spacing_mm), np.asarray(self.grid.origin_mm)
        first = np.clip(np.floor((low - reach - origin) / spacing).astype(int), 0, self.grid.size_voxels)
        last = np.clip(np.ceil((high + reach - origin) / spacing).astype(int) + 1, first, self.grid.size_voxels)
        if (first >= last).any():
            return None
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return z, y, x

    def coarse_parts(self) -> Iterator[tuple[slice, np.ndarray, tuple[int, int, int]]]:
        """Slices of the grid with the tissues at all samples of their voxels, without the organs.

        Yields:
            The slices, codes, and the number of samples of a voxel along `(z, y, x)`.
        """
        centres = [part_centres(mm, SAMPLE_MM) for mm in self.grid.spacing_mm[::-1]]
        counts = tuple(len(offsets) for offsets in centres)
        z, y, x = (self._samples(axis, slice(None), centres[axis]) for axis in range(3))
        for some in slabs(self.grid.size_voxels[2], len(y) * len(x) * counts[0]):
            part = z[some.start * counts[0] : some.stop * counts[0]]
            yield some, self.tissues(self.slab(part, y, x)), counts  # type: ignore[misc]

    def fine_parts(self) -> Iterator[tuple[tuple[slice, slice, slice], np.ndarray, tuple[int, int, int]]]:
        """The same for the box around the organs, with more samples and with the organs. It yields boxes of voxels."""
        box = self.organ_box()
        if box is None:
            return
        centres = [part_centres(mm, ORGAN_SAMPLE_MM) for mm in self.grid.spacing_mm[::-1]]
        counts = tuple(len(offsets) for offsets in centres)
        y, x = (self._samples(axis, box[axis], centres[axis]) for axis in (1, 2))
        for some in slabs(box[0].stop - box[0].start, len(y) * len(x) * counts[0]):
            rows = slice(box[0].start + some.start, box[0].start + some.stop)
            codes = self.with_organs(self._samples(0, rows, centres[0]), y, x)
            yield (rows, box[1], box[2]), codes, counts  # type: ignore[misc]

    def _samples(self, axis: int, voxels: slice, offsets: np.ndarray) -> np.ndarray:
        """Places of all samples along an axis of `(z, y, x)`."""
        middles = self.grid.coordinates_mm(2 - axis)[voxels].astype(np.float64)
        return (middles[:, None] + offsets).ravel()


def means(values: np.ndarray, counts: tuple[int, int, int]) -> np.ndarray:
    """Means over the samples of each voxel, `(Z, Y, X)`."""
    z, y, x = counts
    if x > 1:
        values = sum(values[:, :, first::x] for first in range(x))  # type: ignore[assignment]
    if y > 1:
        values = sum(values[:, first::y] for first in range(y))  # type: ignore[assignment]
    if z > 1:
        values = sum(values[first::z] for first in range(z))  # type: ignore[assignment]
    return values / np.float32(z * y * x)


def render(sampler: TissueSampler, tables: np.ndarray) -> np.ndarray:
    """Noise-free images.

    Args:
        sampler: Of the scene on a grid.
        tables: Value of each tissue code in each image, `(C, n_tissues)`.

    Returns:
        `(C, Z, Y, X)` float32.
    """
    tables = tables.astype(np.float32)
    image = np.empty((len(tables), *sampler.grid.size_voxels[::-1]), np.float32)
    for some, codes, counts in sampler.coarse_parts():
        for channel, table in zip(image, tables, strict=True):
            channel[some] = means(table[codes], counts)
    for box, codes, counts in sampler.fine_parts():
        for channel, table in zip(image, tables, strict=True):
            channel[box] = means(table[codes], counts)
    return image


def labels_on(scene: Scene, grid: Grid) -> np.ndarray:
    """Labels at the centres of the voxels, uint8 `(Z, Y, X)`.

    Voxels that the centreline of a nerve crosses belong to it, so that it is one piece on thick slices, too. If its end
    still misses the chiasm there, voxels between the two are added to the chiasm.
    """
    labels = np.zeros(grid.size_voxels[::-1], np.uint8)
    box = TissueSampler(scene, grid).organ_box()
    if box is None:
        return labels
    z, y, x = (grid.coordinates_mm(2 - axis)[box[axis]].astype(np.float64) for axis in range(3))
    points = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1)[..., ::-1]
    part = scene.organs.labels(points.reshape(-1, 3)).reshape(points.shape[:-1])
    _drop_strays(part, VALUE["OpticChiasm"])
    first_mm = np.array([x[0], y[0], z[0]])

    def add(value: int, line_mm: np.ndarray) -> None:
        """Free voxels that a line crosses take the label."""
        at = np.rint((line_mm - first_mm) / np.asarray(grid.spacing_mm)).astype(int)[:, ::-1]
        at = at[((at >= 0) & (at < part.shape)).all(axis=1)]
        part[tuple(at[part[tuple(at.T)] == 0].T)] = value

    middle_mm = scene.warp.to_world_mm(np.zeros(3))
    for value, centreline in scene.organs.free_centrelines_mm().items():
        add(value, centreline)
        _drop_strays(part, value)
        chiasm = part == VALUE["OpticChiasm"]
        if not (binary_dilation(part == value, np.ones((3, 3, 3), bool)) & chiasm).any():
            add(VALUE["OpticChiasm"], np.linspace(centreline[-1], middle_mm, 40))
    labels[box] = part
    return labels


def _drop_strays(labels: np.ndarray, value: int) -> None:
    """Clear all but the largest piece of an organ, in place: a few voxels at most, where nerve and chiasm overlap."""
    pieces, n_pieces = label_pieces(labels == value, np.ones((3, 3, 3), bool))
    if n_pieces > 1:
        largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        labels[(pieces > 0) & (pieces != largest)] = 0
