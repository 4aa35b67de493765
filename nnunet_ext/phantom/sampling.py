"""Samples inside voxels, and the coarse lattice that distances are interpolated from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_ext.phantom.shapes import FAR_MM, Shape

#: Samples painted at a time: few calls on small volumes, and arrays that stay in the processor's cache.
SLAB_SAMPLES = 2**18
#: Nodes or samples along z, y and x.
Block = tuple[slice, slice, slice]


class Lattice:
    """Head coordinates at the nodes of a coarse lattice in the world, with the distances evaluated there so far."""

    def __init__(self, origin_mm: np.ndarray, step_mm: float, head_mm: np.ndarray) -> None:
        """Origin `(z, y, x)`, and the head coordinates of the nodes, `(nz, ny, nx, 3)`."""
        self.origin_mm, self.step_mm, self.head_mm = origin_mm, step_mm, head_mm
        self.axes_mm = [np.ascontiguousarray(head_mm[..., axis]) for axis in range(3)]
        #: Along each axis of the lattice, of each head coordinate: lowest and highest in every layer of nodes.
        self.ranges_mm = [
            [(h.min(axis=others), h.max(axis=others)) for h in self.axes_mm] for others in ((1, 2), (0, 2), (0, 1))
        ]
        self.extents: dict[int, Block] = {}
        self.distances: dict[int, np.ndarray] = {}

    def block(self, low_mm: np.ndarray, high_mm: np.ndarray) -> Block | None:
        """Nodes needed to interpolate inside a box of the head frame. None if the lattice misses it."""
        margin = 1.8 * self.step_mm  # diagonal of a cell: no cell that touches the box is missed
        sides = [(axis, low_mm[axis] - margin, high_mm[axis] + margin) for axis in range(3)]
        sides = [(axis, low, high) for axis, low, high in sides if low > -FAR_MM / 2 or high < FAR_MM / 2]
        possible = []
        for along in self.ranges_mm:
            hit = np.ones(len(along[0][0]), bool)
            for axis, low, high in sides:
                lowest, highest = along[axis]
                hit &= (highest > low) & (lowest < high)
            if not hit.any():
                return None
            possible.append(slice(int(hit.argmax()), len(hit) - int(hit[::-1].argmax())))
        z, y, x = possible
        inside = np.ones(self.axes_mm[0][z, y, x].shape, bool)
        for axis, low, high in sides:
            h = self.axes_mm[axis][z, y, x]
            inside &= (h > low) & (h < high)
        box = around(inside)
        return None if box is None else moved(box, (z, y, x))

    def will_need(self, shape: Shape, block: Block) -> None:
        """Take note of a layer's nodes. Shapes are evaluated once, on all nodes that some layer needs."""
        if shape.base is not None:
            self.will_need(shape.base, block)
            return
        known = self.extents.get(id(shape), block)
        z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(known, block, strict=True))
        self.extents[id(shape)] = z, y, x

    def distances_mm(self, shape: Shape, block: Block) -> np.ndarray:
        """Signed distances of the shape at the nodes of a block that `will_need` was told of."""
        if shape.base is not None:
            return self.distances_mm(shape.base, block) - np.float32(shape.margin_mm)
        extent = self.extents[id(shape)]
        if id(shape) not in self.distances:
            self.distances[id(shape)] = shape.distance_mm(self.head_mm[extent]).astype(np.float32)
        return self.distances[id(shape)][moved(block, extent, -1)]


class Samples:
    """Samples along one axis, in order, and their places between the lattice's nodes."""

    def __init__(self, world_mm: np.ndarray, origin_mm: float, step_mm: float, n_nodes: int) -> None:
        position = (world_mm.astype(np.float64) - origin_mm) / step_mm
        self.node = position.astype(np.intp)
        each = np.arange(len(world_mm))
        self.weights = np.zeros((len(world_mm), n_nodes), np.float32)
        self.weights[each, self.node] = 1 - (position - self.node)
        self.weights[each, self.node + 1] = position - self.node

    def between(self, nodes: slice) -> slice:
        """Samples that lie between the nodes of a range."""
        return slice(*np.searchsorted(self.node, (nodes.start, nodes.stop - 1)).tolist())

    @property
    def nodes(self) -> slice:
        """Nodes around all samples."""
        return slice(int(self.node[0]), int(self.node[-1]) + 2)


@dataclass(frozen=True)
class Slab:
    """Samples at some heights, rows and columns.

    Attributes:
        axes: Along z, y and x.
        pixel_mm: Distance of the columns.
    """

    axes: tuple[Samples, Samples, Samples]
    pixel_mm: float

    @property
    def nodes(self) -> Block:
        """Nodes around all samples."""
        z, y, x = self.axes
        return z.nodes, y.nodes, x.nodes

    def between(self, block: Block) -> Block:
        """Samples between the nodes of a block."""
        z, y, x = (axis.between(nodes) for axis, nodes in zip(self.axes, block, strict=True))
        return z, y, x

    def interpolate(self, values: np.ndarray, block: Block) -> np.ndarray:
        """Linear interpolation of values at the nodes of a block, at the samples between them."""
        z, y, x = (a.weights[a.between(nodes), nodes] for a, nodes in zip(self.axes, block, strict=True))
        rows = np.matmul(y, values @ x.T)
        return (z @ rows.reshape(len(rows), -1)).reshape(len(z), *rows.shape[1:])


def around(inside: np.ndarray) -> Block | None:
    """Box of a mask. None if it is empty."""
    z, y, x = (np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    if not z.size:
        return None
    return slice(int(z[0]), int(z[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


def moved(block: Block, extent: Block, sign: int = 1) -> Block:
    """A block counted from the first node of one that holds it, as a block of the lattice. Back with a sign of -1."""
    z, y, x = (slice(b.start + sign * e.start, b.stop + sign * e.start) for b, e in zip(block, extent, strict=True))
    return z, y, x


def common(block: Block, other: Block) -> Block | None:
    """Nodes of both blocks. None if there is no cell between them."""
    z, y, x = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(block, other, strict=True))
    return (z, y, x) if all(nodes.stop - nodes.start > 1 for nodes in (z, y, x)) else None


def slabs(n_slices: int, samples_per_slice: int) -> list[slice]:
    """All slices, as many at a time as `SLAB_SAMPLES` allow."""
    n = max(1, SLAB_SAMPLES // samples_per_slice)
    return [slice(first, min(first + n, n_slices)) for first in range(0, n_slices, n)]


def block_means(fine: np.ndarray, across: int, in_plane: int) -> np.ndarray:
    """Means of `(C, Z, Y, X)` over blocks of samples."""
    channels, nz, ny, nx = fine.shape
    parts = fine.reshape(channels, nz // across, across, ny // in_plane, in_plane, nx).sum(axis=(2, 4))
    columns = sum(parts[..., first::in_plane] for first in range(in_plane))
    return columns / np.float32(across * in_plane**2)


def part_centres(voxel_mm: float, step_mm: float) -> np.ndarray:
    """Centres of equal parts of a voxel, none larger than `step_mm`, relative to the voxel's centre."""
    n = max(1, int(np.ceil(voxel_mm / step_mm - 1e-6)))
    return ((np.arange(n) + 0.5) / n - 0.5) * voxel_mm
