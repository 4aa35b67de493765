"""Imaging of a phantom: grids, painting with partial volume, exact labels, and what CT and MR add to the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation, convolve1d
from scipy.ndimage import label as label_pieces

from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.anatomy import Anatomy, Layer
from nnunet_ext.phantom.shapes import FAR_MM, Shape, Waves

#: Sampling inside voxels, at least this fine: where organs are measured in the plane and across it, and elsewhere.
ORGAN_IN_PLANE_MM, ORGAN_ACROSS_MM, IN_PLANE_MM, ACROSS_MM = 0.85, 1.1, 1.3, 1.6
#: Samples painted at a time: few calls on small volumes, and arrays that stay in the processor's cache.
SLAB_SAMPLES = 2**18
#: A point is no further from the nearest corner of its cell than half a diagonal. This many steps are 1.5 times as much:
#: the head's frame is bent, and estimated distances can change by more than the way.
CELL_REACH = 1.3

#: Tissue -> (CT in HU, T1w, T2w in arbitrary units of a noise-free, bias-free image).
TISSUES = {
    "air": (AIR_HU, 8, 8),
    "mask": (-60, 8, 8),
    "skin": (25, 400, 200),
    "lid": (30, 420, 260),
    "fat": (-95, 900, 560),
    "muscle": (52, 340, 150),
    "gland": (30, 520, 330),
    "mucosa": (35, 380, 620),
    "nasal_soft": (35, 390, 560),
    "cortical": (1150, 60, 30),
    "marrow": (480, 430, 230),
    "bone": (720, 170, 90),
    "thin_bone": (380, 200, 140),
    "tooth": (1700, 40, 20),
    "disc": (85, 260, 160),
    "metal": (60, 0, 0),  # in MR it leaves a void; CT draws it with its streaks
    "csf": (9, 150, 920),
    "cistern": (17, 160, 880),
    "sheath": (14, 240, 780),
    "grey": (38, 470, 430),
    "white": (32, 640, 310),
    "deep_grey": (38, 520, 370),
    "stem": (34, 600, 330),
    "pituitary": (42, 560, 400),
    "vessel": (42, 110, 60),
    "nerve": (36, 560, 320),
    "chiasm": (28, 590, 300),
    "sclera": (45, 310, 220),
    "vitreous": (10, 150, 980),
    "lens": (90, 430, 140),
    "implant": (140, 130, 110),
    "tumour": (55, 560, 560),
    "necrosis": (20, 260, 820),
    "oedema": (24, 420, 660),
}
CT, T1, T2 = 0, 1, 2
METAL_RADIUS_MM = 2.5
MR_WHITE_MATTER = 640.0  # noise levels are given as a share of this
#: INU as BrainWeb counts it (Collins et al. 1998, doi:10.1109/42.712135), from its usual level up to what the flexible
#: coil of a radiotherapy MR shows: 71 % uniformity, read as 29 % to either side (Liney et al. 2013,
#: doi:10.1259/bjr.20130150).
MR_NON_UNIFORMITY = (0.2, 0.6)


@dataclass(frozen=True)
class Grid:
    """An axis-aligned image grid in LPS; all triples are `(x, y, z)`."""

    size_voxels: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    def coordinates_mm(self, axis: int) -> np.ndarray:
        """World coordinate of every voxel centre along one axis, float32."""
        return (self.origin_mm[axis] + self.spacing_mm[axis] * np.arange(self.size_voxels[axis])).astype(np.float32)

    @property
    def end_mm(self) -> np.ndarray:
        """World position of the last voxel centre."""
        return np.asarray(self.origin_mm) + (np.asarray(self.size_voxels) - 1) * np.asarray(self.spacing_mm)


@dataclass(frozen=True)
class Organs:
    """Shares of voxels covered by each organ, in a box of the grid.

    Attributes:
        coverage: `(7, Z, Y, X)`, label order, in [0, 1].
        start_voxels: First voxel of the box, `(z, y, x)`.
    """

    coverage: np.ndarray
    start_voxels: tuple[int, int, int]


# ---------------------------------------------------------------------------------------------------- painting


Block = tuple[slice, slice, slice]


class _Lattice:
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
        """Nodes needed to interpolate inside a box of the head frame; None where the lattice misses it."""
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
        box = _around(inside)
        return None if box is None else _moved(box, (z, y, x))

    def will_need(self, shape: Shape, block: Block) -> None:
        """Shapes are evaluated once, on all nodes that some layer needs."""
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
        return self.distances[id(shape)][_moved(block, extent, -1)]


class _Samples:
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
class _Slab:
    """Samples at some heights, rows and columns.

    Attributes:
        axes: Along z, y and x.
        pixel_mm: Distance of the columns.
    """

    axes: tuple[_Samples, _Samples, _Samples]
    pixel_mm: float

    @property
    def nodes(self) -> Block:
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


def _around(inside: np.ndarray) -> Block | None:
    """Box of a mask. None if it is empty."""
    z, y, x = (np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    if not z.size:
        return None
    return slice(int(z[0]), int(z[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


def _moved(block: Block, extent: Block, sign: int = 1) -> Block:
    """A block counted from the first node of one that holds it, as a block of the lattice; back with a sign of -1."""
    z, y, x = (slice(b.start + sign * e.start, b.stop + sign * e.start) for b, e in zip(block, extent, strict=True))
    return z, y, x


def _common(block: Block, other: Block) -> Block | None:
    """Nodes of both blocks. None if there is no cell between them."""
    z, y, x = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(block, other, strict=True))
    return (z, y, x) if all(nodes.stop - nodes.start > 1 for nodes in (z, y, x)) else None


def _paint(canvas: np.ndarray, distance_mm: np.ndarray, value: np.ndarray, pixel_mm: float) -> None:
    """Lay one tissue over the canvas `(C, ...)` in place; the edge is a ramp one pixel wide."""
    alpha = np.clip(0.5 - distance_mm / np.float32(pixel_mm), 0, 1)
    for channel, v in zip(canvas, value, strict=True):
        channel += alpha * (v - channel)


class Painter:
    """Paints one anatomy onto one grid.

    Args:
        anatomy: What to paint.
        grid: Where.
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
        self.lattice = _Lattice(origin, step_mm, to_head_mm(nodes).astype(np.float32))
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

    def _samples(self, axis: int, world_mm: np.ndarray) -> _Samples:
        """Along an axis of `(z, y, x)`."""
        lattice = self.lattice
        return _Samples(world_mm, lattice.origin_mm[axis], lattice.step_mm, lattice.head_mm.shape[axis])

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
        offsets = _offsets(self.grid.spacing_mm[2], ACROSS_MM)
        y, x = (self._samples(axis, self.grid.coordinates_mm(2 - axis)) for axis in (1, 2))
        background = np.broadcast_to(np.float32(background), (len(self.channels), ny, nx))[:, None]
        z_mm = self.grid.coordinates_mm(2)
        for some in _slices(nz, ny * nx * len(offsets)):
            z = self._samples(0, (z_mm[some, None] + offsets).ravel())
            canvas = background.repeat(len(z.node), axis=1)
            self._paint_coarse(canvas, _Slab((z, y, x), self.grid.spacing_mm[0]))
            image[:, some] = canvas.reshape(len(canvas), -1, len(offsets), ny, nx).mean(axis=2)
        return image, self._refine(image, background, with_organs)

    def _paint_coarse(self, canvas: np.ndarray, slab: _Slab) -> None:
        n_tissue = len(self.channels)
        nodes = slab.nodes
        for layer, block in self.coarse_layers:
            part = _common(block, nodes)
            if part is None:
                continue
            # Nothing of a layer shows in cells at whose corners its first distance is large.
            first = self.lattice.distances_mm(layer.shapes[0], part)
            near = _around(first <= slab.pixel_mm)
            if near is None:
                continue
            if layer.beyond_mm:
                wide = _around(first <= slab.pixel_mm + layer.beyond_mm)
                assert wide is not None  # it holds what is near
                near = (near[0], *wide[1:])
            z, y, x = (slice(nodes.start - 1, nodes.stop + 1) for nodes in _moved(near, part))
            part = _common((z, y, x), part)
            assert part is not None  # it holds what is near
            fields = [slab.interpolate(self.lattice.distances_mm(shape, part), part) for shape in layer.shapes]
            if fields[0].size:
                z, y, x = slab.between(part)
                tissue = self.tissues[layer.tissue]
                _paint(canvas[:n_tissue, z, y, x], layer.combine(*fields), tissue, slab.pixel_mm)

    def _refine(self, image: np.ndarray, background: np.ndarray, with_organs: bool) -> Organs | None:
        """Paint the box of the small structures again, finer, and put it into `image` in place."""
        start, stop = self._fine_box()
        spacing = np.asarray(self.grid.spacing_mm)[::-1]
        fine = _offsets(spacing[1], ORGAN_IN_PLANE_MM if with_organs else IN_PLANE_MM)
        across = _offsets(spacing[0], ORGAN_ACROSS_MM if with_organs else ACROSS_MM)
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
        for some in _slices(len(centres[0]), flat[0].size * len(across)):
            z = self._samples(0, (centres[0][some, None] + across).ravel())
            slab = _Slab((z, y, x), pixel_mm)
            canvas = np.zeros((n_tissue + n_organ, len(z.node), *flat.shape[2:]), np.float32)
            canvas[:n_tissue] = flat
            self._paint_coarse(canvas, slab)
            self._paint_fine(canvas, slab, layers)
            means = _block_means(canvas, len(across), n)
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

    def _paint_fine(self, canvas: np.ndarray, slab: _Slab, layers: Sequence[tuple[Layer, Block, np.ndarray]]) -> None:
        nodes = slab.nodes
        head_mm = [slab.interpolate(axis[nodes], nodes) for axis in self.lattice.axes_mm]
        n_tissue = len(self.channels)
        organs = np.arange(1, len(canvas) - n_tissue + 1)
        painted = np.zeros(len(organs), bool)  # an organ that is nowhere yet cannot be covered
        for layer, block, reached in layers:
            part = _common(block, nodes)
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


def _slices(n_slices: int, samples_per_slice: int) -> list[slice]:
    """All slices, as many at a time as `SLAB_SAMPLES` allow."""
    n = max(1, SLAB_SAMPLES // samples_per_slice)
    return [slice(first, min(first + n, n_slices)) for first in range(0, n_slices, n)]


def _block_means(fine: np.ndarray, across: int, in_plane: int) -> np.ndarray:
    """Means of `(C, Z, Y, X)` over blocks of samples."""
    channels, nz, ny, nx = fine.shape
    parts = fine.reshape(channels, nz // across, across, ny // in_plane, in_plane, nx).sum(axis=(2, 4))
    columns = sum(parts[..., first::in_plane] for first in range(in_plane))
    return columns / np.float32(across * in_plane**2)


def _offsets(voxel_mm: float, step_mm: float) -> np.ndarray:
    """Centres of equal parts of a voxel, none larger than `step_mm`, relative to the voxel's centre."""
    n = max(1, int(np.ceil(voxel_mm / step_mm - 1e-6)))
    return ((np.arange(n) + 0.5) / n - 0.5) * voxel_mm


def paint_outlines(
    anatomy: Anatomy, grid: Grid, to_head_mm: Callable[[np.ndarray], np.ndarray], background_hu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a perfect cleaning of the CT would know.

    Args:
        anatomy: The head.
        grid: The CT grid.
        to_head_mm: Maps world points to the head frame.
        background_hu: Air with the couch, as `couch_background` gives it.

    Returns:
        Share of every voxel inside the skin, and what couch and fixation mask add to the HU of air; both
        `(Z, Y, X)` float32, painted as the CT is.
    """
    solid = replace(anatomy, coarse=(Layer("skin", (anatomy.skin,)),))
    tissues = dict.fromkeys(TISSUES, (1.0, 0.0)) | {"mask": (0.0, TISSUES["mask"][CT] - AIR_HU)}
    background = np.concatenate([np.zeros_like(background_hu), background_hu - np.float32(AIR_HU)])
    painter = Painter(solid, grid, to_head_mm, channels=(0, 1), tissues=tissues, accessories=True)
    (inside, excess_hu), _ = painter.paint(background)
    return inside, excess_hu


def paint_shares(
    anatomy: Anatomy, grid: Grid, to_head_mm: Callable[[np.ndarray], np.ndarray], tissues: Sequence[str]
) -> dict[str, np.ndarray]:
    """Tissue -> share of every voxel it fills, `(Z, Y, X)` float32, painted as the MR is."""
    columns = dict.fromkeys(TISSUES, (0.0,) * len(tissues))
    columns |= {t: tuple(float(t == other) for other in tissues) for t in tissues}
    painter = Painter(anatomy, grid, to_head_mm, channels=range(len(tissues)), tissues=columns)
    return dict(zip(tissues, painter.paint(np.zeros((len(tissues), 1, 1)))[0], strict=True))


# ------------------------------------------------------------------------------------------------------ labels


def label_map(organs: Organs, grid: Grid, centrelines_mm: dict[int, np.ndarray]) -> np.ndarray:
    """Labels that keep each organ's volume: an organ of V voxels gets the V voxels it covers most.

    On thin slices this is the majority rule. On thick ones the majority rule would drop a nerve that runs between two
    slices; this rule keeps it. Voxels crossed by a centreline come first, and stray voxels are exchanged for ones that
    touch the rest, so that every organ is one piece.

    Args:
        organs: Coverage of the voxels.
        grid: The grid the coverage belongs to.
        centrelines_mm: Label value -> world points `(N, 3)` as `(x, y, z)` in LPS.

    Returns:
        Label map uint8 `(Z, Y, X)`; small organs are placed first and keep their voxels.
    """
    score = organs.coverage.copy()
    start = np.asarray(organs.start_voxels)
    for label, points in centrelines_mm.items():
        index = (
            np.rint((points - np.asarray(grid.origin_mm)) / np.asarray(grid.spacing_mm)).astype(int)[:, ::-1] - start
        )
        index = index[((index >= 0) & (index < score.shape[1:])).all(axis=1)]
        crossed = np.zeros(score.shape[1:], bool)
        crossed[tuple(index.T)] = True
        score[label - 1] += crossed & (score[label - 1] > 0)
    volumes_voxels = organs.coverage.sum(axis=(1, 2, 3))
    box: np.ndarray = np.zeros(score.shape[1:], np.uint8)
    for organ in np.argsort(volumes_voxels, kind="stable"):
        free = (score[organ] > 0) & (box == 0)
        box[_one_piece(score[organ], free, round(float(volumes_voxels[organ])))] = organ + 1
    labels = np.zeros(grid.size_voxels[::-1], np.uint8)
    labels[tuple(slice(a, a + n) for a, n in zip(start, box.shape, strict=True))] = box
    return labels


def _best(score: np.ndarray, allowed: np.ndarray, n: int) -> np.ndarray:
    """Mask of the `n` allowed voxels with the highest scores."""
    candidates = np.flatnonzero(allowed)
    chosen = np.zeros(score.shape, bool)
    chosen.ravel()[candidates[np.argsort(-score.ravel()[candidates], kind="stable")[:n]]] = True
    return chosen


def _one_piece(score: np.ndarray, allowed: np.ndarray, n: int) -> np.ndarray:
    """As `_best`, with stray voxels exchanged for the best ones that touch the largest piece (26 neighbours)."""
    neighbours = np.ones((3, 3, 3), bool)
    chosen = _best(score, allowed, n)
    for _ in range(20):
        pieces, n_pieces = label_pieces(chosen, neighbours)
        if n_pieces <= 1:
            return chosen
        largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        touching = binary_dilation(largest, neighbours) & allowed & ~largest
        if not touching.any():
            return largest
        chosen = largest | _best(score, touching, n - int(largest.sum()))
    return chosen


# --------------------------------------------------------------------------------------------- CT and MR physics


def couch_background(grid: Grid, *, top_mm: float, middle_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Air with a couch and a head rest, the same on every slice.

    Args:
        grid: The CT grid.
        top_mm: World y of the top of the couch.
        middle_mm: World x of the middle of the couch.
        rng: Draws the kind of couch.

    Returns:
        HU `(1, Y, X)`.
    """
    y, x = grid.coordinates_mm(1)[:, None], grid.coordinates_mm(0)[None] - np.float32(middle_mm)
    curved = y - x**2 / np.float32(rng.choice([900.0, 1800.0, 1e6])) * 0.5
    thickness_mm, half_width_mm = float(rng.uniform(25, 50)), float(rng.uniform(190, 240))
    pixel = grid.spacing_mm[0]
    canvas = np.full((1, y.size, x.size), AIR_HU, np.float32)
    rest = np.maximum(np.abs(x) - 75 - 0.5 * (y - top_mm + 60), np.abs(y - top_mm + 27) - 27)
    _paint(canvas, rest, np.array([-930], np.float32), pixel)
    slab = np.maximum(np.abs(curved - top_mm - thickness_mm / 2) - thickness_mm / 2, np.abs(x) - half_width_mm)
    _paint(canvas, slab, np.array([-60], np.float32), pixel)
    _paint(canvas, slab + 2.0, np.array([-940], np.float32), pixel)
    return canvas


def add_streaks(ct_hu: np.ndarray, grid: Grid, metal_mm: np.ndarray, rng: np.random.Generator) -> None:
    """Metal, and bright and dark rays around it on the slices it crosses and, weaker, next to them; in place.

    Args:
        ct_hu: `(Z, Y, X)`.
        grid: Its grid.
        metal_mm: World centres of the metal parts, `(N, 3)`.
        rng: Draws the rays.
    """
    y, x = grid.coordinates_mm(1)[:, None], grid.coordinates_mm(0)[None]
    strength = [np.exp(-(((grid.coordinates_mm(2) - m[2]) / 4.0) ** 2)) for m in metal_mm]
    for center, weight in zip(metal_mm, strength, strict=True):
        radius, angle = np.hypot(y - center[1], x - center[0]), np.arctan2(y - center[1], x - center[0])
        rays = np.zeros_like(radius)
        for n, amplitude in ((2, 0.6), (5, 0.6), (9, 0.5), (17, 0.5), (31, 0.4)):
            rays += amplitude * np.sin(n * angle + rng.uniform(0, 2 * np.pi))
        rays *= float(rng.uniform(250, 500)) * 12 / (radius + 12) * np.exp(-radius / 90)
        for k in np.flatnonzero(weight > 0.02):
            ct_hu[k] += np.float32(weight[k]) * rays * (ct_hu[k] > -700)
            to_metal = np.hypot(radius, grid.coordinates_mm(2)[k] - np.float32(center[2])) - METAL_RADIUS_MM
            _paint(ct_hu[None, k], to_metal, np.array([3071], np.float32), grid.spacing_mm[0])


def add_ct_noise(ct_hu: np.ndarray, rng: np.random.Generator, *, sigma_hu: float) -> None:
    """Noise of a given standard deviation, correlated between neighbouring pixels, in place."""
    kernel = np.array([0.25, 0.5, 0.25], np.float32)
    for plane in ct_hu:
        noise = rng.standard_normal(plane.shape, dtype=np.float32)
        for axis in (0, 1):
            noise = convolve1d(noise, kernel, axis=axis, mode="wrap")
        plane += noise * np.float32(sigma_hu / 0.375)  # the kernel leaves 0.375 of white noise's deviation


def mr_bias(
    image: np.ndarray, grid: Grid, rng: np.random.Generator, *, non_uniformity: float
) -> Callable[[int], np.ndarray]:
    """A smooth multiplicative field: slice index -> `(Y, X)`.

    Its logarithm mixes a random quadratic (transmit field, loading) with the sensitivity of a few coil elements around
    the head, root of the sum of squares, in random shares. It is scaled by what it does to the head, not to the corners
    of the grid.

    Args:
        image: The image it will be applied to, `(Z, Y, X)`; what is brighter than air is the head.
        grid: Its grid.
        rng: Draws the shape.
        non_uniformity: BrainWeb's INU: at 0.2 the field runs from 0.9 to 1.1 in the head, at 0.4 from 0.8 to 1.2
            (2nd to 98th percentile).
    """
    axes = [grid.coordinates_mm(axis) for axis in range(3)]
    step = [max(1, int(8 // mm)) for mm in grid.spacing_mm]
    coarse = tuple(slice(None, None, s) for s in step[::-1])
    inside = image[coarse] > 2 * TISSUES["air"][T1]
    middle = np.array(
        [axes[a][:: step[a]][inside.any(axis=tuple(b for b in range(3) if b != 2 - a))].mean() for a in range(3)],
        np.float32,
    )
    c = rng.uniform(-1, 1, 9).astype(np.float32)
    n = int(rng.integers(4, 7))
    angle, height_mm = rng.uniform(0, 2 * np.pi, n), rng.uniform(-60, 60, n)
    coils = np.stack([130 * np.cos(angle), 150 * np.sin(angle), height_mm, rng.uniform(50, 90, n)], axis=1)

    def parts(z_mm: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = ((v - m) for v, m in zip((x_mm, y_mm, z_mm), middle, strict=True))
        u, v, w = x / 80, y / 100, z / 100
        bowl = c[0] * u + c[1] * v + c[2] * w + c[3] * u * u + c[4] * v * v + c[5] * w * w
        bowl = bowl + c[6] * u * v + c[7] * u * w + c[8] * v * w
        power = sum(
            1 / _cube(1 + ((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / radius**2)
            for cx, cy, cz, radius in coils.astype(np.float32)
        )
        return bowl, np.log(power) / 2

    def span(values: np.ndarray) -> tuple[float, float]:
        low, high = np.percentile(values[inside], (2, 98))
        return float(high - low), float(high + low) / 2

    grid_parts = parts(*np.meshgrid(*(axes[2 - a][coarse[a]] for a in range(3)), indexing="ij", sparse=True))
    share = float(rng.uniform(0, 1))
    weights = share / span(grid_parts[0])[0], (1 - share) / span(grid_parts[1])[0]
    extent, centre = span(weights[0] * grid_parts[0] + weights[1] * grid_parts[1])
    scale = 2 * np.arctanh(non_uniformity / 2) / extent

    def plane(k: int) -> np.ndarray:
        bowl, coil = parts(axes[2][k], axes[1][:, None], axes[0][None])
        return np.exp(scale * (weights[0] * bowl + weights[1] * coil - centre)).astype(np.float32)

    return plane


def _cube(values: np.ndarray) -> np.ndarray:
    return values * values * values  # a power would take ten times as long


def degrade_mr(image: np.ndarray, grid: Grid, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Bias field, Rician noise and an arbitrary scale, in place; `image` is `(Z, Y, X)`. Returns the bias, see `mr_bias`."""
    sigma = np.float32(rng.uniform(0.012, 0.028) * MR_WHITE_MATTER)
    gain = np.float32(rng.uniform(0.6, 1.6))
    bias = mr_bias(image, grid, rng, non_uniformity=float(rng.uniform(*MR_NON_UNIFORMITY)))
    for k, plane in enumerate(image):
        plane *= bias(k)
        noise = rng.standard_normal((2, *plane.shape), dtype=np.float32) * sigma
        np.hypot(plane + noise[0], noise[1], out=plane)
        plane *= gain
    return bias


def add_texture(image: np.ndarray, grid: Grid, rng: np.random.Generator, *, amplitude: float) -> None:
    """Slow multiplicative variation inside tissues, in place; `image` is `(Z, Y, X)` and zero where there is air."""
    waves = Waves.draw(rng, (12, 45), 6)
    step = [max(1, int(3 // s)) for s in grid.spacing_mm]
    z, y, x = (grid.coordinates_mm(axis)[:: step[axis]] for axis in (2, 1, 0))
    coarse = waves.on_grid(z, y, x)
    nx, ny, nz = grid.size_voxels
    rows, columns = _between(ny, step[1], len(y)), _between(nx, step[0], len(x))
    for k in range(nz):
        image[k] *= 1 + np.float32(amplitude) * (rows @ coarse[min(k // step[2], len(z) - 1)] @ columns.T)


def _between(n: int, step: int, n_nodes: int) -> np.ndarray:
    """Weights of linear interpolation, `(n, n_nodes)` float32, from a node at every `step`-th voxel to all voxels."""
    position = np.minimum(np.arange(n) / step, n_nodes - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(n_nodes)), 0).astype(np.float32)
