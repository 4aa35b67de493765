"""nnU-Net dataset whose training cases are crops around one organ, and whose validation cases hold the crops of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.boxes import LEAST_MEASURED_BOXES
from nnunet_ext.cascade.organ_crops import organ_boxes
from nnunet_ext.cascade.preprocessor import clip, stored_extents
from nnunet_ext.cascade.roi_dataset import RoiDataset, RoiDatasets, StoredCase


class OrganCropDataset(RoiDataset):
    """Cases as `RoiDataset` gives them, with one crop per organ instead of the ROI.

    In training, the crop lies around the middle of a random organ of the reference. It is moved by one of the localizer's
    errors for this organ, as far as they are measured, else by up to the plan's `jitter_mm`. A crop that would leave the
    volume is moved inside.

    In the final validation a case is the box that holds all crops, with the localizer's label map, from which the network
    cuts them. `records` say which share of each organ lies in its own crop.
    """

    def __init__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
        *,
        crop_size: Sequence[int],
        organ_errors_mm: Mapping[int, Sequence[Sequence[float]]],
        **options: Any,
    ) -> None:
        # The network needs the localizer's label map as guidance does, but in the validation only.
        guidance = options["from_localizer"]
        super().__init__(folder, identifiers, folder_with_segs_from_previous_stage, **{**options, "guidance": guidance})
        self.crop_size = tuple(crop_size)
        self.organ_errors_mm = {organ: np.asarray(errors) for organ, errors in organ_errors_mm.items()}

    def load_case(self, identifier: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict]:
        if self.from_localizer:
            return super().load_case(identifier)
        case = self.stored(identifier)
        organs = self._organs(identifier, case)
        if organs:
            organ = list(organs)[np.random.randint(len(organs))]
            errors_mm = self._errors_of(organ)
            centre = np.add(roi.middle_of(organs[organ]), self._moved_mm(errors_mm))
        else:  # no organ in this case: anywhere
            centre = np.random.uniform(0, 1, len(case.shape)) * case.shape * self.spacing_mm
        crop = case.cut(self._crop(centre, case))
        return crop.data, roi.without(crop.seg, self.rule.left_out), None, crop.properties

    def part_to_hold(self, identifier: str, case: StoredCase) -> roi.Box | None:
        """All that the crops of the organs reach. None for a case without organs, whose crop lies anywhere."""
        organs = self._organs(identifier, case)
        if self.from_localizer or not organs:
            return None
        boxes = [
            self._crop(np.add(roi.middle_of(extent), reach), case)
            for organ, extent in organs.items()
            for reach in self._reach_mm(self._errors_of(organ))
        ]
        return tuple((min(a for a, _ in axis), max(b for _, b in axis)) for axis in zip(*boxes, strict=True))

    def _organs(self, identifier: str, case: StoredCase) -> dict[int, roi.OrganExtent]:
        """Extents of the organs of the reference that have a crop. `_centre_mm` refuses cases without."""
        self._centre_mm(identifier, case)
        return {k: e for k, e in stored_extents(case.properties).items() if k not in self.rule.left_out}

    def _errors_of(self, organ: int) -> np.ndarray:
        """The localizer's errors for an organ, for all organs if too few are known, or none."""
        own = self.organ_errors_mm.get(organ, np.empty((0, len(self.spacing_mm))))
        if len(own) >= LEAST_MEASURED_BOXES:
            return own
        found = [errors for errors in self.organ_errors_mm.values() if len(errors)]
        every = np.concatenate(found) if found else own
        return every if len(every) >= LEAST_MEASURED_BOXES else every[:0]

    def _crop(self, centre_mm: np.ndarray, case: StoredCase) -> roi.Box:
        size_mm = np.multiply(self.crop_size, self.spacing_mm)
        return roi.box_around(centre_mm, size_mm, spacing_mm=self.spacing_mm, shape=case.shape)

    def _localized_crop(
        self, identifier: str, data: np.ndarray, seg: np.ndarray, localizer_map: np.ndarray, properties: dict
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict]:
        """The box of all crops, with the localizer's label map, of which the record tells the share inside each crop."""
        images, reference, guide, cropped = super()._localized_crop(identifier, data, seg, localizer_map, properties)
        assert guide is not None  # this dataset asks for it
        guide = roi.without(guide, self.rule.left_out)
        body = tuple(tuple(b) for b in properties["bbox_used_for_cropping"])
        box = clip(cropped["bbox_used_for_cropping"], body)
        # Planned voxels per voxel of the box that the network sees.
        scale = np.divide(data.shape[1:], properties["shape_after_cropping_and_before_resampling"])
        starts = [lower * s for (lower, _), s in zip(box, scale, strict=True)]
        steps = [(b - a) * s / n for (a, b), s, n in zip(box, scale, guide.shape, strict=True)]
        crops = {
            organ: [(a * step + at, b * step + at) for (a, b), step, at in zip(crop, steps, starts, strict=True)]
            for organ, crop in organ_boxes(guide, self.crop_size).items()
        }
        self.records[identifier] |= crop_rates(reference[0], crops)
        return images, reference, guide, cropped


def crop_rates(reference: np.ndarray, crops: Mapping[int, Sequence[tuple[float, float]]]) -> dict:
    """Which share of each organ lies inside its own crop, as plain JSON.

    Args:
        reference: Label map.
        crops: Label value -> lower and upper edge of its crop along each axis, in voxels of the label map.

    Returns:
        `organ_pass_rates`, label value as text -> share, 0 for an organ without a crop. `without_crop`, the values of those.
        `label_crop_pass_rate`, the same of the voxels of all organs, or None without an organ.
    """
    rates, inside, total = {}, 0, 0
    for value, extent in sorted(roi.organ_extents(reference, spacing_mm=(1.0,) * reference.ndim).items()):
        where = tuple(slice(int(a), int(b)) for a, b in zip(extent.lower_mm, extent.upper_mm, strict=True))
        index = np.argwhere(reference[where] == value) + [s.start for s in where] + 0.5
        edges = np.array(crops.get(value, [(0.0, 0.0)] * reference.ndim))
        n_inside = int(np.all((index > edges[:, 0]) & (index < edges[:, 1]), axis=1).sum())
        rates[str(value)] = n_inside / len(index)
        inside, total = inside + n_inside, total + len(index)
    return {
        "organ_pass_rates": rates,
        "without_crop": [int(value) for value in rates if int(value) not in crops],
        "label_crop_pass_rate": inside / total if total else None,
    }


@dataclass
class OrganCropDatasets(RoiDatasets):
    """A trainer's `dataset_class`, which makes `OrganCropDataset`s that know the plan. See `RoiDatasets`."""

    crop_size: tuple[int, ...] = ()
    organ_errors_mm: Mapping[int, Sequence[Sequence[float]]] = field(default_factory=dict)

    def __call__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
    ) -> OrganCropDataset:
        return OrganCropDataset(folder, identifiers, folder_with_segs_from_previous_stage, **vars(self))
