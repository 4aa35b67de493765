"""Painting of one anatomy onto one grid, with partial volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.anatomy import Anatomy
from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.organ_labels import Organs
from nnunet_ext.phantom.sampling import (
    Block,
    Lattice,
    Samples,
    Slab,
    around,
    block_means,
    common,
    moved,
    part_centres,
    slabs,
)
from nnunet_ext.phantom.tissues import TISSUES, Layer

#: Sampling inside voxels, at least this fine: where organs are measured in the plane and across it, and elsewhere.
ORGAN_IN_PLANE_MM, ORGAN_ACROSS_MM, IN_PLANE_MM, ACROSS_MM = 0.85, 1.1, 1.3, 1.6
#: A point is no further from the nearest corner of its cell than half a diagonal. This many steps are 1.5 times as much:
#: the head's frame is bent, and estimated distances can change by more than the way.
CELL_REACH = 1.3


def paint(canvas: np.ndarray, distance_mm: np.ndarray, value: np.ndarray, pixel_mm: float) -> None:
    """Lay one tissue over the canvas `(C, ...)` in place. The edge is a ramp one pixel wide."""
    alpha = np.clip(0.5 - distance_mm / np.float32(pixel_mm), 0, 1)
    for channel, v in zip(canvas, value, strict=True):
        channel += alpha * (v - channel)


class Painter:
    """Paints one anatomy onto one grid.

    Args:
        anatomy: The head.
        grid: Grid of the image.
        to_head_mm: Maps world points `(..., 3)` of this grid to the head frame.
        channels: Columns of `TISSUES` to paint.
        tissues: Intensities, as `TISSUES`.
        accessories: Paint mask (CT) before the head.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        grid: Grid,
        to_head_mm: Callable[[np.ndarray], np.ndarray],
        *,
        channels: Sequence[int],
        tissues: Mapping[str, Sequence[float]] = TISSUES,
        accessories: bool = False,
    ) -> None:
        self.anatomy, self.grid, self.channels = anatomy, grid, list(channels)
        self.tissues = {name: np.array([v[c] for c in self.channels], np.float32) for name, v in tissues.items()}
        # Distances are interpolated between nodes; for a ball the size of a globe this is off by step^2 / (8 radius),
        # 0.1 mm at 3 mm and 0.2 mm at 4 mm, well below the voxels.
        step_mm = 3.0 if min(grid.spacing_mm) < 2 else 4.0
        low, high = np.asarray(grid.origin_mm)[::-1], grid.end_mm[::-1]
        origin = low - 1.5 * step_mm - np.asarray(grid.spacing_mm)[::-1] / 2
        counts = np.ceil((high - low + np.asarray(grid.spacing_mm)[::-1]) / step_mm).astype(int) + 4
        axes = [(o + step_mm * np.arange(n)).astype(np.float32) for o, n in zip(origin, counts, strict=True)]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]
        self.lattice = Lattice(origin, step_mm, to_head_mm(nodes).astype(np.float32))
        layers = (*anatomy.accessories, *anatomy.coarse) if accessories else anatomy.coarse
        self.coarse_layers = self._on_lattice(layers)
        self.fine_layers = self._on_lattice(anatomy.fine)

    def _on_lattice(self, layers: Sequence[Layer]) -> list[tuple[Layer, Block]]:
        """Layers that the lattice does not miss, each with its nodes."""
        blocks = [(layer, self.lattice.block(*_box(layer))) for layer in layers]
        found = [(layer, block) for layer, block in blocks if block is not None]
        for layer, block in found:
            for shape in (*layer.shapes, *([self.anatomy.skin] if layer.under_skin_mm is not None else [])):
                self.lattice.will_need(shape, block)
        return found

    def _samples(self, axis: int, world_mm: np.ndarray) -> Samples:
        """Along an axis of `(z, y, x)`."""
        lattice = self.lattice
        return Samples(world_mm, lattice.origin_mm[axis], lattice.step_mm, lattice.head_mm.shape[axis])

    def paint(self, background: np.ndarray, *, with_organs: bool = False) -> tuple[np.ndarray, Organs | None]:
        """The noise-free image.

        Args:
            background: Intensities around the head, broadcastable to `(C, Y, X)`, the same on every slice.
            with_organs: Also return the share of every voxel that each organ covers.

        Returns:
            Image `(C, Z, Y, X)` float32, and the organs (None if not asked for).
        """
        nx, ny, nz = self.grid.size_voxels
        image = np.empty((len(self.channels), nz, ny, nx), np.float32)
        offsets = part_centres(self.grid.spacing_mm[2], ACROSS_MM)
        y, x = (self._samples(axis, self.grid.coordinates_mm(2 - axis)) for axis in (1, 2))
        background = np.broadcast_to(np.float32(background), (len(self.channels), ny, nx))[:, None]
        z_mm = self.grid.coordinates_mm(2)
        for some in slabs(nz, ny * nx * len(offsets)):
            z = self._samples(0, (z_mm[some, None] + offsets).ravel())
            canvas = background.repeat(len(z.node), axis=1)
            self._paint_coarse(canvas, Slab((z, y, x), self.grid.spacing_mm[0]))
            image[:, some] = canvas.reshape(len(canvas), -1, len(offsets), ny, nx).mean(axis=2)
        return image, self._refine(image, background, with_organs)

    def _paint_coarse(self, canvas: np.ndarray, slab: Slab) -> None:
        n_tissue = len(self.channels)
        nodes = slab.nodes
        for layer, block in self.coarse_layers:
            part = common(block, nodes)
            if part is None:
                continue
            # Nothing of a layer shows in cells at whose corners its first distance is large.
            first = self.lattice.distances_mm(layer.shapes[0], part)
            near = around(first <= slab.pixel_mm)
            if near is None:
                continue
            if layer.beyond_mm:
                wide = around(first <= slab.pixel_mm + layer.beyond_mm)
                assert wide is not None  # it holds what is near
                near = (near[0], *wide[1:])
            z, y, x = (slice(nodes.start - 1, nodes.stop + 1) for nodes in moved(near, part))
            part = common((z, y, x), part)
            assert part is not None  # it holds what is near
            fields = [slab.interpolate(self.lattice.distances_mm(shape, part), part) for shape in layer.shapes]
            if fields[0].size:
                z, y, x = slab.between(part)
                tissue = self.tissues[layer.tissue]
                paint(canvas[:n_tissue, z, y, x], layer.combine(*fields), tissue, slab.pixel_mm)

    def _refine(self, image: np.ndarray, background: np.ndarray, with_organs: bool) -> Organs | None:
        """Paint the box of the small structures again, finer, and put it into `image` in place."""
        start, stop = self._fine_box()
        spacing = np.asarray(self.grid.spacing_mm)[::-1]
        fine = part_centres(spacing[1], ORGAN_IN_PLANE_MM if with_organs else IN_PLANE_MM)
        across = part_centres(spacing[0], ORGAN_ACROSS_MM if with_organs else ACROSS_MM)
        n = len(fine)
        centres = [self.grid.coordinates_mm(2 - a)[start[a] : stop[a]] for a in range(3)]
        y, x = (
            self._samples(axis, (centres[axis][:, None] + fine[None]).ravel().astype(np.float32)) for axis in (1, 2)
        )
        n_tissue, n_organ = len(self.channels), len(ORGANS) if with_organs else 0
        coverage = np.zeros((n_organ, *(b - a for a, b in zip(start, stop, strict=True))), np.float32)
        inside = tuple(slice(a, b) for a, b in zip(start[1:], stop[1:], strict=True))
        flat = background[:, :, inside[0], inside[1]].repeat(n, axis=2).repeat(n, axis=3)
        pixel_mm = float(spacing[1]) / n
        layers = self._near_surface(pixel_mm)
        for some in slabs(len(centres[0]), flat[0].size * len(across)):
            z = self._samples(0, (centres[0][some, None] + across).ravel())
            slab = Slab((z, y, x), pixel_mm)
            canvas = np.zeros((n_tissue + n_organ, len(z.node), *flat.shape[2:]), np.float32)
            canvas[:n_tissue] = flat
            self._paint_coarse(canvas, slab)
            self._paint_fine(canvas, slab, layers)
            means = block_means(canvas, len(across), n)
            image[:, start[0] + some.start : start[0] + some.stop, inside[0], inside[1]] = means[:n_tissue]
            coverage[:, some] = means[n_tissue:]
        return Organs(coverage, start) if with_organs else None

    def _near_surface(self, pixel_mm: float) -> list[tuple[Layer, Block, np.ndarray]]:
        """Fine layers with their nodes, and which cells between these a layer can reach, bool."""
        found = []
        for layer, block in self.fine_layers:
            lowest = self.lattice.distances_mm(layer.shapes[0], block)
            for axis in range(3):
                ahead, behind = [slice(None)] * 3, [slice(None)] * 3
                ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
                lowest = np.minimum(lowest[tuple(ahead)], lowest[tuple(behind)])
            found.append((layer, block, lowest <= pixel_mm / 2 + CELL_REACH * self.lattice.step_mm))
        return found

    def _paint_fine(self, canvas: np.ndarray, slab: Slab, layers: Sequence[tuple[Layer, Block, np.ndarray]]) -> None:
        nodes = slab.nodes
        head_mm = [slab.interpolate(axis[nodes], nodes) for axis in self.lattice.axes_mm]
        n_tissue = len(self.channels)
        organs = np.arange(1, len(canvas) - n_tissue + 1)
        painted = np.zeros(len(organs), bool)  # an organ that is nowhere yet cannot be covered
        for layer, block, reached in layers:
            part = common(block, nodes)
            if part is None:
                continue
            samples = slab.between(part)
            cells = (a.node[s] - b.start for a, s, b in zip(slab.axes, samples, block, strict=True))
            near = reached[np.ix_(*cells)]
            if not near.any():
                continue
            points = np.stack([axis[samples][near] for axis in head_mm], axis=-1)
            distance = layer.combine(*(shape.distance_mm(points) for shape in layer.shapes))
            if layer.under_skin_mm is not None:
                skin = slab.interpolate(self.lattice.distances_mm(self.anatomy.skin, part), part)[near]
                distance = np.maximum(distance, skin + np.float32(layer.under_skin_mm))
            painted |= organs == layer.organ
            channels = [*range(n_tissue), *(n_tissue + np.flatnonzero(painted))]
            value = [*self.tissues[layer.tissue], *(organs == layer.organ)[painted].astype(np.float32)]
            alpha = np.clip(0.5 - distance / np.float32(slab.pixel_mm), 0, 1)
            for channel, v in zip(channels, value, strict=True):
                view = canvas[channel][samples]
                before = view[near]
                view[near] = before + alpha * (v - before)

    def _fine_box(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Voxels `(z, y, x)` from, to (exclusive) around all fine layers."""
        blocks = [b for _, b in self.fine_layers]
        start, stop = [], []
        for axis in range(3):
            low = self.lattice.origin_mm[axis] + self.lattice.step_mm * min(b[axis].start for b in blocks)
            high = self.lattice.origin_mm[axis] + self.lattice.step_mm * (max(b[axis].stop for b in blocks) - 1)
            world = self.grid.coordinates_mm(2 - axis)
            start.append(int(np.searchsorted(world, low)))
            stop.append(int(np.searchsorted(world, high, side="right")))
        (z, y, x), (z_end, y_end, x_end) = start, stop
        return (z, y, x), (z_end, y_end, x_end)


def _box(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    return layer.shapes[0].low_mm, layer.shapes[0].high_mm
