"""nnU-Net datasets that hold cases in memory, and whose cases are the ROI, cut out of the data of `3d_fullres`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from nnunetv2 import configuration
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, determine_do_sep_z_and_axis
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from scipy import ndimage

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.boxes import box_record
from nnunet_ext.cascade.preprocessor import shift, stored_extents
from nnunet_ext.processes import usable_cores

#: Voxels read around a box that is resampled: the support of a cubic spline's prefilter to well below 1 %.
SPLINE_MARGIN = 8


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case, or the part of it that lies in `box`.

    Attributes:
        data: Images `(C, *plan_axes)`, in memory or lazily read from disk, as the next two.
        seg: Label map `(1, *plan_axes)`.
        localizer_map: Shape `(*plan_axes)`, or None.
        properties: nnU-Net's. `class_locations` count from the box's first voxel.
        box: Place of the arrays in the preprocessed volume.
        shape: Of that volume.
    """

    data: np.ndarray
    seg: np.ndarray
    localizer_map: np.ndarray | None
    properties: dict
    box: roi.Box
    shape: tuple[int, ...]

    def cut(self, box: roi.Box) -> StoredCase:
        """A copy of the part in a smaller box, as nnU-Net's transforms work in place.

        From disk only its blocks are read.
        """
        inner = tuple((a - start, b - start) for (a, b), (start, _) in zip(box, self.box, strict=True))
        index = (slice(None), *roi.slices(inner))
        locations = self.properties["class_locations"]
        if box != self.box:
            locations = _locations_inside(locations, inner)
        return StoredCase(
            np.array(self.data[index]),
            np.array(self.seg[index]),
            None if self.localizer_map is None else np.array(self.localizer_map[index[1:]]),
            {**self.properties, "class_locations": locations},
            box,
            self.shape,
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of all arrays of a case in memory."""
        arrays = [self.data, self.seg, *([] if self.localizer_map is None else [self.localizer_map])]
        return sum(array.nbytes for array in arrays)

    @property
    def bytes_per_voxel(self) -> int:
        """Bytes of all arrays of a case, per voxel."""
        arrays = [self.data, self.seg, *([] if self.localizer_map is None else [self.localizer_map])]
        return sum(a.dtype.itemsize * (a.shape[0] if a.ndim > len(self.shape) else 1) for a in arrays)


class InMemoryDataset(nnUNetDatasetBlosc2):
    """Cases that `hold` has decompressed once. The others are read from disk every time, as nnU-Net does.

    Hold before the loader's processes start. Forked ones share the memory. If they are started anew (by `forkserver`, on
    Linux from Python 3.14 on, or by `spawn`), the held cases stay behind and are read from disk.
    """

    def __init__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
    ) -> None:
        super().__init__(folder, identifiers, folder_with_segs_from_previous_stage)
        self.held: dict[str, StoredCase] = {}

    def __getstate__(self) -> dict:
        return {**vars(self), "held": {}}

    def hold(self, limit_bytes: float) -> int:
        """Take cases into memory, one after the other while they fit. Returns the bytes they take."""
        self.held = dict(self.cases_to_hold(limit_bytes))
        return sum(case.n_bytes for case in self.held.values())

    def cases_to_hold(self, limit_bytes: float) -> Iterator[tuple[str, StoredCase]]:
        """Names and parts of the cases to hold, in memory, one after the other while they fit."""
        used = 0
        for identifier in self.identifiers:
            case = self.stored(identifier)
            box = self.part_to_hold(identifier, case)
            if box is None:
                continue
            used += int(np.prod(np.diff(box, axis=1))) * case.bytes_per_voxel
            if used > limit_bytes:
                break
            yield identifier, case.cut(box)

    def part_to_hold(self, identifier: str, case: StoredCase) -> roi.Box | None:
        """Box of all that `load_case` may ask for. None if it is the volume, which is not worth holding."""
        return case.box

    def stored(self, identifier: str) -> StoredCase:
        """The case from memory, else from disk, lazily."""
        if identifier in self.held:
            return self.held[identifier]
        data, seg, localizer_map, properties = super().load_case(identifier)
        shape = tuple(data.shape[1:])
        return StoredCase(data, seg, localizer_map, properties, roi.whole(shape), shape)

    def load_case(self, identifier: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict]:
        case = self.stored(identifier)
        if identifier in self.held:
            case = case.cut(case.box)
        return case.data, case.seg, case.localizer_map, case.properties


class RoiDataset(InMemoryDataset):
    """Cases as `(images, label map, localizer's label map or None, properties)`, cropped to the ROI.

    In training (`from_localizer=False`) the reference organs vote for the box. It is moved by one of `errors_mm`, the
    localizer's measured errors, or without these by up to the plan's `jitter_mm`. Only the blocks inside the box are
    read from disk. The third entry is None unless `guidance` is on. The segmenter looks at the images alone, so both
    stages can be trained at the same time.

    In the final validation (`from_localizer=True`) the box comes from the localizer's out-of-fold label map, exactly as
    at prediction, in whole voxels of the ORIGINAL grid. The images come from the whole-body data by cubic interpolation
    at the positions that preprocessing the crop would give. So the export lands on the original grid without a shift.
    """

    def __init__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
        *,
        rule: roi.RoiRule,
        spacing_mm: Sequence[float],
        transpose_forward: Sequence[int],
        from_localizer: bool,
        guidance: bool,
        force_separate_z: bool | None,
        errors_mm: Sequence[Sequence[float]],
        records: dict[str, dict],
    ) -> None:
        super().__init__(
            folder, identifiers, folder_with_segs_from_previous_stage if from_localizer or guidance else None
        )
        self.rule = rule
        self.spacing_mm = tuple(float(s) for s in spacing_mm)
        self.transpose_forward = tuple(transpose_forward)
        self.from_localizer = from_localizer
        self.guidance = guidance
        self.force_separate_z = force_separate_z
        self.errors_mm = np.asarray(errors_mm, dtype=float)
        self.records = records

    def load_case(self, identifier: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict]:
        """Images `(C, *plan_axes)`, label map `(1, *plan_axes)`, localizer's `(*plan_axes)` or None, properties of the crop.

        Raises:
            ValueError: If the preprocessed case was not made by `CascadeOARPreprocessor`.
        """
        case = self.stored(identifier)
        if self.from_localizer:
            assert case.localizer_map is not None  # such a dataset is made with the folder of these maps
            return self._localized_crop(identifier, case.data, case.seg, case.localizer_map[:], case.properties)
        centre: Sequence[float] | np.ndarray | None = self._centre_mm(identifier, case)
        if centre is None:  # no organ in this case: anywhere
            centre = np.random.uniform(0, 1, len(case.shape)) * case.shape * self.spacing_mm
        crop = case.cut(self._box(np.add(centre, self._moved_mm(self.errors_mm)), case))
        locations = {k: v for k, v in crop.properties["class_locations"].items() if k not in self.rule.left_out}
        properties = {**crop.properties, "class_locations": locations}
        seg = roi.without(crop.seg, self.rule.left_out)
        return crop.data, seg, crop.localizer_map if self.guidance else None, properties

    def part_to_hold(self, identifier: str, case: StoredCase) -> roi.Box | None:
        """The ROI with all that jitter can bring into it. None for a case without organs, whose box lies anywhere."""
        centre = self._centre_mm(identifier, case)
        if self.from_localizer or centre is None:
            return None
        first, last = (self._box(np.add(centre, reach), case) for reach in self._reach_mm(self.errors_mm))
        return tuple((a, b) for (a, _), (_, b) in zip(first, last, strict=True))

    def _centre_mm(self, identifier: str, case: StoredCase) -> tuple[float, ...] | None:
        try:
            extents = stored_extents(case.properties)
        except KeyError:
            raise ValueError(
                f"case '{identifier}' in {self.source_folder} was not preprocessed by CascadeOARPreprocessor. "
                "Preprocess again: nnUNetv2_preprocess -c 3d_fullres -plans_name CascadeOARPlans"
            ) from None
        return roi.vote_centre(extents, self.rule)[0]

    def _box(self, centre_mm: np.ndarray, case: StoredCase) -> roi.Box:
        return roi.box_around(centre_mm, self.rule.size_mm, spacing_mm=self.spacing_mm, shape=case.shape)

    def _reach_mm(self, errors_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest value of `_moved_mm` along each axis."""
        if len(errors_mm):
            return errors_mm.min(0) - self.spacing_mm, errors_mm.max(0) + self.spacing_mm
        reach = np.full(len(self.spacing_mm), self.rule.jitter_mm)
        return -reach, reach

    def _moved_mm(self, errors_mm: np.ndarray) -> np.ndarray:
        """Distance of this time's box, along each axis, from the one that the reference organs place."""
        if len(errors_mm):
            voxel = np.random.uniform(-1, 1, len(self.spacing_mm)) * self.spacing_mm  # between the errors seen
            return errors_mm[np.random.randint(len(errors_mm))] + voxel
        return np.random.uniform(-self.rule.jitter_mm, self.rule.jitter_mm, len(self.spacing_mm))

    def _localized_crop(
        self, identifier: str, data: np.ndarray, seg: np.ndarray, localizer_map: np.ndarray, properties: dict
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict]:
        """The crop that prediction would make, from the whole-body data."""
        planned_shape = data.shape[1:]
        original_shape = properties["shape_after_cropping_and_before_resampling"]
        original_spacing = [properties["spacing"][i] for i in self.transpose_forward]
        decision = roi.find_roi(localizer_map.reshape(planned_shape), self.rule, spacing_mm=self.spacing_mm)
        # Planned voxels per original voxel: nnU-Net's resampling keeps the edges of the volume in place.
        scale = np.divide(planned_shape, original_shape)
        if decision.centre_mm is not None:
            centre_mm = np.divide(decision.centre_mm, self.spacing_mm) / scale * original_spacing
            box = roi.box_around(centre_mm, self.rule.size_mm, spacing_mm=original_spacing, shape=original_shape)
        else:
            box = roi.whole(original_shape)
        edges = [(lower * s, upper * s) for (lower, upper), s in zip(box, scale, strict=True)]
        reference = roi.without(np.asarray(seg[0]), self.rule.left_out)
        index = np.argwhere(reference > 0) + 0.5
        inside = np.all([(index[:, i] > e[0]) & (index[:, i] < e[1]) for i, e in enumerate(edges)], axis=0)
        pass_rate = float(inside.mean()) if len(index) else None
        self.records[identifier] = box_record(localizer_map, decision, pass_rate)
        localizer_map = localizer_map.reshape(planned_shape)
        if not decision.found:
            return data[:], reference[None], localizer_map if self.guidance else None, properties
        shape = tuple(upper - lower for lower, upper in box)
        new_shape = compute_new_shape(shape, original_spacing, self.spacing_mm)
        # As in preprocessing: if the plan says so, an axis much coarser than the others is taken by nearest neighbour.
        _, nearest_axis = determine_do_sep_z_and_axis(self.force_separate_z, original_spacing, self.spacing_mm)
        n_threads = min(configuration.default_num_processes, usable_cores())
        crop = resample_box(data, edges, new_shape, nearest_axis=nearest_axis, n_threads=n_threads)
        new_properties = {
            **properties,
            "bbox_used_for_cropping": [list(b) for b in shift(box, properties["bbox_used_for_cropping"])],
            "shape_after_cropping_and_before_resampling": shape,
        }
        guide = None
        if self.guidance:
            # The nearest voxel of the map on the training grid, which came from the localizer's own grid anyway.
            positions = [
                np.clip((a + (np.arange(n) + 0.5) * (b - a) / n).astype(int), 0, size - 1)
                for (a, b), n, size in zip(edges, new_shape, planned_shape, strict=True)
            ]
            guide = localizer_map[np.ix_(*positions)]
        return crop, reference[None], guide, new_properties


def _locations_inside(locations: Mapping, box: roi.Box) -> dict:
    """nnU-Net's `class_locations` (rows of channel and voxel) as they are in the crop."""
    lower, upper = np.array([0, *(b[0] for b in box)]), np.array([1, *(b[1] for b in box)])
    inside = {}
    for label, voxels in locations.items():
        voxels = np.asarray(voxels).reshape(-1, len(lower))
        inside[label] = voxels[np.all((voxels >= lower) & (voxels < upper), axis=1)] - lower
    return inside


def resample_box(
    data: np.ndarray,
    edges: Sequence[tuple[float, float]],
    shape: Sequence[int],
    *,
    nearest_axis: int | None = None,
    n_threads: int = 1,
) -> np.ndarray:
    """The part of a volume between fractional voxel edges, on `shape` voxels, by cubic spline.

    Args:
        data: Shape `(C, *axes)`. Of an array that is read lazily, only the surroundings of the box are read.
        edges: Lower and upper edge along each axis, in voxels of `data` (voxel `i` spans `[i, i + 1]`).
        shape: Wanted size along each axis.
        nearest_axis: Axis along which the nearest voxel is taken instead.
        n_threads: Channels that are resampled at a time. The values don't depend on it.
    """
    lower = [max(0, int(np.floor(a)) - SPLINE_MARGIN) for a, _ in edges]
    upper = [min(n, int(np.ceil(b)) + SPLINE_MARGIN) for (_, b), n in zip(edges, data.shape[1:], strict=True)]
    block = np.asarray(data[(slice(None), *(slice(a, b) for a, b in zip(lower, upper, strict=True)))])
    step = [(b - a) / n for (a, b), n in zip(edges, shape, strict=True)]
    # Centre of the first output voxel, as an index into the block.
    offset = [a + 0.5 * s - 0.5 - first for (a, _), s, first in zip(edges, step, lower, strict=True)]
    if nearest_axis is not None:
        positions = offset[nearest_axis] + step[nearest_axis] * np.arange(shape[nearest_axis])
        index = np.clip(np.floor(positions + 0.5).astype(int), 0, block.shape[nearest_axis + 1] - 1)
        block = block.take(index, nearest_axis + 1)
        step[nearest_axis], offset[nearest_axis] = 1.0, 0.0

    def resample(channel: np.ndarray) -> np.ndarray:
        return ndimage.affine_transform(channel, np.asarray(step), offset, tuple(shape), order=3, mode="nearest")

    with ThreadPoolExecutor(max(1, min(n_threads, len(block)))) as pool:  # SciPy lets other threads compute meanwhile
        return np.stack(list(pool.map(resample, block)))


@dataclass
class RoiDatasets:
    """A trainer's `dataset_class`, which makes `RoiDataset`s that know the plan.

    nnU-Net calls a dataset class with folder, identifiers and the previous stage's folder only. It also asks it for its
    static methods. This object answers both. `force_separate_z` is the plan's, for the images. `records` collects, per
    validated case, how its box was placed.
    """

    rule: roi.RoiRule
    spacing_mm: tuple[float, ...]
    transpose_forward: tuple[int, ...]
    from_localizer: bool = False
    guidance: bool = False
    force_separate_z: bool | None = None
    errors_mm: Sequence[Sequence[float]] = ()
    records: dict[str, dict] = field(default_factory=dict)

    def __call__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
    ) -> RoiDataset:
        return RoiDataset(folder, identifiers, folder_with_segs_from_previous_stage, **vars(self))

    get_identifiers = staticmethod(RoiDataset.get_identifiers)
    unpack_dataset = staticmethod(RoiDataset.unpack_dataset)
    save_case = staticmethod(RoiDataset.save_case)
    save_seg = staticmethod(RoiDataset.save_seg)
