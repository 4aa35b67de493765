"""The label map of a case, checked and brought onto its grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cases.case import SourceCase
from nnunet_ext.cases.organ_masks import voxels_per_organ
from nnunet_ext.images.channels import is_ct, reference_channel
from nnunet_ext.images.geometry import (
    describe_grid,
    grid_difference,
    grid_tolerance_mm,
    resample_labels,
    same_grid,
    to_canonical,
)
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.labels.values import pair_values
from nnunet_ext.labels.volumes import check_organs
from nnunet_ext.messages import Message

#: An organ with more than this share beyond a channel's field of view fails the case.
LARGEST_ORGAN_SHARE_OUTSIDE = 0.5


@dataclass
class PlacedLabels:
    """Labels of a case on the grid of its reference channel.

    Attributes:
        label_map: Values of the label table.
        voxels: Voxels per organ, `before` in the files and `after` in the map.
        warnings: Messages about them.
    """

    label_map: sitk.Image
    voxels: dict[str, dict[str, int]]
    warnings: list[Message]


def place_labels(
    case: SourceCase,
    images: Mapping[str, sitk.Image],
    reference: sitk.Image,
    table: LabelTable,
    *,
    registered: bool,
) -> PlacedLabels:
    """The labels of a case, read, checked and brought onto the grid of the canonical reference image.

    Raises:
        ValueError: If they lie on no channel's grid, or an organ is lost on the way.
    """
    drawn = case.read_labels(images, table)
    warnings = drawn.warnings
    canonical = to_canonical(drawn.label_map)
    if same_grid(canonical, reference):
        canonical.CopyInformation(reference)
        labels = canonical
    else:
        others = {modality: to_canonical(image) for modality, image in images.items()}
        owner = next((m for m, image in others.items() if same_grid(canonical, image)), None)
        if owner is None:
            raise ValueError(
                f"labels do not lie on the grid of a channel (within {grid_tolerance_mm(canonical, reference):g} mm): "
                f"{grid_difference(canonical, reference)}; export them on the grid of the {reference_channel(list(images))}"
            )
        if registered:
            raise ValueError(
                f"labels are drawn on the grid of {owner}, which --register moves; draw them on the "
                f"{reference_channel(list(images))}, or convert without --register"
            )
        labels = resample_labels(canonical, reference)
        warnings.append(Message("labels_resampled", {"channel": owner, "grid": describe_grid(canonical)}))
        warnings += _cut_labels(canonical, labels, table)
    array = sitk.GetArrayViewFromImage(labels)
    after = voxels_per_organ(array, table)
    for organ, n in drawn.voxels.items():
        if n and not after[organ]:
            raise ValueError(f"{organ} has {n} voxels as drawn and none on the grid of the images; check where it lies")
    missing = [organ for organ, n in after.items() if not n]
    if missing:
        warnings.append(Message("no_voxel_labelled", {"organs": missing}))
    warnings += _swapped_sides(array, table)
    values = sitk.GetArrayViewFromImage(reference)
    in_hu = is_ct(reference_channel(list(images))) and values.min() <= -500
    spacing_mm = reference.GetSpacing()[::-1]
    warnings += check_organs(array, table.values, spacing_mm=spacing_mm, ct_hu=values if in_hu else None)
    pixel = sitk.sitkUInt8 if len(table.names) < 256 else sitk.sitkUInt16
    return PlacedLabels(sitk.Cast(labels, pixel), {"before": drawn.voxels, "after": after}, warnings)


def _cut_labels(drawn: sitk.Image, labels: sitk.Image, table: LabelTable) -> list[Message]:
    """Organs whose volume resampling changed by more than a tenth, as they are cut, or finer than a voxel."""
    warnings = []
    voxel = [float(np.prod(image.GetSpacing())) for image in (drawn, labels)]
    before, after = (voxels_per_organ(sitk.GetArrayViewFromImage(image), table) for image in (drawn, labels))
    for organ in table.names:
        volume = before[organ] * voxel[0], after[organ] * voxel[1]
        if volume[0] and abs(volume[1] / volume[0] - 1) > 0.1:
            warnings.append(Message("volume_changed", {"organ": organ, "before": volume[0], "after": volume[1]}))
    return warnings


def _swapped_sides(array: np.ndarray, table: LabelTable) -> list[Message]:
    """Left organs that lie to the right of their partner, by swapped names or a flipped image. x runs to the left."""
    warnings = []
    names = list(table.names)
    for left, right in pair_values(table.pairs, table.values):
        x = [np.nonzero((array == value).any(axis=(0, 1)))[0] for value in (left, right)]
        if x[0].size and x[1].size and x[0].mean() < x[1].mean():
            warnings.append(Message("labels_swapped", {"organ": names[left - 1], "other": names[right - 1]}))
    return warnings


def check_organs_covered(
    organs: np.ndarray, fields_of_view: Mapping[str, np.ndarray], table: LabelTable
) -> list[Message]:
    """Organs that lie beyond a channel's field of view in part.

    Raises:
        ValueError: If more than `LARGEST_ORGAN_SHARE_OUTSIDE` of one does.
    """
    warnings = []
    for modality, inside in fields_of_view.items():
        total = np.bincount(organs.ravel(), minlength=len(table.names) + 1)
        outside = np.bincount(organs[~inside], minlength=len(table.names) + 1)
        for organ, value in table.values.items():
            if not outside[value]:
                continue
            share = outside[value] / total[value]
            if share > LARGEST_ORGAN_SHARE_OUTSIDE:
                raise ValueError(
                    f"{share:.0%} of {organ} lies outside the field of view of {modality}; register {modality}, or leave "
                    "it out with --modalities"
                )
            warnings.append(Message("outside_the_field_of_view", {"share": share, "organ": organ, "channel": modality}))
    return warnings
